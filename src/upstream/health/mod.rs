//! Whether an endpoint may be picked, by operators, active checks and real traffic. The states and their transitions
//! (all sans-io) and the check itself are here; `control::health` schedules the checks and informs the workers.

pub mod active;
pub mod outlier;
pub mod probe;
pub mod standing;
pub mod state;
