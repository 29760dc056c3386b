//! The texts that were read, and places in them. The loader adds files; findings are converted to lines and columns
//! here.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Excerpt;
use super::model::Place;

/// A range of bytes in one of the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    /// The number of the text in its [`Sources`].
    pub(crate) file: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Spot {
    pub(crate) fn new(file: u32, range: Range<usize>) -> Self {
        // Texts are refused past `TEXT_LIMIT`, so that every offset fits.
        Self { file, start: range.start as u32, end: range.end as u32 }
    }

    /// A part of it, by bytes from its beginning.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        let start = (self.start as usize + range.start).min(self.end as usize);
        let end = (self.start as usize + range.end).clamp(start, self.end as usize);
        Self::new(self.file, start..end)
    }
}

/// Every text of one configuration, the main one first.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    list: Vec<Source>,
}

/// One text.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: Arc<str>,
    /// What relative paths in it start from.
    pub(crate) directory: PathBuf,
    pub(crate) text: Arc<str>,
    line_starts: Vec<u32>,
    ascii: bool,
    /// The last column that was counted, so that many places on one long line cost no more than one.
    counted: Cell<Counted>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    line_start: usize,
    offset: usize,
    characters: u32,
}

impl Sources {
    pub(crate) fn add(&mut self, name: &str, directory: &Path, text: &str) -> u32 {
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at as u32 + 1))
            .collect();
        self.list.push(Source {
            name: name.into(),
            directory: directory.to_owned(),
            text: text.into(),
            line_starts,
            ascii: text.is_ascii(),
            counted: Cell::default(),
        });
        self.list.len() as u32 - 1
    }

    pub(crate) fn file(&self, file: u32) -> &Source {
        &self.list[file as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }

    pub(crate) fn place(&self, spot: Spot) -> Place {
        let source = self.file(spot.file);
        let line = source.line_at(spot.start as usize);
        let column = source.column(line, spot.start as usize);
        Place { file: source.name.clone(), line: line as u32 + 1, column: column + 1 }
    }

    pub(crate) fn excerpt(&self, spot: Spot, label: &str) -> Excerpt {
        let source = self.file(spot.file);
        let place = self.place(spot);
        let line = source.line(place.line as usize - 1);
        let line_start = source.line_starts[place.line as usize - 1] as usize;
        let end = (spot.end as usize).min(line_start + line.len());
        let marked = source.text.get(spot.start as usize..end).unwrap_or("");
        let width = marked.chars().take(WIDTH_LIMIT).count() as u32;
        Excerpt::new(place, line, spot.start as usize - line_start, width, label.to_owned())
    }

    /// Whether a text says this anywhere.
    pub(crate) fn mention(&self, words: &str) -> bool {
        self.list.iter().any(|source| source.text.contains(words))
    }
}

impl Source {
    /// The number of the line, from 0, that holds an offset.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start as usize <= offset) - 1
    }

    fn line(&self, line: usize) -> &str {
        let start = self.line_starts[line] as usize;
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| *next as usize);
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    fn column(&self, line: usize, offset: usize) -> u32 {
        let line_start = self.line_starts[line] as usize;
        if self.ascii {
            return (offset - line_start) as u32;
        }
        let last = self.counted.get();
        let (from, before) = if last.line_start == line_start && last.offset <= offset {
            (last.offset.max(line_start), last.characters)
        } else {
            (line_start, 0)
        };
        let characters = before + self.text.get(from..offset).map_or(0, |text| text.chars().count()) as u32;
        self.counted.set(Counted { line_start, offset, characters });
        characters
    }
}

/// Characters that are counted under a mark; no more are shown.
const WIDTH_LIMIT: usize = 1_000;
/// The largest text that is read, bytes.
pub(crate) const TEXT_LIMIT: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_characters_from_one() {
        let mut sources = Sources::default();
        let text = "a = 1\nü = \"ö\" # x\n";
        let file = sources.add("f.toml", Path::new(""), text);
        let at = text.find("\"ö").unwrap();
        let place = sources.place(Spot::new(file, at..at + 4));
        assert_eq!((place.line, place.column), (2, 5));
        let excerpt = sources.excerpt(Spot::new(file, at..at + 4), "here");
        assert_eq!((excerpt.width, excerpt.offset, &*excerpt.line), (3, 4, "ü = \"ö\" # x"));
        let later = text.find('#').unwrap();
        assert_eq!(sources.place(Spot::new(file, later..later + 1)).column, 9);
        assert_eq!(sources.place(Spot::new(file, 0..1)).line, 1);
    }

    #[test]
    fn the_end_of_a_text_is_a_place() {
        let mut sources = Sources::default();
        let file = sources.add("f.toml", Path::new(""), "");
        assert_eq!(sources.excerpt(Spot::new(file, 0..0), "").place.column, 1);
    }
}
