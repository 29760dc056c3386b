//! Connects to the destination of a client: resolves its name, and checks each address immediately before connecting to
//! it, so that a name that resolves differently the second time gains nothing.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use super::target::Target;
use crate::base::addr::Address;
use crate::base::error::{Error, Kind, Retry};
use crate::net::happy::{self, Finding};
use crate::net::io::Socket;
use crate::net::resolve::Family;
use crate::net::socket::Sources;
use crate::net::udp::Connected;
use crate::net::{bind, connect, timer};
use crate::route::destination::{self, Host, Reach};
use crate::route::egress::Egress;
use crate::upstream::origin::Dial;

/// Who connects to one destination of one listener.
pub struct Dialer {
    egress: Arc<Egress>,
    target: Target,
}

impl Dialer {
    /// For a destination that may be asked for.
    pub fn new(egress: Arc<Egress>, target: Target) -> Self {
        Self { egress, target }
    }

    /// Races for a connection (RFC 8305), within the listener's `forward.timeouts.connect`; half of it is for the name.
    /// Cancel-safe: dropped, it closes what it opened.
    ///
    /// # Errors
    /// The destination's fault, its name servers', or the client's who may not go there.
    pub async fn connect(&self) -> Result<Socket, Error> {
        let socket = &self.egress.cleartext.socket;
        let connecting = |address: SocketAddr| async move {
            connect::connect(&[Address::Socket(address)], socket, &Sources::default()).await
        };
        self.reach(connecting).await
    }

    /// A socket for datagrams, alike. An address that no way leads to is passed over; whether somebody is there is not known.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_udp(&self) -> Result<Connected, Error> {
        let socket = &self.egress.cleartext.socket;
        let connecting = |address| async move { Connected::open(address, socket).map_err(connect::explain) };
        self.reach(connecting).await
    }

    async fn reach<T, F: Future<Output = Result<T, Error>>>(
        &self,
        connecting: impl Fn(SocketAddr) -> F,
    ) -> Result<T, Error> {
        let Self { egress, target } = self;
        let finding = match &target.host {
            Host::Address(address) => Finding::address(*address),
            Host::Name(name) => {
                let host: Arc<str> = Arc::from(&**name);
                let v6 = egress.names.lookup(Arc::clone(&host), Family::V6);
                Finding::name(v6, egress.names.lookup(host, Family::V4))
            }
        };
        let limit = egress.outbound.timeouts.connect;
        let admit = |address| admit(egress, target.reach, address, target.port);
        match timer::timeout(limit, happy::connect(finding, target.port, limit / 2, admit, connecting)).await {
            Ok(connected) => connected,
            Err(timer::Elapsed) => {
                let reason = "the connection to the destination was not established in time";
                Err(Error::upstream(Kind::ConnectionTimeout, Retry::Never, reason))
            }
        }
    }
}

impl Dial for Dialer {
    fn dial(&self) -> Pin<Box<dyn Future<Output = Result<Socket, Error>> + '_>> {
        Box::pin(self.connect())
    }
}

/// Whether this very address may be connected to.
///
/// # Errors
/// The rules forbid it, or the proxy itself is there.
pub fn admit(egress: &Egress, reach: Reach, address: IpAddr, port: u16) -> Result<(), Error> {
    destination::may_connect(&egress.outbound, reach, address, port)?;
    let socket = SocketAddr::new(address.to_canonical(), port);
    if egress.guarded.iter().any(|own| bind::is_reached_at(own, socket)) {
        let reason = "the destination is a listener of the proxy's own that clients are kept away from";
        return Err(Error::downstream(Kind::DestinationIpProhibited, reason));
    }
    if egress.circles.iter().any(|own| bind::is_reached_at(own, socket)) {
        return Err(Error::downstream(Kind::ProxyLoopDetected, "the destination is the proxy itself"));
    }
    Ok(())
}
