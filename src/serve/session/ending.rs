//! Maps the end of a session's relay to the outcomes of layer 4.

use crate::base::error::{Error, Kind, Retry};
use crate::base::stream_code::StreamCode;
use crate::protocol::quic_stream::{Over, Relay, Side};

/// How it ended: what went wrong, and why.
pub(super) type Ending = Option<(Kind, &'static str)>;

/// Cuts what is left, and says what it was.
pub(super) fn ending(over: Over<(Kind, &'static str)>, relay: &mut Relay) -> Ending {
    let (code, ending) = match over {
        Over::Closed => return None,
        Over::Cut(Side::Downstream, _) => return Some(GONE),
        Over::Cut(Side::Upstream, code) => return Some(of_code(code)),
        Over::Broken(Side::Downstream, code) if code == StreamCode::TooOld.number() => {
            (code, (Kind::ExchangeTimeout, "it was still open when the time to drain was over"))
        }
        Over::Broken(Side::Downstream, code) => (code, GONE),
        Over::Broken(Side::Upstream, code) => (code, of_code(code)),
        Over::Stopped(why) => (StreamCode::TooOld.number(), why),
        Over::Idle(side, holds) => {
            let why = match (side, holds) {
                (Side::Upstream, true) => (Kind::ConnectionWriteTimeout, "the endpoint took no bytes"),
                (Side::Downstream, true) => (Kind::ClientStall, "the client took no bytes"),
                (Side::Upstream, false) => (Kind::HttpResponseStalled, "nothing came either way, the endpoint's turn"),
                (Side::Downstream, false) => (Kind::ClientStall, "nothing came either way, the client's turn"),
            };
            (StreamCode::Silent.number(), why)
        }
    };
    relay.cut(code);
    Some(ending)
}

const GONE: (Kind, &str) = (Kind::ClientGone, "the client broke the session off");

/// What the code of an endpoint that broke off means: where it is a Tidegate, what it met.
fn of_code(code: u64) -> (Kind, &'static str) {
    match StreamCode::of(code) {
        None | Some(StreamCode::Reset) => (Kind::ConnectionTerminated, "the endpoint broke the session off"),
        Some(StreamCode::Lost) => (Kind::ConnectionTerminated, "the connection to the endpoint was lost"),
        Some(code) => (code.kind(), "the endpoint, a proxy itself, says so"),
    }
}

/// What a refusal by an endpoint comes to, where no other takes its place.
pub(super) fn refused(code: u64) -> Error {
    let (kind, reason) = of_code(code);
    Error::upstream(kind, Retry::Always, reason)
}
