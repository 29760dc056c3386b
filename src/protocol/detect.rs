//! Distinguishes HTTP/2 with prior knowledge from HTTP/1 by the first bytes of a connection (sans-io, RFC 9113 §3.4).

/// The preface that every HTTP/2 client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The result of looking at the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// The complete preface.
    Http2,
    /// Not the preface: HTTP/1, or garbage.
    Http1,
    /// A prefix of the preface.
    NeedMore,
}

/// Looks at the first bytes of a connection; pass everything received so far.
pub fn detect(first: &[u8]) -> Detected {
    let common = first.len().min(PREFACE.len());
    if first[..common] != PREFACE[..common] {
        Detected::Http1
    } else if common == PREFACE.len() {
        Detected::Http2
    } else {
        Detected::NeedMore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_more_until_the_preface_is_whole() {
        for cut in 0..PREFACE.len() {
            assert_eq!(detect(&PREFACE[..cut]), Detected::NeedMore, "{cut}");
        }
        assert_eq!(detect(PREFACE), Detected::Http2);
        let mut more = PREFACE.to_vec();
        more.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(detect(&more), Detected::Http2);
    }

    #[test]
    fn tells_http1_at_the_first_other_byte() {
        assert_eq!(detect(b"G"), Detected::Http1);
        assert_eq!(detect(b"PROPFIND / HTTP/1.1\r\n"), Detected::Http1);
        assert_eq!(detect(b"PRI * HTTP/1.1\r\n"), Detected::Http1);
        for at in 0..PREFACE.len() {
            let mut other = *PREFACE;
            other[at] ^= 0x20;
            assert_eq!(detect(&other[..=at]), Detected::Http1, "{at}");
        }
    }
}
