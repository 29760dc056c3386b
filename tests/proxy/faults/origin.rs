//! Origins that get as far as a fault says, byte by byte, and then do it.

use std::net::SocketAddr;
use std::rc::Rc;

use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::{Act, Fault, Phase};
use crate::support::certificates::{self, quic_origin};
use crate::support::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS};
use crate::support::pair::Upstream;
use crate::support::raw::Raw;

/// One over TCP.
pub async fn over_tcp(fault: Fault, arrived: Rc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            socket.set_nodelay(true).unwrap();
            spawn_local(serve(fault, socket, Rc::clone(&arrived)));
        }
    });
    address
}

async fn serve(fault: Fault, socket: TcpStream, arrived: Rc<Notify>) {
    if fault.phase == Phase::Tls {
        return act(fault, begun(Raw::over(socket)).await).await;
    }
    let raw = match fault.up {
        Upstream::Http2Tls => {
            let accepting = TlsAcceptor::from(certificates::origin_config(&[b"h2"])).accept(socket);
            let Ok(stream) = accepting.await else { return };
            Raw::over(stream)
        }
        _ => Raw::over(socket),
    };
    match fault.up {
        Upstream::Http1 => http1(fault, raw, &arrived).await,
        _ => http2(fault, raw, &arrived).await,
    }
}

/// Once its first byte was read: a connection that is broken before looks as if it was never taken.
async fn begun(mut raw: Raw) -> Raw {
    let _ = raw.exactly(1).await;
    raw
}

/// Once the client has what was sent, where it will be taken from it.
async fn wait(fault: Fault, arrived: &Notify) {
    if fault.phase >= Phase::WithinBody && fault.act != Act::Stall {
        arrived.notified().await;
    }
}

/// What happens to a connection.
async fn act(fault: Fault, mut raw: Raw) {
    match fault.act {
        Act::Reset => raw.reset(),
        Act::Close => {
            raw.finish().await;
            // Whoever closes with bytes unread resets.
            raw.rest().await;
        }
        Act::Stall | Act::Answer if fault.phase == Phase::RequestBody => std::future::pending().await,
        _ => drop(raw.rest().await),
    }
}

async fn http1(fault: Fault, mut raw: Raw, arrived: &Notify) {
    let whole = match fault.phase {
        Phase::Request => return act(fault, begun(raw).await).await,
        Phase::RequestBody => raw.head().await.is_some(),
        _ => raw.request().await.is_some(),
    };
    assert!(whole, "{fault:?}: no request came");
    raw.send(match fault.phase {
        _ if fault.act == Act::Answer => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        Phase::WithinHead => "HTTP/1.1 200 OK\r\nTransfer-Enc",
        Phase::WithinBody => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        Phase::Trailers => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-last: wo",
        _ => "",
    })
    .await;
    wait(fault, arrived).await;
    act(fault, raw).await;
}

async fn http2(fault: Fault, mut raw: Raw, arrived: &Notify) {
    raw.send(frames::frame(SETTINGS, 0, 0, &[])).await;
    if fault.phase == Phase::Request {
        return act(fault, begun(raw).await).await;
    }
    raw.exactly(24).await.unwrap();
    let stream = loop {
        let frame = frames::next(&mut raw).await.unwrap_or_else(|| panic!("{fault:?}: no request came"));
        if frame.kind == HEADERS {
            break frame.stream;
        }
    };
    // RFC 7541, appendix A: `:status 200`.
    let head = [&[0x88][..], &frames::block(&[("content-length", "100")])].concat();
    let whole = frames::frame(HEADERS, END_HEADERS, stream, &head);
    if fault.act == Act::Answer {
        let last = frames::frame(DATA, END_STREAM, stream, b"hello");
        raw.send([frames::frame(HEADERS, END_HEADERS, stream, &[0x88]), last].concat()).await;
        return act(fault, raw).await;
    }
    let answer = [whole, frames::frame(DATA, 0, stream, b"hello")].concat();
    match fault.phase {
        Phase::WithinHead => raw.send(frames::frame(HEADERS, 0, stream, &head[..9])).await,
        Phase::WithinBody => raw.send(answer).await,
        Phase::Trailers => {
            let trailers = frames::block(&[("x-last", "word")]);
            raw.send([answer, frames::frame(HEADERS, END_STREAM, stream, &trailers[..5])].concat()).await;
        }
        _ => {}
    }
    wait(fault, arrived).await;
    match fault.act {
        // RFC 9113 §7: INTERNAL_ERROR.
        Act::ResetStream => raw.send(frames::frame(RST_STREAM, 0, stream, &[0, 0, 0, 2])).await,
        Act::EndStream => raw.send(frames::frame(DATA, END_STREAM, stream, b"")).await,
        _ => {}
    }
    act(fault, raw).await;
}

/// One over QUIC.
pub fn over_quic(fault: Fault, arrived: Rc<Notify>) -> SocketAddr {
    let endpoint = quic_origin("127.0.0.1:0".parse().unwrap());
    let address = endpoint.local_addr().unwrap();
    spawn_local(async move {
        while let Some(incoming) = endpoint.accept().await {
            match fault.phase {
                Phase::Tls => incoming.refuse(),
                _ => drop(spawn_local(http3(fault, incoming, Rc::clone(&arrived)))),
            }
        }
    });
    address
}

async fn http3(fault: Fault, incoming: Incoming, arrived: Rc<Notify>) {
    let Ok(connection) = incoming.await else { return };
    // RFC 9114 §6.2.1: a control stream, with settings of which all are as they are anyway.
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0]).await.unwrap();
    if fault.phase == Phase::Request {
        return end(fault, &connection, None).await;
    }
    let Ok((mut send, mut recv)) = connection.accept_bi().await else { panic!("{fault:?}: no request came") };
    match fault.phase {
        Phase::RequestBody => drop(recv.read(&mut [0; 16]).await.unwrap()),
        _ => drop(recv.read_to_end(usize::MAX).await.unwrap()),
    }
    if fault.act == Act::Answer {
        send.write_all(b"\x01\x03\x00\x00\xd9\x00\x05hello").await.unwrap();
        send.finish().unwrap();
        std::future::pending::<()>().await;
    }
    send.write_all(answer(fault.phase)).await.unwrap();
    wait(fault, &arrived).await;
    end(fault, &connection, Some((send, recv))).await;
    connection.closed().await;
}

/// Frames of RFC 9114 §7.2, the fields of which are from the static table (RFC 9204, appendix A): `:status 200`, and a
/// `content-length` of 100.
fn answer(phase: Phase) -> &'static [u8] {
    const WHOLE: [u8; 27] = *b"\x01\x08\x00\x00\xd9\x54\x03100\x00\x05hello\x01\x10\x00\x00\x26x-las";
    match phase {
        Phase::WithinHead => &WHOLE[..5],
        Phase::WithinBody => &WHOLE[..17],
        Phase::Trailers => &WHOLE,
        _ => &[],
    }
}

async fn end(fault: Fault, connection: &Connection, stream: Option<(SendStream, RecvStream)>) {
    match (fault.act, stream) {
        (Act::Close, _) => connection.close(NO_ERROR, b""),
        (Act::Reset, _) => connection.close(INTERNAL_ERROR, b""),
        (Act::ResetStream, Some((mut send, mut recv))) => {
            send.reset(INTERNAL_ERROR).unwrap();
            let _ = recv.stop(INTERNAL_ERROR);
        }
        (Act::EndStream, Some((mut send, _recv))) => send.finish().unwrap(),
        (_, stream) => {
            connection.closed().await;
            drop(stream);
        }
    }
    connection.closed().await;
}

/// RFC 9114 §8.1.
const NO_ERROR: VarInt = VarInt::from_u32(0x100);
const INTERNAL_ERROR: VarInt = VarInt::from_u32(0x102);
