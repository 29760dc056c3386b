//! What the decisions of one request cost: judging a raw head, checking a parsed one, finding a route among ten
//! thousand, picking one of a thousand endpoints, telling the upstream about the client. `cargo bench --bench sans_io`.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tidegate::base::id::ListenerId;
use tidegate::config::model;
use tidegate::http3::message::{self, request_fields, response_fields};
use tidegate::http3::qpack::{Decoder, Encoder, Limits as SectionLimits};
use tidegate::protocol::h2_frames::H2Frames;
use tidegate::protocol::wire::{Limits, Wire};
use tidegate::proxy::headers::{forwarded, hop_by_hop};
use tidegate::proxy::normalize::{Checks, check};
use tidegate::route::table::{RequestHead, Table};
use tidegate::upstream::balance::hash::key_of;
use tidegate::upstream::balance::{EndpointIndex, Selector};

const HEAD: &[u8] = b"GET /api/v1/users/42?fields=name HTTP/1.1\r\nHost: api.example.org\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\nConnection: keep-alive\r\n\r\n";

fn wire(criterion: &mut Criterion) {
    let limits = Limits { max_head_bytes: 32 * 1024, max_fields: 128 };
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Bytes(HEAD.len() as u64));
    group.bench_function("typical head", |bencher| {
        let mut wire = Wire::new(limits);
        bencher.iter(|| wire.feed(black_box(HEAD)));
    });
    group.bench_function("typical head in three pieces", |bencher| {
        let mut wire = Wire::new(limits);
        bencher.iter(|| {
            black_box(wire.feed(black_box(&HEAD[..50])));
            black_box(wire.feed(black_box(&HEAD[..100])));
            wire.feed(black_box(HEAD))
        });
    });
    let mut chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..8 {
        chunked.extend_from_slice(b"2000\r\n");
        chunked.resize(chunked.len() + 0x2000, b'x');
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    group.throughput(Throughput::Bytes(chunked.len() as u64));
    group.bench_function("64 KiB in eight chunks", |bencher| {
        let mut wire = Wire::new(limits);
        bencher.iter(|| wire.feed(black_box(&chunked)));
    });
    let frames: Vec<u8> = (0..32).flat_map(|_| [&[0, 0, 30, 1, 5, 0, 0, 0, 1][..], &[0x82; 30]].concat()).collect();
    group.throughput(Throughput::Bytes(frames.len() as u64));
    group.bench_function("32 HTTP/2 heads", |bencher| {
        let mut wire = H2Frames::after_preface();
        bencher.iter(|| wire.feed(black_box(&frames)));
    });
    group.finish();
}

fn request(target: &str, host: &str) -> http::request::Parts {
    let builder = Request::builder().uri(target).header("host", host).header("user-agent", "curl/8.5.0");
    let builder = builder.header("accept", "*/*").header("accept-encoding", "gzip, br");
    builder.header("connection", "keep-alive").body(()).expect("a valid request").into_parts().0
}

fn checks(criterion: &mut Criterion) {
    let checks = Checks { max_headers: 128, is_forward: false };
    let mut group = criterion.benchmark_group("checks");
    for (name, target, host) in [
        ("plain", "/api/v1/users/42?fields=name", "api.example.org"),
        ("uppercase host and odd path", "//api/%76%31/users", "API.example.org:8080"),
    ] {
        let head = request(target, host);
        group.bench_function(name, |bencher| bencher.iter(|| check(black_box(&head), checks).is_ok()));
    }
    let head = request("/", "api.example.org");
    group.bench_function("hop-by-hop", |bencher| {
        bencher.iter_batched_ref(|| head.headers.clone(), hop_by_hop::strip, criterion::BatchSize::SmallInput);
    });
    group.finish();
}

fn forwarding(criterion: &mut Criterion) {
    let told = model::Forwarding { x_forwarded: true, forwarded: false, via: None };
    let trusted = ["10.0.0.0/8".parse().expect("a network"), "192.168.0.0/16".parse().expect("a network")];
    let policy = forwarded::Policy::new(&told, &trusted);
    let host = HeaderValue::from_static("api.example.org");
    let mut group = criterion.benchmark_group("forwarded");
    for (name, remote) in [("from a stranger", "192.0.2.1"), ("from a trusted proxy", "10.0.0.1")] {
        let connection = policy.connection(remote.parse::<IpAddr>().ok(), true);
        let mut headers = request("/", "api.example.org").headers;
        headers.insert("x-forwarded-for", HeaderValue::from_static("203.0.113.9, 10.1.1.1"));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || headers.clone(),
                |headers| {
                    black_box(connection.client(&policy, headers));
                    connection.apply(&policy, headers, Some(&host));
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    let field = b"for=\"[2001:db8:cafe::17]:4711\";proto=https;by=203.0.113.43, for=192.0.2.60;host=\"a.example:80\"";
    group.bench_function("parsing Forwarded", |bencher| bencher.iter(|| forwarded::parse(black_box(field))));
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route lookup");
    for count in [1, 10, 10_000] {
        let hosts: Vec<_> = (0..count).map(|at| route(Some(format!("site{at}.example.org")), None)).collect();
        let table = Table::new(1, &hosts);
        let host = format!("site{}.example.org", count / 2);
        group.bench_function(format!("{count} hosts"), |bencher| bencher.iter(|| find(&table, &host, "/a/b/c")));
        let prefixes: Vec<_> = (0..count).map(|at| route(None, Some(format!("/api/v1/service{at}")))).collect();
        let table = Table::new(1, &prefixes);
        let path = format!("/api/v1/service{}/users/42", count / 2);
        group.bench_function(format!("{count} prefixes"), |bencher| bencher.iter(|| find(&table, "a.example", &path)));
    }
    group.finish();
}

fn find(table: &Table, host: &str, path: &str) -> bool {
    let headers = HeaderMap::new();
    let (host, path) = (black_box(host), black_box(path));
    let head =
        RequestHead { listener: ListenerId(0), method: &Method::GET, host, path, query: None, headers: &headers };
    table.find(&head).is_some_and(|found| !found.rest.is_empty())
}

fn route(host: Option<String>, prefix: Option<String>) -> model::Route {
    model::Route {
        name: "bench".into(),
        listeners: vec![],
        hosts: host.into_iter().map(model::HostPattern::Exact).collect(),
        path: prefix.map(model::PathPattern::Prefix),
        methods: vec![],
        headers: vec![],
        query: vec![],
        action: model::RouteAction::Respond {
            status: StatusCode::OK,
            body: "".into(),
            content_type: HeaderValue::from_static("text/plain"),
        },
        max_body: None,
        allow: vec![],
        deny: vec![],
        request_headers: model::HeaderEdits::default(),
        response_headers: model::HeaderEdits::default(),
        access_log: true,
        place: model::Place { file: "bench".into(), line: 1, column: 1 },
    }
}

/// Picking among a thousand endpoints, and computing what the picks go by whenever one goes out or comes in.
fn balance(criterion: &mut Criterion) {
    let weights = [1; 1_000];
    let identity = |index: EndpointIndex| format!("10.0.{}.{}:8080", index.0 / 250, index.0 % 250);
    let policies = [
        model::Balance::RoundRobin,
        model::Balance::LeastRequests,
        model::Balance::P2cEwma,
        model::Balance::RingHash,
        model::Balance::Maglev,
    ];
    let mut group = criterion.benchmark_group("balance, 1,000 endpoints");
    for policy in policies {
        group.bench_function(format!("compute {}", policy.as_str()), |bencher| {
            bencher.iter(|| Selector::new(policy, black_box(&weights), 1_000, identity));
        });
        let selector = Selector::new(policy, &weights, 1_000, identity);
        let (mut cursor, mut key) = (0, 0u64);
        group.bench_function(format!("pick by {}", policy.as_str()), |bencher| {
            bencher.iter(|| {
                key += 1;
                let key = selector.asks_for_key().then(|| key_of(&key.to_le_bytes()));
                selector.pick(key, &mut cursor, || fastrand::u64(..), |_| 1, |_| Some(1e6), &[])
            });
        });
    }
    group.finish();
}

/// A request's head from a block to what is routed, an answer's head to a block: what HTTP/3 adds to QUIC.
fn qpack(criterion: &mut Criterion) {
    let limits = SectionLimits { max_size: 64 * 1024, max_fields: 100 };
    let head = request("https://api.example.org/api/v1/users/42?fields=name", "api.example.org");
    let mut answer = HeaderMap::new();
    answer.insert("server", HeaderValue::from_static("tidegate"));
    answer.insert("date", HeaderValue::from_static("Mon, 23 Nov 2026 12:00:00 GMT"));
    answer.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    answer.insert("content-length", HeaderValue::from_static("1024"));
    answer.insert("etag", HeaderValue::from_static("\"5f3c-1a2b3c4d\""));
    let mut group = criterion.benchmark_group("qpack");
    for (name, capacity) in [("static table only", 0), ("with the dynamic table", 4096)] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(capacity, 0));
        encoder.set_limits(capacity as u64, capacity as u64, 0);
        let (mut block, mut instructions) = (Vec::new(), Vec::new());
        // From the third time on, what the table takes is in it.
        for _ in 0..3 {
            block.clear();
            instructions.clear();
            encoder.encode(0, request_fields(&head), u64::MAX, &mut block, &mut instructions).expect("no limit");
            decoder.on_encoder_bytes(&instructions).expect("valid instructions");
            decoder.decode(0, &block, limits, &mut message::RequestHead::default()).expect("a valid block");
            encoder.on_decoder_bytes(decoder.take_instructions().as_slice()).expect("valid instructions");
        }
        group.bench_function(format!("decode a request, {name}"), |bencher| {
            bencher.iter(|| {
                let mut sink = message::RequestHead::default();
                decoder.decode(0, black_box(&block), limits, &mut sink).expect("a valid block");
                black_box(decoder.take_instructions().as_slice());
                sink.finish(false)
            });
        });
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(capacity, 0));
        encoder.set_limits(capacity as u64, capacity as u64, 0);
        let status = StatusCode::OK;
        group.bench_function(format!("encode an answer, {name}"), |bencher| {
            bencher.iter(|| {
                block.clear();
                instructions.clear();
                let fields = response_fields(&status, black_box(&answer));
                encoder.encode(0, fields, u64::MAX, &mut block, &mut instructions).expect("no limit");
                if !instructions.is_empty() {
                    decoder.on_encoder_bytes(&instructions).expect("valid instructions");
                    encoder.on_decoder_bytes(decoder.take_instructions().as_slice()).expect("valid instructions");
                }
                if block[0] != 0 {
                    encoder.on_decoder_bytes(&[0x80]).expect("an acknowledgement");
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = sans_io;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = wire, checks, forwarding, lookup, balance, qpack
}
criterion_main!(sans_io);
