//! Raw QUIC streams as a whole program: a configuration, and real sockets on both sides.

mod endings;
mod lifecycle;
mod one_way;
mod streams;
mod support;
mod tunnel;
