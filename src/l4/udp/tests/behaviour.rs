use super::*;

fn send_all(clients: &[UdpSocket]) {
    for client in clients {
        client.send(b"x").unwrap();
    }
}

#[test]
fn datagrams_of_every_size_pass_both_ways_and_are_never_mixed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let endpoint = socket("127.0.0.1:0");
    socket2::SockRef::from(&endpoint).set_recv_buffer_size(4 << 20).unwrap();
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "socket = { recv_buffer = \"4MiB\" }", ""));
    let clients: Vec<_> = (0..20).map(|_| client(&proxy)).collect();
    let mut flows: HashMap<SocketAddr, usize> = HashMap::new();
    let mut bytes = vec![0; 65_536];
    // One side fills its datagrams with the number of the client and what it says back with the complement.
    let (mut sent, mut back) = (vec![Vec::new(); 20], vec![Vec::new(); 20]);
    let (mut arrived, mut returned) = (vec![Vec::new(); 20], vec![Vec::new(); 20]);
    for _ in 0..300 {
        for _ in 0..rng.usize(0..8) {
            let who = rng.usize(0..20);
            let length = if rng.u8(0..10) == 0 { rng.usize(0..60_000) } else { rng.usize(0..1500) };
            clients[who].send(&vec![who as u8; length]).unwrap();
            sent[who].push(length);
        }
        proxy.round();
        while let Ok((length, from)) = endpoint.recv_from(&mut bytes) {
            let known = flows.get(&from).copied();
            let who = known.or_else(|| (length > 0).then(|| usize::from(bytes[0])));
            let Some(who) = who else { continue };
            flows.insert(from, who);
            assert!(bytes[..length].iter().all(|byte| usize::from(*byte) == who), "mixed on the way in");
            arrived[who].push(length);
            if rng.bool() {
                let length = rng.usize(0..2000);
                endpoint.send_to(&vec![!(who as u8); length], from).unwrap();
                back[who].push(length);
            }
        }
        for (who, client) in clients.iter().enumerate() {
            while let Ok(length) = client.recv(&mut bytes) {
                assert!(bytes[..length].iter().all(|byte| *byte == !(who as u8)), "mixed on the way back");
                returned[who].push(length);
            }
        }
    }
    proxy.idle();
    for (who, client) in clients.iter().enumerate() {
        while let Ok(length) = client.recv(&mut bytes) {
            returned[who].push(length);
        }
    }
    assert_eq!(flows.len(), 20);
    for who in 0..20 {
        // The endpoint cannot tell whose an empty first datagram is.
        let first = sent[who].iter().position(|length| *length > 0).unwrap();
        assert!(sent[who][first..].ends_with(&arrived[who]) || sent[who].ends_with(&arrived[who]));
        assert_eq!(returned[who], back[who]);
    }
    let counts = proxy.counts();
    let total = |lists: &[Vec<usize>]| lists.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!((counts.datagrams_in, counts.datagrams_out), (total(&sent), total(&back)));
    assert_eq!(counts.datagrams_dropped, 0);
    assert_eq!(counts.bytes_downstream_in, sent.iter().flatten().sum::<usize>() as u64);
    assert_eq!(counts.bytes_upstream_out, counts.bytes_downstream_in);
    assert_eq!(counts.bytes_downstream_out, back.iter().flatten().sum::<usize>() as u64);
    assert_eq!(counts.bytes_upstream_in, counts.bytes_downstream_out);
    assert_eq!((counts.flows, counts.flows_open), (20, 20));
}

#[test]
fn a_silent_flow_ends_well_and_the_next_datagram_begins_another() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "timeouts = { idle = \"30s\" }", ""));
    let client = client(&proxy);
    client.send(b"one").unwrap();
    let (_, first) = proxy.receive(&endpoint);
    proxy.ahead = Duration::from_secs(29);
    client.send(b"two").unwrap();
    assert_eq!(proxy.receive(&endpoint).1, first);
    proxy.ahead = Duration::from_secs(58);
    proxy.idle();
    assert_eq!(proxy.counts().flows_open, 1);
    proxy.ahead = Duration::from_secs(62);
    proxy.until("the end", |proxy| (proxy.counts().flows_open == 0).then_some(()));
    assert_eq!(proxy.process.open(), 0);
    assert_eq!(proxy.counts().outcome_ok, 1);
    client.send(b"three").unwrap();
    proxy.receive(&endpoint);
    assert_eq!(proxy.counts().flows, 2);
}

#[test]
fn a_flow_is_cut_at_its_age_however_busy_it_is() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy =
        Proxy::new(&text("127.0.0.1:0", &[&endpoint], "timeouts = { idle = \"30s\", max_age = \"1m\" }", ""));
    let client = client(&proxy);
    for _ in 0..5 {
        client.send(b"x").unwrap();
        proxy.receive(&endpoint);
        proxy.ahead += Duration::from_secs(20);
    }
    assert_eq!((proxy.counts().flows, proxy.counts().flows_open), (1, 0));
    assert_eq!(proxy.counts().outcome(Kind::ExchangeTimeout), 1);
}

#[test]
fn limits_keep_further_clients_out_and_a_flow_that_ends_lets_one_in() {
    let endpoint = socket("127.0.0.1:0");
    let limits = "limits = { max_connections = 2 }\ntimeouts = { idle = \"30s\" }";
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], limits, ""));
    let clients: Vec<_> = (0..3).map(|_| client(&proxy)).collect();
    send_all(&clients);
    proxy.receive(&endpoint);
    proxy.receive(&endpoint);
    proxy.until("the third dropped", |proxy| (proxy.counts().datagrams_dropped == 1).then_some(()));
    assert_eq!(proxy.counts().flows, 2);
    proxy.ahead = Duration::from_secs(31);
    proxy.idle();
    clients[2].send(b"y").unwrap();
    assert_eq!(proxy.receive(&endpoint).0, b"y");
}

#[test]
fn one_address_has_no_more_flows_than_it_may() {
    let endpoint = socket("127.0.0.1:0");
    let limits = "limits = { max_connections_per_ip = 1 }";
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], limits, ""));
    let (first, second) = (client(&proxy), client(&proxy));
    let other = socket("127.0.0.2:0");
    first.send(b"first").unwrap();
    proxy.receive(&endpoint);
    second.send(b"second").unwrap();
    proxy.until("a drop", |proxy| (proxy.counts().datagrams_dropped == 1).then_some(()));
    other.send_to(b"other", proxy.address).unwrap();
    assert_eq!(proxy.receive(&endpoint).0, b"other");
}

#[test]
fn an_endpoint_that_is_not_there_ends_the_flow_and_the_client_goes_on_elsewhere() {
    let gone = socket("127.0.0.1:0");
    let there = socket("127.0.0.1:0");
    let config = text("127.0.0.1:0", &[&gone, &there], "", "");
    drop(gone);
    let mut proxy = Proxy::new(&config);
    let client = client(&proxy);
    let mut asked = 0;
    let mut bytes = [0; 16];
    proxy.until("an answer of the one that is there", |_| {
        asked += 1;
        client.send(b"anybody?").unwrap();
        there.recv(&mut bytes).ok()
    });
    assert!(asked < 20);
    assert_eq!(proxy.counts().outcome(Kind::ConnectionRefused), 1);
    assert_eq!(proxy.errors(), [(Kind::ConnectionRefused, "nobody takes datagrams at the endpoint")]);
    assert_eq!(proxy.upstreams[0].pick(None, &[]).unwrap().endpoint().state.connect_failures(), 1);
}

#[test]
fn a_refusal_that_was_on_its_way_costs_the_next_datagram_nothing() {
    let gone = socket("127.0.0.1:0");
    let there = socket("127.0.0.1:0");
    let config = text("127.0.0.1:0", &[&gone, &there], "", "");
    drop(gone);
    let mut proxy = Proxy::new(&config);
    let client = client(&proxy);
    // Nobody looks at the flow's socket: the second meets what ICMP told of the first.
    let mut bytes = [0; 9];
    let end = Instant::now() + Duration::from_secs(20);
    while there.recv(&mut bytes).is_err() {
        assert!(Instant::now() < end, "the endpoint that is there got nothing");
        client.send(b"x").unwrap();
        proxy.udp.ready(proxy.poll.registry(), Source::Datagrams(0), Instant::now());
    }
    assert_eq!((proxy.counts().flows, proxy.counts().datagrams_dropped), (2, 0));
    assert_eq!(proxy.counts().outcome(Kind::ConnectionRefused), 1);
}

#[test]
fn flows_are_spread_and_stay_where_they_are() {
    let endpoints = [socket("127.0.0.1:0"), socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let all: Vec<_> = endpoints.iter().collect();
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &all, "", ""));
    let clients: Vec<_> = (0..30).map(|_| client(&proxy)).collect();
    let mut bytes = [0; 16];
    let mut heard: Vec<HashMap<SocketAddr, u32>> = vec![HashMap::new(); 3];
    for _ in 0..3 {
        send_all(&clients);
        proxy.idle();
        for (endpoint, heard) in endpoints.iter().zip(&mut heard) {
            while let Ok((_, from)) = endpoint.recv_from(&mut bytes) {
                *heard.entry(from).or_default() += 1;
            }
        }
    }
    for heard in heard {
        assert_eq!((heard.len(), heard.values().min(), heard.values().max()), (10, Some(&3), Some(&3)));
    }
}

#[test]
fn one_client_address_meets_one_endpoint_where_addresses_are_hashed() {
    let endpoints = [socket("127.0.0.1:0"), socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let all: Vec<_> = endpoints.iter().collect();
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &all, "", "balance = \"ring-hash\""));
    let clients: Vec<_> = (0..20).map(|_| client(&proxy)).collect();
    send_all(&clients);
    proxy.idle();
    let mut bytes = [0; 16];
    let heard: Vec<_> =
        endpoints.iter().map(|endpoint| std::iter::from_fn(|| endpoint.recv(&mut bytes).ok()).count()).collect();
    assert!(heard.contains(&20), "{heard:?}");
}

#[test]
fn the_least_busy_endpoint_is_counted_by_flows() {
    let endpoints = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let all: Vec<_> = endpoints.iter().collect();
    let times = "timeouts = { idle = \"30s\" }";
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &all, times, "balance = \"least-requests\""));
    let clients: Vec<_> = (0..10).map(|_| client(&proxy)).collect();
    send_all(&clients);
    proxy.idle();
    let in_flight = |proxy: &Proxy| {
        let first = proxy.upstreams[0].pick(None, &[]).unwrap();
        first.endpoint().state.in_flight()
    };
    // The pick itself is one more.
    assert_eq!(in_flight(&proxy), 6);
    proxy.ahead = Duration::from_secs(31);
    proxy.idle();
    assert_eq!(in_flight(&proxy), 1);
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let endpoint = socket("127.0.0.1:0");
    let mut binds = vec![("0.0.0.0:0", vec!["127.0.0.1", "127.0.0.5"])];
    if UdpSocket::bind("[::1]:0").is_ok() {
        binds.push((":0", vec!["127.0.0.1", "127.0.0.5", "::1"]));
        binds.push(("[::]:0", vec!["::1"]));
    }
    for (bind, asked) in binds {
        let mut proxy = Proxy::new(&text(bind, &[&endpoint], "", ""));
        let (v4, v6) = (socket("127.0.0.1:0"), UdpSocket::bind("[::1]:0").ok());
        v6.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        for address in asked {
            let address = SocketAddr::new(address.parse().unwrap(), proxy.address.port());
            let client = if address.is_ipv4() { &v4 } else { v6.as_ref().unwrap() };
            client.send_to(b"which", address).unwrap();
            let (asked, flow) = proxy.receive(&endpoint);
            assert_eq!(asked, b"which");
            endpoint.send_to(b"this", flow).unwrap();
            assert_eq!(proxy.receive(client), (b"this".to_vec(), address), "{bind}");
        }
    }
}

#[test]
fn ipv6_clients_and_endpoints_meet_ipv4_ones() {
    let Ok(v6) = UdpSocket::bind("[::1]:0") else { return };
    v6.set_nonblocking(true).unwrap();
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&v6], "", ""));
    let from_v4 = client(&proxy);
    from_v4.send(b"four to six").unwrap();
    let (asked, flow) = proxy.receive(&v6);
    assert!(asked == b"four to six" && flow.is_ipv6());
    v6.send_to(b"back", flow).unwrap();
    assert_eq!(proxy.receive(&from_v4).0, b"back");
}

#[test]
fn datagrams_of_strangers_do_not_reach_a_client() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "", ""));
    let client = client(&proxy);
    client.send(b"x").unwrap();
    let (_, flow) = proxy.receive(&endpoint);
    socket("127.0.0.1:0").send_to(b"forged", flow).unwrap();
    proxy.idle();
    endpoint.send_to(b"true", flow).unwrap();
    assert_eq!(proxy.receive(&client).0, b"true");
}

#[test]
fn a_flow_leaves_an_endpoint_that_is_not_well_and_one_that_is_gone_but_not_one_that_drains() {
    let (one, two) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let config = text("127.0.0.1:0", &[&one, &two], "", "");
    let mut proxy = Proxy::new(&config);
    let client = client(&proxy);
    let heard = |proxy: &mut Proxy, client: &UdpSocket| {
        client.send(b"x").unwrap();
        let mut bytes = [0; 9];
        proxy.until("a datagram", |_| [&one, &two].iter().position(|endpoint| endpoint.recv(&mut bytes).is_ok()))
    };
    let at = heard(&mut proxy, &client);
    let set = proxy.registry.endpoint_set(&config::parse("t", &config).unwrap().upstreams[0]);
    set.all()[at].state.set(Bar::Drained, true);
    assert_eq!(heard(&mut proxy, &client), at, "a drained endpoint keeps its flows");
    set.all()[at].state.set(Bar::Drained, false);
    set.all()[at].state.set(Bar::Unhealthy, true);
    let again = proxy.registry.endpoint_set(&config::parse("t", &config).unwrap().upstreams[0]);
    proxy.upstreams[0].set_endpoints(again);
    assert_eq!(heard(&mut proxy, &client), 1 - at);
    set.all()[at].state.set(Bar::Unhealthy, false);
    // A generation without the endpoint that it is at now.
    let left = text("127.0.0.1:0", &[[&one, &two][at]], "", "");
    let listener = proxy.listener(&left);
    assert!(proxy.udp.renew(ID, listener));
    proxy.udp.endpoints_changed();
    assert_eq!(heard(&mut proxy, &client), at);
    assert_eq!((proxy.counts().flows, proxy.counts().flows_open, proxy.counts().outcome_ok), (3, 1, 2));
}

#[test]
fn a_drain_lets_flows_end_and_nobody_begin() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "", ""));
    let (client, late) = (client(&proxy), client(&proxy));
    client.send(b"x").unwrap();
    let (_, flow) = proxy.receive(&endpoint);
    proxy.udp.drain(ID);
    late.send(b"too late").unwrap();
    proxy.until("a drop", |proxy| (proxy.counts().datagrams_dropped == 1).then_some(()));
    endpoint.send_to(b"answer", flow).unwrap();
    assert_eq!(proxy.receive(&client).0, b"answer");
    assert!(!proxy.udp.is_empty() && proxy.udp.sockets().is_empty());
    proxy.ahead = Duration::from_secs(4);
    proxy.idle();
    assert!(
        proxy.udp.is_empty() && proxy.open.upgrade().is_none(),
        "the socket is closed when the last flow has ended"
    );
    assert_eq!(proxy.counts().outcome_ok, 1);
}

#[test]
fn a_cut_ends_everything() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "", ""));
    let client = client(&proxy);
    client.send(b"x").unwrap();
    proxy.receive(&endpoint);
    proxy.udp.cut(Instant::now());
    assert!(proxy.udp.is_empty() && proxy.open.upgrade().is_none());
    assert_eq!((proxy.counts().flows_open, proxy.process.open()), (0, 0));
}

#[test]
fn a_reload_changes_the_deadlines_of_flows_that_are_open() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "timeouts = { idle = \"10m\" }", ""));
    let client = client(&proxy);
    client.send(b"x").unwrap();
    proxy.receive(&endpoint);
    let shorter = text("127.0.0.1:0", &[&endpoint], "timeouts = { idle = \"10s\" }", "");
    let listener = proxy.listener(&shorter);
    assert!(proxy.udp.renew(ID, listener));
    proxy.ahead = Duration::from_secs(11);
    proxy.until("the end", |proxy| (proxy.counts().flows_open == 0).then_some(()));
}

#[test]
fn without_an_endpoint_datagrams_are_dropped_and_told() {
    let endpoint = socket("127.0.0.1:0");
    let config = text("127.0.0.1:0", &[&endpoint], "", "");
    let mut proxy = Proxy::new(&config);
    let parsed = config::parse("t", &config).unwrap();
    let set = proxy.registry.endpoint_set(&parsed.upstreams[0]);
    set.all()[0].state.set(Bar::Drained, true);
    let none = proxy.registry.endpoint_set(&parsed.upstreams[0]);
    proxy.upstreams[0].set_endpoints(none);
    client(&proxy).send(b"x").unwrap();
    proxy.until("a drop", |proxy| (proxy.counts().datagrams_dropped == 1).then_some(()));
    assert_eq!(proxy.counts().outcome(Kind::DestinationUnavailable), 1);
    assert_eq!((proxy.counts().flows, proxy.process.open()), (0, 0));
}

#[test]
fn a_flood_of_one_flow_leaves_turns_for_another() {
    let endpoint = socket("127.0.0.1:0");
    let mut proxy = Proxy::new(&text("127.0.0.1:0", &[&endpoint], "", ""));
    let (loud, quiet) = (client(&proxy), client(&proxy));
    let mut bytes = [0; 4096];
    for client in [&loud, &quiet] {
        client.send(b"hello").unwrap();
    }
    let flows: HashMap<_, _> = (0..2).map(|_| proxy.receive(&endpoint)).map(|(_, from)| (from, ())).collect();
    let mut flows = flows.into_keys();
    let (first, second) = (flows.next().unwrap(), flows.next().unwrap());
    for _ in 0..200 {
        endpoint.send_to(&[1; 64], first).unwrap();
    }
    endpoint.send_to(b"mine", second).unwrap();
    let now = Instant::now();
    let mut events = Events::with_capacity(64);
    proxy.poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
    for event in &events {
        proxy.udp.ready(proxy.poll.registry(), Source::of(event.token()).unwrap(), now);
    }
    proxy.udp.outbox.flush(&proxy.udp.relays);
    let got = |client: &UdpSocket, bytes: &mut [u8]| std::iter::from_fn(|| client.recv(bytes).ok()).count();
    let (a, b) = (got(&loud, &mut bytes), got(&quiet, &mut bytes));
    assert_eq!(a.min(b), 1, "the other has its answer");
    assert!(a.max(b) < 200, "before all of the flood");
    let mut rest = a.max(b);
    proxy.until("the rest", |_| {
        rest += got(&loud, &mut bytes) + got(&quiet, &mut bytes);
        (rest == 200).then_some(())
    });
}
