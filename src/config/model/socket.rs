//! `[listener.socket]` and `[upstream.*.socket]`: socket options.

use std::time::Duration;

/// `[listener.socket]` and `[upstream.*.socket]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketOptions {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE and its times; `None`: off.
    pub keepalive: Option<Keepalive>,
    /// The listen backlog; on an upstream without meaning and refused there.
    pub backlog: u32,
    /// SO_RCVBUF in bytes; `None`: the system's choice.
    pub recv_buffer: Option<u32>,
    /// SO_SNDBUF in bytes; `None`: the system's choice.
    pub send_buffer: Option<u32>,
    /// TCP_FASTOPEN on listeners, TCP_FASTOPEN_CONNECT on upstreams.
    pub fast_open: bool,
    /// TCP_USER_TIMEOUT; `None`: the system's.
    pub user_timeout: Option<Duration>,
}

/// TCP keep-alive probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dead.
    pub count: u32,
}
