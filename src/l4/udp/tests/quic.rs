use super::*;
use crate::l4::quic::testing::{hello, initial};
use crate::transport::quic_initial::{V1, V2};

const DESTINATION: &[u8] = &[9, 8, 7, 6, 5, 4, 3, 2, 1];

/// Chromium's ClientHello in `tests/hellos` asks for this name, and for h2 before http/1.1.
fn name() -> String {
    let crate::l4::sni::Reading::Hello(hello) = crate::l4::sni::read_message(&hello()) else { panic!("no hello") };
    hello.sni().unwrap().to_owned()
}

/// A listener that leads to the first upstream by name and to the second by default, where there is one.
fn by_name(name: &str, named: &UdpSocket, other: Option<&UdpSocket>, more: &str) -> String {
    let upstream = |key: &str, socket: &UdpSocket| {
        format!("[upstream.{key}]\nendpoints = [\"{}\"]\n", socket.local_addr().unwrap())
    };
    let default = if other.is_some() { ", default = \"other\"" } else { "" };
    format!(
        "[[listener]]\nname = \"quic\"\nbind = \"127.0.0.1:0\"\nmode = \"udp\"\nsni = {{ \"{name}\" = \"named\"{default} }}\n\
         {more}\n{}{}",
        upstream("named", named),
        other.map(|other| upstream("other", other)).unwrap_or_default(),
    )
}

fn halves(version: u32) -> [Vec<u8>; 2] {
    let hello = hello();
    let (one, two) = hello.split_at(1000);
    // Out of order.
    [initial(version, DESTINATION, 0, &[(1000, two)]), initial(version, DESTINATION, 1, &[(0, one)])]
}

#[test]
fn a_client_goes_where_its_hello_says_with_every_byte_it_sent() {
    for version in [V1, V2] {
        let (named, other) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let mut proxy = Proxy::new(&by_name(&name(), &named, Some(&other), ""));
        let client = client(&proxy);
        let [one, two] = halves(version);
        client.send(&one).unwrap();
        proxy.idle();
        assert_eq!(proxy.counts().flows, 0, "it is not known yet where it leads");
        client.send(&two).unwrap();
        client.send(b"early data").unwrap();
        let (first, flow) = proxy.receive(&named);
        assert_eq!(first, one);
        assert_eq!(proxy.receive(&named), (two, flow));
        assert_eq!(proxy.receive(&named), (b"early data".to_vec(), flow));
        named.send_to(b"answer", flow).unwrap();
        assert_eq!(proxy.receive(&client).0, b"answer");
        assert_eq!((proxy.counts().flows, proxy.counts().datagrams_dropped), (1, 0));
    }
}

#[test]
fn what_asks_for_another_name_or_cannot_be_read_goes_to_the_default() {
    let (named, other) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut proxy = Proxy::new(&by_name("unasked.example", &named, Some(&other), ""));
    for datagrams in [halves(V1).to_vec(), vec![b"no quic at all".to_vec()], vec![vec![0xff; 1300]]] {
        let client = client(&proxy);
        for datagram in &datagrams {
            client.send(datagram).unwrap();
        }
        for datagram in &datagrams {
            assert_eq!(&proxy.receive(&other).0, datagram);
        }
    }
    assert_eq!((proxy.counts().hellos_refused, proxy.counts().datagrams_dropped), (0, 0));
}

#[test]
fn without_a_default_what_leads_nowhere_is_dropped_and_counted() {
    let named = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&by_name("unasked.example", &named, None, ""));
    let client = client(&proxy);
    halves(V1).iter().for_each(|datagram| assert!(client.send(datagram).is_ok()));
    proxy.until("the drops", |proxy| (proxy.counts().datagrams_dropped == 2).then_some(()));
    client.send(b"and this").unwrap();
    proxy.until("the last drop", |proxy| (proxy.counts().datagrams_dropped == 3).then_some(()));
    assert_eq!((proxy.counts().hellos_refused, proxy.counts().flows), (2, 0));
}

#[test]
fn a_hello_that_stays_incomplete_goes_to_the_default_after_a_while() {
    let (named, other) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut proxy = Proxy::new(&by_name(&name(), &named, Some(&other), ""));
    let client = client(&proxy);
    let [one, two] = halves(V1);
    client.send(&one).unwrap();
    proxy.idle();
    assert!(proxy.udp.expire(proxy.poll.registry(), Instant::now()).is_some(), "nobody would look again");
    proxy.ahead = Duration::from_secs(4);
    assert_eq!(proxy.receive(&other).0, one);
    client.send(&two).unwrap();
    assert_eq!(proxy.receive(&other).0, two, "the flow stays where it began");
}

#[test]
fn no_client_has_more_held_than_a_hello_needs() {
    let (named, other) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut proxy = Proxy::new(&by_name(&name(), &named, Some(&other), ""));
    let client = client(&proxy);
    let [one, _] = halves(V1);
    (0..30).for_each(|_| assert!(client.send(&one).is_ok()));
    (0..30).for_each(|_| assert_eq!(proxy.receive(&other).0, one));
}

#[test]
fn what_a_proxy_tells_of_a_client_is_kept_while_its_hello_is_read() {
    use crate::config::model::SendProxyProtocol;
    let (named, other) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let more = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = \"require\"";
    for whole in [true, false] {
        let config = by_name(&name(), &named, Some(&other), more);
        let config = config.replace("\nendpoints", "\nsend_proxy_protocol = \"v2\"\nendpoints");
        let mut proxy = Proxy::new(&config);
        let client = client(&proxy);
        let mut header = Vec::new();
        let told: SocketAddr = "192.0.2.9:4000".parse().unwrap();
        proxy_protocol::write(&mut header, SendProxyProtocol::V2, Transport::Datagram, Some(told), None, &[]);
        for datagram in &halves(V1)[..if whole { 2 } else { 1 }] {
            client.send(&[&header[..], datagram].concat()).unwrap();
            proxy.idle();
        }
        proxy.ahead = Duration::from_secs(4);
        let bytes = proxy.receive(if whole { &named } else { &other }).0;
        let Reading::Header(header) = proxy_protocol::read(&bytes) else { panic!("no header") };
        assert_eq!(header.client, Some(told));
    }
}

/// An Initial packet of an endpoint that chose `id`, as far as anybody on the way reads it.
fn answer(id: &[u8]) -> Vec<u8> {
    [&[0xc0, 0, 0, 0, 1, 0, id.len() as u8], id, &[0; 1180]].concat()
}

#[test]
fn a_client_whose_address_changed_comes_back_to_the_endpoint_of_its_connection() {
    let endpoints: Vec<_> = (0..4).map(|_| socket("127.0.0.1:0")).collect();
    let other = socket("127.0.0.1:0");
    let all: Vec<_> = endpoints.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
    let config = by_name(&name(), &endpoints[0], Some(&other), "");
    let mut proxy = Proxy::new(&config.replace(&format!("[\"{}\"]", all[0]), &format!("{all:?}")));
    let heard = |proxy: &mut Proxy| {
        let mut bytes = [0; 2000];
        proxy.until("a datagram at an endpoint", |_| {
            endpoints.iter().enumerate().find_map(|(at, socket)| {
                let (length, from) = socket.recv_from(&mut bytes).ok()?;
                Some((at, bytes[..length].to_vec(), from))
            })
        })
    };
    let ids: [&[u8]; 2] = [b"endpoint's choice", b"four"];
    for id in ids {
        let client = client(&proxy);
        halves(V1).iter().for_each(|datagram| assert!(client.send(datagram).is_ok()));
        let (at, _, flow) = heard(&mut proxy);
        assert_eq!(heard(&mut proxy).0, at);
        endpoints[at].send_to(&answer(id), flow).unwrap();
        assert_eq!(proxy.receive(&client).0, answer(id));
        // From elsewhere: first with a short header, then, to another connection ID, with a long one.
        for (header, rest) in [(vec![0x41], b"data".to_vec()), (vec![0xe0, 0, 0, 0, 1, id.len() as u8], vec![0; 60])] {
            let moved = socket("127.0.0.1:0");
            let datagram = [&header[..], id, &rest].concat();
            moved.send_to(&datagram, proxy.address).unwrap();
            let (again, got, path) = heard(&mut proxy);
            assert_eq!((again, got), (at, datagram));
            assert_ne!(path, flow, "the endpoint sees that the path is another one");
            endpoints[at].send_to(b"to the new address", path).unwrap();
            assert_eq!(proxy.receive(&moved).0, b"to the new address");
        }
    }
    // One that nobody gave.
    let stranger = socket("127.0.0.1:0");
    stranger.send_to(b"\x41nobody's choice", proxy.address).unwrap();
    assert_eq!(proxy.receive(&other).0, b"\x41nobody's choice");
}
