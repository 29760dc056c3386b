//! The layer 4 plane as a whole program: a configuration, real sockets on both sides.

mod lifecycle;
mod relay;
mod support;
