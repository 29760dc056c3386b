//! From a file to the checked model; builds no runtime object.
pub mod defaults;
pub mod diagnostic;
pub mod model;
pub mod schema;
pub mod source;
pub mod validate;
