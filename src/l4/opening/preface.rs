//! What a client sends before its upstream is known: the PROXY header of a proxy in front, and the ClientHello.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::RecvFlags;

use super::{Opening, Phase, gone};
use crate::base::error::{Error, Kind};
use crate::config::model::ProxyProtocol;
use crate::l4::life::{Life, TOO_MANY, Target};
use crate::l4::listener::L4Listener;
use crate::l4::sni::Reading;
use crate::net::proxy_protocol;
use crate::route::l4::Layer4;
use crate::telemetry::WorkerTelemetry;

impl Opening {
    /// Whether there is more than before.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        if !self.heard.readable {
            return Ok(false);
        }
        match retry_on_intr(|| rustix::net::recv(&self.client, &mut *buffer, RecvFlags::empty())) {
            Ok((0, _)) if self.bytes.is_empty() => Err(gone("the connection ended before its first byte")),
            Ok((0, _)) => Err(gone("it ended before it was known where it leads")),
            Ok((count, _)) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::AGAIN) => {
                self.heard.readable = false;
                Ok(false)
            }
            Err(error) => Err(gone("the connection was reset").because(io::Error::from(error))),
        }
    }

    /// Whether the header is over.
    pub(super) fn read_header(&mut self, life: &mut Life, telemetry: &WorkerTelemetry) -> Result<bool, Error> {
        let length = match proxy_protocol::read(&self.bytes) {
            proxy_protocol::Reading::Incomplete => return Ok(false),
            proxy_protocol::Reading::Header(header) => {
                let told = life.told();
                told.client = header.client;
                told.local = header.local;
                told.tlvs = header.tlvs.into();
                header.length
            }
            proxy_protocol::Reading::Absent if life.config().proxy_protocol == ProxyProtocol::Optional => 0,
            proxy_protocol::Reading::Absent => {
                telemetry.counters.proxy_headers_refused.add(1);
                return Err(Error::downstream(Kind::HttpRequestDenied, "no PROXY header"));
            }
            proxy_protocol::Reading::Broken(reason) => {
                telemetry.counters.proxy_headers_refused.add(1);
                return Err(Error::downstream(Kind::HttpRequestError, reason));
            }
        };
        if !life.admit_client() {
            telemetry.counters.connections_refused.add(1);
            return Err(Error::downstream(Kind::HttpRequestDenied, TOO_MANY));
        }
        self.bytes.drain(..length);
        self.phase = Self::after_header(life.listener());
        Ok(true)
    }

    /// Whether the ClientHello is read, and where it leads known.
    pub(super) fn read_hello(&mut self, life: &mut Life, telemetry: &WorkerTelemetry) -> Result<bool, Error> {
        let Phase::Hello(reader) = &mut self.phase else { return Ok(true) };
        let refused = |kind, reason| {
            telemetry.counters.hellos_refused.add(1);
            Err(Error::downstream(kind, reason))
        };
        let hello = match reader.read(&self.bytes) {
            Reading::Incomplete => return Ok(false),
            Reading::Hello(hello) => hello,
            Reading::NotTls => return refused(Kind::HttpRequestError, "it does not begin with a ClientHello"),
            Reading::Broken(reason) => return refused(Kind::HttpRequestError, reason),
        };
        let listener = Rc::clone(life.listener());
        let found = match &*listener.way {
            Layer4::To(upstream) => Some(*upstream),
            Layer4::ByHello(table) => table.find(hello.sni(), hello.alpn()),
        };
        life.told().sni = hello.into_sni();
        let Some(upstream) = found.and_then(|upstream| listener.upstream(upstream)) else {
            return refused(Kind::DestinationNotFound, "no name of the listener matches the ClientHello");
        };
        life.target = Some(Target::new(Rc::clone(upstream)));
        self.phase = Phase::Connecting;
        Ok(true)
    }
}

/// Whether a PROXY header comes first, or may.
///
/// # Errors
/// One is required, and nobody believes this client.
pub fn expects_header(listener: &L4Listener, peer: Option<SocketAddr>) -> Result<bool, Error> {
    let config = listener.config();
    // A Unix socket has no address that could be trusted: who is let in by the file's permissions is.
    let trusted = || peer.is_none_or(|peer| listener.trusts(peer.ip()));
    match config.proxy_protocol {
        ProxyProtocol::Off => Ok(false),
        // A stranger's bytes are the stranger's own.
        ProxyProtocol::Optional => Ok(trusted()),
        ProxyProtocol::Require if trusted() => Ok(true),
        ProxyProtocol::Require => Err(Error::downstream(Kind::HttpRequestDenied, "the peer is not a trusted proxy")),
    }
}
