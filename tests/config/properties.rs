//! Whatever a file holds, it is read or refused: no panic, and every fault has a place inside the text.

use proptest::prelude::*;
use tidegate::config;

const WHOLE: &str = include_str!("../../config/example.toml");
const REFERENCE: &str = include_str!("../../config/reference.toml");

/// Pieces that hurt parsers, and pieces of our language.
const PIECES: &[&str] = &[
    "[[route]]\n",
    "[[listener]]\n",
    "[upstream.a]\n",
    "[upstream.a.b.c]\n",
    "[server]\n",
    "[[upstream]]\n",
    "[listener]\n",
    "bind = ",
    "\":80\"",
    "upstream = ",
    "\"a\"",
    "path = ",
    "\"/v1/*\"",
    "\"~ (\"",
    "host = ",
    "\"*.é\"",
    "= ",
    "\n",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "#",
    ".",
    "\\",
    "${A",
    "${A:-b}",
    "$${",
    "{host}",
    "{rest",
    "1",
    "-1",
    "0x_",
    "1e9",
    "1979-05-27",
    "true",
    "weighted = ",
    "[{ upstream = \"a\", weight = 0 }]",
    "tls.certificates",
    "timeouts.idle",
    "\u{0}",
    "\u{feff}",
    "\r\n",
    "\t",
    "é",
    "\u{202e}",
    "inf",
    "99999999999999999999",
];

fn check(text: &str) -> Result<(), TestCaseError> {
    if let Err(faults) = config::parse_with("any.toml", text, &|_| None) {
        prop_assert!(!faults.is_empty());
        let lines = text.split('\n').count() as u32;
        for fault in faults.iter() {
            for excerpt in fault.excerpt.iter().chain(&fault.second) {
                prop_assert!((1..=lines).contains(&excerpt.place.line));
                let line = text.split('\n').nth(excerpt.place.line as usize - 1).unwrap();
                prop_assert!((1..=line.chars().count() as u32 + 1).contains(&excerpt.place.column));
            }
        }
        prop_assert!(faults.render(true).len() >= faults.render(false).len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_mixture_of_pieces_is_read_or_refused(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        check(&pieces.concat())?;
    }

    #[test]
    fn any_damage_to_a_file_is_read_or_refused(
        cuts in prop::collection::vec((0usize..REFERENCE.len(), 0usize..40, prop::sample::select(PIECES)), 1..6),
        long in any::<bool>(),
    ) {
        let mut text = if long { REFERENCE } else { WHOLE }.to_owned();
        for (at, length, piece) in cuts {
            let start = floor(&text, at % (text.len() + 1));
            let end = floor(&text, (start + length).min(text.len())).max(start);
            text.replace_range(start..end, piece);
        }
        check(&text)?;
    }

    #[test]
    fn any_value_is_read_or_refused(value in "\\PC{0,40}") {
        let value = value.replace(['\'', '\n'], "");
        let text = format!(
            "[[listener]]\nbind = '{value}'\nname = '{value}'\ntimeouts.idle = '{value}'\ntrusted_proxies = '{value}'\n\
             [[route]]\nhost = '{value}'\npath = '{value}'\nheader = {{ '{value}' = '{value}' }}\nredirect.to = '{value}'\n\
             [upstream.'{value}']\nendpoints = '{value}'\ntls.server_name = '{value}'\n"
        );
        check(&text)?;
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
