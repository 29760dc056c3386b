//! Parses a TLS ClientHello (sans-io) for the server name (RFC 6066 §3) and the ALPN list (RFC 7301): from the first
//! bytes of a connection, across records and reads, or from the bare message in QUIC's CRYPTO frames. Nothing is
//! answered, verified or changed. With ECH, the outer name is read.

use smallvec::SmallVec;

/// The longest ClientHello that is read, in bytes of the handshake message: past what any client sends, with
/// post-quantum shares, tickets and ECH.
pub const MAX_HELLO: usize = 64 * 1024;
/// The most bytes a reader may be given before it answers: the message and the headers of its records. A large hello in
/// records of a few bytes is nobody's but an attacker's.
pub const MAX_BYTES: usize = MAX_HELLO + 16 * 1024;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The beginning of a ClientHello; more is needed.
    Incomplete,
    /// The whole ClientHello is there.
    Hello(Hello),
    /// Another protocol, or TLS that does not begin with a handshake.
    NotTls,
    /// TLS, but no ClientHello that a server would take; why.
    Broken(&'static str),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    sni: Option<Box<str>>,
    /// The list as it was sent: a length byte before each protocol. Checked, so that walking it cannot fail.
    alpn: SmallVec<[u8; 24]>,
}

impl Hello {
    /// The name of the server: lowercase, without a final dot. `None`: none was sent, or an address, which is no name.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// The name of the server, to keep.
    pub fn into_sni(self) -> Option<Box<str>> {
        self.sni
    }

    /// The protocols, in the client's order of preference.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Bytes(&self.alpn);
        std::iter::from_fn(move || rest.vector8())
    }
}

/// Reads the ClientHello from `bytes`, everything that the client has sent so far. Whoever asks again for every piece
/// uses a [`HelloReader`], which does not begin anew.
pub fn read_hello(bytes: &[u8]) -> Reading {
    HelloReader::default().read(bytes)
}

/// Reads the ClientHello from `bytes`, what has come so far of a bare handshake message: the CRYPTO frames of QUIC in
/// order (RFC 9001 §4). Asked anew for every piece it stays cheap: only a whole message is taken apart.
pub fn read_message(bytes: &[u8]) -> Reading {
    match begins_hello(bytes) {
        Ok(Some(length)) if bytes.len() >= length => take_apart(&bytes[..length]),
        Ok(_) => Reading::Incomplete,
        Err(reason) => Reading::Broken(reason),
    }
}

/// Finds the end of a ClientHello in bytes that come in pieces and looks at each once: it remembers how far the records
/// were understood, and takes the message apart when it is whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct HelloReader {
    /// Where the first record begins that was not whole.
    record: usize,
    /// Bytes of the message in the records before it.
    gathered: usize,
    /// The first of them: what it is, and how long.
    head: [u8; HEAD],
}

impl HelloReader {
    /// What `bytes` are: everything the client has sent so far, what was given before included.
    pub fn read(&mut self, bytes: &[u8]) -> Reading {
        let within = &bytes[..bytes.len().min(MAX_BYTES)];
        match self.find_end(within) {
            // Nearly always the message lies in one record and is read where it is.
            Ok(Some(length)) if self.record == 0 => take_apart(&within[RECORD_HEADER..RECORD_HEADER + length]),
            Ok(Some(length)) => take_apart(&gather(within, length)),
            Ok(None) if within.len() == MAX_BYTES => Reading::Broken(TOO_LONG),
            Ok(None) => Reading::Incomplete,
            Err(reading) => reading,
        }
    }

    /// The length of the message, once all of it is there.
    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Reading> {
        loop {
            let Some(length) = record_length(&bytes[self.record..], self.gathered > 0)? else { return Ok(None) };
            let begin = self.record + RECORD_HEADER;
            let there = &bytes[begin..bytes.len().min(begin + length)];
            let known = self.gathered + there.len();
            if self.gathered < HEAD {
                let new = &there[..there.len().min(HEAD - self.gathered)];
                self.head[self.gathered..self.gathered + new.len()].copy_from_slice(new);
            }
            match begins_hello(&self.head[..known.min(HEAD)]).map_err(Reading::Broken)? {
                Some(whole) if known >= whole => return Ok(Some(whole)),
                _ if there.len() < length => return Ok(None),
                _ => (self.record, self.gathered) = (begin + length, known),
            }
        }
    }
}

/// The length of the fragment in the record that `bytes` begin with, as soon as its header is there.
fn record_length(bytes: &[u8], inside: bool) -> Result<Option<usize>, Reading> {
    // RFC 8446 §5.1: the minor version is ignored; records of other kinds never come inside a handshake message.
    let foreign = || if inside { Reading::Broken("another record inside the ClientHello") } else { Reading::NotTls };
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(foreign());
    }
    let Some(length) = bytes.get(3..RECORD_HEADER) else { return Ok(None) };
    match usize::from(length[0]) << 8 | usize::from(length[1]) {
        // RFC 8446 §5.1: no empty fragment of a handshake, none longer than 2^14 bytes.
        0 => Err(Reading::Broken("an empty record")),
        length if length > MAX_FRAGMENT => Err(Reading::Broken("a record longer than 16384 bytes")),
        length => Ok(Some(length)),
    }
}

/// The length of the message that `bytes` begin with, its head included, as soon as that is there.
fn begins_hello(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err("the handshake does not begin with a ClientHello");
    }
    if bytes.get(1).is_some_and(|highest| *highest != 0) {
        return Err(TOO_LONG);
    }
    let Some(length) = bytes.get(2..HEAD) else { return Ok(None) };
    let length = HEAD + (usize::from(length[0]) << 8 | usize::from(length[1]));
    if length > MAX_HELLO { Err(TOO_LONG) } else { Ok(Some(length)) }
}

/// The message out of its records, which are known to hold it; the last may still be on its way.
fn gather(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(length);
    let mut rest = bytes;
    while let Ok(Some(fragment)) = record_length(rest, false)
        && message.len() < length
    {
        let end = rest.len().min(RECORD_HEADER + fragment);
        message.extend_from_slice(&rest[RECORD_HEADER..end]);
        rest = &rest[end..];
    }
    message.truncate(length);
    message
}

/// Reads a whole message.
fn take_apart(message: &[u8]) -> Reading {
    match hello(&message[HEAD..]) {
        Ok(hello) => Reading::Hello(hello),
        Err(reason) => Reading::Broken(reason),
    }
}

/// RFC 8446 §4.1.2; older versions have the same form.
fn hello(body: &[u8]) -> Result<Hello, &'static str> {
    let mut rest = Bytes(body);
    let before_extensions = (|| {
        rest.take(2 + 32)?;
        let session = rest.vector8()?;
        let suites = rest.vector16()?;
        let compressions = rest.vector8()?;
        (session.len() <= 32 && !suites.is_empty() && suites.len() % 2 == 0 && !compressions.is_empty()).then_some(())
    })();
    before_extensions.ok_or("a malformed ClientHello")?;
    let mut asked = Hello::default();
    if rest.0.is_empty() {
        // Before RFC 4366 there were no extensions, and a client without any may still leave the list out.
        return Ok(asked);
    }
    let mut extensions = Bytes(rest.vector16().filter(|_| rest.0.is_empty()).ok_or(MALFORMED_EXTENSIONS)?);
    let (mut named, mut negotiates) = (false, false);
    while !extensions.0.is_empty() {
        let (kind, content) =
            extensions.u16().and_then(|kind| Some((kind, extensions.vector16()?))).ok_or(MALFORMED_EXTENSIONS)?;
        // RFC 8446 §4.2: none comes twice. What differs between the two would be up to who reads it.
        match kind {
            SERVER_NAME if std::mem::replace(&mut named, true) => return Err("two server names"),
            SERVER_NAME => asked.sni = server_names(content)?,
            ALPN if std::mem::replace(&mut negotiates, true) => return Err("two lists of protocols"),
            ALPN => asked.alpn = protocols(content)?,
            // GREASE (RFC 8701), an inner hello that only its server can read (ECH), and everything else.
            _ => {}
        }
    }
    Ok(asked)
}

/// RFC 6066 §3: a list that never had more than one name, as there is one kind of them and each may come once. A longer
/// one is read differently by every library, so nobody is sent to by it.
fn server_names(extension: &[u8]) -> Result<Option<Box<str>>, &'static str> {
    let mut outer = Bytes(extension);
    let mut list = Bytes(outer.vector16().filter(|_| outer.0.is_empty()).ok_or(MALFORMED_NAMES)?);
    let kind = list.take(1).ok_or(MALFORMED_NAMES)?[0];
    // Names of other kinds would begin with their length as well.
    let name = list.vector16().filter(|_| list.0.is_empty()).ok_or(MALFORMED_NAMES)?;
    if kind == HOST_NAME { host_name(name) } else { Ok(None) }
}

fn host_name(bytes: &[u8]) -> Result<Option<Box<str>>, &'static str> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Err(NO_NAME) };
    // RFC 6066 §3: addresses are not permitted; a client that sends one names nobody.
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let bytes = label.bytes();
        (1..=63).contains(&bytes.len()) && { bytes }.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(NO_NAME);
    }
    Ok(Some(name.to_ascii_lowercase().into()))
}

/// RFC 7301 §3.1.
fn protocols(extension: &[u8]) -> Result<SmallVec<[u8; 24]>, &'static str> {
    let mut outer = Bytes(extension);
    let list = outer.vector16().filter(|list| outer.0.is_empty() && !list.is_empty()).ok_or(MALFORMED_PROTOCOLS)?;
    let mut rest = Bytes(list);
    while !rest.0.is_empty() {
        rest.vector8().filter(|protocol| !protocol.is_empty()).ok_or(MALFORMED_PROTOCOLS)?;
    }
    Ok(list.into())
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind their length, which takes one byte.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// Bytes behind their length, which takes two.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

/// Of a record: its kind, a version, its length.
const RECORD_HEADER: usize = 5;
/// Of a handshake message: its kind and its length.
const HEAD: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const MAX_FRAGMENT: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
const TOO_LONG: &str = "a ClientHello longer than 65536 bytes";
const MALFORMED_EXTENSIONS: &str = "malformed extensions";
const MALFORMED_NAMES: &str = "a malformed list of server names";
const MALFORMED_PROTOCOLS: &str = "a malformed list of protocols";
const NO_NAME: &str = "a server name that is not a host name";

#[cfg(test)]
mod tests;
