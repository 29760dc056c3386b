//! Endpoints that misbehave: what comes of them is an error or a connection that ends early, never a wrong message.

use http::StatusCode;

use crate::support::body::Sent;
use crate::support::body::receive;
use crate::support::client::{Client, get, of};
use crate::support::origin::RawOrigin;
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::{End, Raw};
use crate::support::{downstreams, tests};

downstreams! {
    a_response_with_length_and_coding_loses_its_length,
    a_coding_that_we_do_not_undo_is_told_as_502,
    what_is_no_answer_is_told_as_502,
    an_answer_that_ends_in_its_head_is_told_as_502,
    an_unsolicited_101_is_told_as_502,
    an_informational_answer_is_not_the_answer,
    an_answer_that_ends_with_its_connection_is_whole,
    a_chunked_answer_that_ends_early_never_ends_cleanly,
    an_answer_shorter_than_its_length_never_ends_cleanly,
    broken_chunks_never_end_cleanly,
    lengths_that_say_the_same_are_one,
    what_is_no_length_is_told_as_502,
}

tests! {
    a_head_past_its_limit_is_told_as_502,
    an_answer_with_too_many_fields_is_told_as_502,
    differing_lengths_are_told_as_502,
    bytes_behind_an_answer_close_the_connection,
    a_body_on_head_does_not_reach_the_client,
    an_unfinished_answer_to_http_1_1_has_no_last_chunk,
    an_endpoint_with_a_foreign_certificate_is_told_as_502,
    an_endpoint_that_speaks_no_http2_is_told_as_502,
}

async fn before(origin: &RawOrigin, pair: Pair) -> (Proxy, Client) {
    let proxy = pair.plan(&[origin.address()]).start();
    let client = Client::connect(proxy.address(), pair.down).await;
    (proxy, client)
}

/// PITFALLS 3.
async fn a_response_with_length_and_coding_loses_its_length(pair: Pair) {
    for fields in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let origin = RawOrigin::answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n")).await;
        let (_proxy, mut client) = before(&origin, pair).await;
        let reply = client.get("/").await;
        assert_eq!((reply.status(), reply.text()), (StatusCode::OK, "ok"));
        assert_eq!(reply.field("content-length"), None);
    }
}

/// PITFALLS 4.
async fn a_coding_that_we_do_not_undo_is_told_as_502(pair: Pair) {
    for coding in ["gzip, chunked", "chunked, chunked", "gzip"] {
        let origin = RawOrigin::answering_once(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        ))
        .await;
        let (_proxy, mut client) = before(&origin, pair).await;
        client.get("/").await.is_fault(502, "http_protocol_error");
    }
}

async fn what_is_no_answer_is_told_as_502(pair: Pair) {
    for answer in
        ["garbage\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n"]
    {
        let origin = RawOrigin::answering_once(answer).await;
        let (_proxy, mut client) = before(&origin, pair).await;
        client.get("/").await.is_fault(502, "http_protocol_error");
        assert_eq!(origin.connections(), 1);
    }
}

async fn an_answer_that_ends_in_its_head_is_told_as_502(pair: Pair) {
    let origin = RawOrigin::answering_once("HTTP/1.1 200 OK\r\nContent-Le").await;
    let (_proxy, mut client) = before(&origin, pair).await;
    let reply = client.get("/").await;
    assert_eq!(reply.status(), StatusCode::BAD_GATEWAY);
    assert!(reply.field("proxy-status").is_some());
    assert_eq!(origin.connections(), 1);
}

/// PITFALLS 7.
async fn an_unsolicited_101_is_told_as_502(pair: Pair) {
    let origin = RawOrigin::answering_once(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    )
    .await;
    let (_proxy, mut client) = before(&origin, pair).await;
    client.get("/").await.is_fault(502, "http_protocol_error");
}

/// PITFALLS 16.
async fn an_informational_answer_is_not_the_answer(pair: Pair) {
    let origin = RawOrigin::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let (_proxy, mut client) = before(&origin, pair).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
}

async fn an_answer_that_ends_with_its_connection_is_whole(pair: Pair) {
    for version in ["1.0", "1.1"] {
        let origin = RawOrigin::answering_once(format!("HTTP/{version} 200 OK\r\nX-Mark: 1\r\n\r\nall of it")).await;
        let (_proxy, mut client) = before(&origin, pair).await;
        for _ in 0..2 {
            let reply = client.get("/").await;
            assert_eq!((reply.text(), reply.field("x-mark")), ("all of it", Some("1")));
        }
        assert_eq!(origin.connections(), 2);
    }
}

async fn breaks(pair: Pair, answer: &str) {
    let origin = RawOrigin::answering_once(answer).await;
    let (_proxy, mut client) = before(&origin, pair).await;
    match client.send(get("/")).await {
        Ok(response) if response.status() == 200 => {
            let received = receive(response.into_body()).await;
            assert!(received.broken.is_some(), "{answer:?} was taken for whole: {received:?}");
        }
        Ok(response) => assert_eq!(response.status(), StatusCode::BAD_GATEWAY),
        // On HTTP/2 the reset may overtake the head.
        Err(_) => {}
    }
}

async fn a_chunked_answer_that_ends_early_never_ends_cleanly(pair: Pair) {
    breaks(pair, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    breaks(pair, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n").await;
    breaks(pair, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf").await;
}

async fn an_answer_shorter_than_its_length_never_ends_cleanly(pair: Pair) {
    breaks(pair, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
}

async fn broken_chunks_never_end_cleanly(pair: Pair) {
    breaks(pair, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX\r\n0\r\n\r\n").await;
    breaks(pair, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n\r\n").await;
}

/// PITFALLS 10.
async fn a_head_past_its_limit_is_told_as_502() {
    let long = "x".repeat(80 * 1024);
    let origin =
        RawOrigin::answering_once(format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 2\r\n\r\nok")).await;
    let (_proxy, mut client) = before(&origin, Pair::PLAIN).await;
    client.get("/").await.is_fault(502, "http_response_header_section_size");
}

/// PITFALLS 10.
async fn an_answer_with_too_many_fields_is_told_as_502() {
    let fields = "X-Many: 1\r\n".repeat(101);
    let origin = RawOrigin::answering_once(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")).await;
    let (_proxy, mut client) = before(&origin, Pair::PLAIN).await;
    client.get("/").await.is_fault(502, "http_response_header_section_size");
}

async fn differing_lengths_are_told_as_502() {
    let origin =
        RawOrigin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!").await;
    let (_proxy, mut client) = before(&origin, Pair::PLAIN).await;
    client.get("/").await.is_fault(502, "http_protocol_error");
}

/// RFC 9110 §8.6. Two of them on an answer to HEAD once ended the client's connection without a word.
async fn lengths_that_say_the_same_are_one(pair: Pair) {
    for fields in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2, 2", "Content-Length: 2 ,2"] {
        let origin = RawOrigin::answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok")).await;
        let (_proxy, mut client) = before(&origin, pair).await;
        let reply = client.get("/").await;
        assert_eq!((reply.text(), reply.field("content-length")), ("ok", Some("2")), "{fields}");
        let reply = client.call(of(http::Method::HEAD, "/", Sent::empty())).await;
        assert_eq!((reply.status(), reply.field("content-length")), (StatusCode::OK, Some("2")), "{fields}");
    }
}

/// RFC 9112 §6.3: also where no body shows that it is wrong, so that the client is not told it.
async fn what_is_no_length_is_told_as_502(pair: Pair) {
    for length in ["2, 3", "2\r\nContent-Length: 3", "-2", "+2", "two", "", "99999999999999999999"] {
        for status in ["200 OK", "304 Not Modified"] {
            let origin =
                RawOrigin::answering_once(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")).await;
            let (_proxy, mut client) = before(&origin, pair).await;
            client.call(of(http::Method::HEAD, "/", Sent::empty())).await.is_fault(502, "http_protocol_error");
        }
    }
}

/// What comes behind an answer must never be taken for the answer to somebody else's request.
async fn bytes_behind_an_answer_close_the_connection() {
    let origin = RawOrigin::start(async |mut connection: Raw, number| {
        while connection.request().await.is_some() {
            let behind = if number == 0 { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" } else { "" };
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{behind}")).await;
        }
    })
    .await;
    let (_proxy, mut client) = before(&origin, Pair::PLAIN).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(origin.connections(), 2);
}

async fn a_body_on_head_does_not_reach_the_client() {
    let origin = RawOrigin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
    let (_proxy, mut client) = before(&origin, Pair::PLAIN).await;
    for _ in 0..2 {
        let reply = client.call(of(http::Method::HEAD, "/", Sent::empty())).await;
        assert_eq!((reply.field("content-length"), reply.body.len()), (Some("4"), 0));
    }
}

/// What a client without a library sees: chunks, and then the end of the connection in the place of the last one.
async fn an_unfinished_answer_to_http_1_1_has_no_last_chunk() {
    let origin = RawOrigin::answering_once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let (proxy, _client) = before(&origin, Pair::PLAIN).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    let (rest, _end): (_, End) = raw.rest().await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.contains("\r\n0\r\n"), "{text}");
}

async fn an_endpoint_with_a_foreign_certificate_is_told_as_502() {
    let pair = Pair { down: Downstream::H1, up: Upstream::Http2Tls };
    let origin = crate::support::origin::Origin::start(pair.up, crate::support::origin::ok).await;
    for (tls, ok) in [
        ("{ server_name = \"other.test\", ca = \"@/ca.pem\" }", false),
        ("{ ca = \"@/ca.pem\" }", false),
        ("true", false),
        ("{ server_name = \"origin.test\", ca = \"@/ca.pem\" }", true),
        ("{ insecure = true }", true),
    ] {
        let proxy = Plan::to(&[origin.address()]).upstream(&format!("tls = {tls}")).start();
        let mut client = Client::connect(proxy.address(), Downstream::H1).await;
        let reply = client.get("/").await;
        match ok {
            true => assert_eq!(reply.text(), "ok", "{tls}"),
            false => reply.is_fault(502, "tls_certificate_error"),
        }
    }
}

async fn an_endpoint_that_speaks_no_http2_is_told_as_502() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let (_proxy, mut client) = before(&origin, Pair { down: Downstream::H1, up: Upstream::Http2 }).await;
    let reply = client.get("/").await;
    assert_eq!(reply.status(), StatusCode::BAD_GATEWAY, "{}", reply.text());
}
