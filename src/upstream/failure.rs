//! Maps hyper's errors while sending a request to `base::Error`: whose fault, and whether a retry is safe. Judged by
//! types and states, never by message texts.

use std::error::Error as StdError;

use h2::Reason;

use crate::base::error::{Error, Kind, Retry};
use crate::http3::{self, Code, Scope, Side};

/// What is known of the exchange beside the error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The connection had served requests before.
    pub(super) reused: bool,
    /// A byte came from the endpoint since the request began.
    pub(super) received: bool,
}

impl Progress {
    /// A connection that breaks before the first byte of an answer was most likely closed as idle while the request was
    /// on its way (RFC 9112 §9.3.1): safe again where the method is. A fresh one was not idle.
    fn retry(self) -> Retry {
        if self.reused && !self.received { Retry::IfReused } else { Retry::Never }
    }
}

/// The request did not leave: the connection was gone before it was its turn.
pub(super) fn not_sent(error: hyper::Error) -> Error {
    let reason = "the connection to the endpoint was closed before the request was sent";
    Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason).because(error)
}

/// As [`not_sent`], where the connection was found gone without an error of its own.
pub(super) fn session_gone() -> Error {
    let reason = "the connection to the endpoint was closed before the request was sent";
    Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason)
}

/// The request was under way on an HTTP/1 connection and no answer came of it.
pub(super) fn http1(error: hyper::Error, progress: Progress) -> Error {
    if let Some(own) = from_body(&error) {
        return own.because(error);
    }
    let (kind, retry, reason) = if error.is_parse_too_large() {
        let reason = "the head of the response is larger than allowed";
        (Kind::HttpResponseHeaderSectionSize, Retry::Never, reason)
    } else if error.is_parse() {
        (Kind::HttpProtocolError, Retry::Never, "the answer is not valid HTTP/1")
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() || error.is_user() {
        let reason = "the endpoint closed the connection before it answered";
        (Kind::ConnectionTerminated, progress.retry(), reason)
    } else if find::<std::io::Error>(&error).is_some() {
        let reason = "the connection to the endpoint broke before it answered";
        (Kind::ConnectionTerminated, progress.retry(), reason)
    } else {
        (Kind::HttpProtocolError, Retry::Never, "the endpoint sent what is no answer")
    };
    Error::upstream(kind, retry, reason).because(error)
}

/// The request was under way on an HTTP/2 stream and no answer came of it. Says also whether the whole session is of no
/// further use.
pub(super) fn http2(error: hyper::Error, progress: Progress) -> (Error, bool) {
    if let Some(own) = from_body(&error) {
        return (own.because(error), false);
    }
    let Some(cause) = find::<h2::Error>(&error) else {
        let reason = "the connection to the endpoint broke before it answered";
        return (Error::upstream(Kind::ConnectionTerminated, progress.retry(), reason).because(error), true);
    };
    // Above the last stream that a GOAWAY names nothing was processed (RFC 9113 §6.8); below it hyper waits on.
    if cause.is_go_away() && cause.is_remote() {
        let reason = "the endpoint went away before it took the request";
        return (Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason).because(error), true);
    }
    if cause.is_go_away() {
        let reason = "the endpoint violated HTTP/2";
        return (Error::upstream(Kind::HttpProtocolError, Retry::Never, reason).because(error), true);
    }
    if cause.is_reset() && cause.is_remote() {
        return (reset(cause.reason()).because(error), false);
    }
    if cause.is_reset() && cause.is_library() {
        let reason = "the answer is not valid HTTP/2";
        return (Error::upstream(Kind::HttpProtocolError, Retry::Never, reason).because(error), false);
    }
    if cause.is_reset() {
        // We reset it ourselves: hyper does so when the request's body fails, and keeps the cause to itself.
        let reason = "the client's request ended before it was complete";
        return (Error::downstream(Kind::ClientGone, reason).because(error), false);
    }
    let reason = "the connection to the endpoint broke before it answered";
    (Error::upstream(Kind::ConnectionTerminated, progress.retry(), reason).because(error), true)
}

/// The endpoint said of an HTTP/3 request that it did not take it (RFC 9114 §4.1.1, §5.2).
pub(super) fn not_taken(error: http3::Error) -> Error {
    let reason = match error.code() {
        Code::REQUEST_REJECTED => "the endpoint refused the stream",
        _ => "the connection to the endpoint was closed before the request was sent",
    };
    Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason).because(error)
}

/// The request was under way on an HTTP/3 stream and no answer came of it.
pub(super) fn http3(error: http3::Error, progress: Progress) -> Error {
    let (kind, retry, reason) = match (error.scope(), error.side()) {
        (Scope::Stream, Side::Remote) => return reset_http3(error.code()).because(error),
        (Scope::Stream, Side::Local) => match error.code() {
            // RFC 9114 §5.2: a GOAWAY says so of a request whose body was on its way.
            Code::REQUEST_REJECTED => return not_taken(error),
            // We reset it ourselves, as the request's body failed; its cause is known elsewhere.
            Code::REQUEST_CANCELLED => {
                let reason = "the client's request ended before it was complete";
                return Error::downstream(Kind::ClientGone, reason).because(error);
            }
            Code::EXCESSIVE_LOAD => {
                let reason = "the head of the response is larger than allowed";
                (Kind::HttpResponseHeaderSectionSize, Retry::Never, reason)
            }
            _ => (Kind::HttpProtocolError, Retry::Never, "the answer is not valid HTTP/3"),
        },
        (Scope::Connection, Side::Local) if error.code() != Code::NO_ERROR => {
            (Kind::HttpProtocolError, Retry::Never, "the endpoint violated HTTP/3")
        }
        (Scope::Connection, _) if error.is_timeout() => {
            (Kind::ConnectionTerminated, progress.retry(), "the endpoint fell silent before it answered")
        }
        (Scope::Connection, _) => {
            (Kind::ConnectionTerminated, progress.retry(), "the connection to the endpoint broke before it answered")
        }
    };
    Error::upstream(kind, retry, reason).because(error)
}

/// What a RESET_STREAM in the place of an answer means.
fn reset_http3(code: Code) -> Error {
    match code {
        // RFC 9114 §4.1.1: rejected without any processing, so safe to send again.
        Code::REQUEST_REJECTED => {
            Error::upstream(Kind::ConnectionTerminated, Retry::Always, "the endpoint refused the stream")
        }
        Code::GENERAL_PROTOCOL_ERROR
        | Code::FRAME_UNEXPECTED
        | Code::FRAME_ERROR
        | Code::REQUEST_INCOMPLETE
        | Code::MESSAGE_ERROR => {
            let reason = "the endpoint reset the stream for a protocol error";
            Error::upstream(Kind::HttpProtocolError, Retry::Never, reason)
        }
        _ => {
            let reason = "the endpoint reset the stream before it answered";
            Error::upstream(Kind::ConnectionTerminated, Retry::Never, reason)
        }
    }
}

/// What a RST_STREAM in the place of an answer means.
fn reset(reason: Option<Reason>) -> Error {
    match reason {
        // RFC 9113 §8.7: refused before any processing, so safe to send again.
        Some(Reason::REFUSED_STREAM) => {
            Error::upstream(Kind::ConnectionTerminated, Retry::Always, "the endpoint refused the stream")
        }
        Some(
            Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::COMPRESSION_ERROR,
        ) => {
            let reason = "the endpoint reset the stream for a protocol error";
            Error::upstream(Kind::HttpProtocolError, Retry::Never, reason)
        }
        _ => {
            let reason = "the endpoint reset the stream before it answered";
            Error::upstream(Kind::ConnectionTerminated, Retry::Never, reason)
        }
    }
}

/// An error that the request's body raised: it is the body's, not the endpoint's.
fn from_body(error: &hyper::Error) -> Option<Error> {
    find::<Error>(error).map(Error::restated)
}

/// The first cause of this type.
fn find<E: StdError + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
