//! Questions for which the device is read.

use gantry_protocol::code::request;
use gantry_protocol::command::{Command, ExtValue};

use super::super::testing::{TestBroker, ext, peer, request_frame};
use super::asks::{ASK_READS_MAX, ASKS_WAITING_MAX};
use super::tests::sent;

/// A broker whose device answers nothing, with a message in queue 0.
fn stuck_broker() -> TestBroker {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"there");
    broker.stores[0].is_stuck.set(true);
    broker
}

/// Asks for the time of the first message of queue 0, so often.
fn ask_earliest(broker: &TestBroker, slot: u32, count: usize) {
    let queue = [("topic", ExtValue::Str("T")), ("queueId", ExtValue::Int(0))];
    for opaque in 0..i32::try_from(count).unwrap() {
        let code = request::GET_EARLIEST_MSG_STORETIME;
        broker.request_at(0, slot, &request_frame(code, opaque, &queue, b""));
    }
    broker.settle();
}

fn answered(replies: &[Command]) -> usize {
    let times = replies.iter().filter(|reply| reply.code == 0);
    times
        .filter(|reply| ext(reply, "timestamp") != "-1")
        .count()
}

/// A member that takes over all queues of a group asks for its position in each at once.
#[test]
fn questions_beyond_the_reads_wait_for_their_turn() {
    let broker = stuck_broker();
    let count = 25 * ASK_READS_MAX;
    ask_earliest(&broker, 1, count);
    assert!(broker.replies().is_empty());
    assert!(!broker.cores[0].shards().next().unwrap().is_drained());
    broker.stores[0].is_stuck.set(false);
    let replies = broker.replies();
    assert_eq!((replies.len(), answered(&replies)), (count, count));
    assert!(broker.cores[0].shards().next().unwrap().is_drained());
    ask_earliest(&broker, 1, ASK_READS_MAX);
    assert_eq!(
        answered(&broker.replies()),
        ASK_READS_MAX,
        "each has its place back"
    );
}

#[test]
fn only_so_many_questions_wait_and_only_so_long() {
    let broker = stuck_broker();
    let count = ASK_READS_MAX + ASKS_WAITING_MAX;
    ask_earliest(&broker, 1, count + 1);
    let refused = broker.reply();
    let remark = refused.remark.unwrap_or_default();
    assert_eq!(
        (refused.code, refused.opaque),
        (2, i32::try_from(count).unwrap())
    );
    assert!(remark.contains("8192 questions wait"), "{remark}");
    broker.pass_ms(5_001);
    broker.stores[0].is_stuck.set(false);
    let replies = broker.replies();
    assert_eq!((replies.len(), answered(&replies)), (count, ASK_READS_MAX));
    let last = replies.iter().find(|reply| reply.code != 0).unwrap();
    let remark = last.remark.clone().unwrap_or_default();
    assert!(
        last.code == 2 && remark.contains("waited 5001 ms"),
        "{remark}"
    );
}

#[test]
fn questions_of_a_connection_that_is_gone_leave() {
    let broker = stuck_broker();
    ask_earliest(&broker, 2, ASK_READS_MAX + ASKS_WAITING_MAX);
    broker.cores[0].peer_closed(peer(0, 2));
    ask_earliest(&broker, 1, ASKS_WAITING_MAX);
    broker.stores[0].is_stuck.set(false);
    assert_eq!(answered(&broker.replies()), ASKS_WAITING_MAX);
}
