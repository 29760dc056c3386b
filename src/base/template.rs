//! Text with `{placeholders}`, parsed once when the configuration is read and rendered for each request (sans-io). `{{`
//! is a literal `{`.

use std::fmt;

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `http` or `https`.
    Scheme,
    /// The effective host, without a port.
    Host,
    /// The effective port.
    Port,
    /// The path.
    Path,
    /// The query without its `?`.
    Query,
    /// Path and query.
    PathAndQuery,
    /// What `*` of the route's path matched.
    Rest,
    /// The client's address.
    ClientIp,
    /// The id of the request.
    RequestId,
    /// The name of the TLS handshake.
    Sni,
}

impl Placeholder {
    /// Every placeholder with its name.
    pub const ALL: [(&'static str, Placeholder); 10] = [
        ("scheme", Placeholder::Scheme),
        ("host", Placeholder::Host),
        ("port", Placeholder::Port),
        ("path", Placeholder::Path),
        ("query", Placeholder::Query),
        ("path_and_query", Placeholder::PathAndQuery),
        ("rest", Placeholder::Rest),
        ("client_ip", Placeholder::ClientIp),
        ("request_id", Placeholder::RequestId),
        ("sni", Placeholder::Sni),
    ];
}

/// Text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Hole(Placeholder),
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Bytes from the beginning of the text.
    pub offset: usize,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads a text with placeholders.
    ///
    /// # Errors
    /// An unknown placeholder or a brace that is never closed, with its offset.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            literal.push_str(&rest[..open]);
            let after = &rest[open + 1..];
            if let Some(escaped) = after.strip_prefix('{') {
                literal.push('{');
                rest = escaped;
                continue;
            }
            let offset = text.len() - after.len() - 1;
            let Some(close) = after.find('}') else {
                return Err(TemplateError { offset, message: "`{` is never closed (write `{{` for a brace)".into() });
            };
            let name = &after[..close];
            let Some((_, hole)) = Placeholder::ALL.iter().find(|(known, _)| *known == name) else {
                return Err(TemplateError { offset, message: format!("unknown placeholder `{{{name}}}`") });
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Hole(*hole));
            rest = &after[close + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { source: text.to_owned(), parts })
    }

    /// Text without placeholders.
    pub fn literal(text: &str) -> Self {
        Self { source: text.replace('{', "{{"), parts: vec![Part::Text(text.to_owned())] }
    }

    /// The text, where it holds no placeholder.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// What was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The placeholders in it.
    pub fn placeholders(&self) -> impl Iterator<Item = Placeholder> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Hole(hole) => Some(*hole),
            Part::Text(_) => None,
        })
    }

    /// Appends the text to `out`; `lookup` appends what a placeholder stands for.
    pub fn render(&self, out: &mut String, mut lookup: impl FnMut(Placeholder, &mut String)) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Hole(hole) => lookup(*hole, out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_text_holes_and_escaped_braces() {
        let template = Template::parse("a{host}b{{c}").unwrap();
        let mut out = String::new();
        template.render(&mut out, |hole, out| out.push_str(if hole == Placeholder::Host { "H" } else { "?" }));
        assert_eq!(out, "aHb{c}");
        assert_eq!(template.as_literal(), None);
    }

    #[test]
    fn names_what_is_unknown_and_where() {
        assert_eq!(Template::parse("ab{nope}").unwrap_err().offset, 2);
        assert_eq!(Template::parse("ab{host").unwrap_err().offset, 2);
    }

    #[test]
    fn a_literal_stays_a_literal() {
        assert_eq!(Template::literal("{x}").as_literal(), Some("{x}"));
        assert_eq!(Template::parse("x").unwrap().as_literal(), Some("x"));
    }
}
