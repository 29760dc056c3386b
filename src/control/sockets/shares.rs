//! Which workers accept on which socket.

use crate::config::model::Listener;
use crate::snapshot::Listening;

/// Which workers a socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    Http,
    Layer4,
}

/// What a generation is for each worker: its share of the bound addresses.
pub struct Shares {
    /// For the workers that serve requests.
    pub http: Vec<Vec<Listening>>,
    /// For those of layer 4.
    pub layer4: Vec<Vec<Listening>>,
}

impl Plane {
    pub(super) fn of(listener: &Listener) -> Self {
        if listener.mode.is_layer4() { Self::Layer4 } else { Self::Http }
    }
}

impl Shares {
    pub(super) fn new(workers: usize) -> Self {
        let none = || (0..workers).map(|_| Vec::new()).collect();
        Self { http: none(), layer4: none() }
    }

    pub(super) fn of(&mut self, plane: Plane) -> &mut Vec<Vec<Listening>> {
        match plane {
            Plane::Http => &mut self.http,
            Plane::Layer4 => &mut self.layer4,
        }
    }
}
