//! What `explain` says is what becomes of a request: over configurations and requests made by chance, on every downstream
//! protocol, against the whole program. The seed of a failure is in its message.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};
use tidegate::base::id::Generation;
use tidegate::config::{self, Config};
use tidegate::control::compile::compile_untried;
use tidegate::explain::Explainer;
use tidegate::explain::explanation::{Explanation, Field, Sent as SentOn};
use tidegate::explain::question::Question;
use tidegate::upstream::registry::Registry;

use crate::support::body::Sent;
use crate::support::certificates::{ORIGIN, SITE};
use crate::support::client::{Client, Reply, of};
use crate::support::origin::{Origin, Seen, ok};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::Proxy;
use crate::support::tests;

mod expectations;
mod modes;
mod switches;

tests! { what_is_explained_is_what_happens, a_refusal_names_its_line }

const CONFIGURATIONS: u64 = 20;
const REQUESTS: usize = 5;
/// What becomes of some of them.
const EVERY: [&str; 6] =
    ["forward", "redirect", "respond", "http_request_denied", "destination_not_found", "http_request_error"];

const HEAD: &str = "[server]\nworkers = 1\n[server.access_log]\noutput = \"@/access.log\"\n\
    [[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\nprotocols = [\"http1\", \"http2\", \"http3\"]\n\
    tls.certificates = [{ cert = \"@/site.pem\", key = \"@/site.key\" }]\n";

/// Some of several, by chance.
fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

fn a_route(rng: &mut Rng, number: usize) -> String {
    let mut text = format!("[[route]]\nname = \"r{number}\"\nresponse_headers.set.x-route = \"r{number}\"\n");
    let mut line = |line: &str| text += &format!("{line}\n");
    line(one(
        rng,
        &["", "host = \"example.org\"", "host = \"*.example.org\"", "host = [\"www.example.org\", \"*.org\"]"],
    ));
    let path = one(rng, &["", "/a", "/a/b", "/a/*", "/a/b/*", "/*", "~ ^/a", "~ b$"]);
    if !path.is_empty() {
        line(&format!("path = \"{path}\""));
    }
    line(one(rng, &["", "", "", "method = \"GET\"", "method = [\"POST\", \"PUT\"]"]));
    line(one(rng, &["", "", "", "header = { x-canary = \"yes\" }", "query = { v = \"~ ^[12]$\" }"]));
    line(one(
        rng,
        &[
            "",
            "",
            "",
            "",
            "allow = \"10.0.0.0/8\"",
            "deny = \"127.0.0.1\"",
            "allow = [\"10.0.0.0/8\", \"127.0.0.0/8\"]",
        ],
    ));
    match rng.u8(..8) {
        0 => line("redirect = { to = \"https://new.example{path_and_query}\", status = 307 }"),
        1 => line("respond = { status = 418, body = \"tea\" }"),
        kind => {
            line(match kind {
                2 => "weighted = [{ upstream = \"one\", weight = 3 }, { upstream = \"two\" }]",
                3 | 4 => "upstream = \"two\"",
                _ => "upstream = \"one\"",
            });
            line(match path.strip_suffix("/*") {
                Some("/a" | "/a/b") if rng.bool() => "strip_prefix = \"/a\"",
                Some(_) if rng.bool() => "replace_path = \"/new{rest}\"",
                _ => "",
            });
            line(one(rng, &["", "", "host_header = \"upstream\"", "host_header = \"inner.test\""]));
            line(one(rng, &["", "", "request_headers.remove = [\"x-debug\", \"via\"]"]));
            line(one(
                rng,
                &["", "", "request_headers.set = { x-client = \"{client_ip} {host}{path}\", x-debug = \"0\" }"],
            ));
            line(one(rng, &["", "", "request_headers.add = { x-debug = \"added\" }"]));
            line(one(rng, &["", "", "grpc_web = true"]));
        }
    }
    text
}

/// A configuration without a fault.
fn a_configuration(rng: &mut Rng, upstreams: &str) -> String {
    loop {
        let mut text = HEAD.to_owned();
        text += one(rng, &["", "", "trusted_proxies = [\"127.0.0.0/8\"]\n"]);
        text += one(rng, &["", "", "forwarding.forwarded = true\n", "forwarding.x_forwarded = false\n"]);
        text += one(rng, &["", "", "forwarding.via = \"off\"\n", "forwarding.via = \"gate\"\n"]);
        text += one(rng, &["", "", "request_id = \"off\"\ntraceparent = \"off\"\n", "access_log = false\n"]);
        text += one(rng, &["", "", "", "limits.max_headers = 4\n"]);
        (0..rng.usize(1..6)).for_each(|number| text += &a_route(rng, number));
        text += upstreams;
        if config::parse("test.toml", &text).is_ok() {
            return text;
        }
    }
}

struct Asked {
    method: Method,
    host: &'static str,
    target: &'static str,
    fields: Vec<(&'static str, &'static str)>,
}

fn a_request(rng: &mut Rng) -> Asked {
    let methods = [Method::GET, Method::GET, Method::POST, Method::PUT, Method::HEAD];
    let method = methods[rng.usize(..methods.len())].clone();
    let mut fields = Vec::new();
    if matches!(method, Method::POST | Method::PUT) {
        // As clients write it by themselves.
        fields.push(("content-length", "0"));
    }
    for field in [
        ("x-canary", "yes"),
        ("x-debug", "1"),
        ("x-forwarded-for", "192.0.2.7, 10.0.0.9"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=192.0.2.8"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("content-type", "application/grpc-web+proto"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-request-id", "given-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        if rng.u8(..4) == 0 {
            fields.push(field);
        }
    }
    Asked {
        method,
        host: [SITE, SITE, "www.example.org", "EXAMPLE.org", "other.test"][rng.usize(..5)],
        target: ["/", "/a", "/a/b", "/a/b/c?v=1", "/a//b", "/x?v=3", "/%61/b", "/a/../b", "/ab"][rng.usize(..9)],
        fields,
    }
}

/// Two endpoints under a policy.
fn an_upstream(rng: &mut Rng, name: &str, origins: &[Origin], keys: &str) -> String {
    let endpoints: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    let balance = one(rng, &["round-robin", "random", "least-requests", "p2c-ewma", "ring-hash", "maglev", "maglev"]);
    let hash_on = one(rng, &["client-ip", "sni", "header:x-debug", "cookie:a", "path"]);
    let hash_on = match balance {
        "ring-hash" | "maglev" => format!("hash_on = \"{hash_on}\"\n"),
        _ => String::new(),
    };
    let endpoints = endpoints.join(", ");
    format!("[upstream.{name}]\nendpoints = [{endpoints}]\nbalance = \"{balance}\"\n{hash_on}{keys}")
}

fn explained(text: &str, proxy: &Proxy, asked: &Asked, http: &str) -> Explanation {
    let headers = asked.fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let question = Question {
        method: Some(asked.method.to_string()),
        url: format!("https://{}{}", asked.host, asked.target),
        headers: headers.collect(),
        client: Some("127.0.0.1".into()),
        listener: Some("main".into()),
        http: Some(http.into()),
        sni: Some(SITE.into()),
        ..Question::default()
    };
    told(text, &proxy.file(""), &question)
}

/// What is told of a request; `@` in the text stands for this folder.
fn told(text: &str, folder: &Path, question: &Question) -> Explanation {
    let (config, snapshot) = compiled(text, folder);
    Explainer::new(&snapshot, &config, false).explain(&question.asked().unwrap())
}

fn compiled(text: &str, folder: &Path) -> (Config, Arc<tidegate::snapshot::Snapshot>) {
    let text = text.replace("@/", &format!("{}/", folder.to_str().unwrap().trim_end_matches('/')));
    let config = config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let snapshot = compile_untried(&config, None, &Registry::new(), Generation(1));
    let snapshot = snapshot.unwrap_or_else(|faults| panic!("{faults}"));
    (config, Arc::new(snapshot))
}

async fn what_is_explained_is_what_happens() {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        one.push(Origin::start(Upstream::Http1, ok).await);
        two.push(Origin::start(Upstream::Http2Tls, ok).await);
    }
    let tls = format!("protocol = \"http2\"\ntls = {{ server_name = \"{ORIGIN}\", ca = \"@/ca.pem\" }}\n");
    let upstreams = |rng: &mut Rng| an_upstream(rng, "one", &one, "") + &an_upstream(rng, "two", &two, &tls);
    let named = [("one", &one), ("two", &two)];
    let origins: Vec<(&str, &Origin)> =
        named.iter().flat_map(|(name, origins)| origins.iter().map(move |origin| (*name, origin))).collect();
    let mut rng = Rng::with_seed(0);
    let keys = upstreams(&mut rng);
    let proxy = Proxy::start(&a_configuration(&mut rng, &keys));
    let mut hashed = 0;
    let speaks = [(Downstream::H1Tls, "1.1"), (Downstream::H2Tls, "2"), (Downstream::H3, "3")];
    let mut actions = BTreeMap::<String, usize>::new();
    // What is never met proves nothing: it goes on until everything was.
    let met = |actions: &BTreeMap<String, usize>, hashed| {
        hashed > 5 && EVERY.iter().all(|action| actions.contains_key(*action))
    };
    for seed in 1.. {
        if seed > CONFIGURATIONS && met(&actions, hashed) {
            break;
        }
        assert!(seed < 10 * CONFIGURATIONS, "{hashed} by a hash, {actions:?}");
        let mut rng = Rng::with_seed(seed);
        let keys = upstreams(&mut rng);
        let text = a_configuration(&mut rng, &keys);
        assert!(proxy.reload(&text), "seed {seed}\n{text}");
        for _ in 0..REQUESTS {
            let asked = a_request(&mut rng);
            let (down, http) = speaks[rng.usize(..3)];
            let told = explained(&text, &proxy, &asked, http);
            let before: Vec<usize> = origins.iter().map(|(_, origin)| origin.count()).collect();
            // A refusal may close a connection of HTTP/1.
            let mut client = Client::connect(proxy.address(), down).await;
            let reply = client.call(request(&asked)).await;
            let seen: Vec<Observed<'_>> = origins
                .iter()
                .zip(before)
                .flat_map(|((name, origin), before)| {
                    let seen = origin.seen().split_off(before).into_iter();
                    seen.map(|seen| Observed { upstream: name, endpoint: origin.address().to_string(), seen })
                })
                .collect();
            let case =
                format!("seed {seed}, {http} {} {}{}\n{text}\n{told:#?}", asked.method, asked.host, asked.target);
            hashed += usize::from(agrees(&told, &reply, &seen, &case));
            *actions.entry(told.refusal.map_or(told.action, |refusal| refusal.outcome)).or_default() += 1;
        }
    }
}

fn request(asked: &Asked) -> http::Request<Sent> {
    let mut request = of(asked.method.clone(), asked.target, Sent::empty());
    request.headers_mut().insert(HOST, HeaderValue::from_static(asked.host));
    for (name, value) in &asked.fields {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request
}

/// A request as it came to an endpoint.
struct Observed<'a> {
    upstream: &'a str,
    endpoint: String,
    seen: Seen,
}

/// Whether it went where a hash said.
fn agrees(told: &Explanation, reply: &Reply, observed: &[Observed<'_>], case: &str) -> bool {
    assert_eq!(reply.field("x-route"), told.route.as_ref().map(|route| &*route.name).filter(|_| told.served), "{case}");
    let Some(answer) = &told.answer else {
        assert_eq!(observed.len(), 1, "{case}");
        let Observed { upstream: name, endpoint, seen } = &observed[0];
        let upstream = told.upstreams.iter().find(|upstream| upstream.name == *name);
        let upstream = upstream.unwrap_or_else(|| panic!("{name}: {case}"));
        let endpoints: Vec<_> = upstream.endpoints.iter().map(|one| &one.address).collect();
        assert!(endpoints.contains(&endpoint), "{endpoint}: {case}");
        let hashes = matches!(&*upstream.balance, "ring-hash" | "maglev");
        assert_eq!((upstream.picked.is_some(), upstream.hashed.is_some()), (hashes, hashes), "{case}");
        assert_eq!(upstream.picked.as_ref().unwrap_or(endpoint), endpoint, "{case}");
        let mut sent = upstream.sent.clone().unwrap_or_else(|| panic!("{name}: {case}"));
        if sent.authority_varies {
            assert!(!hashes && endpoints.contains(&&sent.authority), "{case}");
            sent.authority.clone_from(endpoint);
        }
        is_sent(&sent, seen, case);
        return hashes;
    };
    assert!(observed.is_empty(), "{case}");
    assert_eq!(reply.status().as_u16(), answer.status, "{case}");
    for name in ["location", "content-type", "allow", "cache-control"] {
        let field = answer.headers.iter().find(|field| field.name == name).map(|field| &*field.value);
        assert_eq!(reply.field(name), field, "{name}: {case}");
    }
    if let Some(refusal) = &told.refusal {
        let status = reply.field("proxy-status").unwrap_or_default();
        assert!(status.contains(&format!("error={};", refusal.outcome)), "{status}: {case}");
    }
    false
}

fn is_sent(sent: &SentOn, seen: &Seen, case: &str) {
    assert_eq!(seen.uri.path_and_query().map_or("", |target| target.as_str()), sent.target, "{case}");
    let host = seen.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = seen.uri.authority().map(|authority| authority.as_str()).or(host);
    assert_eq!(authority, Some(&*sent.authority), "{case}");
    has_fields(sent, &seen.headers, case);
}

/// Every field that was told of, and no other.
fn has_fields(sent: &SentOn, seen: &HeaderMap, case: &str) {
    let framing = ["host", "content-length", "transfer-encoding"];
    let varies = |name: &str| sent.headers.iter().any(|field| field.name == name && field.varies);
    let shown =
        |name: &str, value: &str| (name.to_owned(), if varies(name) { String::new() } else { value.to_owned() });
    let mut observed: Vec<_> = seen
        .iter()
        .filter(|(name, _)| !framing.contains(&name.as_str()))
        .map(|(name, value)| shown(name.as_str(), value.to_str().unwrap()))
        .collect();
    let field = |field: &Field| shown(&field.name, &field.value);
    let mut explained: Vec<_> =
        sent.headers.iter().filter(|field| !framing.contains(&&*field.name)).map(field).collect();
    observed.sort();
    explained.sort();
    assert_eq!(observed, explained, "{case}");
}

/// The text of the line that a refusal names.
fn line_of(text: &str, told: &Explanation) -> String {
    let at = told.refusal.as_ref().and_then(|refusal| refusal.at.as_ref()).unwrap_or_else(|| panic!("{told:#?}"));
    text.lines().nth(at.line as usize - 1).unwrap().to_owned()
}

async fn a_refusal_names_its_line() {
    let text = format!(
        "{HEAD}limits = {{ max_headers = 9, max_header_size = \"1KiB\", max_body = \"4B\" }}\n\
         forwarding.via = \"gate\"\n\
         [[route]]\nname = \"in\"\nhost = \"example.org\"\nupstream = \"one\"\n\
         deny = \"10.0.0.0/8\"\n\
         allow = [\"127.0.0.2\"]\n\
         [[route]]\nname = \"large\"\nhost = \"example.org\"\npath = \"/large\"\nupstream = \"one\"\n\
         max_body = \"7B\"\n\
         [[route]]\nname = \"small\"\nhost = \"example.org\"\npath = \"/small\"\nupstream = \"one\"\n\
         [upstream.one]\nendpoints = [\"127.0.0.1:9\"]\n"
    );
    let proxy = Proxy::start(&text);
    let told = |target, host, fields: &[(&'static str, &'static str)]| {
        let asked = Asked { method: Method::GET, host, target, fields: fields.to_vec() };
        explained(&text, &proxy, &asked, "1.1")
    };
    let long: &'static str = Box::leak("x".repeat(1200).into_boxed_str());
    let loops: &'static str = Box::leak("1.1 gate, ".repeat(9).into_boxed_str());
    for (told, outcome, line) in [
        (told("/", SITE, &[]), "http_request_denied", "allow ="),
        (told("/", SITE, &[("x", "1"); 9]), "request_header_too_large", "max_headers"),
        (told("/", SITE, &[("x", long)]), "request_header_too_large", "max_header_size"),
        (told("/", SITE, &[("via", loops)]), "proxy_loop_detected", "via"),
        (told("/", "other.test", &[]), "misdirected_request", "certificates"),
        (told("/large", SITE, &[("content-length", "8")]), "request_body_too_large", "max_body = \"7B\""),
        (told("/small", SITE, &[("content-length", "8")]), "request_body_too_large", "max_body = \"4B\""),
    ] {
        assert_eq!(told.refusal.as_ref().map(|refusal| &*refusal.outcome), Some(outcome), "{told:#?}");
        assert!(!told.served && line_of(&text, &told).contains(line), "{}: {told:#?}", line_of(&text, &told));
    }
    let asked = Asked { method: Method::GET, host: SITE, target: "/large", fields: vec![("content-length", "7")] };
    assert!(explained(&text, &proxy, &asked, "1.1").served);
}
