//! Resolves names to addresses, each family separately, for connections to names from requests. The resolver is
//! implemented in `control`.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::base::error::Error;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// A lookup under way; dropped, it is given up.
pub struct Lookup(Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Error>> + Send>>);

/// Who turns a name into addresses without making anybody wait but the one who asks.
pub trait Names: Send + Sync {
    /// Asks for the addresses of `host` in one family. An error where it has none, or nobody could tell.
    fn lookup(&self, host: Arc<str>, family: Family) -> Lookup;
}

impl Lookup {
    /// A lookup that this future is.
    pub fn new(future: impl Future<Output = Result<Vec<IpAddr>, Error>> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl Future for Lookup {
    type Output = Result<Vec<IpAddr>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}
