//! A coarse timer wheel for each worker thread. Moving a deadline to a later time costs two stores. A timer never fires
//! early, and up to one tick (16.8 ms) late. Everything here is `!Send` and belongs to its thread. `start` spawns the
//! driver inside the worker's `LocalRuntime`; it sleeps until the next deadline.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
pub use tokio::time::Instant;

/// A tick is 2^24 ns, 16.8 ms: a shift instead of a division.
const TICK_SHIFT: u32 = 24;
/// Slots of the wheel: deadlines past 17 s are looked at once per turn and moved on.
const SLOTS: usize = 1024;
/// No entry, no slot.
const NONE: u32 = u32::MAX;
/// No deadline.
const NEVER: u64 = u64::MAX;

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::new(Wheel::new());
}

/// The time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// One deadline of one task.
#[derive(Debug)]
pub struct Timer {
    key: u32,
    /// The wheel is the thread's own.
    not_send: PhantomData<*const ()>,
}

/// Spawns the driver of this thread's wheel. To be called once in each worker's `LocalRuntime`. What an earlier runtime of the thread
/// has left is forgotten: its time may have passed at another speed.
pub fn start() {
    WHEEL.with_borrow_mut(|wheel| {
        if wheel.entries.is_empty() {
            *wheel = Wheel::new();
        }
    });
    tokio::task::spawn_local(drive());
}

/// Wakes every task that waits on a timer of this thread, so that it looks at its flags again (a drain began).
pub fn wake_all() {
    let wakers: Vec<Waker> =
        WHEEL.with_borrow_mut(|wheel| wheel.entries.iter_mut().filter_map(|(_, entry)| entry.waker.take()).collect());
    wakers.into_iter().for_each(Waker::wake);
}

/// Waits for `future` at most for `limit`. Cancel-safe when `future` is.
///
/// # Errors
/// [`Elapsed`] when the time ran out first.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let timer = Timer::new();
    timer.set(Instant::now() + limit);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        timer.poll_expired(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// Waits for `duration`. Cancel-safe.
pub async fn sleep(duration: Duration) {
    let timer = Timer::new();
    timer.set(Instant::now() + duration);
    poll_fn(|cx| timer.poll_expired(cx)).await;
}

/// Waits for `duration` on the runtime's own clock, which is finer than the wheel, and says how late it fired: up to
/// about a millisecond by itself, the rest because others held the thread. Cancel-safe.
pub async fn lateness(duration: Duration) -> Duration {
    let due = Instant::now() + duration;
    tokio::time::sleep_until(due).await;
    due.elapsed()
}

impl Timer {
    /// A timer without a deadline.
    pub fn new() -> Self {
        let entry = Entry { deadline: NEVER, due: NEVER, slot: NONE, prev: NONE, next: NONE, waker: None };
        let key = WHEEL.with_borrow_mut(|wheel| wheel.entries.insert(entry));
        Self { key: u32::try_from(key).unwrap_or(NONE - 1), not_send: PhantomData }
    }

    /// Sets or moves the deadline.
    pub fn set(&self, deadline: Instant) {
        WHEEL.with_borrow_mut(|wheel| {
            let tick = wheel.tick_after(deadline);
            wheel.schedule(self.key, tick);
        });
    }

    /// Takes the deadline away. The entry leaves the wheel by itself when its slot comes up.
    pub fn clear(&self) {
        WHEEL.with_borrow_mut(|wheel| wheel.entries[self.key as usize].deadline = NEVER);
    }

    /// Ready once the deadline has passed, until it is set anew; pending without one. Wakes the task of the last call.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        WHEEL.with_borrow_mut(|wheel| {
            let current = wheel.current;
            let entry = &mut wheel.entries[self.key as usize];
            if entry.deadline <= current {
                return Poll::Ready(());
            }
            match &entry.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => entry.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The thread's locals may be gone already when a runtime is torn down with the thread.
        let _ = WHEEL.try_with(|wheel| {
            let mut wheel = wheel.borrow_mut();
            wheel.unlink(self.key);
            wheel.entries.remove(self.key as usize)
        });
    }
}

struct Entry {
    /// The tick at which it expires.
    deadline: u64,
    /// The tick at which its slot comes up, at or before its deadline.
    due: u64,
    slot: u32,
    prev: u32,
    next: u32,
    waker: Option<Waker>,
}

struct Wheel {
    entries: Slab<Entry>,
    heads: [u32; SLOTS],
    /// A bit for each slot that holds an entry.
    occupied: [u64; SLOTS / 64],
    start: Instant,
    /// The last tick that was carried out.
    current: u64,
    /// The tick the driver sleeps until.
    sleeping_until: u64,
    driver: Option<Waker>,
}

impl Wheel {
    fn new() -> Self {
        Self {
            entries: Slab::new(),
            heads: [NONE; SLOTS],
            occupied: [0; SLOTS / 64],
            start: Instant::now(),
            current: 0,
            sleeping_until: NEVER,
            driver: None,
        }
    }

    /// The tick that has begun at `now`. What is more than five centuries away, which a client may ask for, is not told apart.
    fn tick_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX) >> TICK_SHIFT
    }

    /// The first tick that begins at or after `deadline`, so that nothing fires early.
    fn tick_after(&self, deadline: Instant) -> u64 {
        self.tick_at(deadline) + 1
    }

    fn schedule(&mut self, key: u32, deadline: u64) {
        let entry = &mut self.entries[key as usize];
        entry.deadline = deadline;
        // Its slot comes up first, and it is moved on then.
        if entry.slot != NONE && entry.due <= deadline {
            return;
        }
        self.unlink(key);
        self.link(key);
    }

    fn link(&mut self, key: u32) {
        let deadline = self.entries[key as usize].deadline;
        let tick = deadline.clamp(self.current + 1, self.current + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        let head = self.heads[slot];
        let entry = &mut self.entries[key as usize];
        (entry.due, entry.slot, entry.prev, entry.next) = (tick, slot as u32, NONE, head);
        if head != NONE {
            self.entries[head as usize].prev = key;
        }
        self.heads[slot] = key;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        if tick < self.sleeping_until {
            self.sleeping_until = tick;
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
    }

    fn unlink(&mut self, key: u32) {
        let Entry { slot, prev, next, .. } = self.entries[key as usize];
        if slot == NONE {
            return;
        }
        if prev == NONE {
            self.heads[slot as usize] = next;
            if next == NONE {
                self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
            }
        } else {
            self.entries[prev as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        self.entries[key as usize].slot = NONE;
    }

    /// Carries out every tick up to `now` and gives the wakers of what expired.
    fn advance(&mut self, now: u64, expired: &mut Vec<Waker>) {
        let turns = now.saturating_sub(self.current).min(SLOTS as u64);
        let first = now + 1 - turns;
        self.current = now.max(self.current);
        for tick in first..=now {
            let slot = (tick % SLOTS as u64) as usize;
            let mut key = self.heads[slot];
            while key != NONE {
                let Entry { next, deadline, .. } = self.entries[key as usize];
                self.unlink(key);
                if deadline <= now {
                    expired.extend(self.entries[key as usize].waker.take());
                } else if deadline != NEVER {
                    self.link(key);
                }
                key = next;
            }
        }
    }

    /// The next tick whose slot holds an entry.
    fn next_tick(&self) -> Option<u64> {
        let mut tick = self.current + 1;
        let end = self.current + SLOTS as u64;
        while tick <= end {
            let slot = (tick % SLOTS as u64) as usize;
            let ahead = self.occupied[slot / 64] >> (slot % 64);
            if ahead != 0 {
                return Some(tick + u64::from(ahead.trailing_zeros()));
            }
            tick += 64 - (slot % 64) as u64;
        }
        None
    }
}

/// Sleeps until the next tick that holds an entry, carries it out, and again.
async fn drive() {
    let mut sleep = pin!(tokio::time::sleep_until(Instant::now()));
    let mut expired = Vec::new();
    poll_fn(|cx| {
        loop {
            let until = WHEEL.with_borrow_mut(|wheel| {
                let now = wheel.tick_at(Instant::now());
                wheel.advance(now, &mut expired);
                let next = wheel.next_tick();
                wheel.sleeping_until = next.unwrap_or(NEVER);
                wheel.driver = Some(cx.waker().clone());
                next.map(|tick| wheel.start + Duration::from_nanos(tick << TICK_SHIFT))
            });
            // Woken outside of the borrow: a waker may run code that sets a timer.
            expired.drain(..).for_each(Waker::wake);
            let Some(until) = until else { return Poll::<()>::Pending };
            sleep.as_mut().reset(until);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_worker<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(Default::default())
            .unwrap();
        runtime.block_on(async {
            WHEEL.set(Wheel::new());
            start();
            future.await
        })
    }

    #[test]
    fn fires_after_the_deadline_and_never_before() {
        on_worker(async {
            for ms in [1u64, 16, 17, 100, 5_000, 17_000, 40_000, 3_600_000] {
                let began = Instant::now();
                sleep(Duration::from_millis(ms)).await;
                let took = began.elapsed();
                assert!(took >= Duration::from_millis(ms), "{ms} ms fired after {took:?}");
                assert!(took <= Duration::from_millis(ms + 36), "{ms} ms fired after {took:?}");
            }
        });
    }

    #[test]
    fn what_is_ages_away_does_not_fire_today() {
        on_worker(async {
            // As many nanoseconds as a number of 64 bits has, and an hour: `grpc-timeout` in hours reaches that far.
            let timer = Timer::new();
            timer.set(Instant::now() + Duration::from_nanos(u64::MAX) + Duration::from_secs(3600));
            let fired = timeout(Duration::from_secs(24 * 3600), poll_fn(|cx| timer.poll_expired(cx))).await;
            assert_eq!(fired, Err(Elapsed));
        });
    }

    #[test]
    fn moving_a_deadline_later_and_sooner_holds() {
        on_worker(async {
            let began = Instant::now();
            let timer = Timer::new();
            timer.set(began + Duration::from_secs(1));
            timer.set(began + Duration::from_secs(60));
            timer.set(began + Duration::from_secs(5));
            poll_fn(|cx| timer.poll_expired(cx)).await;
            let took = began.elapsed();
            assert!(took >= Duration::from_secs(5) && took < Duration::from_millis(5_040), "{took:?}");
        });
    }

    #[test]
    fn a_cleared_timer_never_fires_and_can_be_set_again() {
        on_worker(async {
            let timer = Timer::new();
            timer.set(Instant::now() + Duration::from_secs(1));
            timer.clear();
            let never = timeout(Duration::from_secs(30), poll_fn(|cx| timer.poll_expired(cx))).await;
            assert_eq!(never, Err(Elapsed));
            let began = Instant::now();
            timer.set(began + Duration::from_secs(2));
            poll_fn(|cx| timer.poll_expired(cx)).await;
            assert!(began.elapsed() >= Duration::from_secs(2));
        });
    }

    #[test]
    fn random_deadlines_all_fire_in_time() {
        on_worker(async {
            fastrand::seed(7);
            let tasks: Vec<_> = (0..2_000)
                .map(|_| {
                    let ms = fastrand::u64(0..120_000);
                    tokio::task::spawn_local(async move {
                        let began = Instant::now();
                        let dropped = Timer::new();
                        dropped.set(began + Duration::from_millis(ms / 2));
                        sleep(Duration::from_millis(ms)).await;
                        let took = began.elapsed().as_millis() as u64;
                        assert!(took >= ms && took <= ms + 36, "{ms} fired at {took}");
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(WHEEL.with_borrow(|wheel| wheel.entries.len()), 0);
        });
    }

    #[test]
    fn wake_all_wakes_who_waits() {
        on_worker(async {
            let flag = std::rc::Rc::new(std::cell::Cell::new(false));
            let seen = flag.clone();
            let task = tokio::task::spawn_local(async move {
                let timer = Timer::new();
                timer.set(Instant::now() + Duration::from_secs(1_000));
                poll_fn(|cx| if seen.get() { Poll::Ready(()) } else { timer.poll_expired(cx) }).await;
            });
            tokio::task::yield_now().await;
            flag.set(true);
            let began = Instant::now();
            wake_all();
            task.await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(1));
        });
    }
}
