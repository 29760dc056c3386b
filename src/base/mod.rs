//! Types that every room uses; no I/O.
pub mod addr;
pub mod backoff;
pub mod drain;
pub mod error;
pub mod ewma;
pub mod id;
pub mod limit;
pub mod log_filter;
pub mod stream_code;
pub mod template;
pub mod units;
