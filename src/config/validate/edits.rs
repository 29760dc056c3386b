//! Names and values of headers, and texts with placeholders.

use http::HeaderName;

use super::Check;
use crate::base::template::{Placeholder, Template};
use crate::config::model::HeaderEdits;
use crate::config::section::{Section, Written};
use crate::config::source::Spot;
use crate::config::suggest;

/// What placeholders of one route can stand for.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// The path ends with `*`, or is a regular expression.
    pub(super) rest: bool,
    /// A listener of the route ends TLS.
    pub(super) tls: bool,
}

impl Check<'_> {
    pub(super) fn edits(&mut self, section: Option<&Section>, is_request: bool, scope: Scope) -> HeaderEdits {
        let Some(section) = section else { return HeaderEdits::default() };
        let mut edits = HeaderEdits::default();
        for written in section.texts("remove") {
            let Some(name) = self.header_name(written.value, written.spot) else { continue };
            self.editable(&name, is_request, written.spot);
            edits.remove.push(name);
        }
        edits.set = self.values(section, "set", is_request, scope);
        edits.add = self.values(section, "add", is_request, scope);
        edits
    }

    fn values(&mut self, section: &Section, key: &str, is_request: bool, scope: Scope) -> Vec<(HeaderName, Template)> {
        let mut values: Vec<(HeaderName, Template)> = Vec::new();
        for pair in section.map(key) {
            let Some(name) = self.header_name(&pair.name.value, pair.name.spot) else { continue };
            self.editable(&name, is_request, pair.name.spot);
            if values.iter().any(|(known, _)| *known == name) {
                self.fault(pair.name.spot, format!("header `{name}` is given twice"), "the second one");
            }
            let Some(written) = pair.node.written() else { continue };
            if let Some(template) = self.template(written, scope) {
                values.push((name, template));
            }
        }
        values
    }

    pub(super) fn header_name(&mut self, text: &str, spot: Spot) -> Option<HeaderName> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Some(name),
            Err(_) => {
                let label = if text.starts_with(':') { "a pseudo-header" } else { "not the name of a header" };
                self.fault(spot, format!("bad header name `{text}`"), label);
                None
            }
        }
    }

    /// Framing and the life of connections are the proxy's own business.
    fn editable(&mut self, name: &HeaderName, is_request: bool, spot: Spot) {
        if OURS.contains(&name.as_str()) {
            self.fault(spot, format!("`{name}` cannot be edited"), "the proxy writes it for each connection");
        } else if is_request && name == http::header::HOST {
            let help = "write `host_header = \"…\"` in the route";
            self.fault_with_help(spot, "`host` cannot be edited", "it has its own key", help);
        }
    }

    /// A text with placeholders that ends in a header or a path.
    pub(super) fn template(&mut self, written: Written<'_>, scope: Scope) -> Option<Template> {
        if let Some(at) = written.value.find(|c: char| c.is_control() && c != '\t') {
            self.fault(written.part(at..at + 1), "a control character in a value", "not allowed in a header");
            return None;
        }
        let template = match Template::parse(written.value) {
            Ok(template) => template,
            Err(error) => {
                let rest = &written.value[error.offset..];
                let length = rest.find('}').map_or(rest.len(), |end| end + 1);
                let name = rest[..length].trim_matches(['{', '}']);
                let known = || Placeholder::ALL.iter().map(|(name, _)| *name);
                let help = suggest::nearest(name, known())
                    .map(|word| format!("did you mean `{{{word}}}`?"))
                    .unwrap_or_else(|| {
                        let names: Vec<_> = known().map(|name| format!("{{{name}}}")).collect();
                        format!("there are {}; write `{{{{` for a brace", names.join(" "))
                    });
                let spot = written.part(error.offset..error.offset + length);
                self.fault_with_help(spot, error.message, "here", help);
                return None;
            }
        };
        let uses = |wanted| template.placeholders().any(|hole| hole == wanted);
        if uses(Placeholder::Rest) && !scope.rest {
            let help = "end the path with `/*`";
            self.placeholder_fault(written, "{rest}", "the route's path has no `*`", help);
        }
        if uses(Placeholder::Sni) && !scope.tls {
            self.placeholder_fault(written, "{sni}", "no listener of the route has tls", "leave it out");
        }
        Some(template)
    }

    fn placeholder_fault(&mut self, written: Written<'_>, hole: &str, label: &str, help: &str) {
        let at = written.value.find(hole).unwrap_or(0);
        let spot = written.part(at..at + hole.len());
        self.fault_with_help(spot, format!("`{hole}` is not available here"), label, help);
    }
}

/// RFC 9110 §7.6.1 and the framing of RFC 9112 §6.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];
