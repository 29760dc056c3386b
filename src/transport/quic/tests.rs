//! Listeners with several workers, each on a thread of its own, and a client that quinn makes: who gets whose datagrams,
//! what outlives a restart, and what is taken early. [`simulated`] is a network of its own.

mod settings;
pub(crate) mod simulated;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::keys::Keys;
use super::steering::Steering;
use super::{Place, QuicAccepted, QuicListener, handshake};
use crate::config::{self, model};
use crate::net::bind::{BoundSocket, bind_datagram};
use crate::net::reuseport_bpf;
use crate::net::testing::on_worker;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::{Counters, Totals};
use crate::transport::tls::provider::provider;
use crate::transport::tls::server::{Offer, ServerTls};
use crate::transport::tls::testing::Folder;

/// A certificate, keys and where the listener is.
struct Site {
    folder: Folder,
    keys: Keys,
    tls: Arc<ServerTls>,
    listener: Arc<model::Listener>,
}

impl Site {
    fn new(more: &str) -> Self {
        let folder = Folder::new();
        let files = folder.leaf("web", &["web.test"]);
        let text = format!(
            "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nprotocols = [\"http3\"]\n\
             tls.certificates = [{{ cert = {:?}, key = {:?} }}]\n{more}\n[[route]]\nrespond = {{}}\n",
            files.cert, files.key
        );
        let config = config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
        let listener = Arc::new(config.listeners[0].clone());
        let tls = ServerTls::new(listener.tls.as_ref().unwrap(), Offer::of(&listener), None).unwrap();
        Self { folder, keys: Keys::random().unwrap(), tls, listener }
    }

    fn sockets(&self, workers: usize) -> Vec<BoundSocket> {
        bind_datagram(&self.listener.binds[0], &self.listener.socket, workers).unwrap()
    }

    fn serve(&self, workers: usize) -> Server {
        self.serve_on(self.sockets(workers), &self.keys)
    }

    fn serve_on(&self, sockets: Vec<BoundSocket>, keys: &Keys) -> Server {
        let address = sockets[0].local_address().to_string().parse().unwrap();
        let steering = Steering::new(keys, sockets.len());
        let (stop, stopped) = watch::channel(false);
        let (seen, arrivals) = mpsc::channel();
        let members = sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
        let mut telemetry = Vec::new();
        let workers = sockets.into_iter().enumerate().map(|(worker, socket)| {
            let told = Arc::new(WorkerTelemetry::default());
            telemetry.push(Arc::clone(&told));
            let place = Place { worker, telemetry: told, open: Arc::default() };
            let (steering, listener, tls) = (Arc::clone(&steering), Arc::clone(&self.listener), Arc::clone(&self.tls));
            let (seen, mut stopped) = (seen.clone(), stopped.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
                runtime.unwrap().block_on(async {
                    crate::net::timer::start();
                    let listener = QuicListener::open(socket, steering, place, &listener, &tls).unwrap();
                    loop {
                        let incoming = tokio::select! {
                            _ = stopped.changed() => return,
                            incoming = listener.next() => incoming.unwrap(),
                        };
                        let Ok(connecting) = listener.accept(incoming) else { continue };
                        let (seen, early) = (seen.clone(), listener.takes_early_data());
                        tokio::task::spawn_local(async move {
                            if let Ok(accepted) = handshake(connecting, early, PATIENCE).await {
                                echo(worker, accepted, seen).await;
                            }
                        });
                    }
                });
            })
        });
        let workers = workers.collect();
        Server { address, members, telemetry, workers, stop, arrivals }
    }

    fn client(&self) -> Client {
        self.client_with(None)
    }

    fn client_with(&self, leaf: Option<&model::CertificateFiles>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.folder.ca()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut tls = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_file_iter(&leaf.cert).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&leaf.key).unwrap()).unwrap()
            }
        };
        tls.alpn_protocols = vec![b"h3".to_vec()];
        tls.enable_early_data = true;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        Client { endpoint: Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(), config }
    }
}

/// What a worker saw of a connection.
#[derive(Debug)]
struct Seen {
    worker: usize,
    alpn: Option<String>,
    sni: Option<String>,
    resumed: bool,
    client_cert: bool,
    early: bool,
    /// Of its first stream.
    is_0rtt: bool,
}

/// Sends back what comes on the streams of a connection.
async fn echo(worker: usize, accepted: QuicAccepted, seen: mpsc::Sender<Seen>) {
    let mut told = Some(accepted.accepted);
    while let Ok((mut send, mut receive)) = accepted.connection.accept_bi().await {
        if let Some(told) = told.take() {
            let sni = told.sni.as_deref().map(str::to_owned);
            let is_0rtt = receive.is_0rtt();
            let _ = seen.send(Seen {
                worker,
                alpn: told.alpn.as_str().map(str::to_owned),
                sni,
                resumed: told.resumed,
                client_cert: told.client_cert,
                early: accepted.early,
                is_0rtt,
            });
        }
        tokio::task::spawn_local(async move {
            while let Ok(Some(chunk)) = receive.read_chunk(64 << 10, true).await {
                if send.write_chunk(chunk.bytes).await.is_err() {
                    return;
                }
            }
            let _ = send.finish();
        });
    }
    if accepted.early {
        accepted.established.completed().await;
    }
}

struct Server {
    address: SocketAddr,
    members: Vec<BoundSocket>,
    telemetry: Vec<Arc<WorkerTelemetry>>,
    workers: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    arrivals: Receiver<Seen>,
}

impl Server {
    fn counted(&self) -> Totals {
        Counters::sum(self.telemetry.iter().map(|telemetry| &*telemetry.counters))
    }

    fn seen(&self) -> Seen {
        self.arrivals.recv_timeout(PATIENCE).unwrap()
    }

    /// Ends it without a word to anybody, as a crash does.
    fn crash(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.stop.send(true);
        self.workers.drain(..).for_each(|worker| worker.join().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
}

impl Client {
    async fn connect(&self, address: SocketAddr) -> Result<Connection, ConnectionError> {
        self.endpoint.connect_with(self.config.clone(), address, "web.test").unwrap().await
    }

    /// Goes on from another port.
    fn rebind(&self) {
        self.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    }
}

/// Sends `length` bytes and has them back.
async fn exchange(streams: &mut (SendStream, RecvStream), length: usize) {
    let bytes: Vec<u8> = (0..length).map(|_| fastrand::u8(..)).collect();
    let mut back = vec![0; length];
    let (sent, received) = tokio::join!(streams.0.write_all(&bytes), streams.1.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert!(bytes == back);
}

/// Connections, until each worker has one.
async fn one_on_each(server: &Server, client: &Client) -> Vec<(Connection, (SendStream, RecvStream))> {
    let mut of: Vec<Option<_>> = server.telemetry.iter().map(|_| None).collect();
    for _ in 0..200 {
        // Another port, so that hashing may lead elsewhere.
        let connection = client.connect(server.address).await.unwrap();
        let mut streams = connection.open_bi().await.unwrap();
        exchange(&mut streams, 10).await;
        of[server.seen().worker] = Some((connection, streams));
        if of.iter().all(Option::is_some) {
            return of.into_iter().flatten().collect();
        }
        client.rebind();
    }
    panic!("a worker gets nothing");
}

/// How datagrams find the worker.
enum Steered {
    /// By the program.
    Rightly,
    /// By the hash of addresses: the program could not be attached.
    Not,
    /// All to one worker.
    Wrongly,
}

/// A client that has a connection with each of three workers moves to another port 100 times while it sends and receives.
fn a_client_that_moves(steered: Steered) -> Totals {
    on_worker(async {
        let site = Site::new("");
        let server = site.serve(3);
        if !matches!(steered, Steered::Not) {
            reuseport_bpf::attach(&server.members[0], 3).unwrap();
        }
        let client = site.client();
        let mut connections = one_on_each(&server, &client).await;
        if matches!(steered, Steered::Wrongly) {
            reuseport_bpf::attach(&server.members[0], 1).unwrap();
        }
        let before = server.counted();
        for _ in 0..100 {
            client.rebind();
            for (_, streams) in &mut connections {
                exchange(streams, 20_000).await;
            }
        }
        for (connection, _) in &connections {
            assert_eq!(connection.close_reason(), None);
        }
        let mut counted = server.counted();
        counted.quic_steered -= before.quic_steered;
        counted
    })
}

#[test]
fn a_client_that_moves_is_steered_by_the_kernel() {
    let counted = a_client_that_moves(Steered::Rightly);
    assert_eq!(counted.quic_steered, 0, "the kernel knows better");
}

#[test]
fn a_client_that_moves_is_passed_on_where_the_kernel_does_not_steer() {
    let counted = a_client_that_moves(Steered::Not);
    assert!(counted.quic_steered > 0);
}

#[test]
fn a_client_whose_datagrams_all_go_to_the_wrong_worker_notices_nothing() {
    let counted = a_client_that_moves(Steered::Wrongly);
    assert!(counted.quic_steered > 1000, "{}", counted.quic_steered);
}

#[test]
fn the_handshake_tells_what_was_agreed_on_and_whether_it_resumed() {
    on_worker(async {
        let site = Site::new("");
        let server = site.serve(1);
        let client = site.client();
        for resumed in [false, true, true] {
            let connection = client.connect(server.address).await.unwrap();
            exchange(&mut connection.open_bi().await.unwrap(), 10).await;
            let seen = server.seen();
            assert_eq!((seen.alpn.as_deref(), seen.sni.as_deref()), (Some("h3"), Some("web.test")));
            assert_eq!((seen.resumed, seen.early, seen.is_0rtt), (resumed, false, false));
            connection.close(VarInt::from_u32(0), b"");
        }
    });
}

#[test]
fn clients_prove_who_they_are_as_over_tcp() {
    on_worker(async {
        let folder = Folder::new();
        let auth = format!("tls.client_auth = {{ ca = {:?}, mode = \"require\" }}", folder.ca());
        let site = Site::new(&auth);
        let server = site.serve(1);
        let client = site.client();
        // RFC 8446 §4.4.2.4: a client hears of it only after its own part of the handshake.
        let connection = client.connect(server.address).await.unwrap();
        let ConnectionError::ConnectionClosed(close) = connection.closed().await else { panic!("it was let in") };
        assert_eq!(u64::from(close.error_code), 0x100 + 116, "certificate_required");
        let leaf = folder.leaf("someone", &["someone.test"]);
        let known = site.client_with(Some(&leaf));
        let connection = known.connect(server.address).await.unwrap();
        exchange(&mut connection.open_bi().await.unwrap(), 10).await;
        assert!(server.seen().client_cert);
    });
}

#[test]
fn what_comes_early_is_taken_where_that_is_configured_and_says_so() {
    on_worker(async {
        let site = Site::new("tls.early_data = true");
        let server = site.serve(2);
        let client = site.client();
        let first = client.connect(server.address).await.unwrap();
        exchange(&mut first.open_bi().await.unwrap(), 10).await;
        assert!(!server.seen().early);
        for _ in 0..2 {
            let connecting = client.endpoint.connect_with(client.config.clone(), server.address, "web.test").unwrap();
            let Ok((connection, taken)) = connecting.into_0rtt() else { panic!("no ticket for early data") };
            let mut streams = connection.open_bi().await.unwrap();
            exchange(&mut streams, 1000).await;
            assert!(taken.await);
            let seen = server.seen();
            assert!(seen.early && seen.is_0rtt && seen.resumed);
            // A stream of later is not early, on the same connection.
            exchange(&mut connection.open_bi().await.unwrap(), 10).await;
        }
    });
}

#[test]
fn without_early_data_in_the_configuration_no_client_is_offered_it() {
    on_worker(async {
        let site = Site::new("");
        let server = site.serve(1);
        let client = site.client();
        let first = client.connect(server.address).await.unwrap();
        exchange(&mut first.open_bi().await.unwrap(), 10).await;
        let connecting = client.endpoint.connect_with(client.config.clone(), server.address, "web.test").unwrap();
        assert!(connecting.into_0rtt().is_err());
    });
}

#[test]
fn clients_of_a_process_that_crashed_learn_it_from_the_next_one_with_the_same_key() {
    on_worker(async {
        let site = Site::new("");
        let file = site.folder.write("quic.key", &"k".repeat(40));
        for (next, is_told) in [(Keys::load(&file).unwrap(), true), (Keys::random().unwrap(), false)] {
            let sockets = site.sockets(2);
            let kept = sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
            let server = site.serve_on(sockets, &Keys::load(&file).unwrap());
            let client = site.client();
            let connection = client.connect(server.address).await.unwrap();
            let mut streams = connection.open_bi().await.unwrap();
            exchange(&mut streams, 10).await;
            server.crash();
            let _server = site.serve_on(kept, &next);
            streams.0.write_all(&[7; 1000]).await.unwrap();
            if is_told {
                assert_eq!(connection.closed().await, ConnectionError::Reset);
            } else {
                let silence = crate::net::timer::timeout(std::time::Duration::from_millis(500), connection.closed());
                assert!(silence.await.is_err(), "nobody knows the connection");
            }
        }
    });
}

#[test]
fn connections_that_are_open_outlive_a_renewal_and_new_ones_get_what_is_new() {
    on_worker(async {
        let site = Site::new("");
        let place = Place { worker: 0, telemetry: Arc::default(), open: Arc::default() };
        let steering = Steering::new(&site.keys, 1);
        let socket = site.sockets(1).remove(0);
        let address = socket.local_address().to_string().parse().unwrap();
        let quic = QuicListener::open(socket, steering, place, &site.listener, &site.tls).unwrap();
        let serving = std::rc::Rc::clone(&quic);
        tokio::task::spawn_local(async move {
            let (seen, _arrivals) = mpsc::channel();
            while let Some(incoming) = serving.next().await {
                let connecting = serving.accept(incoming).unwrap();
                let seen = seen.clone();
                tokio::task::spawn_local(async move {
                    echo(0, handshake(connecting, false, PATIENCE).await.unwrap(), seen).await;
                });
            }
        });
        let client = site.client();
        let old = client.connect(address).await.unwrap();
        let mut streams = old.open_bi().await.unwrap();
        exchange(&mut streams, 100_000).await;
        let leaf = |connection: &Connection| {
            let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
            chain[0].clone()
        };
        // A certificate is renewed in its files, without a reload; then the listener is renewed.
        site.folder.leaf("web", &["web.test"]);
        assert_eq!(site.tls.renew().certificates.len(), 1);
        let mut wider = model::Listener::clone(&site.listener);
        wider.limits.max_concurrent_streams = 1;
        // A client of its own, which has no ticket: the certificate is shown in a full handshake.
        let renewed = site.client().connect(address).await.unwrap();
        assert_ne!(leaf(&renewed), leaf(&old));
        quic.renew(&Arc::new(wider), &site.tls).unwrap();
        let narrow = client.connect(address).await.unwrap();
        let _first = narrow.open_bi().await.unwrap();
        let second = crate::net::timer::timeout(std::time::Duration::from_millis(100), narrow.open_bi());
        assert!(second.await.is_err(), "one stream at a time");
        exchange(&mut streams, 100_000).await;
        assert_eq!(old.close_reason(), None);
    });
}

#[test]
fn a_folder_for_qlog_gets_a_file_for_each_connection() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        let site = Site::new(&format!("[listener.quic]\nqlog = {:?}", logs.to_str().unwrap()));
        let server = site.serve(1);
        for _ in 0..2 {
            let connection = site.client().connect(server.address).await.unwrap();
            exchange(&mut connection.open_bi().await.unwrap(), 10).await;
        }
        server.crash();
        let files: Vec<_> = std::fs::read_dir(&logs).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains("qlog") && text.len() > 1000, "{}: {} bytes", file.display(), text.len());
        }
    });
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
