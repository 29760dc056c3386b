use super::*;
use crate::config::model::SendProxyProtocol;

fn header(client: &str, local: &str, tlvs: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (client, local) = (client.parse().unwrap(), local.parse().unwrap());
    proxy_protocol::write(&mut bytes, SendProxyProtocol::V2, Transport::Datagram, Some(client), Some(local), tlvs);
    bytes
}

fn behind(header: &[u8], datagram: &[u8]) -> Vec<u8> {
    [header, datagram].concat()
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = \"require\"";

#[test]
fn every_datagram_tells_the_endpoint_of_its_client() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text(":0", &[&endpoint], "", "send_proxy_protocol = \"v2\""));
    let client = socket("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 9], proxy.address.port()));
    for datagram in [&b"one"[..], b"two", b""] {
        client.send_to(datagram, to).unwrap();
        let (bytes, _) = proxy.receive(&endpoint);
        let Reading::Header(header) = proxy_protocol::read(&bytes) else { panic!("no header before {datagram:?}") };
        assert_eq!((header.client, header.local), (Some(client.local_addr().unwrap()), Some(to)));
        assert_eq!(&bytes[header.length..], datagram);
        // A datagram over IPv4.
        assert_eq!(bytes[13], 0x12);
    }
}

#[test]
fn what_a_trusted_proxy_tells_is_passed_on_and_counted_by() {
    let endpoint = socket("127.0.0.1:0");
    let tlvs = [0xe0, 0, 2, 7, 7];
    let listener = format!("{TRUSTED}\nlimits = {{ max_connections_per_ip = 1 }}");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], &listener, "send_proxy_protocol = \"v2\""));
    let from = client(&proxy);
    from.send(&behind(&header("192.0.2.1:5000", "198.51.100.1:53", &tlvs), b"question")).unwrap();
    let (bytes, flow) = proxy.receive(&endpoint);
    let Reading::Header(told) = proxy_protocol::read(&bytes) else { panic!("no header") };
    assert_eq!(told.client, Some("192.0.2.1:5000".parse().unwrap()));
    assert_eq!(told.local, Some("198.51.100.1:53".parse().unwrap()));
    assert_eq!((told.tlvs, &bytes[told.length..]), (&tlvs[..], &b"question"[..]));
    // The answer goes to the proxy in front, as it is.
    endpoint.send_to(b"answer", flow).unwrap();
    assert_eq!(proxy.receive(&from).0, b"answer");
    // A second flow of the client that was told of is one too many, and of another client it is not.
    from.send(&behind(&header("192.0.2.1:5001", "198.51.100.1:53", &[]), b"second")).unwrap();
    proxy.until("a drop", |proxy| (proxy.counts().datagrams_dropped == 1).then_some(()));
    from.send(&behind(&header("192.0.2.2:5000", "198.51.100.1:53", &[]), b"other")).unwrap();
    assert!(proxy.receive(&endpoint).0.ends_with(b"other"));
}

#[test]
fn clients_behind_one_address_of_a_proxy_have_flows_of_their_own() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], TRUSTED, ""));
    let from = client(&proxy);
    let mut flows = Vec::new();
    for round in 0..2 {
        for client in 0..3_u8 {
            let address = format!("192.0.2.{client}:53");
            from.send(&behind(&header(&address, "198.51.100.1:53", &[]), &[client])).unwrap();
            let (bytes, flow) = proxy.receive(&endpoint);
            assert_eq!(bytes, [client]);
            if round == 0 {
                flows.push(flow);
            }
            assert_eq!(flows[usize::from(client)], flow);
        }
    }
    assert_eq!(proxy.counts().flows, 3);
    // A datagram without a header goes where the proxy's first one went, as proxies send them that tell once.
    from.send(b"bare").unwrap();
    assert_eq!(proxy.receive(&endpoint), (b"bare".to_vec(), flows[0]));
}

#[test]
fn whoever_is_not_trusted_or_tells_nothing_is_refused_where_a_header_is_required() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], TRUSTED, ""));
    let told = behind(&header("192.0.2.1:5000", "198.51.100.1:53", &[]), b"x");
    let broken = [&told[..12], &[0x99; 20]].concat();
    client(&proxy).send(b"no header").unwrap();
    client(&proxy).send(&broken).unwrap();
    client(&proxy).send(&told[..20]).unwrap();
    socket("127.0.0.2:0").send_to(&told, proxy.address).unwrap();
    proxy.until("four refusals", |proxy| (proxy.counts().proxy_headers_refused == 4).then_some(()));
    assert_eq!((proxy.counts().datagrams_dropped, proxy.counts().flows), (4, 0));
}

#[test]
fn where_a_header_is_optional_it_is_believed_of_trusted_proxies_alone() {
    let endpoint = socket("127.0.0.1:0");
    let optional = TRUSTED.replace("require", "optional");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], &optional, ""));
    let told = behind(&header("192.0.2.1:5000", "198.51.100.1:53", &[]), b"x");
    client(&proxy).send(&told).unwrap();
    assert_eq!(proxy.receive(&endpoint).0, b"x");
    client(&proxy).send(b"bare").unwrap();
    assert_eq!(proxy.receive(&endpoint).0, b"bare");
    // From somebody else the bytes are the client's own.
    socket("127.0.0.2:0").send_to(&told, proxy.address).unwrap();
    assert_eq!(proxy.receive(&endpoint).0, told);
}
