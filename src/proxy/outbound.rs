//! Builds the request for a session: origin-form and Host on HTTP/1.1, scheme and authority on HTTP/2 and HTTP/3.

use std::rc::Rc;

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};

use super::forward::Order;
use super::headers::cookie;
use crate::base::error::Error;
use crate::body::Body;
use crate::body::request::Source;
use crate::config::model::{HostHeader, SendProxyProtocol};
use crate::route::action::ForwardRule;

/// The request for a session; `own` is the endpoint's own Host.
///
/// # Errors
/// The authority cannot be part of a URI, which the checks of the request and the configuration rule out.
pub fn request_for(
    order: &Order,
    rule: &ForwardRule,
    mut fields: HeaderMap,
    multiplexed: bool,
    own: &HeaderValue,
    source: Option<&Rc<Source>>,
) -> Result<Request<Body>, Error> {
    let host = match &rule.host_header {
        // RFC 9112 §3.2: HTTP/1.1 requires a Host; an HTTP/1.0 request without one gets the endpoint's.
        HostHeader::Preserve => order.facts.normalized.authority().unwrap_or(own),
        HostHeader::Upstream => own,
        HostHeader::Name(name) => name,
    };
    // RFC 9112 §9.6: with a PROXY header the connection serves one request. Asking the endpoint to close moves TIME_WAIT to
    // its side.
    let alone = order.upstream.upstream().config.send_proxy_protocol != SendProxyProtocol::Off;
    let uri = if multiplexed {
        fields.remove(HOST);
        absolute(order, host, order.target.clone())?
    } else {
        if !order.has_host || !matches!(rule.host_header, HostHeader::Preserve) {
            fields.insert(HOST, host.clone());
        }
        // RFC 9113 §8.2.3, RFC 9114 §4.2.1: cookies may be split into several fields; HTTP/1.1 allows one.
        if order.version >= Version::HTTP_2 {
            cookie::join(&mut fields);
        }
        if order.chunked {
            // hyper sends a body of unknown length with GET and HEAD only if it is declared.
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Uri::from(order.target.clone())
    };
    if order.wanted.is_some() {
        // The connection fields of an upgrade are set by `Wanted::put_into`.
    } else if order.asks_trailers {
        // RFC 9110 §10.1.4: TE applies to one connection, so the proxy sends its own. gRPC requires it.
        fields.insert(TE, HeaderValue::from_static("trailers"));
        if !multiplexed {
            fields.insert(CONNECTION, HeaderValue::from_static(if alone { "te, close" } else { "te" }));
        }
    } else if alone && !multiplexed {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut request = Request::new(source.map_or(Body::Empty, |source| Body::Request(source.attempt())));
    *request.method_mut() = order.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    if let Some(wanted) = &order.wanted {
        wanted.put_into(&mut request, multiplexed)?;
    }
    Ok(request)
}

/// RFC 9113 §8.3.1: scheme and authority are part of the request target.
fn absolute(order: &Order, host: &HeaderValue, target: PathAndQuery) -> Result<Uri, Error> {
    let scheme = if order.upstream.upstream().tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(target)
        .build()
        .map_err(|error| Error::internal("the authority does not fit a target").because(error))
}
