//! Evaluates `only`: whether an exchange is logged. Allocates nothing.

use std::time::Duration;

use super::value::{Told, Value};
use crate::config::model::{Order, Test};

/// Whether the test holds. What is not known is 0 as a number, and no text at all.
pub(super) fn holds(test: &Test, ending: &impl Told) -> bool {
    match test {
        Test::All(tests) => tests.iter().all(|test| holds(test, ending)),
        Test::Any(tests) => tests.iter().any(|test| holds(test, ending)),
        Test::Not(test) => !holds(test, ending),
        Test::Number(value, order, wanted) => match ending.value(value) {
            Value::Number(number) => order.holds(number, *wanted),
            _ => order.holds(0, *wanted),
        },
        Test::Duration(value, order, wanted) => duration(ending.value(value), *order, *wanted),
        Test::Text(value, wanted) => with_text(ending.value(value), |text| text == wanted),
        Test::Matches(value, pattern) => with_text(ending.value(value), |text| pattern.0.is_match(text)),
        Test::Within(value, network) => match ending.value(value) {
            // An IPv4 client of a socket for both families is an IPv4 client.
            Value::Ip(ip) => network.contains(&ip.to_canonical()),
            _ => false,
        },
    }
}

fn duration(value: Value<'_>, order: Order, wanted: Duration) -> bool {
    match value {
        Value::Millis(duration) => order.holds(duration, wanted),
        _ => order.holds(Duration::ZERO, wanted),
    }
}

fn with_text(value: Value<'_>, judge: impl FnOnce(&[u8]) -> bool) -> bool {
    match value {
        Value::Text(text) => judge(text),
        Value::Word(word) => judge(word.as_bytes()),
        Value::TraceId(digits) => judge(&digits),
        Value::ParentId(digits) => judge(&digits),
        Value::Peer(peer) => {
            let mut text = Vec::new();
            super::line::peer(&mut text, peer);
            judge(&text)
        }
        Value::Missing | Value::Time | Value::Number(_) | Value::Millis(_) | Value::Ip(_) => false,
    }
}
