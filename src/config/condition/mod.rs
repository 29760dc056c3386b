//! Parses conditions such as `only = "status >= 400 or duration > 500ms"` (sans-io): comparisons of fields with
//! literals, `and`, `or`, `not`, parentheses. Faults carry byte ranges within the text.

mod literal;
mod token;

#[cfg(test)]
mod tests;

use std::ops::Range;

use http::HeaderName;

use super::model::{Condition, FieldKind, LogField, LogValue, Test};
use super::suggest;
use token::{Token, Tokens, Word};

/// What is wrong with a condition, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionFault {
    pub(crate) range: Range<usize>,
    pub(crate) message: String,
    pub(crate) label: String,
    pub(crate) help: Option<String>,
}

/// Reads a condition.
///
/// # Errors
/// The first thing that makes no sense: what stands behind it may not be what it seems.
pub(crate) fn parse(text: &str) -> Result<Condition, ConditionFault> {
    let mut parser = Parser { tokens: Tokens::new(text), depth: 0 };
    let test = parser.any()?;
    match parser.tokens.next()? {
        Token { word: Word::End, .. } => Ok(Condition { source: text.to_owned(), test }),
        Token { word: Word::Close, range } => Err(fault(range, "`)` without `(`", "never opened")),
        other => Err(fault(other.range, "two conditions without an operator", "expected `and` or `or` before this")),
    }
}

/// The value that a name stands for: a field, or a header as `request_headers.NAME`.
///
/// # Errors
/// What to say about a name that is none, with a word of help.
pub(crate) fn value(name: &str, in_condition: bool) -> Result<LogValue, (String, Option<String>)> {
    if let Some((place, header)) = name.split_once('.') {
        let header = || {
            HeaderName::from_bytes(header.as_bytes())
                .ok()
                .ok_or_else(|| (format!("`{header}` is not the name of a header"), None))
        };
        match place {
            "request_headers" => return header().and_then(unless_secret).map(LogValue::RequestHeader),
            "response_headers" => return header().and_then(unless_secret).map(LogValue::ResponseHeader),
            _ => {}
        }
    }
    let name_of = |field: LogField| if in_condition { field.name_in_conditions() } else { field.name() };
    if let Some(facts) = LogField::ALL.iter().find(|facts| name_of(facts.field) == name) {
        return Ok(LogValue::Field(facts.field));
    }
    let other = LogField::ALL.iter().find(|facts| facts.name == name || facts.field.name_in_conditions() == name);
    let help = match other {
        Some(facts) => Some(format!("it is called `{}` here", name_of(facts.field))),
        None => suggest::did_you_mean(name, LogField::ALL.iter().map(|facts| name_of(facts.field))),
    };
    let help = help.or_else(|| {
        let names: Vec<_> = LogField::ALL.iter().map(|facts| name_of(facts.field)).collect();
        Some(format!("the fields are {}, request_headers.NAME and response_headers.NAME", names.join(", ")))
    });
    Err((format!("unknown field `{name}`"), help))
}

/// What opens doors does not go into logs.
pub(crate) fn unless_secret(name: HeaderName) -> Result<HeaderName, (String, Option<String>)> {
    const SECRETS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
    if SECRETS.contains(&name.as_str()) {
        let help = "log a user id that the origin puts into another header".to_owned();
        return Err((
            format!("`{name}` is never logged: anyone who reads the log could impersonate its sender"),
            Some(help),
        ));
    }
    Ok(name)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    depth: u32,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Test, ConditionFault> {
        let mut tests = vec![self.all()?];
        while self.tokens.take_if(Word::Or)?.is_some() {
            tests.push(self.all()?);
        }
        Ok(alone_or(tests, Test::Any))
    }

    fn all(&mut self) -> Result<Test, ConditionFault> {
        let mut tests = vec![self.one()?];
        while self.tokens.take_if(Word::And)?.is_some() {
            tests.push(self.one()?);
        }
        Ok(alone_or(tests, Test::All))
    }

    fn one(&mut self) -> Result<Test, ConditionFault> {
        let token = self.tokens.next()?;
        match token.word {
            Word::Not => self.deeper(token.range, Self::one).map(|test| Test::Not(Box::new(test))),
            Word::Open => {
                let test = self.deeper(token.range.clone(), Self::any)?;
                match self.tokens.next()? {
                    Token { word: Word::Close, .. } => Ok(test),
                    Token { word: Word::End, .. } => Err(fault(token.range, "`(` is never closed", "opened here")),
                    other => Err(fault(other.range, "expected `and`, `or` or `)`", "found this")),
                }
            }
            Word::Name(name) => self.comparison(name, token.range),
            Word::End => Err(fault(token.range, "a condition is missing", "expected such as `status >= 400`")),
            _ => Err(fault(token.range, "a field is missing", "expected such as `status >= 400`")),
        }
    }

    /// Nothing that a person writes goes deep, and evaluation goes as deep as the text.
    fn deeper(
        &mut self,
        range: Range<usize>,
        inner: impl FnOnce(&mut Self) -> Result<Test, ConditionFault>,
    ) -> Result<Test, ConditionFault> {
        if self.depth == DEPTH_LIMIT {
            let label = format!("more than {DEPTH_LIMIT} levels of `(` and `not`");
            return Err(fault(range, "the condition is nested too deeply", label));
        }
        self.depth += 1;
        let test = inner(self);
        self.depth -= 1;
        test
    }

    fn comparison(&mut self, name: &str, range: Range<usize>) -> Result<Test, ConditionFault> {
        let value = value(name, true).map_err(|(message, help)| {
            let label = if message.starts_with("unknown") { "not a field" } else { "here" };
            ConditionFault { range: range.clone(), message, label: label.to_owned(), help }
        })?;
        let operator = self.tokens.next()?;
        let Word::Operator(sign) = operator.word else {
            let message = format!("`{name}` is not compared with a value");
            let label = "expected one of = != < <= > >= ~ before this";
            return Err(fault(operator.range, message, label));
        };
        let literal = self.tokens.next()?;
        literal::comparison(value, name, sign, &operator.range, &literal)
    }
}

fn alone_or(mut tests: Vec<Test>, several: impl FnOnce(Vec<Test>) -> Test) -> Test {
    match tests.len() {
        1 => tests.remove(0),
        _ => several(tests),
    }
}

fn kind_of(value: &LogValue) -> FieldKind {
    match value {
        LogValue::Field(field) => field.facts().kind,
        LogValue::RequestHeader(_) | LogValue::ResponseHeader(_) => FieldKind::Text,
    }
}

fn fault(range: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> ConditionFault {
    ConditionFault { range, message: message.into(), label: label.into(), help: None }
}

impl ConditionFault {
    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Levels of `(` and `not`.
const DEPTH_LIMIT: u32 = 32;
