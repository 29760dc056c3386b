//! Joins the rooms per listener.
pub mod connection;
pub mod listeners;
pub mod worker;
