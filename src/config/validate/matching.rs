//! The matches of a route: hosts, path, methods, headers, query.

use http::{HeaderName, Method};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Check;
use super::address::host_name;
use crate::config::model::{HostPattern, PathPattern, ValuePattern};
use crate::config::section::{Section, Written};

impl Check<'_> {
    pub(super) fn hosts(&mut self, section: &Section) -> Vec<HostPattern> {
        let mut hosts = Vec::new();
        for written in section.texts("host") {
            match host_pattern(written.value) {
                Ok(pattern) => hosts.push(pattern),
                Err((reason, help)) => {
                    let message = format!("bad host `{}`", written.value);
                    match help {
                        Some(help) => self.fault_with_help(written.spot, message, reason, help),
                        None => self.fault(written.spot, message, reason),
                    }
                }
            }
        }
        hosts
    }

    pub(super) fn path_pattern(&mut self, section: &Section) -> Option<PathPattern> {
        let written = section.text("path")?;
        let text = written.value;
        if let Some(pattern) = text.strip_prefix('~') {
            return self.regex(written, pattern).map(PathPattern::Regex);
        }
        if let Err((reason, help)) = plain_path(text) {
            self.fault_with_help(written.spot, format!("bad path `{text}`"), reason, help);
            return None;
        }
        Some(match text.strip_suffix("/*") {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(text.to_owned()),
        })
    }

    pub(super) fn methods(&mut self, section: &Section) -> Vec<Method> {
        let mut methods: Vec<Method> = Vec::new();
        for written in section.texts("method") {
            let text = written.value;
            match Method::from_bytes(text.as_bytes()) {
                Ok(Method::CONNECT) => {
                    self.fault(written.spot, "`CONNECT` is not in this version", "not in this version")
                }
                Ok(method) => {
                    let upper = text.to_ascii_uppercase();
                    // RFC 9110 §9.1: methods are case-sensitive, and none in use has a lowercase letter.
                    if upper != text && KNOWN_METHODS.contains(&upper.as_str()) {
                        let help = format!("write `{upper}`");
                        self.fault_with_help(
                            written.spot,
                            format!("bad method `{text}`"),
                            "methods are case-sensitive",
                            help,
                        );
                    } else if !methods.contains(&method) {
                        methods.push(method);
                    }
                }
                Err(_) => self.fault(written.spot, format!("bad method `{text}`"), "not the name of a method"),
            }
        }
        methods
    }

    pub(super) fn header_predicates(&mut self, section: &Section) -> Vec<(HeaderName, ValuePattern)> {
        let mut predicates: Vec<(HeaderName, ValuePattern)> = Vec::new();
        for pair in section.map("header") {
            let Some(name) = self.header_name(&pair.name.value, pair.name.spot) else { continue };
            if name == http::header::HOST {
                self.fault_with_help(
                    pair.name.spot,
                    "`host` cannot be matched as a header",
                    "it has its own key",
                    "write `host = \"…\"`",
                );
            }
            if predicates.iter().any(|(known, _)| *known == name) {
                self.fault(pair.name.spot, format!("header `{name}` is given twice"), "the second one");
            }
            let Some(written) = pair.node.written() else { continue };
            let Some(pattern) = self.value_pattern(written) else { continue };
            if let ValuePattern::Exact(value) = &pattern
                && http::HeaderValue::from_str(value).is_err()
            {
                self.fault(written.spot, format!("bad value for header `{name}`"), "not a valid header value");
            }
            predicates.push((name, pattern));
        }
        predicates
    }

    pub(super) fn query_predicates(&mut self, section: &Section) -> Vec<(String, ValuePattern)> {
        let mut predicates = Vec::new();
        for pair in section.map("query") {
            let Some(written) = pair.node.written() else { continue };
            if let Some(pattern) = self.value_pattern(written) {
                predicates.push((pair.name.value.clone(), pattern));
            }
        }
        predicates
    }

    pub(super) fn value_pattern(&mut self, written: Written<'_>) -> Option<ValuePattern> {
        match written.value.strip_prefix('~') {
            Some(pattern) => self.regex(written, pattern).map(ValuePattern::Regex),
            None => Some(ValuePattern::Exact(written.value.to_owned())),
        }
    }

    fn regex(&mut self, written: Written<'_>, pattern: &str) -> Option<regex::Regex> {
        match regex::Regex::new(pattern.trim_start()) {
            Ok(regex) => Some(regex),
            Err(error) => {
                // The crate draws its own picture over several lines; the last one says what is wrong.
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or("").trim().trim_start_matches("error: ");
                self.fault(written.spot, "bad regular expression", reason);
                None
            }
        }
    }
}

type Refusal = (&'static str, Option<String>);

fn host_pattern(text: &str) -> Result<HostPattern, Refusal> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if text == "*" {
        return Err(("every host", Some("leave `host` out to match every host".into())));
    }
    if let Some(rest) = name.strip_prefix("*.") {
        host_name(rest).map_err(|reason| (reason, None))?;
        return Ok(HostPattern::Wildcard(rest.to_owned()));
    }
    if name.contains('*') {
        return Err(("`*` is allowed only as the first label", Some("write `*.example.org`".into())));
    }
    if let Some(rest) = name.strip_prefix('.') {
        return Err(("an empty label", Some(format!("write `*.{rest}`"))));
    }
    if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = inside.parse::<Ipv6Addr>().map_err(|_| ("not an IPv6 address", None))?;
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    if name.parse::<Ipv6Addr>().is_ok() {
        return Err(("no brackets", Some(format!("write `[{name}]`"))));
    }
    if let Some((_, rest)) = name.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return Err(("a host, not a URL", (!host.is_empty()).then(|| format!("write `{host}`"))));
    }
    if let Some((host, port)) = name.split_once(':') {
        let help = port.parse::<u16>().is_ok().then(|| format!("write `{host}`: the port is the listener's"));
        return Err(("a host has no port here", help));
    }
    if name.contains('/') {
        return Err(("a host, not a URL", Some("the path has its own key, `path`".into())));
    }
    // Digits and dots that are no address would be read as one by some clients (RFC 3986 §3.2.2).
    if name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && name.parse::<Ipv4Addr>().is_err() {
        return Err(("not an address and not a name", None));
    }
    host_name(&name).map_err(|reason| (reason, None))?;
    Ok(HostPattern::Exact(name))
}

fn plain_path(text: &str) -> Result<(), (&'static str, String)> {
    if !text.starts_with('/') {
        return Err(("a path begins with `/`", format!("write `/{}`", text.trim_start_matches(['^', '~', ' ']))));
    }
    let body = text.strip_suffix("/*").unwrap_or(text);
    if body.contains('*') {
        let before = body.split('*').next().unwrap_or("").trim_end_matches('/');
        return Err(("`*` is allowed only as the last segment", format!("write `{before}/*`, or `~ ^regex$`")));
    }
    if let Some(mark) = ['?', '#'].into_iter().find(|mark| body.contains(*mark)) {
        let help =
            if mark == '?' { "the query has its own key, `query`" } else { "fragments are never sent in requests" };
        return Err(("not only a path", help.into()));
    }
    if !body.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(("characters that are not allowed in a path", "write them percent-encoded".into()));
    }
    Ok(())
}

const KNOWN_METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts() {
        assert_eq!(host_pattern("Api.Example.ORG."), Ok(HostPattern::Exact("api.example.org".into())));
        assert_eq!(host_pattern("*.example.org"), Ok(HostPattern::Wildcard("example.org".into())));
        assert_eq!(host_pattern("[::0001]"), Ok(HostPattern::Exact("[::1]".into())));
        assert_eq!(host_pattern("10.0.0.1"), Ok(HostPattern::Exact("10.0.0.1".into())));
        for bad in ["*", "", "a.*.b", "*a.b", "::1", "a:80", "a/b", "1.2.3", "a b", ".a", "[x]", "http://a"] {
            assert!(host_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_paths() {
        for good in ["/", "/*", "/a", "/a/*", "/a%20b", "/a//b/"] {
            assert!(plain_path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "*", "/a*", "/*/b", "/a?b", "/a#b", "/a b", "/ü"] {
            assert!(plain_path(bad).is_err(), "{bad}");
        }
    }
}
