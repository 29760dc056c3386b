//! One HTTP exchange as a tower service, and the only place that defines the order of its layers. They are composed
//! statically; a comment at each layer gives the reason for its position.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;

use http::header::{ACCEPT, ALT_SVC, CONNECTION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tower::Service;
use tower::util::service_fn;

use super::context::{Connection, Profile, RequestId};
use super::decision::{Way, checked};
use super::egress::{self, Asked};
use super::forward::{Order, forward};
use super::grpc;
use super::own::{Audience, apologise};
use super::record;
use super::witness::Witness;
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::body::incoming::Incoming;
use crate::http3::Informational;
use crate::protocol::link::Link;
use crate::snapshot::WorkerSnapshot;

/// The service of one downstream connection.
pub fn stack<B: Into<Incoming>>(
    connection: Rc<Connection>,
) -> impl Service<
    Request<B>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(move |request: Request<B>| {
        // One generation for the whole request: a reload in between does not affect it.
        let (generation, profile) = connection.home.now();
        // The exchange begins before its future is polled: HTTP/2 and HTTP/3 spawn the stream right after this call,
        // and the task that drives it must know its deadlines.
        let is_stream = request.version() >= Version::HTTP_2;
        let exchange = connection.begin(profile.limits(is_stream));
        exchange.ledger().listener = Some(Rc::clone(&profile.measured));
        if is_stream {
            connection.link.supervise(Rc::clone(&exchange));
        }
        let informational = if is_stream { connection.link.take_informational() } else { None };
        let scene = Scene { connection: Rc::clone(&connection), exchange, generation, profile, informational };
        // Everything up to the choice of an endpoint needs no waiting and is done here.
        carried_out(scene, request)
    })
}

/// The context of a request, which does not change while it passes the layers.
pub struct Scene {
    /// The connection it came on.
    pub connection: Rc<Connection>,
    /// Its deadlines and its outcome.
    pub exchange: Rc<Exchange>,
    /// The generation that was in force when it arrived.
    pub generation: Rc<WorkerSnapshot>,
    /// The listener as configured in that generation.
    pub profile: Rc<Profile>,
    /// The channel for interim (1xx) responses, if the client's protocol has one.
    pub informational: Option<Informational>,
}

/// The decision about a request.
#[allow(clippy::large_enum_variant, reason = "it is matched right after it is made, and never stored")]
pub enum Decided {
    /// Forward it to an endpoint of the route's upstream.
    Forward(Box<Order>),
    /// Forward it to the destination that the client named (forward mode).
    Egress(Box<Asked>),
    /// The proxy answers it itself.
    Answered(Response<Body>),
}

/// The future of a response. Boxed, because hyper, `http3` and the runtime move it several times, and it is large.
type Awaited = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

fn carried_out<B: Into<Incoming>>(scene: Scene, request: Request<B>) -> Awaited {
    let (head, body) = request.into_parts();
    let version = head.version;
    match decided(scene, head, &mut ()) {
        Decided::Forward(order) => Box::pin(to_and_fro(order, body.into().of(version))),
        Decided::Egress(asked) => {
            let body = body.into().of(version);
            Box::pin(async move { Ok(egress::serve(asked, body).await) })
        }
        Decided::Answered(response) => Box::pin(ready(Ok(response))),
    }
}

/// Decides about a request before its body is read. This is the outermost layer: every error below becomes a response here,
/// and its outcome is recorded once.
pub fn decided(scene: Scene, head: Parts, witness: &mut impl Witness) -> Decided {
    let id = RequestId::default();
    if scene.profile.logger.is_some() {
        id.adopt(&head.headers);
        record::begin(&scene, &head, &id);
    }
    let (exchange, connection) = (Rc::clone(&scene.exchange), Rc::clone(&scene.connection));
    let version = head.version;
    let alt_svc = scene.profile.alt_svc.clone();
    let (response, method) = match checked(scene, head, id, witness) {
        Ok(Way::Forward(order)) => return Decided::Forward(order),
        Ok(Way::Egress(asked)) => return Decided::Egress(asked),
        Ok(Way::Answer(answer)) => *answer,
        Err(refused) => {
            let (error, head, id) = *refused;
            witness.refused(&error);
            id.adopt(&head.headers);
            let form = grpc::Form::of(&head.method, &head.headers);
            let asked = Audience { accept: head.headers.get(ACCEPT), form, version };
            (apologise(&exchange, &error, &asked, &id), head.method)
        }
    };
    Decided::Answered(concluded(&connection.link, &exchange, alt_svc.as_ref(), response, &method, version))
}

/// Forwards a request and completes the response.
async fn to_and_fro(mut order: Box<Order>, body: Incoming) -> Result<Response<Body>, Infallible> {
    let response = answer_of(&mut order, body).await;
    let Scene { connection, exchange, profile, .. } = &order.scene;
    Ok(concluded(&connection.link, exchange, profile.alt_svc.as_ref(), response, &order.method, order.version))
}

/// The endpoint's response, or an error response.
pub(super) async fn answer_of(order: &mut Order, body: Incoming) -> Response<Body> {
    match forward(order, body).await {
        Ok(mut response) => {
            // Last, so that the route's edits take precedence over fields of the endpoint and the proxy.
            order.edit_response(response.headers_mut());
            response
        }
        Err(error) => {
            let asked = Audience { accept: order.accept.as_ref(), form: order.form, version: order.version };
            let mut response = apologise(&order.scene.exchange, &error, &asked, &order.id);
            if order.translated.is_some() {
                // gRPC-Web: without the route's CORS fields, a browser would hide the error from the page.
                order.edit_response(response.headers_mut());
            }
            response
        }
    }
}

pub(super) fn concluded(
    link: &Link,
    exchange: &Exchange,
    alt_svc: Option<&HeaderValue>,
    mut response: Response<Body>,
    method: &Method,
    version: Version,
) -> Response<Body> {
    if method == Method::HEAD {
        // RFC 9110 §9.3.2: no body follows. hyper (on HTTP/2) and `http3` would send one.
        *response.body_mut() = Body::Empty;
        exchange.finish();
    }
    if let Some(alt_svc) = alt_svc {
        advertise(link, alt_svc, response.headers_mut(), version);
    }
    record::answered(exchange, response.headers());
    exchange.note_status(response.status().as_u16());
    // hyper sets the version to the client's (RFC 9110 §6.2); the endpoint's version must not be passed on.
    *response.version_mut() = Version::HTTP_11;
    if version < Version::HTTP_2 && !link.is_switching() && link.is_leaving() {
        // RFC 9112 §9.6: a response after which the connection is closed says so.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Sets our own Alt-Svc (RFC 7838 §3) and removes the endpoint's, which does not apply to the proxy's address.
fn advertise(link: &Link, alt_svc: &HeaderValue, fields: &mut HeaderMap, version: Version) {
    // Not needed on HTTP/3 itself, and wrong for a listener that is closing.
    if version < Version::HTTP_3 && !link.is_leaving() {
        fields.insert(ALT_SVC, alt_svc.clone());
    } else {
        fields.remove(ALT_SVC);
    }
}
