use super::*;
use crate::command::{Command, HeaderView};
use crate::frame::{Frame, take_frame};

const BOTH: [HeaderEncoding; 2] = [HeaderEncoding::Json, HeaderEncoding::Binary];

fn only_frame(out: &mut BytesMut) -> Frame {
    let frame = take_frame(out).unwrap().unwrap();
    assert!(out.is_empty(), "exactly one frame");
    frame
}

/// Trap 4: bit 0 of the flag says reply.
#[test]
fn trap_4_replies_in_both_encodings() {
    for encoding in BOTH {
        let mut out = BytesMut::new();
        let ext = [("queueId", ExtValue::Int(2))];
        let body: [&[u8]; 2] = [b"ab", b"c"];
        let bytes = write_reply(
            &mut out,
            encoding,
            -9,
            17,
            Some("no topic"),
            Some(&ext),
            &body,
        )
        .unwrap();
        assert_eq!(bytes, out.len());
        let frame = only_frame(&mut out);
        assert_eq!((frame.encoding, &frame.body[..]), (encoding, &b"abc"[..]));
        let view = HeaderView::parse(encoding, &frame.header).unwrap();
        assert!(view.is_reply());
        assert_eq!((view.opaque, view.code, view.version), (-9, 17, 513));
        assert_eq!(
            (view.ext("queueId"), view.remark.as_deref()),
            (Some("2"), Some("no topic"))
        );
    }
}

#[test]
fn a_body_appended_after_the_header() {
    let mut out = BytesMut::from(&b""[..]);
    let open = start_reply(&mut out, HeaderEncoding::Json, 1, 0, None, Some(&[]));
    out.put_slice(b"records");
    open.finish(&mut out).unwrap();
    assert_eq!(&only_frame(&mut out).body[..], b"records");

    let open = start_reply(&mut out, HeaderEncoding::Json, 1, 0, None, None);
    out.put_slice(b"given up");
    open.abandon(&mut out);
    assert!(out.is_empty());
}

#[test]
fn a_header_written_after_its_body() {
    let long = "x".repeat(LATE_HEADER_ROOM * 2);
    for encoding in BOTH {
        for remark in [None, Some("FOUND"), Some(long.as_str())] {
            for body in [&b""[..], b"r", &[7; 5000]] {
                let mut out = BytesMut::new();
                write_reply(&mut out, encoding, 1, 0, None, None, &[b"before"]).unwrap();
                let late = start_late_reply(&mut out, encoding);
                assert_eq!(late.body_start(), out.len());
                out.put_slice(body);
                let ext = [("nextBeginOffset", ExtValue::Int(i64::MAX))];
                late.finish(&mut out, 5, 0, remark, Some(&ext)).unwrap();
                write_reply(&mut out, encoding, 1, 0, None, None, &[b"after"]).unwrap();
                assert_eq!(&take_frame(&mut out).unwrap().unwrap().body[..], b"before");
                let frame = take_frame(&mut out).unwrap().unwrap();
                assert_eq!(&frame.body[..], body);
                let view = HeaderView::parse(encoding, &frame.header).unwrap();
                assert_eq!((view.opaque, view.remark.as_deref()), (5, remark));
                assert_eq!(view.ext("nextBeginOffset"), Some("9223372036854775807"));
                assert_eq!(&only_frame(&mut out).body[..], b"after");
                if encoding == HeaderEncoding::Json {
                    serde_json::from_slice::<serde_json::Value>(&frame.header).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_room_holds_a_full_pull_header() {
    let number = ExtValue::Int(i64::MIN);
    let ext = [
        ("suggestWhichBrokerId", number),
        ("nextBeginOffset", number),
        ("minOffset", number),
        ("maxOffset", number),
        ("topicSysFlag", ExtValue::Int(0)),
        ("groupSysFlag", ExtValue::Int(0)),
    ];
    let mut out = BytesMut::new();
    let late = start_late_reply(&mut out, HeaderEncoding::Json);
    late.finish(
        &mut out,
        i32::MIN,
        21,
        Some("OFFSET_OVERFLOW_BADLY"),
        Some(&ext),
    )
    .unwrap();
    assert_eq!(out.len(), FRAME_HEAD_BYTES + LATE_HEADER_ROOM);
}

#[test]
fn too_long_frames_leave_nothing_behind() {
    let body = vec![0; FRAME_BYTES_MAX as usize];
    let mut out = BytesMut::from(&b"kept"[..]);
    let too_long = write_reply(&mut out, HeaderEncoding::Json, 1, 0, None, None, &[&body]);
    assert!(matches!(too_long, Err(FrameError::TooLong { .. })));
    assert_eq!(&out[..], b"kept");
}

#[test]
fn requests_and_owned_commands() {
    for encoding in BOTH {
        let mut out = BytesMut::new();
        let ext = [("consumerGroup", ExtValue::Str("g"))];
        write_request(&mut out, encoding, 3, 40, true, Some(&ext), &[]).unwrap();
        let command = Command::from_frame(&only_frame(&mut out)).unwrap();
        assert!(command.is_oneway() && !command.is_reply());
        assert_eq!(
            (command.code, command.opaque, command.ext("consumerGroup")),
            (40, 3, Some("g"))
        );
        command.encode(&mut out).unwrap();
        assert_eq!(Command::from_frame(&only_frame(&mut out)).unwrap(), command);
        let reply = Command::reply_to(&command, 1)
            .with_remark("r")
            .with_ext("n", 5)
            .with_body("b");
        reply.encode(&mut out).unwrap();
        let read = Command::from_frame(&only_frame(&mut out)).unwrap();
        assert_eq!(read, reply);
        assert!(read.is_reply() && read.encoding == encoding);
        assert_eq!(read.view().ext("n"), Some("5"));
    }
}
