//! What pages being filled may hold, and offsets given out before their entries.

use super::tests::{entry, hot_bytes};
use super::*;

#[test]
fn offsets_are_given_out_before_their_entries_come() {
    let (mut index, key) = (QueueIndex::default(), QueueKey::new(3, 1));
    for next in 0..3 {
        assert_eq!(index.next_offset(key), QueueOffset(next));
        assert_eq!(index.assign(key), QueueOffset(next));
    }
    assert_eq!(index.bounds(key).unwrap_or_default().max, QueueOffset(0));
    index.append(key, QueueOffset(0), entry(0)).unwrap();
    assert_eq!(index.next_offset(key), QueueOffset(3));
    assert_eq!(index.bounds(key).unwrap().max, QueueOffset(1));
    index.drop_topic(key.topic);
    assert_eq!(index.next_offset(key), QueueOffset(0));
}

#[test]
fn hot_pages_beyond_their_bound_are_completed_largest_first() {
    let limits = IndexLimits {
        resident_bytes_max: 0,
        hot_bytes_max: 200 << 10,
    };
    let mut index = QueueIndex::new(limits);
    // Queue k of 1,000 gets k % 60 entries.
    for queue in 0..1000_u16 {
        let key = QueueKey::new(1, queue);
        for i in 0..u64::from(queue % 60) {
            index.append(key, QueueOffset(i), entry(i)).unwrap();
        }
    }
    assert_eq!(index.hot_bytes, hot_bytes(&index));
    assert!(index.is_hot_full());
    let before = index.hot_bytes;
    let keys = index.tired(StoreTimestamp(0));
    let smallest = keys.iter().map(|key| key.queue.0 % 60).min().unwrap();
    assert!(
        smallest > 16 && keys.len() < 900,
        "{smallest} {}",
        keys.len()
    );
    index.complete_pages(&keys, StoreTimestamp(0));
    assert_eq!(index.hot_bytes, hot_bytes(&index));
    assert!(!index.is_hot_full() && index.hot_bytes < before / 2);
    assert!(index.tired(StoreTimestamp(0)).is_empty());
}

/// Whatever a hash table's order is: the same history gives the same pages in the same order.
#[test]
fn pages_completed_early_are_written_in_the_order_of_their_queues() {
    let mut index = QueueIndex::default();
    for queue in (0..200_u16).rev() {
        let key = QueueKey::new(u32::from(queue % 3), queue);
        index.append(key, QueueOffset(0), entry(0)).unwrap();
    }
    let keys = index.tired(StoreTimestamp(u64::MAX));
    assert_eq!(keys.len(), 200);
    index.complete_pages(&keys, StoreTimestamp(0));
    let batch = index.unwritten_batch(usize::MAX);
    assert_eq!(batch.len(), 200);
    assert!(batch.is_sorted_by_key(|(id, _)| id.key));
}

#[test]
fn written_pages_of_queues_that_sleep_are_not_kept() {
    let mut index = QueueIndex::default();
    for queue in 0..10 {
        for i in 0..=u64::from(queue) {
            let key = QueueKey::new(1, queue);
            index.append(key, QueueOffset(i), entry(i)).unwrap();
        }
    }
    let before = entry(5).store_time;
    let mut write = |keys: &[QueueKey]| {
        index.complete_pages(keys, before);
        let batch = index.unwritten_batch(usize::MAX);
        let places = batch.iter().map(|(id, _)| (*id, PagePlace(0)));
        index.pages_written(places);
        index.resident_bytes()
    };
    let asleep: Vec<QueueKey> = (0..5).map(|queue| QueueKey::new(1, queue)).collect();
    assert_eq!(write(&asleep), 0);
    let busy: Vec<QueueKey> = (5..10).map(|queue| QueueKey::new(1, queue)).collect();
    assert!(write(&busy) > 0);
    let answer = index.lookup_hot(asleep[0], QueueOffset(0), 1, &mut Vec::new());
    assert!(matches!(answer, Lookup::NeedsPages(_)));
}
