//! The status page: one file that draws `/status` and loads nothing from elsewhere.

/// The page at `/`.
pub const HTML: &str = include_str!("page.html");
