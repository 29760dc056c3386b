//! Configurations of layer 4, and what else its tests alone stand on.

#[path = "../support/sessions.rs"]
mod sessions;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use tidegate::config::{self, Config};

pub use self::sessions::{PATIENCE, Proxy, Served as Endpoint, echoes, eventually, nobody, patient, reset};

pub fn parse(text: &str) -> Config {
    config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// A proxy that serves what `text` says.
pub fn start(text: &str) -> Proxy {
    Proxy::start(text, parse)
}

/// One `tcp` listener called `relay`, on a port of the system's choice, and `more` behind its upstream `to`.
pub fn relay(endpoints: &[SocketAddr], listener: &str, upstream: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"relay\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \
         \"to\"\n{listener}\n[upstream.to]\nendpoints = [{}]\n{upstream}\n",
        endpoints.join(", ")
    )
}

/// How a stream ends: with everything that came before, or with a reset.
pub fn end_of(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(|_| rest).map_err(|error| error.kind())
}

impl Endpoint {
    /// Says its name and waits for the client to go.
    pub fn named(name: &'static str) -> Self {
        Self::new(move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            let _ = stream.read(&mut [0]);
        })
    }
}

/// An address that is free now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
