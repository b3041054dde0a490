use bytes::BytesMut;
use gantry_protocol::command::{Command, HeaderView};
use gantry_protocol::frame::take_frame;

use super::*;

fn args(encoding: Encoding, batch: u32) -> ProduceArgs {
    ProduceArgs {
        namesrv: String::new(),
        topic: "T".to_owned(),
        queues: 3,
        connections: 1,
        in_flight: 4,
        size: 100,
        batch,
        rate: None,
        seconds: 1,
        warm_up: 0,
        encoding,
        broker_pid: None,
        json: false,
        out: None,
    }
}

#[test]
fn patched_frames_decode_with_their_own_numbers_and_keys() {
    for encoding in [Encoding::Json, Encoding::Binary] {
        let mut template = SendTemplate::new(&args(encoding, 1), 1);
        let mut out = Vec::new();
        for slot in [0, 65_535] {
            template.write(slot, &mut out);
        }
        let mut input = BytesMut::from(out.as_slice());
        let mut keys = Vec::new();
        for (slot, queue) in [(0, "1"), (65_535, "2")] {
            let frame = take_frame(&mut input).unwrap().unwrap();
            let view = HeaderView::parse(frame.encoding, &frame.header).unwrap();
            assert_eq!(view.opaque, OPAQUE_BASE + slot);
            assert_eq!(view.ext("e"), Some(queue));
            assert_eq!(frame.body.len(), 100);
            keys.push(view.ext("i").unwrap().to_owned());
        }
        assert_ne!(keys[0], keys[1]);
    }
}

#[test]
fn each_message_of_a_batch_has_its_own_key() {
    let mut template = SendTemplate::new(&args(Encoding::Json, 4), 0);
    let mut out = Vec::new();
    template.write(7, &mut out);
    let frame = take_frame(&mut BytesMut::from(out.as_slice()))
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&frame.body).into_owned();
    let keys: std::collections::HashSet<&str> = text
        .split("UNIQ_KEY\u{1}")
        .skip(1)
        .map(|rest| &rest[..UNIQUE_KEY_DIGITS])
        .collect();
    assert_eq!(keys.len(), 4);
}

#[test]
fn replies_are_read_in_both_encodings_and_only_when_whole() {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut request = Command::request(310, OPAQUE_BASE + 5);
        request.encoding = encoding;
        let mut out = BytesMut::new();
        Command::reply_to(&request, 2).encode(&mut out).unwrap();
        assert_eq!(take_reply(&out[..out.len() - 1]).unwrap(), None);
        let expected = ReplyHead {
            code: 2,
            opaque: OPAQUE_BASE + 5,
        };
        assert_eq!(take_reply(&out).unwrap(), Some((expected, out.len())));
    }
}
