//! What the supervisor of delayed messages finds at a start, and after a panic of the desk.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use gantry_protocol::code::request as code;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::address;
use gantry_storage::units::{FilePosition, QueueBounds, QueueKey, QueueOffset, ShardId};

use super::rig::{Rig, peer, request, settings};
use super::supervisors::{QUEUES, cores, inject, old_segment, parked, row, supplied, with_topic};
use crate::seam::errands::{Errand, ErrandDone, Scan, Scanned};
use crate::seam::{Question, ToControl, ToData};

const LATER_MS: u64 = u64::MAX >> 20;

/// What a scan of a queue finds that holds rows up to `max`: those from `from` on, all due then.
fn rows_of(scan: &Scan, from: u64, max: u64, due_ms: u64) -> Scanned {
    let rows = (from.max(scan.from.0)..max).map(|offset| row(scan.queue, offset, due_ms));
    let rows = rows.filter(|row| !scan.leaves_out(row.offset, row.time_ms));
    Scanned {
        rows: rows.collect(),
        next: QueueOffset(max),
        bounds: QueueBounds {
            min: QueueOffset(0),
            max: QueueOffset(max),
        },
    }
}

fn is_scan(message: &ToData) -> bool {
    matches!(
        message,
        ToData::Errand {
            errand: Errand::Scan(_),
            ..
        }
    )
}

#[test]
fn what_is_parked_for_a_level_that_is_gone_is_known_and_moved_before_its_segment_goes() {
    let folder = tempfile::tempdir().unwrap();
    let at = address::physical(ShardId(3), FilePosition(40));
    let log = cores(HashMap::from([(at.0, parked(b"later"))]));
    let log = Rc::new(move |errand: &Errand| match errand {
        Errand::Scan(scan) if scan.queue.queue.0 == 19 => {
            let mut scanned = rows_of(scan, 0, 1, LATER_MS);
            for row in &mut scanned.rows {
                row.physical = at;
            }
            ErrandDone::Scanned(Ok(scanned))
        }
        Errand::Scan(_) => ErrandDone::Scanned(Ok(Scanned::default())),
        other => log(other),
    });
    let mut settings = settings();
    settings.retention.rules.delete_hours = Vec::new();
    settings.retention.interval_ms = 3_600_000;
    let start = |levels| {
        let mut settings = settings.clone();
        settings.delay_levels_ms = vec![1000; levels];
        let mut rig = Rig::start(folder.path(), settings);
        let log = Rc::clone(&log);
        rig.errand = Box::new(move |errand| log(errand));
        rig
    };
    start(18).stop();
    let mut rig = start(20);
    for _ in 0..QUEUES + 2 {
        rig.until(is_scan);
    }
    rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    rig.stop();

    let mut rig = start(18);
    rig.answer = Box::new(|question| old_segment(ShardId(3), question));
    rig.until(|message| {
        let is_last = |scan: &Scan| scan.queue.queue.0 == 19 && scan.from.0 < u64::MAX;
        matches!(message, ToData::Errand { errand: Errand::Scan(scan), .. } if is_last(scan))
    });
    rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
    assert_eq!(rig.ask(peer(1), asked).code, 0);
    let again = supplied(&mut rig);
    assert_eq!(
        (again[0].key.queue.0, &again[0].body[..]),
        (19, &b"later"[..])
    );
    let is_drop = |message: &ToData| {
        matches!(
            message,
            ToData::Ask {
                question: Question::DropSegments(_),
                ..
            }
        )
    };
    assert!(!rig.seen.iter().any(is_drop), "not before it is moved");
    rig.until(is_drop);
    rig.stop();
}

#[test]
fn what_is_parked_after_the_log_lost_its_end_is_delivered_though_the_marks_go_further() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(folder.path(), settings());
    let scanned = |max: u64| {
        move |errand: &Errand| match errand {
            Errand::Scan(scan) if scan.queue.queue.0 == 1 => {
                ErrandDone::Scanned(Ok(rows_of(scan, u64::MAX, max, 1)))
            }
            _ => ErrandDone::Scanned(Ok(Scanned::default())),
        }
    };
    rig.errand = Box::new(scanned(10));
    for _ in 0..QUEUES {
        rig.until(is_scan);
    }
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    // Ends with the mark of ten rows, none of them pending.
    rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    rig.stop();

    let mut rig = Rig::start(folder.path(), settings());
    let log = cores(HashMap::from([
        (1007, parked(b"one")),
        (1008, parked(b"two")),
        (1009, parked(b"three")),
    ]));
    rig.errand = Box::new(move |errand| match errand {
        // Two more come while other queues are read.
        Errand::Scan(scan) if scan.queue.queue.0 == 1 => {
            let max = if scan.from.0 == u64::MAX { 7 } else { 9 };
            ErrandDone::Scanned(Ok(rows_of(scan, 7, max, 1)))
        }
        Errand::Scan(_) => ErrandDone::Scanned(Ok(Scanned::default())),
        other => log(other),
    });
    let mut bodies: Vec<_> = supplied(&mut rig).into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, [&b"one"[..], &b"two"[..]]);
    let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
    let level_2 = QueueKey::new(schedule.0, 1);
    rig.tell(ToControl::Owed(vec![row(level_2, 9, 2)]));
    bodies.extend(supplied(&mut rig).into_iter().map(|one| one.body));
    assert_eq!(&bodies[2][..], b"three");
    rig.stop();
}

#[test]
fn rows_that_a_panic_of_the_desk_takes_with_it_are_read_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let records = HashMap::from([(1000, parked(b"one")), (1001, parked(b"two"))]);
    let mut rig = with_topic(folder.path(), records.clone());
    assert_eq!(supplied(&mut rig).len(), 1);
    let log = cores(records);
    rig.errand = Box::new(move |errand| match errand {
        Errand::Scan(scan) if scan.queue.queue.0 == 1 => {
            ErrandDone::Scanned(Ok(rows_of(scan, 1, 2, 2)))
        }
        other => log(other),
    });
    let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
    let level_2 = QueueKey::new(schedule.0, 1);
    inject(&rig, "desk");
    rig.tell(ToControl::Owed(vec![row(level_2, 1, 2)]));
    assert_eq!(&supplied(&mut rig)[0].body[..], b"two");
    rig.stop();
}

/// A broker without topic T, at whose level 2 a message for T falls due at `due_ms`.
fn without_topic(folder: &std::path::Path, due_ms: u64) -> Rig {
    let mut rig = Rig::start(folder, settings());
    let log = cores(HashMap::from([(1000, parked(b"one"))]));
    rig.errand = Box::new(move |errand| match errand {
        Errand::Scan(scan) if scan.queue.queue.0 == 1 => {
            ErrandDone::Scanned(Ok(rows_of(scan, 0, 1, due_ms)))
        }
        other => log(other),
    });
    rig.until(is_fetch);
    rig
}

fn is_fetch(message: &ToData) -> bool {
    matches!(
        message,
        ToData::Errand {
            errand: Errand::Fetch(_),
            ..
        }
    )
}

#[test]
fn what_falls_due_without_its_topic_is_delivered_when_that_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = without_topic(folder.path(), wall_now_ms());
    rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let [one] = &supplied(&mut rig)[..] else {
        panic!("one record is due")
    };
    assert_eq!(one.body, Bytes::from_static(b"one"));
    assert_eq!(one.key.topic, rig.topics()["T"].id);
    rig.stop();
}

#[test]
fn what_has_no_topic_is_given_up_a_minute_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let almost = wall_now_ms() - 60_000 + 1500;
    let mut rig = without_topic(folder.path(), almost);
    // Looked for once more, at the end of its wait.
    rig.until(is_fetch);
    rig.ask(peer(1), request(code::GET_BROKER_RUNTIME_INFO, &[], ""));
    assert!(wall_now_ms() >= almost + 60_000);
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    let schedule = rig.topics()["SCHEDULE_TOPIC_XXXX"].id;
    let level_2 = QueueKey::new(schedule.0, 1);
    let log = cores(HashMap::from([(1001, parked(b"two"))]));
    rig.errand = Box::new(move |errand| log(errand));
    rig.tell(ToControl::Owed(vec![row(level_2, 1, 2)]));
    assert_eq!(&supplied(&mut rig)[0].body[..], b"two", "the first is gone");
    rig.stop();
}

#[test]
fn messages_sent_back_are_read_and_stored_few_at_a_time_when_they_are_large() {
    let folder = tempfile::tempdir().unwrap();
    let large = parked(&vec![0; 3 << 20]);
    let mut rig = with_topic(
        folder.path(),
        HashMap::from([(1000, parked(b"one")), (77, large)]),
    );
    assert_eq!(supplied(&mut rig).len(), 1);
    let fields = [("group", "g"), ("offset", "77"), ("delayLevel", "0")];
    let back = || request(code::CONSUMER_SEND_MSG_BACK, &fields, "");
    assert_eq!(rig.ask(peer(1), back()).code, 0);
    rig.seen.clear();
    // The first is read alone, for nobody answers yet; the others wait.
    for _ in 0..20 {
        rig.request(peer(2), back());
    }
    assert_eq!(rig.ask(peer(1), back()).code, 0);
    let errands = rig.seen.iter().filter_map(|message| match message {
        ToData::Errand { errand, .. } => Some(errand),
        _ => None,
    });
    let (mut read, mut stored) = (0, 0);
    for errand in errands {
        match errand {
            Errand::Fetch(places) => read += places.len(),
            Errand::Supply(records) => stored += records.len(),
            _ => {}
        }
        assert!(read - stored <= 8, "{read} read, {stored} stored");
    }
    assert_eq!((read, stored), (21, 21), "none is left out or done twice");
    rig.stop();
}
