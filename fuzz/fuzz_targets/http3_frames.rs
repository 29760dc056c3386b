//! Whatever a peer sends on a request stream, in capsules on one, on its control stream, as a datagram or as a priority: reading
//! it never panics, and the pieces it comes in make no difference.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate::http3::Error;
use tidegate::http3::capsule::Capsules;
use tidegate::http3::control_frames::{ControlFrame, ControlFrames};
use tidegate::http3::datagram;
use tidegate::http3::frame::{Event, RequestFrames, Role};
use tidegate::http3::priority::Priority;
use tidegate::http3::settings::Settings;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, is_client, bytes) = input;
    let role = if is_client { Role::Client } else { Role::Server };
    let piece = usize::from(piece).max(1);
    let whole = bytes.len().max(1);
    assert_eq!(request(role, bytes, piece), request(role, bytes, whole));
    assert_eq!(control(role, bytes, piece), control(role, bytes, whole));
    assert_eq!(capsules(bytes, piece), capsules(bytes, whole));
    if let Ok((stream, payload)) = datagram::read(Bytes::copy_from_slice(bytes)) {
        let mut again = Vec::new();
        datagram::write_stream(stream, &mut again);
        assert_eq!(datagram::read([&again[..], &payload[..]].concat().into()), Ok((stream, payload)));
    }
    if let Some(priority) = Priority::parse(bytes) {
        assert_eq!(Priority::parse(priority.to_string().as_bytes()), Some(priority));
    }
    if let Ok(settings) = Settings::read(bytes) {
        let mut frame = Vec::new();
        settings.write(0, &mut frame);
        let mut control = ControlFrames::new(role);
        assert_eq!(control.next(&mut frame.into()), Ok(Some(ControlFrame::Settings(settings))));
    }
});

/// The events with pieces of content joined, and how the stream ends.
fn request(role: Role, bytes: &[u8], piece: usize) -> (Vec<Event>, Result<(), Error>) {
    let (mut frames, mut events) = (RequestFrames::new(role, 64), Vec::<Event>::new());
    for chunk in bytes.chunks(piece) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        loop {
            match frames.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Event::Data(data))) => match events.last_mut() {
                    Some(Event::Data(before)) => *before = [&before[..], &data[..]].concat().into(),
                    _ => events.push(Event::Data(data)),
                },
                Ok(Some(event)) => events.push(event),
                Err(error) => return (events, Err(error)),
            }
        }
        assert!(chunk.is_empty());
    }
    (events, frames.finish())
}

fn control(role: Role, bytes: &[u8], piece: usize) -> (Vec<ControlFrame>, Result<(), Error>) {
    let (mut frames, mut seen) = (ControlFrames::new(role), Vec::new());
    for chunk in bytes.chunks(piece) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        loop {
            match frames.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(frame)) => seen.push(frame),
                Err(error) => return (seen, Err(error)),
            }
        }
    }
    (seen, Ok(()))
}

/// The datagrams, each with whether it is whole, and whether the stream may end there.
fn capsules(bytes: &[u8], piece: usize) -> (Vec<(Vec<u8>, bool)>, bool) {
    let (mut capsules, mut seen) = (Capsules::new(64), Vec::new());
    for mut chunk in bytes.chunks(piece) {
        while !chunk.is_empty() {
            let (taken, datagram) = capsules.next(chunk);
            seen.extend(datagram.map(|datagram| (datagram.payload.to_vec(), datagram.is_whole)));
            chunk = &chunk[taken..];
        }
        capsules.let_go();
    }
    (seen, capsules.is_between())
}
