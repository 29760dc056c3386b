//! Happy eyeballs (RFC 8305): both address families of a name are resolved at once, and its addresses are tried one
//! after the other, each with a head start, until one accepts. The caller checks each address immediately before it is
//! connected to.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::resolve::Lookup;
use super::timer::{Instant, Timer};
use crate::base::error::{Error, Kind, Retry};

/// RFC 8305 §3: how long an answer with IPv4 waits for the one with IPv6.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// RFC 8305 §5: the head start of an attempt.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one family that are tried: a name with thousands is an attack.
const MOST: usize = 8;

/// What is known of a destination's addresses.
pub struct Finding {
    v6: Option<Lookup>,
    v4: Option<Lookup>,
    known: [VecDeque<IpAddr>; 2],
}

impl Finding {
    /// Both lookups of a name.
    pub fn name(v6: Lookup, v4: Lookup) -> Self {
        Self { v6: Some(v6), v4: Some(v4), known: Default::default() }
    }

    /// An address that needs no lookup.
    pub fn address(address: IpAddr) -> Self {
        let mut known: [VecDeque<IpAddr>; 2] = Default::default();
        known[usize::from(address.is_ipv4())].push_back(address);
        Self { v6: None, v4: None, known }
    }
}

/// Connects to the first address that takes it. `admit` is asked of each address before `connect` is, and a name that is
/// not resolved within `resolving` has no more addresses. Cancel-safe: dropped, it closes what it opened.
///
/// # Errors
/// The last attempt's; where there was none, why the addresses were not admitted, or why there are none.
pub async fn connect<T, F: Future<Output = Result<T, Error>>>(
    finding: Finding,
    port: u16,
    resolving: Duration,
    admit: impl Fn(IpAddr) -> Result<(), Error>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Error> {
    let mut race = Race::new(finding, resolving);
    poll_fn(move |cx| race.poll(cx, port, &admit, &connect)).await
}

struct Race<F> {
    finding: Finding,
    attempts: Vec<Pin<Box<F>>>,
    /// Which family's turn it is.
    turn: usize,
    /// When resolving is given up.
    lookups_end: Timer,
    /// When the next attempt may begin, whatever the others do.
    next: Timer,
    may_begin: bool,
    tried: usize,
    failed: Option<Error>,
    prohibited: Option<Error>,
    unresolved: Option<Error>,
}

impl<F> Race<F> {
    fn new(finding: Finding, resolving: Duration) -> Self {
        let lookups_end = Timer::new();
        lookups_end.set(Instant::now() + resolving);
        Self {
            finding,
            attempts: Vec::new(),
            turn: V6,
            lookups_end,
            next: Timer::new(),
            may_begin: true,
            tried: 0,
            failed: None,
            prohibited: None,
            unresolved: None,
        }
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        port: u16,
        admit: &impl Fn(IpAddr) -> Result<(), Error>,
        connect: &impl Fn(SocketAddr) -> F,
    ) -> Poll<Result<T, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.poll_lookups(cx);
        loop {
            if let Some(connected) = self.poll_attempts(cx) {
                return Poll::Ready(Ok(connected));
            }
            if self.next.poll_expired(cx).is_ready() {
                self.next.clear();
                self.may_begin = true;
            }
            if !self.may_begin {
                break;
            }
            let Some(address) = self.take() else { break };
            match admit(address) {
                Ok(()) => {
                    self.tried += 1;
                    self.attempts.push(Box::pin(connect(SocketAddr::new(address, port))));
                    self.may_begin = false;
                    self.next.set(Instant::now() + ATTEMPT_DELAY);
                }
                Err(error) => self.prohibited = Some(error),
            }
        }
        let is_over = self.attempts.is_empty()
            && self.finding.v4.is_none()
            && self.finding.v6.is_none()
            && self.finding.known.iter().all(VecDeque::is_empty);
        if is_over { Poll::Ready(Err(self.why())) } else { Poll::Pending }
    }

    fn poll_lookups(&mut self, cx: &mut Context<'_>) {
        for family in [V6, V4] {
            let lookup = if family == V6 { &mut self.finding.v6 } else { &mut self.finding.v4 };
            let Some(Poll::Ready(done)) = lookup.as_mut().map(|lookup| Pin::new(lookup).poll(cx)) else { continue };
            *lookup = None;
            match done {
                Ok(addresses) => self.finding.known[family].extend(addresses.into_iter().take(MOST)),
                Err(error) => {
                    // Of two reasons the one that an answer gave says more than that there was none.
                    if self.unresolved.as_ref().is_none_or(|before| before.kind() == Kind::DnsTimeout) {
                        self.unresolved = Some(error);
                    }
                }
            }
            // RFC 8305 §3: IPv4 alone gives IPv6 a moment.
            if family == V4 && self.finding.v6.is_some() && self.tried == 0 && !self.finding.known[V4].is_empty() {
                self.may_begin = false;
                self.next.set(Instant::now() + RESOLUTION_DELAY);
            }
            if family == V6 && self.tried == 0 {
                self.next.clear();
                self.may_begin = true;
            }
        }
        if self.lookups_end.poll_expired(cx).is_ready() && (self.finding.v4.is_some() || self.finding.v6.is_some()) {
            (self.finding.v4, self.finding.v6) = (None, None);
            self.may_begin |= self.tried == 0;
            self.unresolved.get_or_insert_with(|| {
                Error::upstream(Kind::DnsTimeout, Retry::Never, "no name server answered in time")
            });
        }
    }

    /// The first attempt that came to something; those that failed let the next begin at once.
    fn poll_attempts<T>(&mut self, cx: &mut Context<'_>) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut at = 0;
        while let Some(attempt) = self.attempts.get_mut(at) {
            match attempt.as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(connected)) => return Some(connected),
                Poll::Ready(Err(error)) => {
                    drop(self.attempts.swap_remove(at));
                    self.failed = Some(error);
                    self.may_begin = true;
                }
            }
        }
        None
    }

    /// RFC 8305 §4: the families take turns, IPv6 first.
    fn take(&mut self) -> Option<IpAddr> {
        let family = if self.finding.known[self.turn].is_empty() { 1 - self.turn } else { self.turn };
        let address = self.finding.known[family].pop_front()?;
        self.turn = 1 - family;
        Some(address)
    }

    fn why(&mut self) -> Error {
        let why = self.failed.take().or(self.prohibited.take()).or(self.unresolved.take());
        why.unwrap_or_else(|| Error::upstream(Kind::DnsError, Retry::Never, "the name has no address"))
    }
}

const V6: usize = 0;
const V4: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::on_worker;
    use std::cell::RefCell;
    use std::future::pending;

    fn after(wait_ms: u64, found: Result<Vec<&'static str>, Kind>) -> Lookup {
        Lookup::new(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let error = |kind| Error::upstream(kind, Retry::Never, "a test");
            found.map(|all| all.iter().map(|ip| ip.parse().unwrap()).collect()).map_err(error)
        })
    }

    fn never() -> Lookup {
        Lookup::new(pending())
    }

    /// What each address does: connects after some milliseconds, or refuses after some.
    type Behaviour = &'static [(&'static str, u64, bool)];

    /// Which address took it, or why none did, and the attempts in their order with their times.
    fn race(v6: Lookup, v4: Lookup, behaviour: Behaviour) -> (Result<String, Kind>, Vec<(String, u64)>) {
        // A timer wheel is its thread's own: time that ran ahead in one race is not to be there in the next.
        std::thread::spawn(move || raced(v6, v4, behaviour)).join().unwrap()
    }

    fn raced(v6: Lookup, v4: Lookup, behaviour: Behaviour) -> (Result<String, Kind>, Vec<(String, u64)>) {
        on_worker(async {
            tokio::time::pause();
            let begin = Instant::now();
            let begun = RefCell::new(Vec::new());
            let connecting = |address: SocketAddr| {
                let ip = address.ip().to_string();
                begun.borrow_mut().push((ip.clone(), begin.elapsed().as_millis() as u64));
                async move {
                    match behaviour.iter().find(|row| row.0 == ip) {
                        Some((_, wait, good)) => {
                            tokio::time::sleep(Duration::from_millis(*wait)).await;
                            if *good {
                                Ok(ip)
                            } else {
                                Err(Error::upstream(Kind::ConnectionRefused, Retry::Never, "no"))
                            }
                        }
                        None => pending().await,
                    }
                }
            };
            let admit = |ip: IpAddr| match ip.is_loopback() {
                true => Err(Error::downstream(Kind::DestinationIpProhibited, "near")),
                false => Ok(()),
            };
            let finding = Finding::name(v6, v4);
            let done = connect(finding, 80, Duration::from_secs(5), admit, connecting).await;
            (done.map_err(|error| error.kind()), begun.take())
        })
    }

    fn order(begun: &[(String, u64)]) -> Vec<&str> {
        begun.iter().map(|(ip, _)| ip.as_str()).collect()
    }

    #[test]
    fn ipv6_is_tried_first_and_the_families_take_turns() {
        let (v6, v4) = (after(1, Ok(vec!["2a00::1", "2a00::2"])), after(1, Ok(vec!["8.0.0.1", "8.0.0.2"])));
        let (won, begun) = race(v6, v4, &[("8.0.0.2", 10, true)]);
        assert_eq!(won, Ok("8.0.0.2".to_owned()));
        assert_eq!(order(&begun), ["2a00::1", "8.0.0.1", "2a00::2", "8.0.0.2"]);
        for pair in begun.windows(2) {
            assert!((250..300).contains(&(pair[1].1 - pair[0].1)), "{begun:?}");
        }
    }

    #[test]
    fn an_attempt_that_fails_lets_the_next_begin_at_once() {
        let (v6, v4) = (after(1, Ok(vec!["2a00::1"])), after(1, Ok(vec!["8.0.0.1"])));
        let (won, begun) = race(v6, v4, &[("2a00::1", 5, false), ("8.0.0.1", 5, true)]);
        assert_eq!(won, Ok("8.0.0.1".to_owned()));
        assert!(begun[1].1 - begun[0].1 < 100, "{begun:?}");
    }

    #[test]
    fn one_that_stalls_is_overtaken_and_may_still_win() {
        let (v6, v4) = (after(1, Ok(vec!["2a00::1"])), after(1, Ok(vec!["8.0.0.1"])));
        let (won, begun) = race(v6, v4, &[("2a00::1", 400, true)]);
        assert_eq!((won, begun.len()), (Ok("2a00::1".to_owned()), 2));
    }

    #[test]
    fn ipv4_waits_a_moment_for_ipv6_and_no_longer() {
        let (won, begun) = race(after(30, Ok(vec!["2a00::1"])), after(1, Ok(vec!["8.0.0.1"])), &[("2a00::1", 1, true)]);
        assert_eq!((won, order(&begun)), (Ok("2a00::1".to_owned()), vec!["2a00::1"]));
        let (won, begun) = race(never(), after(1, Ok(vec!["8.0.0.1"])), &[("8.0.0.1", 1, true)]);
        assert_eq!(won, Ok("8.0.0.1".to_owned()));
        assert!((50..120).contains(&begun[0].1), "{begun:?}");
        let (won, begun) = race(after(5, Err(Kind::DnsError)), after(1, Ok(vec!["8.0.0.1"])), &[("8.0.0.1", 1, true)]);
        assert_eq!(won, Ok("8.0.0.1".to_owned()));
        assert!(begun[0].1 < 50, "{begun:?}");
    }

    #[test]
    fn what_is_not_admitted_is_never_connected_to() {
        let (won, begun) =
            race(after(1, Ok(vec!["::1", "2a00::1"])), after(1, Ok(vec!["127.0.0.1"])), &[("2a00::1", 1, false)]);
        assert_eq!((won, order(&begun)), (Err(Kind::ConnectionRefused), vec!["2a00::1"]));
        let (won, begun) = race(after(1, Ok(vec!["::1"])), after(1, Err(Kind::DnsError)), &[]);
        assert_eq!((won, begun.len()), (Err(Kind::DestinationIpProhibited), 0));
    }

    #[test]
    fn a_name_that_is_nowhere_or_never_answered_is_told_apart() {
        assert_eq!(race(after(1, Err(Kind::DnsError)), after(1, Err(Kind::DnsError)), &[]).0, Err(Kind::DnsError));
        assert_eq!(race(never(), never(), &[]).0, Err(Kind::DnsTimeout));
        assert_eq!(race(after(1, Ok(vec![])), after(1, Ok(vec![])), &[]).0, Err(Kind::DnsError));
        assert_eq!(race(never(), after(1, Err(Kind::DnsError)), &[]).0, Err(Kind::DnsError));
    }

    #[test]
    fn no_more_than_some_of_many_addresses_are_tried() {
        let many: Vec<&'static str> = (0..100).map(|i| &*format!("8.0.0.{i}").leak()).collect();
        let (won, begun) = race(after(1, Ok(vec![])), after(1, Ok(many)), &[("8.0.0.7", 1, true)]);
        assert_eq!((won, begun.len()), (Ok("8.0.0.7".to_owned()), MOST));
    }
}
