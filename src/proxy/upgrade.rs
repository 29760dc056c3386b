//! Switching protocols on HTTP/1.1 (RFC 9110 §7.8): only to a protocol that the route allows, only without a body, and
//! only once the endpoint's 101 names that very protocol. From then on both connections carry raw bytes and belong to no
//! pool.

use std::rc::Rc;

use http::header::{CONNECTION, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response};

use super::forward::Order;
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
use crate::net::io::Rewind;
use crate::net::relay::{End, relay};
use crate::upstream::client::Upgraded;

/// The protocol that a client wants to switch to and its route allows.
pub struct Wanted(HeaderValue);

impl Wanted {
    /// This protocol.
    pub fn new(protocol: HeaderValue) -> Self {
        Self(protocol)
    }

    /// Puts the wish into a request: the fields were taken out with the hop-by-hop ones.
    pub fn put_into(&self, fields: &mut HeaderMap) {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, self.0.clone());
    }
}

/// After a 101: joins both connections and tells the client, or refuses a switch that nobody asked for.
///
/// # Errors
/// An unsolicited 101, or one that names another protocol (CVE-2026-2833 and its kin).
pub fn switch(order: &Order, head: &Parts, upgraded: Option<Upgraded>) -> Result<Response<Body>, Error> {
    let Some((Wanted(wanted), upgraded)) = order.wanted.as_ref().zip(upgraded) else {
        let reason = "the endpoint switched protocols without being asked";
        return Err(Error::upstream(Kind::HttpProtocolError, Retry::Never, reason));
    };
    let named = head.headers.get(UPGRADE);
    if !named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(wanted.as_bytes())) {
        let reason = "the endpoint switched to a protocol other than the one asked for";
        return Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason));
    }
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.clone();
    super::headers::hop_by_hop::strip(response.headers_mut());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, wanted.clone());
    let exchange = Rc::clone(&order.scene.exchange);
    let idle = order.upstream.upstream().config.timeouts.stream_idle;
    order.scene.connection.link.switch_to(Box::new(move |link, client, ahead| {
        Box::pin(async move {
            let Ok((endpoint, first)) = upgraded.await else { return };
            let mut client = Rewind::new(client, ahead);
            let mut endpoint = Rewind::new(endpoint, first);
            let relayed = relay(&mut client, &mut endpoint, idle, link.cut()).await;
            let counters = link.load().counters();
            exchange.note_received(relayed.up);
            exchange.note_sent(relayed.down);
            counters.bytes_downstream_in.add(relayed.up);
            counters.bytes_downstream_out.add(relayed.down);
            counters.bytes_upstream_out.add(relayed.up);
            counters.bytes_upstream_in.add(relayed.down);
            match relayed.end {
                End::Closed => exchange.finish(),
                // A clean end would pass a truncated stream on as a whole one.
                end => {
                    let (kind, reason) = failure_of(&end);
                    exchange.note_failure(kind, reason);
                    client.into_parts().0.reset();
                    endpoint.into_parts().0.reset();
                }
            }
        })
    }));
    Ok(response)
}

fn failure_of(end: &End) -> (Kind, &'static str) {
    match end {
        End::Closed | End::DownstreamFailed(_) => {
            (Kind::ClientGone, "the client went away inside the switched protocol")
        }
        End::Stopped => (Kind::ClientGone, "the switched connection did not end before the drain did"),
        End::Idle => (Kind::HttpResponseStalled, "nothing moved on the switched connection"),
        End::UpstreamFailed(_) => (Kind::ConnectionTerminated, "the endpoint broke off the switched connection"),
    }
}
