//! Resets of a group (222) and its pulls, suspended or not.

use gantry_protocol::request::pull::PullHeader;
use gantry_storage::units::{QueueKey, QueueOffset};

use super::super::testing::{
    TestBroker, ext, group, long_pull, peer, pull_frame, pull_header, request_frame,
};
use super::tests::sent;
use crate::seam::{CatalogChange, OffsetRow, Question, Ticket, ToData};

/// A broker with one message in queue 0, and a long poll for the next one of these connections.
fn suspended(slots: &[u32]) -> TestBroker {
    let broker = TestBroker::new(1, 1, |_| {});
    sent(&broker, 0, "a", b"x");
    for slot in slots {
        broker.request_at(0, *slot, &pull_frame(1, &long_pull("T", 0, 1)));
    }
    broker.settle();
    broker
}

/// Group `g` goes back to the first message.
fn reset(broker: &TestBroker) {
    broker.tell_all(|| ToData::Ask {
        ticket: Ticket(1),
        question: Question::ResetOffsets(vec![OffsetRow {
            group: "g".into(),
            queue: QueueKey::new(1, 0),
            offset: QueueOffset(0),
        }]),
    });
    broker.settle();
}

/// The codes a connection was answered with; each reset is one to the first message.
fn codes(broker: &TestBroker, slot: u32) -> Vec<i32> {
    let replies = broker.world.take_replies(peer(0, slot));
    for reply in replies.iter().filter(|reply| reply.code == 21) {
        assert_eq!(reply.remark.as_deref(), Some("OFFSET_RESET"));
        assert_eq!(ext(reply, "nextBeginOffset"), "0");
    }
    replies.iter().map(|reply| reply.code).collect()
}

fn pull_at(broker: &TestBroker, slot: u32, offset: i64) -> Vec<i32> {
    broker.request_at(0, slot, &pull_frame(2, &pull_header("T", 0, offset)));
    broker.settle();
    codes(broker, slot)
}

#[test]
fn every_suspended_pull_of_the_group_is_told_of_a_reset_once() {
    let broker = suspended(&[1, 2]);
    broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(group("other"))));
    let other = PullHeader {
        consumer_group: "other",
        ..long_pull("T", 0, 1)
    };
    broker.request_at(0, 3, &pull_frame(1, &other));
    broker.settle();
    reset(&broker);
    let told = [1, 2, 3].map(|slot| codes(&broker, slot));
    assert_eq!(told, [vec![21], vec![21], vec![]]);
    assert_eq!(pull_at(&broker, 2, 0), [0], "it comes from there");
    assert_eq!(pull_at(&broker, 2, 1), [19]);
}

#[test]
fn a_suspended_pull_that_is_gone_takes_no_reset_away() {
    let broker = suspended(&[1, 2]);
    broker.cores[0].peer_closed(peer(0, 1));
    reset(&broker);
    assert_eq!([1, 2].map(|slot| codes(&broker, slot)), [vec![], vec![21]]);
}

#[test]
fn a_reset_told_to_a_stale_pull_still_reaches_the_owner() {
    let broker = suspended(&[1]);
    reset(&broker);
    assert_eq!(codes(&broker, 1), [21]);
    let commit = [
        ("consumerGroup", "g".into()),
        ("topic", "T".into()),
        ("queueId", 0.into()),
        ("commitOffset", 1.into()),
    ];
    broker.request_at(0, 2, &request_frame(15, 1, &commit, b""));
    broker.settle();
    assert_eq!(codes(&broker, 2), [0]);
    assert_eq!(pull_at(&broker, 2, 1), [21], "the commit took nothing away");
    assert_eq!(pull_at(&broker, 2, 0), [0]);
}
