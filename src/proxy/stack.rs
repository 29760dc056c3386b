//! One HTTP exchange as a tower service: the only place that orders its layers. They are composed statically; each
//! comment says why the layer stands where it does.

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
        // One generation for the whole request: a reload in between changes nothing for it.
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

/// Where a request is met: what stays the same while it passes the layers.
pub struct Scene {
    /// The connection it came on.
    pub connection: Rc<Connection>,
    /// Its deadlines and its end.
    pub exchange: Rc<Exchange>,
    /// The generation that was in force when it came.
    pub generation: Rc<WorkerSnapshot>,
    /// The listener, as that generation has it.
    pub profile: Rc<Profile>,
    /// Where interim answers go, if the client takes any.
    pub informational: Option<Informational>,
}

/// What is decided about a request.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub enum Decided {
    /// An endpoint is to be asked this.
    Forward(Box<Order>),
    /// A client that is pointed at a proxy wants to go where it says.
    Egress(Box<Asked>),
    /// It is answered already.
    Answered(Response<Body>),
}

/// An answer, as hyper and `http3` await it. Boxed: they and the runtime move a stream's future several times, and this
/// one is large.
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

/// What is decided about a request before its body is looked at. Outermost: whatever fails below becomes an answer here, and
/// its outcome is noted once.
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

/// Asks an endpoint and finishes its answer.
async fn to_and_fro(mut order: Box<Order>, body: Incoming) -> Result<Response<Body>, Infallible> {
    let response = answer_of(&mut order, body).await;
    let Scene { connection, exchange, profile, .. } = &order.scene;
    Ok(concluded(&connection.link, exchange, profile.alt_svc.as_ref(), response, &order.method, order.version))
}

/// The answer of an endpoint, or why there is none.
pub(super) async fn answer_of(order: &mut Order, body: Incoming) -> Response<Body> {
    match forward(order, body).await {
        Ok(mut response) => {
            // Last, so that what the route says stands over what endpoint and proxy put.
            order.edit_response(response.headers_mut());
            response
        }
        Err(error) => {
            let asked = Audience { accept: order.accept.as_ref(), form: order.form, version: order.version };
            let mut response = apologise(&order.scene.exchange, &error, &asked, &order.id);
            if order.translated.is_some() {
                // Without the route's fields for CORS a browser would keep the fault from its page.
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
        // Nothing of a body follows (RFC 9110 §9.3.2), whatever was prepared; on HTTP/2 hyper would send it, and so would HTTP/3.
        *response.body_mut() = Body::Empty;
        exchange.finish();
    }
    if let Some(alt_svc) = alt_svc {
        advertise(link, alt_svc, response.headers_mut(), version);
    }
    record::answered(exchange, response.headers());
    exchange.note_status(response.status().as_u16());
    // hyper adapts the version to the client's (RFC 9110 §6.2); the endpoint's own must not pass.
    *response.version_mut() = Version::HTTP_11;
    if version < Version::HTTP_2 && !link.is_switching() && link.is_leaving() {
        // RFC 9112 §9.6: who closes after an answer says so in it.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// RFC 7838 §3. What an endpoint says of itself is of no use to a client that knows it by our name.
fn advertise(link: &Link, alt_svc: &HeaderValue, fields: &mut HeaderMap, version: Version) {
    // Who is there already need not be told, and a listener that closes has nothing to offer.
    if version < Version::HTTP_3 && !link.is_leaving() {
        fields.insert(ALT_SVC, alt_svc.clone());
    } else {
        fields.remove(ALT_SVC);
    }
}
