//! The tokens of a condition, with their places.

use std::ops::Range;

use super::{ConditionFault, fault};

/// A word with its place.
#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    pub(super) word: Word<'a>,
    pub(super) range: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    And,
    Or,
    Not,
    Open,
    Close,
    Operator(Sign),
    /// A field, a number, a duration, a size: whatever stands without quotes.
    Name(&'a str),
    /// What stands in quotes.
    Quoted(&'a str),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Order(crate::config::model::Order),
    Matches,
    MatchesNot,
}

pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    peeked: Option<Token<'a>>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, peeked: None }
    }

    /// The next word; the end again and again.
    pub(super) fn next(&mut self) -> Result<Token<'a>, ConditionFault> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.read(),
        }
    }

    /// The next word, if it is this one.
    pub(super) fn take_if(&mut self, word: Word<'_>) -> Result<Option<Token<'a>>, ConditionFault> {
        let next = self.next()?;
        if next.word == word {
            return Ok(Some(next));
        }
        self.peeked = Some(next);
        Ok(None)
    }

    fn read(&mut self) -> Result<Token<'a>, ConditionFault> {
        let rest = self.text[self.at..].trim_start();
        let start = self.text.len() - rest.len();
        let (word, length) = match rest.chars().next() {
            None => (Word::End, 0),
            Some('(') => (Word::Open, 1),
            Some(')') => (Word::Close, 1),
            Some(quote @ ('\'' | '"')) => {
                let Some(end) = rest[1..].find(quote) else {
                    return Err(fault(start..self.text.len(), "unterminated string", "the closing quote is missing"));
                };
                (Word::Quoted(&rest[1..1 + end]), end + 2)
            }
            Some(first) if is_in_names(first) => {
                let length = rest.find(|c| !is_in_names(c)).unwrap_or(rest.len());
                let word = match &rest[..length] {
                    "and" => Word::And,
                    "or" => Word::Or,
                    "not" => Word::Not,
                    name => Word::Name(name),
                };
                (word, length)
            }
            Some(first) => self.operator(rest, start, first)?,
        };
        self.at = start + length;
        Ok(Token { word, range: start..self.at })
    }

    fn operator(&self, rest: &str, start: usize, first: char) -> Result<(Word<'a>, usize), ConditionFault> {
        use crate::config::model::Order::{Above, AtLeast, AtMost, Below, Equal, Unequal};
        // The longer one first.
        for (sign, word) in [("==", "="), ("&&", "and"), ("||", "or")] {
            if rest.starts_with(sign) {
                let message = format!("`{sign}` is not an operator");
                return Err(fault(start..start + 2, message, "here").help(format!("write `{word}`")));
            }
        }
        let signs = [
            ("!=", Sign::Order(Unequal)),
            ("!~", Sign::MatchesNot),
            ("<=", Sign::Order(AtMost)),
            (">=", Sign::Order(AtLeast)),
            ("=", Sign::Order(Equal)),
            ("<", Sign::Order(Below)),
            (">", Sign::Order(Above)),
            ("~", Sign::Matches),
        ];
        if let Some((text, sign)) = signs.iter().find(|(text, _)| rest.starts_with(text)) {
            return Ok((Word::Operator(*sign), text.len()));
        }
        let range = start..start + first.len_utf8();
        let help = if first == '!' { "write `not`" } else { "strings need single quotes: '…'" };
        Err(fault(range, format!("`{}` is not valid here", first.escape_debug()), "here").help(help))
    }
}

/// Names of fields and headers, numbers with their units.
fn is_in_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}
