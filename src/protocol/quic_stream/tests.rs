//! Relays between loopback sockets and streams of real QUIC connections.

use std::future::pending;
use std::io::ErrorKind;
use std::sync::Arc;

use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt, rustls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::end::Stream;
use super::*;
use crate::net::io::Socket;
use crate::net::testing::on_worker;
use crate::transport::tls::development::{make_authority, make_leaf};

const LONG: Duration = Duration::from_secs(3600);
/// What each direction of a stream may hold that nobody reads.
const WINDOW: u32 = 64 * 1024;

/// Both ends of a QUIC connection, and what keeps them alive.
struct Link {
    near: Connection,
    far: Connection,
    _endpoints: (Endpoint, Endpoint),
}

async fn link() -> Link {
    let authority = make_authority().unwrap();
    let leaf = make_leaf(&["localhost"], &authority).unwrap();
    use rustls::pki_types::pem::PemObject;
    let certs: Vec<_> =
        rustls::pki_types::CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let mut server = quinn::ServerConfig::with_single_cert(certs, key).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(WINDOW.into());
    let transport = Arc::new(transport);
    server.transport_config(Arc::clone(&transport));
    let mut roots = rustls::RootCertStore::empty();
    for root in rustls::pki_types::CertificateDer::pem_slice_iter(authority.cert_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let mut client = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    client.transport_config(transport);
    let far_endpoint = Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
    let near_endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = far_endpoint.local_addr().unwrap();
    let connecting = near_endpoint.connect_with(client, address, "localhost").unwrap();
    let (near, far) = tokio::join!(connecting, async { far_endpoint.accept().await.unwrap().await.unwrap() });
    Link { near: near.unwrap(), far, _endpoints: (near_endpoint, far_endpoint) }
}

impl Link {
    /// A stream: the peer's two parts, and ours as an end of a relay.
    async fn stream(&self) -> ((SendStream, RecvStream), End) {
        let mut ours = Stream::bidirectional(self.near.open_bi().await.unwrap());
        ours.announce();
        (self.far.accept_bi().await.unwrap(), End::Stream(ours))
    }
}

async fn connection() -> (TcpStream, End) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (outer, inner) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (outer.unwrap(), End::Socket(Socket::Tcp(inner.unwrap().0)))
}

/// A relay from a client's stream to an endpoint's socket.
fn joined(downstream: End, upstream: End) -> Relay {
    let mut relay = Relay::new(downstream);
    relay.join(upstream, Vec::new(), Keeps::Nothing);
    relay
}

async fn run(relay: &mut Relay) -> Over<()> {
    let over = relay.run(LONG, pending(), |_, _| {}).await;
    if let Over::Broken(_, code) = over {
        relay.cut(code);
    }
    over
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_stream_is_seen_before_anything_is_sent_on_it() {
    on_worker(async {
        let link = link().await;
        // `stream` waits for the peer to see it.
        let ((mut send, _recv), mut end) = link.stream().await;
        send.write_all(b"220 ready").await.unwrap();
        let mut greeting = [0; 16];
        let read = poll_fn(|cx| end.poll_read(cx, &mut greeting)).await.unwrap();
        assert_eq!(&greeting[..read], b"220 ready");
    });
}

#[test]
fn megabytes_arrive_whole_both_ways_at_once_and_half_closes_are_passed_on() {
    on_worker(async {
        let link = link().await;
        let ((mut send, mut recv), downstream) = link.stream().await;
        let (endpoint, upstream) = connection().await;
        let (sent, answered) = (bytes(3_000_001), bytes(2_000_003));
        let client = async {
            let writing = async {
                send.write_all(&sent).await.unwrap();
                send.finish().unwrap();
            };
            let ((), received) = tokio::join!(writing, recv.read_to_end(usize::MAX));
            assert!(received.unwrap() == answered);
        };
        let server = async {
            let (mut read, mut write) = endpoint.into_split();
            let mut received = Vec::new();
            let writing = async {
                write.write_all(&answered).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), read) = tokio::join!(writing, read.read_to_end(&mut received));
            read.unwrap();
            assert!(received == sent);
        };
        let mut relay = joined(downstream, upstream);
        let (over, (), ()) = tokio::join!(run(&mut relay), client, server);
        assert_eq!(over, Over::Closed);
        assert_eq!(relay.moved(), (3_000_001, 2_000_003));
    });
}

#[test]
fn an_end_of_one_direction_leaves_the_other_open() {
    on_worker(async {
        let link = link().await;
        let ((mut send, mut recv), downstream) = link.stream().await;
        let (mut endpoint, upstream) = connection().await;
        let talk = async {
            send.write_all(b"question").await.unwrap();
            send.finish().unwrap();
            let mut question = String::new();
            endpoint.read_to_string(&mut question).await.unwrap();
            endpoint.write_all(b"a late answer to ").await.unwrap();
            endpoint.write_all(question.as_bytes()).await.unwrap();
            drop(endpoint);
            assert_eq!(recv.read_to_end(100).await.unwrap(), b"a late answer to question");
        };
        let mut relay = joined(downstream, upstream);
        let (over, ()) = tokio::join!(run(&mut relay), talk);
        assert_eq!(over, Over::Closed);
    });
}

#[test]
fn a_reset_stream_resets_the_tcp_connection_and_returns_its_code() {
    on_worker(async {
        let link = link().await;
        let ((mut send, mut recv), downstream) = link.stream().await;
        let (mut endpoint, upstream) = connection().await;
        let mut relay = joined(downstream, upstream);
        let talk = async {
            send.write_all(b"half of").await.unwrap();
            endpoint.read_exact(&mut [0; 7]).await.unwrap();
            send.reset(VarInt::from_u32(77)).unwrap();
        };
        let (over, ()) = tokio::join!(run(&mut relay), talk);
        assert_eq!(over, Over::Broken(Side::Downstream, 77));
        drop(relay);
        assert_eq!(endpoint.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(recv.read(&mut [0; 8]).await, Err(quinn::ReadError::Reset(VarInt::from_u32(77))));
    });
}

#[test]
fn a_reset_tcp_connection_cuts_both_parts_of_the_stream() {
    on_worker(async {
        let link = link().await;
        let ((mut send, mut recv), downstream) = link.stream().await;
        let (endpoint, upstream) = connection().await;
        endpoint.set_zero_linger().unwrap();
        drop(endpoint);
        let mut relay = joined(downstream, upstream);
        let code = StreamCode::Reset.number();
        assert_eq!(run(&mut relay).await, Over::Broken(Side::Upstream, code));
        let code = VarInt::from_u64(code).unwrap();
        assert_eq!(recv.read(&mut [0; 8]).await, Err(quinn::ReadError::Reset(code)));
        assert_eq!(send.stopped().await, Ok(Some(code)));
        let _ = send.reset(code);
    });
}

#[test]
fn who_wants_no_answer_may_still_send() {
    on_worker(async {
        let link = link().await;
        let ((mut send, mut recv), downstream) = link.stream().await;
        let (mut endpoint, upstream) = connection().await;
        let mut relay = joined(downstream, upstream);
        let talk = async {
            recv.stop(VarInt::from_u32(5)).unwrap();
            // More than every buffer on the way holds: it is not left to stand.
            endpoint.write_all(&bytes(8_000_000)).await.unwrap();
            send.write_all(b"still here").await.unwrap();
            let mut received = [0; 10];
            endpoint.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"still here");
            send.finish().unwrap();
        };
        let (over, ()) = tokio::join!(run(&mut relay), talk);
        assert_eq!(over, Over::Cut(Side::Downstream, 5));
        assert_eq!(relay.moved().0, 10);
    });
}

#[test]
fn between_streams_each_direction_is_cut_by_itself_with_its_code() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        let ((mut send, mut recv), downstream) = front.stream().await;
        let ((mut answer, mut asked), upstream) = back.stream().await;
        let mut relay = joined(downstream, upstream);
        let talk = async {
            send.write_all(b"partial").await.unwrap();
            asked.read_exact(&mut [0; 7]).await.unwrap();
            send.reset(VarInt::from_u32(41)).unwrap();
            assert_eq!(asked.read(&mut [0; 8]).await, Err(quinn::ReadError::Reset(VarInt::from_u32(41))));
            // The other direction goes on, until its reader stops it.
            answer.write_all(b"answer").await.unwrap();
            recv.read_exact(&mut [0; 6]).await.unwrap();
            recv.stop(VarInt::from_u32(42)).unwrap();
            assert_eq!(answer.stopped().await, Ok(Some(VarInt::from_u32(42))));
        };
        let (over, ()) = tokio::join!(run(&mut relay), talk);
        assert_eq!(over, Over::Cut(Side::Downstream, 41));
    });
}

#[test]
fn who_does_not_read_holds_no_more_than_windows_and_one_buffer() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        let ((mut send, _recv), downstream) = front.stream().await;
        let ((_answer, _asked), upstream) = back.stream().await;
        let stop = tokio::sync::Notify::new();
        let filling = async {
            let mut taken = 0;
            let piece = [7; 1000];
            while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), send.write(&piece)).await {
                taken += written.unwrap();
            }
            stop.notify_one();
            taken
        };
        let mut relay = joined(downstream, upstream);
        let (over, taken) = tokio::join!(relay.run(LONG, stop.notified(), |_, _| {}), filling);
        assert_eq!(over, Over::Stopped(()));
        // The window of each stream, and what the relay holds.
        assert!(taken <= 2 * WINDOW as usize + 16 * 1024 + 1000, "{taken}");
    });
}

#[test]
fn what_a_refusing_endpoint_got_is_sent_to_another() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        let ((mut send, mut recv), downstream) = front.stream().await;
        let ((mut answer, mut asked), upstream) = back.stream().await;
        let mut relay = Relay::new(downstream);
        relay.join(upstream, Vec::new(), Keeps::First);
        send.write_all(b"question").await.unwrap();
        send.finish().unwrap();
        let closing = StreamCode::Closing.number();
        let refusing = async {
            asked.read_exact(&mut [0; 8]).await.unwrap();
            asked.stop(VarInt::from_u64(closing).unwrap()).ok();
            answer.reset(VarInt::from_u64(closing).unwrap()).unwrap();
        };
        let (over, ()) = tokio::join!(relay.run(LONG, pending::<()>(), |_, _| {}), refusing);
        assert_eq!(over, Over::Broken(Side::Upstream, closing));
        assert!(relay.take_back(closing));
        let (mut endpoint, upstream) = connection().await;
        relay.join(upstream, Vec::new(), Keeps::Nothing);
        let talk = async {
            let mut question = String::new();
            endpoint.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            endpoint.write_all(b"answer").await.unwrap();
            drop(endpoint);
            assert_eq!(recv.read_to_end(100).await.unwrap(), b"answer");
        };
        let (over, ()) = tokio::join!(run(&mut relay), talk);
        assert_eq!(over, Over::Closed);
        assert_eq!(relay.moved(), (8, 6));
    });
}

#[test]
fn nothing_is_taken_back_once_the_endpoint_answered_or_where_too_much_was_sent() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        let closing = VarInt::from_u64(StreamCode::Closing.number()).unwrap();
        for answers in [true, false] {
            let ((mut send, mut recv), downstream) = front.stream().await;
            let ((mut answer, mut asked), upstream) = back.stream().await;
            let mut relay = Relay::new(downstream);
            relay.join(upstream, Vec::new(), Keeps::First);
            let talk = async {
                let sent = if answers { 8 } else { REPLAY + 1 };
                send.write_all(&bytes(sent)).await.unwrap();
                asked.read_exact(&mut vec![0; sent]).await.unwrap();
                if answers {
                    answer.write_all(b"!").await.unwrap();
                    recv.read_exact(&mut [0]).await.unwrap();
                }
                answer.reset(closing).unwrap();
                asked.stop(closing).unwrap();
                // It goes through to the client.
                assert_eq!(recv.read(&mut [0; 8]).await, Err(quinn::ReadError::Reset(closing)));
            };
            let (over, ()) = tokio::join!(run(&mut relay), talk);
            assert_eq!(over, Over::Cut(Side::Upstream, closing.into_inner()));
            assert!(!relay.take_back(closing.into_inner()));
        }
    });
}

#[test]
fn no_more_is_taken_than_can_be_sent_again_until_the_endpoint_is_known_to_take_it() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        let ((mut send, _recv), downstream) = front.stream().await;
        let ((_answer, mut asked), upstream) = back.stream().await;
        let flag = Rc::<Flag>::default();
        let mut relay = Relay::new(downstream);
        relay.join(upstream, Vec::new(), Keeps::AllUntil(Rc::clone(&flag)));
        let sent = bytes(3 * REPLAY);
        let talk = async {
            send.write_all(&sent).await.unwrap();
            let mut received = vec![0; REPLAY];
            asked.read_exact(&mut received).await.unwrap();
            let more = tokio::time::timeout(Duration::from_millis(100), asked.read(&mut [0])).await;
            assert!(more.is_err(), "more was sent than is kept");
            flag.raise();
            let mut rest = vec![0; 2 * REPLAY];
            asked.read_exact(&mut rest).await.unwrap();
            received.extend(rest);
            assert!(received == sent);
        };
        // Whoever raises the flag wakes the relay.
        let stop = poll_fn(|cx| {
            if flag.is_raised() {
                return Poll::Pending;
            }
            pin!(flag.raised()).poll(cx)
        });
        tokio::select! {
            over = relay.run(LONG, stop, |_, _| {}) => panic!("{over:?}"),
            () = talk => {}
        }
    });
}

#[test]
fn a_lost_connection_breaks_what_it_carried_with_the_code_it_closed_with() {
    on_worker(async {
        let link = link().await;
        let ((_send, _recv), downstream) = link.stream().await;
        let (mut endpoint, upstream) = connection().await;
        let mut relay = joined(downstream, upstream);
        let closing = async { link.far.close(VarInt::from_u32(99), b"bye") };
        let (over, ()) = tokio::join!(run(&mut relay), closing);
        assert_eq!(over, Over::Broken(Side::Downstream, 99));
        drop(relay);
        assert_eq!(endpoint.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_relay_that_is_dropped_never_ends_a_stream_as_if_it_were_whole() {
    on_worker(async {
        let link = link().await;
        let ((_send, mut recv), downstream) = link.stream().await;
        let (_endpoint, upstream) = connection().await;
        drop(joined(downstream, upstream));
        let code = VarInt::from_u64(StreamCode::Internal.number()).unwrap();
        assert_eq!(recv.read(&mut [0; 8]).await, Err(quinn::ReadError::Reset(code)));
    });
}

#[test]
fn only_silence_ends_an_idle_relay_and_says_whose_it_was() {
    on_worker(async {
        let link = link().await;
        let ((mut send, _recv), downstream) = link.stream().await;
        let (mut endpoint, upstream) = connection().await;
        let mut relay = joined(downstream, upstream);
        let asking = async {
            send.write_all(b"anybody?").await.unwrap();
            endpoint.read_exact(&mut [0; 8]).await.unwrap();
        };
        let relaying = relay.run(Duration::from_millis(200), pending::<()>(), |_, _| {});
        let (over, ()) = tokio::join!(relaying, asking);
        assert_eq!(over, Over::Idle(Side::Upstream, false));
    });
}

#[test]
fn unidirectional_streams_are_passed_with_their_end_and_their_reset() {
    on_worker(async {
        let (front, back) = (link().await, link().await);
        for whole in [true, false] {
            let mut send = front.far.open_uni().await.unwrap();
            send.write_all(b"one way").await.unwrap();
            let source = End::Stream(Stream::incoming(front.near.accept_uni().await.unwrap()));
            let sink = End::Stream(Stream::outgoing(back.near.open_uni().await.unwrap()));
            let mut relay = Relay::upward(source);
            relay.join(sink, Vec::new(), Keeps::Nothing);
            let talk = async {
                let mut recv = back.far.accept_uni().await.unwrap();
                let mut received = [0; 7];
                recv.read_exact(&mut received).await.unwrap();
                assert_eq!(&received, b"one way");
                if whole {
                    send.finish().unwrap();
                    assert_eq!(recv.read(&mut received).await, Ok(None));
                } else {
                    send.reset(VarInt::from_u32(3)).unwrap();
                    assert_eq!(recv.read(&mut received).await, Err(quinn::ReadError::Reset(VarInt::from_u32(3))));
                }
            };
            let (over, ()) = tokio::join!(run(&mut relay), talk);
            assert_eq!(over, if whole { Over::Closed } else { Over::Cut(Side::Downstream, 3) });
        }
    });
}
