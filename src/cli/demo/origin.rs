//! The demo's origin: a small HTTP/1.1 and HTTP/2 (prior knowledge) server on a loopback port and a thread of its own.
//! It answers with what it received, to show what the proxy sent.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::payload::Payload;

/// A running origin; it lives as long as the process.
#[derive(Debug)]
pub struct Origin {
    /// Where it answers.
    pub address: SocketAddr,
}

impl Origin {
    /// Starts it on a free loopback port.
    ///
    /// # Errors
    /// The system gave no port, no thread or no event queue.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("demo-origin".into()).spawn(move || runtime.block_on(accept(listener)))?;
        Ok(Self { address })
    }
}

async fn accept(listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the demo origin cannot listen"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream));
            }
            Err(error) => {
                tracing::warn!(%error, "the demo origin cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream) {
    let Ok(is_http2) = begins_http2(&stream).await else { return };
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    let ended = if is_http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service_fn(answer)).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(answer)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the demo origin ended");
    }
}

/// RFC 9113 §3.4: an HTTP/2 client with prior knowledge begins with `PRI `, which is no HTTP/1 method.
async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 4];
    loop {
        let length = stream.peek(&mut start).await?;
        if length == start.len() || !b"PRI ".starts_with(&start[..length]) || length == 0 {
            return Ok(start == *b"PRI ");
        }
        // Peeked bytes stay readable, so that a second peek would return at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Payload>, Infallible> {
    let path = request.uri().path();
    Ok(match path {
        "/" => reply("text/html; charset=utf-8", Payload::whole(PAGE)),
        "/stream" => reply("text/plain; charset=utf-8", Payload::paced(Duration::from_millis(100), stream_line)),
        "/events" => reply("text/event-stream", Payload::paced(Duration::from_secs(1), event)),
        _ => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(length)) => reply("application/octet-stream", Payload::fill(length)),
            Some(Err(_)) => {
                let mut refusal =
                    reply("text/plain; charset=utf-8", Payload::whole("/bytes/N: N is a number of bytes\n"));
                *refusal.status_mut() = StatusCode::BAD_REQUEST;
                refusal
            }
            None => reply("application/json", Payload::whole(echo(request).await)),
        },
    })
}

fn reply(content_type: &'static str, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn stream_line(sent: u64) -> Option<Bytes> {
    (sent < STREAM_LINES).then(|| format!("{} of {STREAM_LINES}\n", sent + 1).into())
}

fn event(sent: u64) -> Option<Bytes> {
    Some(format!("id: {sent}\nevent: tide\ndata: {{\"second\": {sent}}}\n\n").into())
}

/// The request as it arrived here, as JSON.
async fn echo(request: Request<Incoming>) -> String {
    let (head, mut body) = request.into_parts();
    let mut preview = Vec::new();
    let mut length = 0_u64;
    let mut is_complete = true;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            is_complete = false;
            break;
        };
        let Some(data) = frame.data_ref() else { continue };
        length += data.len() as u64;
        preview.extend_from_slice(&data[..data.len().min(PREVIEW_BYTES - preview.len())]);
    }
    let mut json = String::from("{\n");
    let _ = writeln!(json, "  \"method\": {},", quoted(head.method.as_str()));
    let _ = writeln!(json, "  \"target\": {},", quoted(&head.uri.to_string()));
    let _ = writeln!(json, "  \"version\": {},", quoted(&format!("{:?}", head.version)));
    let _ = writeln!(json, "  \"headers\": {},", fields(&head.headers));
    let _ = writeln!(json, "  \"body_bytes\": {length},");
    let _ = writeln!(json, "  \"body_complete\": {is_complete},");
    let _ = writeln!(json, "  \"body_start\": {}", quoted(&String::from_utf8_lossy(&preview)));
    json.push_str("}\n");
    json
}

fn fields(headers: &HeaderMap) -> String {
    let mut json = String::from("{");
    for (number, name) in headers.keys().enumerate() {
        let values: Vec<String> =
            headers.get_all(name).iter().map(|value| quoted(&String::from_utf8_lossy(value.as_bytes()))).collect();
        let value = if let [one] = &values[..] { one.clone() } else { format!("[{}]", values.join(", ")) };
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(json, "{comma}\n    {}: {value}", quoted(name.as_str()));
    }
    json.push_str("\n  }");
    json
}

/// RFC 8259 §7.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            '\n' => json.push_str("\\n"),
            control if control < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

/// Of a request body, in the echo.
const PREVIEW_BYTES: usize = 1024;

const STREAM_LINES: u64 = 20;

const PAGE: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_text_is_escaped() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é"), "\"a\\\"b\\\\c\\nd\\u0001é\"");
    }

    #[test]
    fn repeated_fields_become_a_list() {
        let mut headers = HeaderMap::new();
        headers.append("x-one", "1".parse().unwrap());
        headers.append("x-two", "1".parse().unwrap());
        headers.append("x-two", "2".parse().unwrap());
        assert_eq!(fields(&headers), "{\n    \"x-one\": \"1\",\n    \"x-two\": [\"1\", \"2\"]\n  }");
    }

    #[test]
    fn the_stream_ends_and_the_events_do_not() {
        assert!(stream_line(STREAM_LINES - 1).is_some());
        assert!(stream_line(STREAM_LINES).is_none());
        assert!(event(u64::MAX).is_some());
    }
}
