use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use super::{families, write};
use crate::base::error::Kind;
use crate::base::id::Generation;
use crate::config;
use crate::control::compile::compile;
use crate::snapshot::Snapshot;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::series::{Ended, Phases, Scope};
use crate::upstream::alternative::Said;
use crate::upstream::health::state::Bar;
use crate::upstream::registry::Registry;

const CONFIG: &str = r#"
[server]
workers = 2
metrics.max_routes = 2

[[listener]]
name = "web"
bind = ":0"
limits.max_connections = 50

[[listener]]
name = "pg"
bind = ":0"
mode = "tcp"
upstream = "app"

[[route]]
name = "api"
path = '~ ^/a\d+'
upstream = "app"

[[route]]
path = '~ ^/b\d+'
respond = {}

[[route]]
path = "/past/1"
respond = {}

[[route]]
path = "/past/2"
respond = {}

[upstream.app]
endpoints = ["127.0.0.1:1", "127.0.0.1:2"]
balance = "least-requests"
health.interval = "5s"
outlier.consecutive_failures = 5

[[route]]
path = "/learned"
upstream = "learned"

[upstream.learned]
endpoints = ["127.0.0.1:3"]
tls = true
alt_svc = true
"#;

fn snapshot() -> Snapshot {
    let config = config::parse("test.toml", CONFIG).unwrap_or_else(|faults| panic!("{faults}"));
    compile(&config, None, &Registry::new(), Generation(7)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn workers() -> Vec<Arc<WorkerTelemetry>> {
    (0..2).map(|_| Arc::new(WorkerTelemetry::new())).collect()
}

/// One exchange on a worker, counted for everything that it belongs to.
fn exchange(worker: &WorkerTelemetry, snapshot: &Snapshot, route: usize, status: u16, outcome: Option<Kind>) {
    let route = &snapshot.routes.routes()[route];
    let phases = Phases { total: Duration::from_millis(7), first_byte: Duration::from_millis(3), ..Phases::default() };
    let ended = Ended { status, outcome, reason: "", phases, bytes_in: 10, bytes_out: 100 };
    let names = [
        (Scope::Listener, Arc::clone(&snapshot.listeners[0].name)),
        (Scope::Route, snapshot.series_of(route)),
        (Scope::Upstream, Arc::clone(&snapshot.upstreams[0].name)),
    ];
    for (scope, name) in names {
        worker.series.series(scope, &name).ended(&ended);
    }
}

/// One session on a worker of layer 4.
fn session(worker: &WorkerTelemetry, outcome: Option<Kind>) {
    let phases = Phases { total: Duration::from_secs(7), ..Phases::default() };
    let ended = Ended { status: 0, outcome, reason: "", phases, bytes_in: 10, bytes_out: 100 };
    worker.counters.sessions.add(1);
    worker.counters.outcome(outcome);
    worker.series.series(Scope::ListenerSessions, &"pg".into()).ended(&ended);
    worker.series.series(Scope::UpstreamSessions, &"app".into()).ended(&ended);
}

fn samples(text: &str) -> BTreeMap<&str, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(samples.insert(name, value.parse().unwrap()).is_none(), "{name} stands there twice");
    }
    samples
}

#[test]
fn workers_are_summed_by_listener_route_and_upstream() {
    let (snapshot, workers) = (snapshot(), workers());
    exchange(&workers[0], &snapshot, 0, 200, None);
    exchange(&workers[1], &snapshot, 0, 502, Some(Kind::ConnectionRefused));
    exchange(&workers[1], &snapshot, 1, 200, None);
    let text = write(Facts::of_workers(&workers, &snapshot));
    let samples = samples(&text);
    for (name, value) in [
        ("tidegate_requests_total{listener=\"web\"}", 3.0),
        ("tidegate_responses_total{listener=\"web\",class=\"2xx\"}", 2.0),
        ("tidegate_responses_total{listener=\"web\",class=\"5xx\"}", 1.0),
        ("tidegate_outcomes_total{listener=\"web\",kind=\"ok\"}", 2.0),
        ("tidegate_outcomes_total{listener=\"web\",kind=\"connection_refused\"}", 1.0),
        ("tidegate_outcomes_total{listener=\"web\",kind=\"dns_error\"}", 0.0),
        ("tidegate_route_requests_total{route=\"api\"}", 2.0),
        ("tidegate_route_requests_total{route=\"*~^/b\\\\d+\"}", 1.0),
        ("tidegate_upstream_requests_total{upstream=\"app\"}", 3.0),
        ("tidegate_request_duration_seconds_bucket{le=\"0.005\",listener=\"web\"}", 0.0),
        ("tidegate_request_duration_seconds_bucket{le=\"0.01\",listener=\"web\"}", 3.0),
        ("tidegate_request_duration_seconds_bucket{le=\"+Inf\",listener=\"web\"}", 3.0),
        ("tidegate_request_duration_seconds_count{listener=\"web\"}", 3.0),
        ("tidegate_request_duration_seconds_sum{listener=\"web\"}", 0.021),
        ("tidegate_upstream_first_byte_seconds_sum{upstream=\"app\"}", 0.009),
        ("tidegate_response_body_bytes_total{listener=\"web\"}", 300.0),
        ("tidegate_generation{}", 7.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{text}");
    }
    assert!(!text.contains("tidegate_route_outcomes_total{route=\"api\",kind=\"dns_error\"}"));
    assert!(text.ends_with("\n# EOF\n"));
}

#[test]
fn sessions_are_counted_apart_from_requests() {
    let (snapshot, workers) = (snapshot(), workers());
    exchange(&workers[0], &snapshot, 0, 200, None);
    workers[0].counters.requests.add(3);
    workers[0].counters.outcome(None);
    session(&workers[1], None);
    session(&workers[1], Some(Kind::ConnectionRefused));
    workers[1].counters.datagrams_in.add(5);
    let text = write(Facts::of_workers(&workers, &snapshot));
    let samples = samples(&text);
    for (name, value) in [
        ("tidegate_requests_in_flight{}", 2.0),
        ("tidegate_upstream_requests_total{upstream=\"app\"}", 1.0),
        ("tidegate_sessions_started_total{}", 2.0),
        ("tidegate_datagrams_total{direction=\"received\"}", 5.0),
        ("tidegate_sessions_ended_total{listener=\"pg\"}", 2.0),
        ("tidegate_session_outcomes_total{listener=\"pg\",kind=\"connection_refused\"}", 1.0),
        ("tidegate_session_outcomes_total{listener=\"pg\",kind=\"client_stall\"}", 0.0),
        ("tidegate_session_sent_bytes_total{listener=\"pg\"}", 200.0),
        ("tidegate_upstream_sessions_ended_total{upstream=\"app\"}", 2.0),
        ("tidegate_upstream_session_duration_seconds_sum{upstream=\"app\"}", 14.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{text}");
    }
    assert!(!samples.contains_key("tidegate_requests_total{listener=\"pg\"}"));
    assert!(!samples.contains_key("tidegate_sessions_ended_total{listener=\"web\"}"));
}

#[test]
fn routes_past_the_limit_are_counted_together_and_unused_ones_not_at_all() {
    let (snapshot, workers) = (snapshot(), workers());
    exchange(&workers[0], &snapshot, 2, 200, None);
    exchange(&workers[0], &snapshot, 3, 200, None);
    let text = write(Facts::of_workers(&workers, &snapshot));
    assert_eq!(samples(&text)["tidegate_route_requests_total{route=\"(others)\"}"], 2.0);
    assert_eq!(text.matches("tidegate_route_requests_total{").count(), 1);
}

#[test]
fn what_is_no_longer_configured_is_not_told() {
    let (snapshot, workers) = (snapshot(), workers());
    workers[0].series.series(Scope::Route, &"gone".into());
    workers[0].series.series(Scope::Upstream, &"gone".into());
    assert!(!write(Facts::of_workers(&workers, &snapshot)).contains("\"gone\""));
    workers[0].series.series(Scope::Route, &"api".into());
    let names = snapshot.series();
    workers[0].series.retain(|key| names.contains(key));
    assert_eq!(workers[0].series.all().len(), 1);
}

#[test]
fn every_family_is_written_once_with_its_labels() {
    let (snapshot, workers) = (snapshot(), workers());
    exchange(&workers[0], &snapshot, 0, 200, None);
    session(&workers[1], None);
    workers[1].counters.handshake(false, true);
    workers[1].beat(Duration::from_millis(2));
    snapshot.upstreams[0].endpoints.load().all()[0].state.set(Bar::Drained, true);
    {
        let set = snapshot.upstreams[0].endpoints.load();
        let mut standing = set.all()[0].state.standing();
        (standing.checks_failed, standing.ejections) = (2, 3);
        let set = snapshot.upstreams[1].endpoints.load();
        let state = &set.all()[0].state;
        state.alternative.hear(Said::Http3 { port: 443, age: 60 }, state.age());
        state.alternative.broke(state.age());
    }
    let mut facts = Facts::of_workers(&workers, &snapshot);
    let at = facts.started_at + Duration::from_millis(1_500);
    facts.last_reload = Some((at, false));
    facts.access_log = Some((3, 0));
    facts.listeners[0].certificates.push(("example.org".into(), at));
    facts.process = super::process::Process::read();
    let text = write(facts);
    let samples = samples(&text);
    for family in families::all() {
        let (name, types) = (family.exposed(), format!("# TYPE {}", family.exposed()));
        let bare = types.trim_end_matches("_total").trim_end_matches("_info");
        assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{bare} "))).count(), 1, "{bare}");
        let of = |sample: &&&str| {
            sample.split('{').next().is_some_and(|own| {
                own.strip_prefix(&*name).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
            })
        };
        let sample = samples.keys().find(of).unwrap_or_else(|| panic!("no sample of {name}\n{text}"));
        let inside = sample.split_once('{').map_or("", |(_, labels)| labels);
        for label in family.labels {
            assert!(inside.contains(&format!("{label}=\"")), "{sample}");
        }
        assert_eq!(inside.matches("=\"").count() - inside.matches("le=\"").count(), family.labels.len(), "{sample}");
    }
    assert_eq!(text.matches("# TYPE ").count(), families::all().count());
    assert_eq!(samples["tidegate_certificate_not_after_seconds{listener=\"web\",name=\"example.org\"}"], 1.5);
    assert_eq!(samples["tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"yes\"}"], 1.0);
    assert_eq!(samples["tidegate_worker_loop_lag_seconds_bucket{le=\"0.0025\",worker=\"1\",plane=\"http\"}"], 1.0);
    assert_eq!(samples["tidegate_last_reload_successful{}"], 0.0);
    assert_eq!(samples["tidegate_listener_permits_max{listener=\"web\"}"], 50.0);
    assert_eq!(samples["tidegate_endpoint_ready{upstream=\"app\",endpoint=\"127.0.0.1:1\"}"], 0.0);
    assert_eq!(samples["tidegate_endpoint_ready{upstream=\"app\",endpoint=\"127.0.0.1:2\"}"], 1.0);
    let one = "upstream=\"app\",endpoint=\"127.0.0.1:1\"";
    assert_eq!(samples[&*format!("tidegate_endpoint_state{{{one},state=\"drained\"}}")], 1.0);
    assert_eq!(samples[&*format!("tidegate_endpoint_state{{{one},state=\"ready\"}}")], 0.0);
    assert_eq!(samples[&*format!("tidegate_endpoint_checks_total{{{one},result=\"failed\"}}")], 2.0);
    assert_eq!(samples[&*format!("tidegate_endpoint_ejections_total{{{one}}}")], 3.0);
    let learned = "upstream=\"learned\",endpoint=\"127.0.0.1:3\"";
    assert_eq!(samples[&*format!("tidegate_endpoint_alternative{{{learned},stage=\"resting\"}}")], 1.0);
    assert_eq!(samples[&*format!("tidegate_endpoint_alternative{{{learned},stage=\"used\"}}")], 0.0);
    assert_eq!(samples[&*format!("tidegate_endpoint_alternative_failures_total{{{learned}}}")], 1.0);
    assert!(!text.contains(&format!("tidegate_endpoint_alternative{{{one}")), "nobody listens to that");
}

/// `docs/metrics.md` says what a scrape weighs.
#[test]
fn a_scrape_of_a_thousand_routes_weighs_what_is_documented() {
    let routes: String = (0..1000).map(|at| format!("[[route]]\npath = \"/{at:03}/*\"\nrespond = {{}}\n")).collect();
    let config = config::parse("test.toml", &format!("[[listener]]\nname=\"web\"\nbind = \":0\"\n{routes}")).unwrap();
    let snapshot = compile(&config, None, &Registry::new(), Generation(1)).unwrap();
    let workers = workers();
    let bare = write(Facts::of_workers(&workers, &snapshot)).len();
    for route in snapshot.routes.routes() {
        let phases = Phases { total: Duration::from_millis(7), ..Phases::default() };
        let ended = Ended { status: 200, outcome: None, reason: "", phases, bytes_in: 0, bytes_out: 100 };
        workers[0].series.series(Scope::Route, &snapshot.series_of(route)).ended(&ended);
    }
    let began = std::time::Instant::now();
    let full = write(Facts::of_workers(&workers, &snapshot)).len();
    println!("{bare} bytes without routes, {} for each, in {:?}", (full - bare) / 1000, began.elapsed());
    assert!((2_500..4_500).contains(&((full - bare) / 1000)), "{}", (full - bare) / 1000);
}
