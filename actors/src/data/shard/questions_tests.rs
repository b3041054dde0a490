use futures_lite::future::block_on;
use gantry_protocol::request::pull::PullHeader;

use super::*;
use crate::data::shard::tests::sent;
use crate::data::testing::{
    TestBroker, long_pull, pull_frame, pull_header, send_frame, send_header,
};
use crate::seam::{Answer, Question, Ticket, ToControl, ToData};

#[test]
fn a_reset_goes_where_the_queue_has_something_or_nowhere() {
    let broker = TestBroker::new(1, 1, |_| {});
    for _ in 0..3 {
        sent(&broker, 0, "a", b"x");
    }
    broker.stores[0].trim(QueueKey::new(1, 0), 1);
    let shard = broker.cores[0].shards().next().unwrap();
    let find = |to| block_on(shard.find_offset(QueueKey::new(1, 0), to));
    assert_eq!(find(ResetTo::Max), Ok(QueueOffset(3)));
    assert_eq!(find(ResetTo::Timestamp(0)), Ok(QueueOffset(1)));
    for offset in [1, 2, 3].map(QueueOffset) {
        assert_eq!(find(ResetTo::Offset(offset)), Ok(offset));
    }
    for offset in [0, 4] {
        let refusal = find(ResetTo::Offset(QueueOffset(offset))).unwrap_err();
        assert_eq!(refusal.code, response::SYSTEM_ERROR);
        let why = format!("Target offset {offset} not in consume queue range [1-3]");
        assert_eq!(refusal.remark, why);
    }
    broker.stores[0].is_index_damaged.set(true);
    let refusal = find(ResetTo::Timestamp(0)).unwrap_err();
    assert_eq!(refusal.code, response::SYSTEM_ERROR);
    assert!(refusal.remark.contains("damaged"), "{refusal}");
}

/// A deletion reaches the tables as a changed row, in the order of the core; what the group commits
/// afterwards follows it.
#[test]
fn a_forgotten_group_is_handed_over_in_order() {
    let broker = TestBroker::new(1, 1, |_| {});
    let shard = broker.cores[0].shards().next().unwrap();
    let row = |queue, offset| OffsetRow {
        queue: QueueKey::new(1, queue),
        group: "g".into(),
        offset: QueueOffset(offset),
    };
    for queue in [0, 0, 0, 1, 1, 1] {
        sent(&broker, queue, "a", b"x");
    }
    shard.load_offset(&row(0, 2));
    shard.load_offset(&row(1, 3));
    broker.tell_all(|| ToData::ForgetGroup("g".into()));
    shard.put_offset(&row(1, 1));
    let mut rows = Vec::new();
    assert!(shard.take_changed_offsets(9, &mut rows));
    let mut rows: Vec<_> = rows.iter().map(|row| (row.queue, row.offset)).collect();
    rows.sort_unstable();
    let expected = [
        (QueueKey::new(1, 0), None),
        (QueueKey::new(1, 1), Some(QueueOffset(1))),
    ];
    assert_eq!(rows, expected);
}

/// What a core tells of all groups.
fn reports(broker: &TestBroker, with_times: bool) -> Vec<GroupReport> {
    let question = Question::Offsets {
        group: None,
        topics: None,
        with_times,
    };
    let ticket = Ticket(9);
    broker.cores[0].on_control(&mut vec![ToData::Ask { ticket, question }]);
    broker.settle();
    let told = broker.world.take_control().into_iter();
    let answers = told.filter_map(|told| match told {
        ToControl::Answer {
            answer: Answer::Offsets(reports),
            ..
        } => Some(reports),
        _ => None,
    });
    answers.flatten().collect()
}

/// The log has lost its end: what comes now has offsets that the group has consumed before.
#[test]
fn a_position_beyond_the_queue_goes_back_to_its_end_and_is_stored_so() {
    let broker = TestBroker::new(1, 1, |_| {});
    for _ in 0..7 {
        sent(&broker, 0, "a", b"x");
    }
    broker.stores[0].trim(QueueKey::new(1, 0), 3);
    let row = |queue, group: &str, offset| OffsetRow {
        queue: QueueKey::new(1, queue),
        group: group.into(),
        offset: QueueOffset(offset),
    };
    let rows = vec![
        row(0, "beyond", 10),
        row(0, "at the end", 7),
        row(0, "below the start", 1),
        row(1, "of nothing", 4),
    ];
    broker.tell_all(|| ToData::OffsetsLoaded(rows.clone()));
    let shard = broker.cores[0].shards().next().unwrap();
    let reports = block_on(shard.group_reports(None, None, false));
    let mut found: Vec<_> = reports
        .iter()
        .map(|report| (&*report.group, report.consumer_offset.0))
        .collect();
    found.sort_unstable();
    let expected = [
        ("at the end", 7),
        ("below the start", 1),
        ("beyond", 7),
        ("of nothing", 0),
    ];
    assert_eq!(found, expected);
    let mut changed = Vec::new();
    assert!(shard.take_changed_offsets(9, &mut changed));
    let mut changed: Vec<_> = changed
        .iter()
        .map(|row| (&*row.group, row.offset))
        .collect();
    changed.sort_unstable();
    let stored = |offset| Some(QueueOffset(offset));
    assert_eq!(changed, [("beyond", stored(7)), ("of nothing", stored(0))]);
}

/// 43, 300, 343, 314 and 308 show no times: on a large broker they would be asked for in vain.
#[test]
fn positions_without_times_are_told_from_memory() {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"x");
    broker.stores[0].is_stuck.set(true);
    let shard = broker.cores[0].shards().next().unwrap();
    shard.load_offset(&OffsetRow {
        queue: QueueKey::new(1, 0),
        group: "g".into(),
        offset: QueueOffset(1),
    });
    let ask = |with_times| reports(&broker, with_times);
    assert_eq!(ask(false)[0].consumer_offset, QueueOffset(1));
    assert!(ask(true).is_empty(), "the device is asked");
    broker.stores[0].is_stuck.set(false);
    assert!(ask(true)[0].last_timestamp_ms > 0);
}

#[test]
fn the_pull_offset_is_where_the_next_pull_begins() {
    let broker = TestBroker::new(1, 1, |_| {});
    for _ in 0..5 {
        sent(&broker, 0, "a", b"x");
    }
    let shard = broker.cores[0].shards().next().unwrap();
    shard.load_offset(&OffsetRow {
        queue: QueueKey::new(1, 0),
        group: "g".into(),
        offset: QueueOffset(0),
    });
    let shown = || reports(&broker, false)[0].pull_offset.0;
    let two = PullHeader {
        max_msg_nums: 2,
        ..pull_header("T", 0, 0)
    };
    broker.request(&pull_frame(1, &two));
    assert_eq!((broker.reply().code, shown()), (0, 2));
    broker.stores[0].is_cold.set(true);
    broker.request(&pull_frame(1, &pull_header("T", 0, 2)));
    assert_eq!((broker.reply().code, shown()), (0, 5));
    broker.stores[0].is_cold.set(false);
    broker.request(&pull_frame(1, &pull_header("T", 0, 9)));
    assert_eq!((broker.reply().code, shown()), (21, 5));
    broker.request(&pull_frame(1, &long_pull("T", 0, 5)));
    assert!(broker.replies().is_empty());
    assert_eq!(shown(), 5);
    broker.request(&send_frame(2, &send_header("T"), b"x"));
    assert_eq!((broker.replies().len(), shown()), (2, 6));
}
