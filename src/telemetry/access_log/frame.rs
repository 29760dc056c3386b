//! The form of a line for a sink: the line itself, or a datagram around it, stored in the buffer with its length.

use super::line::{Layout, plain_or_dash};
use super::value::{Told, Value};
use crate::config::model::{AccessLog, LogField, LogOutput, LogValue};

/// How lines stand in a buffer.
pub(super) enum Frame {
    /// Ended by a line feed.
    Line,
    /// A message of RFC 3164 without a time: the daemon has a clock, and the time of such messages is a local one.
    Syslog { lead: Box<[u8]> },
    /// An entry of the journal's native protocol.
    Journal { fields: Vec<(LogValue, Box<[u8]>)> },
}

impl Frame {
    pub(super) fn new(config: &AccessLog) -> Self {
        match &config.output {
            LogOutput::Stdout | LogOutput::Stderr | LogOutput::File(_) => Self::Line,
            LogOutput::Syslog(_) => {
                let lead = format!("<{PRIORITY}>{IDENTIFIER}[{}]: ", std::process::id());
                Self::Syslog { lead: lead.into_bytes().into() }
            }
            LogOutput::Journald(_) => {
                let values = LogField::ALL.iter().map(|facts| LogValue::Field(facts.field));
                let values = values
                    .filter(|value| *value != LogValue::Field(LogField::Time))
                    .chain(config.request_headers.iter().cloned().map(LogValue::RequestHeader))
                    .chain(config.response_headers.iter().cloned().map(LogValue::ResponseHeader));
                let named = |value: LogValue| {
                    let name = journal_name(&value);
                    (value, name)
                };
                Self::Journal { fields: values.map(named).collect() }
            }
        }
    }

    /// Appends a line in its frame.
    pub(super) fn append(&self, out: &mut Vec<u8>, layout: &Layout, ending: &impl Told) {
        match self {
            Self::Line => {
                layout.line(out, ending);
                out.push(b'\n');
            }
            Self::Syslog { lead } => measured(out, |out| {
                out.extend_from_slice(lead);
                layout.line(out, ending);
            }),
            Self::Journal { fields } => measured(out, |out| {
                out.extend_from_slice(b"MESSAGE=");
                layout.line(out, ending);
                out.extend_from_slice(b"\nPRIORITY=6\nSYSLOG_IDENTIFIER=tidegate\n");
                for (value, name) in fields {
                    let value = ending.value(value);
                    if !matches!(value, Value::Missing) {
                        out.extend_from_slice(name);
                        plain_or_dash(out, value);
                        out.push(b'\n');
                    }
                }
            }),
        }
    }
}

/// The datagrams of a buffer.
pub(super) fn datagrams(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
        let (datagram, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        bytes = rest;
        Some(datagram)
    })
}

/// What a datagram takes in a buffer.
pub(super) fn framed_length(datagram: &[u8]) -> usize {
    LENGTH + datagram.len()
}

fn measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    write(out);
    // A line is far below 4 GiB: its values are bounded.
    let length = (out.len() - start - LENGTH) as u32;
    out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
}

/// `TIDEGATE_BYTES_OUT=`: capitals, digits and underscores, at most 64 of them.
fn journal_name(value: &LogValue) -> Box<[u8]> {
    let name = match value {
        LogValue::Field(field) => field.name().to_owned(),
        LogValue::RequestHeader(name) => format!("request_{name}"),
        LogValue::ResponseHeader(name) => format!("response_{name}"),
    };
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = "TIDEGATE_".chars().chain(name.chars().map(letter)).take(64).collect();
    format!("{name}=").into_bytes().into()
}

const IDENTIFIER: &str = "tidegate";
/// Facility local7, as web servers use it, severity informational.
const PRIORITY: u32 = 23 * 8 + 6;
const LENGTH: usize = 4;
