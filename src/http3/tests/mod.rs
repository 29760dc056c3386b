//! Both roles on real QUIC connections over loopback: against each other, and against a peer that sends what it must not; and over
//! a network that is simulated.

mod abuse;
mod datagrams;
mod departures;
mod exchanges;
mod malformed;
mod room;
mod simulated;
mod support;
mod tunnels;
