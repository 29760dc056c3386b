//! The listeners for operators, `[server.admin]` and `[server.observe]`. They run on the control thread and answer from
//! the [`View`], so that they respond while the workers are busy and while a reload resolves names. `docs/admin.md`
//! documents them.

pub mod access;
pub mod answer;
mod connection;
mod explain;
pub mod metrics;
pub mod orders;
pub mod page;
pub mod resource;
pub mod status;

use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::reload::Refused;
use super::sockets::SocketFile;
use super::view::View;
use crate::base::addr::Address;
use crate::config::Config;
use crate::config::model::{Bind, ControlListener};
use crate::net::bind::{self, BoundSocket};
use access::Access;
use answer::Answer;
use orders::Orders;
use resource::Resource;
use status::Status;

/// The two listeners as far as they are configured; dropping it closes them.
#[derive(Default)]
pub struct OwnListeners {
    admin: Option<OwnListener>,
    observe: Option<OwnListener>,
}

/// One of them, listening.
struct OwnListener {
    bind: Bind,
    address: Address,
    desk: Rc<Desk>,
    accepting: AbortHandle,
    /// For a Unix socket: the file that is ours to remove.
    _file: Option<SocketFile>,
}

/// What the next configuration wants of them; dropping it closes what it opened.
pub struct Plan {
    admin: Option<Planned>,
    observe: Option<Planned>,
}

struct Planned {
    bind: Bind,
    access: Access,
    /// `None`: the socket that is there stays.
    socket: Option<(BoundSocket, Option<SocketFile>)>,
}

/// Where requests to one of the two are answered.
struct Desk {
    name: &'static str,
    access: std::cell::RefCell<Rc<Access>>,
    view: Arc<View>,
    /// What may be told to the control loop; `None`: nothing, this is observe.
    orders: Option<Orders>,
}

impl OwnListeners {
    /// Reads tokens and binds what `config` wants and is not there. Nothing that is there changes.
    ///
    /// # Errors
    /// A token file that does not do, an address that cannot be had.
    pub fn plan(&self, config: &Config) -> Result<Plan, Refused> {
        Ok(Plan {
            admin: plan(config.server.admin.as_ref(), self.admin.as_ref())?,
            observe: plan(config.server.observe.as_ref(), self.observe.as_ref())?,
        })
    }

    /// Takes a plan over: what stays has its new rules, what is new accepts, what is gone closes.
    ///
    /// # Errors
    /// The runtime cannot watch a new socket; the others are in force all the same.
    pub fn commit(&mut self, plan: Plan, view: &Arc<View>, orders: &Orders) -> std::io::Result<()> {
        let admin = commit("admin", &mut self.admin, plan.admin, view, Some(orders));
        let observe = commit("observe", &mut self.observe, plan.observe, view, None);
        view.show_own(self.addresses());
        admin.and(observe)
    }

    fn addresses(&self) -> Vec<(&'static str, Address)> {
        [&self.admin, &self.observe].into_iter().flatten().map(|own| (own.desk.name, own.address.clone())).collect()
    }
}

fn plan(wanted: Option<&ControlListener>, there: Option<&OwnListener>) -> Result<Option<Planned>, Refused> {
    let Some(wanted) = wanted else { return Ok(None) };
    let access = Access::load(wanted)?;
    for warning in wanted.token_file.iter().filter_map(access::warning) {
        warn!("{warning}");
    }
    let socket = if there.is_some_and(|own| own.bind == wanted.bind) {
        None
    } else {
        let socket = bind::bind_private(&wanted.bind)
            .map_err(|error| Refused::Bind(vec![bind::BindError { place: Some(wanted.place.clone()), ..error }]))?;
        let file = match &wanted.bind {
            Bind::Unix(path) => SocketFile::of(path),
            _ => None,
        };
        Some((socket, file))
    };
    Ok(Some(Planned { bind: wanted.bind.clone(), access, socket }))
}

fn commit(
    name: &'static str,
    there: &mut Option<OwnListener>,
    planned: Option<Planned>,
    view: &Arc<View>,
    orders: Option<&Orders>,
) -> std::io::Result<()> {
    let Some(Planned { bind, access, socket }) = planned else {
        *there = None;
        return Ok(());
    };
    let Some((socket, file)) = socket else {
        if let Some(own) = there {
            own.desk.access.replace(Rc::new(access));
        }
        return Ok(());
    };
    let desk = Rc::new(Desk {
        name,
        access: std::cell::RefCell::new(Rc::new(access)),
        view: Arc::clone(view),
        orders: orders.cloned(),
    });
    let address = socket.local_address().clone();
    let listener = socket.into_listener()?;
    let answering = Rc::clone(&desk);
    let accepting = tokio::task::spawn_local(connection::accept(listener, move |request| {
        let desk = Rc::clone(&answering);
        async move { desk.answer(request).await }
    }));
    info!(listener = format!("server.{name}"), %address, "listening");
    *there = Some(OwnListener { bind, address, desk, accepting: accepting.abort_handle(), _file: file });
    Ok(())
}

impl Drop for OwnListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let access = Rc::clone(&self.access.borrow());
        if let Err(refusal) = access.check(&parts) {
            return answer::error(refusal.status, "refused", refusal.reason);
        }
        let Some(resource) = Resource::at(parts.uri.path()) else { return self.unknown() };
        let orders = match (&self.orders, resource.is_for_admin()) {
            (None, true) => return self.unknown(),
            (orders, _) => orders.as_ref(),
        };
        if !resource.allows(&parts.method) {
            return answer::wrong_method(resource.allowed());
        }
        let changes = parts.method == Method::PUT;
        let request = Request::from_parts(parts, body);
        match (resource, orders) {
            (Resource::Page, _) => answer::page(),
            (Resource::Health, _) => answer::text_of(StatusCode::OK, TEXT, "ok\n"),
            (Resource::Readiness, _) => self.readiness(),
            (Resource::Metrics, _) => {
                answer::text_of(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&self.view))
            }
            (Resource::Status, _) => answer::json(StatusCode::OK, &Status::read(&self.view)),
            (Resource::Configuration, _) => {
                answer::text_of(StatusCode::OK, "application/toml", self.view.config().written.toml())
            }
            (Resource::Explain, _) => explain::explain(&self.view, request).await,
            (Resource::LogLevel, _) if changes => orders::set_log_level(request).await,
            (Resource::LogLevel, _) => orders::log_level(),
            (Resource::Reload, Some(orders)) => orders::reload(orders).await,
            (Resource::Drain, Some(orders)) => orders::drain(orders, request).await,
            (Resource::Reload | Resource::Drain, None) => self.unknown(),
        }
    }

    fn readiness(&self) -> Answer {
        if self.view.is_draining() {
            answer::error(StatusCode::SERVICE_UNAVAILABLE, "draining", "the process is on its way out")
        } else {
            answer::text_of(StatusCode::OK, TEXT, "ready\n")
        }
    }

    fn unknown(&self) -> Answer {
        let here = Resource::ALL.iter().filter(|(_, resource)| self.orders.is_some() || !resource.is_for_admin());
        let paths: Vec<_> = here.map(|(path, _)| *path).collect();
        answer::error(StatusCode::NOT_FOUND, "not_found", &format!("there is {}", paths.join(", ")))
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
