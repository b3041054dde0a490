//! A store that takes no op records.

use gantry_storage::units::FilePosition;

use super::ends_tests::{OP, checks, end, open_halves, send_half};
use crate::data::testing::{TestBroker, pull_frame, pull_header};

fn broker() -> TestBroker {
    TestBroker::new(1, 1, |_| {}).with_transactions()
}

#[test]
fn a_poisoned_store_is_not_asked_in_every_pass() {
    let broker = broker();
    let store = &broker.stores[0];
    let told = send_half(&broker, 0, "", b"hi");
    *store.poison.borrow_mut() = Some("broken".into());
    end(&broker, told, 12);
    let appends = store.appends.get();
    for opaque in 0..1_000 {
        broker.request(&pull_frame(opaque, &pull_header("T", 0, 0)));
        broker.settle();
    }
    assert_eq!(store.appends.get(), appends);
    broker.pass_ms(1_000);
    broker.request(&pull_frame(1, &pull_header("T", 0, 0)));
    broker.settle();
    assert_eq!(store.appends.get(), appends + 1, "now and then");
    *store.poison.borrow_mut() = None;
    broker.replies();
    send_half(&broker, 1, "", b"it takes something");
    assert_eq!(store.records_of(OP).len(), 1);
}

#[test]
fn checks_begin_again_when_the_log_knows_of_the_last_ones() {
    let broker = broker();
    let store = &broker.stores[0];
    send_half(&broker, 0, "", b"hi");
    broker.pass_ms(6_100);
    *store.poison.borrow_mut() = Some("broken".into());
    assert_eq!(checks(&broker).len(), 1);
    for _ in 0..3 {
        broker.pass_ms(30_100);
        assert!(checks(&broker).is_empty(), "one check is owed");
    }
    *store.poison.borrow_mut() = None;
    broker.pass_ms(1_000);
    broker.request(&pull_frame(1, &pull_header("T", 0, 0)));
    broker.settle();
    assert_eq!(store.records_of(OP).len(), 1);
    assert_eq!(checks(&broker)[0].checks, 2);
}

/// As after a restart with a smaller `tailBytes`: its producer hears nothing of it, nor of the
/// copies that retention wants.
#[test]
fn a_half_that_no_queue_takes_any_more_is_spoken_of_once() {
    let broker = TestBroker::new(1, 1, |_| {}).with_transactions();
    let told = send_half(&broker, 0, "", b"large");
    let shard = broker.cores[0].shards().next().unwrap();
    broker.stores[0].body_bytes_max.set(4);
    assert_eq!(shard.refused_for_good(), 0);
    for _ in 0..2 {
        assert_eq!(end(&broker, told, 8), 13);
        let _ = open_halves(&broker, FilePosition(u64::MAX));
        assert_eq!(shard.refused_for_good(), 1);
        assert_eq!((broker.open_halves(), shard.moves_under_way()), (1, 0));
    }
    broker.stores[0].body_bytes_max.set(usize::MAX);
    assert_eq!(end(&broker, told, 8), 0);
}
