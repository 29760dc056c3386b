//! The QUIC keys of the process, for all listeners: stateless resets (RFC 9000 §10.3) and address tokens (§8.1). Random
//! at start, or derived from a file, so that they survive a restart.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::BloomTokenLog;
use quinn::crypto::{HandshakeTokenKey, HmacKey};

use super::connection_id::ConnectionIds;
use crate::transport::tls::cert_store::CertFault;

/// All of them.
#[derive(Clone)]
pub struct Keys {
    reset: Arc<dyn HmacKey>,
    token: Arc<dyn HandshakeTokenKey>,
    used_tokens: Arc<BloomTokenLog>,
    seed: u64,
    generation: u8,
}

impl Keys {
    /// Keys that nobody has had.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn random() -> Result<Self, CertFault> {
        let mut secret = [0; SECRET];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| {
            CertFault::new("keys for QUIC cannot be made", "the system's source of randomness may be missing")
        })?;
        Ok(Self::derive(&secret))
    }

    /// The keys that follow from a file.
    ///
    /// # Errors
    /// It cannot be read, or is too short to be a secret.
    pub fn load(path: &Path) -> Result<Self, CertFault> {
        let fault = |what: String| CertFault::new(what, HELP);
        let secret =
            std::fs::read(path).map_err(|error| fault(format!("{} cannot be read: {error}", path.display())))?;
        if secret.len() < SECRET {
            let what = format!("{} holds {} bytes; a key has {SECRET} or more", path.display(), secret.len());
            return Err(fault(what));
        }
        Ok(Self::derive(&secret))
    }

    fn derive(secret: &[u8]) -> Self {
        // RFC 5869 with one block of output for each use: HMAC extracts, and HMAC expands.
        let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"tidegate quic"), secret);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        let expand = |purpose: &[u8]| hmac::sign(&secret, &[purpose, &[1]].concat());
        let mut seed = [0; 8];
        seed.copy_from_slice(&expand(b"connection ids").as_ref()[..8]);
        Self {
            reset: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, expand(b"stateless reset").as_ref())),
            token: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(expand(b"address token").as_ref())),
            used_tokens: Arc::default(),
            seed: u64::from_le_bytes(seed),
            generation: fastrand::u8(..),
        }
    }

    /// Signs the tokens of stateless resets.
    pub fn reset(&self) -> Arc<dyn HmacKey> {
        Arc::clone(&self.reset)
    }

    /// Seals address tokens.
    pub fn token(&self) -> Arc<dyn HandshakeTokenKey> {
        Arc::clone(&self.token)
    }

    /// Which tokens were used already: each is good for one connection, on whichever worker.
    pub fn used_tokens(&self) -> Arc<BloomTokenLog> {
        Arc::clone(&self.used_tokens)
    }

    /// The connection IDs of that many workers.
    pub fn connection_ids(&self, workers: usize) -> ConnectionIds {
        ConnectionIds::new(workers, self.generation, self.seed)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Bytes of a key.
const SECRET: usize = 32;
const HELP: &str = "make one with `head -c 32 /dev/urandom`, readable only by its owner";

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(keys: &Keys) -> Vec<u8> {
        let mut signature = vec![0; 32];
        keys.reset().sign(b"an id", &mut signature);
        signature
    }

    #[test]
    fn a_file_gives_the_same_keys_again_and_others_give_others() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (one, other) = (write("one", &[1; 32]), write("other", &[2; 64]));
        let keys = Keys::load(&one).unwrap();
        assert_eq!(signature(&keys), signature(&Keys::load(&one).unwrap()));
        assert_eq!(keys.seed, Keys::load(&one).unwrap().seed);
        assert_ne!(signature(&keys), signature(&Keys::load(&other).unwrap()));
        assert_ne!(signature(&Keys::random().unwrap()), signature(&Keys::random().unwrap()));
        let short = Keys::load(&write("short", &[3; 31])).unwrap_err();
        assert!(short.what.contains("31 bytes"), "{}", short.what);
        assert!(Keys::load(&folder.path().join("none")).is_err());
    }
}
