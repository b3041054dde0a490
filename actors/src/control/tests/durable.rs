//! What is not yet known to be on the device: nothing is stored or dropped on the strength of it.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use gantry_protocol::code::request as code;
use gantry_storage::address;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueOffset, ShardId};

use super::rig::{Rig, peer, request, settings};
use super::supervisors::{cores, old_segment, parked, supplied, with_topic};
use crate::seam::errands::{Errand, ErrandDone};
use crate::seam::{Question, ToData};

const SHARD: ShardId = ShardId(3);
/// From where a queue is asked for its end alone.
const PAST_ALL: QueueOffset = QueueOffset(u64::MAX);

fn one_due() -> HashMap<u64, Bytes> {
    HashMap::from([(1000, parked(b"one"))])
}

fn poisoned() -> ErrandDone {
    ErrandDone::Durable(Err("shard 0 takes nothing any more: a sync failed".into()))
}

fn is_durable(message: &ToData) -> bool {
    matches!(message, ToData::Errand { errand, .. } if matches!(errand, Errand::Durable))
}

/// From where the next start reads the level whose one message was delivered.
fn read_from(folder: &Path) -> QueueOffset {
    let mut rig = Rig::start(folder, settings());
    rig.errand = Box::new(cores(one_due()));
    let is_level = |message: &ToData| match message {
        ToData::Errand {
            errand: Errand::Scan(scan),
            ..
        } => scan.queue.queue.0 == 1 && scan.from != PAST_ALL,
        _ => false,
    };
    let scan = rig.until(is_level);
    rig.stop();
    match scan {
        ToData::Errand {
            errand: Errand::Scan(scan),
            ..
        } => scan.from,
        other => panic!("{other:?}"),
    }
}

#[test]
fn how_far_it_is_is_stored_once_the_device_has_it_or_all_logs_are_shut() {
    for (is_on_device, is_clean, from) in [(false, false, 0), (false, true, 1), (true, false, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = with_topic(folder.path(), one_due());
        let log = cores(one_due());
        rig.errand = Box::new(move |errand| match errand {
            Errand::Durable if !is_on_device => poisoned(),
            errand => log(errand),
        });
        assert_eq!(supplied(&mut rig).len(), 1);
        rig.until(is_durable);
        if is_on_device {
            // The commit is a device write.
            std::thread::sleep(std::time::Duration::from_millis(500));
        } else {
            // It is asked again, and would have been stored by then.
            rig.until(is_durable);
        }
        rig.stop_with(is_clean);
        let case = (is_on_device, is_clean);
        assert_eq!(read_from(folder.path()), QueueOffset(from), "{case:?}");
    }
}

#[test]
fn no_segment_goes_while_it_is_not_known_that_the_device_has_what_left_it() {
    let at = address::physical(SHARD, FilePosition(40));
    for is_parked in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.retention.rules.delete_hours = Vec::new();
        settings.retention.interval_ms = 3_600_000;
        let mut rig = Rig::start(folder.path(), settings);
        let log = cores(HashMap::from([(at.0, parked(b"later"))]));
        rig.errand = Box::new(move |errand| match errand {
            Errand::Durable => poisoned(),
            errand => moved_to(at, is_parked, log(errand)),
        });
        rig.answer = Box::new(|question| old_segment(SHARD, question));
        // All queues are read when the last one, of timers, is.
        for _ in 0..=18 {
            rig.until(|message| matches!(message, ToData::Errand { .. }));
        }
        // The second run begins when the first one has ended.
        for _ in 0..2 {
            let asked = request(code::DELETE_EXPIRED_COMMITLOG, &[], "");
            assert_eq!(rig.ask(peer(1), asked).code, 0);
            rig.until(|message| is_asked(message, |asked| matches!(asked, Question::Ages(_))));
        }
        let is_drop = |asked: &Question| match asked {
            Question::DropSegments(plan) => !plan.drops.is_empty(),
            _ => false,
        };
        let mut seen = rig.seen.iter();
        assert!(
            !seen.any(|message| is_asked(message, is_drop)),
            "{is_parked}"
        );
        rig.stop();
    }
}

fn is_asked(message: &ToData, fits: impl Fn(&Question) -> bool) -> bool {
    matches!(message, ToData::Ask { question, .. } if fits(question))
}

/// The level's one message lies there and is due in ages, or there is none.
fn moved_to(at: PhysicalOffset, is_parked: bool, done: ErrandDone) -> ErrandDone {
    let ErrandDone::Scanned(Ok(mut scanned)) = done else {
        return done;
    };
    for row in &mut scanned.rows {
        (row.physical, row.time_ms) = (at, u64::MAX >> 20);
    }
    if !is_parked {
        scanned.rows.clear();
    }
    ErrandDone::Scanned(Ok(scanned))
}
