//! What tests of relayed sessions stand on, of TCP as of QUIC: a proxy, endpoints that do as they are told, and clients that are
//! blocking. Everything has a deadline: a test that hangs fails.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidegate::app::{self, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config::Config;
use tidegate::telemetry::counters::Totals;

/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A proxy that serves what a text says, and how that is read.
pub struct Proxy(pub Running, fn(&str) -> Config);

impl Proxy {
    pub fn start(text: &str, parse: fn(&str) -> Config) -> Self {
        let running = app::start(parse(text), Options::default()).unwrap_or_else(|refused| panic!("{refused}"));
        Self(running, parse)
    }

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
        self.0.reload((self.1)(text)).unwrap_or_else(|refused| panic!("{refused}"));
    }

    /// Waits until what was counted is as it should be.
    pub fn counts(&self, what: &str, holds: impl Fn(&Totals) -> bool) {
        assert!(eventually(|| holds(&self.0.counters())), "{what}: {:?}", self.0.counters());
    }
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
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Sends `bytes` and expects them back.
pub fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == bytes, "other bytes came back");
}

/// An endpoint that runs `serve` on a thread of its own for each connection.
pub struct Served {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Served {
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
        Self::new(|stream| {
            let mut back = stream.try_clone().unwrap();
            send_back(stream, &mut back);
            let _ = back.shutdown(Shutdown::Write);
        })
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Sends back what comes until it ends.
pub fn send_back(mut from: impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
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
