use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::model::Order;

fn field(field: LogField) -> LogValue {
    LogValue::Field(field)
}

fn test(text: &str) -> Test {
    parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")).test
}

/// The message, and the part of the text that is marked.
fn refused(text: &str) -> (String, String) {
    let fault = parse(text).expect_err(text);
    assert!(text.is_char_boundary(fault.range.start) && text.is_char_boundary(fault.range.end), "{text}");
    (fault.message, text[fault.range].to_owned())
}

#[test]
fn reads_the_example_of_the_manual() {
    assert_eq!(
        test("status >= 400 or duration > 500ms"),
        Test::Any(vec![
            Test::Number(field(LogField::Status), Order::AtLeast, 400),
            Test::Duration(field(LogField::Duration), Order::Above, Duration::from_millis(500)),
        ])
    );
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let status = |number| Test::Number(field(LogField::Status), Order::Equal, number);
    assert_eq!(
        test("status=1 or not status=2 and status=3"),
        Test::Any(vec![status(1), Test::All(vec![Test::Not(Box::new(status(2))), status(3)])])
    );
    assert_eq!(
        test("(status=1 or status=2) and status=3"),
        Test::All(vec![Test::Any(vec![status(1), status(2)]), status(3)])
    );
}

#[test]
fn each_kind_of_field_has_its_literals() {
    assert_eq!(test("bytes_out > 1MiB"), Test::Number(field(LogField::BytesOut), Order::Above, 1 << 20));
    assert_eq!(test("bytes_in <= 4096"), Test::Number(field(LogField::BytesIn), Order::AtMost, 4096));
    assert_eq!(test("first_byte<1s"), Test::Duration(field(LogField::FirstByte), Order::Below, Duration::from_secs(1)));
    assert_eq!(
        test("client_ip != \"10.0.0.0/8\""),
        Test::Not(Box::new(Test::Within(field(LogField::ClientIp), "10.0.0.0/8".parse().unwrap())))
    );
    assert_eq!(test("client_ip = '::1'"), Test::Within(field(LogField::ClientIp), "::1/128".parse().unwrap()));
    assert_eq!(test("outcome = 'ok'"), Test::Text(field(LogField::Outcome), b"ok".to_vec()));
    assert!(matches!(test("path ~ '^/v[0-9]+/'"), Test::Matches(_, pattern) if pattern.0.is_match(b"/v1/x")));
    assert_eq!(
        test("request_headers.X-Canary = 'yes'"),
        Test::Text(LogValue::RequestHeader(HeaderName::from_static("x-canary")), b"yes".to_vec())
    );
}

#[test]
fn faults_name_the_word_that_is_wrong() {
    for (text, message, marked) in [
        ("", "a condition is missing", ""),
        ("status >= 400 or", "a condition is missing", ""),
        ("staus >= 400", "unknown field `staus`", "staus"),
        ("duration_ms > 5", "unknown field `duration_ms`", "duration_ms"),
        ("status", "`status` is not compared with a value", ""),
        ("status >=", "`status` is not compared with a value", ""),
        ("status >= 'x'", "`status` cannot be compared with this", "'x'"),
        ("status >= 4xx", "`status` cannot be compared with this", "4xx"),
        ("duration > 500", "`duration` cannot be compared with this", "500"),
        ("status ~ '4..'", "`status` is not a string", "~"),
        ("method = GET", "`method` cannot be compared with this", "GET"),
        ("method < 'GET'", "`method` has no order", "<"),
        ("path ~ '('", "bad regular expression", "'('"),
        ("path = 'x", "unterminated string", "'x"),
        ("client_ip ~ '10'", "`client_ip` is an address", "~"),
        ("client_ip = 'ten'", "`client_ip` cannot be compared with this", "'ten'"),
        ("time > 5s", "`time` cannot be compared", ">"),
        ("outcome = 'conection_refused'", "unknown outcome `conection_refused`", "'conection_refused'"),
        ("(status = 1", "`(` is never closed", "("),
        ("status = 1)", "`)` without `(`", ")"),
        ("status = 1 status = 2", "two conditions without an operator", "status"),
        ("status == 1", "`==` is not an operator", "=="),
        ("status = 1 && status = 2", "`&&` is not an operator", "&&"),
        ("!(status = 1)", "`!` is not valid here", "!"),
        ("status = ü", "`ü` is not valid here", "ü"),
        ("= 1", "a field is missing", "="),
        (
            "request_headers.cookie = 'x'",
            "`cookie` is never logged: anyone who reads the log could impersonate its sender",
            "request_headers.cookie",
        ),
    ] {
        assert_eq!(refused(text), (message.to_owned(), marked.to_owned()), "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    let deep = |levels: usize| format!("{}status = 1{}", "(".repeat(levels), ")".repeat(levels));
    assert!(parse(&deep(DEPTH_LIMIT as usize)).is_ok());
    assert_eq!(refused(&deep(DEPTH_LIMIT as usize + 1)).0, "the condition is nested too deeply");
    assert_eq!(refused(&format!("{}status = 1", "not ".repeat(100_000))).0, "the condition is nested too deeply");
}

/// Conditions that are right, as text.
fn conditions() -> impl Strategy<Value = String> {
    let comparison = prop_oneof![
        "status (=|!=|<|<=|>|>=) [0-9]{1,3}",
        "duration > [0-9]{1,5}(ms|s|m)",
        "bytes_out<=[0-9]{1,4}KiB",
        "(host|path|route|user_agent|request_headers\\.x-a) (=|!=|~|!~) '[a-z]{0,8}'",
    ];
    comparison.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} and {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_at_a_place_inside(text in "\\PC{0,60}") {
        if let Err(fault) = parse(&text) {
            prop_assert!(fault.range.end <= text.len() && text.get(fault.range.clone()).is_some(), "{fault:?}");
        }
    }

    #[test]
    fn any_mixture_of_words_is_read_or_refused(
        words in proptest::collection::vec(prop_oneof![
            Just("status"), Just("path"), Just("client_ip"), Just("("), Just(")"), Just("and"), Just("or"), Just("not"),
            Just("="), Just(">="), Just("~"), Just("!~"), Just("400"), Just("5s"), Just("'x'"), Just("'"), Just("request_headers.a"),
        ], 0..24)
    ) {
        let text = words.join(" ");
        if let Err(fault) = parse(&text) {
            prop_assert!(text.get(fault.range.clone()).is_some(), "{fault:?}");
        }
    }

    #[test]
    fn what_is_right_is_read(text in conditions()) {
        prop_assert!(parse(&text).is_ok(), "{text}");
    }
}
