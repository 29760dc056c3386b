//! One compiled generation.
