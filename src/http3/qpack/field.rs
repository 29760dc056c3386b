//! Fields on their way out of the decoder: as names and values of `http` where they are known as such, so that what stands
//! in a table is looked at once and not with each message.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// A name that begins with a colon (RFC 9114 §4.3, RFC 9220 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFCs'")]
pub enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

impl Pseudo {
    /// The one that is called `name`.
    pub const fn from_bytes(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            _ => return None,
        })
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
        }
    }
}

/// A name in a table.
#[derive(Clone, Debug)]
pub enum KnownName {
    /// A pseudo-header field.
    Pseudo(Pseudo),
    /// A field.
    Header(HeaderName),
    /// What no message may have; the table takes it all the same.
    Malformed(Bytes),
}

impl KnownName {
    /// # Panics
    /// Where `name` is malformed. It runs when the program is compiled.
    pub(super) const fn from_static(name: &'static str) -> Self {
        match Pseudo::from_bytes(name.as_bytes()) {
            Some(pseudo) => Self::Pseudo(pseudo),
            None => Self::Header(HeaderName::from_static(name)),
        }
    }

    pub(super) fn new(name: &[u8]) -> Self {
        match Pseudo::from_bytes(name) {
            Some(pseudo) => Self::Pseudo(pseudo),
            None => match HeaderName::from_lowercase(name) {
                Ok(name) => Self::Header(name),
                Err(_) => Self::Malformed(Bytes::copy_from_slice(name)),
            },
        }
    }

    /// The name as it is sent.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Pseudo(pseudo) => pseudo.as_str().as_bytes(),
            Self::Header(name) => name.as_str().as_bytes(),
            Self::Malformed(name) => name,
        }
    }
}

/// A value in a table.
#[derive(Clone, Debug)]
pub struct KnownValue {
    bytes: Bytes,
    header: Option<HeaderValue>,
}

impl KnownValue {
    /// # Panics
    /// Where `value` is no field value. It runs when the program is compiled.
    pub(super) const fn from_static(value: &'static str) -> Self {
        Self { bytes: Bytes::from_static(value.as_bytes()), header: Some(HeaderValue::from_static(value)) }
    }

    pub(super) fn new(value: &[u8]) -> Self {
        let bytes = Bytes::copy_from_slice(value);
        Self { header: HeaderValue::from_maybe_shared(bytes.clone()).ok(), bytes }
    }

    /// The value as it is sent.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value, shared.
    #[inline]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The value of a field; `None` where it has characters that none may have.
    #[inline]
    pub fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }
}

/// The name of a field that was decoded.
#[derive(Clone, Copy, Debug)]
pub enum FieldName<'a> {
    /// From a table.
    Known(&'a KnownName),
    /// Written out.
    Text(&'a [u8]),
}

impl<'a> FieldName<'a> {
    /// The name as it was sent.
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Known(name) => name.as_bytes(),
            Self::Text(name) => name,
        }
    }
}

/// The value of a field that was decoded.
#[derive(Clone, Copy, Debug)]
pub enum FieldValue<'a> {
    /// From a table.
    Known(&'a KnownValue),
    /// Written out.
    Text(&'a [u8]),
}

impl<'a> FieldValue<'a> {
    /// The value as it was sent.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Known(value) => value.as_bytes(),
            Self::Text(value) => value,
        }
    }
}

/// What takes the fields of a section, in order.
pub trait Sink {
    /// Takes the next one. `is_sensitive`: it must not enter a table when it is passed on (RFC 9204 §7.1.3). A break ends
    /// the decoding of this section, without a fault.
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()>;
}

/// A field on its way into the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case, or a pseudo-header field.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// It enters no table, here or on later hops.
    pub is_sensitive: bool,
}

impl Field<'_> {
    /// What it counts against limits, in a section and in the table (RFC 9114 §4.2.2, RFC 9204 §3.2.1).
    pub fn size(&self) -> u64 {
        size(self.name, self.value)
    }
}

/// What a field counts against limits.
#[inline]
pub(super) fn size(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len()) as u64 + OVERHEAD
}

pub(super) const OVERHEAD: u64 = 32;
