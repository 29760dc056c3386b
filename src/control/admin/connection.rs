//! Accepts on an admin or observe listener and serves HTTP/1.1 on a few connections at a time. If all places are taken,
//! a new connection replaces the one that was silent for the longest time.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::answer::Answer;
use crate::net::accept::{Accept, Listener};
use crate::net::io::Socket;

/// Connections that one listener serves at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// From the beginning of a connection, or the answer before, to the end of a head: idle connections close as well.
const HEAD: Duration = Duration::from_secs(5);
/// The longest that an answer may take to be made, and after that to be taken.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a head, and of what is read ahead.
const MAX_HEAD: usize = 16 * 1024;
/// The wait after a refused accept: descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// The connections of one listener.
#[derive(Default)]
struct Seats {
    taken: RefCell<Vec<Rc<Seat>>>,
    left: Notify,
}

/// One connection.
struct Seat {
    since: Cell<Instant>,
    is_answering: Cell<bool>,
    asked_to_go: Notify,
}

/// A seat while it is taken.
struct Taken {
    seats: Rc<Seats>,
    seat: Rc<Seat>,
}

/// Accepts for ever; dropping it stops that, and leaves open connections to end by themselves.
pub async fn accept<F, R>(mut listener: Listener, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + 'static,
    R: Future<Output = Answer> + 'static,
{
    let seats = Rc::new(Seats::default());
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((socket, _)) => {
                let taken = Seats::take(&seats).await;
                tokio::task::spawn_local(serve(socket, taken, answer.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept on the admin or observe listener");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve<F, R>(socket: Socket, taken: Taken, answer: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let seat = Rc::clone(&taken.seat);
    let service = service_fn(|request| {
        seat.turn(true);
        let answering = answer(request);
        async {
            let answer = answering.await;
            seat.turn(false);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD).half_close(false);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
    loop {
        let deadline = seat.since.get() + SILENCE;
        // Every arm is cancel-safe; a connection that is left is dropped, which closes it.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection to the admin or observe listener ended");
                }
                return;
            }
            () = seat.asked_to_go.notified() => return,
            () = sleep_until(deadline) => {
                if seat.since.get() + SILENCE <= Instant::now() {
                    return;
                }
            }
        }
    }
}

impl Seats {
    /// Waits for a seat; where all are taken, the one that was silent for longest is asked to go.
    async fn take(seats: &Rc<Self>) -> Taken {
        while seats.taken.borrow().len() >= MAX_CONNECTIONS {
            if let Some(silent) = seats.longest_silent() {
                silent.asked_to_go.notify_one();
            }
            seats.left.notified().await;
        }
        let seat = Rc::new(Seat {
            since: Cell::new(Instant::now()),
            is_answering: Cell::new(false),
            asked_to_go: Notify::new(),
        });
        seats.taken.borrow_mut().push(Rc::clone(&seat));
        Taken { seats: Rc::clone(seats), seat }
    }

    fn longest_silent(&self) -> Option<Rc<Seat>> {
        let taken = self.taken.borrow();
        taken.iter().filter(|seat| !seat.is_answering.get()).min_by_key(|seat| seat.since.get()).cloned()
    }
}

impl Seat {
    fn turn(&self, is_answering: bool) {
        self.since.set(Instant::now());
        self.is_answering.set(is_answering);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.taken.borrow_mut().retain(|seat| !Rc::ptr_eq(seat, &self.seat));
        // A permit is stored, so that a wait that begins later sees it.
        self.seats.left.notify_one();
    }
}
