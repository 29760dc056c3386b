//! Whatever forwarding headers a request brings: reading them never panics, a stranger's leave no trace, and what is
//! written can be read.
#![no_main]

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidegate::config::model::Forwarding;
use tidegate::proxy::headers::forwarded::{Policy, parse};

fuzz_target!(|input: (bool, u32, &[u8], &[u8], &[u8])| {
    let (trusted, address, x_forwarded_for, forwarded, host) = input;
    let _ = parse(forwarded);
    let remote = IpAddr::V4(if trusted { (address >> 8 | 10 << 24).into() } else { (address | 1 << 31).into() });
    let Ok(trusted_proxies) = "10.0.0.0/8".parse() else { return };
    let policy = Policy::new(&Forwarding { x_forwarded: true, forwarded: true, via: None }, &[trusted_proxies]);
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-forwarded-for", x_forwarded_for), ("forwarded", forwarded)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let host = HeaderValue::from_bytes(host).ok();
    let connection = policy.connection(Some(remote), true);
    let client = connection.client(&policy, &headers);
    connection.apply(&policy, &mut headers, host.as_ref());
    if !trusted {
        assert_eq!(client.address, Some(remote));
        assert_eq!(headers["x-forwarded-for"], remote.to_string());
        // A host of UTF-8 at most: what is no text cannot be read as one.
        if host.as_ref().is_none_or(|host| host.to_str().is_ok()) {
            let elements = parse(headers[FORWARDED].as_bytes());
            let client = elements.as_ref().and_then(|elements| elements.first()?.client.as_deref());
            assert_eq!(client, Some(remote.to_string().as_str()));
        }
    }
});
