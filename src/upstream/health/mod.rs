//! Whether an endpoint may be picked: by an operator's word, by active checks, by real traffic. The states and what moves them
//! (all sans-io) live here; `control::health` asks the endpoints and keeps the times.

pub mod state;
