//! All routes of a snapshot, compiled: one index for each listener, shared by listeners with the same routes (sans-io).
//! The same lookup function serves traffic and, with a witness, `explain`.

use std::sync::Arc;

use super::action::Route;
use super::host_index::HostIndex;
use super::path_index::Witness;
use crate::base::id::{ListenerId, RouteId};
use crate::config::model::{self, Config};

pub use super::matcher::RequestHead;

/// Every route of a snapshot.
#[derive(Clone, Debug)]
pub struct Table {
    routes: Vec<Route>,
    listeners: Vec<Arc<HostIndex>>,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t, 'r> {
    /// The route.
    pub route: &'t Route,
    /// What `*` of its path matched: empty, or from a `/` on. The whole path for a route without a path, nothing for
    /// exact paths and regular expressions.
    pub rest: &'r str,
}

impl Table {
    /// Compiles the routes of a checked configuration.
    pub fn compile(config: &Config) -> Self {
        Self::new(config.listeners.len(), &config.routes)
    }

    /// Compiles routes for so many listeners.
    pub fn new(listeners: usize, configured: &[model::Route]) -> Self {
        let routes = configured.iter().enumerate().map(|(at, route)| Route::new(RouteId(at as u32), route));
        let mut made: Vec<(Vec<usize>, Arc<HostIndex>)> = Vec::new();
        let listeners = (0..listeners).map(|listener| {
            let members: Vec<usize> = (0..configured.len())
                .filter(|at| {
                    let on = &configured[*at].listeners;
                    on.is_empty() || on.contains(&listener)
                })
                .collect();
            if let Some((_, index)) = made.iter().find(|(others, _)| *others == members) {
                return Arc::clone(index);
            }
            let mut index = HostIndex::default();
            for at in &members {
                index.add(RouteId(*at as u32), &configured[*at]);
            }
            index.finish();
            let index = Arc::new(index);
            made.push((members, Arc::clone(&index)));
            index
        });
        Self { listeners: listeners.collect(), routes: routes.collect() }
    }

    /// The route that takes a request, by how specific its match is. No allocation, and time that does not grow with
    /// the number of hosts and paths.
    #[inline]
    pub fn find<'r>(&self, head: &RequestHead<'r>) -> Option<Found<'_, 'r>> {
        self.find_with(head, &mut ())
    }

    /// As [`find`](Self::find), telling `witness` which routes were asked and lost.
    pub fn find_with<'r>(&self, head: &RequestHead<'r>, witness: &mut impl Witness) -> Option<Found<'_, 'r>> {
        let ListenerId(listener) = head.listener;
        let (id, rest) = self.listeners.get(listener as usize)?.find(head, witness)?;
        Some(Found { route: self.route(id)?, rest: &head.path[rest..] })
    }

    /// A route by its id.
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.0 as usize)
    }

    /// Every route, in the order of the file.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

#[cfg(test)]
mod tests;
