//! One comparison: the values a field can be compared with, by its kind.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use regex::bytes::Regex;

use super::token::{Sign, Token, Word};
use super::{ConditionFault, fault, kind_of};
use crate::base::error::Kind;
use crate::base::units;
use crate::config::model::{FieldKind, LogField, LogValue, Order, Pattern, Test};
use crate::config::suggest;

/// `name sign literal`, as a test of `value`.
pub(super) fn comparison(
    value: LogValue,
    name: &str,
    sign: Sign,
    sign_at: &Range<usize>,
    literal: &Token<'_>,
) -> Result<Test, ConditionFault> {
    let kind = kind_of(&value);
    let written = match literal.word {
        Word::Name(text) | Word::Quoted(text) => text,
        _ => {
            let message = format!("`{name}` is not compared with a value");
            return Err(fault(literal.range.clone(), message, format!("expected {}", expected(kind))));
        }
    };
    let is_quoted = matches!(literal.word, Word::Quoted(_));
    let wrong = |label: String| {
        let message = format!("`{name}` cannot be compared with this");
        let fault = fault(literal.range.clone(), message, format!("expected {}", expected(kind)));
        if label.is_empty() { fault } else { fault.help(label) }
    };
    match (kind, sign) {
        (FieldKind::Time, _) => Err(fault(sign_at.clone(), "`time` cannot be compared", "here")),
        (FieldKind::Number | FieldKind::Size | FieldKind::Duration, Sign::Matches | Sign::MatchesNot) => {
            Err(fault(sign_at.clone(), format!("`{name}` is not a string"), "~ works on strings")
                .help("use = != < <= > >="))
        }
        (FieldKind::Number | FieldKind::Size | FieldKind::Duration, _) if is_quoted => {
            Err(wrong(format!("write {written} without quotes")))
        }
        (FieldKind::Number, Sign::Order(order)) => {
            written.parse().map(|number| Test::Number(value, order, number)).map_err(|_| wrong(String::new()))
        }
        (FieldKind::Size, Sign::Order(order)) => written
            .parse()
            .ok()
            .or_else(|| units::parse_size(written).ok())
            .map(|bytes| Test::Number(value, order, bytes))
            .ok_or_else(|| wrong(String::new())),
        (FieldKind::Duration, Sign::Order(order)) => units::parse_duration(written)
            .map(|duration| Test::Duration(value, order, duration))
            .map_err(|error| wrong(error.to_string())),
        (FieldKind::Text | FieldKind::Address, _) if !is_quoted => Err(wrong(format!("write '{written}'"))),
        (FieldKind::Text | FieldKind::Address, Sign::Order(order)) => {
            let test = match kind {
                FieldKind::Address => Test::Within(value, network(written).ok_or_else(|| wrong(String::new()))?),
                _ => exactly(value, written, literal)?,
            };
            match order {
                Order::Equal => Ok(test),
                Order::Unequal => Ok(Test::Not(Box::new(test))),
                _ => {
                    Err(fault(sign_at.clone(), format!("`{name}` has no order"), "it is a string")
                        .help("use = != ~ !~"))
                }
            }
        }
        (FieldKind::Address, Sign::Matches | Sign::MatchesNot) => {
            let help = "compare it with a network: client_ip = '10.0.0.0/8'";
            Err(fault(sign_at.clone(), format!("`{name}` is an address"), "~ works on strings").help(help))
        }
        (FieldKind::Text, Sign::Matches | Sign::MatchesNot) => {
            let test = Test::Matches(value, pattern(written, literal)?);
            Ok(if sign == Sign::Matches { test } else { Test::Not(Box::new(test)) })
        }
    }
}

fn expected(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Time => "nothing",
        FieldKind::Text => "a string in quotes: '…'",
        FieldKind::Number => "a whole number",
        FieldKind::Size => "bytes, such as 4096 or 4KiB",
        FieldKind::Duration => "a duration, such as 500ms",
        FieldKind::Address => "an address or a network: '10.0.0.0/8'",
    }
}

fn exactly(value: LogValue, written: &str, literal: &Token<'_>) -> Result<Test, ConditionFault> {
    if value == LogValue::Field(LogField::Outcome) {
        let words = || Kind::ALL.iter().map(|kind| kind.as_str()).chain(["ok"]);
        if !words().any(|word| word == written) {
            let fault = fault(literal.range.clone(), format!("unknown outcome `{written}`"), "never true");
            return Err(match suggest::did_you_mean(written, words()) {
                Some(help) => fault.help(help),
                None => fault.help("it is `ok`, or a word such as `connection_refused`: docs/access-log.md lists them"),
            });
        }
    }
    Ok(Test::Text(value, written.as_bytes().to_vec()))
}

fn network(written: &str) -> Option<IpNet> {
    written.parse().ok().or_else(|| written.parse::<IpAddr>().ok().map(IpNet::from))
}

fn pattern(written: &str, literal: &Token<'_>) -> Result<Pattern, ConditionFault> {
    Regex::new(written).map(Pattern).map_err(|error| {
        // The crate draws the pattern over several lines; its last one says what is wrong.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        fault(literal.range.clone(), "bad regular expression", reason)
    })
}
