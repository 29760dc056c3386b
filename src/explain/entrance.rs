//! Where a request comes in: the listener by the port and scheme of its address, what is spoken there, and the certificate
//! that the client would see.

use std::net::IpAddr;
use std::sync::Arc;

use http::Version;

use super::explanation::{At, Certificate, Chosen};
use super::protocol;
use crate::config::Config;
use crate::config::effective::Owner;
use crate::config::model::{Asked, Bind, Listener, Mode};
use crate::config::summary::bind_text;
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::transport::tls::server::ServerTls;

/// A listener that takes the request.
pub struct Entrance {
    /// It.
    pub listener: Arc<ListenerSpec>,
    /// Why.
    pub why: String,
    /// Whether nobody said so, and no port does either.
    pub is_assumed: bool,
}

/// Why no listener takes it.
pub struct NoEntrance {
    /// As a sentence.
    pub reason: String,
    /// The line that decided it.
    pub at: Option<At>,
}

/// The listener that a request comes to.
pub fn listener(snapshot: &Snapshot, asked: &Asked) -> Result<Entrance, NoEntrance> {
    let found = |listener: &Arc<ListenerSpec>, why: String, is_assumed| {
        Ok(Entrance { listener: Arc::clone(listener), why, is_assumed })
    };
    if let Some(name) = &asked.listener {
        let Some(listener) = snapshot.listener(name) else {
            return Err(NoEntrance { reason: format!("no listener is named `{name}`"), at: None });
        };
        let unfit = unfit(&listener.config, asked);
        return match unfit {
            None => found(listener, "it was named".to_owned(), false),
            Some((reason, at)) => Err(NoEntrance { reason: format!("listener `{name}` {reason}"), at }),
        };
    }
    let fitting: Vec<_> =
        snapshot.listeners.iter().filter(|listener| unfit(&listener.config, asked).is_none()).collect();
    let host = asked.url.host().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    if let Some(port) = asked.port() {
        let mut on_port = fitting.iter().filter(|listener| accepts(&listener.config, port, host));
        if let Some(listener) = on_port.next() {
            return found(listener, format!("it accepts port {port}"), false);
        }
        let other = snapshot.listeners.iter().find(|listener| accepts(&listener.config, port, host));
        if let Some((other, (reason, at))) = other.and_then(|other| Some((other, unfit(&other.config, asked)?))) {
            let reason = format!("listener `{}` accepts port {port}, but it {reason}", other.name);
            return Err(NoEntrance { reason, at });
        }
        if asked.url.port().is_some() {
            return Err(NoEntrance { reason: format!("no listener accepts port {port}"), at: None });
        }
    }
    // Whoever writes an address without a port means the one that the world sees, which may be mapped to another here.
    match fitting.first() {
        Some(listener) => found(listener, format!("the first that takes {}", asked.scheme()), true),
        None => Err(NoEntrance { reason: format!("no listener takes {}", asked.scheme()), at: None }),
    }
}

/// Why a listener takes nothing of this kind; `None`: it does.
fn unfit(listener: &Listener, asked: &Asked) -> Option<(String, Option<At>)> {
    let tls = listener.tls.is_some();
    let fits = match (&listener.mode, asked.scheme()) {
        (Mode::Http, "http" | "ws") => !tls,
        (Mode::Http, "https" | "wss") => tls,
        // Whoever is pointed at a proxy names it, and not the address.
        (Mode::Forward(_), _) => is_for_proxies(asked) && asked.listener.is_some(),
        (Mode::Tcp { .. }, "tcp") => true,
        // What is relayed unread may be TLS, whoever ends it.
        (Mode::Tcp { .. } | Mode::TlsPassthrough(_), "tls" | "https") => true,
        (Mode::Udp(_), "udp" | "quic") => true,
        (Mode::Quic(_), "quic") => true,
        _ => false,
    };
    if fits {
        return None;
    }
    if is_for_proxies(asked) && matches!(listener.mode, Mode::Forward(_)) {
        let reason = "is for clients that are pointed at it (--listener names it)".to_owned();
        return Some((reason, Some(At::from(&listener.place))));
    }
    let speaks = match (&listener.mode, tls) {
        (Mode::Http, true) => "speaks HTTP over TLS".to_owned(),
        (Mode::Http, false) => "speaks HTTP in cleartext".to_owned(),
        (mode, _) => format!("has mode `{}`", mode.as_str()),
    };
    Some((format!("{speaks}, not {}", asked.scheme()), Some(At::from(&listener.place))))
}

/// Whether a client may ask a proxy for it.
fn is_for_proxies(asked: &Asked) -> bool {
    matches!(asked.scheme(), "http" | "https" | "ws" | "wss" | "tcp" | "tls" | "udp")
}

fn accepts(listener: &Listener, port: u16, host: Option<IpAddr>) -> bool {
    // 0: a port of the system's choice.
    let is_it = |own: u16| own == port || own == 0;
    listener.binds.iter().any(|bind| match bind {
        Bind::AnyAddress(own) => is_it(*own),
        Bind::Address(own) => {
            is_it(own.port()) && host.is_none_or(|host| own.ip().is_unspecified() || own.ip() == host)
        }
        Bind::Unix(_) => false,
    })
}

/// The version that is spoken, and whether it was said; or why the listener does not speak it.
pub fn version(listener: &ListenerSpec, asked: &Asked, config: &Config) -> Result<(Version, bool), NoEntrance> {
    let speaks = listener.config.protocols;
    let Some(version) = asked.version else {
        // As browsers and curl do: HTTP/2 where a handshake offers it, HTTP/3 only once it was advertised. Who has datagrams for a
        // proxy wants those of QUIC.
        let version = match listener.config.tls.is_some() {
            true if speaks.http3 && asked.scheme() == "udp" => Version::HTTP_3,
            _ if !speaks.http1 && !speaks.http2 => Version::HTTP_3,
            true if speaks.http2 && !asked.scheme().starts_with("ws") => Version::HTTP_2,
            _ if speaks.http1 => Version::HTTP_11,
            _ => Version::HTTP_2,
        };
        return Ok((version, false));
    };
    let spoken = match version {
        Version::HTTP_3 => speaks.http3,
        Version::HTTP_2 => speaks.http2,
        _ => speaks.http1,
    };
    if spoken {
        return Ok((version, true));
    }
    let words: Vec<_> = speaks.words().collect();
    let at = config.written.place(Owner::Listener(listener.id.0 as usize), &["protocols"]).map(At::from);
    let reason = format!("listener `{}` speaks {}, not {}", listener.name, words.join(", "), protocol(version));
    Err(NoEntrance { reason, at })
}

/// The listeners that it does not come to.
pub fn others(snapshot: &Snapshot, chosen: Option<&ListenerSpec>, asked: &Asked) -> Vec<Chosen> {
    let others = snapshot.listeners.iter().filter(|listener| chosen.is_none_or(|chosen| chosen.id != listener.id));
    let describe = |listener: &Arc<ListenerSpec>| {
        let why = match unfit(&listener.config, asked) {
            Some((reason, _)) => reason,
            None if asked.listener.is_some() => "another was named".to_owned(),
            None if asked.port().is_some_and(|port| accepts(&listener.config, port, None)) => {
                "another that accepts the port comes first".to_owned()
            }
            None => "accepts another port".to_owned(),
        };
        Chosen {
            name: listener.name.to_string(),
            what: what(&listener.config),
            why,
            at: Some(At::from(&listener.config.place)),
        }
    };
    others.map(describe).collect()
}

/// A listener in a few words.
pub fn what(listener: &Listener) -> String {
    let binds: Vec<_> = listener.binds.iter().map(bind_text).collect();
    let spoken: Vec<_> = match listener.mode {
        Mode::Http => listener.protocols.words().collect(),
        _ => vec![listener.mode.as_str()],
    };
    let tls = if listener.tls.is_some() { " over TLS" } else { "" };
    format!("{}, {}{tls}", binds.join(" "), spoken.join(" "))
}

/// The certificate for a name.
/// `host`: what the client looks for in it, where that is known.
pub fn certificate(listener: &ListenerSpec, tls: &ServerTls, sni: Option<&str>, host: Option<&str>) -> Certificate {
    let store = tls.certificates();
    let (index, certificate) = store.chosen(sni);
    let why = match sni {
        None => "the first: the client names no host".to_owned(),
        Some(name) if certificate.names.iter().any(|own| own == name) => format!("it is for `{name}`"),
        Some(name) if certificate.is_for(name) => format!("its wildcard is for `{name}`"),
        Some(name) => format!("the first: none is for `{name}`"),
    };
    let at = listener.config.tls.as_ref().and_then(|tls| tls.certificates.get(index));
    Certificate {
        file: certificate.file.display().to_string(),
        names: certificate.names.iter().cloned().chain(certificate.addresses.iter().map(ToString::to_string)).collect(),
        why,
        covers_host: host.is_none_or(|host| certificate.is_for(host)),
        at: at.map(|files| At::from(&files.place)),
    }
}
