//! The PROXY header of a new connection, which names its client. Read before TLS and before the protocol is detected;
//! only on listeners with `proxy_protocol`.

use std::net::SocketAddr;

use crate::base::error::{Error, Kind};
use crate::config::model::ProxyProtocol;
use crate::net::io::Socket;
use crate::net::proxy_protocol::receive::{Received, Told, receive};
use crate::net::timer;
use crate::proxy::context::Profile;

/// What a connection must begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// No header.
    Nothing,
    /// An optional header.
    Maybe,
    /// A header, required.
    Header,
    /// A header is required, but this peer is not trusted to send one.
    Refused,
}

/// What a connection from `remote` must begin with. A Unix socket has no peer address; whoever its file permissions
/// admit is trusted.
pub(super) fn expected(profile: &Profile, remote: Option<SocketAddr>) -> Expected {
    let wanted = profile.spec.config.proxy_protocol;
    if wanted == ProxyProtocol::Off {
        return Expected::Nothing;
    }
    let trusted = remote.is_none_or(|remote| profile.policy.trusts(remote.ip()));
    match (wanted, trusted) {
        (ProxyProtocol::Require, true) => Expected::Header,
        (ProxyProtocol::Require, false) => Expected::Refused,
        // From untrusted peers no header is expected; if one comes, it is a malformed request.
        (_, false) => Expected::Nothing,
        (_, true) => Expected::Maybe,
    }
}

/// Reads the header from `socket`, within the listener's `handshake` timeout; `None`: there is none, and none is
/// required.
///
/// # Errors
/// The fault of the client or of the proxy in front; the connection must be closed. [`Kind::ClientGone`] if it ended
/// without a byte, like health checks of load balancers.
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
