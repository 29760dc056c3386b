//! Who a client of a forward listener is: Basic authentication (RFC 7617) in Proxy-Authorization. A password that was not seen
//! lately is tried on a thread of its own, a few at once, and nobody waits in a long line.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use tokio::sync::Semaphore;

use crate::base::error::{Error, Kind};
use crate::net::timer;
use crate::route::users::Users;

/// Passwords that are tried at once, in the whole process: half of its processors, so that the rest can serve.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2))));
/// Passwords that are tried or wait for it.
static WAITING: AtomicUsize = AtomicUsize::new(0);
const MOST_WAITING: usize = 64;
/// How long one waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a field that is looked at.
const LONGEST_FIELD: usize = 4096;

/// Who sends these fields.
///
/// # Errors
/// They do not say, or not rightly: 407. 503 where too many are being tried.
pub async fn identify(users: &Arc<Users>, fields: &HeaderMap) -> Result<Box<str>, Error> {
    let unknown = |reason| Error::downstream(Kind::ProxyAuthenticationRequired, reason);
    let (name, password) = given(fields).map_err(unknown)?;
    let is_right = match users.verdict(&name, &password, Instant::now()) {
        Ok(verdict) => verdict,
        Err(trial) => {
            let _waiting = Waiting::begin()?;
            let Ok(Ok(turn)) = timer::timeout(LONGEST_WAIT, TURNS.acquire()).await else { return Err(crowded()) };
            let digest = trial.digest();
            // Who goes away meanwhile does not stop it; the turn is over when it is.
            let tried = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                trial.carry_out()
            });
            let verdict =
                tried.await.map_err(|error| Error::internal("a password could not be tried").because(error))?;
            users.learn(digest, verdict, Instant::now());
            verdict
        }
    };
    if is_right { Ok(name) } else { Err(unknown("wrong name or password")) }
}

/// Name and password of the one field that there is to be.
fn given(fields: &HeaderMap) -> Result<(Box<str>, Vec<u8>), &'static str> {
    let mut all = fields.get_all(PROXY_AUTHORIZATION).iter();
    let field = all.next().ok_or("the proxy wants to know who asks")?;
    if all.next().is_some() || field.len() > LONGEST_FIELD {
        return Err("more than one Proxy-Authorization, or a very long one");
    }
    let (scheme, given) = field.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(NOT_BASIC)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(NOT_BASIC);
    }
    let decoded = STANDARD.decode(given.trim()).map_err(|_| NOT_BASIC)?;
    // RFC 7617 §2: the name ends at the first colon.
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(NOT_BASIC)?;
    let name = str::from_utf8(&decoded[..colon]).map_err(|_| NOT_BASIC)?;
    Ok((name.into(), decoded[colon + 1..].to_vec()))
}

/// One of those who wait.
struct Waiting;

impl Waiting {
    fn begin() -> Result<Self, Error> {
        if WAITING.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            return Err(crowded());
        }
        Ok(Self)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn crowded() -> Error {
    Error::downstream(Kind::ConnectionLimitReached, "too many passwords are being tried")
}

const NOT_BASIC: &str = "Proxy-Authorization is not Basic";

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn fields(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (PROXY_AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn the_name_ends_at_the_first_colon() {
        for (value, name, password) in [
            ("Basic YW5uOnNlY3JldA==", "ann", "secret"),
            ("basic YW5uOmE6Yg==", "ann", "a:b"),
            ("BASIC  YW5uOg==", "ann", ""),
        ] {
            assert_eq!(given(&fields(&[value])), Ok((name.into(), password.into())), "{value}");
        }
    }

    #[test]
    fn what_is_not_basic_is_nobody() {
        for values in [
            &[][..],
            &["Basic"],
            &["Basic YW5u"],
            &["Basic !!!"],
            &["Bearer YW5uOnNlY3JldA=="],
            &["Basic /zo="],
            &["Basic YW5uOnNlY3JldA==", "Basic YW5uOnNlY3JldA=="],
        ] {
            assert!(given(&fields(values)).is_err(), "{values:?}");
        }
        assert!(given(&fields(&[&format!("Basic {}", "A".repeat(5000))])).is_err());
    }
}
