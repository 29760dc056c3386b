//! Whatever stands at the beginning of a connection: reading it for a PROXY header never panics, more bytes never change
//! what was answered, and what is written of a header is read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::config::model::SendProxyProtocol;
use tidegate::net::proxy_protocol::{MAX_HEADER, Reading, Transport, read, write};

fuzz_target!(|input: (Option<bool>, &[u8])| {
    let (version, bytes) = input;
    // The signatures are not for a fuzzer to find.
    let prefix: &[u8] = match version {
        None => b"",
        Some(false) => b"PROXY ",
        Some(true) => b"\r\n\r\n\0\r\nQUIT\n",
    };
    let bytes = &[prefix, bytes].concat();
    let answer = read(bytes);
    for end in 0..bytes.len() {
        let earlier = read(&bytes[..end]);
        assert!(earlier == Reading::Incomplete || earlier == answer, "{earlier:?} became {answer:?}");
    }
    let Reading::Header(header) = answer else { return };
    assert!(header.length <= bytes.len().min(MAX_HEADER));
    for (version, transport) in [
        (SendProxyProtocol::V1, Transport::Stream),
        (SendProxyProtocol::V2, Transport::Stream),
        (SendProxyProtocol::V2, Transport::Datagram),
    ] {
        let mut out = Vec::new();
        write(&mut out, version, transport, header.client, header.local, header.tlvs);
        let Reading::Header(again) = read(&out) else {
            // Addresses of two families grow when they are told in one.
            assert!(out.len() > MAX_HEADER, "what was written is not read: {out:?}");
            continue;
        };
        assert_eq!((again.length, again.client), (out.len(), header.client));
        assert_eq!(again.local, header.client.and(header.local));
        if version == SendProxyProtocol::V2 && header.client.is_some() {
            assert_eq!(again.tlvs.len(), header.tlvs.len());
        }
    }
});
