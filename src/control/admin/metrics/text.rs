//! Formats the facts as OpenMetrics text, family by family.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};

use super::facts::Facts;
use super::families::{
    self as f, BY_LISTENER, BY_ROUTE, BY_UPSTREAM, Family, Relayed, SESSIONS_BY_LISTENER, SESSIONS_BY_UPSTREAM, Scoped,
};
use crate::base::error::Kind;
use crate::telemetry::counters::Totals;
use crate::telemetry::histogram::{BOUNDS, HistogramTotals};
use crate::telemetry::series::SeriesTotals;
use crate::upstream::alternative::Stage;
use crate::upstream::health::state::State;

/// Kinds that say that a deadline passed.
const TIMEOUTS: [Kind; 8] = [
    Kind::DnsTimeout,
    Kind::ConnectionTimeout,
    Kind::ConnectionWriteTimeout,
    Kind::RequestHeaderTimeout,
    Kind::ClientStall,
    Kind::HttpResponseTimeout,
    Kind::HttpResponseStalled,
    Kind::ExchangeTimeout,
];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Collector for Facts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.write_scopes(&mut page)?;
        self.write_requests(&mut page)?;
        self.write_layer4(&mut page)?;
        self.write_quic(&mut page)?;
        self.write_connections(&mut page)?;
        self.write_endpoints(&mut page)?;
        self.write_workers(&mut page)?;
        self.write_generation(&mut page)?;
        self.write_process(&mut page)
    }
}

impl Facts {
    fn write_scopes(&self, page: &mut Page<'_>) -> fmt::Result {
        let (layer4, http): (Vec<_>, Vec<_>) = self.listeners.iter().partition(|listener| listener.is_layer4);
        let listeners: Vec<_> = http.into_iter().map(|listener| (&listener.name, &listener.series)).collect();
        let layer4: Vec<_> = layer4.into_iter().map(|listener| (&listener.name, &listener.series)).collect();
        let routes: Vec<_> = self.routes.iter().map(|(name, series)| (name, series)).collect();
        let upstreams: Vec<_> = self.upstreams.iter().map(|upstream| (&upstream.name, &upstream.series)).collect();
        // Listeners are few, so that every kind can stand there from the beginning: a rate sees the first error too.
        page.scope(&BY_LISTENER, &listeners, true)?;
        page.scope(&BY_ROUTE, &routes, false)?;
        page.scope(&BY_UPSTREAM, &upstreams, false)?;
        let relayed = self.upstreams.iter().filter_map(|upstream| Some((&upstream.name, upstream.sessions.as_ref()?)));
        let relayed: Vec<_> = relayed.collect();
        page.relayed(&SESSIONS_BY_LISTENER, &layer4, true)?;
        page.relayed(&SESSIONS_BY_UPSTREAM, &relayed, false)
    }

    fn write_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.totals;
        let by_protocol =
            [("http1", totals.requests_http1), ("http2", totals.requests_http2), ("http3", totals.requests_http3)];
        page.counters(&f::REQUESTS_STARTED, by_protocol.map(|(protocol, n)| ([("protocol", protocol)], n)))?;
        page.gauge(&f::REQUESTS_IN_FLIGHT, self.requests_in_flight)?;
        page.counter(&f::HEADS_REFUSED, totals.heads_refused)?;
        page.counter(&f::RETRIES, totals.retries)?;
        page.gauge(&f::TUNNELS, totals.tunnels_open)?;
        page.counter(&f::TUNNELS_STARTED, totals.tunnels)?;
        page.counters(&f::TIMEOUTS, TIMEOUTS.map(|kind| ([("kind", kind.as_str())], totals.outcome(kind))))
    }

    fn write_layer4(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.totals;
        page.gauge(&f::SESSIONS, totals.sessions_open)?;
        page.counter(&f::SESSIONS_STARTED, totals.sessions)?;
        page.counter(&f::SESSIONS_SPLICED, totals.sessions_spliced)?;
        page.gauge(&f::FLOWS, totals.flows_open)?;
        page.counter(&f::FLOWS_STARTED, totals.flows)?;
        let datagrams = [("received", totals.datagrams_in), ("sent", totals.datagrams_out)];
        page.counters(&f::DATAGRAMS, datagrams.map(|(way, n)| ([("direction", way)], n)))?;
        page.counter(&f::DATAGRAMS_DROPPED, totals.datagrams_dropped)?;
        page.counter(&f::HELLOS_REFUSED, totals.hellos_refused)?;
        page.counter(&f::PROXY_HEADERS_REFUSED, totals.proxy_headers_refused)
    }

    fn write_quic(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.totals;
        page.counter(&f::QUIC_CONNECTIONS, totals.quic_connections)?;
        page.counter(&f::QUIC_MOVED, totals.quic_moved)?;
        page.counter(&f::QUIC_HANDSHAKE_FAILURES, totals.quic_handshakes_failed)?;
        page.counter(&f::QUIC_RETRIES_SENT, totals.quic_retries_sent)?;
        page.counter(&f::QUIC_REFUSED, totals.quic_refused)?;
        page.counter(&f::QUIC_DATAGRAMS_DROPPED, totals.quic_datagrams_dropped)?;
        page.counter(&f::QUIC_DATAGRAMS_STEERED, totals.quic_steered)?;
        page.counter(&f::EARLY_DATA_ACCEPTED, totals.early_data_accepted)
    }

    fn write_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.totals;
        page.gauge(&f::CONNECTIONS, totals.connections_open)?;
        page.gauge(&f::CONNECTIONS_PARKED, totals.parked)?;
        page.counter(&f::CONNECTIONS_ACCEPTED, totals.connections_accepted)?;
        page.counter(&f::CONNECTIONS_REFUSED, totals.connections_refused)?;
        page.counter(&f::CONNECTIONS_HANDED_OVER, totals.connections_handed_over)?;
        page.gauge(&f::BODY_BYTES_BUFFERED, totals.body_bytes_buffered)?;
        let (open, max) = self.process_permits;
        page.gauge(&f::PROCESS_PERMITS, u64::from(open))?;
        page.gauge(&f::PROCESS_PERMITS_MAX, u64::from(max))?;
        let permits = || {
            let limited = self.listeners.iter().filter_map(|listener| Some((&*listener.name, listener.permits?)));
            limited.map(|(name, permits)| ([("listener", name)], permits))
        };
        page.gauges(&f::LISTENER_PERMITS, permits().map(|(labels, (open, _))| (labels, u64::from(open))))?;
        page.gauges(&f::LISTENER_PERMITS_MAX, permits().map(|(labels, (_, max))| (labels, u64::from(max))))?;
        page.counters(&f::TLS_HANDSHAKES, handshakes(totals))?;
        page.counter(&f::TLS_HANDSHAKE_FAILURES, totals.handshakes_failed)?;
        let certificates = self.listeners.iter().flat_map(|listener| {
            let of = |(name, not_after): &'_ (String, SystemTime)| {
                ([("listener", listener.name.to_string()), ("name", name.clone())], unix_seconds(*not_after))
            };
            listener.certificates.iter().map(of).collect::<Vec<_>>()
        });
        page.gauges(&f::CERTIFICATE_NOT_AFTER, certificates)?;
        let network = [
            ("downstream", "received", totals.bytes_downstream_in),
            ("downstream", "sent", totals.bytes_downstream_out),
            ("upstream", "received", totals.bytes_upstream_in),
            ("upstream", "sent", totals.bytes_upstream_out),
        ];
        page.counters(&f::NETWORK, network.map(|(side, way, n)| ([("side", side), ("direction", way)], n)))
    }

    fn write_endpoints(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.totals;
        page.counter(&f::POOL_CONNECTS, totals.upstream_connects)?;
        page.counter(&f::POOL_CONNECT_FAILURES, totals.upstream_connect_failures)?;
        page.counter(&f::POOL_REUSES, totals.upstream_reuses)?;
        page.counter(&f::POOL_WAITS, totals.upstream_waits)?;
        page.counter(&f::POOL_WAIT, Duration::from_nanos(totals.upstream_wait_nanos).as_secs_f64())?;
        let endpoints = || {
            self.upstreams.iter().flat_map(|upstream| {
                let name = &*upstream.name;
                upstream.endpoints.iter().map(move |one| ([("upstream", name), ("endpoint", &*one.label)], one))
            })
        };
        page.gauges(
            &f::ENDPOINT_READY,
            endpoints().map(|(labels, one)| (labels, u64::from(one.state == State::Ready))),
        )?;
        let states = endpoints().flat_map(|(labels, one)| {
            State::ALL.map(|state| (with(labels, "state", state.as_str()), u64::from(one.state == state)))
        });
        page.gauges(&f::ENDPOINT_STATE, states)?;
        let checks = endpoints().filter_map(|(labels, one)| Some((labels, one.checks?))).flat_map(
            |(labels, (passed, failed))| {
                [("passed", passed), ("failed", failed)].map(|(result, n)| (with(labels, "result", result), n))
            },
        );
        page.counters(&f::ENDPOINT_CHECKS, checks)?;
        let ejections = endpoints().filter_map(|(labels, one)| Some((labels, one.ejections?)));
        page.counters(&f::ENDPOINT_EJECTIONS, ejections)?;
        let in_flight = endpoints().filter_map(|(labels, one)| Some((labels, u64::from(one.in_flight?))));
        page.gauges(&f::ENDPOINT_IN_FLIGHT, in_flight)?;
        let failures = endpoints().map(|(labels, one)| (labels, one.connect_failures));
        page.counters(&f::ENDPOINT_CONNECT_FAILURES, failures)?;
        let learning = || endpoints().filter_map(|(labels, one)| Some((labels, one.alternative?)));
        let stages = learning().flat_map(|(labels, (stage, _))| {
            Stage::WORDS.map(|word| (with(labels, "stage", word), u64::from(stage == Some(word))))
        });
        page.gauges(&f::ENDPOINT_ALTERNATIVE, stages)?;
        page.counters(&f::ENDPOINT_ALTERNATIVE_FAILURES, learning().map(|(labels, (_, failures))| (labels, failures)))
    }

    fn write_workers(&self, page: &mut Page<'_>) -> fmt::Result {
        // Those of layer 4 stand behind the others, which are always there: a number stays with its worker.
        let ids: Vec<String> = (0..self.workers.len()).map(|id| id.to_string()).collect();
        let numbered = || self.workers.iter().zip(&ids);
        let workers = || numbered().map(|(worker, id)| ([("worker", &**id), ("plane", worker.plane.as_str())], worker));
        page.counters(&f::WORKER_REQUESTS, workers().map(|(labels, worker)| (labels, worker.requests)))?;
        page.gauges(&f::WORKER_CONNECTIONS, workers().map(|(labels, worker)| (labels, worker.connections)))?;
        page.histograms(&f::WORKER_LOOP_LAG, workers().map(|(labels, worker)| (labels, &worker.lag)))?;
        let ages = workers().map(|(labels, worker)| (labels, worker.since_heartbeat.as_secs_f64()));
        page.gauges(&f::WORKER_HEARTBEAT_AGE, ages)
    }

    fn write_generation(&self, page: &mut Page<'_>) -> fmt::Result {
        let (ok, failed) = self.reloads;
        page.counters(&f::RELOADS, [("ok", ok), ("failed", failed)].map(|(result, n)| ([("result", result)], n)))?;
        let (ok, failed) = self.certificate_swaps;
        let swaps = [("ok", ok), ("failed", failed)].map(|(result, n)| ([("result", result)], n));
        page.counters(&f::CERTIFICATE_SWAPS, swaps)?;
        let successful = self.last_reload.is_none_or(|(_, successful)| successful);
        page.gauge(&f::LAST_RELOAD_SUCCESSFUL, u64::from(successful))?;
        let last = self.last_reload.map(|(at, _)| (NO_LABELS, unix_seconds(at)));
        page.gauges(&f::LAST_RELOAD, last)?;
        page.gauge(&f::GENERATION, self.generation)?;
        page.gauge(&f::DRAINING, u64::from(self.is_draining))?;
        let log = self.access_log;
        page.counters(&f::ACCESS_LOG_DROPPED, log.map(|(dropped, _)| (NO_LABELS, dropped)))?;
        page.counters(&f::ACCESS_LOG_WRITE_ERRORS, log.map(|(_, failed)| (NO_LABELS, failed)))?;
        page.family(&f::BUILD, |mut metric| metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))]))
    }

    fn write_process(&self, page: &mut Page<'_>) -> fmt::Result {
        let process = &self.process;
        page.gauge(&f::PROCESS_START, unix_seconds(self.started_at))?;
        page.counters(&f::PROCESS_CPU, process.cpu.map(|seconds| (NO_LABELS, seconds)))?;
        page.gauges(&f::PROCESS_RESIDENT, process.resident.map(|bytes| (NO_LABELS, bytes)))?;
        page.gauges(&f::PROCESS_THREADS, process.threads.map(|threads| (NO_LABELS, threads)))?;
        page.gauges(&f::PROCESS_FDS, process.open_fds.map(|fds| (NO_LABELS, fds)))?;
        page.gauges(&f::PROCESS_MAX_FDS, process.max_fds.map(|fds| (NO_LABELS, fds)))
    }
}

fn handshakes(totals: &Totals) -> [([(&'static str, &'static str); 2], u64); 4] {
    [
        ("1.2", "no", totals.handshakes_tls12),
        ("1.2", "yes", totals.handshakes_tls12_resumed),
        ("1.3", "no", totals.handshakes_tls13),
        ("1.3", "yes", totals.handshakes_tls13_resumed),
    ]
    .map(|(version, resumed, n)| ([("version", version), ("resumed", resumed)], n))
}

/// The text as it grows.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// What is counted alike by listener, route and upstream. `every_kind`: outcomes that never were are there too.
    fn scope(&mut self, scope: &Scoped, all: &[(&Arc<str>, &SeriesTotals)], every_kind: bool) -> fmt::Result {
        let label = scope.requests.labels[0];
        let each = || all.iter().map(|(name, series)| ([(label, &***name)], *series));
        self.counters(&scope.requests, each().map(|(labels, series)| (labels, series.ended())))?;
        let responses = each().flat_map(|([name], series)| {
            CLASSES.iter().zip(series.answers).map(move |(class, n)| ([name, ("class", *class)], n))
        });
        self.counters(&scope.responses, responses)?;
        self.outcomes(&scope.outcomes, all, every_kind)?;
        self.histograms(&scope.duration, each().map(|(labels, series)| (labels, &series.duration)))?;
        self.histograms(&scope.first_byte, each().map(|(labels, series)| (labels, &series.first_byte)))?;
        self.counters(&scope.request_bytes, each().map(|(labels, series)| (labels, series.bytes_in)))?;
        self.counters(&scope.response_bytes, each().map(|(labels, series)| (labels, series.bytes_out)))
    }

    /// What is counted alike of sessions and flows by listener and upstream.
    fn relayed(&mut self, relayed: &Relayed, all: &[(&Arc<str>, &SeriesTotals)], every_kind: bool) -> fmt::Result {
        let label = relayed.ended.labels[0];
        let each = || all.iter().map(|(name, series)| ([(label, &***name)], *series));
        self.counters(&relayed.ended, each().map(|(labels, series)| (labels, series.ended())))?;
        self.outcomes(&relayed.outcomes, all, every_kind)?;
        self.histograms(&relayed.duration, each().map(|(labels, series)| (labels, &series.duration)))?;
        self.counters(&relayed.received, each().map(|(labels, series)| (labels, series.bytes_in)))?;
        self.counters(&relayed.sent, each().map(|(labels, series)| (labels, series.bytes_out)))
    }

    fn outcomes(&mut self, family: &Family, all: &[(&Arc<str>, &SeriesTotals)], every_kind: bool) -> fmt::Result {
        let label = family.labels[0];
        let outcomes = all.iter().flat_map(|(name, series)| {
            let failed = Kind::ALL.iter().map(|kind| (kind.as_str(), series.outcome(*kind)));
            let failed = failed.filter(move |(_, n)| every_kind || *n > 0);
            let every = std::iter::once(("ok", series.ok)).chain(failed);
            every.map(move |(kind, n)| ([(label, &***name), ("kind", kind)], n))
        });
        self.counters(family, outcomes)
    }

    fn counter(&mut self, family: &Family, value: impl EncodeCounterValue) -> fmt::Result {
        self.counters(family, [(NO_LABELS, value)])
    }

    fn gauge(&mut self, family: &Family, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(family, [(NO_LABELS, value)])
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.samples(family, samples, |metric, value| metric.encode_counter::<NoLabelSet, V, f64>(&value, None))
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.samples(family, samples, |metric, value| metric.encode_gauge(&value))
    }

    fn histograms<'t, L: EncodeLabelSet>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (L, &'t HistogramTotals)>,
    ) -> fmt::Result {
        self.samples(family, samples, |metric, totals| {
            let bounds = BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(totals.buckets).collect();
            metric.encode_histogram::<NoLabelSet>(totals.sum.as_secs_f64(), totals.count(), &buckets, None)
        })
    }

    fn samples<L: EncodeLabelSet, V>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        self.family(family, |mut metric| {
            samples.into_iter().try_for_each(|(labels, value)| write(&mut metric.encode_family(&labels)?, value))
        })
    }

    fn family(&mut self, family: &Family, write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result) -> fmt::Result {
        let unit = family.unit();
        write(self.0.encode_descriptor(family.name, family.help, unit.as_ref(), family.metric_type())?)
    }
}

/// Two labels and a third.
fn with<'a>(labels: [(&'a str, &'a str); 2], name: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
    [labels[0], labels[1], (name, value)]
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

const NO_LABELS: [(&str, &str); 0] = [];
