//! Rewrites the path for the upstream (sans-io). The result is always a valid origin-form target that begins with
//! exactly one `/`, or an unchanged `*`.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;

use super::action::Values;
use crate::base::template::{Placeholder, Template};
use crate::config::model::PathRewrite;

/// The rewritten target; `None` where it stays as it came. `path` is the path in the form the route was found by,
/// without the query; strip and replace work on it.
pub fn rewrite(rule: &PathRewrite, target: &PathAndQuery, path: &str, values: &impl Values) -> Option<PathAndQuery> {
    if path == "*" {
        return None;
    }
    match rule {
        PathRewrite::Keep => match target.as_str().as_bytes().first() {
            Some(b'/') => None,
            // An absolute-form target without a path, `http://example.org?a`: RFC 9112 §3.2.1 wants the slash.
            _ => Some(build("/", target.query())),
        },
        PathRewrite::StripPrefix(prefix) => {
            let rest = path.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| build(rest, target.query()))
        }
        PathRewrite::Replace(template) => Some(replace(template, target, values)),
    }
}

/// The target with its path in the normal form, which is `path`; `None` where it has it already.
pub fn in_normal_form(target: &PathAndQuery, path: &str) -> Option<PathAndQuery> {
    (target.path() != path && path != "*").then(|| build(path, target.query()))
}

fn replace(template: &Template, target: &PathAndQuery, values: &impl Values) -> PathAndQuery {
    let mut text = String::new();
    template.render(&mut text, |hole, out| values.append(hole, out));
    let writes_query =
        template.placeholders().any(|hole| matches!(hole, Placeholder::Query | Placeholder::PathAndQuery))
            || template.source().contains('?');
    if writes_query {
        let (path, query) = text.split_once('?').map_or((text.as_str(), None), |(path, query)| (path, Some(query)));
        build(path, query.filter(|query| !query.is_empty()))
    } else {
        build(&text, target.query())
    }
}

/// One slash at the beginning, whatever the path begins with: `//host` would name a host to some readers.
fn build(path: &str, query: Option<&str>) -> PathAndQuery {
    let path = encode_invalid(path.trim_start_matches('/'));
    let mut text = String::with_capacity(1 + path.len() + query.map_or(0, |query| 1 + query.len()));
    text.push('/');
    for part in path.split_inclusive('?') {
        // A `?` inside a path is data.
        match part.strip_suffix('?') {
            Some(part) => {
                text.push_str(part);
                text.push_str("%3F");
            }
            None => text.push_str(part),
        }
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(&encode_invalid(query));
    }
    PathAndQuery::from_maybe_shared(Bytes::from(text)).unwrap_or(const { PathAndQuery::from_static("/") })
}

/// Percent-encodes what may not stand in a URI, and nothing else.
pub(super) fn encode_invalid(text: &str) -> Cow<'_, str> {
    let is_invalid = |byte: u8| {
        byte <= b' '
            || byte >= 0x7f
            || matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    if !text.bytes().any(is_invalid) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if is_invalid(byte) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        } else {
            out.push(char::from(byte));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn none(_: Placeholder, _: &mut String) {}

    fn strip(prefix: &str, target: &str) -> Option<String> {
        let target: PathAndQuery = target.parse().unwrap();
        let rule = PathRewrite::StripPrefix(prefix.into());
        rewrite(&rule, &target, target.path(), &none).map(|out| out.as_str().to_owned())
    }

    fn replace_with(template: &str, target: &str) -> String {
        let target: PathAndQuery = target.parse().unwrap();
        let values = |hole: Placeholder, out: &mut String| match hole {
            Placeholder::Rest => out.push_str(target.path().strip_prefix("/v1").unwrap_or("")),
            Placeholder::Path => out.push_str(target.path()),
            Placeholder::Query => out.push_str(target.query().unwrap_or("")),
            Placeholder::PathAndQuery => out.push_str(target.as_str()),
            Placeholder::Sni => out.push_str("a b?c#\u{fc}"),
            _ => {}
        };
        let rule = PathRewrite::Replace(Template::parse(template).unwrap());
        rewrite(&rule, &target, target.path(), &values).unwrap().as_str().to_owned()
    }

    #[test]
    fn strips_by_segment() {
        assert_eq!(strip("/v1", "/v1").as_deref(), Some("/"));
        assert_eq!(strip("/v1", "/v1/a%2Fb?q=1").as_deref(), Some("/a%2Fb?q=1"));
        assert_eq!(strip("/v1", "/v1//evil.example").as_deref(), Some("/evil.example"));
        assert_eq!(strip("/v1", "/v12"), None);
        assert_eq!(strip("/v1", "/other"), None);
    }

    #[test]
    fn replaces_and_keeps_the_query_unless_it_is_written() {
        assert_eq!(replace_with("/new{rest}", "/v1/users?a=b"), "/new/users?a=b");
        assert_eq!(replace_with("/new{rest}", "/v1"), "/new");
        assert_eq!(replace_with("new", "/v1"), "/new");
        assert_eq!(replace_with("", "/v1?x"), "/?x");
        assert_eq!(replace_with("/all?was={query}", "/v1?x=1"), "/all?was=x=1");
        assert_eq!(replace_with("/in{path_and_query}", "/v1?x=1"), "/in/v1?x=1");
        assert_eq!(replace_with("/s/{sni}", "/v1?q"), "/s/a%20b%3Fc%23%C3%BC?q");
    }

    #[test]
    fn keeps_what_came() {
        let target = PathAndQuery::from_static("/a/b?c");
        assert_eq!(rewrite(&PathRewrite::Keep, &target, "/a/b", &none), None);
        let bare = PathAndQuery::try_from("?c").unwrap();
        assert_eq!(rewrite(&PathRewrite::Keep, &bare, "/", &none).unwrap(), "/?c");
        let star = PathAndQuery::from_static("*");
        assert_eq!(rewrite(&PathRewrite::StripPrefix(String::new()), &star, "*", &none), None);
    }

    proptest! {
        #[test]
        fn comes_out_valid_whatever_goes_in(value in ".*", template in "[a-z/?]{0,5}\\{sni\\}[a-z/?#]{0,5}") {
            let target = PathAndQuery::from_static("/v1/x?q=1");
            let values = |_: Placeholder, out: &mut String| out.push_str(&value);
            let rule = PathRewrite::Replace(Template::parse(&template).unwrap());
            let out = rewrite(&rule, &target, target.path(), &values).unwrap();
            prop_assert!(out.as_str().starts_with('/') && !out.as_str().starts_with("//"));
            prop_assert!(out.as_str().bytes().all(|byte| byte > b' ' && byte < 0x7f && byte != b'#'));
            prop_assert!(out.as_str().parse::<http::Uri>().is_ok());
        }
    }
}
