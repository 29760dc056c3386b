//! Configuration files: what they come to, and what is said about what is wrong with them.

mod files;
mod golden;
mod keys;
mod properties;
mod schema;
mod size;
