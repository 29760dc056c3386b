//! A byte stream as a client sends it, cut in two at any place: the cut changes nothing, what is let through is read
//! by httparse in the same way, and what the parsed checks accept has one authority and one path.
#![no_main]

use http::{Request, Version};
use libfuzzer_sys::fuzz_target;
use tidegate::protocol::wire::{Fed, Limits, Wire};
use tidegate::proxy::normalize::{Checks, check};

const LIMITS: Limits = Limits { max_head_bytes: 4096, max_fields: 64 };

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, stream) = input;
    let (now, later) = stream.split_at(usize::from(cut).min(stream.len()));
    let (released, refused) = run(&[stream]);
    let (released_cut, refused_cut) = run(&[now, later]);
    assert_eq!(released_cut, released);
    // The end of a long line that came in pieces is waited for before it is judged.
    assert!(refused || !refused_cut);
    assert!(stream.starts_with(&released));
    first_request(&released);
});

/// What the I/O wrapper does: keeps back what is not released and feeds it again.
fn run(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut wire = Wire::new(LIMITS);
    let (mut released, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        while !kept.is_empty() {
            match wire.feed(&kept) {
                Fed::Release(0) => break,
                Fed::Release(length) => released.extend(kept.drain(..length)),
                Fed::Refuse(_) => return (released, true),
            }
        }
    }
    (released, false)
}

/// The first request of what was let through, as hyper would see it.
fn first_request(released: &[u8]) {
    if released.is_empty() {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.max_fields];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(released) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => panic!("let through a head that is not whole"),
        // httparse wants UTF-8 in the target; hyper answers 400 then.
        Err(httparse::Error::Token) => return,
        Err(error) => panic!("let through what httparse refuses: {error}"),
    }
    let count = |name: &str| parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    assert!(count("transfer-encoding") <= 1);
    assert!(count("transfer-encoding") == 0 || (count("content-length") == 0 && parsed.version == Some(1)));
    let mut builder = Request::builder()
        .method(parsed.method.unwrap_or_default())
        .uri(parsed.path.unwrap_or_default())
        .version(if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 });
    for field in parsed.headers.iter() {
        builder = builder.header(field.name, field.value);
    }
    // hyper answers 400 where a URI, name or value is none.
    let Ok(request) = builder.body(()) else { return };
    let (mut head, ()) = request.into_parts();
    for version in [head.version, Version::HTTP_2] {
        head.version = version;
        if let Ok(normalized) = check(&head, Checks { max_headers: LIMITS.max_fields, is_forward: false }) {
            let (host, path) = (normalized.host(), normalized.path(&head.uri));
            assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{host}");
            assert!(!host.ends_with('.') && (host.starts_with('[') || !host.contains(':')), "{host}");
            assert!(path == "*" || (path.starts_with('/') && !path.contains("//") && !path.contains("/../")), "{path}");
            assert!(normalized.authority().is_some() || version < Version::HTTP_11);
        }
    }
}
