//! The fields that every QPACK peer knows (RFC 9204 Appendix A), made into names and values of `http` once, and where to
//! find one.

use super::field::{KnownName, KnownValue};

/// A field of the table.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: KnownName,
    /// Its value; empty where the table is for the name.
    pub value: KnownValue,
}

/// The field at `index`.
#[inline]
pub fn get(index: u64) -> Option<&'static Entry> {
    ENTRIES.get(usize::try_from(index).ok()?)
}

/// Where a field is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Name and value.
    Field(u8),
    /// The name, with another value.
    Name(u8),
}

/// Looks a field up.
#[inline]
pub fn find(name: &[u8], value: &[u8]) -> Option<Found> {
    let slot = &SLOTS[slot_of(name)?];
    if TEXTS[usize::from(slot.first)].0.as_bytes() != name {
        return None;
    }
    let first = usize::from(slot.first);
    let run = first..first + usize::from(slot.first_run);
    let more = usize::from(slot.second)..usize::from(slot.second) + usize::from(slot.second_run);
    for index in run.chain(more) {
        if TEXTS[index].1.as_bytes() == value {
            return Some(Found::Field(index as u8));
        }
    }
    Some(Found::Name(slot.first))
}

/// The fields of one name. They stand in at most two runs.
#[derive(Clone, Copy)]
struct Slot {
    first: u8,
    first_run: u8,
    second: u8,
    second_run: u8,
}

/// A hash without collisions among the names of the table, which a test holds.
#[inline]
const fn slot_of(name: &[u8]) -> Option<usize> {
    let length = name.len();
    if length < 3 {
        return None;
    }
    let key = u32::from_le_bytes([name[0], name[length - 1], name[length - 3], length as u8]);
    Some((key.wrapping_mul(0x6331_210f) >> (32 - SLOT_BITS)) as usize)
}

const SLOT_BITS: u32 = 7;

static SLOTS: [Slot; 1 << SLOT_BITS] = {
    // A slot without a name points at a field with another one.
    let mut slots = [Slot { first: 0, first_run: 0, second: 0, second_run: 0 }; 1 << SLOT_BITS];
    let mut index = TEXTS.len();
    // From the end on, so that what is first is written last.
    while index > 0 {
        index -= 1;
        let Some(at) = slot_of(TEXTS[index].0.as_bytes()) else { panic!("a name of the table is short") };
        let slot = &mut slots[at];
        if slot.first_run == 0 || slot.first as usize == index + 1 {
            slot.first = index as u8;
            slot.first_run += 1;
        } else {
            // A run before the one that was found first.
            assert!(slot.second_run == 0);
            *slot = Slot { first: index as u8, first_run: 1, second: slot.first, second_run: slot.first_run };
        }
    }
    slots
};

macro_rules! table {
    ($($name:literal, $value:literal;)*) => {
        static TEXTS: [(&str, &str); 99] = [$(($name, $value),)*];
        static ENTRIES: [Entry; 99] =
            [$(Entry { name: KnownName::from_static($name), value: KnownValue::from_static($value) },)*];
    };
}

table! {
    ":authority", "";
    ":path", "/";
    "age", "0";
    "content-disposition", "";
    "content-length", "0";
    "cookie", "";
    "date", "";
    "etag", "";
    "if-modified-since", "";
    "if-none-match", "";
    "last-modified", "";
    "link", "";
    "location", "";
    "referer", "";
    "set-cookie", "";
    ":method", "CONNECT";
    ":method", "DELETE";
    ":method", "GET";
    ":method", "HEAD";
    ":method", "OPTIONS";
    ":method", "POST";
    ":method", "PUT";
    ":scheme", "http";
    ":scheme", "https";
    ":status", "103";
    ":status", "200";
    ":status", "304";
    ":status", "404";
    ":status", "503";
    "accept", "*/*";
    "accept", "application/dns-message";
    "accept-encoding", "gzip, deflate, br";
    "accept-ranges", "bytes";
    "access-control-allow-headers", "cache-control";
    "access-control-allow-headers", "content-type";
    "access-control-allow-origin", "*";
    "cache-control", "max-age=0";
    "cache-control", "max-age=2592000";
    "cache-control", "max-age=604800";
    "cache-control", "no-cache";
    "cache-control", "no-store";
    "cache-control", "public, max-age=31536000";
    "content-encoding", "br";
    "content-encoding", "gzip";
    "content-type", "application/dns-message";
    "content-type", "application/javascript";
    "content-type", "application/json";
    "content-type", "application/x-www-form-urlencoded";
    "content-type", "image/gif";
    "content-type", "image/jpeg";
    "content-type", "image/png";
    "content-type", "text/css";
    "content-type", "text/html; charset=utf-8";
    "content-type", "text/plain";
    "content-type", "text/plain;charset=utf-8";
    "range", "bytes=0-";
    "strict-transport-security", "max-age=31536000";
    "strict-transport-security", "max-age=31536000; includesubdomains";
    "strict-transport-security", "max-age=31536000; includesubdomains; preload";
    "vary", "accept-encoding";
    "vary", "origin";
    "x-content-type-options", "nosniff";
    "x-xss-protection", "1; mode=block";
    ":status", "100";
    ":status", "204";
    ":status", "206";
    ":status", "302";
    ":status", "400";
    ":status", "403";
    ":status", "421";
    ":status", "425";
    ":status", "500";
    "accept-language", "";
    "access-control-allow-credentials", "FALSE";
    "access-control-allow-credentials", "TRUE";
    "access-control-allow-headers", "*";
    "access-control-allow-methods", "get";
    "access-control-allow-methods", "get, post, options";
    "access-control-allow-methods", "options";
    "access-control-expose-headers", "content-length";
    "access-control-request-headers", "content-type";
    "access-control-request-method", "get";
    "access-control-request-method", "post";
    "alt-svc", "clear";
    "authorization", "";
    "content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'";
    "early-data", "1";
    "expect-ct", "";
    "forwarded", "";
    "if-range", "";
    "origin", "";
    "purpose", "prefetch";
    "server", "";
    "timing-allow-origin", "*";
    "upgrade-insecure-requests", "1";
    "user-agent", "";
    "x-forwarded-for", "";
    "x-frame-options", "deny";
    "x-frame-options", "sameorigin";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_found_where_it_is() {
        for (index, &(name, value)) in TEXTS.iter().enumerate() {
            let index = index as u8;
            assert_eq!(find(name.as_bytes(), value.as_bytes()), Some(Found::Field(index)), "{name}: {value}");
            let first = TEXTS.iter().position(|other| other.0 == name).unwrap() as u8;
            assert_eq!(find(name.as_bytes(), b"other"), Some(Found::Name(first)), "{name}");
            let entry = get(u64::from(index)).unwrap();
            assert_eq!((entry.name.as_bytes(), entry.value.as_bytes()), (name.as_bytes(), value.as_bytes()));
        }
        assert!(get(99).is_none() && get(u64::MAX).is_none());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for name in
            ["", "a", "te", "dat", "dates", "x-request-id", "content-lengths", ":statuS", "authorisation", "via"]
        {
            assert_eq!(find(name.as_bytes(), b""), None, "{name}");
        }
    }
}
