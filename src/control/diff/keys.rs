//! The changed keys of one table, with old and new values if they are short.

use std::fmt::Write as _;
use std::time::Duration;

use crate::base::units::{format_duration, format_size};
use crate::config::model::SocketOptions;

/// What is said of a key that a reload cannot change.
pub(super) const RESTART: &str = "with a restart";
/// What is said of a key that connections have taken with them.
pub(super) const NEW_CONNECTIONS: &str = "for new connections";

/// The changed keys of one thing.
#[derive(Default)]
pub(super) struct Keys(Vec<Change>);

struct Change {
    text: String,
    note: &'static str,
}

/// A comparison that was made; a note stands behind the key if it changed.
pub(super) struct Compared<'a>(Option<&'a mut Change>);

/// A value that is short in words.
pub(super) trait Short: PartialEq {
    fn short(&self) -> String;
}

impl Keys {
    /// Tells a key with both values.
    pub(super) fn compare<T: Short>(&mut self, key: &str, before: &T, after: &T) -> Compared<'_> {
        self.push(before != after, || format!("{key} {} -> {}", before.short(), after.short()))
    }

    /// Tells a key with both values in words of the caller's.
    pub(super) fn words<T: PartialEq>(
        &mut self,
        key: &str,
        before: &T,
        after: &T,
        word: impl Fn(&T) -> String,
    ) -> Compared<'_> {
        self.push(before != after, || format!("{key} {} -> {}", word(before), word(after)))
    }

    /// Tells a size in bytes.
    pub(super) fn size(&mut self, key: &str, before: Option<u64>, after: Option<u64>) -> Compared<'_> {
        let word = |bytes: &Option<u64>| bytes.map_or_else(|| "none".to_owned(), format_size);
        self.words(key, &before, &after, word)
    }

    /// Tells a key without its values: they are long, or secret.
    pub(super) fn changed(&mut self, key: &str, differs: bool) -> Compared<'_> {
        self.push(differs, || key.to_owned())
    }

    /// `[….socket]`. A buffer that is no longer written stays what it was on a socket that listens already.
    pub(super) fn socket(&mut self, before: &SocketOptions, after: &SocketOptions, is_kept: bool) {
        let SocketOptions { nodelay, keepalive, backlog, recv_buffer, send_buffer, fast_open, user_timeout } = before;
        let dropped = |before: Option<u32>, after: Option<u32>| {
            if is_kept && before.is_some() && after.is_none() { RESTART } else { NEW_CONNECTIONS }
        };
        self.compare("socket.nodelay", nodelay, &after.nodelay).note(NEW_CONNECTIONS);
        self.changed("socket.keepalive", *keepalive != after.keepalive).note(NEW_CONNECTIONS);
        self.compare("socket.backlog", backlog, &after.backlog);
        for (key, before, after) in [
            ("socket.recv_buffer", *recv_buffer, after.recv_buffer),
            ("socket.send_buffer", *send_buffer, after.send_buffer),
        ] {
            self.size(key, before.map(u64::from), after.map(u64::from)).note(dropped(before, after));
        }
        self.compare("socket.fast_open", fast_open, &after.fast_open).note(NEW_CONNECTIONS);
        self.compare("socket.user_timeout", user_timeout, &after.user_timeout).note(NEW_CONNECTIONS);
    }

    /// `what: key, key (note)`; `None` where nothing changed. Neighbours with the same note share it.
    pub(super) fn line(&self, what: impl std::fmt::Display) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut line = format!("{what}: ");
        for (nth, change) in self.0.iter().enumerate() {
            if nth > 0 {
                line.push_str(", ");
            }
            line.push_str(&change.text);
            let last_of_note = self.0.get(nth + 1).is_none_or(|next| next.note != change.note);
            if last_of_note && !change.note.is_empty() {
                let _ = write!(line, " ({})", change.note);
            }
        }
        Some(line)
    }

    fn push(&mut self, differs: bool, text: impl FnOnce() -> String) -> Compared<'_> {
        if !differs {
            return Compared(None);
        }
        self.0.push(Change { text: text(), note: "" });
        Compared(self.0.last_mut())
    }
}

impl Compared<'_> {
    /// Says what must be known about the change.
    pub(super) fn note(self, note: &'static str) {
        if let Some(change) = self.0 {
            change.note = note;
        }
    }
}

macro_rules! plain {
    ($($kind:ty),+) => {
        $(impl Short for $kind {
            fn short(&self) -> String {
                self.to_string()
            }
        })+
    };
}
plain!(bool, u32, u64, usize, String, std::sync::Arc<str>);

impl Short for Duration {
    fn short(&self) -> String {
        format_duration(*self)
    }
}

impl<T: Short> Short for Option<T> {
    fn short(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Short::short)
    }
}
