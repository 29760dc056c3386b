//! The files in `config/`, and files that include others.

use std::path::Path;

use tidegate::config::reference::reference;
use tidegate::config::{self, Config, model};

use crate::keys::without_places;

fn load(path: &str) -> Config {
    config::load(Path::new(path)).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = load("config/minimal.toml");
    assert_eq!(config.listeners[0].binds, [model::Bind::AnyAddress(8080)]);
    assert_eq!(&*config.listeners[0].name, ":8080");
    assert_eq!(&*config.routes[0].name, "*/*");
    assert_eq!(config.upstreams[0].timeouts.connect, config::defaults::CONNECT_TIMEOUT);
    assert_eq!(config.files, [Path::new("config/minimal.toml")]);
}

#[test]
fn the_example_loads_without_its_certificates() {
    let config = load("config/example.toml");
    let tls = config.listeners[1].tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].cert, Path::new("config/../certs/example.org.pem"));
    let summary = config::summary(&config);
    assert!(summary.lines().all(|line| line == line.trim_end()), "{summary}");
    for words in ["api.example.org", "-> stable 95%, next 5%", "retry 2 on", "max_body 10MiB", "unix:/run/tools.sock"] {
        assert!(summary.contains(words), "{words}\n{summary}");
    }
}

#[test]
fn the_two_sides_of_the_tunnel_fit_together() {
    let (near, far) = (load("config/tunnel-near.toml"), load("config/tunnel-far.toml"));
    let model::Mode::Quic(protocols) = &far.listeners[0].mode else { panic!("no QUIC on the far side") };
    for listener in &near.listeners {
        let model::Mode::Tcp { upstream, as_streams: true } = listener.mode else { panic!("{:?}", listener.mode) };
        let upstream = &near.upstreams[upstream];
        let wanted = upstream.alpn.as_deref();
        assert!(protocols.iter().any(|(protocol, _)| Some(&**protocol) == wanted), "{wanted:?} is not served");
        assert!(upstream.tls.as_ref().is_some_and(|tls| tls.client_identity.is_some()), "{}", upstream.name);
    }
}

#[test]
fn the_demo_takes_its_addresses_from_outside() {
    load("config/forward.toml");
    let text = include_str!("../../config/demo.toml");
    let origin = |name: &str| (name == "TIDEGATE_DEMO_ORIGIN").then(|| "127.0.0.1:1234".to_owned());
    let config = config::parse_with("demo.toml", text, &origin).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config::summary(&config).contains("127.0.0.1:1234"));
    load("config/demo.toml");
}

#[test]
fn the_reference_is_what_the_code_says() {
    let made = config::reference::reference();
    let path = Path::new("config/reference.toml");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(made == committed, "config/reference.toml is stale: UPDATE_REFERENCE=1 cargo test --test config");
    assert!(made.lines().all(|line| line.chars().count() <= 120));
}

#[test]
fn the_reference_stands_for_the_defaults() {
    let reference = load("config/reference.toml");
    let minimal = load("config/minimal.toml");
    assert_eq!(crate::keys::without_places(&reference), crate::keys::without_places(&minimal));
}

#[test]
fn includes_are_merged_in_byte_order_behind_the_file_that_names_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    std::fs::create_dir(directory.path().join("sites")).unwrap();
    write("main.toml", "include = [\"sites/*.toml\", \"more.toml\"]\n[[listener]]\nbind = \":0\"\n");
    write("more.toml", "include = \"main.toml\"\n[[route]]\nname = \"more\"\npath = \"/more\"\nupstream = \"app\"\n");
    write("sites/b.toml", "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"app\"\n");
    write("sites/B.toml", "[[route]]\nname = \"B\"\npath = \"/B\"\nupstream = \"app\"\n");
    write("sites/a.toml", "[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\ntls = { ca = \"ca.pem\" }\n");
    let main = directory.path().join("main.toml");
    let config = config::load(&main).unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<_> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["B", "b", "more"]);
    assert_eq!(config.files.len(), 5);
    let ca = config.upstreams[0].tls.as_ref().unwrap().ca.clone().unwrap();
    assert_eq!(ca, directory.path().join("sites/ca.pem"));
    assert_eq!(&*config.routes[0].place.file, directory.path().join("sites/B.toml").to_str().unwrap());

    write("sites/c.toml", "[server]\nworkers = 1\n[upstream.app]\nendpoints = [\"127.0.0.1:2\"]\n");
    write(
        "main.toml",
        "include = [\"sites/*.toml\", \"gone.toml\"]\n[server]\nworkers = 2\n[[listener]]\nbind = \":0\"\n",
    );
    let faults = config::load(&main).unwrap_err();
    let text = faults.render(false).replace(&*directory.path().to_string_lossy(), "");
    assert_eq!(faults.len(), 3, "{text}");
    assert!(text.contains("cannot read /gone.toml"), "{text}");
    assert!(text.contains("`[server]` appears in two files\n --> /sites/c.toml:1:1\n"), "{text}");
    assert!(text.contains("upstream `app` is defined twice\n --> /sites/c.toml:3:11\n"), "{text}");
    assert!(text.contains("::: /sites/a.toml:1:11\n"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let faults = config::load(Path::new("no/such/file.toml")).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults.to_string().starts_with("error: cannot read no/such/file.toml"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(config::load(&path).unwrap_err().to_string().contains("line 2 is not UTF-8"));
}

#[test]
fn listeners_on_ports_of_the_systems_choice_need_no_names() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let config = config::parse("x.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<_> = config.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["127.0.0.1:0", "127.0.0.1:0#2"]);
}

#[test]
fn routes_without_a_name_get_one_that_stays() {
    let text = "[[listener]]\nbind = \":0\"\n\
        [[route]]\nrespond = {}\n\
        [[route]]\nhost = [\"a.org\", \"b.org\"]\npath = \"/v1/*\"\nmethod = [\"POST\", \"GET\"]\nrespond = {}\n\
        [[route]]\nhost = \"*.a.org\"\nheader = { x = \"~ y\" }\nquery = { q = \"z\" }\nrespond = {}\n\
        [[route]]\nhost = [\"a.org\", \"c.org\"]\npath = \"/v1/*\"\nmethod = [\"POST\", \"GET\"]\nrespond = {}\n";
    let config = config::parse("x.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<_> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["*/*", "a.org+1/v1/*[GET,POST]", "*.a.org/*[?q=z,x=~y]", "a.org+1/v1/*[GET,POST]#2"]);
}

#[test]
fn variables_are_put_into_strings_before_they_are_read() {
    let text = "[[listener]]\nbind = \":${PORT}\"\ntimeouts.max_age = \"${AGE:-off}\"\nname = \"$${PORT}\"\n\
        [[route]]\nupstream = \"a\"\n[upstream.a]\nendpoints = [\"${HOST:-127.0.0.1}:80\", \"${GONE}\"]\n";
    let lookup = |name: &str| (name == "PORT").then(|| "8080".to_owned());
    let faults = config::parse_with("x.toml", text, &lookup).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults}");
    let place = &faults.iter().next().unwrap().excerpt.as_ref().unwrap().place;
    assert_eq!((place.line, place.column), (8, 40));
    let config = config::parse_with("x.toml", &text.replace(", \"${GONE}\"", ""), &lookup).unwrap();
    assert_eq!(config.listeners[0].binds, [model::Bind::AnyAddress(8080)]);
    assert_eq!(&*config.listeners[0].name, "${PORT}");
}

#[test]
fn what_is_in_force_is_shown_as_a_file_that_means_the_same() {
    let example = std::fs::read_to_string("config/example.toml").unwrap();
    let more = "[[listener]]\nbind = [\":80\", \"unix:/x y\"]\nsocket.keepalive = \"off\"\n\
                [[route]]\nheader = { \"x-1\" = \"~ a\\\\d\\\"\" }\nweighted = [{ upstream = \"a.b\", weight = 3 }, { upstream = \"c\" }]\n\
                request_headers.set = { x-a = \"ü\\t{{{host}\" }\nretry = { on = [\"503\"] }\n\
                [upstream.\"a.b\"]\nendpoints = [{ address = \"10.0.0.1:1\", weight = 2 }, \"dns:x:1\"]\ntls = true\n\
                [upstream.c]\nendpoints = [\"unix:/s\"]\ntls = { server_name = \"x\", insecure = true }\n";
    let relayed = "[[listener]]\nbind = \":1\"\nmode = \"tcp\"\nupstream = \"a\"\nproxy_protocol = \"require\"\n\
                   trusted_proxies = \"10.0.0.0/8\"\n\
                   [[listener]]\nbind = \":2\"\nmode = \"tcp\"\nupstream = \"a\"\ntimeouts.idle = \"60s\"\n\
                   [[listener]]\nbind = \":3\"\nmode = \"tls-passthrough\"\nsni = { \"*.x.org\" = \"a\", default = \"a\" }\n\
                   alpn = { \"acme-tls/1\" = \"b\" }\n\
                   [[listener]]\nbind = \":3\"\nname = \"q\"\nmode = \"udp\"\nsni.\"x.org\" = \"c\"\n\
                   [[listener]]\nbind = \":4\"\nmode = \"udp\"\nupstream = \"c\"\ntimeouts.idle = \"5s\"\n\
                   [upstream.a]\nendpoints = \"10.0.0.1:1\"\nhealth.interval = \"300ms\"\noutlier = {}\nsource = \"10.0.0.9\"\n\
                   [upstream.b]\nendpoints = \"unix:/s\"\nbalance = \"maglev\"\nhash_on = \"sni\"\n\
                   [upstream.c]\nendpoints = \"10.0.0.1:1\"\nsend_proxy_protocol = \"v2\"\n";
    for text in [reference(), example, more.to_owned(), relayed.to_owned()] {
        let before = config::parse("config.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
        let shown = before.written.toml();
        let after = config::parse("config.toml", &shown).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(without_places(&before), without_places(&after), "{shown}");
        assert_eq!(shown, after.written.toml());
    }
}
