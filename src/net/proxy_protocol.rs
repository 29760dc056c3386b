//! The PROXY protocol, versions 1 and 2 (sans-io): reads the client's address from a proxy in front, and writes it for
//! endpoints. `ppp` parses and formats; this module adds bounds, the checksum, and checks that `ppp` lacks.
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>

pub mod receive;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ppp::v2::{self, Builder, Protocol};

use crate::base::addr::canonical;
use crate::config::model::SendProxyProtocol;

/// The longest header that is read; a version 1 header has at most 107 bytes by its definition.
pub const MAX_HEADER: usize = 4096;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// The beginning of a header, or too few bytes to know; more are needed.
    Incomplete,
    /// A header.
    Header(Header<'a>),
    /// Whatever it is, it is no PROXY header.
    Absent,
    /// A PROXY header that must not be believed; why.
    Broken(&'static str),
}

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// Bytes of the header; what follows is the client's.
    pub length: usize,
    /// The client; `None`: the proxy speaks for itself (`LOCAL`), or does not know (`UNKNOWN`, a Unix socket).
    pub client: Option<SocketAddr>,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    /// What else it says, as it was sent: a type, a length and a value each. Checked, checksum included.
    pub tlvs: &'a [u8],
}

/// What carries the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Reads the header that `bytes` begin with.
pub fn read(bytes: &[u8]) -> Reading<'_> {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        read_v2(bytes)
    } else if begins(bytes, V1_PREFIX) {
        read_v1(bytes)
    } else {
        Reading::Absent
    }
}

/// Appends the header that tells an endpoint of `client`, which came to `local`. Without a client it says that there is
/// none to tell of: `LOCAL`, or `UNKNOWN` in version 1, which is what a check of ours sends as well. Version 1 has no words
/// for datagrams and no TLVs. A checksum among `tlvs` is made anew.
pub fn write(
    out: &mut Vec<u8>,
    version: SendProxyProtocol,
    transport: Transport,
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tlvs: &[u8],
) {
    let ends = client.map(|client| same_family(client, local));
    match version {
        SendProxyProtocol::Off => {}
        SendProxyProtocol::V1 => write_v1(out, ends.filter(|_| transport == Transport::Stream)),
        SendProxyProtocol::V2 => write_v2(out, transport, ends, tlvs),
    }
}

/// Whether `bytes` are the beginning of something with this prefix, as far as they go.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    let common = bytes.len().min(prefix.len());
    bytes[..common] == prefix[..common]
}

fn read_v1(bytes: &[u8]) -> Reading<'_> {
    let line = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() == V1_MAX { Reading::Broken("no end within 107 bytes") } else { Reading::Incomplete };
    };
    let (line, length) = (&line[..=end], end + 1);
    if let Some(rest) = line.strip_prefix(b"PROXY UNKNOWN")
        && (rest.starts_with(b" ") || rest == b"\r\n")
    {
        // Whatever stands before the end of the line is to be ignored; `ppp` waits for more where there is much of it.
        return match rest.ends_with(b"\r\n") {
            true => Reading::Header(Header { length, ..Header::default() }),
            false => Reading::Broken(V1_MALFORMED),
        };
    }
    let Ok(header) = ppp::v1::Header::try_from(line) else { return Reading::Broken(V1_MALFORMED) };
    let (client, local) = match header.addresses {
        // `ppp` takes the sign of `+80`, and a line that goes on behind its first carriage return.
        _ if header.header.len() != length || line.contains(&b'+') => return Reading::Broken(V1_MALFORMED),
        ppp::v1::Addresses::Unknown => (None, None),
        ppp::v1::Addresses::Tcp4(ip) => {
            ends((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
        ppp::v1::Addresses::Tcp6(ip) => {
            ends((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
    };
    Reading::Header(Header { length, client, local, tlvs: &[] })
}

fn read_v2(bytes: &[u8]) -> Reading<'_> {
    let Some(fixed) = bytes.get(..V2_FIXED) else { return Reading::Incomplete };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_HEADER {
        return Reading::Broken("longer than 4096 bytes");
    }
    let Some(bytes) = bytes.get(..length) else { return Reading::Incomplete };
    if fixed[12] == V2_LOCAL {
        // What follows is to be discarded, whatever it is; `ppp` would refuse families it does not know.
        return Reading::Header(Header { length, ..Header::default() });
    }
    let Ok(header) = v2::Header::try_from(bytes) else { return Reading::Broken("a malformed version 2 header") };
    let (client, local) = match header.addresses {
        v2::Addresses::IPv4(ip) => {
            ends((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
        v2::Addresses::IPv6(ip) => {
            ends((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
        // Nothing is known of what follows an unknown family.
        v2::Addresses::Unspecified => return Reading::Header(Header { length, ..Header::default() }),
        v2::Addresses::Unix(_) => (None, None),
    };
    let tlvs = &bytes[length - header.tlv_bytes().len()..];
    match check(bytes, tlvs) {
        Ok(()) => Reading::Header(Header { length, client, local, tlvs }),
        Err(reason) => Reading::Broken(reason),
    }
}

fn ends(client: (IpAddr, u16), local: (IpAddr, u16)) -> (Option<SocketAddr>, Option<SocketAddr>) {
    (Some(canonical(client.into())), Some(canonical(local.into())))
}

/// The client and where it came to, in one family: a mixed pair is told in IPv6. Where it came to is not always known.
fn same_family(client: SocketAddr, local: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let unspecified = match client {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let local = local.unwrap_or(SocketAddr::new(unspecified, 0));
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    };
    if client.is_ipv4() == local.is_ipv4() { (client, local) } else { (mapped(client), mapped(local)) }
}

fn write_v1(out: &mut Vec<u8>, ends: Option<(SocketAddr, SocketAddr)>) {
    let addresses = ends.map_or(ppp::v1::Addresses::Unknown, ppp::v1::Addresses::from);
    // A vector takes every byte.
    let _ = write!(out, "{addresses}");
}

fn write_v2(out: &mut Vec<u8>, transport: Transport, ends: Option<(SocketAddr, SocketAddr)>, tlvs: &[u8]) {
    let (command, protocol) = match (&ends, transport) {
        // A LOCAL header has no family and no protocol, and what it would tell is discarded.
        (None, _) => (v2::Command::Local, Protocol::Unspecified),
        (Some(_), Transport::Stream) => (v2::Command::Proxy, Protocol::Stream),
        (Some(_), Transport::Datagram) => (v2::Command::Proxy, Protocol::Datagram),
    };
    let addresses = ends.map_or(v2::Addresses::Unspecified, v2::Addresses::from);
    let told = if ends.is_some() { tlvs } else { &[] };
    let begin = out.len();
    let builder = Builder::with_addresses(v2::Version::Two | command, protocol, addresses);
    // Fails past 65,535 bytes of TLVs; what was read has at most `MAX_HEADER`.
    let Ok(header) = builder.reserve_capacity(told.len()).write_payload(told).and_then(Builder::build) else { return };
    out.extend_from_slice(&header);
    let header = &mut out[begin..];
    let tlvs_begin = header.len() - told.len();
    if let Some(at) = checksum_at(&header[tlvs_begin..]).ok().flatten() {
        let at = tlvs_begin + at;
        header[at..at + CHECKSUM].fill(0);
        let checksum = crc32c::crc32c(header);
        header[at..at + CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Checks that the TLVs are whole, and their checksum against the whole header, where one is sent.
fn check(header: &[u8], tlvs: &[u8]) -> Result<(), &'static str> {
    let Some(at) = checksum_at(tlvs)? else { return Ok(()) };
    let at = header.len() - tlvs.len() + at;
    let sent = &header[at..at + CHECKSUM];
    // It is taken over the header with zeros in its own place.
    let made = crc32c::crc32c_append(crc32c::crc32c(&header[..at]), &[0; CHECKSUM]);
    let made = crc32c::crc32c_append(made, &header[at + CHECKSUM..]);
    if sent == made.to_be_bytes() { Ok(()) } else { Err("a wrong checksum") }
}

/// Where the value of the checksum stands among `tlvs`.
fn checksum_at(tlvs: &[u8]) -> Result<Option<usize>, &'static str> {
    let (mut at, mut checksum) = (0, None);
    for tlv in v2::TypeLengthValues::from(tlvs) {
        let tlv = tlv.map_err(|_| "malformed TLVs")?;
        let value = at + TLV_HEAD;
        if tlv.kind == u8::from(v2::Type::CRC32C) && (tlv.len() != CHECKSUM || checksum.replace(value).is_some()) {
            return Err("a malformed checksum");
        }
        at = value + tlv.len();
    }
    Ok(checksum)
}

const V1_PREFIX: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
const V1_MALFORMED: &str = "a malformed version 1 header";
/// Of version 2: the signature, version and command, family and protocol, the length of the rest.
const V2_FIXED: usize = 16;
/// Version 2, the command LOCAL.
const V2_LOCAL: u8 = 0x20;
/// Of a TLV: its type and its length.
const TLV_HEAD: usize = 3;
/// Bytes of a CRC32c.
const CHECKSUM: usize = 4;

#[cfg(test)]
mod tests;
