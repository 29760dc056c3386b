//! Authentication of clients of a forward listener: Basic credentials (RFC 7617) in Proxy-Authorization. A password
//! that was not verified recently is hashed on another thread, a few at a time, with a bounded queue.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::base::error::{Error, Kind};
use crate::base::limit::{Limit, PerAddress};
use crate::net::timer;
use crate::route::users::{Trial, Users};

/// Passwords that are tried at once, in the whole process: half of its processors, so that the rest can serve.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2))));
/// Passwords that are tried or wait for it.
static WAITING: LazyLock<Arc<Limit>> = LazyLock::new(|| Arc::new(Limit::new(MOST_WAITING)));
const MOST_WAITING: u32 = 64;
/// The same of one client, so that whoever guesses leaves room for others.
static WAITING_OF_ONE: LazyLock<Arc<PerAddress>> = LazyLock::new(|| Arc::new(PerAddress::new(MOST_WAITING_OF_ONE)));
const MOST_WAITING_OF_ONE: u32 = 16;
/// How long one waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a field that is looked at.
const LONGEST_FIELD: usize = 4096;

/// Who sends these fields; `client`: from where, if that is known.
///
/// # Errors
/// They do not say, or not rightly: 407. 503 where too many are being tried.
pub async fn identify(users: &Arc<Users>, fields: &HeaderMap, client: Option<IpAddr>) -> Result<Box<str>, Error> {
    let unknown = |reason| Error::downstream(Kind::ProxyAuthenticationRequired, reason);
    let (name, password) = given(fields).map_err(unknown)?;
    let is_right = match users.verdict(&name, &password, Instant::now()) {
        Ok(verdict) => verdict,
        Err(trial) => {
            let _own = client.map(|client| WAITING_OF_ONE.acquire(client).ok_or_else(crowded)).transpose()?;
            let _waiting = WAITING.acquire().ok_or_else(crowded)?;
            let Ok(Ok(turn)) = timer::timeout(LONGEST_WAIT, TURNS.acquire()).await else { return Err(crowded()) };
            // A browser opens several connections at once: what one of them learned is known to the others.
            match users.verdict(&name, &password, Instant::now()) {
                Ok(verdict) => verdict,
                Err(_) => try_out(users, trial, turn).await?,
            }
        }
    };
    if is_right { Ok(name) } else { Err(unknown(WRONG)) }
}

/// Tries a password on another thread.
async fn try_out(users: &Users, trial: Trial, turn: SemaphorePermit<'static>) -> Result<bool, Error> {
    let digest = trial.digest();
    // Who goes away meanwhile does not stop it; the turn is over when it is.
    let tried = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        trial.carry_out()
    });
    let verdict = tried.await.map_err(|error| Error::internal("the password could not be verified").because(error))?;
    users.learn(digest, verdict, Instant::now());
    Ok(verdict)
}

/// The name that these fields give, where it is a user's. The password is not tried.
///
/// # Errors
/// As [`identify`] would answer.
pub fn named(users: &Users, fields: &HeaderMap) -> Result<Box<str>, Error> {
    let unknown = |reason| Error::downstream(Kind::ProxyAuthenticationRequired, reason);
    let (name, _) = given(fields).map_err(unknown)?;
    if users.knows(&name) { Ok(name) } else { Err(unknown(WRONG)) }
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

fn crowded() -> Error {
    Error::downstream(Kind::ConnectionLimitReached, "too many passwords are being verified")
}

const WRONG: &str = "wrong name or password";
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
