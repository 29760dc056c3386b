//! The accept loop of one listening socket on one worker: it takes a permit, then accepts a connection, in batches, and
//! never waits for a client. The caller decides what to do with a connection (spawn a task, or hand it to another worker).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::net::{TcpListener, UnixListener};

use super::io::{RawSocket, Socket};
use super::socket::is_exhausted;
use super::timer::{self, Instant};
use crate::base::addr::canonical;

/// A connection and the client's address; `None` on a Unix socket.
pub type Accepted = (Socket, Option<SocketAddr>);

/// The source of connections; a trait, so that tests can replace the socket.
pub trait Accept {
    /// The next connection; if there is none, the waker is registered.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>>;

    /// Calls accept(2) directly, without the runtime's readiness state; `WouldBlock` if the backlog is empty.
    ///
    /// # Errors
    /// The error of accept(2).
    fn accept_now(&mut self) -> io::Result<Accepted>;
}

/// A listening socket, registered with the runtime of the worker that owns it.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl Accept for Listener {
    // One accept4(SOCK_NONBLOCK | SOCK_CLOEXEC), which also returns the address; socket options are inherited.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, remote)| (Socket::Tcp(stream), Some(canonical(remote))))
            }
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), None)),
        }
    }

    fn accept_now(&mut self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = rustix::net::acceptfrom_with(&*listener, flags)?;
                let remote = remote.and_then(|remote| SocketAddr::try_from(remote).ok());
                Ok((RawSocket::Tcp(stream.into()).into_socket()?, remote.map(canonical)))
            }
            Self::Unix(listener) => {
                let stream = rustix::net::accept_with(&*listener, flags)?;
                Ok((RawSocket::Unix(stream.into()).into_socket()?, None))
            }
        }
    }
}

/// Accepts until `stop` is ready, and then until the backlog is empty, because closing the socket would reset connections
/// that the kernel has already acknowledged. `admit` returns the permit of each connection; while it waits, clients wait
/// in the backlog. `take` must not block.
///
/// After `stop` it may still wait for a permit or a file descriptor; the caller's drain deadline bounds that. Dropping the
/// future ends it at once; no connection is held across an await, so none is lost.
pub async fn accept_loop<P>(
    mut listener: impl Accept,
    mut admit: impl AsyncFnMut() -> P,
    stop: impl Future<Output = ()>,
    mut take: impl FnMut(Socket, Option<SocketAddr>, P),
) {
    let mut stop = pin!(stop);
    let mut pause = Pause::default();
    let mut batch = 0;
    loop {
        let permit = match first(admit(), stop.as_mut()).await {
            First::Done(permit) => permit,
            First::Stopped => break,
        };
        // The permit is not held while waiting, because that would take it away from the other workers.
        match poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
            Poll::Ready(Ok((socket, remote))) => {
                pause.clear();
                take(socket, remote, permit);
            }
            Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
            Poll::Ready(Err(error)) => {
                drop(permit);
                if let First::Stopped = first(pause.wait(&error), stop.as_mut()).await {
                    break;
                }
            }
            Poll::Pending => {
                drop(permit);
                if let First::Stopped = first(woken(), stop.as_mut()).await {
                    break;
                }
            }
        }
        batch += 1;
        if batch == BATCH {
            batch = 0;
            // A flood of connections must not starve those that are open, nor the stop signal.
            tokio::task::yield_now().await;
            if is_ready(stop.as_mut()).await {
                break;
            }
        }
    }
    accept_rest(&mut listener, &mut admit, &mut take, &mut pause).await;
}

async fn accept_rest<P>(
    listener: &mut impl Accept,
    admit: &mut impl AsyncFnMut() -> P,
    take: &mut impl FnMut(Socket, Option<SocketAddr>, P),
    pause: &mut Pause,
) {
    loop {
        let permit = admit().await;
        match listener.accept_now() {
            Ok((socket, remote)) => take(socket, remote, permit),
            Err(error) if is_of_one_connection(&error) => {}
            // The rest of the backlog is accepted when connections end and free descriptors.
            Err(error) if is_exhausted(&error) => pause.wait(&error).await,
            Err(_) => return,
        }
    }
}

/// Connections accepted in a row before other tasks get a turn.
const BATCH: u32 = 64;

enum First<T> {
    Done(T),
    Stopped,
}

/// Runs `future` unless it is pending when `stop` is ready.
async fn first<F: Future>(future: F, mut stop: Pin<&mut impl Future<Output = ()>>) -> First<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(First::Done(output)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| First::Stopped),
    })
    .await
}

async fn is_ready(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Ends when the task is woken by a waker registered before.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Whether accept(2) reports an error of the connection, not of the listener; see "Error handling" in its manual page.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | TimedOut)
        || matches!(
            error.raw_os_error(),
            Some(
                libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTDOWN
                    | libc::EHOSTUNREACH
                    | libc::ENONET
            )
        )
}

/// The back-off after an error of the listener itself: out of file descriptors or of memory.
#[derive(Default)]
struct Pause {
    next: Duration,
    logged: Option<Instant>,
}

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_millis(500);

    fn clear(&mut self) {
        self.next = Duration::ZERO;
    }

    async fn wait(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged.is_none_or(|at| now - at >= Duration::from_secs(1)) {
            self.logged = Some(now);
            tracing::error!(%error, "cannot accept connections; clients wait in the backlog in the backlog");
        }
        self.next = (self.next * 2).clamp(Self::SHORTEST, Self::LONGEST);
        timer::sleep(self.next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::Limit;
    use crate::config::model::Bind;
    use crate::net::bind::bind;
    use crate::net::testing::{on_worker, plain_options};
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::future::{pending, ready};
    use std::rc::Rc;
    use std::sync::Arc;

    /// Gives what the script says, then nothing.
    #[derive(Clone, Default)]
    struct Scripted {
        script: Rc<RefCell<VecDeque<Option<i32>>>>,
        polls: Rc<Cell<u32>>,
    }

    impl Scripted {
        fn next(&self) -> Option<io::Result<Accepted>> {
            self.polls.set(self.polls.get() + 1);
            Some(match self.script.borrow_mut().pop_front()? {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => Ok((Socket::Unix(tokio::net::UnixStream::pair().unwrap().0), None)),
            })
        }
    }

    impl Accept for Scripted {
        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
            self.next().map_or(Poll::Pending, Poll::Ready)
        }

        fn accept_now(&mut self) -> io::Result<Accepted> {
            self.next().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
        }
    }

    #[test]
    fn backs_off_when_out_of_descriptors() {
        on_worker(async {
            let listener = Scripted::default();
            listener.script.borrow_mut().extend([Some(libc::EMFILE), Some(libc::ENFILE), Some(libc::ENOBUFS), None]);
            tokio::time::pause();
            let (begin, accepted) = (Instant::now(), tokio::sync::Notify::new());
            let polls = Rc::clone(&listener.polls);
            let looping = accept_loop(listener, async || (), accepted.notified(), |_, _, ()| accepted.notify_one());
            looping.await;
            // Three pauses of 20, 40 and 80 ms, and not one look at the listener in between.
            assert!(begin.elapsed() >= Duration::from_millis(140));
            assert_eq!(polls.get(), 3 + 1 + 1 + 1);
        });
    }

    #[test]
    fn a_connection_that_died_in_the_queue_costs_no_pause() {
        on_worker(async {
            let listener = Scripted::default();
            listener.script.borrow_mut().extend([Some(libc::ECONNABORTED), Some(libc::EPROTO), None]);
            tokio::time::pause();
            let (begin, accepted) = (Instant::now(), tokio::sync::Notify::new());
            accept_loop(listener, async || (), accepted.notified(), |_, _, ()| accepted.notify_one()).await;
            assert_eq!(begin.elapsed(), Duration::ZERO);
        });
    }

    #[test]
    fn a_flood_starves_neither_others_nor_the_stop() {
        on_worker(async {
            let listener = Scripted::default();
            listener.script.borrow_mut().extend(std::iter::repeat_n(None, 1000));
            let (taken, stop) = (Rc::new(Cell::new(0)), Rc::new(tokio::sync::Notify::new()));
            let (count, other) = (Rc::clone(&taken), Rc::clone(&stop));
            let seen = tokio::task::spawn_local(async move {
                other.notify_one();
                count.get()
            });
            accept_loop(listener, async || (), stop.notified(), |_, _, ()| taken.set(taken.get() + 1)).await;
            assert_eq!(seen.await.unwrap(), BATCH);
            // What waited when the stop came is accepted all the same.
            assert_eq!(taken.get(), 1000);
        });
    }

    #[test]
    fn a_permit_comes_before_a_connection() {
        on_worker(async {
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &plain_options(), 1).unwrap().remove(0);
            let address = bound.local_address().to_string();
            let _clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
            let limit = Arc::new(Limit::new(2));
            let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
            let admitting = Arc::clone(&limit);
            let listener = bound.into_listener().unwrap();
            tokio::task::spawn_local(accept_loop(
                listener,
                async move || admitting.acquired().await,
                pending(),
                move |socket, _, permit| drop(send.send((socket, permit))),
            ));
            let first = taken.recv().await.unwrap();
            let _second = taken.recv().await.unwrap();
            tokio::task::yield_now().await;
            assert!(taken.try_recv().is_err());
            drop(first);
            taken.recv().await.unwrap();
        });
    }

    #[test]
    fn whoever_waits_when_the_stop_comes_is_accepted() {
        on_worker(async {
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &plain_options(), 1).unwrap().remove(0);
            let address = bound.local_address().to_string();
            let clients: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
            let mut taken = Vec::new();
            accept_loop(bound.into_listener().unwrap(), async || (), ready(()), |_, remote, ()| taken.push(remote))
                .await;
            let clients: Vec<_> = clients.iter().map(|client| Some(client.local_addr().unwrap())).collect();
            assert_eq!(taken, clients);
        });
    }

    #[test]
    fn being_out_of_descriptors_at_the_stop_loses_nobody() {
        on_worker(async {
            let listener = Scripted::default();
            listener.script.borrow_mut().extend([Some(libc::EMFILE), Some(libc::EMFILE), None, None]);
            let mut taken = 0;
            accept_loop(listener, async || (), ready(()), |_, _, ()| taken += 1).await;
            assert_eq!(taken, 2);
        });
    }

    #[test]
    fn accepts_on_a_unix_socket() {
        on_worker(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let bound = bind(&Bind::Unix(path.clone()), &plain_options(), 1).unwrap().remove(0);
            let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
            let take = move |socket: Socket, remote: Option<SocketAddr>, ()| drop(send.send((socket, remote)));
            tokio::task::spawn_local(accept_loop(bound.into_listener().unwrap(), async || (), pending(), take));
            let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
            let (socket, remote) = taken.recv().await.unwrap();
            assert!(matches!(socket, Socket::Unix(_)) && remote.is_none());
        });
    }
}
