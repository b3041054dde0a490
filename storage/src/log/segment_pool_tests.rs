//! Segments made and zeroed while nothing else is to do.

use crate::disk::Disk;
use crate::format::segment_start;
use crate::shard_store::tests::{SEGMENT, SharedTail, options};
use crate::shard_store::{FlushMode, ShardStore, StoreOptions};
use crate::sim_disk::SimDisk;

/// Segments of a store that was left alone for ten seconds.
fn after_a_quiet_time(flush_mode: FlushMode, capacity_bytes: u64) -> usize {
    let disk = SimDisk::new(1);
    disk.set_capacity(capacity_bytes);
    disk.block_on(async {
        let tail = SharedTail::new(1 << 20);
        let options = StoreOptions {
            zeros_ahead_bytes: 4 * SEGMENT,
            ..options(flush_mode)
        };
        let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
        let (store, _) = opened.unwrap();
        disk.sleep_ms(10_000).await;
        drop(store);
        let entries = disk.list("shard-0").await.unwrap();
        entries
            .iter()
            .filter(|entry| segment_start(&entry.name).is_some())
            .count()
    })
}

#[test]
fn a_quiet_synced_log_has_zeros_ahead() {
    assert_eq!(after_a_quiet_time(FlushMode::Sync, u64::MAX), 4);
    assert_eq!(
        after_a_quiet_time(FlushMode::Async, u64::MAX),
        1,
        "nobody waits for a sync"
    );
}

#[test]
fn a_small_device_is_not_filled_ahead() {
    assert_eq!(after_a_quiet_time(FlushMode::Sync, 30 * SEGMENT), 1);
}
