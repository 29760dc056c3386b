//! One HTTP exchange.
pub mod affinity;
pub mod context;
pub mod decision;
pub mod egress;
pub mod forward;
pub mod headers;
pub mod normalize;
pub mod outbound;
pub mod record;
pub mod rescue;
pub mod retry;
pub mod stack;
pub mod trial;
pub mod tunnel;
pub mod upgrade;
pub mod witness;
