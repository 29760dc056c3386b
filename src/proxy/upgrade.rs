//! Switching protocols: by Upgrade on HTTP/1.1 (RFC 9110 §7.8), by extended CONNECT on HTTP/2 and HTTP/3 (RFC 8441, RFC 9220),
//! each translated to the other. Only to a protocol that the route allows, only without a body, and only once the endpoint
//! has said that it is that very protocol. From then on raw bytes pass; the connection, or the stream, belongs to no pool.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::response::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::forward::Order;
use super::headers::hop_by_hop;
use super::tunnel::{ClientEnd, join};
use super::websocket::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, WEBSOCKET, accept_of, is_key, new_key};
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::route::action::ForwardRule;
use crate::upstream::client::Answer;

/// The protocol that a client wants to switch to and its route allows.
pub struct Wanted {
    protocol: HeaderValue,
    way: Way,
    /// `Sec-WebSocket-Key` on HTTP/1.1: the client's, or ours where it has none. `None`: it is not WebSocket.
    key: Option<HeaderValue>,
}

/// How the client asks.
enum Way {
    /// GET with Upgrade, on HTTP/1.1.
    Upgrade,
    /// Extended CONNECT, on a stream of which this is the client's end.
    Connect(Option<OnUpgrade>, Option<ClientEnd>),
}

/// Whether a request is an extended CONNECT (RFC 8441 §4).
pub fn is_extended_connect(head: &request::Parts) -> bool {
    head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_some()
}

/// Whether a route lets a request go on that is an extended CONNECT.
///
/// # Errors
/// To a protocol that the route does not allow (RFC 9220 §3: 501). An Upgrade to it is as if it were not there (RFC 9110 §7.8).
pub fn may_switch(head: &request::Parts, rule: &ForwardRule) -> Result<(), Error> {
    if is_extended_connect(head)
        && protocol_of(&head.extensions).is_none_or(|name| !rule.may_upgrade_to(name.as_bytes()))
    {
        let reason = "the route does not let a request switch to this protocol";
        return Err(Error::downstream(Kind::RequestNotImplemented, reason));
    }
    Ok(())
}

/// The method that routes are asked with: an extended CONNECT is what GET with Upgrade is on HTTP/1.1, and is routed as that.
pub fn routed_method(head: &request::Parts) -> &Method {
    if is_extended_connect(head) { &Method::GET } else { &head.method }
}

/// The protocol that a request asks to switch to, whether or not it may.
pub fn asked_for(head: &request::Parts) -> Option<HeaderValue> {
    if is_extended_connect(head) { protocol_of(&head.extensions) } else { head.headers.get(UPGRADE).cloned() }
}

fn protocol_of(extensions: &Extensions) -> Option<HeaderValue> {
    HeaderValue::from_str(extensions.get::<Protocol>()?.as_str()).ok()
}

impl Wanted {
    /// What a request wants that may switch, after its hop-by-hop fields were taken out; `asked`: its Upgrade.
    pub fn of(
        head: &mut request::Parts,
        fields: &HeaderMap,
        asked: Option<HeaderValue>,
        rule: &ForwardRule,
    ) -> Option<Self> {
        let (protocol, way) = match protocol_of(&head.extensions) {
            Some(protocol) if head.method == Method::CONNECT => {
                (protocol, Way::Connect(head.extensions.remove::<OnUpgrade>(), None))
            }
            _ => {
                // RFC 6455 §4.1: GET. After any other method nobody knows whether a body or the protocol comes next.
                let may = head.version == Version::HTTP_11 && head.method == Method::GET;
                (asked.filter(|protocol| may && rule.may_upgrade_to(protocol.as_bytes()))?, Way::Upgrade)
            }
        };
        let key = protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()).then(|| match way {
            Way::Upgrade => fields.get(SEC_WEBSOCKET_KEY).cloned().unwrap_or(HeaderValue::from_static("")),
            Way::Connect(..) => new_key(),
        });
        Some(Self { protocol, way, key })
    }

    /// Keeps what of the request becomes the client's end; gives back what is a body.
    pub fn take_end(&mut self, body: Incoming) -> Option<Incoming> {
        match (&mut self.way, body) {
            (Way::Upgrade, body) => return Some(body),
            (Way::Connect(_, end), body @ Incoming::Http3(_)) => *end = Some(ClientEnd::Http3(body)),
            // Nothing of it was read ahead: it has no body.
            (Way::Connect(upgrade, end), Incoming::Hyper(_) | Incoming::Http2(_) | Incoming::Ahead(_)) => {
                *end = upgrade.take().map(ClientEnd::Http2)
            }
        }
        None
    }

    /// Whether an answer of this status is more than an answer to the request as it was sent.
    pub fn concerns(&self, status: StatusCode, multiplexed: bool) -> bool {
        // A client's CONNECT takes any success for a switch, and so does ours.
        status.is_success() && (multiplexed || matches!(self.way, Way::Connect(..)))
    }

    /// Puts the wish into a request, whose fields have lost it with the hop-by-hop ones.
    ///
    /// # Errors
    /// A client's key that is none, where it is ours to answer.
    pub fn put_into(&self, request: &mut Request<Body>, multiplexed: bool) -> Result<(), Error> {
        if multiplexed {
            if self.key.as_ref().is_some_and(|key| !is_key(key)) {
                let reason = "a WebSocket handshake without a valid Sec-WebSocket-Key";
                return Err(Error::downstream(Kind::HttpRequestError, reason));
            }
            *request.method_mut() = Method::CONNECT;
            request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            let protocol = str::from_utf8(self.protocol.as_bytes()).unwrap_or_default();
            request.extensions_mut().insert(Protocol::from(protocol));
            return Ok(());
        }
        let fields = request.headers_mut();
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, self.protocol.clone());
        if let (Way::Connect(..), Some(key)) = (&self.way, &self.key) {
            fields.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
        Ok(())
    }

    /// Whether a 101 is the answer to this wish.
    fn judge(&self, head: &Parts) -> Result<(), Error> {
        let refused = |reason| Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason));
        let named = head.headers.get(UPGRADE);
        if !named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes())) {
            return refused("the endpoint switched to a protocol other than the one asked for");
        }
        // RFC 6455 §4.1: what a client checks; where the key is the client's, that one does.
        if let (Way::Connect(..), Some(key)) = (&self.way, &self.key)
            && head.headers.get(SEC_WEBSOCKET_ACCEPT) != Some(&accept_of(key))
        {
            return refused("the endpoint's Sec-WebSocket-Accept is not the one for the key");
        }
        Ok(())
    }

    /// The head of success as the client is to get it.
    fn success(&self, mut head: Parts, multiplexed: bool) -> Response<()> {
        let fields = &mut head.headers;
        hop_by_hop::strip(fields);
        // RFC 9110 §8.6, §9.3.6: what follows has no length.
        fields.remove(CONTENT_LENGTH);
        head.extensions = Extensions::new();
        match self.way {
            Way::Upgrade => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                fields.insert(UPGRADE, self.protocol.clone());
                if let Some(key) = self.key.as_ref().filter(|_| multiplexed) {
                    fields.insert(SEC_WEBSOCKET_ACCEPT, accept_of(key));
                }
            }
            Way::Connect(..) => {
                head.status = StatusCode::OK;
                fields.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        Response::from_parts(head, ())
    }

    fn into_end(self) -> Result<ClientEnd, Error> {
        match self.way {
            Way::Upgrade => Ok(ClientEnd::Http1),
            Way::Connect(_, Some(end)) => Ok(end),
            Way::Connect(_, None) => Err(Error::internal("an extended CONNECT without a stream")),
        }
    }
}

/// After a 101, or success to a CONNECT: joins both ends and tells the client, or refuses a switch that nobody asked for. `idle`:
/// the silence that ends the tunnel.
///
/// # Errors
/// An unsolicited 101, one that names another protocol (CVE-2026-2833 and its kin), or a success that switches to nothing.
pub async fn switch(
    order: &mut Order,
    multiplexed: bool,
    answer: Answer,
    idle: Duration,
) -> Result<Response<Body>, Error> {
    let (head, _) = answer.response.into_parts();
    let Some(wanted) = order.wanted.take() else {
        let reason = "the endpoint switched protocols without being asked";
        return Err(Error::upstream(Kind::HttpProtocolError, Retry::Never, reason));
    };
    let Some(upgraded) = answer.upgraded else {
        let reason = "the endpoint answered with success and did not switch protocols";
        return Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason));
    };
    if !multiplexed {
        wanted.judge(&head)?;
    }
    let endpoint = upgraded.await?;
    let success = wanted.success(head, multiplexed);
    Ok(join(wanted.into_end()?, &order.scene, success, endpoint, idle))
}
