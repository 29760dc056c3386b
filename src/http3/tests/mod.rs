//! Both roles on real QUIC connections over loopback: against each other, and against a peer that sends what it must not.

mod abuse;
mod departures;
mod exchanges;
mod malformed;
mod support;
mod tunnels;
