//! `[server.admin]` and `[server.observe]`, the listeners for operators.

use std::path::PathBuf;

use super::{Bind, Place};

/// `[server.admin]` or `[server.observe]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlListener {
    /// The one address.
    pub bind: Bind,
    /// What a request must bring; never on `observe`.
    pub token_file: Option<TokenFile>,
    /// Names that may stand in `Host` beside `localhost` and addresses; lowercase, without a port.
    pub hosts: Vec<Box<str>>,
    /// Where its address is written.
    pub place: Place,
}

/// The file of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// The file.
    pub path: PathBuf,
    /// Where it is named.
    pub place: Place,
}
