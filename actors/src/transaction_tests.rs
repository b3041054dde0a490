//! Half records and op records, read and written.

use bytes::BytesMut;
use gantry_protocol::message::{EncodedRecord, RecordParts, body_crc};
use proptest::prelude::*;

use super::*;

fn record(offset: i64, physical: i64, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let host = "127.0.0.1:10911".parse().unwrap();
    let parts = RecordParts {
        topic: "RMQ_SYS_TRANS_HALF_TOPIC",
        queue_id: 0,
        flag: 0,
        queue_offset: offset,
        physical_offset: physical,
        sys_flag: 0,
        born_timestamp: 1_000_000,
        born_host: host,
        store_timestamp: 1_000_100,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        body_crc: body_crc(body),
        properties,
    };
    let mut out = BytesMut::new();
    EncodedRecord::new(&parts).unwrap().write(&mut out);
    out.to_vec()
}

fn sent(extra: &str) -> Vec<u8> {
    let sent = format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}pg\u{2}WAIT\u{1}true\u{2}{extra}");
    let mut out = sent.clone().into_bytes();
    append_half_properties(&mut out, &sent, ("T", 3), Some("U1"));
    out
}

#[test]
fn a_half_says_where_it_goes_and_whose_it_is() {
    let bytes = record(7, 900, &sent("KEYS\u{1}a\u{2}"), b"hi");
    let half = Half::of(&bytes).unwrap();
    assert_eq!((half.topic, half.queue), ("T", 3));
    assert_eq!(half.sent.producer_group, Some("pg"));
    assert_eq!(half.id.offset, QueueOffset(7));
    assert_eq!(half.id.physical, PhysicalOffset(900));
    let own = properties::get(half.record.properties, "__transactionId__");
    assert_eq!(own, Some("U1"));
    assert!(Half::of(&record(1, 2, b"KEYS\x01a\x02", b"")).is_none());
}

#[test]
fn what_a_client_forges_does_not_count() {
    let forged = "REAL_TOPIC\u{1}other\u{2}REAL_QID\u{1}9\u{2}\
                  TRAN_PREPARED_QUEUE_OFFSET\u{1}1\u{2}\
                  GANTRY_TRAN_PREPARED_PHYSICAL\u{1}1\u{2}TRANSACTION_CHECK_TIMES\u{1}14\u{2}";
    let bytes = record(7, 900, &sent(forged), b"hi");
    let half = Half::of(&bytes).unwrap();
    assert_eq!((half.topic, half.queue), ("T", 3));
    assert_eq!(half.id.offset, QueueOffset(7));
    assert_eq!(half.checks, 0);
}

#[test]
fn trap_113_the_check_carries_its_count_and_wait_false() {
    let bytes = record(7, 900, &sent(""), b"hi");
    let half = Half::of(&bytes).unwrap();
    let properties = String::from_utf8(half.properties_for_check(2)).unwrap();
    let get = |name| properties::get(&properties, name);
    assert_eq!(get("WAIT"), Some("false"));
    assert_eq!(get("TRANSACTION_CHECK_TIMES"), Some("2"));
    assert_eq!(get("PGROUP"), Some("pg"));
    assert_eq!(properties.matches("WAIT").count(), 1);
}

#[test]
fn a_moved_half_keeps_its_name_and_its_checks_twice_over() {
    let first = record(7, 900, &sent(""), b"hi");
    let once = Half::of(&first).unwrap().properties_for_move(3);
    let second = record(50, 9_000, &once, b"hi");
    let half = Half::of(&second).unwrap();
    assert_eq!(
        (half.id.offset.0, half.id.physical.0, half.checks),
        (7, 900, 3)
    );
    let twice = half.properties_for_move(4);
    let third = record(90, 99_000, &twice, b"hi");
    let half = Half::of(&third).unwrap();
    assert_eq!(
        (half.id.offset.0, half.id.physical.0, half.checks),
        (7, 900, 4)
    );
}

#[test]
fn immunity_lengthens_the_wait_and_never_shortens_it() {
    assert_eq!(first_check_after_ms(None, 6_000), 6_000);
    assert_eq!(first_check_after_ms(Some("3"), 6_000), 6_000);
    assert_eq!(first_check_after_ms(Some("60"), 6_000), 60_000);
    for odd in ["-1", "x", "", "99999999999999999999"] {
        assert_eq!(first_check_after_ms(Some(odd), 6_000), 6_000, "{odd}");
    }
    assert_eq!(first_check_ms(1_000, 5_000, None, 6_000), 7_000);
    assert_eq!(
        first_check_ms(9_000, 5_000, None, 6_000),
        11_000,
        "born tomorrow"
    );
    assert_eq!(first_check_ms(-5, 5_000, None, 6_000), 6_000);
}

#[test]
fn an_end_is_late_only_after_an_immunity_of_its_own() {
    let plain = record(7, 900, &sent(""), b"hi");
    assert!(!Half::of(&plain).unwrap().end_is_late(u64::MAX, 6_000));
    let own = record(
        7,
        900,
        &sent("CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}60\u{2}"),
        b"hi",
    );
    let half = Half::of(&own).unwrap();
    assert!(!half.end_is_late(1_060_000, 6_000));
    assert!(half.end_is_late(1_060_001, 6_000));
}

proptest! {
    #[test]
    fn op_records_come_back(
        offsets in proptest::collection::vec(0_u64..u64::MAX, 1..600),
        floor in 0_u64..1_000,
    ) {
        let offsets: Vec<QueueOffset> = offsets.into_iter().map(QueueOffset).collect();
        let mut rest = offsets.as_slice();
        let mut back = Vec::new();
        let mut text = OpText::default();
        while !rest.is_empty() {
            let count = text.fill(rest);
            prop_assert!(count > 0 && text.body.len() <= OP_BODY_BYTES_MAX);
            text.finish(OpKind::Checked, QueueOffset(floor));
            let bytes = record(1, 2, &text.properties, &text.body);
            let op = Op::of(&RecordView::parse(&bytes).unwrap()).unwrap();
            prop_assert_eq!(op.kind, OpKind::Checked);
            prop_assert_eq!(op.floor.0, floor);
            prop_assert_eq!(op.stored_ms, 1_000_100);
            back.extend(op.offsets);
            rest = &rest[count..];
        }
        prop_assert_eq!(back, offsets);
    }
}
