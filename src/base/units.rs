//! Durations (`"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`) and sizes (`"512B"`, `"64KiB"`, `"1MiB"`): parsing and
//! formatting of one whole number and one unit.

use std::fmt;
use std::time::Duration;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// It does not begin with a digit.
    NoNumber,
    /// There is a number and nothing behind it.
    NoUnit,
    /// The unit is none of ours.
    UnknownUnit(String),
    /// The number does not fit.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber => f.write_str("it does not begin with a whole number"),
            Self::NoUnit => f.write_str("the unit is missing"),
            Self::UnknownUnit(unit) => write!(f, "unknown unit `{unit}`"),
            Self::TooLarge => f.write_str("the number is too large"),
        }
    }
}

impl std::error::Error for UnitError {}

/// Reads a duration.
///
/// # Errors
/// Anything but a whole number followed by `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads a size in bytes.
///
/// # Errors
/// Anything but a whole number followed by `B`, `KiB`, `MiB`, `GiB` or `TiB`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZE_UNITS)
}

/// Writes a duration in the largest unit that keeps it whole, 60 s and 90 s in seconds as people do; what is finer than a
/// millisecond is cut.
pub fn format_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(120) && duration.subsec_nanos() == 0 {
        return format!("{}s", duration.as_secs());
    }
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "0s")
}

/// Writes a size in the largest unit that keeps it whole.
pub fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS, "0B")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(UnitError::UnknownUnit(unit.to_owned()));
    };
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn format(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    if number == 0 {
        return zero.to_owned();
    }
    // The units stand from fine to coarse and the first divides everything.
    let (name, factor) = units.iter().rev().find(|(_, factor)| number.is_multiple_of(*factor)).unwrap_or(&("", 1));
    format!("{}{name}", number / factor)
}

/// The units of durations, from fine to coarse, with their milliseconds.
pub const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// The units of sizes, from fine to coarse, with their bytes.
pub const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["1ms", "1500ms", "30s", "60s", "90s", "5m", "1h", "7d", "0s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1B", "1023B", "64KiB", "1MiB", "3GiB", "1TiB", "0B"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(parse_duration("s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("30"), Err(UnitError::NoUnit));
        assert_eq!(parse_duration("30sec"), Err(UnitError::UnknownUnit("sec".into())));
        assert_eq!(parse_duration("-3s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("99999999999999999d"), Err(UnitError::TooLarge));
        assert_eq!(parse_size("64KB"), Err(UnitError::UnknownUnit("KB".into())));
        assert_eq!(parse_size("99999999999999999999999B"), Err(UnitError::TooLarge));
    }
}
