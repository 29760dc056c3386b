//! Requests that are malformed, ambiguous or not ours: refused with 400 before an origin hears of them; on HTTP/1 the
//! connection ends, on HTTP/2 the stream.

use http::{Method, Request, Response, Uri};
use tidegate::body::incoming::Incoming;

use crate::support::body::{Sent, receive};
use crate::support::client::{Reply, get, of, with};
use crate::support::frames;
use crate::support::origin::{echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::raw::{Message, Raw};
use crate::support::tests;

tests! {
    a_request_without_host_is_refused,
    two_host_lines_are_refused,
    an_invalid_host_is_refused,
    a_length_with_a_coding_is_refused,
    differing_lengths_are_refused,
    a_length_that_is_no_number_is_refused,
    a_coding_other_than_chunked_is_refused,
    a_coding_on_http_1_0_is_refused,
    bare_line_feeds_are_refused,
    control_characters_are_refused,
    folded_lines_and_odd_names_are_refused,
    broken_request_lines_are_refused,
    dot_segments_are_refused,
    connect_is_not_offered,
    userinfo_is_refused,
    broken_chunks_end_the_exchange,
    a_line_feed_alone_in_trailers_hides_no_request,
    nothing_behind_a_refused_head_is_read,
    a_refused_head_waits_for_the_answer_before_it,
    trailers_that_would_frame_a_message_do_not_pass,
    authority_and_host_that_differ_are_refused_on_http2,
    connection_fields_are_refused_on_http2,
    tls_on_a_cleartext_port_is_refused,
    a_refusal_speaks_the_form_that_is_asked_for,
}

async fn scene() -> Scene {
    Pair::PLAIN.scene(ok).await
}

/// Sends bytes on a connection of their own; sees that they are refused, and that the connection ends.
async fn refused(scene: &Scene, bytes: impl AsRef<[u8]>) -> Message {
    let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
    let mut raw = scene.raw().await;
    raw.send(bytes).await;
    let answer = raw.response().await.unwrap_or_else(|| panic!("no answer to {shown:?}"));
    assert_eq!(answer.status(), 400, "{shown:?}");
    assert_eq!(answer.field("connection"), Some("close"), "{shown:?}");
    assert!(answer.field("proxy-status").unwrap().starts_with("tidegate; error=http_request_error;"), "{shown:?}");
    raw.closed().await;
    assert!(scene.origin.seen().is_empty(), "the origin heard of {shown:?}");
    answer
}

/// PITFALLS 1.
async fn a_request_without_host_is_refused() {
    refused(&scene().await, "GET / HTTP/1.1\r\n\r\n").await;
    refused(&scene().await, "GET http://example.org/ HTTP/1.1\r\n\r\n").await;
}

/// PITFALLS 1.
async fn two_host_lines_are_refused() {
    let scene = scene().await;
    refused(&scene, "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n").await;
    refused(&scene, "GET / HTTP/1.1\r\nHost: a.test\r\nhost: a.test\r\n\r\n").await;
}

/// PITFALLS 1.
async fn an_invalid_host_is_refused() {
    let scene = scene().await;
    for host in ["", "a b", "a/b", "a:port", "a:99999", "a,b", "[::1", "a\"b", "exa..mple.org", "%61.test"] {
        refused(&scene, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    }
}

/// PITFALLS 2.
async fn a_length_with_a_coding_is_refused() {
    let scene = scene().await;
    let body = "0\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-encoding: chunked\r\nX-A: b\r\ncontent-Length: 0",
    ] {
        refused(&scene, format!("POST / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n\r\n{body}")).await;
    }
}

async fn differing_lengths_are_refused() {
    let scene = scene().await;
    for fields in ["Content-Length: 1\r\nContent-Length: 2", "Content-Length: 1, 2", "Content-Length: 1, 1"] {
        refused(&scene, format!("POST / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n\r\nab")).await;
    }
}

async fn a_length_that_is_no_number_is_refused() {
    let scene = scene().await;
    for length in ["+1", "-1", "0x1", "1 1", "", "99999999999999999999"] {
        refused(&scene, format!("POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: {length}\r\n\r\na")).await;
    }
}

/// PITFALLS 4.
async fn a_coding_other_than_chunked_is_refused() {
    let scene = scene().await;
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "identity",
        "xchunked",
        "chunked;q=1",
        "",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(&scene, head).await;
    }
}

async fn a_coding_on_http_1_0_is_refused() {
    refused(&scene().await, "POST / HTTP/1.0\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        .await;
}

/// PITFALLS 5.
async fn bare_line_feeds_are_refused() {
    let scene = scene().await;
    refused(&scene, "GET / HTTP/1.1\nHost: example.org\n\n").await;
    refused(&scene, "GET / HTTP/1.1\r\nHost: example.org\nX-A: b\r\n\r\n").await;
    refused(&scene, "GET / HTTP/1.1\r\nHost: example.org\r\n\n").await;
}

async fn control_characters_are_refused() {
    let scene = scene().await;
    for value in ["a\0b", "a\rb", "a\x0bb", "a\x7fb"] {
        refused(&scene, format!("GET / HTTP/1.1\r\nHost: example.org\r\nX-A: {value}\r\n\r\n")).await;
    }
}

async fn folded_lines_and_odd_names_are_refused() {
    let scene = scene().await;
    for fields in ["X-A: b\r\n c", "X-A : b", " X-A: b", ": b", "X A: b", "X-A", "X-\u{e4}: b"] {
        refused(&scene, format!("GET / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n\r\n")).await;
    }
}

async fn broken_request_lines_are_refused() {
    let scene = scene().await;
    for line in [
        "GET  / HTTP/1.1",
        "GET /",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET /#fragment HTTP/1.1",
        "GET \\ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET ftp://example.org/ HTTP/1.1",
        "GET example.org HTTP/1.1",
    ] {
        refused(&scene, format!("{line}\r\nHost: example.org\r\n\r\n")).await;
    }
}

async fn dot_segments_are_refused() {
    let scene = scene().await;
    for path in ["/a/../b", "/..", "/%2e%2e/b", "/a/..%2fb", "/a/.;x/b", "/a%5c..%5cb", "/%00", "/%4"] {
        refused(&scene, format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n")).await;
    }
}

async fn connect_is_not_offered() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    raw.send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 501);
    assert!(scene.origin.seen().is_empty());
}

async fn userinfo_is_refused() {
    refused(&scene().await, "GET http://me@example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
}

async fn broken_chunks_end_the_exchange() {
    let scene = Pair::PLAIN.scene(echo).await;
    for body in
        ["5\nhello\r\n0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "-1\r\n", "fffffffffffffffff\r\n", "5 5\r\nhello\r\n"]
    {
        let mut raw = scene.raw().await;
        let head = "POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n";
        raw.send(format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: example.org\r\n\r\n")).await;
        let (rest, _) = raw.rest().await;
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("200 OK"), "{body:?}: {text}");
    }
    assert!(scene.origin.seen().iter().all(|seen| seen.uri.path() == "/"), "{:?}", scene.origin.seen());
}

/// One reader sees the end of the message and another request, another one a trailer section that goes on.
async fn a_line_feed_alone_in_trailers_hides_no_request() {
    let scene = Pair::PLAIN.scene(echo).await;
    for trailers in ["X: 1\n\r\n", "\n", "X: 1\n\n", "X: 1\r\nY: 2\n\r\n"] {
        let mut raw = scene.raw().await;
        let head = "POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
        raw.send(format!("{head}{trailers}GET /smuggled HTTP/1.1\r\nHost: example.org\r\n\r\n")).await;
        let answer = raw.response().await.unwrap();
        assert_eq!(answer.status(), 400, "{trailers:?}");
        let (rest, _) = raw.rest().await;
        assert!(rest.is_empty(), "{trailers:?}: {}", String::from_utf8_lossy(&rest));
    }
    assert!(scene.origin.seen().iter().all(|seen| seen.uri.path() == "/"), "{:?}", scene.origin.seen());
}

async fn nothing_behind_a_refused_head_is_read() {
    let scene = scene().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: example.org\r\n\r\n";
    let head = "POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n";
    refused(&scene, format!("{head}0\r\n\r\n{smuggled}")).await;
}

async fn a_refused_head_waits_for_the_answer_before_it() {
    let scene = Pair::PLAIN.scene(echo).await;
    let mut raw = scene.raw().await;
    raw.send("GET /first HTTP/1.1\r\nHost: example.org\r\n\r\nGET /second HTTP/1.1\r\n\r\n").await;
    let first = raw.response().await.unwrap();
    assert_eq!(first.status(), 200);
    assert!(first.text().starts_with("GET /first\n"));
    assert_eq!(raw.response().await.unwrap().status(), 400);
    raw.closed().await;
    assert_eq!(scene.origin.count(), 1);
}

/// PITFALLS 6.
async fn trailers_that_would_frame_a_message_do_not_pass() {
    let scene = Pair { down: Downstream::H1, up: Upstream::Http2 }
        .scene(async |request: Request<Incoming>| {
            let trailers = receive(request.into_body()).await.trailers;
            let names: Vec<_> = trailers.iter().flat_map(|fields| fields.keys()).map(|name| name.as_str()).collect();
            Response::new(names.join(" ").into())
        })
        .await;
    let mut raw = scene.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n").await;
    raw.send(
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\nAuthorization: x\r\nX-Ok: 1\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response().await.unwrap().text(), "x-ok");
}

/// PITFALLS 25.
async fn authority_and_host_that_differ_are_refused_on_http2() {
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(echo).await;
    let mut sender = scene.client.another();
    let mut ask = async |host: &'static str| {
        let uri: Uri = "http://example.org/".parse().unwrap();
        let request = Request::builder().uri(uri).header("host", host).body(Sent::empty()).unwrap();
        Reply::take(sender.send_request(request).await.unwrap()).await
    };
    ask("evil.test").await.is_fault(400, "http_request_error");
    assert!(scene.origin.seen().is_empty());
    assert_eq!(ask("example.org").await.status(), 200, "the stream alone ends");
}

/// PITFALLS 25.
async fn connection_fields_are_refused_on_http2() {
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(echo).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    let fields = [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"), ("upgrade", "websocket")];
    for (number, field) in fields.iter().enumerate() {
        let stream = 2 * number as u32 + 1;
        let flags = frames::END_HEADERS | frames::END_STREAM;
        raw.send(frames::frame(frames::HEADERS, flags, stream, &frames::get(&[*field]))).await;
        let verdict = frames::verdict(&mut raw, stream).await;
        let is_refused = verdict.kind == frames::RST_STREAM || verdict.payload[0] == frames::STATUS_400;
        assert!(is_refused, "{field:?}: {verdict:?}");
    }
    assert!(scene.origin.seen().is_empty(), "{:?}", scene.origin.seen());
}

async fn tls_on_a_cleartext_port_is_refused() {
    let scene = scene().await;
    let mut raw = Raw::connect(scene.proxy.address()).await;
    raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert_eq!(raw.response().await.unwrap().status(), 400);
}

async fn a_refusal_speaks_the_form_that_is_asked_for() {
    let mut scene =
        Pair::PLAIN.planned(|plan| plan.routes("[[route]]\nhost = \"other.test\"\nupstream = \"origin\""), ok).await;
    for (accept, kind) in [
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "text/plain; charset=utf-8"),
    ] {
        let reply = scene.client.call(with(get("/"), "accept", accept)).await;
        reply.is_fault(404, "destination_not_found");
        assert_eq!(reply.field("content-type"), Some(kind));
        assert!(!reply.body.is_empty());
    }
    let reply = scene.client.call(of(Method::HEAD, "/", Sent::empty())).await;
    reply.is_fault(404, "destination_not_found");
    assert!(reply.body.is_empty());
}
