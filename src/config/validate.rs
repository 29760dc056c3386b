//! From the text to the model.
use super::diagnostic::Faults;
use super::model::Config;

/// Checks a text.
pub fn validate(name: &str, _text: &str) -> Result<Config, Faults> {
    let mut faults = Faults::new();
    faults.push_plain(format!("{name}: the reader of configurations is not joined yet"), None);
    Err(faults)
}
