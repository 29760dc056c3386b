//! The Date of an answer that came without one (RFC 9110 §6.6.1), written once for each second.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The date as it is sent, 29 bytes.
pub(super) fn now() -> [u8; LENGTH] {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    CACHED.with(|cached| {
        let (cached_second, date) = cached.get();
        if cached_second == second {
            return date;
        }
        let mut date = [b' '; LENGTH];
        let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        // It has this length until the year 10000.
        date.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        cached.set((second, date));
        date
    })
}

thread_local! {
    static CACHED: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [b' '; LENGTH])) };
}

const LENGTH: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_date() {
        let date = now();
        let parsed = httpdate::parse_http_date(std::str::from_utf8(&date).unwrap()).unwrap();
        assert!(parsed <= SystemTime::now());
        assert_eq!(now().len(), LENGTH);
    }
}
