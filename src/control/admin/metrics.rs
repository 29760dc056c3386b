//! `/metrics` as OpenMetrics 1.0 text. The facts are read first and written afterwards; a scrape locks the series of
//! each worker once and changes nothing.

mod facts;
pub mod families;
mod process;
mod text;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::control::view::View;
use facts::Facts;

/// The type of the text that [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted, at this moment.
pub fn render(view: &View) -> String {
    write(Facts::read(view))
}

fn write(facts: Facts) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(facts));
    let mut text = String::new();
    // Writing to a string does not fail, and a histogram always has buckets.
    let _ = encode(&mut text, &registry);
    text
}

#[cfg(test)]
mod tests;
