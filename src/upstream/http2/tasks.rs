//! The executor of hyper's HTTP/2 client: runs its tasks on the worker. The pump of a CONNECT tunnel is not spawned but
//! passed to the tunnel: hyper submits it while the response to the CONNECT is being polled.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use crate::body::request::{self, Source};
use crate::body::tunnel::PumpPlace;

thread_local! {
    /// The place of the CONNECT whose answer is being taken in.
    static ANSWERED: RefCell<Option<Rc<PumpPlace>>> = const { RefCell::new(None) };
}

/// Runs what hyper spawns for a connection.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct LocalTasks;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, future: F) {
        let future = async move { drop(future.await) };
        if let Some(place) = PumpPlace::take_announced() {
            tokio::task::spawn_local(Answering { future, place });
            return;
        }
        match (ANSWERED.with_borrow(Clone::clone), request::take_looked_at()) {
            (Some(place), _) => place.put(future),
            (None, Some(upload)) => drop(tokio::task::spawn_local(Uploading { future, upload })),
            (None, None) => drop(tokio::task::spawn_local(future)),
        }
    }
}

pin_project_lite::pin_project! {
    /// Sends the rest of a request's body. As long as the endpoint takes nothing hyper does not come to look whether somebody
    /// still wants it: the stream would stay open, and one more would be missing on the connection.
    struct Uploading<F> {
        #[pin]
        future: F,
        upload: Weak<Source>,
    }
}

impl<F: Future<Output = ()>> Future for Uploading<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match this.upload.upgrade() {
            // Dropped, it resets the stream (RFC 9113 §8.1).
            Some(source) if source.is_cut() => Poll::Ready(()),
            Some(source) => {
                source.carried_by(cx);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

pin_project_lite::pin_project! {
    /// Waits for the answer to a CONNECT; what it spawns is the pump of the tunnel.
    struct Answering<F> {
        #[pin]
        future: F,
        place: Rc<PumpPlace>,
    }
}

impl<F: Future<Output = ()>> Future for Answering<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        ANSWERED.set(Some(Rc::clone(this.place)));
        let polled = this.future.poll(cx);
        ANSWERED.set(None);
        polled
    }
}
