//! `${NAME}`, `${NAME:-default}` and `$${` inside strings (sans-io: the environment is a function).

use std::borrow::Cow;
use std::ops::Range;

/// Where the values of variables come from.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable that cannot be put in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unset {
    /// In bytes of the text that was expanded.
    pub(crate) range: Range<usize>,
    pub(crate) message: String,
    pub(crate) label: &'static str,
    pub(crate) help: String,
}

/// The text with its variables put in, or everything that is wrong with them. A default stands for a variable that is
/// not set or empty, as in a shell.
pub(crate) fn expand<'a>(text: &'a str, lookup: Lookup<'_>) -> Result<Cow<'a, str>, Vec<Unset>> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let open = at + found;
        if text[at..open].ends_with('$') {
            out.push_str(&text[at..open - 1]);
            out.push_str("${");
            at = open + 2;
            continue;
        }
        out.push_str(&text[at..open]);
        let Some(length) = text[open..].find('}') else {
            faults.push(Unset {
                range: open..text.len(),
                message: "`${` is never closed".into(),
                label: "no `}` after it",
                help: "write `$${` for a literal `${`".into(),
            });
            return Err(faults);
        };
        at = open + length + 1;
        match variable(&text[open + 2..at - 1], lookup) {
            Ok(value) => out.push_str(&value),
            Err((message, label, help)) => faults.push(Unset { range: open..at, message, label, help }),
        }
    }
    out.push_str(&text[at..]);
    if faults.is_empty() { Ok(Cow::Owned(out)) } else { Err(faults) }
}

fn variable(inside: &str, lookup: Lookup<'_>) -> Result<String, (String, &'static str, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err((
            format!("bad name of an environment variable `{name}`"),
            "letters, digits and `_`",
            "write `${NAME}` or `${NAME:-default}`; `$${` for a literal `${`".into(),
        ));
    }
    match (lookup(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("environment variable `{name}` is not set"),
            "it has no value",
            format!("set it, or write `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn puts_variables_in() {
        for (text, expected) in [
            ("x", "x"),
            ("${A}", "1"),
            ("a${A}b${A}", "a1b1"),
            ("${NO:-d}", "d"),
            ("${NO:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("$${A}", "${A}"),
            ("$A {host} $", "$A {host} $"),
            ("ü${A}ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn names_every_variable_that_is_not_set() {
        let faults = expand("a${NO}b${A}c${1X}d${", &env).unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.range.clone()).collect::<Vec<_>>(), [1..6, 12..17, 18..20]);
    }
}
