use proptest::prelude::*;

use super::*;

const CLIENT: &str = "192.0.2.7:40000";
const LOCAL: &str = "198.51.100.1:443";

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn written(version: SendProxyProtocol, client: Option<&str>, local: Option<&str>, tlvs: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out, version, Transport::Stream, client.and_then(address), local.and_then(address), tlvs);
    out.split_off(6)
}

fn header(bytes: &[u8]) -> Header<'_> {
    match read(bytes) {
        Reading::Header(header) => header,
        reading => panic!("no header: {reading:?}"),
    }
}

fn broken(bytes: &[u8]) -> &'static str {
    match read(bytes) {
        Reading::Broken(reason) => reason,
        reading => panic!("not refused: {reading:?}"),
    }
}

/// A version 2 header of these bytes.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

const V4_ENDS: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];

#[test]
fn version_1_is_read_to_the_end_of_its_line() {
    let read = |line: &str| {
        let bytes = format!("{line}\r\nGET / HTTP/1.1\r\n");
        let header = header(bytes.as_bytes());
        assert_eq!((header.length, header.tlvs), (line.len() + 2, &[][..]));
        (header.client, header.local)
    };
    assert_eq!(read("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443"), (address(CLIENT), address(LOCAL)));
    assert_eq!(
        read("PROXY TCP6 2001:db8::7 2001:db8::1 1 0"),
        (address("[2001:db8::7]:1"), address("[2001:db8::1]:0"))
    );
    assert_eq!(read("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 40000 443"), (address(CLIENT), address(LOCAL)));
    for line in ["PROXY UNKNOWN", "PROXY UNKNOWN ", "PROXY UNKNOWN a b c d e f g", "PROXY UNKNOWN ::1 ::1 70000 x"] {
        assert_eq!(read(line), (None, None), "{line}");
    }
}

#[test]
fn version_1_that_is_none_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 \r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +40000 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 040000 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 70000 443\r\n",
        "PROXY TCP4 192.0.2.7\r198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\rx\r\n",
        "PROXY TCP4 ::1 ::1 40000 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 40000 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 40000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \r\n",
    ] {
        assert_eq!(broken(line.as_bytes()), V1_MALFORMED, "{line:?}");
    }
    assert_eq!(broken(b"PROXY TCP4 \xff\xff 198.51.100.1 40000 443\r\n"), V1_MALFORMED);
    let line = |rest: usize| format!("PROXY UNKNOWN {}\r\n", "a".repeat(rest)).into_bytes();
    assert_eq!(line(91).len(), V1_MAX);
    assert_eq!(header(&line(91)).length, V1_MAX);
    assert_eq!(broken(&line(92)), "no end within 107 bytes");
}

#[test]
fn version_2_is_read_with_what_else_it_says() {
    let tlvs = [tlv(0xea, b"\x01vpce-1"), tlv(0x04, &[]), tlv(0x02, b"a.example")].concat();
    let bytes = [v2(1, 0x11, &[&V4_ENDS[..], &tlvs].concat()), b"rest".to_vec()].concat();
    let read = header(&bytes);
    assert_eq!((read.client, read.local), (address(CLIENT), address(LOCAL)));
    assert_eq!((read.length, read.tlvs), (bytes.len() - 4, &tlvs[..]));
    // Datagrams are told of in the same way, and IPv4 in the form of IPv6 is what it is.
    assert_eq!(header(&v2(1, 0x12, &V4_ENDS)).client, address(CLIENT));
    let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 15], &[1], &[0x9c, 0x40, 0, 80]].concat();
    assert_eq!(header(&v2(1, 0x21, &mapped)).client, address(CLIENT));
    assert_eq!(header(&v2(1, 0x21, &mapped)).local, address("[::1]:80"));
}

#[test]
fn version_2_may_tell_of_nobody() {
    for (command, family, rest) in [
        (0, 0x00, &[][..]),
        // Of a LOCAL header nothing else counts, not even a family that nobody knows.
        (0, 0x11, &V4_ENDS),
        (0, 0x11, &[]),
        (0, 0xff, b"whatever"),
        (1, 0x00, b"whatever"),
        (1, 0x31, &[b'/'; 216]),
        (1, 0x32, &[b'/'; 216]),
    ] {
        let bytes = v2(command, family, rest);
        assert_eq!(header(&bytes), Header { length: bytes.len(), ..Header::default() }, "{command} {family:#x}");
    }
}

#[test]
fn version_2_that_is_none_is_refused() {
    for bytes in [
        v2(2, 0x11, &V4_ENDS),
        v2(1, 0x41, &V4_ENDS),
        v2(1, 0x13, &V4_ENDS),
        v2(1, 0x11, &V4_ENDS[..11]),
        v2(1, 0x21, &V4_ENDS),
        [v2::PROTOCOL_PREFIX, &[0x11, 0x11, 0, 0]].concat(),
        [v2::PROTOCOL_PREFIX, &[0x31, 0x11, 0, 0]].concat(),
    ] {
        assert_eq!(broken(&bytes), "a malformed version 2 header", "{bytes:?}");
    }
    for rest in [&[1][..], &[1, 0], &[1, 0, 5, b'a']] {
        assert_eq!(broken(&v2(1, 0x11, &[&V4_ENDS, rest].concat())), "malformed TLVs");
    }
    // At its sixteenth byte, not when the rest has come.
    let length = (MAX_HEADER - V2_FIXED + 1) as u16;
    let begun = [v2::PROTOCOL_PREFIX, &[0x21, 0x11], &length.to_be_bytes()].concat();
    assert_eq!(broken(&begun), "longer than 4096 bytes");
    let longest = v2(1, 0x11, &[&V4_ENDS[..], &tlv(0xe0, &[7; MAX_HEADER - 31])].concat());
    assert_eq!(header(&longest).length, MAX_HEADER);
}

#[test]
fn a_checksum_is_checked_where_there_is_one() {
    // As HAProxy sends it: over the header with zeros in the checksum's place.
    let with =
        |value: &[u8]| v2(1, 0x11, &[&V4_ENDS[..], &tlv(1, b"h2"), &tlv(3, value), &tlv(2, b"a.example")].concat());
    let checksum = crc32c::crc32c(&with(&[0; 4])).to_be_bytes();
    assert_eq!(header(&with(&checksum)).client, address(CLIENT));
    for byte in 0..4 {
        let mut wrong = checksum;
        wrong[byte] ^= 1;
        assert_eq!(broken(&with(&wrong)), "a wrong checksum");
    }
    let mut changed = with(&checksum);
    changed[V2_FIXED] ^= 1;
    assert_eq!(broken(&changed), "a wrong checksum");
    assert_eq!(broken(&with(&checksum[..3])), "a malformed checksum");
    let twice = [&V4_ENDS[..], &tlv(3, &[0; 4]), &tlv(3, &[0; 4])].concat();
    assert_eq!(broken(&v2(1, 0x11, &twice)), "a malformed checksum");
}

#[test]
fn other_bytes_are_known_by_the_first_that_shows_it() {
    for (bytes, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"PRI * HTTP/2.0\r\n", 3),
        (b"PROPFIND /", 4),
        (b"PROXYING / HTTP/1.1", 6),
        (b"\x16\x03\x01", 1),
        (b"\r\n\r\nGET", 5),
        (b"\r\n\r\n\0\r\nQUIT\r", 12),
    ] {
        for length in 0..=bytes.len() {
            let expected = if length < at { Reading::Incomplete } else { Reading::Absent };
            assert_eq!(read(&bytes[..length]), expected, "{bytes:?} {length}");
        }
    }
}

#[test]
fn both_versions_are_written_as_they_are_defined() {
    use SendProxyProtocol::{Off, V1, V2};
    assert_eq!(written(Off, Some(CLIENT), Some(LOCAL), &[]), b"");
    let line = written(V1, Some(CLIENT), Some(LOCAL), b"ignored");
    assert_eq!(line, b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n");
    assert_eq!(written(V1, Some("[2001:db8::7]:1"), Some("[::1]:2"), &[]), b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n");
    assert_eq!(written(V1, None, Some(LOCAL), &[]), b"PROXY UNKNOWN\r\n");
    assert_eq!(written(V2, Some(CLIENT), Some(LOCAL), &[]), v2(1, 0x11, &V4_ENDS));
    assert_eq!(written(V2, None, Some(LOCAL), &tlv(1, b"h2")), v2(0, 0, &[]));
    let mut datagram = Vec::new();
    write(&mut datagram, V2, Transport::Datagram, address(CLIENT), address(LOCAL), &[]);
    assert_eq!(datagram, v2(1, 0x12, &V4_ENDS));
    let mut datagram = Vec::new();
    write(&mut datagram, V1, Transport::Datagram, address(CLIENT), address(LOCAL), &[]);
    assert_eq!(datagram, b"PROXY UNKNOWN\r\n");
}

#[test]
fn two_families_are_told_in_one() {
    use SendProxyProtocol::{V1, V2};
    let v4_to_v6 = written(V1, Some(CLIENT), Some("[2001:db8::1]:443"), &[]);
    assert_eq!(v4_to_v6, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 40000 443\r\n");
    let v6_to_v4 = written(V2, Some("[2001:db8::7]:1"), Some(LOCAL), &[]);
    let read = header(&v6_to_v4);
    assert_eq!((read.client, read.local), (address("[2001:db8::7]:1"), address(LOCAL)));
    assert_eq!(written(V1, Some(CLIENT), None, &[]), b"PROXY TCP4 192.0.2.7 0.0.0.0 40000 0\r\n");
    assert_eq!(written(V1, Some("[::1]:1"), None, &[]), b"PROXY TCP6 ::1 :: 1 0\r\n");
}

#[test]
fn what_was_said_is_passed_on_with_a_checksum_of_our_own() {
    let sent = [tlv(1, b"h2"), tlv(3, &[0; 4]), tlv(0xea, b"x")].concat();
    let bytes = v2(1, 0x11, &[&V4_ENDS[..], &sent].concat());
    // Wherever it is written to and whatever the addresses are now, the checksum fits.
    for client in [CLIENT, "[2001:db8::7]:1"] {
        let passed_on = written(SendProxyProtocol::V2, Some(client), Some(LOCAL), &sent);
        let read = header(&passed_on);
        assert_eq!(read.client, address(client));
        assert_eq!((read.tlvs.len(), &read.tlvs[..8]), (sent.len(), &sent[..8]));
        assert_ne!(read.tlvs[8..12], [0; 4]);
    }
    assert_eq!(broken(&bytes), "a wrong checksum");
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (ip, any::<u16>()).prop_map(|(ip, port)| canonical(SocketAddr::new(ip, port)))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        client in any_address(),
        local in any_address(),
        is_v2 in any::<bool>(),
        values in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let version = if is_v2 { SendProxyProtocol::V2 } else { SendProxyProtocol::V1 };
        let tlvs: Vec<u8> =
            values.iter().filter(|(kind, _)| *kind != 3).flat_map(|(kind, value)| tlv(*kind, value)).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, version, Transport::Stream, Some(client), Some(local), &tlvs);
        let length = bytes.len();
        for cut in 0..length {
            prop_assert_eq!(read(&bytes[..cut]), Reading::Incomplete);
        }
        bytes.extend(rest);
        let read = header(&bytes);
        prop_assert_eq!((read.length, read.client, read.local), (length, Some(client), Some(local)));
        prop_assert_eq!(read.tlvs, if is_v2 { &tlvs[..] } else { &[] });
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        is_v2 in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let prefix = if is_v2 { v2::PROTOCOL_PREFIX } else { V1_PREFIX };
        for bytes in [&bytes[..], &[prefix, &bytes].concat()] {
            let answer = read(bytes);
            if let Reading::Header(header) = answer {
                prop_assert!(header.length <= bytes.len().min(MAX_HEADER));
                prop_assert_eq!(read(&bytes[..header.length]), answer);
            }
        }
    }
}
