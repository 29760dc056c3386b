//! The normalized path that routes are matched against, so that no other spelling bypasses a route (sans-io, RFC 3986
//! §6.2.2): `%41` is `A`, `%c3` is `%C3`, repeated slashes are one; reserved characters stay encoded, `%2F` is data. A
//! path with dot segments is rejected: clients resolve them before sending (RFC 3986 §5.2.4), and servers that
//! interpret them differently allow routes to be bypassed.

use smallvec::SmallVec;

/// The normal form of `path` where it differs from `path`.
///
/// # Errors
/// Why the path has none; the client's fault.
pub fn normal_form(path: &str) -> Result<Option<Box<str>>, &'static str> {
    let bytes = path.as_bytes();
    // No early return: the compiler makes vector code of it. What it finds is looked at again, slowly.
    let pairs = bytes.iter().zip(&bytes[bytes.len().min(1)..]);
    let is_odd = pairs.fold(false, |odd, (&a, &b)| odd | ((a == b'/') & ((b == b'/') | (b == b'.'))));
    let is_odd = bytes.iter().fold(is_odd, |odd, &byte| odd | (byte == b'%') | (byte == b'\\') | (byte >= 0x80));
    if !is_odd {
        return Ok(None);
    }
    let mut normal: SmallVec<[u8; 256]> = SmallVec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' => return Err("a backslash in the path"),
            b'/' if normal.last() == Some(&b'/') => {}
            b'%' => {
                let digits = bytes.get(at..at + 2).ok_or(BROKEN)?;
                match percent(digits).ok_or(BROKEN)? {
                    0 => return Err("an encoded NUL in the path"),
                    byte if is_unreserved(byte) => normal.push(byte),
                    byte => encode(byte, &mut normal),
                }
                at += 2;
            }
            0x80.. => encode(byte, &mut normal),
            _ => normal.push(byte),
        }
    }
    if has_dot_segment(&normal) {
        return Err("a dot segment in the path");
    }
    if normal.as_slice() == bytes {
        return Ok(None);
    }
    // It is ASCII by now.
    String::from_utf8(normal.into_vec()).map(|path| Some(path.into_boxed_str())).map_err(|_| BROKEN)
}

/// Whether some reader of the path would step over a `.` or `..`: also behind an encoded slash or backslash, or with
/// path parameters (`..;x`).
fn has_dot_segment(path: &[u8]) -> bool {
    let is_dots = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let (mut start, mut at) = (0, 0);
    while at < path.len() {
        let separator = match &path[at..] {
            [b'/', ..] => 1,
            [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..] => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        if is_dots(&path[start..at]) {
            return true;
        }
        at += separator;
        start = at;
    }
    is_dots(&path[start..])
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn percent(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (high, low) = (digit(*digits.first()?)?, digit(*digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

fn encode(byte: u8, out: &mut SmallVec<[u8; 256]>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

const BROKEN: &str = "a broken percent-encoding in the path";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_have_no_normal_form_however_they_are_written() {
        for path in [
            "/..",
            "/../a",
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/.",
            "/%2e%2e/a",
            "/%2E./a",
            "/.%2e",
            "/a/..%2fb",
            "/a%2F../b",
            "/a%5c..%5cb",
            "/..;x/a",
            "/.;/a",
            "//../a",
            "/a/%2e",
        ] {
            assert_eq!(normal_form(path), Err("a dot segment in the path"), "{path}");
        }
        for path in ["/.well-known/x", "/...", "/a..", "/..a", "/a/.b", "/a.%2fb", "/a;..", "/%2e%2ea", "*", ""] {
            assert!(normal_form(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn nonsense_has_no_normal_form() {
        for path in ["/%", "/%4", "/%zz", "/a%2", "/%+1"] {
            assert_eq!(normal_form(path), Err(BROKEN), "{path}");
        }
        assert_eq!(normal_form("/a%00"), Err("an encoded NUL in the path"));
        assert_eq!(normal_form("/a\\b"), Err("a backslash in the path"));
    }

    #[test]
    fn spellings_of_one_path_have_one_form() {
        for (path, normal) in [
            ("/", None),
            ("/a/b/", None),
            ("/a%2Fb%20c", None),
            ("//a", Some("/a")),
            ("/a///b//", Some("/a/b/")),
            ("/%61dmin", Some("/admin")),
            ("/caf%c3%a9/%7Euser", Some("/caf%C3%A9/~user")),
            ("/caf\u{e9}", Some("/caf%C3%A9")),
            ("/%252e%252e/", None),
        ] {
            assert_eq!(normal_form(path).unwrap().as_deref(), normal, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(path in "/([a-b./;%\\\\]|%2[ef5]|%41|%c3|\u{e9}){0,12}") {
            if let Ok(Some(normal)) = normal_form(&path) {
                prop_assert!(normal.starts_with('/') && !normal.contains("//") && normal.is_ascii());
                prop_assert_eq!(normal_form(&normal), Ok(None));
            }
        }
    }
}
