//! Whether an endpoint may be picked: by an operator's word, by active checks, by real traffic. The states and what moves them
//! (all sans-io) live here with the one check that asks; `control::health` keeps the times and tells the workers.

pub mod active;
pub mod outlier;
pub mod probe;
pub mod standing;
pub mod state;
