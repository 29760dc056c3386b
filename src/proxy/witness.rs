//! Observes how a request is decided. The same functions decide for traffic and for `explain`: traffic passes `()`,
//! which compiles to nothing, and `explain` a witness that records.

use std::net::IpAddr;

use http::HeaderMap;

use super::normalize::Normalized;
use crate::base::error::Error;
use crate::route::action::Route;
use crate::route::path_index;

/// Is told each step of the decision about one request, in order.
pub trait Witness: path_index::Witness {
    /// A uniformly distributed number, for choices by weight.
    #[inline]
    fn chance(&mut self) -> u32 {
        fastrand::u32(..)
    }

    /// The request is one unambiguous message; `path` is matched against routes.
    #[inline]
    fn understood(&mut self, _normalized: &Normalized, _path: &str, _client: Option<IpAddr>) {}

    /// A route matches; `rest` is what `*` of its path matched.
    #[inline]
    fn found(&mut self, _route: &Route, _rest: &str) {}

    /// The header fields after a step.
    #[inline]
    fn passed(&mut self, _step: Step, _fields: &HeaderMap) {}

    /// The request is refused.
    #[inline]
    fn refused(&mut self, _error: &Error) {}
}

impl Witness for () {}

/// The steps that change the fields of a request, or of a response made by the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hop-by-hop fields were removed.
    HopByHop,
    /// `Expect` was removed; it is handled separately on each side.
    Expect,
    /// gRPC-Web was translated to gRPC.
    GrpcWeb,
    /// The changes of the path were named in `x-normalized-path`.
    NormalPath,
    /// `Early-Data` was added.
    EarlyData,
    /// `X-Forwarded-*` and `Forwarded` were added.
    Forwarded,
    /// `Via` was added.
    Via,
    /// `x-request-id` and `traceparent` were added.
    Stamps,
    /// The route's edits were applied.
    Edits,
    /// The fields for the endpoint's protocol were added.
    Session,
    /// The response was made.
    Answer,
}
