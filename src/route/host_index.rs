//! host_index
