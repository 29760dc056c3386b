//! The recent errors of a worker with their reasons. Equal errors at the same place are counted as one. Written only
//! when an exchange fails.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::base::error::Kind;

/// An error that was seen, once or often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// What went wrong.
    pub kind: Kind,
    /// Why, in words that hold no data of a request.
    pub reason: &'static str,
    /// The status that the client got the last time; 0 where none was sent.
    pub status: u16,
    /// Where the request came in.
    pub listener: Arc<str>,
    /// The route it took, if one matched.
    pub route: Option<Arc<str>>,
    /// The upstream of the route.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that was asked last.
    pub endpoint: Option<Arc<str>>,
    /// How often it was seen.
    pub count: u64,
    /// When it was last seen.
    pub last: SystemTime,
}

/// Where an exchange was when it failed.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where the request came in.
    pub listener: &'a Arc<str>,
    /// The route it took, if one matched.
    pub route: Option<&'a Arc<str>>,
    /// The upstream of the route.
    pub upstream: Option<&'a Arc<str>>,
    /// The endpoint that was asked last.
    pub endpoint: Option<&'a Arc<str>>,
}

/// The errors that one worker saw last, at most [`MAX_INCIDENTS`] different ones.
#[derive(Debug, Default)]
pub struct Recent {
    incidents: Mutex<Vec<Incident>>,
}

impl Recent {
    /// Takes down that an exchange failed. Where there is no more room, what was not seen for longest is forgotten.
    pub fn note(&self, kind: Kind, reason: &'static str, status: u16, place: Place<'_>) {
        self.note_at(SystemTime::now(), kind, reason, status, place);
    }

    /// What was seen, the latest first.
    pub fn all(&self) -> Vec<Incident> {
        let mut incidents = self.lock().clone();
        incidents.sort_by_key(|incident| std::cmp::Reverse(incident.last));
        incidents
    }

    /// What several workers saw, as if one had seen it.
    pub fn merged<'a>(workers: impl IntoIterator<Item = &'a Recent>) -> Vec<Incident> {
        let mut merged: Vec<Incident> = Vec::new();
        for incident in workers.into_iter().flat_map(Recent::all) {
            match merged.iter_mut().find(|known| known.is_of(incident.kind, incident.reason, incident.place())) {
                Some(known) => known.take_in(incident.count, incident.last, incident.status),
                None => merged.push(incident),
            }
        }
        merged.sort_by_key(|incident| std::cmp::Reverse(incident.last));
        merged
    }

    fn note_at(&self, now: SystemTime, kind: Kind, reason: &'static str, status: u16, place: Place<'_>) {
        let mut incidents = self.lock();
        if let Some(known) = incidents.iter_mut().find(|known| known.is_of(kind, reason, place)) {
            return known.take_in(1, now, status);
        }
        if incidents.len() >= MAX_INCIDENTS
            && let Some(oldest) = (0..incidents.len()).min_by_key(|index| incidents[*index].last)
        {
            incidents.swap_remove(oldest);
        }
        incidents.push(Incident {
            kind,
            reason,
            status,
            listener: Arc::clone(place.listener),
            route: place.route.cloned(),
            upstream: place.upstream.cloned(),
            endpoint: place.endpoint.cloned(),
            count: 1,
            last: now,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Incident>> {
        // Nothing is half-done where a panic may come.
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incident {
    fn place(&self) -> Place<'_> {
        Place {
            listener: &self.listener,
            route: self.route.as_ref(),
            upstream: self.upstream.as_ref(),
            endpoint: self.endpoint.as_ref(),
        }
    }

    fn is_of(&self, kind: Kind, reason: &str, place: Place<'_>) -> bool {
        self.kind == kind
            && self.reason == reason
            && self.endpoint.as_ref() == place.endpoint
            && self.route.as_ref() == place.route
            && self.upstream.as_ref() == place.upstream
            && self.listener == *place.listener
    }

    fn take_in(&mut self, count: u64, last: SystemTime, status: u16) {
        self.count += count;
        if last >= self.last {
            (self.last, self.status) = (last, status);
        }
    }
}

/// Different errors that a worker remembers.
pub const MAX_INCIDENTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn refused(recent: &Recent, seconds: u64, listener: &str, endpoint: Option<&str>) {
        let (listener, endpoint): (Arc<str>, Option<Arc<str>>) = (listener.into(), endpoint.map(Into::into));
        let place = Place { listener: &listener, route: None, upstream: None, endpoint: endpoint.as_ref() };
        recent.note_at(at(seconds), Kind::ConnectionRefused, "refused", 502, place);
    }

    #[test]
    fn the_same_error_at_the_same_place_is_counted() {
        let recent = Recent::default();
        refused(&recent, 1, "web", Some("10.0.0.1:80"));
        refused(&recent, 2, "web", Some("10.0.0.2:80"));
        refused(&recent, 3, "web", Some("10.0.0.1:80"));
        let all = recent.all();
        let seen: Vec<_> = all.iter().map(|seen| (seen.endpoint.as_deref(), seen.count, seen.last)).collect();
        assert_eq!(seen, [(Some("10.0.0.1:80"), 2, at(3)), (Some("10.0.0.2:80"), 1, at(2))]);
    }

    #[test]
    fn the_one_not_seen_for_longest_makes_room() {
        let recent = Recent::default();
        for number in 0..MAX_INCIDENTS as u64 {
            refused(&recent, number, &number.to_string(), None);
        }
        refused(&recent, 100, "0", None);
        refused(&recent, 101, "new", None);
        let all = recent.all();
        assert_eq!(all.len(), MAX_INCIDENTS);
        assert!(all.iter().any(|seen| &*seen.listener == "0" && seen.count == 2));
        assert!(all.iter().any(|seen| &*seen.listener == "new"));
        assert!(!all.iter().any(|seen| &*seen.listener == "1"));
    }

    #[test]
    fn workers_are_merged() {
        let (one, two) = (Recent::default(), Recent::default());
        refused(&one, 5, "web", None);
        refused(&two, 7, "web", None);
        refused(&two, 6, "admin", None);
        let merged = Recent::merged([&one, &two]);
        let seen: Vec<_> = merged.iter().map(|seen| (&*seen.listener, seen.count, seen.last)).collect();
        assert_eq!(seen, [("web", 2, at(7)), ("admin", 1, at(6))]);
    }
}
