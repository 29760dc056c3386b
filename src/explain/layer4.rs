//! A connection or flow that no request is read of: where it goes by its listener alone, or by its ClientHello.

use super::explanation::{At, Explanation, Refusal, Upstream};
use super::{Explainer, SOMEBODY};
use crate::base::error::Kind;
use crate::base::id::UpstreamId;
use crate::config::effective::Owner;
use crate::config::model::{Asked, HelloRoutes, HostPattern, Mode, UdpRoute};
use crate::route::l4::{HelloTable, Layer4, by_alpn};
use crate::snapshot::ListenerSpec;

impl Explainer<'_> {
    /// Where it goes, and by which line.
    pub(super) fn relayed(&self, asked: &Asked, listener: &ListenerSpec, told: &mut Explanation) {
        let index = listener.id.0 as usize;
        let sni = told.request.sni.clone();
        let mode = &listener.config.mode;
        let (upstream, key) = match (listener.layer4.as_deref(), mode) {
            (Some(Layer4::To(upstream)), _) => (Some(*upstream), vec!["upstream".to_owned()]),
            (Some(Layer4::ByHello(table)), Mode::TlsPassthrough(routes) | Mode::Udp(UdpRoute::Quic(routes))) => {
                let upstream = table.find(sni.as_deref(), asked.alpn.iter().map(|alpn| alpn.as_bytes()));
                (upstream, entry(routes, upstream, sni.as_deref(), asked))
            }
            (_, Mode::Tcp { upstream, .. }) => (Some(UpstreamId(*upstream as u32)), vec!["upstream".to_owned()]),
            _ => {
                // RFC 7301 §3.2: the listener's order decides, among what the client offers.
                let Mode::Quic(routes) = mode else { return };
                let agreed = routes.iter().find(|(protocol, _)| asked.alpn.iter().any(|own| **own == **protocol));
                let agreed = agreed.map(|(protocol, _)| protocol.as_str());
                let key = std::iter::once("alpn").chain(agreed).map(str::to_owned).collect();
                (by_alpn(mode, agreed), key)
            }
        };
        let path: Vec<&str> = key.iter().map(String::as_str).collect();
        let at = self.config.written.place(Owner::Listener(index), &path).map(At::from);
        let client = asked.client.unwrap_or(SOMEBODY);
        let Some(entry) = upstream.and_then(|id| self.only(id, sni.as_deref(), client)) else {
            let (outcome, reason) = match mode {
                Mode::Quic(_) => {
                    (Kind::TlsProtocolError, "the client offers no ALPN protocol of the listener's (--alpn)")
                }
                _ => (
                    Kind::DestinationNotFound,
                    "no entry of the listener is for this ClientHello, and there is no default",
                ),
            };
            let at = self.config.written.place(Owner::Listener(index), &[path[0]]).map(At::from);
            let (outcome, reason) = (outcome.as_str().to_owned(), reason.to_owned());
            told.refusal = Some(Refusal { outcome, reason, at, ..Refusal::default() });
            return;
        };
        told.served = true;
        told.action = "relay".to_owned();
        if let Some(chosen) = &mut told.listener {
            chosen.why = format!("{}; `{}` of it leads on", chosen.why, path.join("."));
            chosen.at = at.or(chosen.at.take());
        }
        let carried = match mode {
            Mode::Udp(_) => "udp",
            _ if entry.protocol == "quic" => "quic",
            _ => "tcp",
        };
        told.upstreams.push(Upstream { protocol: carried.to_owned(), ..entry });
        self.tell_unavailable(told);
    }
}

/// The entry that stands for what was found.
fn entry(routes: &HelloRoutes, found: Option<UpstreamId>, sni: Option<&str>, asked: &Asked) -> Vec<String> {
    let is_found = |upstream: usize| found == Some(UpstreamId(upstream as u32));
    let offered =
        routes.alpn.iter().find(|(own, upstream)| asked.alpn.iter().any(|alpn| **alpn == **own) && is_found(*upstream));
    if let Some((alpn, _)) = offered {
        return vec!["alpn".to_owned(), alpn.clone()];
    }
    let matching = routes.sni.iter().filter(|one| {
        let alone = HelloRoutes { sni: vec![(*one).clone()], ..HelloRoutes::default() };
        is_found(one.1) && HelloTable::new(&alone).find(sni, std::iter::empty()).is_some()
    });
    let longest = matching.max_by_key(|(pattern, _)| match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard(suffix) => suffix.len(),
    });
    let name = match longest {
        Some((HostPattern::Exact(name), _)) => name.clone(),
        Some((HostPattern::Wildcard(suffix), _)) => format!("*.{suffix}"),
        None => "default".to_owned(),
    };
    vec!["sni".to_owned(), name]
}
