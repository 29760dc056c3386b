//! The layer 4 plane as a whole program: a configuration, real sockets on both sides.

mod attacks;
mod clients;
mod kills;
mod lifecycle;
mod many;
mod mixtures;
mod opening;
mod process;
mod relay;
mod support;
