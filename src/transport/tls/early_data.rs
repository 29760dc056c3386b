//! TLS sessions of clients that may send early data (0-RTT). rustls accepts early data only for sessions stored here,
//! each of which can be resumed once, so that a recorded first flight is not accepted twice by this process (RFC 8446
//! §8.1). Bounded: the oldest session is removed; a client without a session does a full handshake.

use std::sync::{Arc, LazyLock};

use rustls::ServerConfig;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

/// The sessions of one listener among those of the process.
#[derive(Clone, Debug)]
pub(super) struct EarlySessions(Arc<Sessions>);

/// A client may show a session's name wherever it likes: one that another listener made, or this one under other rules for
/// client certificates, is not found here.
#[derive(Debug)]
struct Sessions {
    mark: [u8; 16],
}

impl EarlySessions {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Sessions { mark: fastrand::u128(..).to_le_bytes() }))
    }

    /// Has `config` keep its sessions here and take early data.
    pub(super) fn serve(&self, config: &mut ServerConfig) {
        config.session_storage = Arc::clone(&self.0) as _;
        config.ticketer = Arc::new(NoTickets);
        // RFC 9001 §4.6.1: this value and no other; how much comes is bounded by flow control.
        config.max_early_data_size = u32::MAX;
    }
}

impl Sessions {
    fn name(&self, key: &[u8]) -> Vec<u8> {
        [&self.mark, key].concat()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        ALL.put(self.name(&key), value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        ALL.get(&self.name(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        ALL.take(&self.name(key))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// What rustls calls a server without tickets.
#[derive(Debug)]
struct NoTickets;

impl rustls::server::ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// Of all listeners together.
static ALL: LazyLock<Arc<ServerSessionMemoryCache>> = LazyLock::new(|| ServerSessionMemoryCache::new(MOST_SESSIONS));
/// A few hundred bytes each.
const MOST_SESSIONS: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_once_and_by_its_own_listener_alone() {
        let (one, other) = (EarlySessions::new(), EarlySessions::new());
        assert!(one.0.put(b"name".to_vec(), b"session".to_vec()));
        assert_eq!(other.0.get(b"name"), None);
        assert_eq!(other.0.take(b"name"), None);
        assert_eq!(one.clone().0.take(b"name"), Some(b"session".to_vec()));
        assert_eq!(one.0.take(b"name"), None);
    }
}
