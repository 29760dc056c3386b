use proptest::prelude::*;

use super::scan::TOKEN;
use super::*;

const LIMITS: Limits = Limits { max_head_bytes: 300, max_fields: 8 };

/// What the I/O wrapper does: keeps back what is not released and feeds it again, first alone, then with more.
fn run(wire: &mut Wire, pieces: &[&[u8]]) -> (Vec<u8>, Option<Refusal>) {
    let (mut released, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        while !kept.is_empty() {
            match wire.feed(&kept) {
                Fed::Release(0) => break,
                Fed::Release(length) => released.extend(kept.drain(..length)),
                Fed::Refuse(refusal) => return (released, Some(refusal)),
            }
        }
    }
    (released, None)
}

fn refusal_of(head: &str) -> Option<&'static str> {
    let mut wire = Wire::new(LIMITS);
    let (released, refusal) = run(&mut wire, &[head.as_bytes()]);
    assert_eq!(refusal.is_none(), released.len() == head.len(), "{head:?} {refusal:?}");
    refusal.map(|refusal| refusal.reason)
}

#[test]
fn releases_a_plain_request_whole() {
    let head = b"GET /a?b HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nX-Empty:\r\n\r\n";
    let mut wire = Wire::new(LIMITS);
    assert!(wire.at_boundary() && !wire.head_in_progress());
    assert_eq!(wire.feed(&head[..20]), Fed::Release(0));
    assert!(!wire.at_boundary() && wire.head_in_progress());
    assert_eq!(wire.feed(head), Fed::Release(head.len()));
    assert!(wire.at_boundary() && !wire.head_in_progress() && !wire.is_switch_undecided());
}

#[test]
fn refuses_what_can_be_read_in_two_ways() {
    let post = |fields: &str| refusal_of(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(post(""), None);
    assert_eq!(post("Content-Length: 0\r\ncontent-length:\t0 \r\n"), None);
    assert_eq!(post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), Some(LENGTH_AND_CODING.reason));
    assert_eq!(post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), Some(LENGTH_AND_CODING.reason));
    for coding in
        ["gzip", "gzip, chunked", "chunked, chunked", "chunked, identity", "xchunked", "", "chunked;a", "\"chunked\""]
    {
        assert_eq!(post(&format!("Transfer-Encoding: {coding}\r\n")), Some(BAD_CODING.reason), "{coding}");
    }
    assert_eq!(post("transfer-encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Some(BAD_CODING.reason));
    assert_eq!(post("Content-Length: 1\r\nContent-Length: 2\r\n"), Some(DIFFERING_LENGTHS.reason));
    for length in ["", "+1", "-1", "1 1", "1, 1", "0x1", "1_0", "9223372036854775808", "99999999999999999999999"] {
        assert_eq!(post(&format!("Content-Length: {length}\r\n")), Some(BAD_LENGTH.reason), "{length}");
    }
    assert_eq!(
        refusal_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Some("Transfer-Encoding on HTTP/1.0")
    );
}

#[test]
fn refuses_loose_syntax() {
    for (head, reason) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "a line of the head ends without CR"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "a line of the head ends without CR"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", "a line of the head ends without CR"),
        ("\nGET / HTTP/1.1\r\n\r\n", "a line of the head ends without CR"),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "a folded header line"),
        ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", "a folded header line"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "whitespace before the colon of a header field"),
        ("GET / HTTP/1.1\r\n: a\r\n\r\n", "a header field without a valid name"),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", "a header field without a valid name"),
        ("GET / HTTP/1.1\r\nHo(st: a\r\n\r\n", "a header field without a valid name"),
        ("GET / HTTP/1.1\r\nH\0st: a\r\n\r\n", "a header field without a valid name"),
        ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", "a control character in a header field"),
        ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "a control character in a header field"),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "a control character in a header field"),
        ("GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", "a control character in a header field"),
        ("GET  / HTTP/1.1\r\n\r\n", "the request target contains an invalid character"),
        ("GET /  HTTP/1.1\r\n\r\n", "the request line does not end in HTTP/1.1 or HTTP/1.0"),
        ("GET /a b HTTP/1.1\r\n\r\n", "the request line does not end in HTTP/1.1 or HTTP/1.0"),
        ("GET /a#b HTTP/1.1\r\n\r\n", "the request target contains an invalid character"),
        ("GET /a\\b HTTP/1.1\r\n\r\n", "the request target contains an invalid character"),
        ("GET /\x01 HTTP/1.1\r\n\r\n", "the request target contains an invalid character"),
        ("GET  HTTP/1.1\r\n\r\n", "the request target contains an invalid character"),
        ("GET HTTP/1.1\r\n\r\n", "the request line is not complete"),
        ("GET\r\n\r\n", "the request line does not begin with a method"),
        (" GET / HTTP/1.1\r\n\r\n", "the request line does not begin with a method"),
        ("G@T / HTTP/1.1\r\n\r\n", "the request line does not begin with a method"),
        ("GET / HTTP/1.2\r\n\r\n", "the request line does not end in HTTP/1.1 or HTTP/1.0"),
        ("GET / http/1.1\r\n\r\n", "the request line does not end in HTTP/1.1 or HTTP/1.0"),
        ("PRI * HTTP/2.0\r\n\r\n", "the request line does not end in HTTP/1.1 or HTTP/1.0"),
        ("GET /\r\n\r\n", "the request line is not complete"),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", "empty lines before the request line"),
    ] {
        assert_eq!(refusal_of(head), Some(reason), "{head:?}");
    }
    assert_eq!(refusal_of("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), None);
    assert_eq!(refusal_of("M-SEARCH * HTTP/1.1\r\nX: caf\u{e9}\r\n\r\n"), None);
}

#[test]
fn refuses_garbage_without_waiting_for_a_line() {
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"\r\r", b"\0", b"GE(", b"{\"a\"", b"GET /\x01"] {
        assert!(matches!(Wire::new(LIMITS).feed(garbage), Fed::Refuse(_)), "{garbage:?}");
    }
    for start in [&b"G"[..], b"\r", b"PROPFIND", b"GET ", b"GET /x HTT", b"GET / HTTP/1.1\r"] {
        assert_eq!(Wire::new(LIMITS).feed(start), Fed::Release(0), "{start:?}");
    }
}

#[test]
fn holds_heads_to_their_limits() {
    let head = |value: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(value));
    let exact = LIMITS.max_head_bytes - head(0).len();
    assert_eq!(refusal_of(&head(exact)), None);
    assert_eq!(refusal_of(&head(exact + 1)), Some(HEAD_TOO_LARGE.reason));
    let endless = "x".repeat(LIMITS.max_head_bytes);
    assert_eq!(refusal_of(&endless), Some(HEAD_TOO_LARGE.reason));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(refusal_of(&fields(LIMITS.max_fields)), None);
    assert_eq!(refusal_of(&fields(LIMITS.max_fields + 1)), Some("too many header fields"));
}

#[test]
fn releases_what_came_before_a_refused_head() {
    let good = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab";
    let mut wire = Wire::new(LIMITS);
    let bytes = [&good[..], b"GET / HTTP/9\r\n\r\n"].concat();
    assert_eq!(wire.feed(&bytes), Fed::Release(good.len()));
    assert!(matches!(wire.feed(&bytes[good.len()..]), Fed::Refuse(_)));
}

#[test]
fn follows_bodies_to_the_next_head() {
    let stream = b"POST /1 HTTP/1.1\r\nContent-Length: 26\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\
        POST /2 HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
        5;a=\"b\"\r\nhello\r\n1A \r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\n\
        GET /3 HTTP/1.1\r\n\r\n";
    for cut in 0..stream.len() {
        let mut wire = Wire::new(LIMITS);
        let (released, refusal) = run(&mut wire, &[&stream[..cut], &stream[cut..]]);
        assert_eq!((released.len(), refusal), (stream.len(), None), "{cut}");
    }
}

#[test]
fn lets_hyper_fail_on_the_byte_that_breaks_a_chunk() {
    let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, good) in [
        ("xyz", 1),
        ("5\nhello", 2),
        ("5;a\nhello", 4),
        ("5\r\nhellox0\r\n\r\n", 9),
        ("ffffffffffffffff1\r\n", 17),
        ("0\r\na: b\rxy", 9),
        // These two only we fail on.
        ("0\r\na: b\n\r\nGET ", 8),
        ("0\r\n\nGET ", 4),
        ("-1\r\n", 1),
        ("5 5\r\nhello", 3),
    ] {
        let mut wire = Wire::new(LIMITS);
        let (released, refusal) = run(&mut wire, &[head, body.as_bytes()]);
        assert_eq!((released.len() - head.len(), refusal), (good, Some(BAD_CHUNK)), "{body}");
    }
}

#[test]
fn keeps_back_what_may_belong_to_another_protocol() {
    let head = b"GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let eager = b"\x81\x05hello";
    let mut switched = Wire::new(LIMITS);
    assert_eq!(switched.feed(&[&head[..], eager].concat()), Fed::Release(head.len()));
    assert!(switched.is_switch_undecided());
    assert_eq!(switched.feed(eager), Fed::Release(0));
    let mut stayed = switched.clone();
    switched.tunnel();
    assert_eq!(switched.feed(eager), Fed::Release(eager.len()));
    stayed.stay();
    assert!(matches!(stayed.feed(eager), Fed::Refuse(_)));
    let mut flooded = Wire::new(LIMITS);
    flooded.feed(head);
    assert!(matches!(flooded.feed(&[0x81; 300]), Fed::Refuse(_)));
    for (head, undecided) in [
        ("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\n", false),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", true),
    ] {
        let mut wire = Wire::new(LIMITS);
        assert_eq!(wire.feed(head.as_bytes()), Fed::Release(head.len()));
        assert_eq!(wire.is_switch_undecided(), undecided, "{head}");
    }
}

/// How many heads are let through, counted by feeding single bytes.
fn heads_in(stream: &[u8]) -> usize {
    let mut wire = Wire::new(LIMITS);
    let mut kept = Vec::new();
    let mut heads = 0;
    for byte in stream {
        kept.push(*byte);
        let in_body = wire.body_in_progress();
        match wire.feed(&kept) {
            Fed::Release(0) => {}
            Fed::Release(length) => {
                heads += usize::from(!in_body);
                kept.drain(..length);
            }
            Fed::Refuse(_) => break,
        }
    }
    heads
}

/// How many requests hyper finds in what is let through, reading every body to its end.
fn requests_in(released: Vec<u8>) -> usize {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::rc::Rc;

    use http_body_util::{BodyExt, Empty};

    let count = Rc::new(Cell::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let io = hyper_util::rt::TokioIo::new(tokio::io::join(std::io::Cursor::new(released), tokio::io::sink()));
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            count.set(count.get() + 1);
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(io, service).await;
    });
    count.get()
}

/// Pieces that make heads, good and bad ones, and bodies.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => Just(&b"GET / HTTP/1.1\r\n"[..]),
        2 => Just(&b"POST /x?y HTTP/1.1\r\n"[..]),
        1 => Just(&b"GET http://a/ HTTP/1.0\r\n"[..]),
        6 => Just(&b"Host: a\r\n"[..]),
        12 => Just(&b"\r\n"[..]),
        3 => Just(&b"Content-Length: 3\r\n"[..]),
        1 => Just(&b"content-length:0\r\n"[..]),
        3 => Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        1 => Just(&b"Transfer-Encoding: gzip, chunked\r\n"[..]),
        2 => Just(&b"abc"[..]),
        2 => Just(&b"3\r\nabc\r\n"[..]),
        2 => Just(&b"0\r\n\r\n"[..]),
        1 => Just(&b"a;x=y \r\n"[..]),
        1 => Just(&b"0\r\nt: u\r\n\r\n"[..]),
        2 => Just(&b"GET / HTTP/1.1\r\n\r\n"[..]),
        2 => Just(&b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..]),
        2 => Just(&b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"[..]),
        1 => Just(&b"X-Y:  \xe9 b \t\r\n"[..]),
        1 => Just(&b"\n"[..]),
        1 => Just(&b"\r"[..]),
        1 => Just(&b" "[..]),
        1 => Just(&b"\0"[..]),
        1 => Just(&b":"[..]),
        1 => Just(&b"Upgrade: x\r\n"[..]),
    ];
    prop::collection::vec(piece, 1..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_matter(stream in stream(), cuts in prop::collection::vec(1usize..40, 1..8)) {
        let whole = run(&mut Wire::new(LIMITS), &[&stream]);
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(run(&mut Wire::new(LIMITS), &pieces).0, whole.0.clone());
        for cut in 0..stream.len() {
            let (released, refusal) = run(&mut Wire::new(LIMITS), &[&stream[..cut], &stream[cut..]]);
            prop_assert_eq!(&released, &whole.0, "cut at {}", cut);
            prop_assert_eq!(refusal.is_some(), whole.1.is_some(), "cut at {}", cut);
        }
    }

    #[test]
    fn reads_heads_as_httparse_does(stream in stream()) {
        let mut wire = Wire::new(LIMITS);
        if let Ok(Some(length)) = wire.scan_head(&stream) {
            let mut fields = [httparse::EMPTY_HEADER; LIMITS.max_fields];
            let mut request = httparse::Request::new(&mut fields);
            let status = request.parse(&stream);
            prop_assert_eq!(status, Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(request.headers.len(), wire.head.fields);
            prop_assert_eq!(request.version == Some(0), wire.head.is_1_0);
            let has = |name: &str| request.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
            prop_assert_eq!(has("content-length"), wire.head.length.is_some());
            prop_assert_eq!(has("transfer-encoding"), wire.head.is_chunked);
            prop_assert_eq!(has("upgrade"), wire.head.asks_upgrade);
        }
    }

    #[test]
    fn counts_the_requests_that_hyper_finds(stream in stream()) {
        let (released, _) = run(&mut Wire::new(LIMITS), &[&stream]);
        // Behind an HTTP/1.0 request hyper reads no other.
        prop_assume!(!released.windows(8).any(|window| window == b"HTTP/1.0"));
        let heads = heads_in(&stream);
        prop_assert_eq!(requests_in(released), heads);
    }

    #[test]
    fn reads_eight_bytes_as_eight_times_one(bytes in prop::collection::vec(
        prop_oneof![Just(b'a'), Just(b'-'), Just(b' '), Just(b'\t'), any::<u8>()], 0..40,
    )) {
        let before = |is_end: &dyn Fn(u8) -> bool| bytes.iter().position(|byte| is_end(*byte)).unwrap_or(bytes.len());
        prop_assert_eq!(token_length(&bytes), before(&|byte| !TOKEN[usize::from(byte)]));
        prop_assert_eq!(text_length(&bytes), before(&|byte| byte < b' ' || byte == 0x7f));
        let is_outside = |byte| byte <= b' ' || matches!(byte, 0x7f | b'#' | b'\\');
        prop_assert_eq!(target_length(&bytes), before(&is_outside));
    }

    #[test]
    fn never_panics(stream in prop::collection::vec(any::<u8>(), 0..400)) {
        let (released, _) = run(&mut Wire::new(LIMITS), &[&stream]);
        prop_assert!(stream.starts_with(&released));
    }
}
