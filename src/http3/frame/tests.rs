use proptest::prelude::*;

use super::*;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(kind, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// All events of a stream that comes in chunks of `size`, pieces of content joined, and how it ends.
fn read(role: Role, stream: &[u8], size: usize) -> (Vec<Event>, Result<(), Error>) {
    let mut frames = RequestFrames::new(role, 100);
    let mut events: Vec<Event> = Vec::new();
    for chunk in stream.chunks(size) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        loop {
            match frames.next(&mut chunk) {
                Ok(Some(Event::Data(data))) => match events.last_mut() {
                    Some(Event::Data(before)) => *before = [&before[..], &data[..]].concat().into(),
                    _ => events.push(Event::Data(data)),
                },
                Ok(Some(event)) => {
                    if event == Event::Head(Bytes::from_static(b"1xx")) {
                        frames.interim();
                    }
                    if event == Event::Head(Bytes::from_static(b"CONNECT")) {
                        frames.tunnel();
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
        assert!(chunk.is_empty());
    }
    (events, frames.finish())
}

fn fault(role: Role, frames: &[Vec<u8>]) -> Code {
    let stream = frames.concat();
    let error = read(role, &stream, stream.len().max(1)).1.unwrap_err();
    for size in 1..stream.len() {
        assert_eq!(read(role, &stream, size).1, Err(error), "in chunks of {size}");
    }
    error.code()
}

fn head(block: &'static str) -> Event {
    Event::Head(Bytes::from(block))
}

#[test]
fn a_request_in_any_pieces() {
    let stream = [
        frame(0x21, b"grease"),
        frame(kind::HEADERS, b"head"),
        frame(kind::DATA, b"hello "),
        frame(kind::DATA, b""),
        frame(0x40_0021, b""),
        frame(kind::DATA, b"world"),
        frame(kind::HEADERS, b"trailers"),
        frame(0x5f, b"?"),
    ]
    .concat();
    let expected = vec![head("head"), Event::Data("hello world".into()), Event::Trailers("trailers".into())];
    for size in 1..=stream.len() {
        assert_eq!(read(Role::Server, &stream, size), (expected.clone(), Ok(())), "in chunks of {size}");
    }
}

#[test]
fn interim_responses_come_before_the_head() {
    let stream = [frame(kind::HEADERS, b"1xx"), frame(kind::HEADERS, b"1xx"), frame(kind::HEADERS, b"head")].concat();
    let events = vec![head("1xx"), head("1xx"), head("head")];
    assert_eq!(read(Role::Client, &stream, 3), (events, Ok(())));
    assert_eq!(fault(Role::Client, &[frame(kind::HEADERS, b"1xx"), frame(kind::DATA, b"x")]), Code::FRAME_UNEXPECTED);
}

#[test]
fn what_may_not_stand_where_it_does() {
    let headers = || frame(kind::HEADERS, b"head");
    let data = || frame(kind::DATA, b"x");
    for role in [Role::Server, Role::Client] {
        assert_eq!(fault(role, &[data()]), Code::FRAME_UNEXPECTED);
        assert_eq!(fault(role, &[headers(), headers(), headers()]), Code::FRAME_UNEXPECTED);
        assert_eq!(fault(role, &[headers(), headers(), data()]), Code::FRAME_UNEXPECTED);
        assert_eq!(fault(role, &[frame(kind::HEADERS, b"CONNECT"), data(), headers()]), Code::FRAME_UNEXPECTED);
        for kind in [
            0x2,
            0x6,
            0x8,
            0x9,
            kind::CANCEL_PUSH,
            kind::SETTINGS,
            kind::GOAWAY,
            kind::MAX_PUSH_ID,
            kind::PRIORITY_UPDATE,
            kind::PRIORITY_UPDATE_PUSH,
        ] {
            assert_eq!(fault(role, &[frame(kind, b"1")]), Code::FRAME_UNEXPECTED, "{kind:#x}");
            assert_eq!(fault(role, &[headers(), data(), frame(kind, b"1")]), Code::FRAME_UNEXPECTED, "{kind:#x}");
        }
    }
    assert_eq!(fault(Role::Server, &[frame(kind::PUSH_PROMISE, b"1")]), Code::FRAME_UNEXPECTED);
    assert_eq!(fault(Role::Client, &[frame(kind::PUSH_PROMISE, b"1")]), Code::ID_ERROR);
}

#[test]
fn a_stream_ends_between_frames_and_after_a_head() {
    let stream = [frame(kind::HEADERS, b"head"), frame(kind::DATA, b"hello"), frame(0x21, b"grease")].concat();
    for end in 0..=stream.len() {
        let ended = read(Role::Server, &stream[..end], 4).1.map_err(|error| (error.code(), error.scope()));
        let expected = match end {
            0 => Err((Code::REQUEST_INCOMPLETE, crate::http3::Scope::Stream)),
            6 | 13 => Ok(()),
            _ if end == stream.len() => Ok(()),
            _ => Err((Code::FRAME_ERROR, crate::http3::Scope::Connection)),
        };
        assert_eq!(ended, expected, "after {end}");
    }
    assert_eq!(read(Role::Client, b"", 1).1.unwrap_err().code(), Code::MESSAGE_ERROR);
}

#[test]
fn a_section_too_long_is_passed_over() {
    let stream = [frame(kind::HEADERS, &[0; 401]), frame(kind::DATA, b"x"), frame(kind::HEADERS, &[0; 401])].concat();
    let expected = vec![Event::HeadTooLong, Event::Data("x".into()), Event::TrailersTooLong];
    assert_eq!(read(Role::Server, &stream, 7), (expected, Ok(())));
    let mut frames = RequestFrames::new(Role::Server, u64::MAX);
    let mut endless = Vec::new();
    write_header(kind::HEADERS, varint::MAX, &mut endless);
    endless.extend_from_slice(b"a little of it");
    assert_eq!(frames.next(&mut endless.into()), Ok(None), "memory is taken for what came");
}

#[test]
fn an_empty_section_is_left_to_the_decoder() {
    assert_eq!(read(Role::Server, &frame(kind::HEADERS, b""), 1), (vec![head("")], Ok(())));
}

#[test]
fn frames_without_content_come_to_an_end() {
    let mut stream = frame(kind::HEADERS, b"head");
    stream.extend((0..=MAX_FUTILE).flat_map(|_| frame(kind::DATA, b"")));
    assert_eq!(read(Role::Server, &stream, 1000).1.unwrap_err().code(), Code::EXCESSIVE_LOAD);
    let mut stream = frame(kind::HEADERS, b"head");
    stream.extend((0..2 * MAX_FUTILE).flat_map(|_| [frame(kind::DATA, b""), frame(kind::DATA, b"x")].concat()));
    assert_eq!(read(Role::Server, &stream, 1000).1, Ok(()));
}

proptest! {
    #[test]
    fn chunks_make_no_difference(
        frames in proptest::collection::vec((0..16u64, proptest::collection::vec(any::<u8>(), 0..20)), 0..8),
        size in 1..40usize,
        client: bool,
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        let role = if client { Role::Client } else { Role::Server };
        prop_assert_eq!(read(role, &stream, size), read(role, &stream, stream.len().max(1)));
    }

    #[test]
    fn grease_is_of_the_reserved_kind(random: u32) {
        let mut out = Vec::new();
        write_grease(random, &mut out);
        let (header, length) = Header::parse(&out).unwrap();
        prop_assert_eq!((header.kind - 0x21) % 0x1f, 0);
        prop_assert_eq!((header.length, length), (0, out.len()));
        prop_assert!(!is_known(header.kind));
    }
}
