use http::Request;
use proptest::prelude::*;

use super::*;

const CHECKS: Checks = Checks { max_headers: 8, is_forward: false };

fn parts(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().version(version).method(method).uri(target);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn h1(target: &str, headers: &[(&str, &str)]) -> Result<Normalized, &'static str> {
    check(&parts(Version::HTTP_11, "GET", target, headers), CHECKS).map_err(|refusal| refusal.reason)
}

/// HTTP/2, which HTTP/3 never differs from.
fn h2(target: &str, headers: &[(&str, &str)]) -> Result<Normalized, &'static str> {
    let over = |version| check(&parts(version, "GET", target, headers), CHECKS).map_err(|refusal| refusal.reason);
    let told = |normalized: Result<Normalized, _>| normalized.map(|normalized| normalized.host().to_owned());
    assert_eq!(told(over(Version::HTTP_2)), told(over(Version::HTTP_3)));
    over(Version::HTTP_3)
}

#[test]
fn one_valid_host_on_http11() {
    assert_eq!(h1("/", &[]).unwrap_err(), "no Host");
    assert_eq!(h1("/", &[("host", "a"), ("host", "a")]).unwrap_err(), "more than one Host");
    for host in [
        "", "a b", "a/b", "a@b", "u:p@a", "a..b", ".a", ".", "a:b", "a:123456", "a:65536", "[::1", "[::g]", "[::1]x",
        "a,b", "a%41", "-\u{e9}", ":80",
    ] {
        assert_eq!(h1("/", &[("host", host)]).unwrap_err(), "an invalid host", "{host:?}");
    }
    assert_eq!(h1("/", &[("host", &"a".repeat(256))]).unwrap_err(), "an invalid host");
    for (host, name, port) in [
        ("example.org", "example.org", None),
        ("Example.ORG:8080", "example.org", Some(8080)),
        ("example.org.", "example.org", None),
        ("example.org.:80", "example.org", Some(80)),
        ("a_b:", "a_b", None),
        ("127.0.0.1:1", "127.0.0.1", Some(1)),
        ("[2001:DB8::1]:443", "[2001:db8::1]", Some(443)),
        ("[::1]", "[::1]", None),
    ] {
        let normalized = h1("/", &[("host", host)]).unwrap();
        assert_eq!((normalized.host(), normalized.port()), (name, port), "{host}");
        assert_eq!(normalized.authority().unwrap(), host);
        assert!(!normalized.rewrites_host());
    }
}

#[test]
fn http10_may_do_without_host() {
    let normalized = check(&parts(Version::HTTP_10, "GET", "/", &[]), CHECKS).unwrap();
    assert_eq!((normalized.host(), normalized.authority()), ("", None));
    assert!(check(&parts(Version::HTTP_10, "GET", "/", &[("host", "a"), ("host", "b")]), CHECKS).is_err());
}

#[test]
fn the_absolute_form_wins_over_host() {
    let normalized = h1("http://Real.example:81/x", &[("host", "other.example")]).unwrap();
    assert_eq!(normalized.host(), "real.example");
    assert_eq!(normalized.port(), Some(81));
    assert_eq!(normalized.authority().unwrap(), "Real.example:81");
    assert!(normalized.rewrites_host());
    assert!(!h1("http://a/x", &[("host", "a")]).unwrap().rewrites_host());
    assert_eq!(h1("http://a/", &[]).unwrap_err(), "no Host");
    assert_eq!(h1("http://a/", &[("host", "b c")]).unwrap_err(), "an invalid host");
    assert_eq!(h1("http://u:p@a/", &[("host", "a")]).unwrap_err(), "an invalid host");
    assert_eq!(
        h1("ftp://a/", &[("host", "a")]).unwrap_err(),
        "a request target with a scheme other than http and https"
    );
    assert_eq!(h1("a:80", &[("host", "a")]).unwrap_err(), "a request target without a path");
}

#[test]
fn authority_and_host_agree_on_http2_and_http3() {
    assert_eq!(h2("https://a.example/", &[]).unwrap().host(), "a.example");
    assert!(h2("https://a.example/", &[]).unwrap().rewrites_host());
    assert_eq!(h2("https://a.example/", &[("host", "A.example")]).unwrap().host(), "a.example");
    assert_eq!(h2("https://a.example/", &[("host", "b.example")]).unwrap_err(), ":authority and Host differ");
    assert_eq!(h2("https://a/", &[("host", "a"), ("host", "a")]).unwrap_err(), "more than one Host");
    assert_eq!(h2("https://u@a/", &[]).unwrap_err(), "an invalid host");
    assert_eq!(h2("/", &[("host", "a")]).unwrap().host(), "a");
    assert_eq!(h2("/", &[]).unwrap_err(), "no Host");
    for name in ["connection", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(h2("https://a/", &[(name, "x")]).unwrap_err(), "a connection-specific header field");
    }
    assert_eq!(
        h2("https://a/", &[("transfer-encoding", "chunked")]).unwrap_err(),
        "a connection-specific header field"
    );
}

#[test]
fn framing_is_read_in_one_way() {
    let with = |fields: &[(&str, &str)]| h1("/", &[&[("host", "a")], fields].concat()).map(drop);
    assert_eq!(with(&[("transfer-encoding", "Chunked")]), Ok(()));
    assert_eq!(with(&[("content-length", "5"), ("content-length", "5")]), Ok(()));
    assert_eq!(with(&[("content-length", "5"), ("content-length", "6")]), Err(DIFFERING_LENGTHS.reason));
    assert_eq!(with(&[("content-length", "5, 5")]), Err(BAD_LENGTH.reason));
    assert_eq!(with(&[("content-length", "5"), ("transfer-encoding", "chunked")]), Err(LENGTH_AND_CODING.reason));
    assert_eq!(with(&[("transfer-encoding", "gzip, chunked")]), Err(BAD_CODING.reason));
    assert_eq!(with(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), Err(BAD_CODING.reason));
    let old = parts(Version::HTTP_10, "POST", "/", &[("transfer-encoding", "chunked")]);
    assert_eq!(check(&old, CHECKS).unwrap_err(), CODING_ON_1_0);
}

#[test]
fn methods_and_forms_go_together() {
    let ask = |method: &str, target: &str| check(&parts(Version::HTTP_11, method, target, &[("host", "a:1")]), CHECKS);
    assert!(ask("OPTIONS", "*").is_ok());
    assert_eq!(ask("GET", "*").unwrap_err().reason, "the target * without OPTIONS");
    assert_eq!(ask("CONNECT", "a:1").unwrap_err().kind, Kind::RequestNotImplemented);
    assert_eq!(ask("CONNECT", "/").unwrap_err().kind, Kind::RequestNotImplemented);
}

#[test]
fn an_extended_connect_has_a_whole_target_and_no_length() {
    let ask = |target: &str, fields: &[(&str, &str)]| {
        let mut head = parts(Version::HTTP_3, "CONNECT", target, fields);
        head.extensions.insert(hyper::ext::Protocol::from("websocket"));
        check(&head, CHECKS)
    };
    assert_eq!(ask("https://a:1/x", &[]).unwrap().host(), "a");
    assert_eq!(ask("/x", &[("host", "a")]).unwrap_err().kind, Kind::HttpRequestError);
    assert_eq!(ask("https://a/x", &[("content-length", "0")]).unwrap_err().kind, Kind::HttpRequestError);
    assert_eq!(ask("ws://a/x", &[]).unwrap_err().kind, Kind::HttpRequestError);
}

#[test]
fn more_fields_than_allowed_are_too_many() {
    let fields: Vec<(&str, &str)> = std::iter::once(("host", "a")).chain((0..8).map(|_| ("x", "y"))).collect();
    assert_eq!(h1("/", &fields).unwrap_err(), "too many header fields");
    assert!(h1("/", &fields[..8]).is_ok());
}

#[test]
fn routes_match_by_a_path_that_is_written_in_one_way() {
    let head = parts(Version::HTTP_11, "GET", "//x/%61?q=//%zz", &[("host", "a")]);
    assert_eq!(check(&head, CHECKS).unwrap().path(&head.uri), "/x/a");
    let head = parts(Version::HTTP_11, "GET", "/x", &[("host", "a")]);
    assert_eq!(check(&head, CHECKS).unwrap().path(&head.uri), "/x");
    assert_eq!(h1("/a/..%2fb", &[("host", "a")]).unwrap_err(), "a dot segment in the path");
}

proptest! {
    #[test]
    fn what_is_accepted_as_a_host_is_lowercase_ascii_without_a_port(host in "[a-cA-C0-1.:@\\[\\] _-]{0,10}") {
        if let Ok(value) = HeaderValue::from_str(&host)
            && let Ok(normalized) = effective(value)
        {
            let name = normalized.host();
            prop_assert!(!name.is_empty() && !name.ends_with('.'));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
            prop_assert!(name.starts_with('[') || !name.contains(':'));
            prop_assert!(host.to_ascii_lowercase().starts_with(name));
        }
    }
}
