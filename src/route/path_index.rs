//! path_index
