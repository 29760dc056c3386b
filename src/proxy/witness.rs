//! Whoever wants to know how a request was decided about asks the very functions that decide, with a witness. Traffic brings
//! `()`, which hears nothing and costs nothing.

use std::net::IpAddr;

use http::HeaderMap;

use super::normalize::Normalized;
use crate::base::error::Error;
use crate::route::action::Route;
use crate::route::path_index;

/// Told of each step of a decision about one request, in their order.
pub trait Witness: path_index::Witness {
    /// A number, evenly distributed, that a choice by weights is made with.
    #[inline]
    fn chance(&mut self) -> u32 {
        fastrand::u32(..)
    }

    /// The request is one unambiguous message; `path` is what routes are asked with.
    #[inline]
    fn understood(&mut self, _normalized: &Normalized, _path: &str, _client: Option<IpAddr>) {}

    /// A route takes it; `rest` is what `*` of its path matched.
    #[inline]
    fn found(&mut self, _route: &Route, _rest: &str) {}

    /// Its fields are these after a step.
    #[inline]
    fn passed(&mut self, _step: Step, _fields: &HeaderMap) {}

    /// It goes no further.
    #[inline]
    fn refused(&mut self, _error: &Error) {}
}

impl Witness for () {}

/// What changes the fields of a request, or of an answer of our own, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What belongs to one connection was taken away.
    HopByHop,
    /// `Expect` was, as each side is asked and answered for itself.
    Expect,
    /// gRPC-Web became gRPC.
    GrpcWeb,
    /// What was changed of the path is named.
    NormalPath,
    /// `Early-Data` was put.
    EarlyData,
    /// `X-Forwarded-*` and `Forwarded` say who asked.
    Forwarded,
    /// `Via` names us.
    Via,
    /// `x-request-id` and `traceparent` were put.
    Stamps,
    /// The route's edits were carried out.
    Edits,
    /// What the endpoint's protocol wants was put.
    Session,
    /// The answer is made.
    Answer,
}
