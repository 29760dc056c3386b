//! Scans a client's HTTP/1 byte stream, so that every request head is checked as raw bytes, at a known boundary, before
//! hyper sees it (sans-io, RFC 9112). The I/O wrapper below hyper feeds it with received bytes and passes on what it
//! releases. Heads are released complete and unambiguous or not at all; bodies are skipped by their framing. Nothing is
//! copied or allocated: the caller keeps an unfinished head and feeds it again with more bytes.

mod chunk;
mod scan;

use memchr::memchr;

use self::chunk::{Chunk, Skipped, skip};
use self::scan::{target_length, text_length, token_length};
use crate::base::error::Kind;

/// Bounds of a request head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes from the first of the request line to the empty line.
    pub max_head_bytes: usize,
    /// Header fields.
    pub max_fields: usize,
}

/// Why a request is refused: the kind decides the status, the reason is fixed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the outcome is called.
    pub kind: Kind,
    /// One sentence; nothing a client sent.
    pub reason: &'static str,
}

/// What may be done with the bytes fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// So many of them may go on. The rest begins at the first byte of a head: keep it, and feed it again from that
    /// byte. After 0, wait for more bytes first; after any other number it may be refused right away.
    Release(usize),
    /// None may go on: the stream ends here. Comes only as the first thing of a feed, never behind released bytes.
    Refuse(Refusal),
}

/// One client's HTTP/1 byte stream.
#[derive(Clone, Debug)]
pub struct Wire {
    limits: Limits,
    state: State,
    head: Head,
    /// The last head asked for another protocol and nobody decided yet.
    undecided: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At a boundary or inside a head.
    Head,
    /// So many bytes of a body are to come.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Chunk),
    /// Not HTTP any more.
    Tunnel,
    /// The framing of a body broke; hyper got the offending byte and fails on it.
    Broken,
}

/// What was learned of a head so far; offsets count from its first byte.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// Where the line under way begins.
    line: usize,
    /// How far the bytes were seen; its line is not ended there.
    searched: usize,
    fields: usize,
    blank_lines: u8,
    has_request_line: bool,
    is_1_0: bool,
    is_connect: bool,
    is_chunked: bool,
    asks_upgrade: bool,
    length: Option<u64>,
}

impl Wire {
    /// A stream whose first byte is the first of a request.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head, head: Head::default(), undecided: false }
    }

    /// Takes what was kept back before and what arrived since.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Head => match self.scan_head(rest) {
                    Ok(Some(length)) => {
                        at += length;
                        self.end_head();
                    }
                    Ok(None) => return Fed::Release(at),
                    Err(refusal) => {
                        // It is met again, from its first byte.
                        self.head = Head::default();
                        if at > 0 || (self.undecided && rest.len() < self.limits.max_head_bytes) {
                            return Fed::Release(at);
                        }
                        return Fed::Refuse(refusal);
                    }
                },
                State::Length(left) => {
                    let skip = left.min(rest.len() as u64);
                    at += skip as usize;
                    self.state = if skip == left { State::Head } else { State::Length(left - skip) };
                }
                State::Chunked(chunk) => {
                    let (used, skipped) = skip(chunk, rest);
                    at += used;
                    self.state = match skipped {
                        Skipped::Inside(chunk) => State::Chunked(chunk),
                        Skipped::Whole => State::Head,
                        Skipped::Broken => State::Broken,
                    };
                }
                State::Tunnel => return Fed::Release(bytes.len()),
                State::Broken if at > 0 => return Fed::Release(at),
                State::Broken => return Fed::Refuse(BAD_CHUNK),
            }
        }
        Fed::Release(at)
    }

    /// Whether neither a head nor a body is under way. Bytes that were kept back belong to a head.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Head && self.head.searched == 0
    }

    /// Whether the first byte of a head was seen and its last was not.
    pub fn head_in_progress(&self) -> bool {
        self.state == State::Head && self.head.searched > 0
    }

    /// Whether bytes of a body are to come.
    pub fn body_in_progress(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Whether the last head asked to switch protocols (Upgrade without a body, or CONNECT) and neither
    /// [`tunnel`](Self::tunnel) nor [`stay`](Self::stay) was called since. What follows such a head is kept back where
    /// it cannot be a request, since it may be the first bytes of the other protocol.
    pub fn is_switch_undecided(&self) -> bool {
        self.undecided
    }

    /// The protocol was switched: everything from here on is released unread.
    pub fn tunnel(&mut self) {
        self.state = State::Tunnel;
        self.undecided = false;
    }

    /// The protocol stays HTTP/1: what was kept back is a request like any other.
    pub fn stay(&mut self) {
        self.undecided = false;
    }

    /// The length of the head at the front of `bytes`, once its empty line is there.
    fn scan_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        // The line under way is read again from its beginning, a long one only once its end has come: a sender of
        // single bytes costs no more than the bytes.
        let is_long = self.head.searched - self.head.line > LONG_LINE;
        let is_cut = is_long && memchr(b'\n', bytes.get(self.head.searched..).unwrap_or_default()).is_none();
        if !is_cut && let Some(length) = self.scan_lines(bytes)? {
            return Ok(Some(length));
        }
        self.head.searched = bytes.len().max(self.head.line);
        if bytes.len() >= self.limits.max_head_bytes { Err(HEAD_TOO_LARGE) } else { Ok(None) }
    }

    /// From the line under way to the head's empty line; `None` where a line is not ended.
    fn scan_lines(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(end) = self.line(bytes, self.head.line)? {
            let is_blank = end - self.head.line == 2;
            self.head.line = end;
            self.head.searched = end;
            if end > self.limits.max_head_bytes {
                return Err(HEAD_TOO_LARGE);
            }
            if is_blank && self.head.has_request_line {
                return self.check_framing().map(|()| Some(end));
            }
            self.head.has_request_line = !is_blank;
        }
        Ok(None)
    }

    /// Where the line that begins at `start` ends, behind its LF; `None` while its end has not come.
    fn line(&mut self, bytes: &[u8], start: usize) -> Result<Option<usize>, Refusal> {
        let line = bytes.get(start..).unwrap_or_default();
        let end = match line {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if self.head.has_request_line => Some(2),
            [b'\r', b'\n', ..] => {
                // RFC 9112 §2.2: old clients send an empty line behind a body.
                self.head.blank_lines += 1;
                if self.head.blank_lines > MAX_BLANK_LINES {
                    return Err(bad("empty lines before the request line"));
                }
                Some(2)
            }
            _ if self.head.has_request_line => self.field(line)?,
            _ => self.request_line(line)?,
        };
        Ok(end.map(|end| start + end))
    }

    /// RFC 9112 §3: `method SP request-target SP HTTP-version`, exactly. What can never become one is refused without
    /// waiting for its end: TLS on a cleartext port, for one.
    fn request_line(&mut self, line: &[u8]) -> Result<Option<usize>, Refusal> {
        let method = token_length(line);
        match line.get(method) {
            None => return Ok(None),
            Some(b' ') if method > 0 => {}
            Some(b'\n') if method == 0 => return Err(BARE_LF),
            Some(_) => return Err(bad("the request line does not begin with a method")),
        }
        let target = &line[method + 1..];
        let length = target_length(target);
        match target.get(length) {
            None => return Ok(None),
            Some(b' ') if length > 0 => {}
            Some(b'\r' | b'\n') => return Err(bad("the request line is not complete")),
            Some(_) => return Err(bad("the request target contains an invalid character")),
        }
        let version = &target[length + 1..];
        self.head.is_1_0 = match version.first_chunk() {
            Some(b"HTTP/1.1\r\n") => false,
            Some(b"HTTP/1.0\r\n") => true,
            None if b"HTTP/1.1\r\n".starts_with(version) || b"HTTP/1.0\r\n".starts_with(version) => return Ok(None),
            _ if version.starts_with(b"HTTP/1.1\n") || version.starts_with(b"HTTP/1.0\n") => return Err(BARE_LF),
            _ => return Err(bad("the request line does not end in HTTP/1.1 or HTTP/1.0")),
        };
        self.head.is_connect = line.starts_with(b"CONNECT ");
        Ok(Some(method + 1 + length + 1 + 10))
    }

    /// RFC 9112 §5: `field-name ":" OWS field-value OWS`.
    fn field(&mut self, line: &[u8]) -> Result<Option<usize>, Refusal> {
        let name = token_length(line);
        match line.get(name) {
            None => return Ok(None),
            Some(b':') if name > 0 => {}
            Some(byte) => return Err(not_a_name(name, *byte)),
        }
        let mut end = name + 1;
        loop {
            end += text_length(&line[end..]);
            match line[end..] {
                [] | [b'\r'] => return Ok(None),
                [b'\t', ..] => end += 1,
                [b'\r', b'\n', ..] => break,
                [b'\n', ..] => return Err(BARE_LF),
                _ => return Err(bad("a control character in a header field")),
            }
        }
        self.head.fields += 1;
        if self.head.fields > self.limits.max_fields {
            return Err(Refusal { kind: Kind::RequestHeaderTooLarge, reason: "too many header fields" });
        }
        self.take_framing(&line[..name], &line[name + 1..end])?;
        Ok(Some(end + 2))
    }

    /// Remembers the fields that frame the message or switch its protocol.
    fn take_framing(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.head.asks_upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9110 §8.6: digits; repeated only with the same value.
                let length = parse_length(value.trim_ascii()).ok_or(BAD_LENGTH)?;
                if self.head.length.is_some_and(|before| before != length) {
                    return Err(DIFFERING_LENGTHS);
                }
                self.head.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                // RFC 9112 §6.1. No other coding is implemented, and a list is a way to hide one.
                if self.head.is_chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BAD_CODING);
                }
                self.head.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_framing(&self) -> Result<(), Refusal> {
        match (self.head.is_chunked, self.head.length.is_some()) {
            // RFC 9112 §6.3: the mark of request smuggling.
            (true, true) => Err(LENGTH_AND_CODING),
            // RFC 9112 §6.1: HTTP/1.0 knows no transfer codings.
            (true, false) if self.head.is_1_0 => Err(CODING_ON_1_0),
            _ => Ok(()),
        }
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.state = match (head.is_chunked, head.length) {
            (true, _) => State::Chunked(Chunk::SizeFirst),
            (false, Some(length)) if length > 0 => State::Length(length),
            (false, _) => State::Head,
        };
        // RFC 9110 §7.8: Upgrade means nothing on HTTP/1.0; one with a body is never carried out.
        self.undecided = self.state == State::Head && (head.is_connect || (head.asks_upgrade && !head.is_1_0));
    }
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        length.checked_mul(10)?.checked_add(digit).filter(|length| *length <= i64::MAX as u64)
    })
}

#[cold]
fn not_a_name(length: usize, byte: u8) -> Refusal {
    match byte {
        // RFC 9112 §5.2: obsolete line folding.
        b' ' | b'\t' if length == 0 => bad("a folded header line"),
        // RFC 9112 §5.1: no whitespace between name and colon.
        b' ' | b'\t' => bad("whitespace before the colon of a header field"),
        // RFC 9112 §2.2 lets a recipient take a bare LF for a line end; who does not is not confused by who does.
        b'\n' if length == 0 => BARE_LF,
        _ => bad("a header field without a valid name"),
    }
}

const fn bad(reason: &'static str) -> Refusal {
    Refusal { kind: Kind::HttpRequestError, reason }
}

/// Content-Length and Transfer-Encoding in one request.
pub const LENGTH_AND_CODING: Refusal = bad("both Content-Length and Transfer-Encoding");
/// Transfer-Encoding in an HTTP/1.0 request.
pub const CODING_ON_1_0: Refusal = bad("Transfer-Encoding on HTTP/1.0");
/// Transfer-Encoding that is not `chunked` alone.
pub const BAD_CODING: Refusal = bad("a Transfer-Encoding other than chunked");
/// Content-Length that is no number.
pub const BAD_LENGTH: Refusal = bad("an invalid Content-Length");
/// Content-Length given twice, differently.
pub const DIFFERING_LENGTHS: Refusal = bad("differing Content-Length fields");
/// Chunked framing that broke.
pub const BAD_CHUNK: Refusal = bad("broken chunked framing");
/// A head past its limit.
pub const HEAD_TOO_LARGE: Refusal =
    Refusal { kind: Kind::RequestHeaderTooLarge, reason: "the request head is larger than allowed" };

const BARE_LF: Refusal = bad("a line of the head ends without CR");
const LONG_LINE: usize = 256;
const MAX_BLANK_LINES: u8 = 4;

#[cfg(test)]
mod tests;
