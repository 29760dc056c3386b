//! Draining: take no new work, finish what is under way.
