//! Faults of origins, made rather than listed: in every phase of an exchange, in every way that an origin's protocol knows, at
//! once in front of one proxy. Each request ends once, in the same word everywhere; and nothing stays behind.

mod origin;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, fs};

use bytes::Bytes;
use serde_json::Value;
use tidegate::app::ExitReason;
use tidegate::base::addr::Address;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_local};

use crate::support::body::{Sent, next_piece, receive};
use crate::support::certificates::ORIGIN;
use crate::support::client::{Client, get, post};
use crate::support::origin::Closed;
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::{eventually, pairs};

pairs! {
    every_fault_has_one_outcome,
}

/// How long a request may take before it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far an exchange gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Connect,
    Tls,
    /// A connection stands, and its first bytes were read.
    Request,
    /// The head of the request was read, of a body nothing.
    RequestBody,
    /// The whole request was read.
    Head,
    /// The answer's head has begun.
    WithinHead,
    /// The answer's body has begun.
    WithinBody,
    /// So have the trailers.
    Trailers,
}

/// What the origin does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Takes no connection.
    Refuse,
    /// Breaks the connection off.
    Reset,
    /// Ends the connection as if all were well.
    Close,
    /// Resets the stream, where there is one.
    ResetStream,
    /// Ends the stream as if all were well.
    EndStream,
    /// Nothing any more.
    Stall,
    /// Answers whole, and takes nothing any more.
    Answer,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
struct Fault {
    up: Upstream,
    phase: Phase,
    act: Act,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Fault {
    /// Everything that can happen to an origin that speaks so.
    fn all(up: Upstream) -> Vec<Self> {
        use {Act::*, Phase::*};
        let phases = [Connect, Tls, Request, RequestBody, Head, WithinHead, WithinBody, Trailers];
        let acts = [Refuse, Reset, Close, ResetStream, EndStream, Stall, Answer];
        let all = phases.into_iter().flat_map(|phase| acts.map(|act| Self { up, phase, act }));
        all.filter(Self::is_possible).collect()
    }

    fn is_possible(&self) -> bool {
        use {Act::*, Phase::*};
        let is_quic = self.up == Upstream::Http3;
        match (self.phase, self.act) {
            // A kernel that does not answer a SYN cannot be had on loopback.
            (Connect, Stall) => is_quic,
            (Connect, act) => act == Refuse,
            (Tls, Stall) => self.up == Upstream::Http2Tls,
            // RFC 9000 §5.2.2: QUIC knows an answer for that.
            (Tls, Refuse) => is_quic,
            (Tls, Reset | Close) => self.up == Upstream::Http2Tls,
            (Tls, _) | (_, Refuse) => false,
            // Of a request that came whole it is no fault.
            (phase, Answer) => phase == RequestBody,
            // There is none yet.
            (Request, ResetStream | EndStream) => false,
            (_, ResetStream | EndStream) if self.up == Upstream::Http1 => false,
            // RFC 9113 §6.10: nothing else may come before the rest of a head.
            (WithinHead | Trailers, ResetStream | EndStream) => is_quic,
            _ => true,
        }
    }

    fn name(&self) -> String {
        format!("{:?}-{:?}", self.phase, self.act).to_lowercase()
    }

    /// Status and word. The status is the origin's own where its head had come.
    fn expected(&self) -> (u16, &'static str) {
        use {Act::*, Phase::*};
        match (self.phase, self.act) {
            (Connect, Stall) | (Tls, Stall) => (504, "connection_timeout"),
            (Connect, _) | (Tls, Refuse) => (502, "connection_refused"),
            (RequestBody, Answer) => (200, "ok"),
            (RequestBody, Stall) => (504, "connection_write_timeout"),
            (WithinBody | Trailers, Stall) => (200, "http_response_stalled"),
            (_, Stall) => (504, "http_response_timeout"),
            (WithinBody | Trailers, _) => (200, "http_response_incomplete"),
            // A stream without an answer is no HTTP.
            (_, EndStream) => (502, "http_protocol_error"),
            _ => (502, "connection_terminated"),
        }
    }

    /// The deadline that a silent origin meets; the others are so far away that no slow machine meets them.
    fn timeouts(&self) -> &'static str {
        match self.phase {
            _ if self.act != Act::Stall => "",
            Phase::Connect | Phase::Tls => "timeouts.connect = \"100ms\"",
            Phase::WithinBody | Phase::Trailers => "timeouts.stream_idle = \"100ms\"",
            _ => "timeouts.response = \"200ms\"",
        }
    }

    fn tables(&self, endpoint: SocketAddr) -> String {
        let name = self.name();
        let tls = format!("tls = {{ server_name = \"{ORIGIN}\", ca = \"@/ca.pem\" }}");
        let protocol = match self.up {
            Upstream::Http1 => String::new(),
            Upstream::Http2 => "protocol = \"http2\"".to_owned(),
            Upstream::Http2Tls => format!("protocol = \"http2\"\n{tls}"),
            Upstream::Http3 => format!("protocol = \"http3\"\n{tls}"),
        };
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\nretry = {{ attempts = 0 }}\n\
             [upstream.{name}]\nendpoints = [\"{endpoint}\"]\nbalance = \"least-requests\"\n{protocol}\n{}\n",
            self.timeouts()
        )
    }

    /// Asks; what the client is told that is not the truth.
    async fn ask(&self, address: SocketAddr, down: Downstream, arrived: &Notify) -> Result<(), String> {
        let mut client = Client::connect(address, down).await;
        let path = format!("/{}", self.name());
        let mut uploading = None;
        let request = match (self.phase, self.act) {
            // More than fits on the way.
            (Phase::RequestBody, Act::Stall) => post(&path, Bytes::from(vec![0; 16 << 20])),
            (Phase::RequestBody, Act::Answer) => {
                let (feed, fed) = Sent::fed();
                uploading = Some(spawn_local(async move { while feed.send(vec![0; 1 << 16]).await {} }));
                post(&path, fed)
            }
            (Phase::RequestBody, _) => post(&path, Bytes::from(vec![0; 10_000])),
            _ => get(&path),
        };
        let asking = async {
            let response = client.send(request).await.map_err(|error| format!("no answer: {error}"))?;
            let (head, mut body) = response.into_parts();
            if head.status == 200 {
                let piece = next_piece(&mut body).await;
                assert!(piece.is_some_and(|piece| piece == "hello"), "{self}: another answer");
            }
            // A reset may overtake what was sent before it, so that the origin waits.
            arrived.notify_one();
            Ok::<_, String>((head, receive(body).await))
        };
        let ended = tokio::time::timeout(PATIENCE, asking).await;
        let (head, received) = ended.map_err(|_| "nothing came of it in time".to_owned())??;
        if let Some(uploading) = uploading {
            let ended = tokio::time::timeout(PATIENCE, uploading).await;
            ended.map_err(|_| "the client's upload is neither taken nor refused".to_owned())?.unwrap();
        }
        let told = head.headers.get("proxy-status").map_or("", |told| told.to_str().unwrap());
        let (status, word) = self.expected();
        let is_told = told.starts_with(&format!("tidegate; error={word};"));
        match (head.status.as_u16(), received.broken) {
            (seen, _) if seen != status => Err(format!("status {seen}: {told}")),
            (200, None) if self.act == Act::Answer => Ok(()),
            (200, None) => Err("a broken answer ended well".to_owned()),
            (200, Some(_)) => Ok(()),
            (_, Some(error)) => Err(format!("the proxy's own answer broke off: {error}")),
            (_, None) if !is_told => Err(told.to_owned()),
            (_, None) => Ok(()),
        }
    }
}

/// Where a fault happens; what has to stay open for it is held by what is left behind.
async fn endpoint(fault: Fault, arrived: Rc<Notify>) -> (SocketAddr, Held) {
    match (fault.phase, fault.act) {
        (Phase::Connect, Act::Refuse) => {
            let closed = Closed::bind();
            (closed.address(), Held::Closed { _port: closed })
        }
        (Phase::Connect, _) => {
            let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            (silent.local_addr().unwrap(), Held::Silent { _socket: silent })
        }
        _ if fault.up == Upstream::Http3 => (origin::over_quic(fault, arrived), Held::Served),
        _ => (origin::over_tcp(fault, arrived).await, Held::Served),
    }
}

enum Held {
    Closed {
        _port: Closed,
    },
    Silent {
        _socket: UdpSocket,
    },
    /// By a task of its own.
    Served,
}

async fn every_fault_has_one_outcome(pair: Pair) {
    let faults = Fault::all(pair.up);
    let (mut tables, mut held, mut asked) = (String::new(), Vec::new(), Vec::new());
    for fault in &faults {
        let arrived = Rc::<Notify>::default();
        let (address, kept) = endpoint(*fault, Rc::clone(&arrived)).await;
        tables += &fault.tables(address);
        held.push(kept);
        asked.push((*fault, arrived));
    }
    let proxy = plan(pair).routes(&tables).start();
    let mut requests = JoinSet::new();
    for (fault, arrived) in asked {
        let address = proxy.address();
        requests.spawn_local(async move { (fault, fault.ask(address, pair.down, &arrived).await) });
    }
    let mut complaints = Vec::new();
    while let Some(ended) = requests.join_next().await {
        if let (fault, Err(why)) = ended.unwrap() {
            complaints.push(format!("{fault}: {why}"));
        }
    }
    complaints.extend(logged_once(&proxy, &faults).await);
    complaints.extend(counted_once(&proxy, &faults).await);
    assert!(complaints.is_empty(), "{pair:?}:\n{}", complaints.join("\n"));
    left_nothing(&proxy).await;
    proxy.running().drain();
    assert_eq!(proxy.left().await, ExitReason::Drained);
}

/// What the client needs, with everything that is counted switched on.
fn plan(pair: Pair) -> Plan {
    let down = Pair { up: Upstream::Http1, ..pair };
    down.plan(&[])
        .listener("limits.max_connections = 1000")
        .more("[server.access_log]\noutput = \"@/access.log\"\nformat = \"json\"")
        .more("[server.observe]\nbind = \"127.0.0.1:0\"")
}

/// One line for each request, with its word; what is otherwise.
async fn logged_once(proxy: &Proxy, faults: &[Fault]) -> Vec<String> {
    let path = proxy.file("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    // A line that does not come is told below.
    let _ = tokio::time::timeout(PATIENCE, eventually(|| lines().len() >= faults.len())).await;
    let lines: Vec<Value> = lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut complaints = Vec::new();
    for fault in faults {
        let mut own = lines.iter().filter(|line| line["route"] == *fault.name());
        let (status, word) = fault.expected();
        let is_told = |line: &Value| {
            let reason = line["reason"].as_str().is_some_and(|reason| !reason.is_empty()) || word == "ok";
            line["outcome"] == word && line["status"] == status && reason
        };
        match (own.next(), own.next()) {
            (Some(line), None) if is_told(line) => {}
            (one, two) => complaints.push(format!("{fault}: logged as {one:?}, {two:?}")),
        }
    }
    complaints
}

/// One count for each request, with its word; what is otherwise.
async fn counted_once(proxy: &Proxy, faults: &[Fault]) -> Vec<String> {
    let samples = samples(proxy).await;
    let mut complaints = Vec::new();
    for fault in faults {
        let prefix = format!("tidegate_route_outcomes_total{{route=\"{}\",kind=\"", fault.name());
        let own: Vec<_> = samples.iter().filter(|(name, count)| name.starts_with(&prefix) && **count > 0.0).collect();
        let wanted = format!("{prefix}{}\"}}", fault.expected().1);
        if own != [(&wanted, &1.0)] {
            complaints.push(format!("{fault}: counted as {own:?}"));
        }
    }
    complaints
}

/// Every gauge of what is held for somebody is back at zero.
async fn left_nothing(proxy: &Proxy) {
    const HELD: [&str; 4] = [
        "tidegate_requests_in_flight{",
        "tidegate_connections{",
        "tidegate_listener_permits{",
        "tidegate_endpoint_in_flight{",
    ];
    let mut left: Vec<(String, f64)> = Vec::new();
    for _ in 0..1000 {
        let samples = samples(proxy).await;
        let held = |gauge: &&str| samples.keys().any(|name| name.starts_with(gauge));
        assert!(HELD.iter().all(held), "a gauge is missing");
        left = samples.into_iter().collect();
        left.retain(|(name, value)| *value != 0.0 && HELD.iter().any(|gauge| name.starts_with(gauge)));
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still held: {left:?}");
}

/// What a scrape says.
async fn samples(proxy: &Proxy) -> BTreeMap<String, f64> {
    let Some(Address::Socket(observe)) = proxy.running().own_address("observe") else { panic!("nobody to ask") };
    let mut raw = Raw::connect(observe).await;
    raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = raw.response().await.unwrap();
    let samples = answer.text().lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}
