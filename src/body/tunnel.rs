//! Streams of HTTP/2 and HTTP/3 that carry another protocol (RFC 9113 §8.5, RFC 8441, RFC 9114 §4.4, RFC 9220), in the
//! form that `net::relay` needs, for both the client's and the endpoint's side.

mod http2;
mod http3;

pub use self::http2::{Http2Tunnel, PumpPlace};
pub use self::http3::{Http3Tunnel, Outgoing, TunnelBody};
