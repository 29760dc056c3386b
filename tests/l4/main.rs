//! The layer 4 plane as a whole program: a configuration, real sockets on both sides.

mod clients;
mod lifecycle;
mod mixtures;
mod relay;
mod support;
