use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

const CHROMIUM: &[u8] = include_bytes!("../../../tests/hellos/chromium.bin");
const CURL: &[u8] = include_bytes!("../../../tests/hellos/curl.bin");
const OPENSSL: &[u8] = include_bytes!("../../../tests/hellos/openssl.bin");
const OPENSSL_TLS12: &[u8] = include_bytes!("../../../tests/hellos/openssl12.bin");

/// A hello of rustls with the post-quantum share that it prefers.
fn rustls_hello(name: &'static str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A message of these extensions, `None` without even an empty list of them.
fn message(extensions: Option<&[(u16, Vec<u8>)]>) -> Vec<u8> {
    let mut body = [[3, 3].as_slice(), &[7; 32], &vector8(&[9; 32]), &vector16(&[0x13, 1, 0x13, 2]), &[1, 0]].concat();
    if let Some(extensions) = extensions {
        let each = extensions.iter().flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector16(content)].concat());
        body.extend(vector16(&each.collect::<Vec<u8>>()));
    }
    [&[1, 0], vector16(&body).as_slice()].concat()
}

/// The message in records whose fragments have at most these sizes, in turn.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), message);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (fragment, after) = rest.split_at(rest.len().min(*size));
        out.extend([&[22, 3, 1], vector16(fragment).as_slice()].concat());
        rest = after;
    }
    out
}

fn names(names: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let each = names.iter().flat_map(|(kind, name)| [&[*kind], vector16(name).as_slice()].concat());
    (SERVER_NAME, vector16(&each.collect::<Vec<u8>>()))
}

fn alpn(protocols: &[&[u8]]) -> (u16, Vec<u8>) {
    (ALPN, vector16(&protocols.iter().flat_map(|protocol| vector8(protocol)).collect::<Vec<u8>>()))
}

/// The name and the protocols of what must be a hello.
fn asked(reading: Reading) -> (Option<String>, Vec<String>) {
    let Reading::Hello(hello) = reading else { panic!("no hello: {reading:?}") };
    let protocols = hello.alpn().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect();
    (hello.sni().map(str::to_owned), protocols)
}

fn asked_for(extensions: &[(u16, Vec<u8>)]) -> (Option<String>, Vec<String>) {
    asked(read_message(&message(Some(extensions))))
}

fn refused(extensions: &[(u16, Vec<u8>)]) -> &'static str {
    match read_message(&message(Some(extensions))) {
        Reading::Broken(reason) => reason,
        reading => panic!("not refused: {reading:?}"),
    }
}

/// The first answer when the bytes come one after the other, and how many that took.
fn byte_by_byte(bytes: &[u8]) -> (Reading, usize) {
    let mut reader = HelloReader::default();
    for length in 0..=bytes.len() {
        let reading = reader.read(&bytes[..length]);
        if reading != Reading::Incomplete {
            return (reading, length);
        }
    }
    (Reading::Incomplete, bytes.len())
}

#[test]
fn hellos_of_real_clients_are_read() {
    let both = ["h2", "http/1.1"].map(str::to_owned).to_vec();
    for (bytes, name, protocols) in [
        (CHROMIUM, Some("chrome.example.org"), both.clone()),
        (CURL, Some("curl.example.org"), both.clone()),
        (OPENSSL, Some("db.example.org"), both),
        (OPENSSL_TLS12, None, Vec::new()),
    ] {
        let (sni, alpn) = asked(read_hello(bytes));
        assert_eq!((sni.as_deref(), alpn), (name, protocols));
        assert_eq!(byte_by_byte(bytes).1, bytes.len(), "known neither earlier nor later than at the last byte");
    }
}

#[test]
fn a_large_hello_of_rustls_is_read_whole_in_small_records_and_bare() {
    let bytes = rustls_hello("db.example.org", &["postgresql"]);
    assert!(bytes.len() > 1200, "no post-quantum share in {} bytes", bytes.len());
    let expected = (Some("db.example.org".to_owned()), vec!["postgresql".to_owned()]);
    assert_eq!(asked(read_hello(&bytes)), expected);
    let message = &bytes[RECORD_HEADER..];
    assert_eq!(asked(read_message(message)), expected);
    for sizes in [&[1][..], &[2, 3], &[100], &[1300, 7]] {
        assert_eq!(asked(read_hello(&records(message, sizes))), expected);
    }
    assert_eq!(read_message(&message[..message.len() - 1]), Reading::Incomplete);
}

#[test]
fn what_follows_the_hello_is_not_looked_at() {
    let bytes = [OPENSSL, b"\x17\x03\x03\x00\x05early, whatever it is"].concat();
    assert_eq!(read_hello(&bytes), read_hello(OPENSSL));
    assert_eq!(read_message(&[&OPENSSL[RECORD_HEADER..], b"more"].concat()), read_hello(OPENSSL));
}

#[test]
fn with_ech_the_outer_name_is_read_and_grease_is_passed_over() {
    let extensions = [
        (0x0a0a, Vec::new()),
        (0xfe0d, vec![0, 0, 1, 0, 1, 0x2a, 0, 2, 1, 2, 0, 3, 1, 2, 3]),
        names(&[(0, b"public.example")]),
        alpn(&[b"\x1a\x1a", b"h2"]),
        (0xbaba, vec![0]),
    ];
    assert_eq!(asked_for(&extensions), (Some("public.example".into()), vec!["\u{1a}\u{1a}".into(), "h2".into()]));
}

#[test]
fn a_hello_may_have_no_extensions() {
    assert_eq!(asked(read_message(&message(None))), (None, Vec::new()));
    assert_eq!(asked_for(&[]), (None, Vec::new()));
}

#[test]
fn a_name_is_lowercase_and_without_its_final_dot() {
    let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    for (sent, name) in [
        ("DB.Example.ORG", "db.example.org"),
        ("example.org.", "example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dmarc.a-b.c", "_dmarc.a-b.c"),
        ("localhost", "localhost"),
        (&longest, &longest),
    ] {
        assert_eq!(asked_for(&[names(&[(0, sent.as_bytes())])]).0.as_deref(), Some(name));
    }
}

#[test]
fn an_address_is_no_name() {
    for address in ["10.0.0.1", "::1", "2001:db8::7"] {
        assert_eq!(asked_for(&[names(&[(0, address.as_bytes())])]).0, None);
    }
}

#[test]
fn what_is_no_host_name_is_refused() {
    let too_long = format!("{0}.{0}.{0}.{0}", "a".repeat(63));
    let label = format!("{}.org", "a".repeat(64));
    for name in
        ["", ".", "..", "a..b", ".a", "a b", "a\0b", "a\nb", "*.a", "a:443", "bücher.example", &too_long, &label]
    {
        assert_eq!(refused(&[names(&[(0, name.as_bytes())])]), NO_NAME, "{name:?}");
    }
    assert_eq!(refused(&[names(&[(0, b"\xff\xfe")])]), NO_NAME);
}

#[test]
fn there_is_one_name_and_one_list_of_protocols() {
    assert_eq!(asked_for(&[names(&[(7, b"a.example")])]).0, None, "no host, but a name");
    for list in
        [[(0, &b"a.example"[..]), (0, b"a.example")], [(0, b"a.example"), (7, b"")], [(7, b""), (0, b"a.example")]]
    {
        assert_eq!(refused(&[names(&list)]), MALFORMED_NAMES);
    }
    assert_eq!(refused(&[names(&[(0, b"a.example")]), names(&[(0, b"b.example")])]), "two server names");
    assert_eq!(refused(&[alpn(&[b"h2"]), alpn(&[b"h3"])]), "two lists of protocols");
}

#[test]
fn malformed_extensions_are_refused() {
    for content in [&[][..], &[0], &[0, 0], &[0, 9, 0, 0, 1, b'a'], &[0, 4, 0, 0, 1, b'a', 0], &[0, 2, 0, 0]] {
        assert_eq!(refused(&[(SERVER_NAME, content.to_vec())]), MALFORMED_NAMES, "{content:?}");
    }
    for content in [&[][..], &[0, 0], &[0, 1, 0], &[0, 2, 2, b'a'], &[0, 2, 1, b'a', 0]] {
        assert_eq!(refused(&[(ALPN, content.to_vec())]), MALFORMED_PROTOCOLS, "{content:?}");
    }
    let mut message = message(Some(&[alpn(&[b"h2"])]));
    *message.last_mut().unwrap() = 0;
    message.truncate(message.len() - 1);
    message[3] -= 1;
    assert_eq!(read_message(&message), Reading::Broken(MALFORMED_EXTENSIONS));
}

#[test]
fn a_malformed_body_is_refused() {
    let whole = message(None);
    // Everything that ends before its end, and a session id and lists of sizes that cannot be.
    for length in HEAD..whole.len() {
        let mut cut = whole[..length].to_vec();
        cut[3] = (length - HEAD) as u8;
        assert_eq!(read_message(&cut), Reading::Broken("a malformed ClientHello"), "{length}");
    }
    for (at, value) in [(38, 33), (72, 3), (72, 0), (77, 0)] {
        let mut wrong = whole.clone();
        wrong[at] = value;
        assert!(matches!(read_message(&wrong), Reading::Broken(_)), "{at}");
    }
}

#[test]
fn other_protocols_are_known_by_the_first_byte_that_shows_it() {
    for (bytes, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", 1),
        (b"\r\n\r\n\0\r\nQUIT\n", 1),
        (b"SSH-2.0-OpenSSH\r\n", 1),
        (b"\x80\x2e\x01\x03\x01", 1),
        (b"\x15\x03\x01\x00\x02\x02\x28", 1),
        (b"\x17\x03\x03\x00\x01a", 1),
        (b"\x16\x02\x00\x00\x01\x01", 2),
        (b"\x16\xfe\xff\x00\x00\x00", 2),
    ] {
        assert_eq!(byte_by_byte(bytes), (Reading::NotTls, at), "{bytes:?}");
        assert_eq!(read_hello(bytes), Reading::NotTls);
    }
    assert_eq!(read_hello(b""), Reading::Incomplete);
}

#[test]
fn records_that_cannot_be_are_refused() {
    for (bytes, reason) in [
        (&b"\x16\x03\x01\x00\x00"[..], "an empty record"),
        (b"\x16\x03\x01\x40\x01", "a record longer than 16384 bytes"),
        (b"\x16\x03\x01\x00\x01\x02", "the handshake does not begin with a ClientHello"),
        (b"\x16\x03\x01\x00\x02\x01\x01", TOO_LONG),
        (b"\x16\x03\x01\x00\x02\x01\x00\x15", "another record inside the ClientHello"),
        (b"\x16\x03\x01\x00\x02\x01\x00\x16\x02", "another record inside the ClientHello"),
        (b"\x16\x03\x01\x00\x02\x01\x00\x16\x03\x01\x00\x00", "an empty record"),
    ] {
        assert_eq!(byte_by_byte(bytes), (Reading::Broken(reason), bytes.len()), "{bytes:?}");
        assert_eq!(read_hello(bytes), Reading::Broken(reason));
    }
    // RFC 8446 §5.1: whatever the minor version of a record says.
    let mut odd = OPENSSL.to_vec();
    odd[2] = 0x77;
    assert_eq!(read_hello(&odd), read_hello(OPENSSL));
}

#[test]
fn the_longest_hello_is_read_and_a_longer_one_refused_at_its_head() {
    let filler = |bytes: usize| message(Some(&[names(&[(0, b"a.example")]), (21, vec![0; bytes])]));
    let fixed = filler(0).len();
    let longest = filler(MAX_HELLO - fixed);
    assert_eq!(longest.len(), MAX_HELLO);
    for sizes in [&[16384][..], &[1200], &[21]] {
        assert_eq!(asked(read_hello(&records(&longest, sizes))).0.as_deref(), Some("a.example"));
    }
    let longer = records(&[1, 0, 0xff, 0xfd], &[4]);
    assert_eq!(read_hello(&longer), Reading::Broken(TOO_LONG));
    assert_eq!(read_message(&[1, 0, 0xff, 0xfd]), Reading::Broken(TOO_LONG));
    assert_eq!(read_message(&[1, 1]), Reading::Broken(TOO_LONG));
}

#[test]
fn a_large_hello_in_tiny_records_is_given_up_within_the_bound() {
    let message = message(Some(&[(21, vec![0; 40_000])]));
    let bytes = records(&message, &[1]);
    assert!(bytes.len() > MAX_BYTES);
    assert_eq!(read_hello(&bytes), Reading::Broken(TOO_LONG));
    assert_eq!(read_hello(&bytes[..MAX_BYTES]), Reading::Broken(TOO_LONG));
    assert_eq!(read_hello(&bytes[..MAX_BYTES - 1]), Reading::Incomplete);
}

#[test]
fn a_reader_does_not_go_back_to_records_that_it_understood() {
    let bytes = records(&OPENSSL[RECORD_HEADER..], &[10]);
    let mut reader = HelloReader::default();
    for length in 1..bytes.len() {
        assert_eq!(reader.read(&bytes[..length]), Reading::Incomplete);
        assert_eq!(reader.record, length / 15 * 15, "after {length} bytes");
    }
}

/// What rustls makes of the bytes; `None`: it refuses them, or waits for more.
fn by_rustls(bytes: &[u8]) -> Option<(Option<String>, Vec<String>)> {
    let (mut acceptor, mut rest) = (Acceptor::default(), Cursor::new(bytes));
    loop {
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            let protocols = hello.alpn().into_iter().flatten();
            return Some((name, protocols.map(|name| String::from_utf8_lossy(name).into_owned()).collect()));
        }
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
    }
}

#[test]
fn rustls_reads_the_same_in_hellos_of_real_clients() {
    for bytes in [CHROMIUM, CURL, OPENSSL, OPENSSL_TLS12, &rustls_hello("a.example", &["x", "y"])] {
        assert_eq!(by_rustls(bytes), Some(asked(read_hello(bytes))));
    }
}

/// Bytes that nearly are a hello: those of a real client, changed in a few places, cut into records.
fn nearly_a_hello() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::sample::select(vec![CHROMIUM, CURL, OPENSSL, OPENSSL_TLS12]);
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let sizes = prop::collection::vec(1..2000usize, 1..5);
    (bytes, prop::collection::vec(change, 0..4), sizes, any::<bool>()).prop_map(|(bytes, changes, sizes, cut)| {
        let mut bytes = bytes.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut { records(&bytes[RECORD_HEADER..], &sizes) } else { bytes }
    })
}

proptest! {
    #[test]
    fn what_rustls_accepts_is_read_the_same(bytes in nearly_a_hello()) {
        let reading = read_hello(&bytes);
        // rustls passes over what follows a name of a kind that it does not know.
        if let Some(expected) = by_rustls(&bytes).filter(|_| reading != Reading::Broken(MALFORMED_NAMES)) {
            prop_assert_eq!(asked(reading), expected);
        }
    }

    #[test]
    fn pieces_do_not_change_the_answer(
        bytes in prop_oneof![nearly_a_hello(), prop::collection::vec(any::<u8>(), 0..100)],
        ends in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = read_hello(&bytes);
        prop_assert_eq!(&byte_by_byte(&bytes).0, &whole);
        let mut ends: Vec<usize> = ends.iter().map(|end| end.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        let mut reader = HelloReader::default();
        let readings = ends.into_iter().chain([bytes.len()]).map(|end| reader.read(&bytes[..end]));
        let answered = readings.into_iter().find(|reading| *reading != Reading::Incomplete);
        prop_assert_eq!(answered.unwrap_or(Reading::Incomplete), whole);
    }

    #[test]
    fn any_message_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let length = (bytes.len() as u16).to_be_bytes();
        let _ = read_message(&[&[1, 0], &length[..], &bytes].concat());
    }
}
