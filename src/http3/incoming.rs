//! The unidirectional streams of the peer: its control stream, its QPACK streams, and those that mean nothing to us. One
//! task of each connection reads them and sends on ours.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{ReadError, RecvStream};
use smallvec::SmallVec;

use super::connection::Connection;
use super::control_frames::ControlFrames;
use super::error::{Code, Error};
use super::uni_stream::{PeerStreams, Purpose, TypeReader, closed};

/// Opens our streams and serves the peer's until the connection ends. A failure of theirs ends it.
pub(super) async fn drive(connection: &Connection) -> Error {
    let quinn = &connection.quinn;
    let (mut opening, mut accepting) = (pin!(quinn.open_uni()), pin!(quinn.accept_uni()));
    let mut peer = Peer::new(connection);
    let error = poll_fn(|cx| {
        while connection.outgoing.lacks_stream()
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            match opened {
                Ok(stream) => connection.outgoing.opened(stream),
                Err(error) => return Poll::Ready(Error::lost(&error)),
            }
            opening.set(quinn.open_uni());
        }
        while let Poll::Ready(accepted) = accepting.as_mut().poll(cx) {
            match accepted {
                Ok(stream) => peer.accept(stream),
                Err(error) => return Poll::Ready(Error::lost(&error)),
            }
            accepting.set(quinn.accept_uni());
        }
        if let Err(error) = peer.read(cx) {
            return Poll::Ready(error);
        }
        // Last: what was read may have something to say.
        connection.outgoing.send(cx).map_or_else(Poll::Ready, |()| Poll::Pending)
    })
    .await;
    let error = connection.cause(error);
    connection.fail(error);
    error
}

/// The streams of the peer.
struct Peer<'a> {
    connection: &'a Connection,
    kinds: PeerStreams,
    control: ControlFrames,
    streams: SmallVec<[Stream; 4]>,
}

struct Stream {
    stream: RecvStream,
    kind: TypeReader,
    purpose: Option<Purpose>,
}

impl<'a> Peer<'a> {
    fn new(connection: &'a Connection) -> Self {
        let control = ControlFrames::new(connection.role);
        Self { connection, kinds: PeerStreams::default(), control, streams: SmallVec::new() }
    }

    fn accept(&mut self, stream: RecvStream) {
        self.streams.push(Stream { stream, kind: TypeReader::default(), purpose: None });
    }

    /// Reads what is there, but not without an end: others on this thread have their turn, too.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut at = 0;
        while at < self.streams.len() {
            let mut budget = BUDGET;
            let ended = loop {
                if budget == 0 {
                    cx.waker().wake_by_ref();
                    break false;
                }
                budget -= 1;
                match self.streams[at].poll_chunk(cx) {
                    Poll::Pending => break false,
                    Poll::Ready(Ok(Some(chunk))) => {
                        if !self.take(at, chunk)? {
                            break true;
                        }
                    }
                    Poll::Ready(Ok(None)) => {
                        self.streams[at].purpose.map_or(Ok(()), closed)?;
                        break true;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                }
            };
            if ended {
                self.streams.swap_remove(at);
                // One that ended before its type was known, or has an unknown one.
                if !self.connection.useless.take(1) {
                    return Err(Error::connection(Code::EXCESSIVE_LOAD, "too many streams that mean nothing"));
                }
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Takes a chunk of a stream; `false` when no more of it is wanted.
    fn take(&mut self, at: usize, mut chunk: Bytes) -> Result<bool, Error> {
        let stream = &mut self.streams[at];
        if stream.purpose.is_none() {
            let Some(kind) = stream.kind.read(&mut chunk) else { return Ok(true) };
            let purpose = self.kinds.open(kind, self.connection.role)?;
            if purpose == Purpose::Unknown {
                // RFC 9114 §6.2.3; it is over where this fails.
                let _ = stream.stream.stop(Code::STREAM_CREATION_ERROR.varint());
                return Ok(false);
            }
            stream.purpose = Some(purpose);
        }
        if !self.connection.instructions.take(chunk.len() as u64) {
            return Err(Error::connection(Code::EXCESSIVE_LOAD, "too many instructions for so few requests"));
        }
        match stream.purpose {
            Some(Purpose::Control) => {
                while let Some(frame) = self.control.next(&mut chunk)? {
                    self.connection.on_control_frame(frame)?;
                }
            }
            Some(Purpose::Encoder) => self.connection.on_encoder_bytes(&chunk)?,
            Some(Purpose::Decoder) => self.connection.on_decoder_bytes(&chunk)?,
            Some(Purpose::Unknown) | None => {}
        }
        Ok(true)
    }
}

impl Stream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        match ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx)) {
            Ok(chunk) => Poll::Ready(Ok(chunk.map(|chunk| chunk.bytes))),
            Err(ReadError::ConnectionLost(error)) => Poll::Ready(Err(Error::lost(&error))),
            // A reset is an end, too.
            Err(_) => Poll::Ready(Ok(None)),
        }
    }
}

/// Chunks of one stream that are read at a time.
const BUDGET: usize = 16;
