//! The rules of the house that a compiler does not hold: rooms import only rooms below them, files stay short, `unsafe`
//! and third-party types stay where they are wrapped. `docs/ARCHITECTURE.md` says why; `src/lib.rs` holds the order.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file may have before its tests.
const MAX_LINES: usize = 400;
/// Lines of `//!` a file may begin with.
const MAX_HEADER_LINES: usize = 8;
/// The only file with `unsafe`.
const UNSAFE_FILE: &str = "net/sys.rs";
/// Words that say nothing about what a thing is, or name it differently from the rest of the house.
const EMPTY_WORDS: [&str; 9] =
    ["backend", "manager", "handler", "util", "utils", "helper", "helpers", "common", "misc"];
/// Terms of a specification that hold such a word.
const TERMS: [&str; 1] = ["common_name"];
/// Paths of other crates and the rooms (or files) that wrap them; tests may use them anywhere.
const WRAPPED: [(&str, &[&str]); 23] = [
    ("rustls", &["transport", "cli"]),
    ("tokio_rustls", &["transport"]),
    ("rustls_pki_types", &["transport", "cli"]),
    ("rustls_native_certs", &["transport"]),
    ("x509_parser", &["transport"]),
    ("rcgen", &["transport"]),
    ("quinn", &["transport", "http3", "protocol", "upstream", "serve"]),
    // Others' HTTP/3 is for tests alone (docs/adr/0003).
    ("h3", &[]),
    ("h3_quinn", &[]),
    ("mio", &["l4"]),
    ("quinn_udp", &["net"]),
    ("ppp", &["net"]),
    ("crc32c", &["net"]),
    ("twox_hash", &["upstream"]),
    ("argon2", &["route"]),
    ("bcrypt", &["route"]),
    ("base64", &["body", "proxy"]),
    ("socket2", &["net"]),
    ("hickory_resolver", &["control"]),
    ("notify", &["control"]),
    ("clap", &["cli"]),
    ("toml", &["config"]),
    ("tokio::time", &["net/timer.rs", "control", "app", "cli"]),
];
/// Parts of those that are plain values and may stand anywhere.
const FREE: [&str; 2] = ["tokio::time::Instant", "tokio::time::Duration"];

#[test]
fn rooms_import_only_rooms_below_them() {
    let rooms = Rooms::parse(&read("src/lib.rs"));
    assert!(rooms.level.len() > 3, "no rooms found in src/lib.rs");
    report(sources().iter().flat_map(|source| rooms.faults(source)).collect());
}

#[test]
fn files_end_before_they_grow_too_long() {
    report(sources().iter().flat_map(Source::length_faults).collect());
}

#[test]
fn unsafe_stays_in_one_file() {
    report(sources().iter().flat_map(Source::unsafe_faults).collect());
}

#[test]
fn third_party_types_stay_where_they_are_wrapped() {
    report(sources().iter().flat_map(Source::wrapping_faults).collect());
}

#[test]
fn names_say_what_a_thing_is() {
    report(sources().iter().flat_map(Source::name_faults).collect());
}

/// The rooms of `src/lib.rs` with their level; rooms under one `// level` comment are siblings.
struct Rooms {
    level: HashMap<String, usize>,
}

impl Rooms {
    fn parse(lib: &str) -> Self {
        let mut level = HashMap::new();
        let mut current = 0;
        for line in lib.lines().map(str::trim) {
            if line.starts_with("// level ") {
                current += 1;
            } else if let Some(name) = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")) {
                assert!(current > 0, "`{line}` stands above the first `// level` comment");
                level.insert(name.trim_end_matches(';').to_owned(), current);
            }
        }
        Self { level }
    }

    fn faults(&self, source: &Source) -> Vec<String> {
        let Some(room) = source.room() else { return Vec::new() };
        let Some(&own) = self.level.get(&room) else {
            return vec![format!("src/{}: `{room}` is not declared in src/lib.rs", source.name)];
        };
        let mut faults = Vec::new();
        for path in source.paths() {
            let Some(other) = path.room(source.depth()) else { continue };
            let fault = match self.level.get(other) {
                _ if other == room => continue,
                Some(&level) if level < own => continue,
                Some(&level) if level == own => "its sibling",
                Some(_) => "a room above it",
                None => "no room",
            };
            faults.push(format!("src/{}:{}: `{room}` imports `{other}`, {fault}", source.name, path.line));
        }
        faults
    }
}

/// One file of `src/`.
struct Source {
    /// Below `src/`, with `/`.
    name: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to; `None` for the two crate roots.
    fn room(&self) -> Option<String> {
        let first = self.name.split('/').next()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(room, "lib" | "main")).then(|| room.to_owned())
    }

    /// How many modules lie between the file's module and the root, itself included.
    fn depth(&self) -> usize {
        self.name.split('/').filter(|part| *part != "mod.rs").count()
    }

    fn is_all_tests(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.contains("/tests/")
    }

    /// The line where the tests begin, counted from 1; past the end where there are none.
    fn tests_begin(&self) -> usize {
        if self.is_all_tests() {
            return 1;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let begins = |i: &usize| {
            lines[*i] == "#[cfg(test)]" && lines[*i + 1..].iter().find(|l| !l.starts_with("#[")).is_some_and(is_module)
        };
        (0..lines.len()).find(begins).unwrap_or(lines.len()) + 1
    }

    fn length_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let lines = self.tests_begin() - 1;
        if lines > MAX_LINES {
            faults.push(format!("src/{}: {lines} lines before its tests, {MAX_LINES} allowed", self.name));
        }
        let header = self.text.lines().take_while(|l| l.starts_with("//!")).count();
        if header > MAX_HEADER_LINES {
            faults.push(format!("src/{}: {header} lines of `//!`, {MAX_HEADER_LINES} allowed", self.name));
        }
        faults
    }

    fn unsafe_faults(&self) -> Vec<String> {
        if self.name == UNSAFE_FILE {
            return Vec::new();
        }
        let tokens = tokens(&self.text);
        let unsafes = tokens.iter().filter(|t| t.text == "unsafe");
        unsafes.map(|t| format!("src/{}:{}: `unsafe` outside of src/{UNSAFE_FILE}", self.name, t.line)).collect()
    }

    fn wrapping_faults(&self) -> Vec<String> {
        let Some(room) = self.room() else { return Vec::new() };
        let tests_begin = self.tests_begin();
        let mut faults = Vec::new();
        for path in self.paths().iter().filter(|p| p.line < tests_begin) {
            if FREE.iter().any(|free| path.starts_with(free)) {
                continue;
            }
            let Some((wrapped, homes)) = WRAPPED.iter().find(|(wrapped, _)| path.starts_with(wrapped)) else {
                continue;
            };
            if !homes.iter().any(|home| *home == self.name || *home == room) {
                faults.push(format!("src/{}:{}: `{wrapped}` belongs to {homes:?}", self.name, path.line));
            }
        }
        faults
    }

    fn name_faults(&self) -> Vec<String> {
        let tokens = tokens(&self.text);
        let mut faults = Vec::new();
        for pair in tokens.windows(2) {
            let declares = ["fn", "struct", "enum", "trait", "mod", "type", "const", "static"];
            if !declares.contains(&pair[0].text.as_str()) || TERMS.contains(&pair[1].text.as_str()) {
                continue;
            }
            if let Some(word) = words(&pair[1].text).into_iter().find(|w| EMPTY_WORDS.contains(&w.as_str())) {
                let place = format!("src/{}:{}", self.name, pair[1].line);
                faults.push(format!("{place}: `{}` is named `{word}`, which says nothing", pair[1].text));
            }
        }
        faults
    }

    fn paths(&self) -> Vec<UsedPath> {
        paths(&tokens(&self.text))
    }
}

fn is_module(line: &&str) -> bool {
    line.starts_with("mod ") || line.starts_with("pub mod ") || line.starts_with("pub(crate) mod ")
}

/// `EndpointSet` and `endpoint_set` are both `endpoint`, `set`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && words.last().is_some_and(|w| w.ends_with(char::is_lowercase))) {
            words.push(String::new());
        }
        if let (Some(last), true) = (words.last_mut(), c != '_') {
            last.extend(c.to_lowercase());
        }
    }
    words
}

/// A path as it was written, groups taken apart: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(Debug)]
struct UsedPath {
    line: usize,
    segments: Vec<String>,
    /// Modules opened with braces around it in the file.
    inside: usize,
}

impl UsedPath {
    /// The room that the path names from a module `depth` below the root: by `crate::` or by enough `super::`.
    fn room(&self, depth: usize) -> Option<&str> {
        let (first, rest) = self.segments.split_first()?;
        if first == "crate" {
            return rest.first().map(String::as_str);
        }
        let climbs = self.segments.iter().take_while(|s| *s == "super").count();
        let reaches_root = climbs > 0 && climbs >= depth + self.inside;
        self.segments.get(climbs).filter(|_| reaches_root).map(String::as_str)
    }

    fn starts_with(&self, path: &str) -> bool {
        let wanted: Vec<&str> = path.split("::").collect();
        self.segments.len() >= wanted.len().max(2) && self.segments.iter().zip(&wanted).all(|(a, b)| a == b)
    }
}

fn paths(tokens: &[Token]) -> Vec<UsedPath> {
    let mut found = Vec::new();
    let mut braces = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let before = |n: usize| i.checked_sub(n).map_or("", |at| tokens[at].text.as_str());
        match tokens[i].text.as_str() {
            "{" => braces.push(before(2) == "mod"),
            "}" => drop(braces.pop()),
            _ if tokens[i].is_word() && before(1) != "::" && before(1) != "." => {
                let inside = braces.iter().filter(|is_module| **is_module).count();
                i = path_at(tokens, i, &mut Vec::new(), &mut |line, segments: &[String]| {
                    found.push(UsedPath { line, segments: segments.to_vec(), inside });
                });
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Reads the path that begins at `i`, tells each one that it stands for, and returns the place after it.
fn path_at(tokens: &[Token], mut i: usize, prefix: &mut Vec<String>, tell: &mut impl FnMut(usize, &[String])) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let goes_on = |i: usize| matches!(text(i), "{" | "*") || tokens.get(i).is_some_and(Token::is_word);
    let outer = prefix.len();
    loop {
        if text(i) == "{" && prefix.len() > outer {
            i += 1;
            while !matches!(text(i), "}" | "") {
                i = if text(i) == "," { i + 1 } else { path_at(tokens, i, prefix, tell) };
            }
            i += 1;
            break;
        }
        let Some(token) = tokens.get(i).filter(|t| t.is_word() || t.text == "*") else {
            i += 1;
            break;
        };
        prefix.push(token.text.clone());
        i += 1;
        if text(i) != "::" || !goes_on(i + 1) {
            tell(token.line, prefix);
            break;
        }
        i += 1;
    }
    prefix.truncate(outer);
    i
}

/// A word, `::`, or one other character; comments and the insides of literals are left out.
#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, '"'),
            '\'' => character_or_lifetime(rest),
            _ if first.is_alphanumeric() || first == '_' => {
                let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                match (&rest[..word], rest[word..].chars().next()) {
                    ("r" | "br" | "cr", Some('"' | '#')) => word + raw_string(&rest[word..]),
                    ("b" | "c", Some('"')) => word + quoted(&rest[word..], '"'),
                    ("b", Some('\'')) => word + quoted(&rest[word..], '\''),
                    (name, _) => {
                        tokens.push(Token { line, text: name.to_owned() });
                        word
                    }
                }
            }
            _ if rest.starts_with("::") => {
                tokens.push(Token { line, text: "::".to_owned() });
                2
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push(Token { line, text: first.to_string() });
                }
                first.len_utf8()
            }
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let step = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn character_or_lifetime(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, '\''),
        _ => 1,
    }
}

/// `r#name` is a name, not a string: only its mark is passed over.
fn raw_string(rest: &str) -> usize {
    let hashes = rest.chars().take_while(|c| *c == '#').count();
    if !rest[hashes..].starts_with('"') {
        return hashes;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[hashes + 1..].find(&end).map_or(rest.len(), |at| hashes + 1 + at + end.len())
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src/") {
            let path: PathBuf = entry.expect("an entry of src/").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).expect("it lies below src/").to_string_lossy().into_owned();
                sources.push(Source { name, text: fs::read_to_string(&path).expect("a source file") });
            }
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(sources.len() > 10, "only {} files found below src/", sources.len());
    sources
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

mod the_rules_themselves {
    use super::*;

    const LIB: &str =
        "// level 0\npub mod base;\n// level 1, siblings\npub mod left;\nmod right;\n// level 2\npub mod top;\n";

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    fn import_faults(name: &str, text: &str) -> Vec<String> {
        Rooms::parse(LIB).faults(&source(name, text))
    }

    #[test]
    fn imports_from_below_and_within_pass() {
        assert!(import_faults("left/a.rs", "use crate::base::X;\nuse crate::left::Y;\nuse super::b;").is_empty());
        assert!(import_faults("top.rs", "use crate::{base, left::{A, B}, right::*};").is_empty());
        assert!(import_faults("main.rs", "use tidegate::top::run;").is_empty());
    }

    #[test]
    fn imports_from_above_and_beside_are_refused() {
        assert_eq!(
            import_faults("base/a.rs", "\nuse crate::top::X;"),
            ["src/base/a.rs:2: `base` imports `top`, a room above it"]
        );
        assert_eq!(
            import_faults("left.rs", "use crate::right::X;"),
            ["src/left.rs:1: `left` imports `right`, its sibling"]
        );
        assert_eq!(import_faults("top.rs", "use crate::elsewhere::X;").len(), 1);
        assert_eq!(import_faults("stray.rs", "").len(), 1);
    }

    #[test]
    fn nested_groups_expressions_macros_and_tests_are_seen() {
        let nested = "use crate::{base::{self, id::{A, B}}, right::{C, d::*}};";
        assert_eq!(import_faults("left/mod.rs", nested).len(), 2);
        let lines = import_faults("base/mod.rs", "use crate::{\n    base,\n    top,\n};");
        assert_eq!(lines, ["src/base/mod.rs:3: `base` imports `top`, a room above it"]);
        assert_eq!(import_faults("base/mod.rs", "fn f() -> u8 { g(crate::top::X) }").len(), 1);
        assert_eq!(import_faults("base/mod.rs", "macro_rules! m { () => { $crate::top::X } }").len(), 1);
        assert_eq!(import_faults("base/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::left::X;\n}\n").len(), 1);
        assert_eq!(import_faults("base/a.rs", "use crate::*;").len(), 1);
    }

    #[test]
    fn climbing_past_the_room_is_seen() {
        assert_eq!(import_faults("base/a.rs", "use super::super::top::X;").len(), 1);
        assert_eq!(import_faults("base/mod.rs", "use super::{left, base::x};").len(), 1);
        assert!(import_faults("base/a.rs", "mod tests {\n    use super::super::b::X;\n}").is_empty());
        assert_eq!(import_faults("base/a.rs", "mod tests {\n    use super::super::super::top::X;\n}").len(), 1);
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "// crate::top\n/* crate::top /* nested */ crate::top */\nconst A: &str = \"crate::top \\\" unsafe\";\n\
                    const B: &str = r#\"crate::top \" unsafe\"#;\nconst C: char = '\"';\nfn f<'a>(x: &'a str) { b'\\''; }\n";
        assert!(import_faults("base/a.rs", text).is_empty());
        assert!(source("base/a.rs", text).unsafe_faults().is_empty());
        assert_eq!(import_faults("base/a.rs", "const C: char = '\"'; use crate::top;").len(), 1);
    }

    #[test]
    fn unsafe_is_found_outside_of_its_file() {
        assert_eq!(source("net/io.rs", "fn f() {\n    unsafe { g() }\n}").unsafe_faults().len(), 1);
        assert_eq!(source("base/a.rs", "unsafe impl Send for X {}").unsafe_faults().len(), 1);
        assert!(source("net/sys.rs", "unsafe { g() }").unsafe_faults().is_empty());
        assert!(source("lib.rs", "#![deny(unsafe_code)]").unsafe_faults().is_empty());
    }

    #[test]
    fn only_lines_before_the_tests_count() {
        let long = "//\n".repeat(MAX_LINES);
        assert!(source("base/a.rs", &long).length_faults().is_empty());
        assert_eq!(source("base/a.rs", &format!("{long}//\n")).length_faults().len(), 1);
        let tested = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(source("base/a.rs", &tested).length_faults().is_empty());
        assert_eq!(source("base/a.rs", &format!("#[cfg(test)]\nuse x::Y;\n{long}")).length_faults().len(), 1);
        assert!(source("base/a/tests.rs", &format!("{long}{long}")).length_faults().is_empty());
        assert_eq!(source("base/a.rs", &"//! word\n".repeat(MAX_HEADER_LINES + 1)).length_faults().len(), 1);
    }

    #[test]
    fn wrapped_crates_are_found_outside_of_their_rooms() {
        assert_eq!(source("proxy/a.rs", "use rustls::{ServerConfig, pki_types::X};").wrapping_faults().len(), 2);
        assert_eq!(source("serve/a.rs", "fn f() { tokio::time::sleep(x) }").wrapping_faults().len(), 1);
        assert_eq!(source("serve/a.rs", "use tokio::{net::X, time::Y};").wrapping_faults().len(), 1);
        assert!(source("transport/tls/a.rs", "use rustls::ServerConfig;").wrapping_faults().is_empty());
        assert!(source("net/timer.rs", "use tokio::time::Sleep;").wrapping_faults().is_empty());
        assert!(source("body/a.rs", "use tokio::time::Instant;").wrapping_faults().is_empty());
        let tested = "#[cfg(test)]\nmod tests {\n    use socket2::Socket;\n}";
        assert!(source("proxy/a.rs", tested).wrapping_faults().is_empty());
        assert!(source("proxy/a.rs", "let rustls = x.rustls;").wrapping_faults().is_empty());
    }

    #[test]
    fn empty_words_are_found_in_declared_names() {
        assert_eq!(source("base/a.rs", "struct PoolManager;\nfn find_backend() {}\nmod util;").name_faults().len(), 3);
        assert!(source("base/a.rs", "fn uncommonly(x: Handler) {}").name_faults().is_empty());
    }
}
