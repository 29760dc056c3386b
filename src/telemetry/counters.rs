//! Single-writer counters per worker.
