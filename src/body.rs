//! The one body type.
