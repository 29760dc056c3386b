//! The description of every key: type, default, unit, text, cost. The reader validates files against it, `reference`
//! generates `config/reference.toml` from it, and `json_schema` generates `config/schema.json`.

mod control;
mod expectation;
mod listener;
mod logs;
mod outbound;
mod quic;
mod route;
mod server;
mod upstream;

use std::time::Duration;

use crate::base::units;

pub use server::ROOT;

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What may stand there.
    pub shape: Shape,
    /// What holds where it is left out.
    pub fallback: Fallback,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    /// What it costs; empty: nothing worth telling.
    pub cost: &'static str,
    /// A value for `reference.toml`, where the default is none.
    pub example: &'static str,
    /// Since when it is carried out.
    pub since: Since,
}

/// Since when a key or word is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This version and later.
    Version(&'static str),
    /// Not in this version.
    Later,
    /// Never here; the text says why.
    Never(&'static str),
}

/// What holds where a key is left out.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// The key must stand.
    Required,
    /// In words.
    Told(&'static str),
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Count(u64),
    /// A duration.
    Duration(Duration),
    /// Bytes.
    Size(u64),
    /// A string.
    Text(&'static str),
    /// A number that is no whole one, as TOML.
    Number(&'static str),
    /// A list of one string.
    Only(&'static str),
    /// The table's own keys have defaults.
    Table,
}

/// What may stand as a value.
#[derive(Debug)]
pub enum Shape {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A duration in a string.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A size in a string.
    Size {
        /// The smallest, bytes.
        min: u64,
        /// The largest, bytes.
        max: u64,
    },
    /// A number above 0 and at most 1.
    Share,
    /// Any string; the word says what it means.
    Text(&'static str),
    /// One string exactly.
    Word(&'static str),
    /// One of several strings.
    Choice {
        /// What this version carries out.
        words: &'static [&'static str],
        /// Not in this version.
        later: &'static [&'static str],
    },
    /// The first that fits the kind of the value.
    Either(&'static [Shape]),
    /// A list.
    List(&'static Shape),
    /// One, or a list.
    OneOrMany(&'static Shape),
    /// A table of names to values.
    Map(&'static Shape),
    /// A table of keys.
    Table(&'static [Key]),
    /// `[[name]]`, any number of times.
    Tables(&'static [Key]),
    /// `[name.NAME]`, any number of times.
    Named(&'static [Key]),
    /// Whatever stands here is refused.
    Unread,
}

impl Key {
    /// A key of this version; `doc` tells what it does.
    const fn new(name: &'static str, shape: Shape, fallback: Fallback, doc: &'static str) -> Self {
        Self { name, shape, fallback, doc, cost: "", example: "", since: Since::Version("0.1") }
    }

    /// A key that a later version brings.
    const fn later(name: &'static str) -> Self {
        let fallback = Fallback::Told("not in this version");
        Self { name, shape: Shape::Unread, fallback, doc: "", cost: "", example: "", since: Since::Later }
    }

    /// A key that looks right here and is not.
    const fn never(name: &'static str, why: &'static str) -> Self {
        let fallback = Fallback::Told("");
        Self { name, shape: Shape::Unread, fallback, doc: "", cost: "", example: "", since: Since::Never(why) }
    }

    const fn cost(mut self, cost: &'static str) -> Self {
        self.cost = cost;
        self
    }

    const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    /// Whether this version carries it out.
    pub fn is_here(&self) -> bool {
        matches!(self.since, Since::Version(_))
    }
}

impl Fallback {
    /// The default as TOML, where there is a value to write.
    pub fn toml(&self) -> Option<String> {
        match self {
            Self::Required | Self::Told(_) | Self::Table => None,
            Self::Flag(flag) => Some(flag.to_string()),
            Self::Count(count) => Some(count.to_string()),
            Self::Number(number) => Some((*number).to_owned()),
            Self::Duration(duration) => Some(format!("\"{}\"", units::format_duration(*duration))),
            Self::Size(bytes) => Some(format!("\"{}\"", units::format_size(*bytes))),
            Self::Text(text) => Some(format!("\"{text}\"")),
            Self::Only(text) => Some(format!("[\"{text}\"]")),
        }
    }
}

impl Shape {
    /// What is expected, in words: "a duration such as \"30s\"".
    pub fn expected(&self) -> String {
        match self {
            Self::Flag => "true or false".into(),
            Self::Count { .. } => "a whole number".into(),
            Self::Share => "a number above 0 and at most 1".into(),
            Self::Duration { .. } => "a duration such as \"30s\"".into(),
            Self::Size { .. } => "a size such as \"64KiB\"".into(),
            Self::Text(what) => format!("a string ({what})"),
            Self::Word(word) => format!("\"{word}\""),
            Self::Choice { words, .. } => {
                let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                if quoted.len() == 1 { quoted.concat() } else { format!("one of {}", quoted.join(", ")) }
            }
            Self::Either(shapes) => {
                let mut all: Vec<_> = shapes.iter().map(Shape::expected).collect();
                all.dedup();
                all.join(" or ")
            }
            Self::List(_) => "a list".into(),
            Self::OneOrMany(one) => format!("{} or a list", one.expected()),
            Self::Map(_) | Self::Table(_) | Self::Named(_) => "a table".into(),
            Self::Tables(_) => "a list of tables".into(),
            Self::Unread => "nothing".into(),
        }
    }

    /// The keys of the table that may stand here, alone or among others.
    pub fn keys(&self) -> Option<&'static [Key]> {
        match self {
            Self::Table(keys) | Self::Tables(keys) | Self::Named(keys) => Some(keys),
            Self::List(inner) | Self::OneOrMany(inner) => inner.keys(),
            Self::Either(shapes) => shapes.iter().find_map(Shape::keys),
            _ => None,
        }
    }
}

/// Any deadline: long enough for every use, short enough that adding it to a clock cannot overflow.
const DEADLINE: Shape = Shape::Duration { min: Duration::from_millis(1), max: YEAR };
const YEAR: Duration = Duration::from_secs(366 * 86_400);
/// Weights add up in 32 bits for every list that fits into memory.
const WEIGHT_MAX: u64 = 65_535;
