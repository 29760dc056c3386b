//! Whatever fields a message has: what is accepted as a request, a response or trailers has nothing that may not be there,
//! and is the same when it is sent on.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use tidegate::http3::message::{RequestHead, ResponseHead, Trailers, request_fields};
use tidegate::http3::qpack::{Decoder, Encoder, Field, Limits, Sink};

const LIMITS: Limits = Limits { max_size: u64::MAX, max_fields: usize::MAX };

fuzz_target!(|fields: Vec<(u8, &[u8], &[u8])>| {
    // Names that mean something are rarely guessed.
    let names = [
        &b":method"[..],
        b":scheme",
        b":authority",
        b":path",
        b":protocol",
        b":status",
        b"content-length",
        b"te",
        b"host",
    ];
    let fields: Vec<(&[u8], &[u8])> = fields
        .into_iter()
        .map(|(which, name, value)| (names.get(usize::from(which)).copied().unwrap_or(name), value))
        .collect();
    let lines = || fields.iter().map(|&(name, value)| Field { name, value, is_sensitive: false });
    let pseudo: Vec<_> = fields.iter().take_while(|field| field.0.starts_with(b":")).collect();
    let is_in_order = fields[pseudo.len()..].iter().all(|field| !field.0.starts_with(b":"));
    let has = |name: &str| pseudo.iter().any(|field| field.0 == name.as_bytes());
    let mut names: Vec<_> = pseudo.iter().map(|field| field.0).collect();
    names.sort_unstable();
    names.dedup();
    if let Ok(head) = read(RequestHead::default(), lines()).finish(true) {
        assert!(is_in_order && names.len() == pseudo.len() && has(":method") && !has(":status"));
        let lengths = fields.iter().filter(|field| field.0 == b"content-length").count();
        assert_eq!(head.parts.headers.len(), fields.len() - pseudo.len() - lengths.saturating_sub(1));
        check(&head.parts.headers);
        let is_tunnel = head.parts.method == Method::CONNECT && !has(":protocol");
        assert_eq!((has(":scheme"), has(":path")), (!is_tunnel, !is_tunnel));
        assert!(head.parts.uri.path_and_query().is_none_or(|path| path == "*" || path.as_str().starts_with('/')));
        let mut again =
            read(RequestHead::default(), request_fields(&head.parts)).finish(true).expect("what was sent on");
        assert_eq!(again.parts.method, head.parts.method);
        if has(":authority") {
            assert_eq!(again.parts.uri, head.parts.uri);
        }
        let mut expected = head.parts.headers;
        expected.remove("host");
        again.parts.headers.remove("host");
        assert_eq!(again.parts.headers, expected);
    }
    if let Ok(head) = read(ResponseHead::default(), lines()).finish() {
        assert!(is_in_order && pseudo.len() == 1 && has(":status") && head.parts.status != 101);
        check(&head.parts.headers);
    }
    if let Ok(trailers) = read(Trailers::default(), lines()).finish() {
        assert!(pseudo.is_empty() && is_in_order);
        check(&trailers);
    }
});

fn read<'a, S: Sink>(mut sink: S, fields: impl Iterator<Item = Field<'a>>) -> S {
    let (mut block, mut instructions) = (Vec::new(), Vec::new());
    Encoder::new().encode(0, fields, u64::MAX, &mut block, &mut instructions).expect("there is no limit");
    Decoder::new(0, 0).decode(0, &block, LIMITS, &mut sink).expect("a valid block");
    sink
}

fn check(headers: &HeaderMap) {
    for (name, value) in headers {
        let name = name.as_str();
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!(!name.contains(':'));
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let of_connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
        assert!(!of_connection.contains(&name));
        assert!(name != "te" || value.as_bytes().eq_ignore_ascii_case(b"trailers"));
        assert!(name != "content-length" || value.as_bytes().iter().all(u8::is_ascii_digit));
    }
}
