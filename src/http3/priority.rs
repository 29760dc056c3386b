//! The `priority` field: how urgent an answer is and whether parts of it are of use (sans-io, RFC 9218 §4, RFC 9651 §4.2).

use std::fmt;

/// How a client wants an answer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Priority {
    /// 0 is sent first, 7 last. 3.
    pub urgency: u8,
    /// Parts of it are of use, so that it may share the connection with others of its urgency. No.
    pub incremental: bool,
}

impl Default for Priority {
    fn default() -> Self {
        Self { urgency: 3, incremental: false }
    }
}

impl Priority {
    /// Reads a field value. Parameters that are not known, or out of their range, count as absent (RFC 9218 §4); `None`
    /// for what is no dictionary.
    pub fn parse(field: &[u8]) -> Option<Self> {
        let mut priority = Self::default();
        let mut input = Input(field);
        input.skip_spaces();
        while !input.0.is_empty() {
            let key = input.key()?;
            let value = if input.take(b'=') { input.member()? } else { Value::Boolean(true) };
            input.parameters()?;
            match (key, value) {
                (b"u", Value::Integer(urgency @ 0..=7)) => priority.urgency = urgency as u8,
                (b"i", Value::Boolean(incremental)) => priority.incremental = incremental,
                // RFC 9651 §4.2.2: the last of a key counts, and one out of range counts as absent.
                (b"u", _) => priority.urgency = Self::default().urgency,
                (b"i", _) => priority.incremental = false,
                _ => {}
            }
            input.skip_whitespace();
            if input.0.is_empty() {
                break;
            }
            if !input.take(b',') {
                return None;
            }
            input.skip_whitespace();
            // A comma at the end.
            if input.0.is_empty() {
                return None;
            }
        }
        Some(priority)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "u={}{}", self.urgency, if self.incremental { ", i" } else { "" })
    }
}

enum Value {
    Integer(i64),
    Boolean(bool),
    Other,
}

/// What is left of a structured field.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.0.first() == Some(&byte);
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !belongs(byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn skip_spaces(&mut self) {
        self.take_while(|byte| byte == b' ');
    }

    fn skip_whitespace(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.0.first(), Some(b'a'..=b'z' | b'*')) {
            return None;
        }
        Some(self.take_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')))
    }

    fn member(&mut self) -> Option<Value> {
        if !self.take(b'(') {
            return self.item();
        }
        loop {
            self.skip_spaces();
            if self.take(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.skip_spaces();
            self.key()?;
            if self.take(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Value> {
        match self.0.first()? {
            b'?' => {
                let value = *self.0.get(1)?;
                self.0 = &self.0[2..];
                matches!(value, b'0' | b'1').then_some(Value::Boolean(value == b'1'))
            }
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b':' => {
                self.0 = &self.0[1..];
                self.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
                self.take(b':').then_some(Value::Other)
            }
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let negative = self.take(b'-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.take(b'.') {
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            return (digits.len() <= 12 && matches!(fraction.len(), 1..=3)).then_some(Value::Other);
        }
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if negative { -value } else { value }))
    }

    fn string(&mut self) -> Option<Value> {
        self.0 = &self.0[1..];
        loop {
            self.take_while(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
            if self.take(b'"') {
                return Some(Value::Other);
            }
            if !self.take(b'\\') || !(self.take(b'"') || self.take(b'\\')) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_field_says() {
        for (field, expected) in [
            ("", Some((3, false))),
            ("u=0", Some((0, false))),
            ("u=7, i", Some((7, true))),
            ("i, u=1", Some((1, true))),
            ("  u=5\t,\ti=?0  ", Some((5, false))),
            ("i=?1;x=1;y", Some((3, true))),
            ("u=8", Some((3, false))),
            ("u=-1", Some((3, false))),
            ("u=1.0", Some((3, false))),
            ("u=2, u=4", Some((4, false))),
            ("i=1", Some((3, false))),
            ("a=\"x\\\"y, i\", b=(1 \"2\" c;d);e=1, c=:YQ==:, *d=tok/en, u=6", Some((6, false))),
            ("u=", None),
            ("u=1,", None),
            ("u=1 i", None),
            ("U=1", None),
            ("u=\"", None),
            ("u=(1", None),
            ("u=1234567890123456", None),
            (",", None),
        ] {
            let expected = expected.map(|(urgency, incremental)| Priority { urgency, incremental });
            assert_eq!(Priority::parse(field.as_bytes()), expected, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(urgency in 0..8u8, incremental: bool) {
            let priority = Priority { urgency, incremental };
            prop_assert_eq!(Priority::parse(priority.to_string().as_bytes()), Some(priority));
        }

        #[test]
        fn reading_never_panics(field in "[ui=?0-9,; ()\"\\\\:a*.-]{0,24}") {
            let _ = Priority::parse(field.as_bytes());
        }
    }
}
