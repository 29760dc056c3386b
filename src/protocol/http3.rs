//! Serves HTTP/3 on one downstream QUIC connection: passes the requests that `http3` reads to the proxy's stack, and
//! enforces the same deadlines as for other protocols. Early data that could do harm if replayed waits for the end of
//! the handshake (RFC 8470).

use std::cell::OnceCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use tower::Service;

use super::http::Settings;
use super::link::{Link, Verdict};
use super::wire::Refusal;
use crate::base::error::Kind;
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::http3::{self, Code, Control, Informational, RecvBody};
use crate::telemetry::counters::Counters;

/// Makes the answer to a head that was refused before it became a request.
pub type Refuse = Rc<dyn Fn(Refusal) -> Response<Bytes>>;

/// RFC 6585 §5.
const HEADER_TOO_LARGE: Refusal = Refusal { kind: Kind::RequestHeaderTooLarge, reason: "the head is too large" };
/// RFC 9110 §15.5.9.
const HEADER_LATE: Refusal =
    Refusal { kind: Kind::RequestHeaderTimeout, reason: "the head of the request did not arrive in time" };
/// Pseudo-fields, which the limit on fields does not mean.
const PSEUDO_FIELDS: usize = 5;
/// Bytes of a QPACK table, as large as HTTP/2's is by default.
const TABLE_CAPACITY: usize = 4096;
/// Streams that may wait for the table: a client that fills it sends few heads ahead of what they refer to.
const BLOCKED_STREAMS: usize = 16;

/// Serves one connection until it ends. Not cancel-safe: dropping it closes the connection.
pub async fn serve<S>(connection: quinn::Connection, settings: Rc<Settings>, link: Rc<Link>, refuse: Refuse, service: S)
where
    S: Service<Request<RecvBody>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
{
    let config = http3::Config {
        max_field_section_size: settings.max_header_size.into(),
        max_fields: settings.max_headers as usize + PSEUDO_FIELDS,
        max_table_capacity: TABLE_CAPACITY,
        max_blocked_streams: BLOCKED_STREAMS,
        header_timeout: settings.deadlines.header,
        max_requests: settings.max_concurrent_streams,
        connect_protocol: true,
        datagrams: settings.datagrams,
    };
    let control = Control::new();
    let requests = Requests {
        service,
        refuse,
        counters: Arc::clone(link.load().counters()),
        link: Rc::clone(&link),
        connection: connection.clone(),
    };
    let mut meter = Meter {
        connection: connection.clone(),
        link: Rc::clone(&link),
        control: Rc::clone(&control),
        told: (0, 0, 0),
        polls: 0,
    };
    let mut driver = pin!(http3::serve(connection, Rc::new(config), Rc::clone(&control), requests));
    let closed = poll_fn(|cx| {
        loop {
            meter.polled();
            if let Poll::Ready(closed) = driver.as_mut().poll(cx) {
                return Poll::Ready(closed);
            }
            match ready!(link.poll_verdict(false, cx)) {
                Verdict::IdleLate if is_busy(&link, &control) => {}
                Verdict::IdleLate | Verdict::Retire => {
                    link.retire();
                    control.drain();
                }
                Verdict::Park => {}
                Verdict::HeaderLate | Verdict::Stalled | Verdict::Cut | Verdict::Broken => {
                    // RFC 9114 §8.1: nothing went wrong; what is still open is cut.
                    control.close(Code::NO_ERROR);
                }
            }
        }
    })
    .await;
    meter.read();
    tracing::debug!(code = %closed.code, side = ?closed.side, reason = closed.reason, "HTTP/3 connection ended");
}

/// Whether streams are open, or were until a moment ago, that no exchange tells of: a head that is on its way, an answer
/// that was handed on whole and that the client has yet to take.
fn is_busy(link: &Link, control: &Control) -> bool {
    if control.open() > 0 {
        link.load().touch(tokio::time::Instant::now());
        return true;
    }
    link.load().touch(control.idle_since())
}

/// What `http3` gives the requests of a connection to.
struct Requests<S> {
    service: S,
    refuse: Refuse,
    counters: Arc<Counters>,
    link: Rc<Link>,
    connection: quinn::Connection,
}

impl<S> http3::Service for Requests<S>
where
    S: Service<Request<RecvBody>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
{
    type Body = Body;

    fn call(
        &self,
        request: Request<RecvBody>,
        informational: Informational,
    ) -> (impl Future<Output = Response<Body>> + 'static, impl http3::Watch + 'static) {
        self.counters.requests_http3.add(1);
        let mut service = self.service.clone();
        let watched = Watched::default();
        let established = self.link.established().filter(|_| !request.method().is_safe());
        let Some(established) = established else {
            self.link.offer(informational);
            let future = service.call(request);
            watched.set(self.link.take_supervised());
            return (Answering::Now { future }, watched);
        };
        let (link, connection, later) = (Rc::clone(&self.link), self.connection.clone(), watched.clone());
        let waiting = async move {
            established.completed().await;
            if connection.close_reason().is_some() {
                // The handshake failed: whoever sent this may have been nobody. The driver drops the stream.
                return std::future::pending().await;
            }
            link.offer(informational);
            let future = service.call(request);
            later.set(link.take_supervised());
            answer(future.await)
        };
        (Answering::Later { future: Box::pin(waiting) }, watched)
    }

    fn refuse(&self, refusal: http3::Refusal) -> Response<Bytes> {
        (self.refuse)(match refusal {
            http3::Refusal::TooLarge => HEADER_TOO_LARGE,
            http3::Refusal::Late => HEADER_LATE,
        })
    }
}

fn answer(outcome: Result<Response<Body>, Infallible>) -> Response<Body> {
    match outcome {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

pin_project_lite::pin_project! {
    /// The answer to a request that is given on at once, or when it may be.
    #[project = AnsweringProjection]
    enum Answering<F> {
        Now { #[pin] future: F },
        Later { future: Pin<Box<dyn Future<Output = Response<Body>>>> },
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Answering<F> {
    type Output = Response<Body>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        match self.project() {
            AnsweringProjection::Now { future } => future.poll(cx).map(answer),
            AnsweringProjection::Later { future } => future.as_mut().poll(cx),
        }
    }
}

/// The exchange of a stream, once it has begun.
#[derive(Clone, Default)]
struct Watched(Rc<OnceCell<Rc<Exchange>>>);

impl Watched {
    fn set(&self, exchange: Option<Rc<Exchange>>) {
        if let Some(exchange) = exchange {
            let _ = self.0.set(exchange);
        }
    }
}

impl http3::Watch for Watched {
    fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get().map_or(Poll::Pending, |exchange| exchange.poll_taking_overdue(cx))
    }
}

/// Counts the bytes of a connection: what its datagrams carry, with what QUIC adds to it; and datagrams of HTTP that nobody took.
struct Meter {
    connection: quinn::Connection,
    link: Rc<Link>,
    control: Rc<Control>,
    told: (u64, u64, u64),
    polls: u32,
}

impl Meter {
    /// Now and then is enough: reading takes the connection's lock.
    fn polled(&mut self) {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(256) {
            self.read();
        }
    }

    fn read(&mut self) {
        let stats = self.connection.stats();
        let now = (stats.udp_rx.bytes, stats.udp_tx.bytes, self.control.dropped_datagrams());
        let counters = self.link.load().counters();
        counters.bytes_downstream_in.add(now.0 - self.told.0);
        counters.bytes_downstream_out.add(now.1 - self.told.1);
        counters.datagrams_dropped.add(now.2 - self.told.2);
        self.told = now;
    }
}
