use super::*;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(kind, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

fn settings() -> Vec<u8> {
    let mut out = Vec::new();
    Settings::default().write(7, &mut out);
    out
}

fn read(role: Role, stream: &[u8], size: usize) -> Result<Vec<ControlFrame>, Code> {
    let (mut frames, mut seen) = (ControlFrames::new(role), Vec::new());
    for chunk in stream.chunks(size) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(frame) = frames.next(&mut chunk).map_err(|error| error.code())? {
            seen.push(frame);
        }
        assert!(chunk.is_empty());
    }
    Ok(seen)
}

/// After SETTINGS, in whatever pieces.
fn after_settings(role: Role, frames: &[Vec<u8>]) -> Result<Vec<ControlFrame>, Code> {
    let stream = [settings(), frames.concat()].concat();
    let whole = read(role, &stream, stream.len());
    for size in 1..stream.len() {
        assert_eq!(read(role, &stream, size), whole, "in chunks of {size}");
    }
    whole.map(|mut frames| frames.split_off(1))
}

#[test]
fn settings_come_first_and_once() {
    let frames = read(Role::Server, &settings(), 1).unwrap();
    assert_eq!(frames, [ControlFrame::Settings(Settings::default())]);
    for first in [frame(kind::GOAWAY, &[0]), frame(0x21, b""), frame(kind::DATA, b""), frame(0x2, b"")] {
        assert_eq!(read(Role::Server, &first, 9), Err(Code::MISSING_SETTINGS));
    }
    assert_eq!(after_settings(Role::Client, &[settings()]), Err(Code::FRAME_UNEXPECTED));
    assert_eq!(read(Role::Server, &frame(kind::SETTINGS, &[0; 3000]), 9), Err(Code::EXCESSIVE_LOAD));
    assert_eq!(read(Role::Server, &frame(kind::SETTINGS, b""), 9).unwrap().len(), 1);
}

#[test]
fn what_each_role_may_say() {
    for role in [Role::Server, Role::Client] {
        for kind in [kind::DATA, kind::HEADERS, kind::PUSH_PROMISE, 0x2, 0x6, 0x8, 0x9] {
            assert_eq!(after_settings(role, &[frame(kind, b"")]), Err(Code::FRAME_UNEXPECTED), "{kind:#x}");
        }
        assert_eq!(after_settings(role, &[frame(kind::CANCEL_PUSH, &[0])]), Err(Code::ID_ERROR));
        assert_eq!(after_settings(role, &[frame(kind::CANCEL_PUSH, &[])]), Err(Code::FRAME_ERROR));
        assert_eq!(after_settings(role, &[frame(0x21, &[0; 99]), frame(0x5f, b"")]), Ok(vec![]));
    }
    for kind in [kind::MAX_PUSH_ID, kind::PRIORITY_UPDATE, kind::PRIORITY_UPDATE_PUSH] {
        assert_eq!(after_settings(Role::Client, &[frame(kind, &[0])]), Err(Code::FRAME_UNEXPECTED));
    }
}

#[test]
fn goaway_only_goes_down() {
    let goaway = |id: u64| {
        let mut out = Vec::new();
        write_goaway(id, &mut out);
        out
    };
    let frames = after_settings(Role::Client, &[goaway(4000), goaway(4000), goaway(8), goaway(0)]).unwrap();
    assert_eq!(frames, [4000, 4000, 8, 0].map(ControlFrame::Goaway));
    assert_eq!(after_settings(Role::Client, &[goaway(8), goaway(12)]), Err(Code::ID_ERROR));
    assert_eq!(after_settings(Role::Client, &[goaway(7)]), Err(Code::ID_ERROR));
    assert_eq!(after_settings(Role::Server, &[goaway(7)]), Ok(vec![ControlFrame::Goaway(7)]), "a push id");
    assert_eq!(after_settings(Role::Server, &[goaway(7), goaway(8)]), Err(Code::ID_ERROR));
    for payload in [&[][..], &[0x40], &[0, 0], &[0; 9]] {
        assert_eq!(after_settings(Role::Client, &[frame(kind::GOAWAY, payload)]), Err(Code::FRAME_ERROR));
    }
}

#[test]
fn max_push_id_only_goes_up() {
    let max = |id: u8| frame(kind::MAX_PUSH_ID, &[id]);
    assert_eq!(after_settings(Role::Server, &[max(1), max(1), max(2)]).unwrap().len(), 3);
    assert_eq!(after_settings(Role::Server, &[max(2), max(1)]), Err(Code::ID_ERROR));
}

#[test]
fn priorities_of_requests() {
    let mut update = Vec::new();
    let priority = Priority { urgency: 1, incremental: true };
    write_priority_update(400, priority, &mut update);
    let frames = after_settings(Role::Server, &[update]).unwrap();
    assert_eq!(frames, [ControlFrame::PriorityUpdate { stream: 400, priority }]);
    let broken = frame(kind::PRIORITY_UPDATE, b"\x04u=\"");
    let expected = ControlFrame::PriorityUpdate { stream: 4, priority: Priority::default() };
    assert_eq!(after_settings(Role::Server, &[broken]), Ok(vec![expected]));
    assert_eq!(after_settings(Role::Server, &[frame(kind::PRIORITY_UPDATE, b"\x05u=1")]), Err(Code::ID_ERROR));
    assert_eq!(after_settings(Role::Server, &[frame(kind::PRIORITY_UPDATE, b"")]), Err(Code::FRAME_ERROR));
    assert_eq!(after_settings(Role::Server, &[frame(kind::PRIORITY_UPDATE_PUSH, b"\x00u=1")]), Err(Code::ID_ERROR));
}
