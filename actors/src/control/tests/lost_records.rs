//! Delayed messages whose records the log has lost: they are dropped, and keep nothing back.

use bytes::Bytes;
use gantry_protocol::code::request as code;
use gantry_storage::address;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueBounds, QueueOffset, ShardId};

use super::rig::{Rig, peer, request, settings};
use super::supervisors::{QUEUES, old_segment, parked, row, supplied};
use crate::seam::errands::{Errand, ErrandDone, FetchFault, Placed, Scan, Scanned};
use crate::seam::{Question, ToData};

const SHARD: ShardId = ShardId(3);
const LATER_MS: u64 = u64::MAX >> 20;

/// Two parked records in the segment that is to go; the log has lost the first one.
fn places() -> [PhysicalOffset; 2] {
    [40, 60].map(|at| address::physical(SHARD, FilePosition(at)))
}

fn scanned(scan: &Scan, due_ms: u64) -> Scanned {
    let mut scanned = Scanned::default();
    if scan.queue.queue.0 != 1 {
        return scanned;
    }
    let end = QueueOffset(2);
    scanned.next = end;
    scanned.bounds = QueueBounds {
        min: QueueOffset(0),
        max: end,
    };
    for (offset, physical) in (0..).zip(places()) {
        let mut row = row(scan.queue, offset, due_ms);
        row.physical = physical;
        if row.offset >= scan.from {
            scanned.rows.push(row);
        }
    }
    scanned
}

/// Cores whose level 2 holds both, due at this time.
fn cores(due_ms: u64) -> impl Fn(&Errand) -> ErrandDone {
    let fetch = |place: &PhysicalOffset| -> Result<Bytes, FetchFault> {
        if *place == places()[0] {
            return Err(FetchFault::Lost("no record at position 40".into()));
        }
        Ok(parked(b"whole"))
    };
    move |errand| match errand {
        Errand::Scan(scan) => ErrandDone::Scanned(Ok(scanned(scan, due_ms))),
        Errand::Fetch(places) => ErrandDone::Fetched(places.iter().map(fetch).collect()),
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

/// Where the log of the shard is cut when an operator asks for it.
fn cut_at(rig: &mut Rig) -> Vec<FilePosition> {
    let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
    assert_eq!(rig.ask(peer(1), asked).code, 0);
    let is_order = |question: &Question| matches!(question, Question::DropSegments(_));
    let order =
        rig.until(|message| matches!(message, ToData::Ask { question, .. } if is_order(question)));
    let ToData::Ask {
        question: Question::DropSegments(plan),
        ..
    } = order
    else {
        unreachable!()
    };
    plan.drops.iter().map(|drop| drop.before).collect()
}

/// A broker whose log holds both records, due at this time; topic T exists.
fn broker(folder: &std::path::Path, due_ms: u64) -> Rig {
    let mut settings = settings();
    settings.retention.rules.delete_hours = Vec::new();
    settings.retention.interval_ms = 3_600_000;
    let mut rig = Rig::start(folder, settings.clone());
    assert_eq!(rig.ensure_topic("T", "TBW102", 4), 0);
    rig.stop();
    let mut rig = Rig::start(folder, settings);
    rig.errand = Box::new(cores(due_ms));
    rig.answer = Box::new(|question| old_segment(SHARD, question));
    rig
}

#[test]
fn one_that_is_due_is_dropped_and_those_behind_it_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = broker(folder.path(), 1);
    let delivered = supplied(&mut rig);
    let bodies: Vec<&[u8]> = delivered.iter().map(|record| &record.body[..]).collect();
    assert_eq!(bodies, [b"whole"]);
    assert_eq!(cut_at(&mut rig), [FilePosition(100)]);
    rig.stop();
}

#[test]
fn one_that_is_in_the_way_of_retention_is_dropped_before_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = broker(folder.path(), LATER_MS);
    // All queues are read when the last one, of timers, is.
    for _ in 0..QUEUES {
        rig.until(|message| matches!(message, ToData::Errand { .. }));
    }
    assert_eq!(cut_at(&mut rig), [FilePosition(100)]);
    let again = rig.seen.iter().find_map(|message| match message {
        ToData::Errand {
            errand: Errand::Supply(records),
            ..
        } => Some(records),
        _ => None,
    });
    assert_eq!(&again.unwrap()[0].body[..], b"whole", "parked again");
    rig.stop();
}
