//! `[listener.quic]` and `[upstream.NAME.quic]`.

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    CONGESTION,
    Key::new(
        "retry",
        Shape::Choice { words: &["auto", "always", "off"], later: &[] },
        Fallback::Text("auto"),
        "When a client has to prove that it is at its address before its handshake begins (RFC 9000 §8.1.2): \"auto\" while \
         many handshakes are under way.",
    )
    .cost("always: a round trip for each new connection"),
    KEEP_ALIVE,
    STREAM_WINDOW,
    Key::new(
        "connection_window",
        WINDOW,
        Fallback::Size(defaults::QUIC_CONNECTION_WINDOW as u64),
        "Bytes that a client may send ahead on all streams together.",
    )
    .cost("up to this much memory for a connection whose upstream is slow"),
    OFFLOAD,
    QLOG,
];

pub(super) static UPSTREAM: &[Key] = &[
    CONGESTION,
    Key::new(
        "keep_alive",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Duration(defaults::UPSTREAM_QUIC_KEEP_ALIVE),
        "Silence after which a PING is sent, so that neither the endpoint nor networks in between forget a connection on which a \
         slow answer is waited for. Idle connections end by `pool.idle_timeout` all the same.",
    ),
    STREAM_WINDOW,
    Key::new(
        "connection_window",
        WINDOW,
        Fallback::Size(defaults::UPSTREAM_QUIC_CONNECTION_WINDOW as u64),
        "Bytes that an endpoint may send ahead on all streams of a connection together.",
    )
    .cost("up to this much memory for a connection whose clients are slow"),
    OFFLOAD,
    QLOG,
    Key::new(
        "early_data",
        Shape::Flag,
        Fallback::Flag(false),
        "0-RTT: safe requests, and the streams of a tunnel, go in the first flight of a resumed connection. Whoever records \
         that flight can send it again.",
    ),
];

const CONGESTION: Key = Key::new(
    "congestion",
    Shape::Choice { words: &["cubic", "bbr", "newreno"], later: &[] },
    Fallback::Text("cubic"),
    "The congestion control of what we send.",
);

const KEEP_ALIVE: Key = Key::new(
    "keep_alive",
    Shape::Either(&[Shape::Word("off"), DEADLINE]),
    Fallback::Text("off"),
    "Silence after which a PING is sent, so that networks in between do not forget the connection. The idle deadline counts \
     from the last packet of the other end, so that with it an idle connection lives on.",
);

const STREAM_WINDOW: Key = Key::new(
    "stream_window",
    WINDOW,
    Fallback::Size(defaults::QUIC_STREAM_WINDOW as u64),
    "Bytes that the other end may send ahead on one stream.",
);

const OFFLOAD: Key = Key::new(
    "segmentation_offload",
    Shape::Flag,
    Fallback::Flag(true),
    "UDP GSO: many datagrams for one system call. Some network cards and virtual ones break it.",
);

const QLOG: Key = Key::new(
    "qlog",
    Shape::Text("a path"),
    Fallback::Told("none"),
    "A folder that gets a qlog file of each connection's events, for tools such as qvis.",
)
.cost("several KiB of disk for each connection, and as much processor time as serving it")
.example("\"/var/tmp/qlog\"");

const WINDOW: Shape = Shape::Size { min: 64 << 10, max: 1 << 30 };
