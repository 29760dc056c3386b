//! Switching protocols: by Upgrade on HTTP/1.1 (RFC 9110 §7.8), by extended CONNECT on HTTP/2 and HTTP/3 (RFC 8441, RFC
//! 9220), each translated to the other. Only to a protocol that the route allows, only without a body, and only after
//! the endpoint has agreed to that protocol. From then on raw bytes are relayed, and the connection or stream is not
//! reused.

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

/// The protocol that a client wants to switch to, allowed by its route.
pub struct Wanted {
    protocol: HeaderValue,
    way: Way,
    /// `Sec-WebSocket-Key` on HTTP/1.1: the client's, or one of ours if it has none. `None`: not WebSocket.
    key: Option<HeaderValue>,
}

/// How the client requests it.
enum Way {
    /// GET with Upgrade, on HTTP/1.1.
    Upgrade,
    /// Extended CONNECT; this is the client's end of the stream.
    Connect(Option<OnUpgrade>, Option<ClientEnd>),
}

/// Whether a request is an extended CONNECT (RFC 8441 §4).
pub fn is_extended_connect(head: &request::Parts) -> bool {
    head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_some()
}

/// Checks that the route allows the protocol of an extended CONNECT.
///
/// # Errors
/// The route does not allow it (RFC 9220 §3: 501). An Upgrade to such a protocol is ignored instead (RFC 9110 §7.8).
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
    /// The upgrade that a request asks for; `asked` is its Upgrade field, as its hop-by-hop fields are already removed.
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
                // RFC 6455 §4.1: only GET. After any other method it would be unclear whether a body or the protocol
                // follows.
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

    /// Takes the client's end out of the body, if the request becomes a tunnel; otherwise returns the body.
    pub fn take_end(&mut self, body: Incoming) -> Option<Incoming> {
        match (&mut self.way, body) {
            (Way::Upgrade, body) => return Some(body),
            (Way::Connect(_, end), body @ Incoming::Http3(_)) => *end = Some(ClientEnd::Http3(body)),
            // Nothing of it was read ahead, so it has no body.
            (Way::Connect(upgrade, end), Incoming::Hyper(_) | Incoming::Http2(_) | Incoming::Ahead(_)) => {
                *end = upgrade.take().map(ClientEnd::Http2)
            }
        }
        None
    }

    /// Whether a response with this status is about the switch.
    pub fn concerns(&self, status: StatusCode, multiplexed: bool) -> bool {
        // For CONNECT, any success means that the protocol was switched.
        status.is_success() && (multiplexed || matches!(self.way, Way::Connect(..)))
    }

    /// Adds the fields of the upgrade to a request, from which the hop-by-hop fields were removed.
    ///
    /// # Errors
    /// The client's key is invalid, and the proxy would have to answer it.
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

    /// Whether a 101 answers this request.
    fn judge(&self, head: &Parts) -> Result<(), Error> {
        let refused = |reason| Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason));
        let named = head.headers.get(UPGRADE);
        if !named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes())) {
            return refused("the endpoint switched to a protocol other than the one asked for");
        }
        // RFC 6455 §4.1: the checks of a client. If the key is the client's, the client checks it.
        if let (Way::Connect(..), Some(key)) = (&self.way, &self.key)
            && head.headers.get(SEC_WEBSOCKET_ACCEPT) != Some(&accept_of(key))
        {
            return refused("the endpoint's Sec-WebSocket-Accept is not the one for the key");
        }
        Ok(())
    }

    /// The head of the success response for the client.
    fn success(&self, mut head: Parts, multiplexed: bool) -> Response<()> {
        let fields = &mut head.headers;
        hop_by_hop::strip(fields);
        // RFC 9110 §8.6, §9.3.6: no length, as what follows is not a body.
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

/// After a 101, or a success to a CONNECT: connects both ends and answers the client, or refuses a switch that was not
/// requested. `idle` is the silence that ends the tunnel.
///
/// # Errors
/// An unsolicited 101, one that names another protocol (CVE-2026-2833 and similar), or a success that does not switch.
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
