use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use gantry_protocol::request::send::SendHeader;
use gantry_storage::units::QueueOffset;

use super::*;
use crate::data::testing::{
    TestBroker, TestCore, long_pull, peer, pull_frame, request_frame, send_frame, send_header,
};

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls it, unless it has ended before.
fn is_done(task: &mut Task<'_>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let is_done = task.as_mut().poll(&mut cx).is_ready();
    if is_done {
        *task = Box::pin(std::future::ready(()));
    }
    is_done
}

fn stop_of(core: &Rc<TestCore>) -> Task<'static> {
    let core = Rc::clone(core);
    Box::pin(async move { core.stop(OTHERS_MS).await })
}

/// Two cores under `SYNC_FLUSH` with a message of core 0's client on the shard of core 1, unsynced.
fn two_cores_with_an_unsynced_message() -> TestBroker {
    let broker = TestBroker::new(2, 2, |s| s.flush_disk_type = FlushDiskType::Sync);
    broker.world.naps.set(true);
    let is_far = |queue: &i32| {
        let queue = u16::try_from(*queue).unwrap();
        QueueKey::new(1, queue).shard(2) == ShardId(1)
    };
    let queue_id = (0..4).find(is_far).unwrap();
    let header = SendHeader {
        queue_id,
        ..send_header("T")
    };
    broker.request(&send_frame(1, &header, b"x"));
    broker.request(&pull_frame(2, &long_pull("T", queue_id, 0)));
    broker.settle();
    broker
}

#[test]
fn a_core_stops_once_the_answers_of_the_others_have_come() {
    let broker = two_cores_with_an_unsynced_message();
    let mut stops = [0, 1].map(|core: usize| stop_of(&broker.cores[core]));
    for _ in 0..5 {
        assert!(!is_done(&mut stops[1]), "the message is not synced");
        assert!(!is_done(&mut stops[0]), "its answer is not here");
        broker.settle();
    }
    broker.stores[1].commit();
    broker.settle();
    let mut polls = 0;
    while !is_done(&mut stops[0]) {
        let _ = is_done(&mut stops[1]);
        broker.settle();
        polls += 1;
        assert!(polls < 20, "it waits for more than that");
    }
    let replies = broker.world.take_replies(peer(0, 1));
    let sent = replies.iter().find(|reply| reply.opaque == 1);
    assert_eq!(sent.unwrap().code, 0);
}

#[test]
fn a_core_that_never_stops_is_not_waited_for_longer_than_the_limit() {
    let broker = two_cores_with_an_unsynced_message();
    let mut stop = stop_of(&broker.cores[0]);
    assert!(!is_done(&mut stop));
    broker.world.pass_ms(OTHERS_MS - 1);
    assert!(!is_done(&mut stop));
    broker.world.pass_ms(1);
    assert!(is_done(&mut stop));
}

/// Its client would wait until the connection closes.
#[test]
fn a_pull_in_the_inbox_of_a_core_that_stops_is_answered() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.world.naps.set(true);
    broker.request(&pull_frame(1, &long_pull("T", 0, 0)));
    broker.settle();
    broker.request(&pull_frame(2, &long_pull("T", 0, 0)));
    let mut stop = stop_of(&broker.cores[0]);
    let mut polls = 0;
    while !is_done(&mut stop) {
        broker.settle();
        polls += 1;
        assert!(polls < 20);
    }
    let replies = broker.world.take_replies(peer(0, 1));
    let codes: Vec<_> = replies.iter().map(|r| (r.opaque, r.code)).collect();
    assert_eq!(codes, [(1, 19), (2, 19)]);
}

/// What the control plane heard last of the position of `g`.
fn last_told(broker: &TestBroker) -> Option<QueueOffset> {
    let told = broker.world.take_control().into_iter();
    let rows = told.filter_map(|told| match told {
        ToControl::OffsetsChanged(rows) => Some(rows),
        _ => None,
    });
    rows.flatten().last().and_then(|row| row.offset)
}

/// A commit on its way while its group is deleted must not bring it back.
#[test]
fn a_commit_makes_no_group() {
    let broker = TestBroker::new(1, 1, |_| {});
    let fields = [
        ("consumerGroup", "nogroup".into()),
        ("topic", "T".into()),
        ("queueId", 0.into()),
        ("commitOffset", 0.into()),
    ];
    broker.request(&request_frame(15, 9, &fields, b""));
    assert_eq!(broker.reply().code, 26);
    assert!(broker.world.take_control().is_empty());
}

#[test]
fn newer_offsets_are_handed_over_behind_older_ones() {
    let broker = TestBroker::new(1, 1, |_| {});
    broker.world.naps.set(true);
    for n in 0..2 {
        broker.request(&send_frame(n, &send_header("T"), b"x"));
    }
    let commit = |offset: i32| {
        let fields = [
            ("consumerGroup", "g".into()),
            ("topic", "T".into()),
            ("queueId", 0.into()),
            ("commitOffset", offset.into()),
        ];
        broker.request(&request_frame(15, 9, &fields, b""));
        broker.settle();
    };
    let core = &broker.cores[0];
    commit(1);
    broker.world.control_is_full.set(true);
    let mut behind: Task<'_> = Box::pin(core.hand_over_offsets());
    assert!(!is_done(&mut behind));
    commit(2);
    let mut stop = stop_of(core);
    assert!(!is_done(&mut stop));
    broker.world.control_is_full.set(false);
    let mut polls = 0;
    let (mut stopped, mut handed) = (false, false);
    while !stopped || !handed {
        stopped = stopped || is_done(&mut stop);
        handed = handed || is_done(&mut behind);
        polls += 1;
        assert!(polls < 20);
    }
    assert_eq!(last_told(&broker), Some(QueueOffset(2)));
}

/// Each reading of the clock takes 2 ms here, so what is watched is a stall.
#[test]
fn handing_offsets_over_and_draining_are_watched() {
    let broker = TestBroker::new(1, 1, |_| {});
    let core = &broker.cores[0];
    broker.world.naps.set(true);
    core.host.profile().begin(broker.world.now_us.get());
    broker.world.look_us.set(2_000);
    let mut offsets: Task<'_> = Box::pin(Rc::clone(core).run_offsets());
    for _ in 0..3 {
        assert!(!is_done(&mut offsets));
    }
    let mut stop = stop_of(core);
    while !is_done(&mut stop) {}
    let now_us = broker.world.now_us.get();
    let rooms = core.host.profile().snapshot(now_us).unwrap().stalls.rooms;
    for name in [OFFSETS, COUNTS, SWEEP, PASS] {
        assert!(
            rooms.iter().any(|room| room.room == name),
            "{name}: {rooms:?}"
        );
    }
}
