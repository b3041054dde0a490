//! Recalls (370): success means that the message won't come.

use bytes::Bytes;
use gantry_protocol::code::{request as code, response};
use gantry_protocol::command::Command;
use gantry_protocol::recall_handle::RecallHandle;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::address;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueKey, QueueOffset, ShardId};

use super::rig::{Rig, peer, request, settings};
use super::supervisors::{old_segment, parked, parked_with, row, supplied, supply, with_topic};
use crate::seam::errands::{Errand, ErrandDone, FetchFault, Placed, Scanned};
use crate::seam::owed::{OWED_ROWS_MAX, OwedRow};
use crate::seam::{ToControl, ToData};

/// A parked record of a message with this key.
fn timed(key: &str) -> Bytes {
    let properties = format!("REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}2\u{2}UNIQ_KEY\u{1}{key}\u{2}");
    parked_with(properties.as_bytes(), b"timed")
}

/// A core that holds nothing at the start, and this record in every place.
fn holding(record: Result<Bytes, FetchFault>) -> impl Fn(&Errand) -> ErrandDone {
    move |errand| match errand {
        Errand::Scan(_) => ErrandDone::Scanned(Ok(Scanned::default())),
        Errand::Fetch(places) => {
            ErrandDone::Fetched(places.iter().map(|_| record.clone()).collect())
        }
        Errand::Durable => ErrandDone::Durable(Ok(())),
        other => panic!("{other:?}"),
    }
}

fn timer_row(rig: &mut Rig, offset: u64, due_ms: u64) -> OwedRow {
    let timer = rig.topics()["rmq_sys_wheel_timer"].id;
    row(QueueKey::new(timer.0, 0), offset, due_ms)
}

fn recalling(due_ms: u64, key: &str) -> Command {
    let handle = RecallHandle::encode("T", "b0", due_ms, key);
    let fields = [("topic", "T"), ("recallHandle", handle.as_str())];
    request(code::RECALL_MESSAGE, &fields, "")
}

fn recall(rig: &mut Rig, due_ms: u64, key: &str) -> i32 {
    rig.ask(peer(1), recalling(due_ms, key)).code
}

/// A broker with topic T that has read what is pending.
fn ready(mut rig: Rig) -> Rig {
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    while recall(&mut rig, wall_now_ms() + 100_000, "nobody") != response::SUCCESS {}
    rig.seen
        .retain(|message| !matches!(message, ToData::Errand { .. }));
    rig
}

/// As [`ready`], every place holding the record of another message.
fn ready_with_others(folder: &std::path::Path) -> Rig {
    let mut rig = Rig::start(folder, settings());
    rig.errand = Box::new(holding(Ok(timed("other"))));
    ready(rig)
}

/// The places that the plane had read, errand by errand.
fn fetched(rig: &Rig) -> Vec<Vec<PhysicalOffset>> {
    let places = rig.seen.iter().filter_map(|message| match message {
        ToData::Errand {
            errand: Errand::Fetch(places),
            ..
        } => Some(places.clone()),
        _ => None,
    });
    places.collect()
}

#[test]
fn a_message_is_found_whose_row_waits_while_another_one_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut records = std::collections::HashMap::from([(1000, parked(b"one"))]);
    records.insert(1007, timed("U1"));
    let mut rig = with_topic(folder.path(), records);
    rig.is_mute = Box::new(|errand| matches!(errand, Errand::Supply(_)));
    assert_eq!(supplied(&mut rig).len(), 1);
    let due_ms = wall_now_ms() + 100_000;
    let mut row = timer_row(&mut rig, 0, due_ms);
    row.physical = PhysicalOffset(1007);
    rig.tell(ToControl::Owed(vec![row]));
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    assert_eq!(fetched(&rig).last().unwrap(), &[row.physical]);
    let reads = fetched(&rig).len();
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    assert_eq!(fetched(&rig).len(), reads, "it is pending no more");
    rig.stop();
}

#[test]
fn among_more_messages_of_one_time_than_are_compared_one_may_be_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = ready_with_others(folder.path());
    let due_ms = wall_now_ms() + 100_000;
    let count = u64::try_from(OWED_ROWS_MAX).unwrap();
    let first = timer_row(&mut rig, 0, due_ms);
    rig.tell(ToControl::Owed(
        (0..count).map(|n| row(first.queue, n, due_ms)).collect(),
    ));
    assert_eq!(
        recall(&mut rig, due_ms, "U1"),
        response::SUCCESS,
        "all were seen"
    );
    rig.tell(ToControl::Owed(vec![row(first.queue, count, due_ms)]));
    assert_eq!(
        recall(&mut rig, due_ms, "U1"),
        response::SERVICE_NOT_AVAILABLE
    );
    rig.stop();
}

#[test]
fn a_record_that_cannot_be_read_now_may_be_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    rig.errand = Box::new(holding(Err(FetchFault::Failed("no room".into()))));
    let mut rig = ready(rig);
    let due_ms = wall_now_ms() + 100_000;
    let row = timer_row(&mut rig, 0, due_ms);
    rig.tell(ToControl::Owed(vec![row]));
    assert_eq!(
        recall(&mut rig, due_ms, "U1"),
        response::SERVICE_NOT_AVAILABLE
    );
    rig.errand = Box::new(holding(Err(FetchFault::Lost("wrong bytes".into()))));
    assert_eq!(
        recall(&mut rig, due_ms, "U1"),
        response::SUCCESS,
        "it never comes"
    );
    rig.errand = Box::new(holding(Ok(timed("U1"))));
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    assert_eq!(fetched(&rig).len(), 3, "it was taken out");
    rig.stop();
}

#[test]
fn a_message_that_is_being_moved_is_recalled_when_its_new_place_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.retention.rules.delete_hours = Vec::new();
    settings.retention.interval_ms = 3_600_000;
    let mut rig = Rig::start(folder.path(), settings);
    rig.errand = Box::new(holding(Ok(timed("U1"))));
    rig.answer = Box::new(|question| old_segment(ShardId(3), question));
    rig.is_mute = Box::new(|errand| matches!(errand, Errand::Supply(_)));
    let mut rig = ready(rig);
    let due_ms = wall_now_ms() + 100_000;
    let [old, new] = [40, 4_000].map(|at| address::physical(ShardId(3), FilePosition(at)));
    let mut row = timer_row(&mut rig, 0, due_ms);
    row.physical = old;
    rig.tell(ToControl::Owed(vec![row]));
    // A recall of another time has it learnt.
    assert_eq!(recall(&mut rig, due_ms + 1, "U1"), response::SUCCESS);
    let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
    assert_eq!(rig.ask(peer(1), asked).code, 0);
    let ticket = supply(&mut rig).0;
    assert_eq!(
        recall(&mut rig, due_ms, "U1"),
        response::SERVICE_NOT_AVAILABLE
    );
    let placed = Placed {
        offset: QueueOffset(1),
        physical: new,
    };
    let done = ErrandDone::Supplied(vec![Ok(placed)]);
    rig.tell(ToControl::ErrandDone { ticket, done });
    // Long enough for the move to be noted.
    for _ in 0..10 {
        assert_eq!(
            recall(&mut rig, due_ms, "U1"),
            response::SERVICE_NOT_AVAILABLE
        );
    }
    (row.offset, row.physical) = (QueueOffset(1), new);
    rig.tell(ToControl::Owed(vec![row]));
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    assert_eq!(fetched(&rig).last().unwrap(), &[new]);
    rig.stop();
}

#[test]
fn recalls_read_few_bytes_at_once_however_many_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = ready_with_others(folder.path());
    let due_ms = wall_now_ms() + 100_000;
    let first = timer_row(&mut rig, 0, due_ms);
    let rows = (0..64).map(|n| OwedRow {
        bytes: 4 << 20,
        ..row(first.queue, n, due_ms)
    });
    rig.tell(ToControl::Owed(rows.collect()));
    assert_eq!(recall(&mut rig, due_ms, "U1"), response::SUCCESS);
    let reads = fetched(&rig);
    assert_eq!(reads.iter().map(Vec::len).sum::<usize>(), 64);
    assert!(
        reads.iter().all(|places| places.len() <= 2),
        "8 MiB at most"
    );
    // Those that are at work wait for a core; the others wait for them.
    rig.seen.clear();
    rig.is_mute = Box::new(|_| true);
    for opaque in 1..=20 {
        let mut command = recalling(due_ms, "U1");
        command.opaque = opaque;
        rig.request(peer(2), command);
    }
    for _ in 0..3 {
        rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    }
    assert_eq!(fetched(&rig).len(), 4);
    rig.stop();
}
