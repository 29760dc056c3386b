//! What is said of listeners that read no requests, of clients that are pointed at a proxy, and of gRPC-Web.

use tidegate::explain::explanation::Explanation;
use tidegate::explain::question::Question;

use super::{HEAD, line_of, told};
use crate::support::certificates::{Files, SITE};
use crate::support::tests;

tests! {
    what_is_relayed_goes_by_its_listener_or_its_hello,
    where_a_client_of_a_proxy_may_go_names_the_entry,
    who_asks_a_proxy_is_looked_at_first,
    grpc_web_is_told_of_as_what_it_becomes,
    what_is_told_of_a_listener_that_nobody_named,
}

const RELAYS: &str = r#"
[[listener]]
name = "pg"
bind = "127.0.0.1:5432"
mode = "tcp"
upstream = "pg"
[[listener]]
name = "pass"
bind = "127.0.0.1:8443"
mode = "tls-passthrough"
[listener.sni]
"db.example.org" = "pg"
"*.example.org" = "sites"
default = "rest"
[[listener]]
name = "strict"
bind = "127.0.0.1:8444"
mode = "tls-passthrough"
sni = { "db.example.org" = "pg" }
[[listener]]
name = "dns"
bind = "127.0.0.1:53"
mode = "udp"
upstream = "rest"
[[listener]]
name = "edge"
bind = "127.0.0.1:4433"
mode = "quic"
tls.certificates = [{ cert = "@/site.pem", key = "@/site.key" }]
[listener.alpn]
"postgres" = "pg"
"tunnel/1" = "sites"
[upstream.pg]
endpoints = ["127.0.0.1:1001"]
[upstream.sites]
endpoints = ["127.0.0.1:1002", "127.0.0.1:1003"]
balance = "maglev"
hash_on = "sni"
[upstream.rest]
endpoints = ["127.0.0.1:1004", "127.0.0.1:1005"]
balance = "ring-hash"
"#;

fn asked(text: &str, url: &str, question: Question) -> Explanation {
    told(text, Files::write().folder(), &Question { url: url.into(), ..question })
}

fn alpn(offered: &[&str]) -> Question {
    Question { alpn: offered.iter().map(|own| (*own).to_owned()).collect(), ..Question::default() }
}

async fn what_is_relayed_goes_by_its_listener_or_its_hello() {
    for (url, question, upstream, line) in [
        ("tcp://127.0.0.1:5432", alpn(&[]), "pg", "upstream = \"pg\""),
        ("tls://db.example.org:8443", alpn(&[]), "pg", "\"db.example.org\" ="),
        ("tls://a.example.org:8443", alpn(&[]), "sites", "\"*.example.org\" ="),
        ("https://a.example.org:8443/x", alpn(&[]), "sites", "\"*.example.org\" ="),
        ("tls://other.test:8443", alpn(&[]), "rest", "default ="),
        ("tls://127.0.0.1:8443", alpn(&[]), "rest", "default ="),
        ("udp://127.0.0.1:53", alpn(&[]), "rest", "upstream = \"rest\""),
        ("quic://example.org:4433", alpn(&["tunnel/1"]), "sites", "\"tunnel/1\" ="),
        // RFC 7301 §3.2: the order is the listener's.
        ("quic://example.org:4433", alpn(&["tunnel/1", "postgres"]), "pg", "\"postgres\" ="),
    ] {
        let told = asked(RELAYS, url, question);
        assert!(told.served && told.action == "relay" && told.refusal.is_none(), "{url}: {told:#?}");
        assert_eq!(told.upstreams.iter().map(|own| &*own.name).collect::<Vec<_>>(), [upstream], "{url}");
        let at = told.listener.as_ref().and_then(|listener| listener.at.as_ref()).unwrap();
        let written = RELAYS.lines().nth(at.line as usize - 1).unwrap();
        assert!(written.starts_with(line), "{url}: {written}");
        let own = &told.upstreams[0];
        assert_eq!(own.picked.is_some(), upstream != "pg", "{url}: {told:#?}");
        assert_eq!(own.protocol, if url.starts_with("udp") { "udp" } else { "tcp" }, "{url}");
        assert!(own.sent.is_none() && told.answer.is_none() && told.certificate.is_some() == url.starts_with("quic"));
    }
    // One key leads to one endpoint, whoever asks.
    let picked = |client: &str, url: &str| {
        let question = Question { client: Some(client.into()), ..Question::default() };
        asked(RELAYS, url, question).upstreams[0].picked.clone().unwrap()
    };
    let name = "tls://a.example.org:8443";
    assert_eq!(picked("192.0.2.1", name), picked("192.0.2.77", name));
    let clients: std::collections::HashSet<_> =
        (0..16).map(|host| picked(&format!("192.0.2.{host}"), "udp://127.0.0.1:53")).collect();
    assert_eq!(clients.len(), 2, "{clients:?}");
    for (url, outcome, line) in [
        ("tls://other.test:8444", "destination_not_found", "sni ="),
        ("quic://example.org:4433", "tls_protocol_error", "[listener.alpn]"),
    ] {
        let told = asked(RELAYS, url, Question::default());
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
        assert_eq!((&*refusal.outcome, refusal.status, told.served), (outcome, None, false), "{told:#?}");
        assert!(line_of(RELAYS, &told).starts_with(line), "{url}: {}", line_of(RELAYS, &told));
    }
}

async fn what_is_told_of_a_listener_that_nobody_named() {
    for (url, word) in [
        ("http://127.0.0.1:5432/", "has mode `tcp`"),
        ("tls://127.0.0.1:53", "has mode `udp`"),
        ("tcp://127.0.0.1:9", "no listener accepts port 9"),
        ("http://example.org/", "no listener takes http"),
    ] {
        let told = asked(RELAYS, url, Question::default());
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
        assert!(refusal.outcome == "no_listener" && refusal.reason.contains(word), "{url}: {}", refusal.reason);
        assert_eq!(told.other_listeners.len(), 5, "{url}");
    }
}

const PROXY: &str = r#"
[server.observe]
bind = "127.0.0.1:9900"
[[listener]]
name = "out"
bind = "127.0.0.1:3128"
mode = "forward"
limits.max_body = "4B"
[listener.forward]
allow = [
  "*.example.org:443",
  "*:80",
  "127.0.0.0/8:1024-65535",
  "10.0.0.0/8:5432",
]
deny = [
  "*.ads.example.org:*",
  "127.0.0.3:*",
]
timeouts = { response = "7s" }
[[listener]]
name = "members"
bind = "127.0.0.1:3129"
mode = "forward"
forward.allow = "*:443"
forward.users = "@/users"
"#;

fn by(listener: &str) -> Question {
    Question { listener: Some(listener.into()), ..Question::default() }
}

async fn where_a_client_of_a_proxy_may_go_names_the_entry() {
    for (url, action, method, line) in [
        ("https://a.example.org/x", "tunnel", "CONNECT", "\"*.example.org:443\""),
        ("wss://a.example.org/x", "tunnel", "CONNECT", "\"*.example.org:443\""),
        ("http://a.test/x?y", "forward", "GET", "\"*:80\""),
        ("http://127.0.0.1:8080/", "forward", "GET", "\"127.0.0.0/8:1024-65535\""),
        ("tcp://10.1.2.3:5432", "tunnel", "CONNECT", "\"10.0.0.0/8:5432\""),
        ("tls://db.test:5432", "tunnel", "CONNECT", "allow ="),
    ] {
        for http in ["1.1", "2"] {
            let told = asked(PROXY, url, Question { http: Some(http.into()), ..by("out") });
            assert!(told.served && told.refusal.is_none(), "{url}: {told:#?}");
            assert_eq!((&*told.action, &*told.request.method), (action, method), "{url}");
            let access = told.access.as_ref().unwrap();
            let written = PROXY.lines().nth(access.at.as_ref().unwrap().line as usize - 1).unwrap();
            assert!(access.allowed && written.trim_start().starts_with(line), "{url}: {written}");
            let sent = told.upstreams[0].sent.as_ref();
            assert_eq!(sent.is_some(), action == "forward", "{url}");
            let has = |key: &str| told.settings.iter().any(|one| one.key == format!("listener.forward.timeouts.{key}"));
            assert_eq!((has("response"), has("tunnel_idle")), (action == "forward", action == "tunnel"), "{url}");
        }
    }
    for (http, method) in [("1.1", "GET"), ("2", "CONNECT")] {
        let asked = |url: &str, upgrade: Option<&str>| {
            let upgrade = upgrade.map(str::to_owned);
            asked(PROXY, url, Question { http: Some(http.into()), upgrade, ..by("out") })
        };
        let path = "https://proxy.test/.well-known/masque/udp/a.example.org/443/";
        for told in [asked("udp://a.example.org:443", None), asked(path, Some("connect-udp"))] {
            assert!(told.served && told.refusal.is_none(), "{told:#?}");
            assert_eq!((&*told.action, &*told.request.method, &*told.upstreams[0].protocol), ("tunnel", method, "udp"));
            assert_eq!(told.upstreams[0].endpoints[0].address, "a.example.org:443");
            assert!(told.settings.iter().any(|one| one.key == "listener.forward.timeouts.tunnel_idle"));
        }
        for (url, outcome) in [
            ("udp://a.example.org:53", "http_request_denied"),
            ("udp://[::1]:53", "destination_ip_prohibited"),
            ("udp://127.0.0.1:9900", "destination_ip_prohibited"),
            ("udp://a.example.org", "http_request_error"),
        ] {
            let told = asked(url, None);
            assert_eq!(told.refusal.as_ref().map(|refusal| &*refusal.outcome), Some(outcome), "{url}: {told:#?}");
        }
    }
    let fields = [("proxy-authorization", "Basic eA=="), ("proxy-connection", "keep-alive"), ("x-mine", "1")];
    let headers = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let told = asked(PROXY, "http://a.test/x?y", Question { headers, ..by("out") });
    let sent = told.upstreams[0].sent.as_ref().unwrap();
    assert_eq!((&*sent.target, &*sent.authority, &*told.upstreams[0].name), ("/x?y", "a.test", "forward:out"));
    assert_eq!(sent.headers.iter().map(|field| &*field.name).collect::<Vec<_>>(), ["x-mine", "via"]);
    assert_eq!(
        sent.removed.iter().map(|field| &*field.name).collect::<Vec<_>>(),
        ["proxy-authorization", "proxy-connection"]
    );
    for (url, outcome, line) in [
        ("https://x.ads.example.org/", "http_request_denied", "\"*.ads.example.org:*\""),
        ("http://127.0.0.3/", "destination_ip_prohibited", "\"127.0.0.3:*\""),
        ("http://192.168.0.1/", "destination_ip_prohibited", "allow ="),
        ("https://8.8.8.8/", "http_request_denied", "allow ="),
        ("tcp://a.example.org:22", "http_request_denied", "allow ="),
        ("http://127.0.0.1:9900/", "destination_ip_prohibited", "bind = \"127.0.0.1:9900\""),
        ("http://127.0.0.1:3129/", "proxy_loop_detected", "[[listener]]"),
    ] {
        let told = asked(PROXY, url, by("out"));
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{url}: {told:#?}"));
        assert!(!told.served && refusal.outcome == outcome, "{url}: {told:#?}");
        let written = line_of(PROXY, &told);
        assert!(written.trim_start().starts_with(line), "{url}: {written}");
        assert_eq!(refusal.otherwise, "", "{url}: a line decided it");
        assert_eq!(told.answer.as_ref().map(|answer| answer.status), refusal.status, "{url}");
    }
    let long = vec![("content-length".to_owned(), "5".to_owned())];
    let question = Question { method: Some("POST".into()), headers: long, ..by("out") };
    let told = asked(PROXY, "http://a.test/", question);
    assert!(!told.served && line_of(PROXY, &told).starts_with("limits.max_body"), "{told:#?}");
    for url in ["http://127.1/", "tcp://a.example.org", "http://0x7f.1/"] {
        let told = asked(PROXY, url, by("out"));
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{url}: {told:#?}"));
        assert_eq!((&*refusal.outcome, &refusal.at), ("http_request_error", &None), "{url}");
        assert!(refusal.otherwise.starts_with("the request itself"), "{url}: {}", refusal.otherwise);
    }
}

async fn who_asks_a_proxy_is_looked_at_first() {
    let says = |name: &str| {
        use base64::Engine as _;
        let words = base64::engine::general_purpose::STANDARD.encode(format!("{name}:whatever"));
        vec![("proxy-authorization".to_owned(), format!("Basic {words}"))]
    };
    let told = asked(PROXY, "https://a.test/", by("members"));
    assert!(told.served && told.request.assumed.iter().any(|word| word == "user"), "{told:#?}");
    let told = asked(PROXY, "https://a.test/", Question { headers: says("ann"), ..by("members") });
    assert!(told.served && told.notes.iter().any(|note| note.starts_with("ann is a user")), "{told:#?}");
    // A stranger learns nothing of the rules.
    for url in ["https://a.test/", "http://127.0.0.1/"] {
        let told = asked(PROXY, url, Question { headers: says("eve"), ..by("members") });
        let refusal = told.refusal.as_ref().unwrap_or_else(|| panic!("{told:#?}"));
        assert_eq!((&*refusal.outcome, refusal.status), ("proxy_authentication_required", Some(407)));
        assert!(line_of(PROXY, &told).starts_with("forward.users"), "{told:#?}");
        let answer = told.answer.as_ref().unwrap();
        assert!(answer.headers.iter().any(|field| field.name == "proxy-authenticate"), "{told:#?}");
    }
}

async fn grpc_web_is_told_of_as_what_it_becomes() {
    let text = format!(
        "{HEAD}[[route]]\nname = \"web\"\npath = \"/web.Service/*\"\ngrpc_web = true\nupstream = \"one\"\n\
         [[route]]\nname = \"plain\"\nupstream = \"one\"\nbuffer = {{ response = \"64KiB\" }}\n\
         [upstream.one]\nendpoints = [\"127.0.0.1:9\"]\nprotocol = \"http2\"\n"
    );
    let ask = |path: &str| {
        let headers = [("content-type", "application/grpc-web-text+proto"), ("x-grpc-web", "1")];
        let question = Question {
            method: Some("POST".into()),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..Question::default()
        };
        asked(&text, &format!("https://{SITE}{path}"), question)
    };
    let told = ask("/web.Service/Call");
    let sent = told.upstreams[0].sent.as_ref().unwrap();
    let field = |name: &str| sent.headers.iter().find(|field| field.name == name);
    let kind = field("content-type").unwrap();
    assert_eq!((&*kind.value, &*kind.by), ("application/grpc+proto", "grpc_web"), "{sent:#?}");
    let at = kind.at.as_ref().unwrap();
    assert!(text.lines().nth(at.line as usize - 1).unwrap().starts_with("grpc_web"), "{sent:#?}");
    assert_eq!(field("te").map(|te| &*te.value), Some("trailers"), "{sent:#?}");
    let told = ask("/other");
    let sent = told.upstreams[0].sent.as_ref().unwrap();
    let kind = sent.headers.iter().find(|field| field.name == "content-type").unwrap();
    assert_eq!((&*kind.value, &*kind.by), ("application/grpc-web-text+proto", "client"));
    // What is read ahead is in force as well.
    let ahead = |key: &str| told.settings.iter().find(|one| one.key == key).map(|one| (&*one.value, one.at.is_some()));
    assert_eq!(ahead("route.buffer.response"), Some(("64KiB", true)));
    assert_eq!(ahead("route.buffer.request"), Some(("nothing", false)));
}
