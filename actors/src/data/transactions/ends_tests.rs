//! Halves, ends, checks and moves on cores without sockets.

use bytes::Bytes;
use gantry_protocol::command::Command;
use gantry_protocol::message::{PROPERTIES_BYTES_MAX, RecordView};
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::properties;
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::request::transaction::EndTransaction;
use gantry_storage::address::locate;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueOffset, ShardId};

use super::halves::Halves;
use crate::data::testing::{
    TestBroker, client_addr, ext, pull_frame, pull_header, records, request_frame, send_frame,
    send_header, topic,
};
use crate::refusal::Refusal;
use crate::seam::{Answer, CatalogChange, HalfCheck, Question, Ticket, ToControl, ToData};
use crate::transaction::{Half, Op};

/// Topic numbers of `TestBroker::with_transactions`.
pub const HALF: u32 = 10;
/// See [`HALF`].
pub const OP: u32 = 11;
/// See [`HALF`].
pub const GIVEN_UP: u32 = 12;

/// What a transaction producer sends.
pub fn half_properties(group: &str, more: &str) -> String {
    format!("UNIQ_KEY\u{1}U1\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{group}\u{2}{more}")
}

pub fn half_header<'a>(topic: &'a str, queue: i32, properties: &'a str) -> SendHeader<'a> {
    SendHeader {
        queue_id: queue,
        sys_flag: 4,
        properties,
        // As of `FakeHost::wall_ms` at the start of a test.
        born_timestamp: 1_795_384_801_000,
        ..send_header(topic)
    }
}

fn broker() -> TestBroker {
    TestBroker::new(1, 1, |_| {}).with_transactions()
}

pub fn send_half(broker: &TestBroker, queue: i32, more: &str, body: &[u8]) -> (i64, i64) {
    let properties = half_properties("pg", more);
    broker.request(&send_frame(1, &half_header("T", queue, &properties), body));
    let reply = broker.reply();
    assert_eq!(reply.code, 0, "{reply:?}");
    assert_eq!(
        ext(&reply, "queueId"),
        queue.to_string(),
        "the queue it meant"
    );
    assert_eq!(ext(&reply, "transactionId"), "U1");
    let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
    (ext(&reply, "queueOffset").parse().unwrap(), physical)
}

pub fn end_header(told: (i64, i64), verdict: i32) -> EndTransaction<'static> {
    EndTransaction {
        producer_group: "pg",
        half_offset: told.0,
        half_physical: told.1,
        commit_or_rollback: verdict,
        from_check: false,
        msg_id: None,
        transaction_id: None,
        topic: None,
        broker_name: None,
    }
}

pub fn end_with(broker: &TestBroker, header: &EndTransaction<'_>) -> Command {
    broker.request(&request_frame(37, 2, &header.to_ext(), b""));
    broker.reply()
}

pub fn end(broker: &TestBroker, told: (i64, i64), verdict: i32) -> i32 {
    end_with(broker, &end_header(told, verdict)).code
}

pub fn delivered(broker: &TestBroker) -> Vec<Bytes> {
    let stores = broker.stores.iter();
    stores.flat_map(|store| store.records_of(1)).collect()
}

pub fn checks(broker: &TestBroker) -> Vec<HalfCheck> {
    for core in &broker.cores {
        core.check_halves();
    }
    broker.settle();
    let mut all = Vec::new();
    for message in broker.world.take_control() {
        if let ToControl::CheckHalves(checks) = message {
            all.extend(checks);
        }
    }
    all
}

#[test]
fn trap_81_a_half_is_invisible_until_its_commit_and_then_whole() {
    let broker = broker();
    let told = send_half(&broker, 2, "TAGS\u{1}a\u{2}KEYS\u{1}k1 k2\u{2}", b"hi");
    assert_eq!(told.0, 0, "the half's offset");
    let half = &broker.stores[0].records_of(HALF)[0];
    let view = RecordView::parse(half).unwrap();
    assert_eq!(view.sys_flag & 0xC, 0);
    assert_eq!(view.physical_offset, told.1);
    assert!(delivered(&broker).is_empty());
    broker.request(&pull_frame(5, &pull_header("T", 2, 0)));
    assert_eq!(broker.reply().code, 19, "nothing to pull");
    assert_eq!(query(&broker, "k1"), 0, "nothing in the key index");

    assert_eq!(end(&broker, told, 8), 0);
    broker.request(&pull_frame(6, &pull_header("T", 2, 0)));
    let reply = broker.reply();
    assert_eq!(records(&reply.body), [(0, "hi".to_owned())]);
    let view = RecordView::parse(&reply.body).unwrap();
    assert_eq!(view.sys_flag & 0xC, 8);
    assert_eq!(view.prepared_transaction_offset, told.1);
    assert_eq!(view.queue_id, 2);
    assert_eq!(view.born_host, client_addr());
    assert_eq!(properties::get(view.properties, "TRAN_MSG"), Some("true"));
    assert_eq!(properties::get(view.properties, "TAGS"), Some("a"));
    assert_eq!(query(&broker, "k2"), 1, "in the key index of its topic");
    assert_eq!(broker.cores[0].shards().next().unwrap().open_halves(), 0);
}

fn query(broker: &TestBroker, key: &str) -> usize {
    let found = gantry_storage::units::TopicId(1);
    let store = &broker.stores[0];
    let hits = crate::data::queue::store::QueueStore::query_key(&**store, found, key, 0, 0, 32);
    futures_lite::future::block_on(hits).unwrap().len()
}

#[test]
fn the_end_and_its_record_are_one_run() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    let seals = broker.stores[0].seals.get();
    assert_eq!(end(&broker, told, 8), 0);
    assert_eq!(broker.stores[0].seals.get(), seals + 1);
    let ends = broker.stores[0].ends();
    let order: Vec<i64> = ends.iter().map(|(physical, _)| *physical).collect();
    let of = |topic| {
        let bytes = &broker.stores[0].records_of(topic)[0];
        RecordView::parse(bytes).unwrap().physical_offset
    };
    assert_eq!(order, [of(HALF), of(1), of(OP)], "message, then its record");
}

#[test]
fn a_rollback_drops_and_repeated_ends_change_nothing() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"no");
    assert_eq!(end(&broker, told, 12), 0);
    assert_eq!(end(&broker, told, 8), 1, "a commit after the rollback");
    let told = send_half(&broker, 0, "", b"yes");
    assert_eq!(end(&broker, told, 8), 0);
    assert_eq!(end(&broker, told, 8), 1, "twice");
    assert_eq!(end(&broker, told, 12), 1, "a rollback after the commit");
    assert_eq!(delivered(&broker).len(), 1);
    broker.pass_ms(60_000);
    assert!(checks(&broker).is_empty(), "ended ones are not checked");
}

#[test]
fn two_ends_in_one_pass_deliver_once() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    for _ in 0..3 {
        broker.request(&request_frame(37, 9, &end_header(told, 8).to_ext(), b""));
    }
    let codes: Vec<i32> = broker.replies().iter().map(|reply| reply.code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(delivered(&broker).len(), 1);
}

#[test]
fn an_end_must_name_its_half_and_its_group() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    let mut wrong = end_header(told, 8);
    wrong.producer_group = "other";
    assert_eq!(end_with(&broker, &wrong).code, 1);
    assert_eq!(end(&broker, (told.0, told.1 + 1), 8), 1);
    assert_eq!(end(&broker, (told.0 + 1, told.1), 8), 1);
    assert_eq!(end(&broker, (-1, told.1), 8), 1);
    assert_eq!(end(&broker, (told.0, -1), 8), 1);
    assert_eq!(
        end(&broker, (told.0, i64::MAX), 8),
        1,
        "a shard that isn't there"
    );
    assert!(delivered(&broker).is_empty());
    assert_eq!(end(&broker, told, 8), 0, "it is still open");
}

#[test]
fn trap_84_unknown_gets_no_answer() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.request(&request_frame(37, 2, &end_header(told, 0).to_ext(), b""));
    assert!(broker.replies().is_empty());
    assert_eq!(broker.cores[0].shards().next().unwrap().open_halves(), 1);
}

#[test]
fn checks_come_on_time_and_count_and_end_in_giving_up() {
    let broker = TestBroker::new(1, 1, |settings| settings.transaction_check_max = 3);
    let broker = broker.with_transactions();
    let told = send_half(&broker, 1, "", b"hi");
    broker.pass_ms(5_990);
    assert!(checks(&broker).is_empty(), "early");
    broker.pass_ms(20);
    for count in 1..=3 {
        let checks_now = checks(&broker);
        assert_eq!(checks_now.len(), 1);
        assert_eq!(checks_now[0].checks, count);
        let half = Half::of(&checks_now[0].record).unwrap();
        assert_eq!(half.id.offset.0.cast_signed(), told.0);
        assert_eq!((half.topic, half.queue), ("T", 1));
        assert!(checks(&broker).is_empty(), "not again at once");
        broker.pass_ms(29_900);
        assert!(checks(&broker).is_empty(), "early");
        broker.pass_ms(200);
    }
    assert!(checks(&broker).is_empty(), "three were enough");
    broker.settle();
    let given_up = broker.stores[0].records_of(GIVEN_UP);
    assert_eq!(RecordView::parse(&given_up[0]).unwrap().body, b"hi");
    assert_eq!(end(&broker, told, 8), 1, "it is over");
}

#[test]
fn checks_are_remembered_by_the_log() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.pass_ms(6_100);
    assert_eq!(checks(&broker).len(), 1);
    let everything = broker.stores[0].ends().len();
    let after = broker.restarted(vec![broker.stores[0].survivor(everything)]);
    let after = after.with_transactions();
    assert!(
        checks(&after).is_empty(),
        "due an interval after the last check"
    );
    after.pass_ms(30_100);
    assert_eq!(checks(&after)[0].checks, 2);
    let mut late = end_header(told, 8);
    late.from_check = true;
    assert_eq!(end_with(&after, &late).code, 0);
    assert_eq!(delivered(&after).len(), 1);
}

#[test]
fn immunity_delays_the_check_and_refuses_a_late_end() {
    let broker = broker();
    let immune = "CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}20\u{2}";
    let told = send_half(&broker, 0, immune, b"hi");
    broker.pass_ms(19_000);
    assert!(checks(&broker).is_empty());
    broker.pass_ms(1_100);
    assert_eq!(checks(&broker).len(), 1);
    assert_eq!(end(&broker, told, 8), 604);
    let mut answer = end_header(told, 8);
    answer.from_check = true;
    assert_eq!(end_with(&broker, &answer).code, 0);
}

#[test]
fn a_full_tail_delays_an_end_and_does_not_lose_it() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.stores[0].room.set(0);
    broker.request(&request_frame(37, 2, &end_header(told, 8).to_ext(), b""));
    broker.settle();
    broker.pass_ms(1_000);
    assert!(broker.replies().is_empty());
    // The message fits, its op record doesn't.
    broker.stores[0].room.set(1);
    broker.pass_ms(10);
    assert_eq!(broker.reply().code, 0);
    assert_eq!(delivered(&broker).len(), 1);
    assert!(broker.stores[0].records_of(OP).is_empty());
    broker.stores[0].room.set(8);
    broker.pass_ms(10);
    assert_eq!(broker.stores[0].records_of(OP).len(), 1);
}

#[test]
fn an_end_that_waits_long_before_a_full_tail_is_done_once() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.stores[0].room.set(0);
    broker.request(&request_frame(37, 2, &end_header(told, 8).to_ext(), b""));
    for _ in 0..8 {
        broker.pass_ms(10_000);
        assert!(checks(&broker).is_empty(), "it has been decided");
        assert!(broker.replies().is_empty());
    }
    // Its producer has lost patience.
    broker.request(&request_frame(37, 3, &end_header(told, 8).to_ext(), b""));
    broker.stores[0].room.set(8);
    broker.pass_ms(10);
    let mut replies = broker.replies();
    replies.sort_unstable_by_key(|reply| reply.opaque);
    let codes: Vec<i32> = replies.iter().map(|reply| reply.code).collect();
    assert_eq!(codes, [0, 1], "it is told once that it is ended already");
    assert_eq!(delivered(&broker).len(), 1);
}

#[test]
fn a_half_without_a_unique_key_is_told_the_one_made_for_it() {
    let broker = broker();
    let properties = "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}pg\u{2}";
    broker.request(&send_frame(1, &half_header("T", 0, properties), b"hi"));
    let reply = broker.reply();
    let record = &broker.stores[0].records_of(HALF)[0];
    let stored = RecordView::parse(record).unwrap().properties;
    let made = properties::get(stored, "UNIQ_KEY").unwrap();
    assert_eq!(ext(&reply, "transactionId"), made);
    assert_eq!(made.len(), 32);
}

#[test]
fn a_half_that_is_taken_can_be_moved_whatever_its_properties() {
    let broker = broker();
    // Fills up with what the broker adds; then a byte less, until it is taken.
    let mut room = 32_767;
    let told = loop {
        let filler = format!("k\u{1}{}\u{2}", "v".repeat(room));
        let properties = half_properties("pg", &filler);
        broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
        let reply = broker.reply();
        if reply.code == 0 {
            let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
            break (ext(&reply, "queueOffset").parse().unwrap(), physical);
        }
        assert_eq!(reply.code, 13);
        room -= 1;
    };
    let record = broker.stores[0].records_of(HALF).remove(0);
    let mut half = Half::of(&record).unwrap();
    half.id.offset = QueueOffset(u64::MAX);
    half.id.physical = PhysicalOffset(u64::MAX);
    let moved = half.properties_for_move(u32::MAX);
    assert!(moved.len() <= PROPERTIES_BYTES_MAX, "{}", moved.len());
    let at = position(told.1);
    broker.stores[0].commit();
    let _ = open_halves(&broker, FilePosition(at.0 + 1));
    broker.stores[0].commit();
    let floor = open_halves(&broker, FilePosition(at.0 + 1)).unwrap();
    assert!(floor.unwrap().unwrap() > at, "it was moved");
    assert_eq!(end(&broker, told, 8), 0);
}

#[test]
fn an_op_record_before_a_full_tail_is_sealed() {
    let broker = broker();
    let shard = broker.cores[0].shards().next().unwrap();
    let (store, queues) = (&broker.stores[0], shard.transaction_queues().unwrap());
    // Long offsets, so that few fill an op record; more than one record of them is owed.
    let offsets: Vec<QueueOffset> = (0..300).map(|n| QueueOffset(1 << 62 | n)).collect();
    let mut halves = Halves::default();
    for offset in &offsets {
        halves.opened(*offset, u64::MAX, 0);
    }
    shard.begin_transactions(queues, halves);
    for offset in &offsets {
        shard.half_ended(*offset);
    }
    let seals = store.seals.get();
    store.room.set(1);
    broker.settle();
    assert_eq!(store.seals.get(), seals + 1);
    assert_eq!(store.records_of(OP).len(), 1);
    store.room.set(u64::MAX);
    broker.pass_ms(10);
    let records = store.records_of(OP);
    let views = records.iter().map(|record| RecordView::parse(record));
    let told = views.flat_map(|view| Op::of(&view.unwrap()).unwrap().offsets);
    let mut told: Vec<QueueOffset> = told.collect();
    told.sort_unstable();
    assert_eq!(told, offsets, "each once");
}

#[test]
fn a_cold_half_is_read_for_its_end() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.stores[0].is_cold.set(true);
    assert_eq!(end(&broker, told, 8), 0);
    assert_eq!(delivered(&broker).len(), 1);
}

#[test]
fn a_panic_of_the_target_queue_gives_the_half_back() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    let shard = broker.cores[0].shards().next().unwrap();
    shard.inject_panic(gantry_storage::units::QueueKey::new(1, 0));
    let _ = end(&broker, told, 8);
    assert!(delivered(&broker).is_empty());
    broker.pass_ms(30_000);
    // The end counts as lost after a while at the latest.
    let later: Vec<HalfCheck> = (0..5)
        .flat_map(|_| {
            broker.pass_ms(10_000);
            checks(&broker)
        })
        .collect();
    assert!(!later.is_empty());
    assert_eq!(end(&broker, told, 8), 0);
}

#[test]
fn a_topic_made_anew_on_another_shard_still_gets_the_message() {
    let broker = TestBroker::new(2, 2, |_| {}).with_transactions();
    let told = send_half(&broker, 0, "", b"hi");
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("T", 2, 4))));
    assert_eq!(end(&broker, told, 8), 0);
    let there: usize = broker.stores.iter().map(|s| s.records_of(2).len()).sum();
    assert_eq!(there, 1);
    broker.settle();
    assert_eq!(broker.open_halves(), 0, "its own shard was told");
}

#[test]
fn a_commit_to_a_topic_that_is_gone_leaves_the_half_open() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"hi");
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicGone("T".to_owned())));
    assert_eq!(end(&broker, told, 8), 17);
    broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("T", 1, 4))));
    assert_eq!(end(&broker, told, 8), 0);
}

pub fn position(physical: i64) -> FilePosition {
    let physical = PhysicalOffset(physical.cast_unsigned());
    locate(physical).unwrap().1
}

/// What the control plane is told.
pub fn open_halves(
    broker: &TestBroker,
    move_below: FilePosition,
) -> Option<Result<Option<FilePosition>, Refusal>> {
    broker.tell_all(|| ToData::Ask {
        ticket: Ticket(1),
        question: Question::OpenHalves {
            shard: ShardId(0),
            move_below,
        },
    });
    broker.settle();
    let answers = broker.world.take_control().into_iter();
    let mut answers = answers.filter_map(|message| match message {
        ToControl::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    answers.next().map(|answer| match answer {
        Answer::OpenHalves(floor) => floor,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_half_without_its_table_stops_every_drop() {
    let broker = TestBroker::new(1, 1, |_| {});
    assert!(open_halves(&broker, FilePosition(0)).unwrap().is_err());
    let broker = broker.with_transactions();
    assert_eq!(open_halves(&broker, FilePosition(9)), Some(Ok(None)));
}

#[test]
fn halves_move_forward_under_their_old_name() {
    let broker = broker();
    let first = send_half(&broker, 0, "", b"one");
    let second = send_half(&broker, 0, "", b"two");
    broker.pass_ms(6_100);
    assert_eq!(checks(&broker).len(), 2);
    let store = &broker.stores[0];
    let shard = broker.cores[0].shards().next().unwrap();
    let [at_first, at_second] = [first, second].map(|told| position(told.1));
    let below = FilePosition(at_second.0 + 1);
    store.commit();
    assert_eq!(
        open_halves(&broker, FilePosition(0)),
        Some(Ok(Some(at_first)))
    );
    assert_eq!(
        open_halves(&broker, below),
        Some(Ok(Some(at_first))),
        "it begins"
    );
    let floor = open_halves(&broker, below).unwrap().unwrap().unwrap();
    assert!(floor >= below, "{floor:?}");
    let stored = store.ends().len();
    store.commit();
    assert_eq!(open_halves(&broker, below), Some(Ok(Some(floor))));
    assert_eq!(store.ends().len(), stored, "moved once");
    assert_eq!(shard.open_halves(), 2);

    assert_eq!(end(&broker, first, 8), 0, "the name its producer knows");
    let everything = store.ends().len();
    let after = broker
        .restarted(vec![store.survivor(everything)])
        .with_transactions();
    assert_eq!(after.cores[0].shards().next().unwrap().open_halves(), 1);
    after.pass_ms(40_000);
    let again = checks(&after);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].checks, 2, "checks are carried along");
    let half = Half::of(&again[0].record).unwrap();
    assert_eq!(half.id.offset.0.cast_signed(), second.0);
    assert_eq!(end(&after, second, 8), 0);
    assert_eq!(delivered(&after).len(), 2);
}

#[test]
fn what_can_not_be_a_half_is_refused() {
    let broker = TestBroker::new(1, 1, |s| s.reject_transaction_message = true.into());
    let broker = broker.with_transactions();
    let properties = half_properties("pg", "");
    broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
    assert_eq!(broker.reply().code, 16);
    let plain = SendHeader {
        sys_flag: 4,
        ..send_header("T")
    };
    broker.request(&send_frame(2, &plain, b"hi"));
    assert_eq!(broker.reply().code, 13);
}

#[test]
fn under_sync_flush_a_half_is_told_when_it_is_committed() {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.flush_disk_type = crate::settings::FlushDiskType::Sync;
    });
    let broker = broker.with_transactions();
    let properties = half_properties("pg", "");
    broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
    assert!(broker.replies().is_empty());
    broker.stores[0].commit();
    let reply = broker.reply();
    let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
    let told = (ext(&reply, "queueOffset").parse().unwrap(), physical);
    broker.request(&request_frame(37, 2, &end_header(told, 8).to_ext(), b""));
    assert!(broker.replies().is_empty(), "not committed yet");
    broker.stores[0].commit();
    assert_eq!(broker.reply().code, 0);
    assert_eq!(delivered(&broker).len(), 1);
}

#[test]
fn a_half_that_the_device_does_not_have_yet_is_checked_later() {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.flush_disk_type = crate::settings::FlushDiskType::Sync;
    });
    let broker = broker.with_transactions();
    let properties = half_properties("pg", "");
    broker.request(&send_frame(1, &half_header("T", 0, &properties), b"hi"));
    broker.pass_ms(7_000);
    assert!(checks(&broker).is_empty());
    broker.stores[0].commit();
    broker.pass_ms(31_000);
    assert_eq!(checks(&broker).len(), 1, "it is still open");
}
