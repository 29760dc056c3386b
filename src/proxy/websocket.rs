//! The two fields of a WebSocket handshake that exist on HTTP/1.1 but not on HTTP/2 and HTTP/3 (sans-io, RFC 6455 §4.1,
//! §4.2.2, RFC 8441 §5.1). A proxy that translates between them creates and checks them.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use http::{HeaderName, HeaderValue};

/// The name of the protocol.
pub const WEBSOCKET: &str = "websocket";
/// What a client proves with that its handshake was read.
pub const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
/// The proof.
pub const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// A key of our own: 16 random bytes.
pub fn new_key() -> HeaderValue {
    base64(&fastrand::u128(..).to_be_bytes())
}

/// Whether a client's key is one: 16 bytes in base64.
pub fn is_key(key: &HeaderValue) -> bool {
    match key.as_bytes() {
        [digits @ .., b'=', b'='] if digits.len() == 22 => digits.iter().all(|digit| DIGITS.contains(digit)),
        _ => false,
    }
}

/// What a server answers a key with.
pub fn accept_of(key: &HeaderValue) -> HeaderValue {
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    base64(proof.as_ref())
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> HeaderValue {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at > group.len() { '=' } else { char::from(digit) });
        }
    }
    // Letters, digits, `+`, `/` and `=` are a value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_answered_so() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_key(&key));
        assert_eq!(accept_of(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_is_as_in_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn keys_are_told_from_what_is_none() {
        let keys: Vec<_> = (0..100).map(|_| new_key()).collect();
        assert!(keys.iter().all(is_key));
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
        for text in ["", "==", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j!Q=="] {
            assert!(!is_key(&HeaderValue::from_static(text)), "{text}");
        }
    }
}
