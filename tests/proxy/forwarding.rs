//! `mode = "forward"`: clients that are pointed at a proxy go where they say, if that is allowed, and nowhere else.

use std::net::SocketAddr;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tidegate::base::addr::Address;
use tidegate::body::incoming::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::spawn_local;

use crate::support::body::{Feed, Sent};
use crate::support::client::{Client, Reply, of};
use crate::support::names::Names;
use crate::support::origin::{Origin, RawOrigin, Seen};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::{End, Raw};
use crate::support::tests;

tests! {
    a_request_goes_where_it_says_on_every_http,
    connections_to_an_origin_are_kept,
    what_is_meant_for_the_proxy_goes_no_further,
    what_is_not_a_request_for_a_proxy_is_told_so,
    nothing_is_reached_that_is_not_written,
    addresses_in_a_guise_lead_nowhere,
    a_tunnel_over_http1_carries_bytes_both_ways,
    bytes_sent_before_the_answer_reach_the_destination,
    a_tunnel_over_http2_carries_bytes_both_ways,
    a_tunnel_over_http3_carries_bytes_both_ways,
    a_tunnel_that_cannot_be_is_answered_with_why,
    what_was_meant_for_a_refused_tunnel_is_no_request,
    a_name_is_resolved_and_its_addresses_are_judged,
    a_name_that_turns_elsewhere_is_judged_anew,
    a_name_that_is_nowhere_or_never_answered_is_told_apart,
    a_name_that_is_not_allowed_is_never_asked_for,
    a_dead_address_is_passed_over,
    who_asks_has_to_say_who_it_is,
    a_password_file_that_changes_is_in_use,
    who_guesses_passwords_leaves_room_for_others,
    a_proxy_that_is_its_own_destination_is_a_circle,
    a_request_that_passed_too_often_goes_no_further,
    an_https_url_is_sent_over_tls_or_not_at_all,
    what_goes_out_is_counted_under_one_name,
}

const NEAR: &str = "forward.allow = \"127.0.0.0/8:*\"";

/// A forward listener with these keys.
fn plan(keys: &str) -> Plan {
    Plan::default().listener("mode = \"forward\"").listener(keys).routes("")
}

async fn origin() -> Origin {
    Origin::start(Upstream::Http1, async |request| {
        Response::new(Sent::from(format!("{} {}", request.method(), request.uri())))
    })
    .await
}

/// The last request that came there.
fn last(origin: &Origin) -> Seen {
    origin.seen().pop().expect("no request came")
}

/// Gives back, in brackets, what it gets, and a last word when its client has ended.
async fn echo() -> RawOrigin {
    RawOrigin::start(async |mut connection: Raw, _| {
        while let Some(bytes) = connection.exactly(4).await {
            connection.send([&b"<"[..], &bytes, b">"].concat()).await;
        }
        connection.send("bye").await;
    })
    .await
}

/// A client of the proxy that asks for cleartext origins, whatever its own connection is.
async fn client(proxy: &Proxy, speaks: Downstream) -> Client {
    Client::connect(proxy.address(), speaks).await.asking_for(Scheme::HTTP)
}

/// A request for `path` at `address`, as the client's protocol has it.
fn at(speaks: Downstream, address: impl ToString, path: &str) -> Request<Sent> {
    let address = address.to_string();
    let is_http1 = matches!(speaks, Downstream::H1 | Downstream::H1Tls);
    let target = if is_http1 { format!("http://{address}{path}") } else { path.to_owned() };
    let mut request = of(Method::GET, &target, Sent::empty());
    request.headers_mut().insert("host", address.parse().unwrap());
    request
}

fn plan_for(speaks: Downstream, keys: &str) -> Plan {
    match speaks {
        Downstream::H1 | Downstream::H2 => plan(keys),
        Downstream::H1Tls | Downstream::H2Tls => plan(keys).tls(),
        Downstream::H3 => plan(keys).tls().listener("protocols = [\"http1\", \"http2\", \"http3\"]"),
    }
}

const EVERY: [Downstream; 5] = [Downstream::H1, Downstream::H1Tls, Downstream::H2, Downstream::H2Tls, Downstream::H3];

async fn a_request_goes_where_it_says_on_every_http() {
    let origin = origin().await;
    for speaks in EVERY {
        let proxy = plan_for(speaks, NEAR).start();
        let mut client = client(&proxy, speaks).await;
        let reply = client.call(at(speaks, origin.address(), "/a%2Fb/../c?d=//e")).await;
        assert_eq!((reply.status().as_u16(), reply.text()), (200, "GET /a%2Fb/../c?d=//e"), "{speaks:?}");
        assert!(reply.field("alt-svc").is_none(), "it is none of the origin's");
        let seen = last(&origin);
        assert_eq!(seen.headers["host"], origin.address().to_string());
        assert!(seen.headers["via"].to_str().unwrap().ends_with("tidegate"));
        for name in ["x-forwarded-for", "x-request-id", "traceparent", "forwarded"] {
            assert!(!seen.headers.contains_key(name), "{speaks:?}: {name}");
        }
    }
}

async fn connections_to_an_origin_are_kept() {
    let (first, second) = (origin().await, origin().await);
    let proxy = plan(NEAR).start();
    for _ in 0..3 {
        let mut client = client(&proxy, Downstream::H1).await;
        for origin in [&first, &second] {
            assert_eq!(client.call(at(Downstream::H1, origin.address(), "/")).await.status(), 200);
        }
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

async fn what_is_meant_for_the_proxy_goes_no_further() {
    let origin = origin().await;
    let proxy = plan(NEAR).start();
    let mut raw = Raw::connect(proxy.address()).await;
    let address = origin.address();
    raw.send(format!(
        "GET http://{address}/ HTTP/1.1\r\nHost: other.example\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
         Connection: x-mine\r\nX-Mine: 1\r\nX-Yours: 2\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    let seen = last(&origin);
    let names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(seen.headers["host"], address.to_string(), "the target wins over Host");
    for name in ["proxy-connection", "proxy-authorization", "x-mine"] {
        assert!(!names.contains(&name), "{names:?}");
    }
    assert!(names.contains(&"x-yours"));
}

async fn what_is_not_a_request_for_a_proxy_is_told_so() {
    let proxy = plan("forward.allow = \"*:*\"").start();
    for head in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example:0/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example:0 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example:99999 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example:443/path HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT http://a.example:443/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT u@a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT b\u{fc}cher.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(head).await;
        let status = raw.head().await.unwrap_or_else(|| panic!("{head}")).status();
        assert!(matches!(status, 400 | 501), "{status} for {head}");
    }
}

async fn nothing_is_reached_that_is_not_written() {
    let origin = origin().await;
    let port = origin.address().port();
    let proxy = plan("forward.allow = [\"*:*\", \"127.0.0.2:*\"]\nforward.deny = \"127.0.0.3:*\"").start();
    let mut client = client(&proxy, Downstream::H1).await;
    for (host, kind) in [
        ("127.0.0.1", "destination_ip_prohibited"),
        ("127.0.0.3", "destination_ip_prohibited"),
        ("[::1]", "destination_ip_prohibited"),
        ("[::ffff:127.0.0.1]", "destination_ip_prohibited"),
        ("[64:ff9b::7f00:1]", "destination_ip_prohibited"),
        ("[2002:7f00:1::]", "destination_ip_prohibited"),
        ("169.254.169.254", "destination_ip_prohibited"),
        ("10.0.0.1", "destination_ip_prohibited"),
        ("0.0.0.0", "destination_ip_prohibited"),
        ("LOCALHOST", "destination_ip_prohibited"),
        ("localhost.", "destination_ip_prohibited"),
    ] {
        client.call(at(Downstream::H1, format!("{host}:{port}"), "/")).await.is_fault(403, kind);
    }
    assert_eq!(origin.connections(), 0);
    let narrow = plan("forward.allow = \"a.example:443\"").start();
    let mut client = self::client(&narrow, Downstream::H1).await;
    for host in ["b.example:443", "a.example:80", "8.8.8.8:443"] {
        client.call(at(Downstream::H1, host, "/")).await.is_fault(403, "http_request_denied");
    }
}

async fn addresses_in_a_guise_lead_nowhere() {
    let origin = origin().await;
    let port = origin.address().port();
    let proxy = plan("forward.allow = [\"*:*\", \"127.0.0.0/8:*\"]").start();
    for host in ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.1", "[::1%25lo]", "127.0.0.1%00.example"]
    {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
        assert_eq!(raw.head().await.unwrap().status(), 400, "{host}");
    }
    let long = format!("{}example", "a.".repeat(2000));
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(format!("CONNECT {long}:{port} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
    assert_eq!(raw.head().await.unwrap().status(), 400);
    assert_eq!(origin.connections(), 0);
}

async fn a_tunnel_over_http1_carries_bytes_both_ways() {
    let echo = echo().await;
    for tls in [false, true] {
        let plan = if tls { plan(NEAR).tls() } else { plan(NEAR) };
        let proxy = plan.start();
        let mut raw = match tls {
            true => Raw::connect_tls(proxy.address()).await,
            false => Raw::connect(proxy.address()).await,
        };
        raw.send(connect(echo.address())).await;
        let head = raw.head().await.unwrap();
        assert_eq!(head.status(), 200);
        assert!(!head.has("content-length") && !head.has("transfer-encoding"), "{head:?}");
        for _ in 0..3 {
            raw.send(b"\0\r\n\xff").await;
            assert_eq!(raw.exactly(6).await.unwrap(), b"<\0\r\n\xff>");
        }
        raw.finish().await;
        assert_eq!(raw.rest().await, (b"bye".to_vec(), End::Clean), "what comes after an end still arrives");
    }
}

fn connect(address: impl ToString) -> String {
    format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", address.to_string())
}

async fn bytes_sent_before_the_answer_reach_the_destination() {
    let echo = echo().await;
    let proxy = plan(NEAR).start();
    let mut raw = Raw::connect(proxy.address()).await;
    // Looks like a request, and is none of ours to read.
    raw.send(connect(echo.address()) + "GET ").await;
    assert_eq!(raw.head().await.unwrap().status(), 200);
    assert_eq!(raw.exactly(6).await.unwrap(), b"<GET >");
}

/// The client's end of a tunnel on a stream.
enum Tunnel {
    Http2(TokioIo<Upgraded>),
    Http3(Feed, Incoming, Vec<u8>),
}

impl Tunnel {
    async fn open(client: &mut Client, to: SocketAddr) -> Result<Self, Reply> {
        let (feed, fed) = Sent::fed();
        let is_http3 = client.is_http3();
        let body = if is_http3 { fed } else { Sent::empty() };
        let mut request = of(Method::CONNECT, &to.to_string(), body);
        request.headers_mut().insert("host", to.to_string().parse().unwrap());
        let mut response = client.send(request).await.unwrap();
        if response.status() != 200 {
            return Err(Reply::take(response).await);
        }
        Ok(match is_http3 {
            true => Self::Http3(feed, response.into_body(), Vec::new()),
            false => {
                let upgrade = response.extensions_mut().remove::<OnUpgrade>().unwrap();
                Self::Http2(TokioIo::new(upgrade.await.unwrap()))
            }
        })
    }

    async fn send(&mut self, bytes: &'static [u8]) {
        match self {
            Self::Http2(io) => io.write_all(bytes).await.unwrap(),
            Self::Http3(feed, ..) => assert!(feed.send(Bytes::from_static(bytes)).await),
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        match self {
            Self::Http2(io) => {
                let mut bytes = vec![0; length];
                io.read_exact(&mut bytes).await.unwrap();
                bytes
            }
            Self::Http3(_, body, ahead) => {
                while ahead.len() < length {
                    ahead.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
                }
                ahead.drain(..length).collect()
            }
        }
    }

    /// Ends this direction and takes what still comes.
    async fn finish(self) -> Vec<u8> {
        match self {
            Self::Http2(mut io) => {
                io.shutdown().await.unwrap();
                let mut rest = Vec::new();
                io.read_to_end(&mut rest).await.unwrap();
                rest
            }
            Self::Http3(feed, mut body, mut rest) => {
                drop(feed);
                while let Some(frame) = body.frame().await {
                    rest.extend(frame.unwrap().into_data().unwrap());
                }
                rest
            }
        }
    }
}

async fn tunnels(speaks: Downstream) {
    let echo = echo().await;
    let proxy = plan_for(speaks, NEAR).start();
    let mut client = client(&proxy, speaks).await;
    for _ in 0..2 {
        let mut tunnel = Tunnel::open(&mut client, echo.address()).await.unwrap_or_else(|reply| panic!("{reply:?}"));
        for _ in 0..3 {
            tunnel.send(b"ping").await;
            assert_eq!(tunnel.exactly(6).await, b"<ping>", "{speaks:?}");
        }
        assert_eq!(tunnel.finish().await, b"bye", "{speaks:?}");
    }
    let refused = Tunnel::open(&mut client, "10.0.0.1:443".parse().unwrap()).await.err().expect("it is refused");
    refused.is_fault(403, "destination_ip_prohibited");
}

async fn a_tunnel_over_http2_carries_bytes_both_ways() {
    tunnels(Downstream::H2).await;
    tunnels(Downstream::H2Tls).await;
}

async fn a_tunnel_over_http3_carries_bytes_both_ways() {
    tunnels(Downstream::H3).await;
}

async fn a_tunnel_that_cannot_be_is_answered_with_why() {
    let proxy = plan("forward.allow = [\"127.0.0.0/8:1-65535\", \"[::1]:*\"]\nforward.deny = \"127.0.0.3:*\"").start();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (to, status, kind) in [
        (closed.to_string(), 502, "connection_refused"),
        (format!("127.0.0.3:{}", closed.port()), 403, "destination_ip_prohibited"),
        ("192.168.0.1:443".to_owned(), 403, "destination_ip_prohibited"),
        ("8.8.8.8:443".to_owned(), 403, "http_request_denied"),
    ] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(connect(&to)).await;
        let answer = raw.response().await.unwrap();
        let told = answer.field("proxy-status").unwrap().to_owned();
        assert_eq!(answer.status(), status, "{to}: {told}");
        assert!(told.starts_with(&format!("tidegate; error={kind};")), "{to}: {told}");
    }
}

/// What comes behind it may be the words of somebody whom the client carries.
async fn what_was_meant_for_a_refused_tunnel_is_no_request() {
    let origin = origin().await;
    let proxy = plan(NEAR).start();
    let mut raw = Raw::connect(proxy.address()).await;
    let address = origin.address();
    raw.send(connect("10.0.0.1:443") + &format!("GET http://{address}/x HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    let refused = raw.response().await.unwrap();
    assert_eq!((refused.status(), refused.field("connection")), (403, Some("close")));
    assert_eq!(raw.rest().await.0, b"");
    assert_eq!(origin.connections(), 0);
}

async fn a_name_is_resolved_and_its_addresses_are_judged() {
    let (origin, names) = (origin().await, Names::start().await);
    let port = origin.address().port();
    names.says("a.test", &["127.0.0.1"]);
    names.says("b.test", &["127.0.0.1"]);
    let keys =
        format!("forward.allow = [\"127.0.0.0/8:*\", \"*.test:*\"]\nforward.deny = \"b.test:*\"\n{}", names.key());
    let proxy = plan(&keys).start();
    let mut allowed = client(&proxy, Downstream::H1).await;
    let reply = allowed.call(at(Downstream::H1, format!("A.Test.:{port}"), "/n")).await;
    assert_eq!((reply.status().as_u16(), reply.text()), (200, "GET /n"));
    allowed.call(at(Downstream::H1, format!("b.test:{port}"), "/")).await.is_fault(403, "http_request_denied");
    let strict = plan(&format!("forward.allow = \"*.test:*\"\n{}", names.key())).start();
    let mut strict = client(&strict, Downstream::H1).await;
    strict.call(at(Downstream::H1, format!("a.test:{port}"), "/")).await.is_fault(403, "destination_ip_prohibited");
}

async fn a_name_that_turns_elsewhere_is_judged_anew() {
    let (origin, names) = (origin().await, Names::start().await);
    names.says("turns.test", &["127.0.0.1"]);
    names.says("turns.test", &["127.0.0.9"]);
    let proxy = plan(&format!("forward.allow = [\"turns.test:*\", \"127.0.0.1:*\"]\n{}", names.key())).start();
    for expected in [200, 403] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(connect(format!("turns.test:{}", origin.address().port()))).await;
        assert_eq!(raw.head().await.unwrap().status(), expected);
    }
}

async fn a_name_that_is_nowhere_or_never_answered_is_told_apart() {
    let names = Names::start().await;
    names.is_silent_about("silent.test");
    let keys = format!("forward.allow = \"*.test:*\"\nforward.timeouts.connect = \"400ms\"\n{}", names.key());
    let proxy = plan(&keys).start();
    let mut client = client(&proxy, Downstream::H1).await;
    client.call(at(Downstream::H1, "nowhere.test:80", "/")).await.is_fault(502, "dns_error");
    client.call(at(Downstream::H1, "silent.test:80", "/")).await.is_fault(504, "dns_timeout");
}

async fn a_name_that_is_not_allowed_is_never_asked_for() {
    let names = Names::start().await;
    names.says("secret.test", &["127.0.0.1"]);
    let proxy = plan(&format!("forward.allow = \"a.test:443\"\n{}", names.key())).start();
    let mut client = client(&proxy, Downstream::H1).await;
    client.call(at(Downstream::H1, "secret.test:443", "/")).await.is_fault(403, "http_request_denied");
    assert!(names.asked().is_empty(), "{:?}", names.asked());
}

async fn a_dead_address_is_passed_over() {
    let (origin, names) = (origin().await, Names::start().await);
    names.says("many.test", &["127.0.0.9", "127.0.0.8", "127.0.0.1"]);
    let proxy = plan(&format!("forward.allow = \"127.0.0.0/8:*\"\n{}", names.key())).start();
    let mut client = client(&proxy, Downstream::H1).await;
    let reply = client.call(at(Downstream::H1, format!("many.test:{}", origin.address().port()), "/")).await;
    assert_eq!(reply.status(), 200);
}

/// `name:password` as a client sends it.
fn basic(words: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(words))
}

async fn who_asks_has_to_say_who_it_is() {
    let origin = origin().await;
    let members = format!("{NEAR}\nforward.users = \"@/users\"");
    for speaks in [Downstream::H1, Downstream::H2Tls, Downstream::H3] {
        let proxy = plan_for(speaks, &members).start();
        let mut client = client(&proxy, speaks).await;
        let ask = |words: Option<&str>| {
            let mut request = at(speaks, origin.address(), "/");
            if let Some(words) = words {
                request.headers_mut().insert("proxy-authorization", basic(words).parse().unwrap());
            }
            request
        };
        for words in [None, Some("ann:wrong"), Some("nobody:secret"), Some("ann:")] {
            let reply = client.call(ask(words)).await;
            reply.is_fault(407, "proxy_authentication_required");
            assert!(reply.field("proxy-authenticate").unwrap().starts_with("Basic realm="), "{words:?}");
        }
        for words in ["ann:secret", "ann:secret", "ben:geheim"] {
            assert_eq!(client.call(ask(Some(words))).await.status(), 200, "{words}");
            let seen = last(&origin).headers;
            let ours =
                ["proxy-authorization", "proxy-authenticate", "proxy-connection", "x-forwarded-for", "forwarded"];
            assert!(ours.iter().all(|name| !seen.contains_key(*name)), "{speaks:?}: {seen:?}");
        }
    }
    let proxy = plan(&members).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(connect("10.0.0.1:443")).await;
    assert_eq!(raw.response().await.unwrap().status(), 407, "a stranger learns nothing of the rules");
    let head = connect(origin.address());
    let head = head.trim_end().to_owned() + &format!("\r\nProxy-Authorization: {}\r\n\r\n", basic("ann:secret"));
    raw.send(head).await;
    assert_eq!(raw.head().await.unwrap().status(), 200);
}

async fn a_password_file_that_changes_is_in_use() {
    let origin = origin().await;
    let text = plan(&format!("{NEAR}\nforward.users = \"@/users\"")).text();
    let proxy = Proxy::start(&text);
    let ask = async |words: &str| {
        let mut client = client(&proxy, Downstream::H1).await;
        let mut request = at(Downstream::H1, origin.address(), "/");
        request.headers_mut().insert("proxy-authorization", basic(words).parse().unwrap());
        client.call(request).await.status().as_u16()
    };
    assert_eq!((ask("ann:secret").await, ask("ben:geheim").await), (200, 200));
    let path = proxy.file("users");
    let users = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, users.lines().next().unwrap()).unwrap();
    assert!(proxy.reload(&text));
    assert_eq!((ask("ann:secret").await, ask("ben:geheim").await), (200, 407));
}

/// A client at another address of this machine.
async fn from(source: &str, proxy: &Proxy, http2: bool) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Client::over(socket.connect(proxy.address()).await.unwrap(), http2, Scheme::HTTP).await
}

async fn who_guesses_passwords_leaves_room_for_others() {
    let origin = origin().await;
    let proxy = plan(&format!("{NEAR}\nforward.users = \"@/users\"")).start();
    let ask = |speaks, words: &str| {
        let mut request = at(speaks, origin.address(), "/");
        request.headers_mut().insert("proxy-authorization", basic(words).parse().unwrap());
        request
    };
    let guesser = from("127.0.0.2", &proxy, true).await;
    // More than may wait altogether.
    let guesses: Vec<_> = (0..100)
        .map(|number| {
            let mut sender = guesser.another();
            let mut request = ask(Downstream::H2, &format!("ann:guess{number}"));
            *request.uri_mut() = format!("http://{}/", origin.address()).parse().unwrap();
            request.headers_mut().remove("host");
            spawn_local(async move {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap().status().as_u16()
            })
        })
        .collect();
    let mut other = from("127.0.0.4", &proxy, false).await;
    assert_eq!(other.call(ask(Downstream::H1, "ann:secret")).await.status(), 200);
    for guess in guesses {
        let status = guess.await.unwrap();
        assert!(matches!(status, 407 | 503), "{status}");
    }
    assert_eq!(origin.count(), 1, "nothing else was let through");
}

async fn a_proxy_that_is_its_own_destination_is_a_circle() {
    let names = Names::start().await;
    names.says("circle.test", &["127.0.0.77"]);
    // Addresses that have to be written: nobody else binds to this one.
    let [one, two] = ["127.0.0.77:0"; 2].map(|any| std::net::TcpListener::bind(any).unwrap());
    let [one, two] = [one, two].map(|held| held.local_addr().unwrap());
    let listener = |name: &str, bind: SocketAddr| {
        let rules = "forward.allow = [\"127.0.0.0/8:*\", \"*.test:*\"]";
        format!("[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\nmode = \"forward\"\n{rules}\n{}\n", names.key())
    };
    let proxy = Proxy::start(&format!("[server]\nworkers = 1\n{}{}", listener("main", one), listener("second", two)));
    let mut client = client(&proxy, Downstream::H1).await;
    for to in [
        one.to_string(),
        two.to_string(),
        format!("circle.test:{}", two.port()),
        format!("[::ffff:127.0.0.77]:{}", one.port()),
    ] {
        client.call(at(Downstream::H1, &to, "/")).await.is_fault(502, "proxy_loop_detected");
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(connect(&to)).await;
        let answer = raw.response().await.unwrap();
        let told = answer.field("proxy-status").unwrap();
        assert!(answer.status() == 502 && told.contains("error=proxy_loop_detected;"), "{to}: {told}");
    }
    // Another process does not know us. What comes to it has no whole URL any more, and goes no further.
    let far = plan(NEAR).start();
    let far = client.call(at(Downstream::H1, far.address(), "/")).await;
    assert_eq!(far.status(), 400, "{far:?}");
}

async fn a_request_that_passed_too_often_goes_no_further() {
    let origin = origin().await;
    for speaks in [Downstream::H1, Downstream::H2] {
        let proxy = plan(NEAR).start();
        let mut client = client(&proxy, speaks).await;
        let mut request = at(speaks, origin.address(), "/");
        let passed = ["1.1 tidegate"; 9].join(", ");
        request.headers_mut().insert("via", passed.parse().unwrap());
        client.call(request).await.is_fault(502, "proxy_loop_detected");
    }
    assert_eq!(origin.connections(), 0);
}

async fn an_https_url_is_sent_over_tls_or_not_at_all() {
    // Its authority is none of the system's.
    let origin = Origin::start(Upstream::Http2Tls, async |_| Response::new(Sent::empty())).await;
    for speaks in [Downstream::H1Tls, Downstream::H2Tls, Downstream::H3] {
        let proxy = plan_for(speaks, NEAR).start();
        let mut client = Client::connect(proxy.address(), speaks).await.asking_for(Scheme::HTTPS);
        let mut request = at(speaks, origin.address(), "/");
        if speaks == Downstream::H1Tls {
            *request.uri_mut() = format!("https://{}/", origin.address()).parse().unwrap();
        }
        let reply = client.call(request).await;
        // Where the system has no authorities, nothing can be verified, and that is said at start.
        let told = reply.field("proxy-status").unwrap_or_default();
        let is_unverified = reply.status() == 502 && told.contains("error=tls_certificate_error;");
        assert!(is_unverified || reply.status() == 400, "{speaks:?}: {reply:?}");
    }
    let proxy = plan(NEAR).start();
    for speaks in [Downstream::H1, Downstream::H2] {
        let mut client = Client::connect(proxy.address(), speaks).await.asking_for(Scheme::HTTPS);
        let mut request = at(speaks, origin.address(), "/");
        if speaks == Downstream::H1 {
            *request.uri_mut() = format!("https://{}/", origin.address()).parse().unwrap();
        }
        client.call(request).await.is_fault(400, "http_request_error");
    }
    assert!(origin.seen().is_empty());
}

async fn what_goes_out_is_counted_under_one_name() {
    let (origin, echo) = (origin().await, echo().await);
    let proxy = plan(NEAR).more("[server.observe]\nbind = \"127.0.0.1:0\"").start();
    let mut client = client(&proxy, Downstream::H1).await;
    assert_eq!(client.call(at(Downstream::H1, origin.address(), "/")).await.status(), 200);
    client.call(at(Downstream::H1, "10.0.0.1:80", "/")).await.is_fault(403, "destination_ip_prohibited");
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(connect(echo.address()) + "ping").await;
    assert_eq!(raw.head().await.unwrap().status(), 200);
    raw.finish().await;
    assert_eq!(raw.rest().await.0, b"<ping>bye");
    let wanted = [
        "tidegate_requests_total{listener=\"main\"} 3",
        "tidegate_outcomes_total{listener=\"main\",kind=\"destination_ip_prohibited\"} 1",
        "tidegate_upstream_requests_total{upstream=\"forward:main\"} 2",
        "tidegate_upstream_response_body_bytes_total{upstream=\"forward:main\"} 14",
    ];
    let Some(Address::Socket(observe)) = proxy.running().own_address("observe") else { panic!("nobody to ask") };
    // An exchange is counted when it has ended, on both sides.
    let mut text = String::new();
    for _ in 0..1000 {
        let mut raw = Raw::connect(observe).await;
        raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        text = raw.response().await.unwrap().text().to_owned();
        if wanted.iter().all(|line| text.lines().any(|own| own == *line)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let told: Vec<_> = text
        .lines()
        .filter(|line| line.contains("main") && !line.contains("bucket") && !line.ends_with(" 0"))
        .collect();
    panic!("{told:#?}");
}
