//! A password file in use: read at start, and again when it changes. If the new contents are invalid, the old ones stay
//! in use. `control` does the reading; requests use [`UserFile::users`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::users::{LineFault, Users};

/// A password file.
pub struct UserFile {
    path: PathBuf,
    live: ArcSwap<Live>,
}

struct Live {
    text: String,
    users: Arc<Users>,
}

/// Why a file does not do.
#[derive(Debug)]
pub enum FileFault {
    /// It cannot be read.
    Unreadable(std::io::Error),
    /// Some of its lines do not do.
    Lines(Vec<LineFault>),
}

impl UserFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or holds something that is not believed.
    pub fn load(path: &Path) -> Result<Self, FileFault> {
        let live = ArcSwap::from_pointee(Live::read(path)?);
        Ok(Self { path: path.to_owned(), live })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The users as the file last had them.
    pub fn users(&self) -> Arc<Users> {
        Arc::clone(&self.live.load().users)
    }

    /// Reads it again and uses what is new in it; says whether anything is. With it every verdict is forgotten.
    ///
    /// # Errors
    /// As [`load`](Self::load); what was in use stays in use.
    pub fn renew(&self) -> Result<bool, FileFault> {
        let live = Live::read(&self.path)?;
        let is_new = live.text != self.live.load().text;
        if is_new {
            self.live.store(Arc::new(live));
        }
        Ok(is_new)
    }

    /// Whether it holds what another one does.
    pub fn holds_what(&self, other: &Self) -> bool {
        self.path == other.path && self.live.load().text == other.live.load().text
    }
}

impl Live {
    fn read(path: &Path) -> Result<Self, FileFault> {
        let text = std::fs::read_to_string(path).map_err(FileFault::Unreadable)?;
        let users = Arc::new(Users::parse(&text).map_err(FileFault::Lines)?);
        Ok(Self { text, users })
    }
}
