//! From the validated model to a snapshot: reads certificates, builds the route table, and takes over from the previous
//! generation what outlives a reload (ticket keys, counts of limits, endpoint states). All or nothing: it does not
//! change what is in force.

use std::sync::Arc;

use tracing::warn;

use super::admin::access::Access;
use super::{access_log, egress, privileges};
use crate::base::id::{Generation, ListenerId, UpstreamId};
use crate::base::limit::{Limit, PerAddress};
use crate::config::effective::Owner;
use crate::config::model::{EndpointAddress, Mode, UdpRoute};
use crate::config::{Config, Faults, Place, model};
use crate::explain::expectations;
use crate::net::bind;
use crate::route::l4::Layer4;
use crate::route::table::Table;
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::telemetry::access_log::AccessLog;
use crate::transport::quic::keys::Keys;
use crate::transport::tls::cert_store::CertFault;
use crate::transport::tls::client::ClientTls;
use crate::transport::tls::server::{Offer, ServerTls};
use crate::upstream::Upstream;
use crate::upstream::registry::Registry;

/// Compiles a configuration. Blocks on reading the certificate files. Makes no file: the access log is opened, and put
/// into the snapshot, by whoever puts the generation in force.
///
/// # Errors
/// Every certificate, key, authority or token that does not do, each at its place in the configuration; or else every
/// expectation that does not hold.
pub fn compile(
    config: &Config,
    previous: Option<&Snapshot>,
    registry: &Registry,
    generation: Generation,
) -> Result<Snapshot, Faults> {
    as_expected(compile_untried(config, previous, registry, generation)?, config)
}

/// As [`compile`], without trying what the configuration expects of itself.
///
/// # Errors
/// Every certificate, key, authority or token that does not do.
pub fn compile_untried(
    config: &Config,
    previous: Option<&Snapshot>,
    registry: &Registry,
    generation: Generation,
) -> Result<Snapshot, Faults> {
    let mut faults = Faults::new();
    if let Some(Err(unknown)) = config.server.identity.as_ref().map(privileges::find) {
        faults.append(unknown);
    }
    for own in own_listeners(config) {
        if let Err(found) = Access::load(own) {
            faults.append(found);
        }
        keep_away_from(own, config, &mut faults);
    }
    registry.keep_away_from(own_listeners(config).map(|own| own.bind.clone()).collect());
    let listeners: Vec<_> =
        numbered(&config.listeners).filter_map(|(id, one)| listener(id, one, config, previous, &mut faults)).collect();
    let upstreams: Vec<_> = numbered(&config.upstreams)
        .filter_map(|(id, one)| upstream(id, one, config, previous, registry, &mut faults))
        .collect();
    if let Some(log) = &config.server.access_log
        && let Err(error) = AccessLog::inspect(log)
    {
        access_log::tell(&mut faults, log, &error);
    }
    let Some(quic_keys) = quic_keys(config, previous, &mut faults).filter(|_| faults.is_empty()) else {
        return Err(faults);
    };
    let routes = Arc::new(Table::compile(config));
    let server = config.server.clone();
    Ok(Snapshot { generation, server, listeners, routes, upstreams, access_log: None, quic_keys })
}

/// Tries what the configuration expects of itself.
fn as_expected(snapshot: Snapshot, config: &Config) -> Result<Snapshot, Faults> {
    let snapshot = Arc::new(snapshot);
    let unmet = expectations::unmet(&snapshot, config);
    if !unmet.is_empty() {
        return Err(unmet);
    }
    // Whoever tried it is gone.
    Arc::into_inner(snapshot).ok_or_else(|| {
        let mut faults = Faults::new();
        faults.push_plain("a snapshot that was tried is still held", None);
        faults
    })
}

/// `None`: its fault is told. A file is read once: clients that are connected know tokens of the keys that were made of it.
fn quic_keys(config: &Config, previous: Option<&Snapshot>, faults: &mut Faults) -> Option<Keys> {
    let path = |server: &model::Server| server.quic_key_file.as_ref().map(|(path, _)| path.clone());
    if let Some(previous) = previous.filter(|previous| path(&previous.server) == path(&config.server)) {
        return Some(previous.quic_keys.clone());
    }
    let keys = match &config.server.quic_key_file {
        Some((path, _)) => Keys::load(path),
        None => Keys::random(),
    };
    keys.map_err(|fault| {
        let place = config.server.quic_key_file.as_ref().map(|(_, place)| place);
        match place {
            Some(place) => tell(faults, fault, place),
            None => faults.push_plain(fault.what, Some(fault.help)),
        }
    })
    .ok()
}

/// `[server.admin]` and `[server.observe]`, as far as they are there.
pub(super) fn own_listeners(config: &Config) -> impl Iterator<Item = &model::ControlListener> {
    [&config.server.admin, &config.server.observe].into_iter().flatten()
}

/// Endpoints that only this machine knows to be one of its own listeners; those that their text tells never get here.
fn keep_away_from(own: &model::ControlListener, config: &Config, faults: &mut Faults) {
    for endpoint in config.upstreams.iter().flat_map(|upstream| &upstream.endpoints) {
        if let EndpointAddress::Socket(address) = endpoint.address
            && bind::is_reached_at(&own.bind, address)
        {
            let message = format!("endpoint `{address}` is a listener of the proxy's own");
            let help = format!("`{}` takes connections to every address of this machine", bind::name(&own.bind));
            faults.push_at(&endpoint.place, message, "clients could reach it through this proxy", Some(help));
        }
    }
}

fn numbered<T>(items: &[T]) -> impl Iterator<Item = (u32, &T)> {
    (0..).zip(items)
}

/// `None`: its faults are told.
fn listener(
    id: u32,
    config: &model::Listener,
    whole: &Config,
    previous: Option<&Snapshot>,
    faults: &mut Faults,
) -> Option<Arc<ListenerSpec>> {
    let before = previous.and_then(|snapshot| snapshot.listener(&config.name));
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            // RFC 9297 §2.1.1, RFC 9221 §3: to a client that resumes, no fewer datagrams are offered than before.
            let offers = |config: &model::Listener| config.mode.outbound().is_some();
            let same = before.filter(|before| offers(&before.config) == offers(config));
            let ticketed = same.and_then(|before| before.tls.as_deref());
            match ServerTls::new(tls, Offer::of(config), ticketed) {
                Ok(tls) => Some(tls),
                Err(found) => {
                    found.into_iter().for_each(|fault| tell(faults, fault, &config.place));
                    return None;
                }
            }
        }
    };
    let egress = match config.mode.outbound() {
        Some(outbound) => Some(egress::compile(config, outbound, whole, before.map(|before| &**before), faults)?),
        None => None,
    };
    let limit = config.limits.max_connections.map(|max| {
        let kept = before.and_then(|before| before.limit.clone());
        kept.unwrap_or_else(|| Arc::new(Limit::new(max)))
    });
    let per_address = config.limits.max_connections_per_ip.map(|max| {
        let kept = before.and_then(|before| before.per_address.clone());
        kept.unwrap_or_else(|| Arc::new(PerAddress::new(max)))
    });
    let connection_ids = matches!(config.mode, Mode::Udp(UdpRoute::Quic(_))).then(|| {
        let kept = before.and_then(|before| before.connection_ids.clone());
        kept.unwrap_or_default()
    });
    Some(Arc::new(ListenerSpec {
        id: ListenerId(id),
        name: Arc::clone(&config.name),
        config: Arc::new(config.clone()),
        tls,
        egress,
        connection_ids,
        limit,
        per_address,
        layer4: Layer4::compile(&config.mode).map(Arc::new),
    }))
}

/// `None`: its fault is told.
fn upstream(
    id: u32,
    config: &model::Upstream,
    whole: &Config,
    previous: Option<&Snapshot>,
    registry: &Registry,
    faults: &mut Faults,
) -> Option<Arc<Upstream>> {
    let tls = match &config.tls {
        None => None,
        Some(tls) => match ClientTls::new(Some(tls), config.protocol) {
            Ok(client) => {
                if tls.insecure {
                    // At every start, reload and check, so that what was meant for a minute is not forgotten.
                    warn!(upstream = %config.name, "`insecure = true`: certificates are not verified; anyone on the path can read and change the traffic");
                }
                Some(kept(client, previous.and_then(|snapshot| snapshot.upstream_named(&config.name))))
            }
            Err(fault) => {
                // Of several files the message names the one.
                let key: &[&str] = if tls.client_identity.is_none() { &["tls", "ca"] } else { &["tls"] };
                let place = whole.written.place(Owner::Upstream(&config.name), key);
                tell(faults, fault, place.as_ref().unwrap_or(&config.place));
                return None;
            }
        },
    };
    for source in config.source.iter().filter(|source| !bind::is_of_this_machine(**source)) {
        // No fault: the address may come later, and the file may be checked elsewhere.
        warn!(upstream = %config.name, %source, "this `source` is not an address of this machine and is not used");
    }
    Some(registry.upstream(UpstreamId(id), Arc::new(config.clone()), tls))
}

/// The one of the generation before where it is the same: it knows sessions that can be resumed.
fn kept(client: Arc<ClientTls>, before: Option<&Arc<Upstream>>) -> Arc<ClientTls> {
    let same = |tls: &&Arc<ClientTls>| tls.fingerprint() == client.fingerprint() && tls.has_settings_of(&client);
    before.and_then(|before| before.tls.as_ref().filter(same)).map_or(client.clone(), Arc::clone)
}

/// Adds a fault of a file at the place that names the file, or else where its owner is written.
pub(super) fn tell(faults: &mut Faults, fault: CertFault, owner: &Place) {
    let place = fault.place.as_ref().unwrap_or(owner);
    faults.push_at(place, fault.what, "", (!fault.help.is_empty()).then_some(fault.help));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parse(text: &str) -> Config {
        config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn next(config: &Config, previous: Option<&Snapshot>) -> Result<Snapshot, Faults> {
        compile(config, previous, &Registry::new(), Generation(1))
    }

    const LIMITED: &str = "[[listener]]\nname = \"web\"\nbind = \":0\"\n[listener.limits]\nmax_connections = 1\n[[route]]\nrespond = {}\n";

    #[test]
    fn what_is_counted_outlives_a_generation() {
        let first = next(&parse(LIMITED), None).unwrap();
        let held = first.listeners[0].limit.as_ref().unwrap().acquire().unwrap();
        let second = next(&parse(&LIMITED.replace("= 1", "= 2")), Some(&first)).unwrap();
        let limit = second.listeners[0].limit.as_ref().unwrap();
        assert_eq!((limit.open(), limit.max()), (1, 1), "nothing in force changes before the swap");
        second.listeners[0].enforce_limits();
        assert_eq!(limit.max(), 2);
        drop(held);
        assert_eq!(limit.open(), 0);
    }

    #[test]
    fn every_missing_file_is_told_at_its_place() {
        let text = "[[listener]]\nbind = \":0\"\n\
                    tls.certificates = [{ cert = \"no.pem\", key = \"no.key\" }, { cert = \"nor.pem\", key = \"this.key\" }]\n\
                    [[route]]\nupstream = \"app\"\n\
                    [upstream.app]\nendpoints = [\"127.0.0.1:1\"]\ntls = { ca = \"none.pem\" }\n";
        let Err(faults) = next(&parse(text), None) else { panic!("it compiled") };
        assert!(faults.len() >= 3, "{faults}");
        let lines: Vec<_> = faults.iter().map(|fault| fault.excerpt.as_ref().unwrap().place.line).collect();
        assert!(lines.contains(&3) && lines.contains(&8), "{faults}");
    }
}
