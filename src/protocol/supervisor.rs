//! The executor of hyper's HTTP/2 connections: it spawns a task for each stream, which ends under the deadlines of its
//! exchange. Called by `http`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::Executor;

use super::link::Link;
use crate::body::exchange::Exchange;

/// Spawns the tasks of HTTP/2 streams on this thread, each under the deadlines of its exchange.
#[derive(Clone)]
pub(super) struct Supervisor(pub(super) Rc<Link>);

impl<F> Executor<F> for Supervisor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        let exchange = self.0.take_supervised();
        // Every stream has an exchange. A future without one is hyper's pump for a CONNECT tunnel.
        match exchange.is_none().then(|| self.0.take_pump_place()).flatten() {
            Some(place) => place.put(stream),
            None => drop(tokio::task::spawn_local(Supervised { stream: Some(stream), exchange })),
        }
    }
}

pin_project_lite::pin_project! {
    /// The task of a stream. It is dropped, which resets the stream (RFC 9113 §5.4.2), if the client reads nothing for too
    /// long. The body cannot detect that, because hyper does not poll it while the window is closed.
    struct Supervised<F> {
        #[pin]
        stream: Option<F>,
        exchange: Option<Rc<Exchange>>,
    }
}

impl<F: Future<Output = ()>> Future for Supervised<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let Some(stream) = this.stream.as_mut().as_pin_mut()
            && stream.poll(cx).is_pending()
        {
            let Some(exchange) = this.exchange else { return Poll::Pending };
            ready!(exchange.poll_client_overdue(cx));
        }
        this.stream.set(None);
        Poll::Ready(())
    }
}
