//! Requests in forward mode (`mode = "forward"`): authenticates the client and checks the destination. Then the request
//! is forwarded like any other (`forward`), with an origin in place of an upstream, or becomes a tunnel (CONNECT,
//! CONNECT-UDP). Called by `stack`, because authentication and name resolution have to wait.

mod datagrams;
mod dial;
mod identity;
pub mod target;
pub mod template;
mod tunnel;

use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT, CONNECTION};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response, Version};

use self::dial::Dialer;
use self::target::{Ask, Target};
use super::context::{Facts, RequestId};
use super::decision::{Refused, onward};
use super::forward::Order;
use super::grpc;
use super::normalize::Normalized;
use super::own::{Audience, apologise};
use super::record::Stamps;
use super::stack::{self, Scene};
use super::witness::Witness;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::config::model::Stamp;
use crate::route::action::Action;
use crate::route::destination::{self, Host};
use crate::route::egress::Egress;
use crate::route::user_file::UserFile;
use crate::upstream::origin::{Named, Terms};

/// A request on a forward listener that is one unambiguous message.
pub struct Asked {
    /// Where it was met.
    pub scene: Scene,
    /// Its head.
    pub head: Parts,
    /// Its authority.
    pub normalized: Normalized,
    /// Its id.
    pub id: RequestId,
}

/// Answers it, whatever becomes of it.
pub async fn serve(asked: Box<Asked>, body: Incoming) -> Response<Body> {
    let (exchange, connection) = (Rc::clone(&asked.scene.exchange), Rc::clone(&asked.scene.connection));
    let version = asked.head.version;
    let (response, method) = match carry_out(*asked, body).await {
        Ok(answered) => answered,
        Err(refused) => {
            let (error, head, id) = *refused;
            id.adopt(&head.headers);
            let form = grpc::Form::of(&head.method, &head.headers);
            let audience = Audience { accept: head.headers.get(ACCEPT), form, version };
            let mut response = apologise(&exchange, &error, &audience, &id);
            // What comes behind a refused CONNECT or CONNECT-UDP may be meant for the other end of the tunnel, in words of somebody whom the
            // client carries: it must not be read as the client's next request. Who is asked for a password says it again here,
            // and such words know none.
            let asks_again = error.kind() == Kind::ProxyAuthenticationRequired;
            let asked_for_tunnel = head.method == Method::CONNECT || template::is_upgrade(&head);
            if asked_for_tunnel && version < Version::HTTP_2 && !asks_again {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            (response, head.method)
        }
    };
    stack::concluded(&connection.link, &exchange, None, response, &method, version)
}

async fn carry_out(asked: Asked, body: Incoming) -> Result<(Response<Body>, Method), Refused> {
    let Asked { scene, mut head, normalized, id } = asked;
    let Some(egress) = scene.profile.spec.egress.clone() else {
        return Err(Box::new((Error::internal("a listener that forwards nothing"), head, id)));
    };
    let target = match admitted(&scene, &egress, &head, &normalized).await {
        Ok(target) => target,
        Err(error) => return Err(Box::new((error, head, id))),
    };
    match target.ask {
        Ask::Request { .. } => {
            let mut order = order(Asked { scene, head, normalized, id }, &egress, target, &mut ())?;
            let method = order.method.clone();
            Ok((stack::answer_of(&mut order, body).await, method))
        }
        Ask::Connect => match tunnel::open(&scene, &egress, target, &mut head, body).await {
            Ok(response) => Ok((response, head.method)),
            Err(error) => Err(Box::new((error, head, id))),
        },
        Ask::ConnectUdp => match datagrams::open(&scene, &egress, target, &mut head, body).await {
            Ok(response) => Ok((response, head.method)),
            Err(error) => Err(Box::new((error, head, id))),
        },
    }
}

/// Who asks, and where they want to go, if they may.
async fn admitted(scene: &Scene, egress: &Egress, head: &Parts, normalized: &Normalized) -> Result<Target, Error> {
    let (host, port, ask) = target::read(head, normalized, egress.secure.is_some())?;
    if let Some((_, record)) = &mut scene.exchange.ledger().record {
        let destination = match ask {
            Ask::ConnectUdp => target::label(&host, port),
            Ask::Connect | Ask::Request { .. } => format!("{}:{port}", normalized.host()),
        };
        record.destination = Some(destination.into());
    }
    if let Some(users) = &egress.users {
        let client = scene.connection.forwarded.client(&scene.profile.policy, &head.headers).address;
        let user = identity::identify(&users.users(), &head.headers, client).await?;
        if let Some((_, record)) = &mut scene.exchange.ledger().record {
            record.user = Some(user);
        }
    }
    // After who asks: a stranger learns nothing about the rules.
    permitted(egress, host, port, ask)
}

/// Whether somebody may go there, as far as that is known before a name is resolved.
///
/// # Errors
/// The rules forbid it.
pub fn permitted(egress: &Egress, host: Host, port: u16, ask: Ask) -> Result<Target, Error> {
    let reach = destination::may_ask(&egress.outbound, &host, port)?;
    // An address is judged at once, not only when it is connected to.
    if let Host::Address(address) = host {
        dial::admit(egress, reach, address, port)?;
    }
    Ok(Target { ask, host, port, reach })
}

/// Whether a user may be who they say in these fields. The password is not tried.
///
/// # Errors
/// They do not say, not rightly, or name nobody: 407.
pub fn names_a_user(users: &UserFile, head: &Parts) -> Result<Box<str>, Error> {
    identity::named(&users.users(), &head.headers)
}

/// The request as it goes to its origin.
///
/// # Errors
/// It cannot be made.
pub fn order(
    asked: Asked,
    egress: &Arc<Egress>,
    target: Target,
    witness: &mut impl Witness,
) -> Result<Box<Order>, Refused> {
    let Asked { scene, head, normalized, id } = asked;
    let is_secure = matches!(target.ask, Ask::Request { is_secure: true });
    let (config, tls) = match &egress.secure {
        Some((config, tls)) if is_secure => (config, Some(tls)),
        _ => (&egress.cleartext, None),
    };
    let generation = Rc::clone(&scene.generation);
    let terms = Terms { config, tls, generation: generation.snapshot.generation };
    let (host, port) = (target.host_text(), target.port);
    let named = Named { listener: scene.profile.spec.id, is_secure, host, port };
    let upstream = generation.origins.origin(named, &terms, || Arc::new(Dialer::new(Arc::clone(egress), target)));
    let client = scene.connection.forwarded.client(&scene.profile.policy, &head.headers).address;
    if let Some((_, record)) = &mut scene.exchange.ledger().record {
        record.client = client;
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let facts = Facts { normalized, target: path, rest: 0, client };
    // What strangers need not see is put where it is asked for alone.
    let config = &scene.profile.spec.config;
    let stamps =
        Stamps { request_id: config.request_id == Stamp::Always, traceparent: config.traceparent == Stamp::Always };
    if stamps.request_id {
        id.adopt(&head.headers);
    }
    match &egress.route.action {
        Action::Forward(rule) => {
            let route = (&egress.route, rule, stamps);
            Ok(onward(scene, head, facts, id, upstream, route, witness))
        }
        _ => Err(Box::new((Error::internal("a listener that forwards nothing"), head, id))),
    }
}
