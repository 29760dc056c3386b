//! Which upstream a request goes to, and what is changed in it.
pub mod access;
pub mod action;
pub mod connection_ids;
pub mod destination;
pub mod egress;
pub mod host_index;
pub mod l4;
pub mod matcher;
pub mod normal_path;
pub mod path_index;
pub mod public_address;
pub mod reasons;
pub mod rewrite;
pub mod table;
pub mod user_file;
pub mod users;
