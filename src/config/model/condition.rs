//! `only`, the condition on logged exchanges, parsed. `config::condition` parses the text, `telemetry` evaluates it.

use std::time::Duration;

use ipnet::IpNet;
use regex::bytes::Regex;

use super::LogValue;

/// A condition on an exchange that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// As it was written.
    pub source: String,
    /// What must hold.
    pub test: Test,
}

/// A part of a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// All of them, from left to right.
    All(Vec<Test>),
    /// One of them, from left to right.
    Any(Vec<Test>),
    /// The other way round.
    Not(Box<Test>),
    /// A number or a size against another; a status that was never sent is 0.
    Number(LogValue, Order, u64),
    /// A duration against another.
    Duration(LogValue, Order, Duration),
    /// A text that is exactly this. What has no value is no text.
    Text(LogValue, Vec<u8>),
    /// A text that a regular expression finds something in.
    Matches(LogValue, Pattern),
    /// An address in a network.
    Within(LogValue, IpNet),
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

impl Order {
    /// Whether `left` stands so to `right`.
    pub fn holds<T: Ord>(self, left: T, right: T) -> bool {
        match self {
            Order::Equal => left == right,
            Order::Unequal => left != right,
            Order::Below => left < right,
            Order::AtMost => left <= right,
            Order::Above => left > right,
            Order::AtLeast => left >= right,
        }
    }
}

/// A regular expression, equal to another with the same text. A clone has caches of its own, so that workers that
/// match with their own clones share nothing.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}
