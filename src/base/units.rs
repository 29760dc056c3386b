//! Byte sizes and durations as the configuration writes them.
