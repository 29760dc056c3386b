//! A request of a client that is pointed at a listener with `mode = "forward"`: whether it may go where it says. What a name
//! resolves to is known only when somebody asks, so that the verdict on a name is that on the name.

use super::Explainer;
use super::explanation::{At, Explanation, Refusal, Verdict};
use super::settings::Settings;
use crate::base::error::Kind;
use crate::config::effective::Owner;
use crate::config::model::{Asked, Outbound};
use crate::proxy::rescue::status_of;
use crate::route::destination::{Host, Prohibited, Reach, may_ask, may_connect};
use crate::snapshot::ListenerSpec;

impl Explainer<'_> {
    /// Where it may go, and by which entry not.
    pub(super) fn outbound(&self, asked: &Asked, listener: &ListenerSpec, rules: &Outbound, told: &mut Explanation) {
        let index = listener.id.0 as usize;
        let written = |path: &[&str]| self.config.written.place(Owner::Listener(index), path).map(At::from);
        let refused = |kind: Kind, reason: &str, at| {
            let status = Some(status_of(kind).as_u16());
            Some(Refusal { outcome: kind.as_str().to_owned(), status, reason: reason.to_owned(), at })
        };
        let name = asked.url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        let host = match Host::read(&name) {
            Ok(host) => host,
            Err(error) => {
                told.refusal = refused(error.kind(), error.reason(), None);
                return;
            }
        };
        let Some(port) = asked.port() else {
            told.refusal = refused(Kind::HttpRequestError, "CONNECT without a port", None);
            return;
        };
        let verdict = may_ask(rules, &host, port).and_then(|reach| match &host {
            Host::Address(address) => may_connect(rules, reach, *address, port).map(|()| None),
            Host::Name(_) => Ok(Some(reach)),
        });
        match verdict {
            Err(Prohibited { kind, reason, entry }) => {
                let at = entry.map(|entry| At::from(&entry.place)).or_else(|| written(&["forward", "allow"]));
                told.access = Some(Verdict { allowed: false, why: reason.to_owned(), at: at.clone() });
                told.refusal = refused(kind, reason, at);
            }
            Ok(reach) => {
                let why = match reach {
                    None => "the listener allows this address",
                    Some(Reach::Public) => {
                        "the listener allows the name, at public addresses and those that a network of `allow` has"
                    }
                    Some(Reach::Networks) => {
                        "the listener allows the addresses of its networks alone, whatever the name"
                    }
                };
                let at = written(&["forward", "allow"]);
                told.access = Some(Verdict { allowed: true, why: why.to_owned(), at });
                told.served = true;
                told.action = "forward".to_owned();
            }
        }
        if rules.users.is_some() {
            told.notes.push("who asks has to name itself: `forward.users` is not tried here".to_owned());
        }
        let mut settings = Settings::new(self.config);
        settings.of_outbound(index, rules);
        told.settings = settings.into_list();
    }
}
