//! The proxy's own two listeners, `[server.admin]` and `[server.observe]`: they run on the control thread and answer
//! from the [`View`](super::view::View), so that they answer while the workers are busy.

pub mod metrics;
pub mod page;
