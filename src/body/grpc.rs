//! The end of the response to a gRPC call (sans-io): a status in its trailers. An error within the body becomes such a
//! status, so that the client learns more than that the stream was reset. For gRPC-Web the trailers are part of the
//! body, after a byte of 0x80 (gRPC's PROTOCOL-WEB), because browsers do not expose trailers.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use super::base64;
use crate::base::error::Error;

/// The status of a call.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A sentence about it, percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How one answer ends.
pub struct Ending {
    /// What the trailers say of a fault.
    fault: fn(&Error) -> HeaderMap,
    web: Option<Web>,
}

/// The form of gRPC-Web.
struct Web {
    /// Its body is base64.
    is_text: bool,
    /// What the endpoint said of the end in its head.
    said: HeaderMap,
}

impl Ending {
    /// With trailers, as gRPC has them.
    pub fn with_trailers(fault: fn(&Error) -> HeaderMap) -> Self {
        Self { fault, web: None }
    }

    /// Inside the body. `said` is what the head of the answer has of them already.
    pub fn in_body(fault: fn(&Error) -> HeaderMap, is_text: bool, said: HeaderMap) -> Self {
        Self { fault, web: Some(Web { is_text, said }) }
    }

    /// Whether the end stands in the body.
    pub(super) fn is_in_body(&self) -> bool {
        self.web.is_some()
    }

    /// A piece of the body, as the client reads it.
    pub(super) fn data(&self, data: Bytes) -> Bytes {
        match &self.web {
            Some(Web { is_text: true, .. }) => base64::encode(&data),
            _ => data,
        }
    }

    /// The end after a fault.
    pub(super) fn of_fault(&self, error: &Error) -> Frame<Bytes> {
        self.end((self.fault)(error))
    }

    /// The end with these trailers.
    pub(super) fn end(&self, trailers: HeaderMap) -> Frame<Bytes> {
        match &self.web {
            Some(web) => Frame::data(in_body(&trailers, web.is_text)),
            None => Frame::trailers(trailers),
        }
    }

    /// The end of an answer that came without trailers.
    pub(super) fn without_trailers(&mut self) -> Option<Frame<Bytes>> {
        let mut said = std::mem::take(&mut self.web.as_mut()?.said);
        if !said.contains_key(GRPC_STATUS) {
            // UNKNOWN: whoever reads it would have to make one up.
            said.insert(GRPC_STATUS, HeaderValue::from_static("2"));
            said.insert(GRPC_MESSAGE, HeaderValue::from_static("the endpoint's answer ended without a status"));
        }
        Some(self.end(said))
    }
}

/// Trailers as they stand in a body.
pub fn in_body(trailers: &HeaderMap, is_text: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(128);
    frame.put_slice(&[0x80, 0, 0, 0, 0]);
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_slice(b": ");
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    // A field section is held to far less than four gibibytes.
    let length = (frame.len() - 5) as u32;
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    if is_text { base64::encode(&frame) } else { frame.freeze() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_stand_behind_their_length() {
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        trailers.insert("x-cost", HeaderValue::from_static("3"));
        assert_eq!(in_body(&trailers, false), &b"\x80\0\0\0\x1bgrpc-status: 0\r\nx-cost: 3\r\n"[..]);
        assert_eq!(in_body(&trailers, true), "gAAAABtncnBjLXN0YXR1czogMA0KeC1jb3N0OiAzDQo=");
    }

    #[test]
    fn an_answer_without_a_status_gets_one() {
        let mut ending = Ending::in_body(|_| HeaderMap::new(), false, HeaderMap::new());
        let frame = ending.without_trailers().unwrap().into_data().unwrap();
        assert!(frame.windows(16).any(|window| window == b"grpc-status: 2\r\n"), "{frame:?}");
        assert!(Ending::with_trailers(|_| HeaderMap::new()).without_trailers().is_none());
    }
}
