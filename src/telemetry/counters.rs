//! The counters of a worker. Every cell has one writer, its worker's thread, and any number of readers, so counting is
//! a plain load and store; readers sum the workers. Only gauges decrease.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::access_log::Losses;
use crate::base::error::Kind;

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Cell64(AtomicU64);

impl Cell64 {
    /// Adds `n`. Only the thread that owns the cell may call it: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` off a gauge; as [`Cell64::add`], for the owner alone.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Replaces the number of a gauge; as [`Cell64::add`], for the owner alone.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Defines [`Counters`] and [`Totals`] with the same fields, and the sum of one into the other.
macro_rules! cells {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What one worker counted; see [`Totals`] for the sum. Two lines apart from any neighbour, since the
        /// processor fetches lines in pairs.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Cell64,)+
            /// Exchanges that ended in an error, by the number of its kind.
            pub outcomes: [Cell64; Kind::ALL.len()],
        }

        /// What all workers counted.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)+
            /// Exchanges that ended in an error, by the number of its kind.
            pub outcomes: [u64; Kind::ALL.len()],
        }

        impl Totals {
            fn take_in(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.value();)+
                for (total, cell) in self.outcomes.iter_mut().zip(&counters.outcomes) {
                    *total += cell.value();
                }
            }
        }
    };
}

cells! {
    /// Requests whose head was read, or refused while it was.
    requests,
    /// Of these, the ones that became requests over HTTP/1.
    requests_http1,
    /// Of these, the ones that became requests over HTTP/2.
    requests_http2,
    /// Of these, the ones that became requests over HTTP/3.
    requests_http3,
    /// Of these, the ones whose head was refused as malformed, too large or late before it became a request.
    heads_refused,
    /// Final answers with a status below 200 that end an exchange (101).
    responses_1xx,
    /// Answers 200 to 299.
    responses_2xx,
    /// Answers 300 to 399.
    responses_3xx,
    /// Answers 400 to 499.
    responses_4xx,
    /// Answers 500 and above.
    responses_5xx,
    /// Exchanges that ended without an error.
    outcome_ok,
    /// Bytes read from clients, after TLS.
    bytes_downstream_in,
    /// Bytes written to clients, before TLS.
    bytes_downstream_out,
    /// Bytes read from endpoints, after TLS.
    bytes_upstream_in,
    /// Bytes written to endpoints, before TLS.
    bytes_upstream_out,
    /// Attempts to connect to endpoints.
    upstream_connects,
    /// Of these, the ones that failed: refused, in no time, or without a handshake.
    upstream_connect_failures,
    /// Requests that used a pooled connection.
    upstream_reuses,
    /// Requests that waited for a connection which another request was making.
    upstream_waits,
    /// Total time that they waited, in nanoseconds.
    upstream_wait_nanos,
    /// Requests sent again.
    retries,
    /// Requests that became tunnels: protocols were switched, or CONNECT was answered with success.
    tunnels,
    /// Tunnels that are open (a gauge).
    tunnels_open,
    /// Connections accepted from clients.
    connections_accepted,
    /// Open connections of clients (a gauge).
    connections_open,
    /// Connections handed to another worker at accept.
    connections_handed_over,
    /// Connections closed at accept because of max_connections_per_ip.
    connections_refused,
    /// TLS 1.2 handshakes with clients that succeeded, the resumed ones not counted in.
    handshakes_tls12,
    /// TLS 1.2 handshakes with clients that resumed a session.
    handshakes_tls12_resumed,
    /// TLS 1.3 handshakes with clients that succeeded, the resumed ones not counted in.
    handshakes_tls13,
    /// TLS 1.3 handshakes with clients that resumed a session.
    handshakes_tls13_resumed,
    /// TLS handshakes with clients that failed or took too long.
    handshakes_failed,
    /// Bytes of bodies that are read ahead of whoever reads them slowly (a gauge).
    body_bytes_buffered,
    /// Idle connections that hold nothing but their socket (a gauge).
    parked,
    /// Layer 4 sessions that began: TCP connections accepted to be relayed.
    sessions,
    /// Layer 4 sessions that are open (a gauge).
    sessions_open,
    /// Layer 4 sessions of which bytes were moved inside the kernel (splice).
    sessions_spliced,
    /// Flows started: client addresses whose datagrams are relayed.
    flows,
    /// Flows that are open (a gauge).
    flows_open,
    /// Datagrams from clients.
    datagrams_in,
    /// Datagrams to clients.
    datagrams_out,
    /// Datagrams dropped in either direction: full buffer, no flow allowed, or no endpoint.
    datagrams_dropped,
    /// QUIC connections from clients whose handshake succeeded, or whose early data was taken.
    quic_connections,
    /// Of these, the ones whose client had changed address, counted when they end.
    quic_moved,
    /// QUIC handshakes with clients that failed or took too long.
    quic_handshakes_failed,
    /// Clients that were asked to prove their address before their QUIC handshake (Retry).
    quic_retries_sent,
    /// QUIC connections that were refused: a limit is reached, or the listener closes.
    quic_refused,
    /// Datagrams of QUIC that were lost here: no room in a socket's buffer, or at the worker that they were for.
    quic_datagrams_dropped,
    /// Datagrams of QUIC that were passed on to the worker that has their connection.
    quic_steered,
    /// QUIC connections that were used before their handshake was over (0-RTT).
    early_data_accepted,
    /// Connections closed because they did not begin with a ClientHello that matches an upstream.
    hellos_refused,
    /// Connections closed, and datagrams dropped, since a PROXY protocol header was missing, broken or from somebody not trusted.
    proxy_headers_refused,
}

impl Counters {
    /// Counts an answer by the class of its status.
    pub fn response(&self, status: u16) {
        match status / 100 {
            0 | 1 => self.responses_1xx.add(1),
            2 => self.responses_2xx.add(1),
            3 => self.responses_3xx.add(1),
            4 => self.responses_4xx.add(1),
            _ => self.responses_5xx.add(1),
        }
    }

    /// Counts a TLS handshake with a client that succeeded; `tls12`: it did not speak TLS 1.3.
    pub fn handshake(&self, tls12: bool, resumed: bool) {
        match (tls12, resumed) {
            (true, false) => self.handshakes_tls12.add(1),
            (true, true) => self.handshakes_tls12_resumed.add(1),
            (false, false) => self.handshakes_tls13.add(1),
            (false, true) => self.handshakes_tls13_resumed.add(1),
        }
    }

    /// Counts how an exchange ended: `None` is well.
    pub fn outcome(&self, kind: Option<Kind>) {
        match kind {
            None => self.outcome_ok.add(1),
            Some(kind) => self.outcomes[kind as usize].add(1),
        }
    }

    /// What these workers counted together.
    pub fn sum<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Totals {
        let mut totals = Totals::default();
        workers.into_iter().for_each(|counters| totals.take_in(counters));
        totals
    }
}

impl Totals {
    /// Exchanges that ended in an error of this kind.
    pub fn outcome(&self, kind: Kind) -> u64 {
        self.outcomes[kind as usize]
    }

    /// Exchanges that ended, however they did.
    pub fn ended(&self) -> u64 {
        self.outcome_ok + self.outcomes.iter().sum::<u64>()
    }

    /// TLS handshakes with clients that succeeded, the resumed ones counted in.
    pub fn handshakes(&self) -> u64 {
        self.handshakes_tls12 + self.handshakes_tls13 + self.handshakes_resumed()
    }

    /// TLS handshakes with clients that resumed a session.
    pub fn handshakes_resumed(&self) -> u64 {
        self.handshakes_tls12_resumed + self.handshakes_tls13_resumed
    }
}

/// What the control thread counts; it is the only writer of its cells.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ControlCounters {
    /// Configurations swapped in after the first.
    pub reloads: Cell64,
    /// Reloads that changed nothing because of a fault.
    pub reload_failures: Cell64,
    /// Certificates and authorities that were swapped in without a reload.
    pub certificate_swaps: Cell64,
    /// Certificates, keys and authorities that changed and do not do, each counted once.
    pub certificate_failures: Cell64,
    /// The number of the generation in force (a gauge).
    pub generation: Cell64,
    /// What access logs lost.
    pub access_log: Arc<Losses>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].requests.add(2);
        workers[1].requests.add(3);
        workers[0].response(204);
        workers[1].response(503);
        workers[0].outcome(None);
        workers[1].outcome(Some(Kind::ConnectionRefused));
        workers[0].connections_open.add(2);
        workers[0].connections_open.sub(1);
        workers[0].handshake(true, false);
        workers[1].handshake(false, true);
        let totals = Counters::sum(&workers);
        assert_eq!(totals.requests, 5);
        assert_eq!((totals.responses_2xx, totals.responses_5xx), (1, 1));
        assert_eq!(totals.outcome_ok, 1);
        assert_eq!((totals.outcome(Kind::ConnectionRefused), totals.ended()), (1, 2));
        assert_eq!((totals.handshakes_tls12, totals.handshakes_tls13_resumed), (1, 1));
        assert_eq!((totals.handshakes(), totals.handshakes_resumed()), (2, 1));
        assert_eq!(totals.connections_open, 1);
    }

    #[test]
    fn workers_never_share_a_line() {
        assert_eq!(align_of::<Counters>(), 128);
        assert_eq!(size_of::<Counters>() % 128, 0);
    }
}
