use std::cell::Cell;

use bytes::BytesMut;

use super::*;
use crate::shard_store::FlushMode;
use crate::shard_store::tests::{SharedTail, limits, options, record};
use crate::sim_disk::SimDisk;

/// Wants the fourth record it is shown, and looks at five of `bytes` each.
struct Fourth {
    shown: Cell<u32>,
    bytes: u64,
}

impl RecordFilter for Fourth {
    fn wants_code(&self, _tags_code: i64) -> bool {
        true
    }
    fn wants_record(&self, record: &[u8]) -> bool {
        assert_eq!(record.len() as u64, self.bytes);
        self.shown.set(self.shown.get() + 1);
        self.shown.get() == 4
    }
    fn scan_bytes_max(&self) -> Option<u64> {
        // A little more than four records: the fifth is begun.
        Some(4 * self.bytes + 1)
    }
}

#[test]
fn records_are_looked_at_up_to_a_bound_and_only_the_wanted_stay() {
    let disk = SimDisk::new(9);
    let key = QueueKey::new(1, 0);
    disk.block_on(async {
        let tail = SharedTail::new(1 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
        let (store, _) = opened.await.unwrap();
        for _ in 0..20 {
            store.append(&record(key, b"0123456789", &[])).unwrap();
        }
        store.seal();
        let mut out = BytesMut::new();
        let one = store.read_hot(key, QueueOffset(3), limits(1), &|_| true, &mut out);
        let bytes = one.unwrap().bytes;
        let fourth = out.split();
        let filter = |shown| Fourth {
            shown: Cell::new(shown),
            bytes,
        };
        let from = QueueOffset(0);
        let hot = store.read_hot(key, from, limits(9), &filter(0), &mut out);
        let slow = store.read(key, from, limits(9), &filter(0), &mut out).await;
        for outcome in [hot.unwrap(), slow.unwrap()] {
            assert_eq!((outcome.found, outcome.next_offset), (1, QueueOffset(5)));
            assert_eq!(outcome.bytes, bytes);
        }
        assert_eq!(out, [&fourth[..], &fourth[..]].concat());
        let nothing = filter(9);
        let none = store.read(key, QueueOffset(4), limits(9), &nothing, &mut out);
        let none = none.await.unwrap();
        assert_eq!((none.found, none.next_offset), (0, QueueOffset(9)));
        assert_eq!(out.len(), 2 * fourth.len());
    });
}
