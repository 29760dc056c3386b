//! Who the client of a new connection is, where a proxy stands in front of us and says so in a PROXY header. Before TLS and
//! before anything is guessed about the protocol; only on listeners with `proxy_protocol`.

use std::net::SocketAddr;

use crate::base::error::{Error, Kind};
use crate::config::model::ProxyProtocol;
use crate::net::io::Socket;
use crate::net::proxy_protocol::receive::{Received, Told, receive};
use crate::net::timer;
use crate::proxy::context::Profile;

/// What a connection from somewhere is to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// What the client itself sends.
    Nothing,
    /// A header, or what the client itself sends.
    Maybe,
    /// A header.
    Header,
    /// A header that nobody believes.
    Refused,
}

/// What a connection from `remote` begins with. A Unix socket has no address that could be trusted: who is let in by the
/// file's permissions is.
pub(super) fn expected(profile: &Profile, remote: Option<SocketAddr>) -> Expected {
    let wanted = profile.spec.config.proxy_protocol;
    if wanted == ProxyProtocol::Off {
        return Expected::Nothing;
    }
    let trusted = remote.is_none_or(|remote| profile.policy.trusts(remote.ip()));
    match (wanted, trusted) {
        (ProxyProtocol::Require, true) => Expected::Header,
        (ProxyProtocol::Require, false) => Expected::Refused,
        // A stranger's bytes are the stranger's own: a header among them is no request, and is answered as such.
        (_, false) => Expected::Nothing,
        (_, true) => Expected::Maybe,
    }
}

/// Takes the header off `socket`, within the listener's `handshake` timeout; `None`: there is none, and need not be.
///
/// # Errors
/// The client's fault, or that of the proxy in front of it: it is to be closed. [`Kind::ClientGone`] where it came and
/// went without a byte, as checks of load balancers do.
pub(super) async fn introduction(
    profile: &Profile,
    socket: &Socket,
    expected: Expected,
) -> Result<Option<Told>, Error> {
    if expected == Expected::Refused {
        return Err(Error::downstream(Kind::HttpRequestDenied, "the peer is not a trusted proxy"));
    }
    let received = match timer::timeout(profile.spec.config.timeouts.handshake, receive(socket)).await {
        Ok(Ok(received)) => received,
        Ok(Err(error)) => {
            return Err(Error::downstream(Kind::ClientGone, "the connection was reset").because(error));
        }
        Err(timer::Elapsed) => {
            let reason = "the PROXY header did not come in time";
            return Err(Error::downstream(Kind::RequestHeaderTimeout, reason));
        }
    };
    match received {
        Received::Header(told) => Ok(Some(told)),
        Received::Absent if expected == Expected::Maybe => Ok(None),
        Received::Absent => Err(Error::downstream(Kind::HttpRequestDenied, "no PROXY header")),
        Received::Broken(reason) => Err(Error::downstream(Kind::HttpRequestError, reason)),
        Received::Ended(0) => Err(Error::downstream(Kind::ClientGone, "the connection ended before its first byte")),
        Received::Ended(_) => {
            Err(Error::downstream(Kind::HttpRequestError, "the connection ended within the PROXY header"))
        }
    }
}
