//! Escapes untrusted text in log lines: whatever it contains, it cannot end its value or its line, or control a
//! terminal. The result is printable ASCII of at most `limit` bytes; `...` marks a cut.

/// Appends the inside of a JSON string. What is not ASCII becomes `\u` escapes, what is not UTF-8 U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    bounded(out, text, limit, |out, text| {
        let first = text[0];
        match first {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', first]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x80 => unicode(out, u16::from(first)),
            _ => return beyond_ascii(out, text),
        }
        1
    });
}

/// Appends a value of a `name=value` pair, in quotes where it needs them; then as [`json`].
pub(super) fn logfmt(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    if !text.is_empty()
        && text.len() <= limit
        && plain_run(text) == text.len()
        && !text.iter().any(|byte| b" =".contains(byte))
    {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    json(out, text, limit);
    out.push(b'"');
}

/// Appends text as nginx does in its logs: whatever is not printable ASCII, and quotes and backslashes, as `\xHH`.
pub(super) fn plain(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    bounded(out, text, limit, |out, text| {
        out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(text[0] >> 4)], HEX[usize::from(text[0] & 15)]]);
        1
    });
}

/// Copies what is plain in runs; `escape` writes what stands for the first bytes of a text, and says for how many.
fn bounded(out: &mut Vec<u8>, mut text: &[u8], limit: usize, escape: impl Fn(&mut Vec<u8>, &[u8]) -> usize) {
    let limit = out.len().saturating_add(limit);
    loop {
        let run = plain_run(text);
        if out.len() + run > limit {
            out.extend_from_slice(&text[..limit - out.len()]);
            return out.extend_from_slice(CUT);
        }
        out.extend_from_slice(&text[..run]);
        text = &text[run..];
        if text.is_empty() {
            return;
        }
        let before = out.len();
        let taken = escape(out, text);
        if out.len() > limit {
            // Never half an escape.
            out.truncate(before);
            return out.extend_from_slice(CUT);
        }
        text = &text[taken..];
    }
}

/// One character beyond ASCII, or what is none; says how many bytes it took.
fn beyond_ascii(out: &mut Vec<u8>, text: &[u8]) -> usize {
    let text = &text[..text.len().min(4)];
    let chunk = text.utf8_chunks().next();
    match chunk.map(|chunk| (chunk.valid().chars().next(), chunk.invalid().len())) {
        Some((Some(character), _)) => {
            let mut units = [0; 2];
            character.encode_utf16(&mut units).iter().for_each(|unit| unicode(out, *unit));
            character.len_utf8()
        }
        Some((None, invalid)) => {
            unicode(out, 0xfffd);
            invalid.max(1)
        }
        None => text.len(),
    }
}

fn unicode(out: &mut Vec<u8>, unit: u16) {
    let digit = |shift: u16| HEX[usize::from(unit >> shift & 15)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

/// How many bytes stand for themselves: printable ASCII but quotes and backslashes. Eight at a time, as most are.
fn plain_run(text: &[u8]) -> usize {
    let (words, _) = text.as_chunks::<8>();
    let mut run = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        // A byte's high bit says that it is below what is subtracted, or equal to what it was compared with; one that is
        // set by the borrow of a neighbour stands above one that is set rightly, and then the slow way decides.
        let below = word.wrapping_sub(ONES * 0x20);
        let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let delete = (word ^ (ONES * 0x7f)).wrapping_sub(ONES);
        if (below | quote | backslash | delete | word) & (ONES << 7) != 0 {
            break;
        }
        run += 8;
    }
    run + text[run..].iter().position(|byte| !is_plain(*byte)).unwrap_or(text.len() - run)
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// The lowest bit of every byte.
const ONES: u64 = 0x0101_0101_0101_0101;
const CUT: &[u8] = b"...";
const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(escape: fn(&mut Vec<u8>, &[u8], usize), text: &[u8], limit: usize) -> String {
        let mut out = Vec::new();
        escape(&mut out, text, limit);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_ends_its_value() {
        assert_eq!(with(json, b"a\"b\\c\n\x1b[31m\x7f", 99), r#"a\"b\\c\n\u001b[31m\u007f"#);
        assert_eq!(with(plain, b"a\"b\\c\n\x1b\xff", 99), r"a\x22b\x5cc\x0a\x1b\xff");
        assert_eq!(with(logfmt, b"a b=c\"", 99), r#""a b=c\"""#);
        assert_eq!(with(logfmt, b"", 99), r#""""#);
        assert_eq!(with(logfmt, b"/x?y", 99), "/x?y");
    }

    #[test]
    fn what_is_not_ascii_is_named() {
        assert_eq!(with(json, "ü😀\u{9b}".as_bytes(), 99), r"\u00fc\ud83d\ude00\u009b");
        assert_eq!(with(json, b"a\xffb\xe2\x82", 99), r"a\ufffdb\ufffd");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(with(json, b"abcdef", 6), "abcdef");
        assert_eq!(with(json, b"abcdef", 5), "abcde...");
        assert_eq!(with(json, b"abc\n", 4), "abc...");
        assert_eq!(with(logfmt, b"abcdef", 5), "\"abcde...\"");
    }

    proptest! {
        #[test]
        fn runs_end_where_the_first_byte_needs_more(
            text in proptest::collection::vec(prop_oneof![8 => 0x1e..=0x80_u8, 1 => any::<u8>()], 0..40)
        ) {
            let slow = text.iter().position(|byte| !is_plain(*byte)).unwrap_or(text.len());
            prop_assert_eq!(plain_run(&text), slow);
        }

        #[test]
        fn json_reads_back_what_was_text(text in "\\PC{0,40}|[\\x00-\\xff]{0,20}") {
            let read: String = serde_json::from_str(&format!("\"{}\"", with(json, text.as_bytes(), usize::MAX))).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn whatever_the_bytes_a_value_is_printable_and_bounded(
            bytes in proptest::collection::vec(any::<u8>(), 0..60), limit in 0..80_usize
        ) {
            for escape in [json, plain, logfmt] {
                let text = with(escape, &bytes, limit);
                prop_assert!(text.len() <= limit + CUT.len() + 2);
                prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
            let read: Result<String, _> = serde_json::from_str(&format!("\"{}\"", with(json, &bytes, limit)));
            prop_assert!(read.is_ok());
            prop_assert_eq!(read.unwrap(), if with(json, &bytes, usize::MAX).len() <= limit {
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                serde_json::from_str(&format!("\"{}\"", with(json, &bytes, limit))).unwrap()
            });
            prop_assert!(!with(plain, &bytes, limit).contains('"'));
        }
    }
}
