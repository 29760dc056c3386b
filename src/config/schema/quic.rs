//! `[listener.quic]` and `[upstream.NAME.quic]`.

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    CONGESTION,
    Key::new(
        "retry",
        Shape::Choice { words: &["auto", "always", "off"], later: &[] },
        Fallback::Text("auto"),
        "When a client must prove its address with a Retry before its handshake begins (RFC 9000 §8.1.2). \"auto\": \
         while many handshakes are in progress.",
    )
    .cost("a round trip for each new connection, with always"),
    KEEP_ALIVE,
    STREAM_WINDOW,
    Key::new(
        "connection_window",
        WINDOW,
        Fallback::Size(defaults::QUIC_CONNECTION_WINDOW as u64),
        "Flow-control window of a connection: bytes a client may send on all streams together before they are \
         consumed.",
    )
    .cost("up to this much memory for each connection whose upstream is slow"),
    OFFLOAD,
    QLOG,
];

pub(super) static UPSTREAM: &[Key] = &[
    CONGESTION,
    Key::new(
        "keep_alive",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Duration(defaults::UPSTREAM_QUIC_KEEP_ALIVE),
        "Idle time after which a PING is sent, so that neither the endpoint nor a NAT or firewall drops a connection \
         that waits for a slow response. Idle connections still end after `pool.idle_timeout`.",
    ),
    STREAM_WINDOW,
    Key::new(
        "connection_window",
        WINDOW,
        Fallback::Size(defaults::UPSTREAM_QUIC_CONNECTION_WINDOW as u64),
        "Flow-control window of a connection: bytes an endpoint may send on all streams together before they are \
         consumed.",
    )
    .cost("up to this much memory for each connection whose clients are slow"),
    OFFLOAD,
    QLOG,
    Key::new(
        "early_data",
        Shape::Flag,
        Fallback::Flag(false),
        "Send safe requests, and the streams of a tunnel, in the first flight of a resumed connection (0-RTT). An \
         attacker who records that flight can replay it.",
    ),
];

const CONGESTION: Key = Key::new(
    "congestion",
    Shape::Choice { words: &["cubic", "bbr", "newreno"], later: &[] },
    Fallback::Text("cubic"),
    "Congestion control algorithm for sending.",
);

const KEEP_ALIVE: Key = Key::new(
    "keep_alive",
    Shape::Either(&[Shape::Word("off"), DEADLINE]),
    Fallback::Text("off"),
    "Idle time after which a PING is sent, so that a NAT or firewall does not drop the connection. The peer's \
     replies restart the idle timeout, so an idle connection is then kept open.",
);

const STREAM_WINDOW: Key = Key::new(
    "stream_window",
    WINDOW,
    Fallback::Size(defaults::QUIC_STREAM_WINDOW as u64),
    "Flow-control window of a stream: bytes the peer may send before they are consumed.",
);

const OFFLOAD: Key = Key::new(
    "segmentation_offload",
    Shape::Flag,
    Fallback::Flag(true),
    "UDP GSO: send many datagrams with one system call. Turn it off for network cards, real or virtual, that break \
     it.",
);

const QLOG: Key = Key::new(
    "qlog",
    Shape::Text("a path"),
    Fallback::Told("none"),
    "Directory for qlog files, one for each connection, for tools such as qvis.",
)
.cost("several KiB of disk for each connection, and about as much processor time as serving it")
.example("\"/var/tmp/qlog\"");

const WINDOW: Shape = Shape::Size { min: 64 << 10, max: 1 << 30 };
