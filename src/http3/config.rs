//! What one role of a connection promises its peer and how far it lets it go.

use std::time::Duration;

/// The limits and promises of a connection, of either role.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a field section by the count of RFC 9114 §4.2.2 (names, values and 32 per field); told to the peer in
    /// SETTINGS_MAX_FIELD_SECTION_SIZE. 64 KiB.
    pub max_field_section_size: u64,
    /// Fields in one section. 100.
    pub max_fields: usize,
    /// Bytes of the dynamic table that the peer may fill (QPACK_MAX_TABLE_CAPACITY), and the most we use of the peer's;
    /// 0 turns it off. 4 KiB.
    pub max_table_capacity: usize,
    /// Streams that may wait for the dynamic table (QPACK_BLOCKED_STREAMS). 16.
    pub max_blocked_streams: usize,
    /// A request stream's first byte to the last one of its head. 10 s.
    pub header_timeout: Duration,
    /// Requests that a client may have open at a time, told to it when it has use for more than [`FIRST_REQUESTS`], which the
    /// transport begins with: that keeps a place for each. 100.
    pub max_requests: u32,
    /// Whether extended CONNECT is allowed (RFC 9220). A server says so in its SETTINGS.
    pub connect_protocol: bool,
    /// Whether HTTP datagrams are announced (RFC 9297).
    pub datagrams: bool,
}

/// Requests that a client may have open from the beginning (RFC 9114 §6.1 advises against less).
pub const FIRST_REQUESTS: u32 = 100;

impl Default for Config {
    fn default() -> Self {
        Self {
            max_field_section_size: 64 * 1024,
            max_fields: 100,
            max_table_capacity: 4096,
            max_blocked_streams: 16,
            header_timeout: Duration::from_secs(10),
            max_requests: FIRST_REQUESTS,
            connect_protocol: false,
            datagrams: false,
        }
    }
}
