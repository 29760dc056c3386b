//! Load over HTTP/3 for `run`, made of Tidegate's own client: so many connections with so many requests under way on each,
//! for so long; or a new connection, with a whole handshake, for each request. Prints what came of it in one line.
//!
//! `h3load ADDRESS CERTIFICATE PATH CONNECTIONS STREAMS SECONDS [connect|idle]`

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tidegate::http3::{Config, Sender, client};
use tidegate::transport::tls::provider::provider;
use tokio::runtime::Builder;
use tokio::task::spawn_local;

type Fault = Box<dyn Error>;

/// What is asked, of whom, until when.
struct Load {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    target: String,
    until: Instant,
    /// Microseconds of each answer.
    took: RefCell<Vec<u32>>,
    failed: Cell<u64>,
}

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, certificate, path, connections, streams, seconds, rest @ ..] = &words[..] else {
        return Err("h3load ADDRESS CERTIFICATE PATH CONNECTIONS STREAMS SECONDS [connect|idle]".into());
    };
    let (connections, streams): (usize, usize) = (connections.parse()?, streams.parse()?);
    let seconds = Duration::from_secs_f64(seconds.parse()?);
    let way = rest.first().cloned().unwrap_or_default();
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async {
        tidegate::net::timer::start();
        let address: SocketAddr = address.parse()?;
        let load = Rc::new(Load {
            endpoint: endpoint(certificate)?,
            address,
            target: format!("https://localhost:{}{path}", address.port()),
            until: Instant::now() + seconds,
            took: RefCell::default(),
            failed: Cell::new(0),
        });
        let started = Instant::now();
        if way == "idle" {
            return idle(&load, connections, seconds).await;
        }
        let mut lanes = Vec::new();
        for _ in 0..connections {
            if way == "connect" {
                lanes.push(spawn_local(connecting(Rc::clone(&load))));
                continue;
            }
            let (_, sender) = connect(&load).await?;
            for _ in 0..streams {
                lanes.push(spawn_local(asking(Rc::clone(&load), sender.clone())));
            }
        }
        for lane in lanes {
            lane.await?;
        }
        tell(&load, started.elapsed());
        Ok(())
    })
}

fn endpoint(certificate: &str) -> Result<quinn::Endpoint, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let tls =
        rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    // Each handshake is a whole one.
    tls.resumption = rustls::client::Resumption::disabled();
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((8u32 << 20).into()).receive_window((32u32 << 20).into());
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

async fn connect(load: &Load) -> Result<(quinn::Connection, Sender), Fault> {
    let connection = load.endpoint.connect(load.address, "localhost")?.await?;
    let (sender, driver) = client::start(connection.clone(), Rc::new(Config::default()));
    spawn_local(driver);
    Ok((connection, sender))
}

/// Asks on one connection, again and again.
async fn asking(load: Rc<Load>, sender: Sender) {
    while Instant::now() < load.until {
        let asked = Instant::now();
        let answered = get(&load, &sender).await;
        load.note(asked, answered);
        if !sender.is_open() {
            return;
        }
    }
}

/// Asks once on each connection.
async fn connecting(load: Rc<Load>) {
    while Instant::now() < load.until {
        let asked = Instant::now();
        let answered = async {
            let (connection, sender) = connect(&load).await?;
            get(&load, &sender).await?;
            connection.close(0x100u32.into(), b"");
            Ok(())
        };
        let answered = answered.await;
        load.note(asked, answered);
    }
}

/// Opens connections one after the other, asks once on each, says so and keeps them.
async fn idle(load: &Load, connections: usize, seconds: Duration) -> Result<(), Fault> {
    let mut kept = Vec::new();
    for _ in 0..connections {
        let opened = connect(load).await?;
        get(load, &opened.1).await?;
        kept.push(opened);
    }
    println!("open");
    tokio::time::sleep(seconds).await;
    Ok(())
}

async fn get(load: &Load, sender: &Sender) -> Result<(), Fault> {
    let request = Request::get(&load.target).header("user-agent", "h3load").body(Empty::<Bytes>::new())?;
    let answer = sender.send(request, drop).await.map_err(|failed| failed.error.to_string())?;
    let is_ok = answer.status() == StatusCode::OK;
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    if is_ok { Ok(()) } else { Err("not 200".into()) }
}

impl Load {
    fn note(&self, asked: Instant, answered: Result<(), Fault>) {
        match answered {
            Ok(()) => self.took.borrow_mut().push(asked.elapsed().as_micros() as u32),
            Err(_) => self.failed.set(self.failed.get() + 1),
        }
    }
}

fn tell(load: &Load, seconds: Duration) {
    let mut took = load.took.take();
    took.sort_unstable();
    let percentile = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or(0);
    println!(
        "requests {} failed {} seconds {:.3} p50_us {} p99_us {}",
        took.len(),
        load.failed.get(),
        seconds.as_secs_f64(),
        percentile(50),
        percentile(99)
    );
}
