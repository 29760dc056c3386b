//! Joins the rooms per listener: a worker thread, its listening sockets, and the life of a connection.
pub mod connection;
mod introduction;
pub mod listeners;
pub mod worker;
