use bytes::BytesMut;
use gantry_protocol::command::HeaderView;
use gantry_protocol::frame::take_frame;
use gantry_protocol::message::{BatchIter, RecordParts, record_len};

use super::*;
use crate::wire::payload;

fn shape(encoding: HeaderEncoding, batch: u32) -> SendShape {
    SendShape {
        topics: vec!["T".to_owned()],
        queues: 3,
        size: 100,
        batch,
        encoding,
        one_way: false,
        flavour: Flavour::Plain,
        run: 5,
    }
}

#[test]
fn patched_frames_decode_with_their_own_numbers_keys_and_stamps() {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut template = SendTemplate::new(&shape(encoding, 1), 1);
        let mut out = Vec::new();
        for slot in [0, 65_535, 1, 2] {
            template.write(slot, 42, &mut out);
        }
        let mut input = BytesMut::from(out.as_slice());
        let mut keys = Vec::new();
        let expected = [(0, "1", 0), (65_535, "2", 0), (1, "0", 0), (2, "1", 1)];
        for (n, (slot, queue, sequence)) in expected.into_iter().enumerate() {
            let frame = take_frame(&mut input).unwrap().unwrap();
            let view = HeaderView::parse(frame.encoding, &frame.header).unwrap();
            assert_eq!(view.opaque, OPAQUE_BASE + slot);
            assert_eq!(view.ext("e"), Some(queue));
            let stamp = payload::open(&frame.body).unwrap();
            let wanted = (5, 1, sequence, 42);
            let got = (stamp.run, stamp.stream, stamp.sequence, stamp.intended_ns);
            assert_eq!(got, wanted);
            let properties = view.ext("i").unwrap().to_owned();
            assert!(properties.contains(&template.key(n as u64 + 1)));
            keys.push(properties);
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 4);
        assert_eq!(template.sequences(), [1, 2, 1]);
    }
}

#[test]
fn each_message_of_a_batch_has_its_own_key_and_stamp() {
    let mut template = SendTemplate::new(&shape(HeaderEncoding::Json, 4), 0);
    let mut out = Vec::new();
    template.write(7, 1, &mut out);
    let frame = take_frame(&mut BytesMut::from(out.as_slice()))
        .unwrap()
        .unwrap();
    let elements: Vec<_> = BatchIter::new(&frame.body)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(elements.len(), 4);
    for (n, element) in elements.iter().enumerate() {
        assert_eq!(payload::open(element.body).unwrap().sequence, n as u64);
        assert!(element.properties.contains(&template.key(n as u64 + 1)));
    }
}

#[test]
fn flavours_show_in_the_properties() {
    let mut plan = shape(HeaderEncoding::Json, 1);
    for (flavour, text) in [
        (Flavour::DelayLevel(3), "DELAY\u{1}3\u{2}"),
        (Flavour::DelayMs(1500), "TIMER_DELAY_MS\u{1}1500\u{2}"),
        (Flavour::Half, "TRAN_MSG\u{1}true\u{2}"),
    ] {
        plan.flavour = flavour;
        let mut out = Vec::new();
        SendTemplate::new(&plan, 0).write(0, 0, &mut out);
        let frame = take_frame(&mut BytesMut::from(out.as_slice()))
            .unwrap()
            .unwrap();
        let view = HeaderView::parse(frame.encoding, &frame.header).unwrap();
        assert!(view.ext("i").unwrap().contains(text));
        let half = flavour == Flavour::Half;
        assert_eq!(view.ext("f"), Some(if half { "4" } else { "0" }));
    }
}

#[test]
fn messages_with_due_times_of_their_own_carry_them_and_are_stamped_with_them() {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut plan = shape(encoding, 1);
        plan.flavour = Flavour::DueAt(Dues {
            first_ms: 1_900_000_000_000,
            per_second: 500,
            senders: 2,
        });
        let mut template = SendTemplate::new(&plan, 1);
        let mut out = Vec::new();
        template.write(0, 42, &mut out);
        template.write(1, 42, &mut out);
        let mut input = BytesMut::from(out.as_slice());
        // The second and the fourth of all: places 40,503 and 55,973 of their stretch, 2 ms each.
        for due_ms in [1_900_000_081_006_u64, 1_900_000_111_946] {
            let frame = take_frame(&mut input).unwrap().unwrap();
            let view = HeaderView::parse(frame.encoding, &frame.header).unwrap();
            let wanted = format!("TIMER_DELIVER_MS\u{1}{due_ms}\u{2}");
            let properties = view.ext("i").unwrap();
            assert!(properties.contains(&wanted), "{properties}");
            let stamp = payload::open(&frame.body).unwrap();
            assert_eq!(stamp.intended_ns, due_ms * 1_000_000);
        }
    }
}

#[test]
fn every_due_time_of_a_stretch_is_taken_once() {
    let dues = Dues {
        first_ms: 5,
        per_second: 1000,
        senders: 4,
    };
    let all = (0..1 << 14).flat_map(|n| (0..4).map(move |stream| dues.due_ms(stream, n)));
    let mut all: Vec<u64> = all.collect();
    assert!(!all.is_sorted());
    all.sort_unstable();
    assert!(all.into_iter().eq(5..5 + (1 << 16)));
}

#[test]
fn a_records_bytes_are_those_of_the_protocol() {
    let host = "127.0.0.1:1".parse().unwrap();
    for flavour in [Flavour::Plain, Flavour::DelayLevel(3), Flavour::Half] {
        let shape = SendShape {
            flavour,
            ..shape(HeaderEncoding::Json, 1)
        };
        let body = vec![0; shape.size];
        let properties = properties(flavour, &unique_key(5, 1));
        let parts = RecordParts {
            topic: "T",
            queue_id: 0,
            flag: 0,
            queue_offset: 0,
            physical_offset: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_timestamp: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &body,
            body_crc: 0,
            properties: properties.as_bytes(),
        };
        let wanted = record_len(&parts).unwrap() as usize;
        assert_eq!(shape.record_bytes(), wanted, "{flavour:?}");
    }
}
