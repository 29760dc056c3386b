use proptest::prelude::*;

use super::*;
use crate::http3::qpack::{Decoded, Decoder, Encoder, Field, Limits};
use crate::http3::{Error, Scope};

type Line<'a> = (&'a str, &'a str);

/// Through the encoder and the decoder, with the fields as they stand.
fn fill<S: Sink>(mut sink: S, lines: &[Line<'_>]) -> S {
    let (mut block, mut instructions) = (Vec::new(), Vec::new());
    let fields =
        lines.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: false });
    Encoder::new().encode(0, fields, u64::MAX, &mut block, &mut instructions).unwrap();
    let limits = Limits { max_size: u64::MAX, max_fields: usize::MAX };
    Decoder::new(0, 0).decode(0, &block, limits, &mut sink).unwrap();
    sink
}

fn request(lines: &[Line<'_>]) -> Result<Head<request::Parts>, &'static str> {
    fill(RequestHead::default(), lines).finish(true).map_err(reason)
}

fn response(lines: &[Line<'_>]) -> Result<Head<response::Parts>, &'static str> {
    fill(ResponseHead::default(), lines).finish().map_err(reason)
}

fn trailers(lines: &[Line<'_>]) -> Result<HeaderMap, &'static str> {
    fill(Trailers::default(), lines).finish().map_err(reason)
}

/// RFC 9114 §4.1.2: a malformed message is an error of its stream, of this code.
fn reason(error: Error) -> &'static str {
    assert_eq!((error.code(), error.scope()), (Code::MESSAGE_ERROR, Scope::Stream));
    error.reason()
}

const GET: [Line<'static>; 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/x?y")];

/// GET with other lines: one of the same name is replaced, one without value taken out, others come behind.
fn get_with(lines: &[Line<'_>]) -> Result<Head<request::Parts>, &'static str> {
    let mut all = Vec::new();
    for (name, value) in GET {
        match lines.iter().find(|line| line.0 == name) {
            Some(&(_, "-")) => {}
            Some(&line) => all.push(line),
            None => all.push((name, value)),
        }
    }
    all.extend(lines.iter().filter(|line| GET.iter().all(|(name, _)| *name != line.0)));
    request(&all)
}

#[test]
fn a_request_as_it_should_be() {
    let head =
        get_with(&[("content-length", "5"), ("x-a", "1"), ("x-a", "2"), ("te", "trailers"), ("cookie", "")]).unwrap();
    assert_eq!(head.content_length, Some(5));
    let parts = head.parts;
    assert_eq!((parts.method, parts.version), (Method::GET, Version::HTTP_3));
    assert_eq!(parts.uri, "https://a.example/x?y");
    let values: Vec<_> = parts.headers.get_all("x-a").iter().collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(parts.headers.len(), 5);
    // Without :authority, Host says it: that it is there is judged by `proxy::normalize`.
    let parts = get_with(&[(":authority", "-"), ("host", "b")]).unwrap().parts;
    assert_eq!((parts.uri.to_string().as_str(), parts.headers["host"].as_bytes()), ("/x?y", &b"b"[..]));
    assert_eq!(get_with(&[(":method", "OPTIONS"), (":path", "*")]).unwrap().parts.uri.path(), "*");
    // The order among them is free.
    let mut lines = GET;
    lines.reverse();
    assert!(request(&lines).is_ok());
}

#[test]
fn pseudo_header_fields_of_requests() {
    for name in [":method", ":scheme", ":path"] {
        assert!(get_with(&[(name, "-")]).unwrap_err().starts_with("a request without"), "{name}");
    }
    for twice in GET {
        let lines: Vec<_> = GET.into_iter().chain([twice]).collect();
        assert_eq!(request(&lines).unwrap_err(), "a pseudo-header field given twice", "{twice:?}");
        let lines: Vec<_> = [("accept", "*/*")].into_iter().chain(GET).collect();
        assert_eq!(request(&lines).unwrap_err(), "a pseudo-header field behind others");
    }
    assert_eq!(get_with(&[(":status", "200")]).unwrap_err(), "a response's pseudo-header field in a request");
    for name in [":host", ":", ":Path", ":method "] {
        assert_eq!(get_with(&[(name, "x")]).unwrap_err(), "an unknown pseudo-header field", "{name}");
    }
    for (name, values) in [
        (":method", &["", "G T", "GET\r", "G\u{e9}T"][..]),
        (":scheme", &["", "ht tp", "1http", "https:"]),
        (":authority", &["", "a b", "a/b", "a?b", "a#b"]),
        (":path", &["", "x", "?x", "#", "/#x", "/a b", "/a\r\nb", "/\0", "http://a/"]),
    ] {
        for value in values {
            assert!(get_with(&[(name, value)]).is_err(), "{name} {value:?}");
        }
    }
    assert_eq!(get_with(&[(":path", "*")]).unwrap_err(), "the :path * without OPTIONS");
    assert_eq!(request(&[]).unwrap_err(), "a request without :method");
}

#[test]
fn connect_and_extended_connect() {
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let parts = request(&connect).unwrap().parts;
    assert_eq!((parts.uri.to_string().as_str(), parts.uri.path_and_query()), ("a:443", None));
    assert_eq!(request(&connect[..1]).unwrap_err(), "CONNECT without :authority");
    for more in [(":scheme", "https"), (":path", "/")] {
        assert_eq!(request(&[connect[0], connect[1], more]).unwrap_err(), "CONNECT with :scheme or :path");
    }
    let extended = [(":method", "CONNECT"), (":protocol", "websocket")];
    let parts = get_with(&extended).unwrap().parts;
    assert_eq!(parts.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
    assert_eq!(parts.uri, "https://a.example/x?y");
    for name in [":scheme", ":path"] {
        assert!(get_with(&[extended[0], extended[1], (name, "-")]).is_err(), "{name}");
    }
    let without = get_with(&[extended[0], extended[1], (":authority", "-")]);
    assert_eq!(without.unwrap_err(), "extended CONNECT without :authority");
    assert_eq!(get_with(&extended[1..]).unwrap_err(), ":protocol without CONNECT");
    for protocol in ["", "web socket", "web\u{e9}"] {
        assert_eq!(get_with(&[extended[0], (":protocol", protocol)]).unwrap_err(), "an invalid :protocol");
    }
    let lines: Vec<_> = extended.into_iter().chain(GET.into_iter().skip(1)).collect();
    let not_offered = fill(RequestHead::default(), &lines).finish(false).map_err(reason);
    assert_eq!(not_offered.unwrap_err(), "extended CONNECT that was not offered");
}

#[test]
fn fields_that_no_message_may_have() {
    let ok = |line| {
        let of_request = get_with(&[line]).map(drop);
        assert_eq!(response(&[(":status", "200"), line]).map(drop), of_request, "{line:?}");
        assert_eq!(trailers(&[line]).map(drop), of_request, "{line:?}");
        of_request
    };
    for name in ["Accept", "x-A", "", "a b", "a:", "a\u{e9}", "a\0", "x(y)"] {
        assert_eq!(ok((name, "x")), Err("an invalid field name"), "{name:?}");
    }
    for value in ["a\rb", "a\nb", "a\0b", "a\u{7f}", "\u{1}"] {
        assert_eq!(ok(("x-a", value)), Err("an invalid field value"), "{value:?}");
        assert_eq!(ok(("accept", value)), Err("an invalid field value"), "{value:?}");
    }
    for value in ["", "a b\tc", "\u{e9}"] {
        assert_eq!(ok(("x-a", value)), Ok(()), "{value:?}");
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert_eq!(ok((name, "x")), Err(CONNECTION_SPECIFIC), "{name}");
    }
    assert_eq!(ok(("te", "trailers")), Ok(()));
    for value in ["", "gzip", "trailers, gzip"] {
        assert_eq!(ok(("te", value)), Err("TE with more than trailers"), "{value}");
    }
    for value in ["", "a", "-1", "+1", "1, 1", " 1", "18446744073709551616"] {
        assert_eq!(ok(("content-length", value)), Err("a Content-Length that is no number"), "{value:?}");
    }
    let twice = |first, second| get_with(&[("content-length", first), ("content-length", second)]);
    assert_eq!(twice("5", "6").unwrap_err(), "differing Content-Length");
    let head = twice("5", "5").unwrap();
    assert_eq!((head.content_length, head.parts.headers.len()), (Some(5), 1));
    assert_eq!(get_with(&[("content-length", "18446744073709551615")]).unwrap().content_length, Some(u64::MAX));
}

#[test]
fn responses() {
    let head = response(&[(":status", "404"), ("content-length", "0"), ("server", "x")]).unwrap();
    assert_eq!((head.parts.status, head.content_length), (StatusCode::NOT_FOUND, Some(0)));
    assert_eq!((head.parts.version, head.parts.headers.len()), (Version::HTTP_3, 2));
    assert_eq!(response(&[(":status", "103")]).unwrap().parts.status, 103);
    assert_eq!(response(&[(":status", "101")]).unwrap_err(), "101 on HTTP/3");
    assert_eq!(response(&[("server", "x")]).unwrap_err(), "a response without :status");
    assert_eq!(response(&[]).unwrap_err(), "a response without :status");
    for status in ["", "20", "2000", "099", "2x0", "+20", " 200"] {
        assert_eq!(response(&[(":status", status)]).unwrap_err(), "an invalid :status", "{status:?}");
    }
    assert_eq!(response(&[(":status", "200"), (":status", "200")]).unwrap_err(), "a pseudo-header field given twice");
    assert_eq!(response(&[("server", "x"), (":status", "200")]).unwrap_err(), "a pseudo-header field behind others");
    for (name, value) in GET {
        let reason = response(&[(":status", "200"), (name, value)]).unwrap_err();
        assert_eq!(reason, "a request's pseudo-header field in a response", "{name}");
    }
}

#[test]
fn trailers_have_no_pseudo_header_fields() {
    assert_eq!(trailers(&[("grpc-status", "0"), ("x-a", "b")]).unwrap().len(), 2);
    assert_eq!(trailers(&[]).unwrap().len(), 0);
    for (name, value) in GET.into_iter().chain([(":status", "200"), (":protocol", "x")]) {
        assert_eq!(trailers(&[(name, value)]).unwrap_err(), "a pseudo-header field in trailers", "{name}");
    }
}

#[test]
fn malformed_fields_may_be_in_the_table_but_not_in_a_message() {
    let mut decoder = Decoder::new(220, 0);
    // A name in uppercase, a value with a line end, and a pseudo-header field that nobody knows.
    decoder.on_encoder_bytes(b"\x3f\xbd\x01\x41X\x01b\x41x\x01\n\x42:x\x01b").unwrap();
    let limits = Limits { max_size: 1000, max_fields: 10 };
    for (index, reason) in ["an invalid field name", "an invalid field value", "an unknown pseudo-header field"]
        .into_iter()
        .rev()
        .enumerate()
    {
        let mut sink = Trailers::default();
        let block = [4, 0, 0x80 | index as u8];
        assert_eq!(decoder.decode(0, &block, limits, &mut sink), Ok(Decoded::Refused));
        assert_eq!(sink.finish().unwrap_err().reason(), reason);
    }
}

fn lines(fields: impl Iterator<Item = Field<'static>>) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    fields.map(|field| format!("{}={}", text(field.name), text(field.value))).collect()
}

fn sent(request: http::request::Builder) -> Vec<String> {
    let head = Box::leak(Box::new(request.body(()).unwrap().into_parts().0));
    lines(request_fields(head))
}

#[test]
fn what_is_sent() {
    let builder = || Request::builder().uri("https://a.example/x?y");
    let request = builder().header("host", "other").header("te", "trailers").header("x-a", "b");
    let pseudo = [":method=GET", ":scheme=https", ":authority=a.example", ":path=/x?y"];
    assert_eq!(sent(request), [&pseudo[..], &["te=trailers", "x-a=b"]].concat());
    let hop_by_hop = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];
    let request = hop_by_hop.into_iter().fold(builder(), |request, name| request.header(name, "x"));
    assert_eq!(sent(request), pseudo);
    let of_host = sent(Request::builder().uri("/x").header("host", "b"));
    assert_eq!(of_host, [":method=GET", ":scheme=https", ":authority=b", ":path=/x"]);
    let of_all = sent(Request::builder().method("OPTIONS").uri("*").header("host", "b"));
    assert_eq!(of_all, [":method=OPTIONS", ":scheme=https", ":authority=b", ":path=*"]);
    assert_eq!(sent(Request::builder().method("CONNECT").uri("a:443")), [":method=CONNECT", ":authority=a:443"]);
    let extended = builder().method("CONNECT").extension(Protocol::from_static("websocket"));
    let expected = [":method=CONNECT", ":scheme=https", ":authority=a.example", ":path=/x?y", ":protocol=websocket"];
    assert_eq!(sent(extended), expected);
    let headers = Box::leak(Box::new(HeaderMap::new()));
    headers.insert("upgrade", HeaderValue::from_static("x"));
    headers.insert("age", HeaderValue::from_static("1"));
    assert_eq!(lines(response_fields(&StatusCode::OK, headers)), [":status=200", "age=1"]);
    assert_eq!(lines(trailer_fields(headers)), ["age=1"]);
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_sent(
        method in "(GET|POST|X-Y|OPTIONS)", path in "/[a-z%?=&]{0,20}", host in "[a-z]{1,9}(:80)?",
        fields in proptest::collection::vec(("[a-z-]{1,8}", "[ -~]{0,12}"), 0..12), https: bool,
    ) {
        let scheme = if https { "https" } else { "http" };
        let mut builder = Request::builder().method(method.as_str()).uri(format!("{scheme}://{host}{path}"));
        let of_its_own = ["host", "te", "upgrade", "connection"];
        for (name, value) in fields.iter().filter(|(name, _)| !of_its_own.contains(&name.as_str())) {
            builder = builder.header(name, value);
        }
        let (head, ()) = builder.version(Version::HTTP_3).body(()).unwrap().into_parts();
        let (mut block, mut instructions) = (Vec::new(), Vec::new());
        Encoder::new().encode(0, request_fields(&head), u64::MAX, &mut block, &mut instructions).unwrap();
        let mut sink = RequestHead::default();
        let limits = Limits { max_size: u64::MAX, max_fields: usize::MAX };
        Decoder::new(0, 0).decode(0, &block, limits, &mut sink).unwrap();
        let parts = sink.finish(false).map_err(|error| error.reason()).unwrap().parts;
        prop_assert_eq!(parts.method, head.method);
        prop_assert_eq!(parts.uri, head.uri);
        prop_assert_eq!(parts.headers, head.headers);
    }
}
