//! Fast formatting of times in UTC (sans-io): RFC 3339 and the format of web server logs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Appends such as `2026-11-23T04:00:00.123Z` (RFC 3339 §5.6).
pub fn rfc3339(out: &mut Vec<u8>, at: SystemTime) {
    let (seconds, millis) = since_epoch(at);
    let date = Date::of(seconds);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[..4], date.year);
    digits(&mut text[5..7], date.month);
    digits(&mut text[8..10], date.day);
    clock(&mut text[11..19], seconds);
    digits(&mut text[20..23], millis);
    out.extend_from_slice(&text);
}

/// Appends such as `23/Nov/2026:04:00:00 +0000`, as Apache and nginx write it.
pub fn web_log(out: &mut Vec<u8>, at: SystemTime) {
    let (seconds, _) = since_epoch(at);
    let date = Date::of(seconds);
    let mut text = *b"00/Jan/0000:00:00:00 +0000";
    digits(&mut text[..2], date.day);
    text[3..6].copy_from_slice(MONTHS[date.month as usize - 1]);
    digits(&mut text[7..11], date.year);
    clock(&mut text[12..20], seconds);
    out.extend_from_slice(&text);
}

/// Reads what [`rfc3339`] writes; `None`: it is something else.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if text.len() != 24 || punctuation.iter().any(|(at, mark)| text.as_bytes()[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second, millis) = (number(11..13)?, number(14..16)?, number(17..19)?, number(20..23)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59
    {
        return None;
    }
    // Years begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + millis))
}

/// Clocks that stand before 1970 are wrong anyway.
fn since_epoch(at: SystemTime) -> (u64, u64) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs().min(LAST), u64::from(since.subsec_millis()))
}

struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// In years that begin in March, so that the day that may be missing is the last one; 400 of them are 146,097 days.
    fn of(seconds: u64) -> Self {
        let days = seconds / DAY + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self { year: era * 400 + year + u64::from(month <= 2), month, day }
    }
}

fn clock(out: &mut [u8], seconds: u64) {
    let second = seconds % DAY;
    digits(&mut out[..2], second / 3_600);
    digits(&mut out[3..5], second / 60 % 60);
    digits(&mut out[6..8], second % 60);
}

fn digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

const DAY: u64 = 86_400;
/// The end of the year 9999: no more than four digits.
const LAST: u64 = 253_402_300_799;
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> (String, String) {
        let (mut rfc, mut log) = (Vec::new(), Vec::new());
        rfc3339(&mut rfc, UNIX_EPOCH + Duration::from_millis(millis));
        web_log(&mut log, UNIX_EPOCH + Duration::from_millis(millis));
        (String::from_utf8(rfc).unwrap(), String::from_utf8(log).unwrap())
    }

    #[test]
    fn writes_known_points_in_time() {
        assert_eq!(at(0), ("1970-01-01T00:00:00.000Z".into(), "01/Jan/1970:00:00:00 +0000".into()));
        assert_eq!(at(951_782_400_007), ("2000-02-29T00:00:00.007Z".into(), "29/Feb/2000:00:00:00 +0000".into()));
        assert_eq!(at(1_795_406_400_123).0, "2026-11-23T04:00:00.123Z");
        assert_eq!(at(4_107_542_399_999).0, "2100-02-28T23:59:59.999Z");
        assert_eq!(at(u64::MAX / 2).0.len(), 24);
    }

    #[test]
    fn reads_no_other_text() {
        for text in
            ["", "2026-11-23", "2026-13-23T04:00:00.123Z", "2026-11-23T24:00:00.123Z", "2026-11-23T04:00:00.123é"]
        {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_date_of_http(seconds in 0..LAST) {
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            let known = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            let known = format!("{}/{}/{}:{} +0000", &known[5..7], &known[8..11], &known[12..16], &known[17..25]);
            prop_assert_eq!(at(seconds * 1000).1, known);
        }

        #[test]
        fn reads_what_it_writes(millis in 0..LAST * 1000) {
            let (written, _) = at(millis);
            prop_assert_eq!(parse_rfc3339(&written), Some(UNIX_EPOCH + Duration::from_millis(millis)));
        }
    }
}
