//! HTTP/2 frame by frame, for what no client library would send (RFC 9113 §4.1). Heads are written as literals without
//! compression (RFC 7541 §6.2.2).

use super::raw::Raw;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The first byte of an answer's head where the status is 400: its place in the static table (RFC 7541, appendix A).
pub const STATUS_400: u8 = 0x8c;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The preface with empty settings.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The fields of a GET, and these behind them.
pub fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![(":method", "GET"), (":scheme", "http"), (":authority", "example.org"), (":path", "/")];
    all.extend(fields);
    block(&all)
}

/// The next frame; `None` where the connection ended.
pub async fn next(raw: &mut Raw) -> Option<Frame> {
    let head = raw.exactly(9).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some(Frame { kind: head[3], stream, payload: raw.exactly(length).await? })
}

/// The next frame of a stream that begins an answer or ends it.
pub async fn verdict(raw: &mut Raw, stream: u32) -> Frame {
    loop {
        let frame = next(raw).await.expect("the connection ended before the stream");
        if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
            return frame;
        }
    }
}
