//! Checks the framing of responses (sans-io, RFC 9112 §6.3, RFC 9110 §8.6). hyper checks it only if it reads a body, so
//! for HEAD, 204 and 304 anything an endpoint sends would be forwarded; ambiguous framing is rejected here.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::base::error::{Error, Kind, Retry};

/// Leaves one length or none. `multiplexed` says that the version of HTTP has no codings.
///
/// # Errors
///
/// The endpoint's, where no reader could say what it means.
pub fn settle(head: &mut Parts, multiplexed: bool) -> Result<(), Error> {
    let fields = &mut head.headers;
    // hyper has decoded the coding and leaves the length that contradicts it.
    if !multiplexed && fields.contains_key(TRANSFER_ENCODING) {
        check_coding(fields)?;
        fields.remove(CONTENT_LENGTH);
    }
    // RFC 9110 §8.6.
    if head.status == StatusCode::NO_CONTENT {
        fields.remove(CONTENT_LENGTH);
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None) if is_plain(length.as_bytes()) => Ok(()),
        _ => {
            let length = agreed(fields).ok_or_else(|| malformed("the answer has an invalid Content-Length"))?;
            fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
            Ok(())
        }
    }
}

/// hyper takes off `chunked` alone: with any other coding around it the client would get bytes it cannot name.
fn check_coding(fields: &HeaderMap) -> Result<(), Error> {
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let exact = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if exact && codings.next().is_none() {
        return Ok(());
    }
    Err(malformed("the answer has a Transfer-Encoding other than chunked"))
}

/// Whether it is a number beyond doubt.
fn is_plain(length: &[u8]) -> bool {
    !length.is_empty() && length.len() < 20 && length.iter().all(u8::is_ascii_digit)
}

/// What all of them say, in fields or in a list: RFC 9110 §8.6 lets equal ones be taken for one.
#[cold]
fn agreed(fields: &HeaderMap) -> Option<u64> {
    let values = fields.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut lengths = values.map(|length| {
        let digits = str::from_utf8(length.trim_ascii()).ok()?;
        // `parse` would take a sign.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    });
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

fn malformed(reason: &'static str) -> Error {
    Error::upstream(Kind::HttpProtocolError, Retry::Never, reason)
}
