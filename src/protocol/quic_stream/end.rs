//! One end of a relay: a socket, or a stream of a QUIC connection. Their different endings are mapped to common terms
//! here: the end of data, a code that ends one direction, and a failure of both.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use quinn::{ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::stream_code::StreamCode;
use crate::net::io::Socket;
use crate::transport::quic::varint;

/// What bytes come from and go to. Dropped before its directions have ended, it cuts them: nobody takes a part for the whole.
pub enum End {
    /// A TCP or Unix connection.
    Socket(Socket),
    /// A stream, of either kind.
    Stream(Stream),
}

/// A stream of a QUIC connection: both of its parts, or the one that a unidirectional stream has.
pub struct Stream {
    send: Option<SendStream>,
    recv: Option<RecvStream>,
    /// Made when the sending part is first asked whether its peer wants no more.
    stopped: Option<Pin<Box<Stopped>>>,
    /// Ready when the peer has all that was sent, where it was ended.
    taken: Option<Pin<Box<Stopped>>>,
}

type Stopped = dyn Future<Output = Result<Option<VarInt>, StoppedError>>;

/// Why an end gives or takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its peer cut this direction, with a code: RESET_STREAM where it was read, STOP_SENDING where it was written.
    Cut(u64),
    /// Both directions are gone. The code is what the other end is told.
    Broken(u64),
}

impl Stream {
    /// A bidirectional stream.
    pub fn bidirectional((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send: Some(send), recv: Some(recv), stopped: None, taken: None }
    }

    /// What a peer sends on a unidirectional stream.
    pub fn incoming(recv: RecvStream) -> Self {
        Self { send: None, recv: Some(recv), stopped: None, taken: None }
    }

    /// A unidirectional stream of ours.
    pub fn outgoing(send: SendStream) -> Self {
        Self { send: Some(send), recv: None, stopped: None, taken: None }
    }

    /// Neither part.
    pub fn nothing() -> Self {
        Self { send: None, recv: None, stopped: None, taken: None }
    }

    /// Lets the peer see a stream that was just opened, before there is anything to send: an empty STREAM frame, without
    /// which it would not hear of the stream (RFC 9000 §2.2), and protocols in which the server speaks first would stand still.
    pub fn announce(&mut self) {
        if let Some(send) = &mut self.send {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            // Where the peer's window is closed nothing could be sent either.
            let _ = Pin::new(send).poll_write(&mut cx, &[]);
        }
    }

    /// Cuts what has not ended of its parts.
    pub fn cut(&mut self, code: u64) {
        let code = varint(code);
        if let Some(mut send) = self.send.take() {
            // Fails where the part has ended already.
            let _ = send.reset(code);
        }
        if let Some(mut recv) = self.recv.take() {
            let _ = recv.stop(code);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // quinn would end what is being sent as if it were whole.
        self.cut(StreamCode::Internal.number());
    }
}

impl End {
    /// Whether it is a stream, which can be cut in one direction alone.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Reads what is there; zero bytes are the end of this direction.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        match self {
            Self::Socket(socket) => {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(cx, &mut read)).map_err(|error| broken(&error))?;
                Poll::Ready(Ok(read.filled().len()))
            }
            Self::Stream(Stream { recv: Some(recv), .. }) => recv.poll_read(cx, buffer).map_err(|error| match error {
                ReadError::Reset(code) => Fault::Cut(code.into_inner()),
                ReadError::ConnectionLost(error) => Fault::Broken(lost(&error)),
                // What was sent early was not taken: nothing of the stream was processed.
                ReadError::ZeroRttRejected => Fault::Broken(StreamCode::Closing.number()),
                ReadError::ClosedStream | ReadError::IllegalOrderedRead => Fault::Broken(StreamCode::Internal.number()),
            }),
            Self::Stream(_) => Poll::Ready(Ok(0)),
        }
    }

    /// Writes what it takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Fault>> {
        match self {
            Self::Socket(socket) => Pin::new(socket).poll_write(cx, bytes).map_err(|error| broken(&error)),
            Self::Stream(Stream { send: Some(send), .. }) => {
                Pin::new(send).poll_write(cx, bytes).map_err(|error| match error {
                    WriteError::Stopped(code) => Fault::Cut(code.into_inner()),
                    WriteError::ConnectionLost(error) => Fault::Broken(lost(&error)),
                    WriteError::ZeroRttRejected => Fault::Broken(StreamCode::Closing.number()),
                    WriteError::ClosedStream => Fault::Broken(StreamCode::Internal.number()),
                })
            }
            Self::Stream(_) => Poll::Ready(Err(Fault::Broken(StreamCode::Unsupported.number()))),
        }
    }

    /// Ready when the peer wants no more of what is written here, although nothing is to be written now. A socket tells
    /// that only when it is written to, or by a fault when it is read.
    pub fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let Self::Stream(Stream { send: Some(send), stopped, .. }) = self else { return Poll::Pending };
        let stopped = stopped.get_or_insert_with(|| Box::pin(send.stopped()));
        Poll::Ready(match ready!(stopped.as_mut().poll(cx)) {
            Ok(Some(code)) => Fault::Cut(code.into_inner()),
            Ok(None) => return Poll::Pending,
            Err(StoppedError::ConnectionLost(error)) => Fault::Broken(lost(&error)),
            Err(StoppedError::ZeroRttRejected) => Fault::Broken(StreamCode::Closing.number()),
        })
    }

    /// Ends what is written here: FIN.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self {
            Self::Socket(socket) => match ready!(Pin::new(socket).poll_shutdown(cx)) {
                // It has gone already and misses nothing: all it was to get was taken.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(broken(&error))),
                _ => Poll::Ready(Ok(())),
            },
            Self::Stream(Stream { send, stopped, taken, .. }) => {
                // It goes on being sent after it is dropped. One that was stopped meanwhile is reset by that.
                if let Some(mut send) = send.take()
                    && send.finish().is_ok()
                {
                    *taken = Some(Box::pin(send.stopped()));
                }
                *stopped = None;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Waits until the peer of a stream has acknowledged all that was sent before its end, or wants no more: whoever closes
    /// the connection earlier takes it back.
    pub async fn taken(&mut self) {
        if let Self::Stream(Stream { taken: Some(taken), .. }) = self {
            // However that ends there is nothing to be done for it.
            let _ = taken.as_mut().await;
        }
    }

    /// RESET_STREAM: what was written here is not the whole. Of a stream alone.
    pub fn reset_sending(&mut self, code: u64) {
        if let Self::Stream(stream) = self
            && let Some(mut send) = stream.send.take()
        {
            let _ = send.reset(varint(code));
        }
    }

    /// STOP_SENDING: no more is wanted of what comes from here. Of a stream alone.
    pub fn stop_receiving(&mut self, code: u64) {
        if let Self::Stream(stream) = self
            && let Some(mut recv) = stream.recv.take()
        {
            let _ = recv.stop(varint(code));
        }
    }

    /// Cuts what has not ended of both directions: a stream with the code, a TCP connection with a reset. To be dropped then.
    pub fn cut(&mut self, code: u64) {
        match self {
            Self::Socket(socket) => socket.reset_on_close(),
            Self::Stream(stream) => stream.cut(code),
        }
    }
}

/// The code that streams elsewhere are cut with when a connection is lost: its peer's own, where it closed with one.
fn lost(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        // By a drain whose time was over: nothing else of ours closes a connection with streams on it.
        ConnectionError::LocallyClosed => StreamCode::TooOld.number(),
        _ => StreamCode::Lost.number(),
    }
}

fn broken(_: &io::Error) -> Fault {
    Fault::Broken(StreamCode::Reset.number())
}
