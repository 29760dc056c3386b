//! A connection whose bytes the test writes and reads itself, on either side of the proxy.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{self, SITE};

/// What a connection runs over.
pub trait Stream: AsyncRead + AsyncWrite {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A raw connection.
pub struct Raw {
    stream: Pin<Box<dyn Stream>>,
    /// Read and not yet asked for.
    ahead: Vec<u8>,
}

/// A message as it stood on the wire.
#[derive(Clone, Debug)]
pub struct Message {
    /// The request or status line.
    pub line: String,
    /// The fields, names in lowercase.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Broken,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket)
    }

    /// Over TLS, without ALPN.
    pub async fn connect_tls(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(certificates::client_config(&[], false));
        Self::over(connector.connect(SITE.try_into().unwrap(), socket).await.unwrap())
    }

    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::pin(stream), ahead: Vec::new() }
    }

    /// The address of the other side.
    pub fn peer(&self) -> SocketAddr {
        self.stream.socket().peer_addr().unwrap()
    }

    /// Writes; that the other side is gone already is found out by reading.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Ends this direction.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Breaks the connection: the other side gets a reset in the place of an end.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// What is there, as soon as something is; `None` at the end.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        if self.ahead.is_empty() && !self.more().await.ok()? {
            return None;
        }
        Some(std::mem::take(&mut self.ahead))
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }

    /// Everything up to and including `end`; `None` where the connection ends before.
    pub async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Some(self.ahead.drain(..at + end.len()).collect());
            }
            if !self.more().await.ok()? {
                return None;
            }
        }
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < length {
            if !self.more().await.ok()? {
                return None;
            }
        }
        Some(self.ahead.drain(..length).collect())
    }

    /// The head of the next message, without its body.
    pub async fn head(&mut self) -> Option<Message> {
        let text = String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).into_owned();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next()?.to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a field that is none: {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Some(Message { line, fields: fields.collect(), body: Vec::new() })
    }

    /// A whole request; `None` where the connection ends before.
    pub async fn request(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        message.body = self.body(&message, Some(0)).await?;
        Some(message)
    }

    /// A whole response to anything but HEAD; `None` where the connection ends before, or at a length that was not
    /// reached.
    pub async fn response(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        let bodiless = matches!(message.status(), 100..=199 | 204 | 304);
        message.body = if bodiless { Vec::new() } else { self.body(&message, None).await? };
        Some(message)
    }

    async fn body(&mut self, message: &Message, otherwise: Option<usize>) -> Option<Vec<u8>> {
        if message.field("transfer-encoding").is_some() {
            return self.chunks().await;
        }
        let length = message.field("content-length").map(|length| length.parse().unwrap());
        if let Some(length) = length.or(otherwise) {
            return self.exactly(length).await;
        }
        let (bytes, end) = self.rest().await;
        (end == End::Clean).then_some(bytes)
    }

    /// A chunked body, without its trailers.
    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let size = std::str::from_utf8(&line).unwrap().trim_end();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            if size == 0 {
                while self.until(b"\r\n").await? != b"\r\n" {}
                return Some(body);
            }
            body.extend(self.exactly(size).await?);
            assert_eq!(self.exactly(2).await?, b"\r\n");
        }
    }

    /// Everything that still comes, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return (std::mem::take(&mut self.ahead), End::Clean),
                Err(_) => return (std::mem::take(&mut self.ahead), End::Broken),
            }
        }
    }

    /// Waits until the other side ends the connection, and sees that it says nothing more before.
    pub async fn closed(&mut self) {
        let (rest, _) = self.rest().await;
        assert_eq!(String::from_utf8_lossy(&rest), "", "something came before the end");
    }
}

impl Message {
    pub fn status(&self) -> u16 {
        let status = self.line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no status line: {:?}", self.line))
    }

    /// The value of a field that occurs once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} occurs more than once");
        value
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
