//! The result of the reader, and the input of `validate`: a file's tree in the form of the schema. Values of the wrong
//! type are `Bad`; their fault is already reported, so `validate` skips them.

use std::ops::Range;
use std::time::Duration;

use super::schema::Key;
use super::source::Spot;

/// A table with known keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its header, or the inline table.
    pub(crate) spot: Spot,
    pub(crate) entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: &'static Key,
    /// Where the key stands.
    pub(crate) name: Spot,
    pub(crate) node: Node,
}

/// One value.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spot: Spot,
    pub(crate) data: Data,
}

#[derive(Debug)]
pub(crate) enum Data {
    /// Not of the schema's shape; reported.
    Bad,
    /// `Shape::Word`, `Shape::Choice`.
    Word(&'static str),
    Flag(bool),
    Count(u64),
    Share(f64),
    Duration(Duration),
    Size(u64),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<Pair>),
    Section(Section),
    Sections(Vec<Section>),
    Named(Vec<(Name, Section)>),
}

/// A string after expansion of its variables.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Whether the file has the very bytes of the value behind the opening quote.
    pub(crate) verbatim: bool,
    /// As it was written, where variables were put in: what they hold is not for everybody.
    pub(crate) unexpanded: Option<Box<str>>,
}

/// The name of a named table.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) value: String,
    pub(crate) spot: Spot,
}

/// One entry of a map.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) name: Name,
    pub(crate) node: Node,
}

/// A string with where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written<'a> {
    pub(crate) value: &'a str,
    pub(crate) spot: Spot,
    verbatim: bool,
}

impl Written<'_> {
    /// Where a part of it stands, in bytes of the value; the whole where that cannot be told.
    pub(crate) fn part(&self, range: Range<usize>) -> Spot {
        if self.verbatim { self.spot.part(range.start + 1..range.end + 1) } else { self.spot }
    }
}

impl Node {
    pub(crate) fn written(&self) -> Option<Written<'_>> {
        match &self.data {
            Data::Text(text) => Some(Written { value: &text.value, spot: self.spot, verbatim: text.verbatim }),
            _ => None,
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.data, Data::Bad)
    }

    /// Whether nothing in it is bad.
    fn is_sound(&self) -> bool {
        match &self.data {
            Data::Bad => false,
            Data::List(nodes) => nodes.iter().all(Node::is_sound),
            Data::Map(pairs) => pairs.iter().all(|pair| pair.node.is_sound()),
            _ => true,
        }
    }
}

impl Section {
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key.name == name)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|entry| &entry.node)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether nothing under these keys is bad.
    pub(crate) fn is_sound(&self, names: &[&str]) -> bool {
        names.iter().filter_map(|name| self.node(name)).all(Node::is_sound)
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        match self.node(name)?.data {
            Data::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        match self.node(name)?.data {
            Data::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A number; the schema keeps every one within 32 bits.
    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        match self.node(name)?.data {
            Data::Count(count) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
            _ => None,
        }
    }

    pub(crate) fn share(&self, name: &str) -> Option<f64> {
        match self.node(name)?.data {
            Data::Share(share) => Some(share),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.node(name)?.data {
            Data::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    pub(crate) fn word(&self, name: &str) -> Option<&'static str> {
        match self.node(name)?.data {
            Data::Word(word) => Some(word),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<Written<'_>> {
        self.node(name)?.written()
    }

    /// The strings of a list.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = Written<'_>> {
        self.list(name).iter().filter_map(Node::written)
    }

    pub(crate) fn list(&self, name: &str) -> &[Node] {
        match self.node(name) {
            Some(Node { data: Data::List(nodes), .. }) => nodes,
            _ => &[],
        }
    }

    pub(crate) fn map(&self, name: &str) -> &[Pair] {
        match self.node(name) {
            Some(Node { data: Data::Map(pairs), .. }) => pairs,
            _ => &[],
        }
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        match self.node(name) {
            Some(Node { data: Data::Section(section), .. }) => Some(section),
            _ => None,
        }
    }

    pub(crate) fn sections(&self, name: &str) -> &[Section] {
        match self.node(name) {
            Some(Node { data: Data::Sections(sections), .. }) => sections,
            _ => &[],
        }
    }

    pub(crate) fn named(&self, name: &str) -> &[(Name, Section)] {
        match self.node(name) {
            Some(Node { data: Data::Named(sections), .. }) => sections,
            _ => &[],
        }
    }
}
