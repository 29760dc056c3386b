//! A proxy from the text of a configuration, and endpoints that do as they are told. Everything is blocking and has a
//! deadline: a test that hangs fails.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidegate::app::{self, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config::{self, Config};
use tidegate::telemetry::counters::Totals;

/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn parse(text: &str) -> Config {
    config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// A proxy that serves what `text` says.
pub fn start(text: &str) -> Proxy {
    Proxy(app::start(parse(text), Options::default()).unwrap_or_else(|refused| panic!("{refused}")))
}

pub struct Proxy(pub Running);

impl Proxy {
    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.0.address_of(listener) {
            Some(Address::Socket(address)) => address,
            other => panic!("{listener}: {other:?}"),
        }
    }

    pub fn connect(&self, listener: &str) -> TcpStream {
        patient(TcpStream::connect(self.address(listener)).unwrap())
    }

    pub fn reload(&self, text: &str) {
        self.0.reload(parse(text)).unwrap_or_else(|refused| panic!("{refused}"));
    }

    /// Waits until what was counted is as it should be.
    pub fn counts(&self, what: &str, holds: impl Fn(&Totals) -> bool) {
        assert!(eventually(|| holds(&self.0.counters())), "{what}: {:?}", self.0.counters());
    }
}

/// One `tcp` listener called `relay`, on a port of the system's choice, and `more` behind its upstream `to`.
pub fn relay(endpoints: &[SocketAddr], listener: &str, upstream: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"relay\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \
         \"to\"\n{listener}\n[upstream.to]\nendpoints = [{}]\n{upstream}\n",
        endpoints.join(", ")
    )
}

/// Whether something becomes true in time.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// A stream that fails instead of waiting for ever.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Resets a connection instead of closing it.
pub fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).unwrap();
}

/// Sends `bytes` and expects them back.
pub fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == bytes, "other bytes came back");
}

/// How a stream ends: with everything that came before, or with a reset.
pub fn end_of(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(|_| rest).map_err(|error| error.kind())
}

/// An endpoint that runs `serve` on a thread of its own for each connection.
pub struct Endpoint {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Endpoint {
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (counted, serve) = (Arc::clone(&accepted), Arc::new(serve));
        // The thread ends with the process of the test.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                counted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(patient(stream)));
            }
        });
        Self { address, accepted }
    }

    /// Sends back what comes, and passes the end on.
    pub fn echo() -> Self {
        Self::new(|mut stream| {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// Says its name and waits for the client to go.
    pub fn named(name: &'static str) -> Self {
        Self::new(move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            let _ = stream.read(&mut [0]);
        })
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// An address where nobody listens, and nobody will while the tests run: the port is taken.
pub fn nobody() -> SocketAddr {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&taken, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap();
    std::mem::forget(taken);
    address
}

/// An address that is free now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
