//! least_requests
