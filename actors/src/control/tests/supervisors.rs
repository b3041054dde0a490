use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use gantry_protocol::body::KvTable;
use gantry_protocol::code::request as code;
use gantry_protocol::message::{EncodedRecord, RecordParts, body_crc};
use gantry_storage::address;
use gantry_storage::retention::{SegmentAge, ShardAges};
use gantry_storage::units::{
    FilePosition, PhysicalOffset, QueueBounds, QueueKey, QueueOffset, ShardId, StoreTimestamp,
};

use super::rig::{Rig, frame_of, peer, request, settings};
use crate::control::desk::INJECT_PANIC;
use crate::seam::errands::{Errand, ErrandDone, FetchFault, Placed, Scanned, SupplyRecord};
use crate::seam::owed::{OwedRow, OwedTime};
use crate::seam::{Answer, Question, Ticket, ToControl, ToData};

/// Queues of parked messages: of the rig's levels, and of timers.
pub const QUEUES: usize = 18 + 1;

/// What a core says whose shard has one old segment that nobody wants.
pub fn old_segment(shard: ShardId, question: &Question) -> Answer {
    match question {
        Question::Ages(_) => Answer::Ages(vec![ShardAges {
            shard,
            segments: vec![SegmentAge {
                start: FilePosition(0),
                bytes: 100,
                newest: Some(StoreTimestamp(1)),
            }],
            reserved_from: None,
        }]),
        Question::OpenHalves { .. } => Answer::OpenHalves(Ok(None)),
        _ => Answer::Done,
    }
}

/// A parked record for queue 2 of topic T.
pub fn parked(body: &[u8]) -> Bytes {
    parked_with(b"REAL_TOPIC\x01T\x02REAL_QID\x012\x02KEYS\x01k\x02", body)
}

pub fn parked_with(properties: &[u8], body: &[u8]) -> Bytes {
    let host = "127.0.0.1:9".parse().unwrap();
    let parts = RecordParts {
        topic: "SCHEDULE_TOPIC_XXXX",
        queue_id: 1,
        flag: 7,
        queue_offset: 0,
        physical_offset: 0,
        sys_flag: 0,
        born_timestamp: 5,
        born_host: host,
        store_timestamp: 6,
        store_host: host,
        reconsume_times: 3,
        prepared_transaction_offset: 0,
        body,
        body_crc: body_crc(body),
        properties,
    };
    let mut out = BytesMut::new();
    EncodedRecord::new(&parts).unwrap().write(&mut out);
    out.freeze()
}

pub fn row(queue: QueueKey, offset: u64, time_ms: u64) -> OwedRow {
    OwedRow {
        queue,
        offset: QueueOffset(offset),
        physical: PhysicalOffset(1000 + offset),
        bytes: 200,
        time_ms,
        store_ms: 6,
    }
}

/// Cores whose level 2 holds one row that is due, and whose records are these.
pub fn cores(records: HashMap<u64, Bytes>) -> impl Fn(&Errand) -> ErrandDone {
    move |errand| match errand {
        Errand::Scan(scan) => {
            let mut scanned = Scanned::default();
            if scan.queue.queue.0 == 1 {
                scanned.next = QueueOffset(1);
                scanned.bounds = QueueBounds {
                    min: QueueOffset(0),
                    max: QueueOffset(1),
                };
                if scan.from.0 == 0 {
                    scanned.rows.push(row(scan.queue, 0, 1));
                }
            }
            ErrandDone::Scanned(Ok(scanned))
        }
        Errand::Fetch(places) => {
            let read = |place: &PhysicalOffset| records.get(&place.0).cloned();
            let read = places
                .iter()
                .map(|place| read(place).ok_or(FetchFault::Gone));
            ErrandDone::Fetched(read.collect())
        }
        Errand::Supply(supplied) => {
            let placed = Placed {
                offset: QueueOffset(0),
                physical: PhysicalOffset(5000),
            };
            ErrandDone::Supplied(supplied.iter().map(|_| Ok(placed)).collect())
        }
        Errand::Locate(..) => ErrandDone::Located(Ok(QueueOffset(0))),
        Errand::Durable => ErrandDone::Durable(Ok(())),
    }
}

/// What the plane wants to be stored next, and the errand's ticket.
pub fn supply(rig: &mut Rig) -> (Ticket, Vec<SupplyRecord>) {
    let message = rig.until(|message| {
        matches!(
            message,
            ToData::Errand {
                errand: Errand::Supply(_),
                ..
            }
        )
    });
    match message {
        ToData::Errand {
            ticket,
            errand: Errand::Supply(records),
        } => (ticket, records),
        _ => unreachable!(),
    }
}

pub fn supplied(rig: &mut Rig) -> Vec<SupplyRecord> {
    supply(rig).1
}

pub fn inject(rig: &Rig, part: &str) {
    rig.request(peer(1), request(INJECT_PANIC, &[("part", part)], ""));
}

/// A broker with topic T, restarted so that what its log holds is read with T known.
pub fn with_topic(folder: &std::path::Path, records: HashMap<u64, Bytes>) -> Rig {
    let mut rig = Rig::start(folder, settings());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    rig.stop();
    let mut rig = Rig::start(folder, settings());
    rig.errand = Box::new(cores(records));
    rig
}

#[test]
fn what_the_log_holds_is_delivered_and_a_panic_of_the_supervisor_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one")), (1001, parked(b"two"))]);
    let mut rig = with_topic(folder.path(), records);
    let [one] = &supplied(&mut rig)[..] else {
        panic!("one record is due")
    };
    assert_eq!(one.key.topic, rig.topics()["T"].id);
    assert_eq!((one.key.queue.0, &one.body[..]), (2, &b"one"[..]));
    assert_eq!((one.flag, one.born_ms, one.reconsume_times), (7, 5, 3));
    assert!(one.owed.is_none(), "it isn't parked again");
    let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
    let level_2 = QueueKey::new(schedule.0, 1);
    inject(&rig, "delay");
    rig.tell(ToControl::Owed(vec![row(level_2, 1, 2)]));
    // The delivery of the first one isn't marked yet: it is repeated, the second isn't forgotten.
    let mut bodies = Vec::new();
    while !bodies.contains(&Bytes::from_static(b"two")) {
        bodies.extend(supplied(&mut rig).into_iter().map(|record| record.body));
    }
    assert_eq!(bodies, [&b"one"[..], &b"two"[..]]);
    let told = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    let told = KvTable::parse(&told.body).unwrap().table;
    assert_eq!(told["controlPlaneFailure.delay"], "injected");
    assert!(!told.contains_key("controlPlaneFailure.retry"));
    assert!(told["controlPlaneRestarts"].contains("delay:1 "));
    assert!(told["controlPlaneStates"].contains("delay:running "));
    rig.stop();
}

#[test]
fn a_parked_record_for_a_topic_of_the_broker_itself_is_dropped() {
    for topic in [
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "SCHEDULE_TOPIC_XXXX",
        "rmq_sys_wheel_timer",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let forged = format!("REAL_TOPIC\u{1}{topic}\u{2}REAL_QID\u{1}0\u{2}TAGS\u{1}d\u{2}");
        let forged = parked_with(forged.as_bytes(), b"0");
        let records = HashMap::from([(1000, forged), (1001, parked(b"two"))]);
        let mut rig = with_topic(folder.path(), records);
        rig.until(|message| {
            matches!(
                message,
                ToData::Errand {
                    errand: Errand::Fetch(_),
                    ..
                }
            )
        });
        let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
        rig.tell(ToControl::Owed(vec![row(
            QueueKey::new(schedule.0, 1),
            1,
            2,
        )]));
        let mut bodies = Vec::new();
        while bodies.is_empty() {
            bodies.extend(supplied(&mut rig).into_iter().map(|record| record.body));
        }
        assert_eq!(bodies, [&b"two"[..]], "{topic}");
        rig.stop();
    }
}

#[test]
fn a_row_out_of_order_makes_the_supervisor_read_what_is_between() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one"))]);
    let mut rig = with_topic(folder.path(), records);
    assert_eq!(supplied(&mut rig).len(), 1);
    let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
    let level_2 = QueueKey::new(schedule.0, 1);
    rig.tell(ToControl::Owed(vec![row(level_2, 4, 2)]));
    let scan = rig.until(|message| {
        matches!(
            message,
            ToData::Errand {
                errand: Errand::Scan(_),
                ..
            }
        )
    });
    let ToData::Errand {
        errand: Errand::Scan(scan),
        ..
    } = scan
    else {
        unreachable!()
    };
    assert_eq!((scan.queue, scan.from), (level_2, QueueOffset(1)));
    rig.stop();
}

#[test]
fn a_message_sent_back_is_refused_by_a_panic_and_parked_by_the_next_try() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one")), (77, parked(b"back"))]);
    let mut rig = with_topic(folder.path(), records);
    assert_eq!(supplied(&mut rig).len(), 1);
    let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
    let back = || request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
    inject(&rig, "retry");
    let refused = rig.ask(peer(1), back());
    assert_eq!(refused.code, 1, "{:?}", refused.remark);
    assert_eq!(rig.ask(peer(1), back()).code, 0);
    let parked: Vec<SupplyRecord> = rig
        .seen
        .iter()
        .filter_map(|message| match message {
            ToData::Errand {
                errand: Errand::Supply(records),
                ..
            } => Some(records.clone()),
            _ => None,
        })
        .next_back()
        .unwrap();
    // Its fourth try: level 3 + 3.
    assert_eq!(parked[0].key.queue.0, 5);
    assert_eq!(parked[0].reconsume_times, 4);
    let text = std::str::from_utf8(&parked[0].properties).unwrap();
    assert!(text.starts_with("REAL_TOPIC\u{1}%RETRY%g\u{2}"), "{text}");
    assert!(text.contains("RETRY_TOPIC\u{1}SCHEDULE_TOPIC_XXXX\u{2}"));
    assert!(rig.topics().contains_key("%RETRY%g"));
    let gone = [("group", "g"), ("offset", "78"), ("delayLevel", "0")];
    let gone = request(code::CONSUMER_SEND_MSG_BACK, &gone, "");
    assert_eq!(rig.ask(peer(1), gone).code, 1);
    rig.stop();
}

#[test]
fn nothing_is_sent_back_while_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.retention.rules.warning_percent = 0;
    let mut rig = Rig::start(folder.path(), settings);
    let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
    let mut remark = String::new();
    // The disk is looked at first.
    for _ in 0..100 {
        let back = request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
        let refused = rig.ask(peer(1), back);
        assert_eq!(refused.code, 1);
        remark = refused.remark.unwrap_or_default();
        if remark.starts_with("SERVICE_NOT_AVAILABLE: the broker's disk is full") {
            break;
        }
    }
    assert!(remark.contains("disk is full"), "{remark}");
    rig.stop();
}

#[test]
fn nothing_is_recalled_before_sends_are_accepted() {
    let recalled = |opens_ms: u64| {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.start_accept_send_request_ms = opens_ms.into();
        let mut rig = Rig::start(folder.path(), settings);
        let fields = [("topic", "nowhere"), ("recallHandle", "x")];
        let mut code = 14;
        // The broker looks for parked messages first.
        for _ in 0..100 {
            let recall = request(code::RECALL_MESSAGE, &fields, "");
            code = rig.ask(peer(1), recall).code;
            if code != 14 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        rig.stop();
        code
    };
    assert_eq!(recalled(0), 17);
    assert_eq!(recalled(u64::MAX), 14);
}

#[test]
fn a_retry_topic_that_takes_no_messages_takes_none_sent_back() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(77, parked(b"again"))]);
    let mut rig = with_topic(folder.path(), records);
    let permit = |rig: &mut Rig, perm| {
        let fields = [
            ("topic", "%RETRY%g"),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "1"),
            ("writeQueueNums", "1"),
            ("perm", perm),
            ("topicFilterType", "SINGLE_TAG"),
            ("order", "false"),
        ];
        let update = request(code::UPDATE_AND_CREATE_TOPIC, &fields, "");
        assert_eq!(rig.ask(peer(1), update).code, 0);
    };
    permit(&mut rig, "4");
    // Also one that would be a dead letter.
    for level in ["0", "-1"] {
        let fields = [("group", "g"), ("offset", "77"), ("delayLevel", level)];
        let refused = rig.ask(peer(1), request(code::CONSUMER_SEND_MSG_BACK, &fields, ""));
        assert_eq!(refused.code, 16, "{:?}", refused.remark);
        let remark = refused.remark.unwrap();
        assert_eq!(remark, "the topic[%RETRY%g] sending message is forbidden");
    }
    permit(&mut rig, "6");
    let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
    let back = request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
    assert_eq!(rig.ask(peer(1), back).code, 0);
    rig.stop();
}

#[test]
fn pending_messages_are_parked_again_before_their_segments_go() {
    let folder = tempfile::tempdir().unwrap();
    let at = address::physical(ShardId(3), FilePosition(40));
    let due_ms = u64::MAX >> 20;
    let mut settings = settings();
    settings.retention.rules.delete_hours = Vec::new();
    settings.retention.interval_ms = 3_600_000;
    let mut rig = Rig::start(folder.path(), settings);
    let log = cores(HashMap::from([(at.0, parked(b"later"))]));
    rig.errand = Box::new(move |errand| match log(errand) {
        ErrandDone::Scanned(Ok(mut scanned)) => {
            for row in &mut scanned.rows {
                (row.physical, row.time_ms) = (at, due_ms);
            }
            ErrandDone::Scanned(Ok(scanned))
        }
        done => done,
    });
    rig.answer = Box::new(|question| old_segment(ShardId(3), question));
    // All queues are read when the last one, of timers, is.
    for _ in 0..QUEUES {
        rig.until(|message| matches!(message, ToData::Errand { .. }));
    }
    let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
    assert_eq!(rig.ask(peer(1), asked).code, 0);
    let again = supplied(&mut rig);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].owed, Some(OwedTime::At(due_ms)));
    assert_eq!(&again[0].topic.config.name, "SCHEDULE_TOPIC_XXXX");
    assert_eq!(
        (again[0].key.queue.0, &again[0].body[..]),
        (1, &b"later"[..])
    );
    let order = rig.until(|message| {
        matches!(
            message,
            ToData::Ask {
                question: Question::DropSegments(_),
                ..
            }
        )
    });
    let ToData::Ask {
        question: Question::DropSegments(plan),
        ..
    } = order
    else {
        unreachable!()
    };
    let drops: Vec<_> = plan
        .drops
        .iter()
        .map(|drop| (drop.shard, drop.before))
        .collect();
    assert_eq!(drops, [(ShardId(3), FilePosition(100))]);
    rig.stop();
}

/// A half of producer group `pg`, due for a check.
fn due_half() -> crate::seam::HalfCheck {
    let host = "127.0.0.1:9".parse().unwrap();
    let properties =
        "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}pg\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}0\u{2}";
    let parts = RecordParts {
        topic: "RMQ_SYS_TRANS_HALF_TOPIC",
        queue_id: 0,
        flag: 0,
        queue_offset: 3,
        physical_offset: 400,
        sys_flag: 0,
        born_timestamp: 5,
        born_host: host,
        store_timestamp: 6,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"half",
        body_crc: body_crc(b"half"),
        properties: properties.as_bytes(),
    };
    let mut out = BytesMut::new();
    EncodedRecord::new(&parts).unwrap().write(&mut out);
    crate::seam::HalfCheck {
        record: out.freeze(),
        checks: 1,
    }
}

#[test]
fn a_panic_of_the_check_backs_costs_no_later_question() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let beat = r#"{"clientID":"p","consumerDataSet":[],"producerDataSet":[{"groupName":"pg"}]}"#;
    assert_eq!(
        rig.ask(peer(5), request(code::HEART_BEAT, &[], beat)).code,
        0
    );
    for panics in 1..=2 {
        inject(&rig, "transaction");
        rig.tell(ToControl::CheckHalves(vec![due_half()]));
        rig.until(|message| {
            frame_of(message).is_some_and(|sent| sent.code == code::CHECK_TRANSACTION_STATE)
        });
        let told = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
        let told = KvTable::parse(&told.body).unwrap().table;
        assert_eq!(told["controlPlaneFailure.transaction"], "injected");
        let restarts = format!("transaction:{panics}");
        assert!(told["controlPlaneRestarts"].contains(&restarts), "{told:?}");
    }
    assert!(!rig.shutdown.is_triggered());
    rig.stop();
}

/// Makes a supervisor panic for the `n`th time and waits until it is at work again.
fn panic_once(rig: &mut Rig, part: &str, n: u64, is_last: bool) {
    inject(rig, part);
    if part == "retry" {
        let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
        rig.request(peer(2), request(code::CONSUMER_SEND_MSG_BACK, &fields, ""));
    }
    if part == "delay" {
        // A row wakes it.
        let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
        let queue = QueueKey::new(schedule.0, 17);
        rig.tell(ToControl::Owed(vec![row(queue, n, u64::MAX >> 20)]));
    }
    let (wanted, works) = (format!("{part}:{n}"), format!("{part}:running"));
    let mut counted = is_last;
    while !counted {
        let told = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
        let told = KvTable::parse(&told.body).unwrap().table;
        counted = told["controlPlaneRestarts"].contains(&wanted)
            && told["controlPlaneStates"].contains(&works);
    }
}

#[test]
fn each_supervisor_has_a_budget_over_which_the_process_ends_with_the_cause() {
    for part in ["delay", "transaction", "retry"] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::start(folder.path(), settings());
        assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
        let most = gantry_runtime::control::RESTARTS_MAX as u64;
        for n in 1..=most + 1 {
            assert!(!rig.shutdown.is_triggered(), "{part}: at panic {n}");
            panic_once(&mut rig, part, n, n > most);
        }
        let ended = std::time::Duration::from_secs(10);
        assert!(rig.shutdown.wait_blocking_for(ended), "{part}");
        let reason = rig.shutdown.reason().unwrap().to_string();
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn the_most_tries_of_a_request_count_from_clients_that_mean_them() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one")), (77, parked(b"back"))]);
    let mut rig = with_topic(folder.path(), records);
    assert_eq!(supplied(&mut rig).len(), 1);
    let fields = [
        ("group", "g"),
        ("offset", "77"),
        ("delayLevel", "0"),
        ("maxReconsumeTimes", "0"),
    ];
    for (version, topic) in [(120, "SCHEDULE_TOPIC_XXXX"), (121, "%DLQ%g")] {
        let mut back = request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
        back.version = version;
        assert_eq!(rig.ask(peer(1), back).code, 0);
        let last = rig.seen.iter().rev().find_map(|message| match message {
            ToData::Errand {
                errand: Errand::Supply(records),
                ..
            } => records
                .last()
                .map(|record| record.topic.config.name.clone()),
            _ => None,
        });
        assert_eq!(last.as_deref(), Some(topic), "{version}");
    }
    rig.stop();
}

#[test]
fn a_level_that_cannot_be_read_keeps_no_other_one_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one"))]);
    let mut rig = with_topic(folder.path(), records.clone());
    let log = cores(records.clone());
    rig.errand = Box::new(move |errand| match errand {
        // In front of the others.
        Errand::Scan(scan) if scan.queue.queue.0 == 0 => {
            ErrandDone::Scanned(Err("a page is damaged".into()))
        }
        other => log(other),
    });
    let [one] = &supplied(&mut rig)[..] else {
        panic!("one record is due")
    };
    assert_eq!(&one.body[..], b"one");
    let told = rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    let told = KvTable::parse(&told.body).unwrap().table;
    assert!(told["controlPlaneStates"].contains("delay:waiting"));
    // It can be read again: what it holds comes, too.
    let log = cores(records);
    rig.errand = Box::new(move |errand| match errand {
        Errand::Scan(scan) if scan.queue.queue.0 == 0 => {
            let mut level_2 = *scan;
            level_2.queue.queue.0 = 1;
            log(&Errand::Scan(level_2))
        }
        other => log(other),
    });
    assert_eq!(&supplied(&mut rig)[0].body[..], b"one");
    rig.stop();
}
