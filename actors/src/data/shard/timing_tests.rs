//! Requests that are refused after a wait, and pulls whose batch is forgotten.

use gantry_protocol::code::response;
use gantry_runtime::metrics::{Figures, Snapshot};

use super::super::tests::{send, sent};
use super::*;
use crate::data::queue::waiters::QUEUE_WAITERS_MAX;
use crate::data::requests::parked::PARKED_MS;
use crate::data::testing::{
    TestBroker, long_pull, pull_frame, pull_header, send_frame, send_header,
};

/// One core, timed, whose clock has run for a while.
fn timed() -> TestBroker {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.world.pass_ms(1_000);
    broker.cores[0].host.profile().begin(1_000_000);
    broker
}

fn told(broker: &TestBroker) -> Snapshot {
    let now_us = broker.world.now_us.get();
    broker.cores[0].host.profile().snapshot(now_us).unwrap()
}

fn figures(told: &Snapshot, kind: Kind, stage: Stage) -> Figures {
    told.since_start.figures(kind, stage).unwrap_or_default()
}

fn counts(told: &Snapshot, kind: Kind, stages: &[Stage]) -> Vec<u64> {
    let count = |stage: &Stage| figures(told, kind, *stage).count;
    stages.iter().map(count).collect()
}

#[test]
fn a_send_refused_before_a_full_tail_is_among_the_slowest_with_its_wait() {
    let broker = timed();
    broker.stores[0].room.set(0);
    send(&broker, 1, 0, b"x");
    broker.pass_ms(200);
    assert_eq!(broker.reply().code, response::SYSTEM_BUSY);
    let told = told(&broker);
    let slow = told.slowest[0];
    assert_eq!(slow.timing.refused, Some(Stage::Mailbox));
    assert_eq!(
        (slow.total_us, slow.timing.front.mailbox_us),
        (200_000, 200_000)
    );
    let stages = [Stage::Mailbox, Stage::Append, Stage::Reply, Stage::Total];
    assert_eq!(counts(&told, Kind::Send, &stages), [1, 0, 1, 1]);
}

#[test]
fn a_send_whose_topic_is_not_made_in_time_has_its_wait_in_decode() {
    let broker = timed();
    broker.request(&send_frame(1, &send_header("unknown"), b"x"));
    let now_us = broker.world.now_us.get();
    broker.cores[0].frames_done(now_us, now_us, now_us);
    broker.pass_ms(PARKED_MS);
    assert_eq!(broker.reply().code, response::SYSTEM_BUSY);
    let told = told(&broker);
    let slow = told.slowest[0];
    assert_eq!(slow.timing.refused, Some(Stage::Decode));
    let waited_us = u32::try_from(PARKED_MS * 1000).unwrap();
    assert_eq!(slow.timing.front.decode_us, waited_us);
    let stages = [Stage::Decode, Stage::Mailbox, Stage::Reply, Stage::Total];
    assert_eq!(counts(&told, Kind::Send, &stages), [1, 0, 1, 1]);
}

#[test]
fn a_pull_refused_before_the_device_has_its_wait_there() {
    let broker = timed();
    sent(&broker, 0, "a", b"cold");
    broker.stores[0].is_cold.set(true);
    broker.stores[0].is_stuck.set(true);
    let reads_max = broker.cores[0].settings.memory_plan(1).cold_reads;
    for opaque in 0..=i32::try_from(reads_max).unwrap() {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
    }
    broker.pass_ms(6_000);
    broker.stores[0].is_stuck.set(false);
    let busy = broker.replies().iter().filter(|r| r.code == 2).count();
    assert_eq!(busy, 1);
    let told = told(&broker);
    let all = u64::try_from(reads_max).unwrap() + 1;
    let stages = [Stage::Lookup, Stage::DiskRead, Stage::Reply, Stage::Total];
    assert_eq!(counts(&told, Kind::Pull, &stages), [all; 4]);
    let refused: Vec<_> = told
        .slowest
        .iter()
        .filter_map(|s| s.timing.refused)
        .collect();
    assert!(
        refused.iter().all(|stage| *stage == Stage::DiskRead),
        "{refused:?}"
    );
    // The window keeps 32 of them, all as slow.
    assert!(
        told.slowest
            .iter()
            .all(|slow| slow.timing.device_us == 6_000_000)
    );
}

#[test]
fn a_pull_that_can_not_be_suspended_is_refused_in_its_wait() {
    let broker = timed();
    for n in 0..=i32::try_from(QUEUE_WAITERS_MAX).unwrap() {
        broker.request(&pull_frame(n, &long_pull("T", 0, 0)));
    }
    assert_eq!(broker.reply().code, response::SYSTEM_BUSY);
    let told = told(&broker);
    let stages = [Stage::Mailbox, Stage::Lookup, Stage::Wait, Stage::Total];
    assert_eq!(counts(&told, Kind::Pull, &stages), [1; 4]);
}

#[test]
fn a_pull_of_a_forgotten_batch_has_its_wait_in_the_mailbox() {
    let broker = timed();
    let core = &broker.cores[0];
    let read_us = broker.world.now_us.get();
    broker.request(&pull_frame(1, &pull_header("T", 0, 0)));
    core.frames_done(read_us, read_us, read_us + 5);
    for n in 0..200 {
        core.host
            .profile()
            .decoded(0, read_us + n + 1, read_us + n + 2, read_us + n + 2);
    }
    broker.world.pass_ms(40);
    broker.settle();
    assert_eq!(broker.replies().len(), 1);
    let told = told(&broker);
    assert_eq!(figures(&told, Kind::Pull, Stage::Mailbox).max_us / 1000, 40);
    let front = told.slowest[0].timing.front;
    assert_eq!((front.decode_us, front.mailbox_us), (0, 40_000));
}

#[test]
fn a_suspended_pulls_first_look_is_part_of_its_lookup() {
    let mut times = PullTimes {
        at_us: 100,
        ..PullTimes::default()
    };
    times.park(130);
    // A look that found nothing for it.
    times.wake(500);
    times.wake(1_000);
    assert_eq!((times.lookup_until(1_010), times.wait_us), (40, 870));
    assert_eq!(40 + 870, 1_010 - 100, "no time is in no stage");
}
