//! Heads and trailers as fields on their way out: pseudo-header fields first, names in lower case as `http` keeps them,
//! nothing that concerns one connection only (RFC 9114 §4.2-4.4).

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};
use hyper::ext::Protocol;

use crate::http3::qpack::{Field, Pseudo};

/// The fields of a request's head. Its authority is the target's, else what Host says; Host itself is not sent.
pub fn request_fields(head: &request::Parts) -> impl Iterator<Item = Field<'_>> {
    let uri = &head.uri;
    let authority = match uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => head.headers.get(HOST).map(HeaderValue::as_bytes),
    };
    let protocol = head.extensions.get::<Protocol>().map(AsRef::<[u8]>::as_ref);
    // RFC 9114 §4.4: a CONNECT has neither, an extended one (RFC 9220 §3) has both.
    let has_target = head.method != Method::CONNECT || protocol.is_some();
    let path = match uri.path_and_query().map_or("", |path| path.as_str()) {
        // RFC 9114 §4.3.1
        "" if head.method == Method::OPTIONS => "*",
        "" => "/",
        path => path,
    };
    let pseudo = [
        Some((Pseudo::Method, head.method.as_str().as_bytes())),
        has_target.then(|| (Pseudo::Scheme, uri.scheme_str().unwrap_or("https").as_bytes())),
        authority.map(|authority| (Pseudo::Authority, authority)),
        has_target.then_some((Pseudo::Path, path.as_bytes())),
        protocol.map(|protocol| (Pseudo::Protocol, protocol)),
    ];
    let pseudo = pseudo.into_iter().flatten().map(|(pseudo, value)| of_pseudo(pseudo, value));
    pseudo.chain(regular(&head.headers).filter(|field| field.name != b"host"))
}

/// The fields of a response's head.
pub fn response_fields<'a>(status: &'a StatusCode, headers: &'a HeaderMap) -> impl Iterator<Item = Field<'a>> {
    std::iter::once(of_pseudo(Pseudo::Status, status.as_str().as_bytes())).chain(regular(headers))
}

/// The fields of trailers.
pub fn trailer_fields(trailers: &HeaderMap) -> impl Iterator<Item = Field<'_>> {
    regular(trailers)
}

fn of_pseudo(pseudo: Pseudo, value: &[u8]) -> Field<'_> {
    Field { name: pseudo.as_str().as_bytes(), value, is_sensitive: false }
}

fn regular(headers: &HeaderMap) -> impl Iterator<Item = Field<'_>> {
    headers.iter().filter(|(name, value)| is_end_to_end(name, value)).map(|(name, value)| Field {
        name: name.as_str().as_bytes(),
        value: value.as_bytes(),
        is_sensitive: value.is_sensitive(),
    })
}

/// RFC 9114 §4.2: the last door; the proxy took such fields out before.
#[inline]
fn is_end_to_end(name: &HeaderName, value: &HeaderValue) -> bool {
    match *name {
        CONNECTION | TRANSFER_ENCODING | UPGRADE => false,
        TE => value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        _ => !matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    }
}
