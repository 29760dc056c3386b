//! SETTINGS: what one side of a connection tells the other about itself (sans-io, RFC 9114 §7.2.4, RFC 9204 §5, RFC 9220
//! §5, RFC 9297 §2.1.1).

use smallvec::SmallVec;

use super::error::{Code, Error};
use super::frame::{kind, write_header};
use super::varint;

/// The settings of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// SETTINGS_QPACK_MAX_TABLE_CAPACITY, bytes: how large the table of this side's decoder may become. 0.
    pub qpack_max_table_capacity: u64,
    /// SETTINGS_QPACK_BLOCKED_STREAMS: how many streams may wait for that table. 0.
    pub qpack_blocked_streams: u64,
    /// SETTINGS_MAX_FIELD_SECTION_SIZE, bytes by the count of RFC 9114 §4.2.2. No limit.
    pub max_field_section_size: Option<u64>,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL: a server takes extended CONNECT. No.
    pub enable_connect_protocol: bool,
    /// SETTINGS_H3_DATAGRAM: HTTP datagrams may be sent here. No.
    pub h3_datagram: bool,
}

impl Default for Settings {
    /// RFC 9114 §7.2.4.2: what holds until SETTINGS come.
    fn default() -> Self {
        Self {
            qpack_max_table_capacity: 0,
            qpack_blocked_streams: 0,
            max_field_section_size: None,
            enable_connect_protocol: false,
            h3_datagram: false,
        }
    }
}

impl Settings {
    /// Reads the payload of a SETTINGS frame.
    ///
    /// # Errors
    /// Of the connection: H3_SETTINGS_ERROR for what is given twice, of HTTP/2 or no value of its setting; H3_FRAME_ERROR
    /// for a payload that ends within a setting.
    pub fn read(mut payload: &[u8]) -> Result<Self, Error> {
        let mut settings = Self::default();
        let mut seen = SmallVec::<[u64; 16]>::new();
        while !payload.is_empty() {
            let (id, value) = read_pair(&mut payload)
                .ok_or(Error::connection(Code::FRAME_ERROR, "SETTINGS that end within a setting"))?;
            if seen.contains(&id) {
                return Err(invalid("a setting given twice"));
            }
            if seen.len() == MAX_SETTINGS {
                return Err(Error::connection(Code::EXCESSIVE_LOAD, "too many settings"));
            }
            seen.push(id);
            match id {
                QPACK_MAX_TABLE_CAPACITY => settings.qpack_max_table_capacity = value,
                QPACK_BLOCKED_STREAMS => settings.qpack_blocked_streams = value,
                MAX_FIELD_SECTION_SIZE => settings.max_field_section_size = Some(value),
                ENABLE_CONNECT_PROTOCOL => settings.enable_connect_protocol = flag(value)?,
                H3_DATAGRAM => settings.h3_datagram = flag(value)?,
                // RFC 9114 §7.2.4.1
                0x0 | 0x2..=0x5 => return Err(invalid("a setting of HTTP/2")),
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Appends the whole frame. `random` chooses a setting that nobody knows, which goes along (RFC 9114 §7.2.4.1).
    pub fn write(&self, random: u32, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(64);
        let mut put = |id, value| {
            varint::write(id, &mut payload);
            varint::write(value, &mut payload);
        };
        put(QPACK_MAX_TABLE_CAPACITY, self.qpack_max_table_capacity);
        put(QPACK_BLOCKED_STREAMS, self.qpack_blocked_streams);
        if let Some(size) = self.max_field_section_size {
            put(MAX_FIELD_SECTION_SIZE, size);
        }
        if self.enable_connect_protocol {
            put(ENABLE_CONNECT_PROTOCOL, 1);
        }
        if self.h3_datagram {
            put(H3_DATAGRAM, 1);
        }
        put(u64::from(random) * 0x1f + 0x21, u64::from(random & 0xff));
        write_header(kind::SETTINGS, payload.len() as u64, out);
        out.extend_from_slice(&payload);
    }
}

fn read_pair(payload: &mut &[u8]) -> Option<(u64, u64)> {
    let (id, first) = varint::read(payload)?;
    let (value, second) = varint::read(&payload[first..])?;
    *payload = &payload[first + second..];
    Some((id, value))
}

/// RFC 8441 §3, RFC 9297 §2.1.1: nothing but 0 and 1.
fn flag(value: u64) -> Result<bool, Error> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(invalid("a setting that is neither 0 nor 1")),
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::connection(Code::SETTINGS_ERROR, reason)
}

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const QPACK_BLOCKED_STREAMS: u64 = 0x7;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
const H3_DATAGRAM: u64 = 0x33;
/// Far more than exist.
const MAX_SETTINGS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pairs: &[(u64, u64)]) -> Result<Settings, Code> {
        let mut payload = Vec::new();
        for &(id, value) in pairs {
            varint::write(id, &mut payload);
            varint::write(value, &mut payload);
        }
        Settings::read(&payload).map_err(|error| error.code())
    }

    #[test]
    fn what_is_not_allowed() {
        assert_eq!(read(&[]), Ok(Settings::default()));
        assert_eq!(read(&[(0x6, 100), (0x6, 100)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(read(&[(0x21, 1), (0x21, 2)]), Err(Code::SETTINGS_ERROR));
        for id in [0x0, 0x2, 0x3, 0x4, 0x5] {
            assert_eq!(read(&[(id, 0)]), Err(Code::SETTINGS_ERROR));
        }
        assert_eq!(read(&[(0x8, 2)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(read(&[(0x33, 2)]), Err(Code::SETTINGS_ERROR));
        assert_eq!(read(&(100..165).map(|id| (id, 0)).collect::<Vec<_>>()), Err(Code::EXCESSIVE_LOAD));
        assert_eq!(Settings::read(&[0x6]).unwrap_err().code(), Code::FRAME_ERROR);
        assert_eq!(Settings::read(&[0x6, 0x40]).unwrap_err().code(), Code::FRAME_ERROR);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            capacity in 0..varint::MAX, blocked in 0..varint::MAX, size in proptest::option::of(0..varint::MAX),
            connect: bool, datagram: bool, random: u32,
        ) {
            let settings = Settings {
                qpack_max_table_capacity: capacity,
                qpack_blocked_streams: blocked,
                max_field_section_size: size,
                enable_connect_protocol: connect,
                h3_datagram: datagram,
            };
            let mut out = Vec::new();
            settings.write(random, &mut out);
            prop_assert_eq!(out[0], 0x4);
            let (length, bytes) = varint::read(&out[1..]).unwrap();
            let payload = &out[1 + bytes..];
            prop_assert_eq!(payload.len() as u64, length);
            prop_assert_eq!(Settings::read(payload), Ok(settings));
        }
    }
}
