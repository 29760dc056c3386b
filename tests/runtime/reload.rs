//! Files that change under a proxy that runs: what is put in force by itself, what is told, and certificates that are
//! swapped in without a reload.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
};
use tempfile::TempDir;
use tidegate::app::{self, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config;
use tidegate::control::reload::Refused;
use tidegate::transport::tls::development::{Authority, make_authority, make_leaf};

use crate::support::{Client, PATIENCE, eventually};

/// A proxy with its files, in a folder of its own.
struct Gate {
    folder: TempDir,
    running: Running,
}

/// A folder before anything was started in it.
fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

impl Gate {
    fn start(folder: TempDir, main: &str) -> Self {
        let path = folder.path().join(main);
        let config = config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        let options = Options { config_path: Some(path), ..Options::default() };
        let running = app::start(config, options).unwrap_or_else(|refused| panic!("{refused}"));
        Self { folder, running }
    }

    fn serving(text: &str) -> Self {
        let folder = folder();
        std::fs::write(folder.path().join("tidegate.toml"), text).unwrap();
        Self::start(folder, "tidegate.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// As most editors save.
    fn replace(&self, name: &str, text: &str) {
        self.write(".saving~", text);
        std::fs::rename(self.path(".saving~"), self.path(name)).unwrap();
    }

    /// Whether this becomes the generation in force, after so many reloads that were refused. A worker answers by it a
    /// moment before it is counted.
    fn comes_to(&self, generation: u64, failures: u64) -> bool {
        eventually(|| self.generation() == generation) && self.failures() == failures
    }

    fn generation(&self) -> u64 {
        self.running.control_counters().generation.value()
    }

    fn failures(&self) -> u64 {
        self.running.control_counters().reload_failures.value()
    }

    fn swaps(&self) -> u64 {
        self.running.control_counters().certificate_swaps.value()
    }

    fn address(&self) -> SocketAddr {
        let Some(Address::Socket(address)) = self.running.address_of("web") else { panic!("no listener") };
        address
    }

    fn answers(&self, body: &str) -> bool {
        eventually(|| Client::at(self.address()).get("/").body == body)
    }
}

fn answering(text: &str) -> String {
    format!(
        "[server]\nworkers = 1\nwatch = true\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"all\"\nrespond = {{ body = \"{text}\" }}\n"
    )
}

#[test]
fn a_saved_file_is_put_in_force_and_open_connections_see_it() {
    let gate = Gate::serving(&answering("one"));
    let mut open = Client::at(gate.address());
    assert_eq!(open.get("/").body, "one");
    gate.replace("tidegate.toml", &answering("two"));
    assert!(gate.answers("two"));
    assert_eq!(open.get("/").body, "two");
    gate.write("tidegate.toml", &answering("three"));
    assert!(gate.answers("three"));
    assert!(gate.comes_to(3, 0));
}

#[test]
fn a_file_that_says_what_is_in_force_is_no_reload() {
    let gate = Gate::serving(&answering("one"));
    gate.replace("tidegate.toml", &answering("one"));
    gate.replace("tidegate.toml", &format!("{}# a remark\n", answering("one")));
    // Whatever comes of those came before this.
    gate.running.reload_file().unwrap();
    gate.replace("tidegate.toml", &answering("two"));
    assert!(gate.answers("two"));
    assert!(gate.comes_to(3, 0), "one that was asked for, one by the watch");
}

#[test]
fn without_watch_a_file_waits_to_be_asked_for() {
    let gate = Gate::serving(&answering("one").replace("watch = true", "watch = false"));
    gate.replace("tidegate.toml", &answering("two"));
    let report = gate.running.reload_file().unwrap();
    assert_eq!(report.changes, ["server: watch false -> true", "route all: respond"]);
    // From now on it is watched.
    gate.replace("tidegate.toml", &answering("three"));
    assert!(gate.answers("three"));
    assert!(gate.comes_to(3, 0));
}

#[test]
fn a_fault_changes_nothing_is_counted_once_and_its_mending_is_seen() {
    let gate = Gate::serving(&answering("one"));
    gate.replace("tidegate.toml", &answering("two").replace("respond", "respnod"));
    assert!(eventually(|| gate.failures() == 1));
    assert_eq!(Client::at(gate.address()).get("/").body, "one");
    let Err(Refused::Faults(faults)) = gate.running.reload_file() else { panic!("it was taken") };
    let places = faults.iter().map(|fault| fault.excerpt.as_ref().unwrap().place.clone());
    assert!(places.into_iter().any(|place| (place.line, place.column) == (9, 1)), "{faults}");
    assert_eq!(gate.failures(), 2, "who asks is told each time");
    gate.replace("tidegate.toml", &answering("three"));
    assert!(gate.answers("three"));
    assert!(gate.comes_to(2, 2));
}

#[test]
fn a_certificate_that_comes_after_the_file_that_names_it_is_waited_for() {
    let gate = Gate::serving(&answering("one"));
    let more = "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\n\
                tls.certificates = [{ cert = \"more.pem\", key = \"more.key\" }]\n";
    gate.replace("tidegate.toml", &format!("{}{more}", answering("two")));
    assert!(eventually(|| gate.failures() > 0));
    assert_eq!(gate.generation(), 1);
    write_pair(gate.folder.path(), "more", &["more.test"], &make_authority().unwrap());
    assert!(gate.answers("two"));
    assert!(eventually(|| gate.running.address_of("more").is_some()));
}

#[test]
fn included_files_come_and_go() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("sites")).unwrap();
    let main = answering("one").replace("[server]", "include = \"sites/*.toml\"\n[server]");
    std::fs::write(folder.path().join("tidegate.toml"), main).unwrap();
    let gate = Gate::start(folder, "tidegate.toml");
    assert_eq!(Client::at(gate.address()).get("/site").body, "one");
    gate.replace("sites/a.toml", "[[route]]\npath = \"/site\"\nrespond = { body = \"a\" }\n");
    assert!(eventually(|| Client::at(gate.address()).get("/site").body == "a"));
    gate.replace("sites/a.toml", "[[route]]\npath = \"/site\"\nrespond = { body = \"b\" }\n");
    assert!(eventually(|| Client::at(gate.address()).get("/site").body == "b"));
    std::fs::remove_file(gate.path("sites/a.toml")).unwrap();
    assert!(eventually(|| Client::at(gate.address()).get("/site").body == "one"));
    assert_eq!(gate.failures(), 0);
}

#[test]
fn a_new_token_of_the_admin_listener_is_asked_for() {
    let folder = folder();
    std::fs::write(folder.path().join("token"), "old-token-of-some-length\n").unwrap();
    let own = "[server.admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\"\n[[listener]]";
    std::fs::write(folder.path().join("tidegate.toml"), answering("one").replace("[[listener]]", own)).unwrap();
    let gate = Gate::start(folder, "tidegate.toml");
    let status = |token: &str| {
        let Some(Address::Socket(address)) = gate.running.own_address("admin") else { panic!("no address") };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /healthz HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].parse::<u16>().unwrap()
    };
    assert_eq!((status("old-token-of-some-length"), status("new-token-of-some-length")), (200, 401));
    gate.replace("token", "new-token-of-some-length\n");
    assert!(eventually(|| status("new-token-of-some-length") == 200));
    assert_eq!(status("old-token-of-some-length"), 401);
}

/// A mount as the kubelet makes it: files are links through `..data`, which is swapped as a whole.
struct Mount<'a> {
    folder: &'a Path,
    nth: AtomicU64,
}

impl<'a> Mount<'a> {
    fn at(folder: &'a Path) -> Self {
        Self { folder, nth: AtomicU64::new(0) }
    }

    fn update(&self, write: impl FnOnce(&Path)) {
        let name = format!("..2026_11_23.{}", self.nth.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(self.folder.join(&name)).unwrap();
        write(&self.folder.join(&name));
        let before = std::fs::read_link(self.folder.join("..data"));
        symlink(&name, self.folder.join("..data_tmp")).unwrap();
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
        for entry in std::fs::read_dir(self.folder.join(&name)).unwrap() {
            let file = entry.unwrap().file_name();
            let _ = symlink(Path::new("..data").join(&file), self.folder.join(&file));
        }
        if let Ok(before) = before {
            std::fs::remove_dir_all(self.folder.join(before)).unwrap();
        }
    }
}

#[test]
fn a_configmap_that_is_swapped_is_put_in_force() {
    let folder = folder();
    let root = folder.path().to_owned();
    let mount = Mount::at(&root);
    let put = |text: &str| {
        mount.update(|folder| std::fs::write(folder.join("tidegate.toml"), answering(text)).unwrap());
    };
    put("one");
    let gate = Gate::start(folder, "tidegate.toml");
    for text in ["two", "three", "four"] {
        put(text);
        assert!(gate.answers(text));
    }
    assert!(gate.comes_to(4, 0));
}

fn write_pair(folder: &Path, name: &str, hosts: &[&str], authority: &Authority) {
    let leaf = make_leaf(hosts, authority).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), leaf.cert_pem).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), leaf.key_pem).unwrap();
}

fn leaf_in(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// A client that speaks TLS and trusts one authority.
fn tls_client(address: SocketAddr, authority: &Authority) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("a.test").unwrap()).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, socket)
}

/// One request; gives the leaf that the other side showed.
fn ask(client: &mut StreamOwned<ClientConnection, TcpStream>) -> CertificateDer<'static> {
    client.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    read_head(client);
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

fn read_head<C, D>(stream: &mut StreamOwned<C, TcpStream>) -> String
where
    C: std::ops::DerefMut<Target = ConnectionCommon<D>> + Into<Connection>,
    D: rustls::SideData,
{
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0] as char);
    }
    head
}

fn with_tls(watch: bool) -> String {
    format!(
        "[server]\nworkers = 2\nwatch = {watch}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         tls.certificates = [{{ cert = \"a.pem\", key = \"a.key\" }}]\n[[route]]\nrespond.status = 204\n"
    )
}

fn secure(watch: bool, authority: &Authority) -> Gate {
    let folder = folder();
    write_pair(folder.path(), "a", &["a.test"], authority);
    std::fs::write(folder.path().join("tidegate.toml"), with_tls(watch)).unwrap();
    Gate::start(folder, "tidegate.toml")
}

#[test]
fn new_certificates_are_met_without_a_reload_and_open_connections_live() {
    for watch in [false, true] {
        let authority = make_authority().unwrap();
        let gate = secure(watch, &authority);
        let old = leaf_in(&gate.path("a.pem"));
        let mut open = tls_client(gate.address(), &authority);
        assert_eq!(ask(&mut open), old);

        write_pair(gate.folder.path(), "a", &["a.test"], &authority);
        let new = leaf_in(&gate.path("a.pem"));
        assert!(eventually(|| ask(&mut tls_client(gate.address(), &authority)) == new));
        assert_eq!(ask(&mut open), old, "the connection is the one that was open");
        assert!(eventually(|| gate.swaps() == 1) && gate.generation() == 1);
        assert!(gate.running.reload_file().unwrap().changes == ["nothing changed"], "it is in use already");
    }
}

#[test]
fn a_watch_over_certificates_alone_reloads_nothing() {
    let authority = make_authority().unwrap();
    let gate = secure(false, &authority);
    gate.replace("tidegate.toml", &with_tls(false).replace("204", "202"));
    write_pair(gate.folder.path(), "a", &["a.test"], &authority);
    // Taken by a reload it would not be counted as swapped.
    assert!(eventually(|| gate.swaps() == 1));
    assert_eq!(gate.generation(), 1);
}

#[test]
fn a_secret_that_is_swapped_is_met() {
    let authority = make_authority().unwrap();
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    let mount = Mount::at(&secret);
    let put = || mount.update(|folder| write_pair(folder, "a", &["a.test"], &authority));
    put();
    let text = with_tls(false).replace("a.pem", "secret/a.pem").replace("a.key", "secret/a.key");
    std::fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    let gate = Gate::start(folder, "tidegate.toml");
    for swaps in 1..=2 {
        put();
        let new = leaf_in(&secret.join("a.pem"));
        assert!(eventually(|| ask(&mut tls_client(gate.address(), &authority)) == new));
        assert!(eventually(|| gate.swaps() == swaps) && gate.generation() == 1);
    }
}

#[test]
fn a_pair_that_does_not_fit_is_told_once_and_met_when_it_does() {
    let authority = make_authority().unwrap();
    let gate = secure(false, &authority);
    let old = leaf_in(&gate.path("a.pem"));
    let leaf = make_leaf(&["a.test"], &authority).unwrap();
    let failures = || gate.running.control_counters().certificate_failures.value();
    gate.replace("a.pem", &leaf.cert_pem);
    assert!(eventually(|| failures() == 1));
    assert_eq!(ask(&mut tls_client(gate.address(), &authority)), old);
    gate.replace("a.key", &leaf.key_pem);
    let new = leaf_in(&gate.path("a.pem"));
    assert!(eventually(|| ask(&mut tls_client(gate.address(), &authority)) == new));
    assert!(eventually(|| gate.swaps() == 1) && failures() == 1);
}

/// Speaks HTTP/1.1 over TLS and answers whatever comes; counts its connections.
fn tls_origin(authority: &Authority) -> (SocketAddr, Arc<AtomicU64>) {
    let leaf = make_leaf(&["origin.test"], authority).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            std::thread::spawn(move || {
                while read_head(&mut stream).ends_with("\r\n\r\n") {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

#[test]
fn connections_to_endpoints_do_not_outlive_the_authority_they_were_made_under() {
    let (trusted, other) = (make_authority().unwrap(), make_authority().unwrap());
    for by_reload in [false, true] {
        let (origin, connections) = tls_origin(&trusted);
        let folder = folder();
        std::fs::write(folder.path().join("ca.pem"), &trusted.cert_pem).unwrap();
        let text = format!(
            "[server]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
             retry.attempts = 0\n[upstream.app]\nendpoints = \"{origin}\"\n\
             tls = {{ ca = \"ca.pem\", server_name = \"origin.test\" }}\n"
        );
        std::fs::write(folder.path().join("tidegate.toml"), &text).unwrap();
        let gate = Gate::start(folder, "tidegate.toml");
        let mut client = Client::at(gate.address());
        let same = gate.running.reload_file().unwrap();
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200);
            gate.running.reload_file().unwrap();
        }
        assert_eq!(same.changes, ["nothing changed"]);
        assert_eq!(connections.load(Ordering::Relaxed), 1, "the connection outlives reloads");

        gate.write("ca.pem", &other.cert_pem);
        if by_reload {
            gate.running.reload_file().unwrap();
        }
        assert!(eventually(|| client.get("/").status == 502), "an endpoint that is no longer trusted is asked");
        gate.write("ca.pem", &trusted.cert_pem);
        assert!(eventually(|| client.get("/").status == 200));
    }
}

#[test]
fn what_a_reload_changed_is_returned() {
    let text = answering("one").replace("watch = true", "watch = false");
    let gate = Gate::serving(&text);
    assert_eq!(gate.running.reload_file().unwrap().changes, ["nothing changed"]);
    let more = "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\n\
                [[route]]\nname = \"app\"\npath = \"/app/*\"\nupstream = \"app\"\n\
                [upstream.app]\nendpoints = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
    gate.write("tidegate.toml", &format!("{}{more}", text.replace("workers = 1", "workers = 2")));
    let report = gate.running.reload_file();
    let told = [
        "server: workers 1 -> 2 (with a restart)",
        "listener more added: 127.0.0.1:0",
        "routes +1: added app",
        "upstream app added: 2 endpoints",
    ];
    assert_eq!(report.unwrap().changes, told);
}
