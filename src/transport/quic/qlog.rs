//! Writes a qlog file for each connection, if a directory is configured. For debugging, not for production traffic.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use quinn::{ConnectionId, QlogConfig, QlogStream};
use tracing::warn;

/// Opens the file of the connection that began with `id`; `None`: it could not be, which is logged and harms nobody.
pub(super) fn open(folder: &Path, side: &str, id: ConnectionId) -> Option<QlogStream> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let path = folder.join(format!("{began}-{id}-{side}.sqlog"));
    match create(folder, &path) {
        Ok(file) => {
            let mut config = QlogConfig::default();
            config.writer(Box::new(BufWriter::new(file))).title(Some(format!("{side} {id}")));
            config.into_stream()
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot write a qlog file");
            None
        }
    }
}

fn create(folder: &Path, path: &Path) -> io::Result<File> {
    File::create_new(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            File::create_new(path)
        }
        _ => Err(error),
    })
}
