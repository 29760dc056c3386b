//! The whole program, in this process, between real connections on loopback: clients that speak HTTP/1.1, HTTP/2 and
//! HTTP/3, in cleartext and over TLS, in front of origins that do. What is the same for every pair of protocols is tested over
//! every pair. A number after PITFALLS in a comment names the trap of the stack that a test watches.

mod support;

mod access_log;
mod alternatives;
mod answers;
mod balancing;
mod bodies;
mod counts;
mod deadlines;
mod explained;
mod faults;
mod fields;
mod forwarding;
mod grpc;
mod h3_crate;
mod health;
mod http1;
mod http2;
mod http3;
mod lifecycle;
mod limits;
mod masque;
mod messages;
mod outcomes;
mod parity;
mod pooling;
mod proxy_protocol;
mod refusals;
mod retries;
mod round_trips;
mod routing;
mod sources;
mod streams;
mod tls;
mod upgrades;
