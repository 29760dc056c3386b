//! Switching protocols on HTTP/1.1 (RFC 9110 §7.8): only to a protocol that the route allows, only without a body, and
//! only once the endpoint's 101 names that very protocol. From then on both connections carry raw bytes and belong to no
//! pool.

use http::header::{CONNECTION, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response};

use super::forward::Order;
use super::tunnel::{ClientEnd, join};
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
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
pub async fn switch(order: &Order, head: &Parts, upgraded: Option<Upgraded>) -> Result<Response<Body>, Error> {
    let Some((Wanted(wanted), upgraded)) = order.wanted.as_ref().zip(upgraded) else {
        let reason = "the endpoint switched protocols without being asked";
        return Err(Error::upstream(Kind::HttpProtocolError, Retry::Never, reason));
    };
    let named = head.headers.get(UPGRADE);
    if !named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(wanted.as_bytes())) {
        let reason = "the endpoint switched to a protocol other than the one asked for";
        return Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason));
    }
    let endpoint = upgraded.await?;
    let mut answer = Response::new(());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers.clone();
    super::headers::hop_by_hop::strip(answer.headers_mut());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, wanted.clone());
    let idle = order.upstream.upstream().config.timeouts.stream_idle;
    Ok(join(ClientEnd::Http1, &order.scene, answer, endpoint, idle))
}
