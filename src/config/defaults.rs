//! All defaults, with units and reasons. They suit a proxy on the open internet: tight where a client controls time or
//! size, generous where the operator's own origin does.

use std::time::Duration;

/// `server.drain_timeout`. What process supervisors grant between TERM and KILL is usually 30 s or more.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// `server.drain_delay`. None: only who stands behind a load balancer that asks `/readyz` has a use for it.
pub const DRAIN_DELAY: Duration = Duration::ZERO;
/// `server.watch`. On: what the file says is what is served, however it came there (a deployment, a ConfigMap, an editor), and a
/// fault in it changes nothing. Who edits the live file by hand and by halves switches it off.
pub const WATCH: bool = true;

/// `server.metrics.max_routes`. Some 50,000 samples and 3.5 MB of a scrape; each route more is 50 samples more.
pub const METRICS_MAX_ROUTES: u32 = 1000;

/// `listener.limits.max_header_size`, bytes. Cookies and tokens of real sites stay below 16 KiB; twice that.
pub const MAX_HEADER_SIZE: u32 = 32 << 10;
/// `listener.limits.max_headers`. Browsers send about 20; every field costs a slot in the header map.
pub const MAX_HEADERS: u32 = 128;
/// `listener.limits.max_concurrent_streams`. RFC 9113 §6.5.2 advises against less than 100; more only helps an abuser.
pub const MAX_CONCURRENT_STREAMS: u32 = 128;

/// `quic.stream_window`, bytes. 80 Mbit/s at 100 ms, and what one stream may hold that nobody reads.
pub const QUIC_STREAM_WINDOW: u32 = 1 << 20;
/// `listener.quic.connection_window`, bytes. As on HTTP/2: one stalled upload leaves room for others, and a client is bounded.
pub const QUIC_CONNECTION_WINDOW: u32 = 4 << 20;
/// Silence before a sign of life is asked of an endpoint: a request may wait for longer than an endpoint keeps a silent
/// connection, mostly 30 s, and a path that forgets it even less (RFC 9308 §3.2).
pub const UPSTREAM_QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// `upstream.quic.connection_window`, bytes. Many clients share it, and one that reads nothing must not stall the others.
pub const UPSTREAM_QUIC_CONNECTION_WINDOW: u32 = 32 << 20;

/// `listener.socket.recv_buffer` and `send_buffer` where QUIC is spoken, bytes. All clients of a worker share one socket, and
/// what does not fit into its buffer is lost before anybody sees it: the kernel's 208 KiB are a millisecond of a fast network.
pub const QUIC_SOCKET_BUFFER: u32 = 4 << 20;

/// `listener.timeouts.handshake`. A handshake is two round trips; the rest is for lossy links.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// `listener.timeouts.header`. A head is one flight; slower ones are an attack far more often than a bad link.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// `listener.timeouts.client_stall`. A link that moves nothing for this long is gone.
pub const CLIENT_STALL: Duration = Duration::from_secs(30);
/// `listener.timeouts.idle`. Long enough for a page's next click, short enough to give memory back.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// `socket.nodelay`. A proxy writes whole messages; Nagle's algorithm would only hold them back.
pub const NODELAY: bool = true;
/// `socket.keepalive.idle`. Below the 5 minutes after which common NAT tables forget a connection.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// `socket.keepalive.interval`.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// `socket.keepalive.count`. With idle and interval: a dead peer is noticed within two minutes.
pub const KEEPALIVE_COUNT: u32 = 4;
/// `socket.backlog`. The kernel's own ceiling (net.core.somaxconn) since Linux 5.4.
pub const BACKLOG: u32 = 4096;
/// `socket.fast_open`. Off: middleboxes on the open internet drop such packets, and data may be replayed.
pub const FAST_OPEN: bool = false;

/// `listener.forwarding.x_forwarded`. What most origins read.
pub const X_FORWARDED: bool = true;
/// `listener.forwarding.forwarded`. Off: few origins read it, and two headers may disagree.
pub const FORWARDED: bool = false;
/// `listener.forwarding.via`. RFC 9110 §7.6.3 wants it on every forwarded request.
pub const VIA: &str = "tidegate";

/// `route.redirect.status`. 308 keeps the method and may be cached.
pub const REDIRECT_STATUS: u16 = 308;
/// `route.respond.status`.
pub const RESPOND_STATUS: u16 = 200;
/// `route.respond.content_type`.
pub const RESPOND_CONTENT_TYPE: &str = "text/plain; charset=utf-8";
/// `route.retry.attempts`, sends beyond the first. One hides a restarting endpoint; more would multiply load.
pub const RETRY_ATTEMPTS: u32 = 1;
/// `route.retry.on`. After a failed connect nothing was sent, so that a second send is always safe.
pub const RETRY_ON: &str = "connect-failure";
/// `route.retry.replay`, bytes kept for each request in flight that has a body.
pub const RETRY_REPLAY: u64 = 64 << 10;
/// `route.upgrade`.
pub const UPGRADE: &str = "websocket";

/// `upstream.endpoints[].weight` and `route.weighted[].weight`.
pub const WEIGHT: u32 = 1;
/// `upstream.pool.max_idle_per_endpoint`, over all workers.
pub const MAX_IDLE_PER_ENDPOINT: u32 = 128;
/// `upstream.pool.idle_timeout`. Below the 75 s after which common origins close, so that a race is rare.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// `upstream.pool.max_age`. Connections move on when an origin's load balancer or address changed.
pub const POOL_MAX_AGE: Duration = Duration::from_secs(600);
/// `upstream.timeouts.connect`, TCP and TLS together. One lost SYN is sent again after 1 s, a second after 3 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// `upstream.timeouts.response`, request sent to response head.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// `upstream.health.interval`. An endpoint that is gone is noticed within three of them; each costs it a connection.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// `upstream.health.timeout`. What takes longer to say that it is well is not.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// `upstream.health.healthy_after`. One good answer may be luck while an endpoint starts.
pub const HEALTHY_AFTER: u32 = 2;
/// `upstream.health.unhealthy_after`. One lost packet shall not take an endpoint out.
pub const UNHEALTHY_AFTER: u32 = 3;
/// `upstream.outlier.consecutive_failures`.
pub const OUTLIER_FAILURES: u32 = 5;
/// `upstream.outlier.eject_for`.
pub const EJECT_FOR: Duration = Duration::from_secs(30);
/// `upstream.outlier.max_ejected`, percent. More than half out at once is rarely the endpoints' fault.
pub const MAX_EJECTED: u8 = 50;
/// `upstream.timeouts.stream_idle`. Event streams and gRPC are silent for minutes.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);
/// `upstream.timeouts.tunnel_idle`. Who holds a WebSocket open is often silent for longer than any answer is.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// `forward.timeouts.connect`: a name, several addresses and TLS. Browsers give up a little later.
pub const OUTBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// `forward.timeouts.tunnel_idle`. What goes through a tunnel has keep-alive of its own; this is for ends that went without a word.
pub const OUTBOUND_TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// `server.workers = "auto"`: as many as the affinity mask and the quota of the cgroup (v2 and v1) allow, at least 1.
pub fn workers() -> usize {
    // std reads sched_getaffinity(2) and both kinds of cgroup quota.
    std::thread::available_parallelism().map_or(1, usize::from)
}
