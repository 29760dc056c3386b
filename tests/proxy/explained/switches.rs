//! What is said of a request that wants to switch protocols is what becomes of it, from every HTTP to every HTTP.

use std::cell::RefCell;
use std::rc::Rc;

use http::HeaderMap;
use tidegate::explain::explanation::Explanation;
use tidegate::explain::question::Question;

use super::{HEAD, Proxy, has_fields, line_of, told};
use crate::support::certificates::{ORIGIN, SITE};
use crate::support::pair::{Downstream, Upstream};
use crate::support::tests;
use crate::support::tunnel::{self, Asking, TARGET, TunnelOrigin};

tests! { a_switch_is_explained_as_it_happens, a_switch_that_is_not_allowed_names_its_line }

const SPEAK: [(Downstream, &str); 3] = [(Downstream::H1Tls, "1.1"), (Downstream::H2Tls, "2"), (Downstream::H3, "3")];

/// What came to the origin: method, target, protocol and fields.
type Came = (String, String, String, HeaderMap);

async fn origin(up: Upstream) -> (TunnelOrigin, Rc<RefCell<Vec<Came>>>) {
    let came: Rc<RefCell<Vec<Came>>> = Rc::default();
    let seen = Rc::clone(&came);
    let refuses = async move |asking: Asking| {
        let Asking { method, target, protocol, fields, .. } = &asking;
        seen.borrow_mut().push((method.clone(), target.clone(), protocol.clone(), fields.clone()));
        // A connection of HTTP/1 takes one request here.
        asking.answer(403, "no", if up == Upstream::Http1 { &[("connection", "close")] } else { &[] }).await;
    };
    (TunnelOrigin::start(up, refuses).await, came)
}

fn text(up: Upstream, origin: &TunnelOrigin, route: &str) -> String {
    let tls = format!("tls = {{ server_name = \"{ORIGIN}\", ca = \"@/ca.pem\" }}\n");
    let keys = match up {
        Upstream::Http1 => String::new(),
        Upstream::Http2 => "protocol = \"http2\"\n".to_owned(),
        Upstream::Http2Tls => format!("protocol = \"http2\"\n{tls}"),
        Upstream::Http3 => format!("protocol = \"http3\"\n{tls}"),
    };
    format!(
        "{HEAD}[[route]]\nname = \"talk\"\nupstream = \"one\"\nmethod = \"GET\"\n{route}\n\
         [[route]]\nname = \"own\"\npath = \"/own\"\nrespond = {{ status = 200 }}\n\
         [upstream.one]\nendpoints = [\"{}\"]\ntimeouts = {{ tunnel_idle = \"2m\" }}\n{keys}",
        origin.address()
    )
}

fn explained(text: &str, proxy: &Proxy, http: &str, target: &str, protocol: &str) -> Explanation {
    let question = Question {
        url: format!("https://{SITE}{target}"),
        // As the client of these tests sends it, whatever the protocol.
        headers: [("sec-websocket-version", "13"), ("sec-websocket-key", tunnel::KEY)]
            .iter()
            .filter(|(name, _)| http == "1.1" || !name.ends_with("key"))
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        client: Some("127.0.0.1".into()),
        listener: Some("main".into()),
        http: Some(http.into()),
        upgrade: Some(protocol.into()),
        ..Question::default()
    };
    told(text, &proxy.file(""), &question)
}

async fn a_switch_is_explained_as_it_happens() {
    for up in [Upstream::Http1, Upstream::Http2, Upstream::Http2Tls, Upstream::Http3] {
        let (origin, came) = origin(up).await;
        let text = text(up, &origin, "upgrade = [\"websocket\", \"echo/1\"]");
        let proxy = Proxy::start(&text);
        for (down, http) in SPEAK {
            for protocol in ["websocket", "echo/1"] {
                let told = explained(&text, &proxy, http, TARGET, protocol);
                let case = format!("{protocol} over {http} to {up:?}: {told:#?}");
                let upgrade = told.upgrade.as_ref().unwrap_or_else(|| panic!("{case}"));
                assert!(told.served && upgrade.allowed && upgrade.at.is_some(), "{case}");
                let idle = told.settings.iter().find(|one| one.key == "upstream.one.timeouts.tunnel_idle");
                assert_eq!(idle.map(|idle| &*idle.value), Some("2m"), "{case}");
                let begun = tunnel::begin(proxy.address(), down, protocol, &[]).await;
                assert_eq!(begun.answer().await.status, 403, "{case}");
                let (method, target, spoken, fields) = came.borrow_mut().pop().expect("nothing came");
                let sent = told.upstreams[0].sent.as_ref().unwrap_or_else(|| panic!("{case}"));
                assert_eq!((&*sent.method, &*sent.target), (&*method, &*target), "{case}");
                let upgrade =
                    sent.headers.iter().find(|field| field.name == "upgrade").map(|field| field.value.clone());
                assert_eq!(sent.protocol.clone().or(upgrade), Some(spoken), "{case}");
                assert_eq!(sent.protocol.is_some(), up != Upstream::Http1, "{case}");
                has_fields(sent, &fields, &case);
            }
        }
    }
}

async fn a_switch_that_is_not_allowed_names_its_line() {
    let (origin, came) = origin(Upstream::Http1).await;
    let text = text(Upstream::Http1, &origin, "upgrade = \"other\"");
    let proxy = Proxy::start(&text);
    for (down, http) in SPEAK {
        let told = explained(&text, &proxy, http, TARGET, "websocket");
        let upgrade = told.upgrade.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
        assert!(!upgrade.allowed && upgrade.at.is_some(), "{told:#?}");
        assert!(told.settings.iter().all(|one| !one.key.contains("tunnel_idle")), "{told:#?}");
        let answer = tunnel::ask(proxy.address(), down, &[]).await;
        if down == Downstream::H1Tls {
            // RFC 9110 §7.8: as if it were not there.
            assert!(told.served && answer.status == 403, "{told:#?}");
            let (.., fields) = came.borrow_mut().pop().expect("nothing came");
            has_fields(told.upstreams[0].sent.as_ref().unwrap(), &fields, http);
            continue;
        }
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
        answer.is_fault(refusal.status.unwrap(), &refusal.outcome);
        assert_eq!(refusal.outcome, "request_not_implemented");
        assert!(line_of(&text, &told).starts_with("upgrade ="), "{told:#?}");
        let told = explained(&text, &proxy, http, "/own", "websocket");
        assert!(!told.served && line_of(&text, &told).starts_with("respond ="), "{told:#?}");
    }
}
