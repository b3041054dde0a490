//! Open halves whose record is damaged: given up, so that they keep no segment.

use gantry_storage::units::{FilePosition, PhysicalOffset};

use super::ends_tests::{OP, checks, delivered, end, open_halves, position, send_half};
use crate::data::testing::TestBroker;
use crate::settings::FlushDiskType;

const EVERYTHING: FilePosition = FilePosition(u64::MAX);

fn broker() -> TestBroker {
    TestBroker::new(1, 1, |_| {}).with_transactions()
}

/// The record of a half, as its producer was told, is not what was written any more.
fn damage(broker: &TestBroker, told: (i64, i64)) {
    let physical = PhysicalOffset(told.1.cast_unsigned());
    broker.stores[0].damaged.borrow_mut().insert(physical);
}

/// Open halves after a restart that finds all that was stored.
fn open_after_restart(broker: &TestBroker) -> usize {
    let everything = broker.stores[0].ends().len();
    let left = broker.stores[0].survivor(everything);
    let after = broker.restarted(vec![left]).with_transactions();
    after.open_halves()
}

#[test]
fn a_damaged_half_is_given_up_when_it_is_due() {
    let broker = broker();
    let lost = send_half(&broker, 0, "", b"lost");
    let whole = send_half(&broker, 0, "", b"whole");
    damage(&broker, lost);
    broker.pass_ms(6_100);
    assert_eq!(checks(&broker).len(), 1, "of the one that can be read");
    assert_eq!(broker.open_halves(), 1);
    broker.stores[0].commit();
    let first = open_halves(&broker, FilePosition(0));
    assert_eq!(first, Some(Ok(Some(position(whole.1)))));
    assert_eq!(open_after_restart(&broker), 1, "the log says so");
    assert_eq!(end(&broker, lost, 8), 1);
    assert_eq!(end(&broker, whole, 8), 0);
    broker.stores[0].commit();
    assert_eq!(open_halves(&broker, EVERYTHING), Some(Ok(None)));
}

#[test]
fn retention_waits_for_no_damaged_half_however_late_it_is_due() {
    let broker = broker();
    let immune = "CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}999999999\u{2}";
    let halves: Vec<_> = (0..3)
        .map(|_| send_half(&broker, 0, immune, b"lost"))
        .collect();
    for told in &halves {
        damage(&broker, *told);
    }
    broker.stores[0].commit();
    assert_eq!(open_halves(&broker, EVERYTHING), Some(Ok(None)));
    assert_eq!(broker.open_halves(), 0);
    broker.settle();
    assert_eq!(broker.stores[0].records_of(OP).len(), 1);
    assert_eq!(open_after_restart(&broker), 0);
}

#[test]
fn damaged_halves_are_no_obstacle_for_those_that_move() {
    let broker = broker();
    let whole = send_half(&broker, 0, "", b"whole");
    let lost = send_half(&broker, 0, "", b"lost");
    let later = send_half(&broker, 0, "", b"later");
    damage(&broker, lost);
    let (store, below) = (&broker.stores[0], position(later.1));
    store.commit();
    let begun = open_halves(&broker, below);
    assert_eq!(begun, Some(Ok(Some(position(whole.1)))));
    store.commit();
    let moved = open_halves(&broker, below);
    assert_eq!(moved, Some(Ok(Some(position(later.1)))));
    assert_eq!(end(&broker, whole, 8), 0);
    assert_eq!(delivered(&broker).len(), 1);
}

#[test]
fn the_end_of_a_damaged_half_is_refused_once_and_for_all() {
    let broker = broker();
    let told = send_half(&broker, 0, "", b"lost");
    damage(&broker, told);
    assert_eq!(end(&broker, told, 8), 1);
    assert_eq!(broker.open_halves(), 0);
    assert!(delivered(&broker).is_empty());
    assert_eq!(open_after_restart(&broker), 0);
}

#[test]
fn a_half_that_the_device_does_not_have_yet_is_not_given_up() {
    let broker = TestBroker::new(1, 1, |settings| {
        settings.flush_disk_type = FlushDiskType::Sync;
    });
    let broker = broker.with_transactions();
    let properties = super::ends_tests::half_properties("pg", "");
    let header = super::ends_tests::half_header("T", 0, &properties);
    broker.request(&crate::data::testing::send_frame(1, &header, b"hi"));
    broker.settle();
    assert!(open_halves(&broker, EVERYTHING).unwrap().is_err());
    assert_eq!(broker.open_halves(), 1);
}
