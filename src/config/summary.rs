//! What a configuration would serve, for `tidegate check`.
use super::model::Config;

/// The listeners, routes and upstreams of a configuration as aligned text.
pub fn summary(config: &Config) -> String {
    format!(
        "{} listeners, {} routes, {} upstreams\n",
        config.listeners.len(),
        config.routes.len(),
        config.upstreams.len()
    )
}
