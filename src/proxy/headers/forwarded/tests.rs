use proptest::prelude::*;

use super::*;

fn policy(x_forwarded: bool, forwarded: bool) -> Policy {
    let forwarding = Forwarding { x_forwarded, forwarded, via: None };
    Policy::new(&forwarding, &["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn client_of(remote: &str, fields: &[(&'static str, &str)]) -> Client {
    let policy = policy(true, true);
    policy.connection(address(remote), false).client(&policy, &headers(fields))
}

const HOST: HeaderValue = HeaderValue::from_static("example.org:8080");

#[test]
fn what_strangers_say_is_replaced() {
    let policy = policy(true, false);
    let connection = policy.connection(address("::ffff:192.0.2.7"), true);
    let mut map = headers(&[
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=1.1.1.1"),
    ]);
    assert_eq!(connection.client(&policy, &map), Client { address: address("192.0.2.7"), is_https: true });
    connection.apply(&policy, &mut map, Some(&HOST));
    let expected = headers(&[
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.org:8080"),
    ]);
    assert_eq!(map, expected);
}

#[test]
fn what_trusted_proxies_say_is_continued() {
    let policy = policy(true, true);
    let connection = policy.connection(address("10.0.0.1"), false);
    let mut map = headers(&[
        ("x-forwarded-for", "203.0.113.9, 192.0.2.1"),
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=192.0.2.1"),
    ]);
    assert_eq!(connection.client(&policy, &map), Client { address: address("192.0.2.1"), is_https: true });
    connection.apply(&policy, &mut map, Some(&HOST));
    let expected = headers(&[
        ("x-forwarded-for", "203.0.113.9, 192.0.2.1, 10.9.9.9, 10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=192.0.2.1, for=10.0.0.1;proto=http;host=\"example.org:8080\""),
    ]);
    assert_eq!(map, expected);
}

#[test]
fn the_client_is_the_nearest_address_that_is_not_trusted() {
    let of = |list: &str| client_of("10.0.0.1", &[("x-forwarded-for", list)]).address;
    assert_eq!(of("1.1.1.1, 192.0.2.1"), address("192.0.2.1"));
    assert_eq!(of("1.1.1.1, 192.0.2.1:4711, 10.3.3.3, [fd00::1]:443"), address("192.0.2.1"));
    assert_eq!(of("2001:db8::1"), address("2001:db8::1"));
    assert_eq!(of("10.1.1.1,10.2.2.2"), address("10.1.1.1"));
    // What cannot be read hides what stands before it.
    assert_eq!(of("192.0.2.1, unknown, 10.2.2.2"), address("10.2.2.2"));
    assert_eq!(of("192.0.2.1, "), address("10.0.0.1"));
    assert_eq!(client_of("192.0.2.50", &[("x-forwarded-for", "1.1.1.1")]).address, address("192.0.2.50"));
}

#[test]
fn forwarded_is_asked_where_x_forwarded_for_is_absent() {
    let of = |list: &str| client_of("10.0.0.1", &[("forwarded", list)]);
    let found = of("For=\"[2001:db8::17]:4711\";proto=https, for=10.1.1.1;by=10.0.0.1");
    assert_eq!(found, Client { address: address("2001:db8::17"), is_https: true });
    assert_eq!(of("for=_hidden, for=10.4.4.4").address, address("10.4.4.4"));
    assert_eq!(of("for=192.0.2.1;for=192.0.2.2").address, address("10.0.0.1"));
    assert_eq!(of("proto=https").address, address("10.0.0.1"));
}

#[test]
fn what_is_not_told_is_not_passed_on_from_strangers_either() {
    let policy = policy(false, false);
    let mut map = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-host", "x"), ("forwarded", "for=x")]);
    let trusted = map.clone();
    policy.connection(address("192.0.2.1"), false).apply(&policy, &mut map, Some(&HOST));
    assert!(map.is_empty());
    map = trusted.clone();
    policy.connection(address("10.0.0.1"), false).apply(&policy, &mut map, Some(&HOST));
    assert_eq!(map, trusted);
}

#[test]
fn a_unix_socket_has_no_address() {
    let policy = policy(true, true);
    let connection = policy.connection(None, false);
    let mut map = headers(&[("x-forwarded-for", "1.1.1.1")]);
    connection.apply(&policy, &mut map, None);
    assert_eq!(map, headers(&[("x-forwarded-proto", "http"), ("forwarded", "for=unknown;proto=http")]));
}

#[test]
fn reads_the_examples_of_rfc_7239() {
    let parsed = parse(b"for=192.0.2.60;proto=http;by=203.0.113.43").unwrap();
    assert_eq!(parsed.len(), 1);
    assert_eq!(parsed[0].client.as_deref(), Some("192.0.2.60"));
    assert_eq!(parsed[0].by.as_deref(), Some("203.0.113.43"));
    assert_eq!(parse(b"for=192.0.2.43, for=\"[2001:db8:cafe::17]\"").unwrap().len(), 2);
    assert_eq!(parse(b" , for=a ,, secret=x;HOST=\"a\\\"b\" ,").unwrap()[1].host.as_deref(), Some("a\"b"));
    assert_eq!(parse(b"").unwrap(), []);
    for bad in
        ["for", "for=", "=a", "for=\"a", "for=a b", "for=a;for=b", "f r=a", "for=\"a\"b", "for=\"a\\", "for=[::1]"]
    {
        assert_eq!(parse(bad.as_bytes()), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn what_we_write_we_can_read(host in "[ -~]{1,20}", v6 in any::<u128>(), before in "[ -~]{0,40}") {
        let policy = policy(false, true);
        let host = HeaderValue::from_str(&host).unwrap();
        for remote in [IpAddr::V6(v6.into()), IpAddr::V4((v6 as u32).into())] {
            let mut map = headers(&[("forwarded", &before)]);
            let connection = policy.connection(Some(remote), true);
            connection.client(&policy, &map);
            connection.apply(&policy, &mut map, Some(&host));
            if !connection.is_trusted {
                let parsed = parse(map[FORWARDED].as_bytes()).unwrap();
                prop_assert_eq!(parsed.len(), 1);
                prop_assert_eq!(parsed[0].host.as_deref().map(str::as_bytes), Some(host.as_bytes()));
                let client = parse_address(parsed[0].client.as_deref().unwrap().as_bytes());
                prop_assert_eq!(client, Some(remote.to_canonical()));
            }
        }
    }

    #[test]
    fn parsing_never_panics(field in prop::collection::vec(any::<u8>(), 0..60), text in "[a-z=;,\"\\\\ \t]{0,40}") {
        let _ = parse(&field);
        let _ = parse(text.as_bytes());
    }
}
