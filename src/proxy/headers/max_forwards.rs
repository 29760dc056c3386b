//! Max-Forwards: how many proxies a TRACE or an OPTIONS may still pass (sans-io, RFC 9110 §7.6.2).

use http::header::MAX_FORWARDS;
use http::{HeaderMap, HeaderValue, Method};

/// Whether nobody behind us is to get the request.
pub fn is_spent(method: &Method, fields: &HeaderMap) -> bool {
    is_counted(method) && left(fields) == Some(0)
}

/// One less for whoever gets it next. The field means nothing with other methods, and passes as it came.
pub fn count_down(method: &Method, fields: &mut HeaderMap) {
    if is_counted(method)
        && let Some(left) = left(fields)
    {
        fields.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

fn is_counted(method: &Method) -> bool {
    matches!(*method, Method::OPTIONS | Method::TRACE)
}

fn left(fields: &HeaderMap) -> Option<u64> {
    let value = fields.get(MAX_FORWARDS)?.as_bytes();
    let digits = value.iter().all(u8::is_ascii_digit);
    if digits { str::from_utf8(value).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_trace_are_counted_and_nothing_else_is() {
        for (method, value, spent, next) in [
            (Method::OPTIONS, "0", true, "0"),
            (Method::TRACE, "000", true, "0"),
            (Method::OPTIONS, "1", false, "0"),
            (Method::TRACE, "10", false, "9"),
            (Method::GET, "0", false, "0"),
            (Method::GET, "7", false, "7"),
            (Method::OPTIONS, "+1", false, "+1"),
            (Method::OPTIONS, "", false, ""),
            (Method::OPTIONS, "many", false, "many"),
            (Method::OPTIONS, "99999999999999999999999", false, "99999999999999999999999"),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(MAX_FORWARDS, HeaderValue::from_static(value));
            assert_eq!(is_spent(&method, &fields), spent, "{method} {value}");
            count_down(&method, &mut fields);
            assert_eq!(fields[MAX_FORWARDS], next, "{method} {value}");
        }
        assert!(!is_spent(&Method::OPTIONS, &HeaderMap::new()));
    }
}
