//! Addresses as the configuration writes them and as sockets need them.
