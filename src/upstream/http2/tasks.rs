//! Runs what hyper spawns for a connection on the worker that owns it. The pump of a tunnel is not run but left to who carries
//! the tunnel: hyper hands it over from within what waits for the answer to the CONNECT.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

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
        match ANSWERED.with_borrow(Clone::clone) {
            Some(place) => place.put(future),
            None => drop(tokio::task::spawn_local(future)),
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
