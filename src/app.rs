//! The composition root: threads, start order, drain order.
