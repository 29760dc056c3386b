//! `docs/parity.md`: which case of this suite runs between which protocols, read from the suite itself. It is kept up to
//! date by the test below; `UPDATE_PARITY=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Words of the table for what a client speaks.
const DOWN: [(&str, &str); 5] =
    [("H1", "HTTP/1.1"), ("H1Tls", "HTTP/1.1 + TLS"), ("H2", "h2c"), ("H2Tls", "HTTP/2"), ("H3", "HTTP/3")];
/// The same of origins.
const UP: [(&str, &str); 4] = [("Http1", "h1"), ("Http2", "h2c"), ("Http2Tls", "h2"), ("Http3", "h3")];
/// Macros that leave protocols out, and why the cases of a file are theirs.
const EXPLAINED: [(&str, &str); 1] =
    [("proxy_protocol", "A PROXY header stands before the bytes of a TCP connection; QUIC has no place for one.")];

/// What each macro of the support runs: `(client, origin)`.
fn macros(support: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut found = BTreeMap::new();
    for text in support.split("macro_rules! ").skip(1) {
        let name = text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let text = text.split("\n}\n").next().unwrap_or_default();
        let mut pairs: Vec<_> = text
            .split(" pair(")
            .skip(1)
            .filter_map(|call| {
                let mut words = call.split(',').map(|word| word.trim().to_owned());
                words.next().zip(words.next())
            })
            .collect();
        // What another macro adds.
        for part in text.split("support::").skip(1) {
            let other = part.split('!').next().unwrap_or_default();
            let own: &[(String, String)] = found_in(support, other);
            pairs.extend_from_slice(own);
        }
        found.insert(name.to_owned(), pairs);
    }
    found
}

fn found_in(support: &str, name: &str) -> &'static [(String, String)] {
    let head = format!("macro_rules! {name} ");
    let Some((_, text)) = support.split_once(&head) else { return &[] };
    let alone = format!("{head}{text}");
    let alone = alone.split("\n}\n").next().unwrap_or_default();
    macros(&format!("{alone}\n}}\n")).remove(name).unwrap_or_default().leak()
}

fn table() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy");
    let macros = macros(&std::fs::read_to_string(folder.join("support/mod.rs")).unwrap());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut table = String::from(HEAD);
    table.push_str("| case |");
    for (_, word) in DOWN {
        let _ = write!(table, " {word} |");
    }
    let _ = write!(table, "\n|---|{}\n", "---|".repeat(DOWN.len()));
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
        let module = file.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        for (name, pairs) in macros.iter().filter(|(_, pairs)| !pairs.is_empty()) {
            for call in text.split(&format!("\n{name}! {{")).skip(1) {
                let cases = call.split('}').next().unwrap_or_default();
                for case in cases.split(',').map(str::trim).filter(|case| !case.is_empty()) {
                    let _ = write!(table, "| {module}: {} |", case.replace('_', " "));
                    for (down, _) in DOWN {
                        let _ = write!(table, " {} |", cell(module, down, pairs));
                    }
                    table.push('\n');
                }
            }
        }
    }
    table.push_str("\n## Left out\n\n");
    for (module, why) in EXPLAINED {
        let _ = writeln!(table, "- **{module}**: {why}");
    }
    table
}

fn cell(module: &str, down: &str, pairs: &[(String, String)]) -> String {
    let spoken = UP.iter().filter(|(up, _)| pairs.iter().any(|pair| pair.0 == *down && pair.1 == *up));
    let words: Vec<_> = spoken.map(|(_, word)| *word).collect();
    match words.is_empty() {
        false => words.join(" "),
        true if EXPLAINED.iter().any(|(explained, _)| *explained == module) && down == "H3" => "left out".to_owned(),
        true => String::new(),
    }
}

const HEAD: &str = "# What behaves alike over which protocols

Made from the whole-program suite (`tests/proxy`) by its own test; do not edit. A row is a case. A column is what the client
speaks, and what stands in it are the protocols of the origins that the case is run with: `h1`, `h2c` (HTTP/2 in
cleartext), `h2` (over TLS), `h3`. Each of them is a test of its own, and all of them pass, or this page could not have been
merged. An empty field: the case is about the other side, or about one protocol, and says nothing here.

";

#[test]
fn the_page_is_up_to_date() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parity.md");
    let table = table();
    if std::env::var_os("UPDATE_PARITY").is_some() {
        std::fs::write(&page, &table).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(written == table, "docs/parity.md is not what the suite is: run with UPDATE_PARITY=1");
}
