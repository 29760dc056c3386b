//! Whatever a client sends first: reading it never panics, in whatever pieces and records it comes, and what rustls takes
//! for a hello is read the same here.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;
use tidegate::l4::sni::{HelloReader, Reading, read_hello, read_message};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = read_hello(bytes);
    let mut reader = HelloReader::default();
    let piece = usize::from(piece).max(1);
    let ends = (0..bytes.len()).step_by(piece).chain([bytes.len()]);
    let in_pieces = ends.map(|end| reader.read(&bytes[..end])).find(|reading| *reading != Reading::Incomplete);
    assert_eq!(in_pieces.unwrap_or(Reading::Incomplete), whole);
    // rustls passes over what follows a name of a kind that it does not know.
    let several_names = whole == Reading::Broken("a malformed list of server names");
    if let Some(expected) = by_rustls(bytes).filter(|_| !several_names) {
        let Reading::Hello(hello) = &whole else { panic!("rustls accepts what is {whole:?} here") };
        let alpn: Vec<Vec<u8>> = hello.alpn().map(<[u8]>::to_vec).collect();
        assert_eq!((hello.sni().map(str::to_owned), alpn), expected);
    }
    // The same bytes as a message without records, and cut into records of that size.
    let message = read_message(bytes);
    let mut records = Vec::new();
    for fragment in bytes.chunks(piece) {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
        records.extend_from_slice(fragment);
    }
    if records.len() < 65_536 {
        assert_eq!(read_hello(&records), message);
    }
});

/// The name and the protocols of what rustls would begin a handshake with.
fn by_rustls(bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let (mut acceptor, mut rest) = (Acceptor::default(), Cursor::new(bytes));
    loop {
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            return Some((name, hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()));
        }
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
    }
}
