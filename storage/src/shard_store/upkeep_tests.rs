use std::rc::Rc;

use crate::disk::{Disk as _, DiskErrorKind};
use crate::shard_store::tests::{SharedTail, limits, options, record};
use crate::shard_store::{FlushMode, ShardStore, StoreOptions};
use crate::sim_disk::{SimDisk, SimOp};
use crate::units::{QueueKey, StoreTimestamp};

const QUEUES: u16 = 200;
const SLEEP_MS: u64 = 600_000;

type Store = Rc<ShardStore<SimDisk>>;

async fn open(disk: &SimDisk, tail: &SharedTail) -> Store {
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
    opened.await.unwrap().0
}

/// Queues that hold more than their table row.
fn awake(store: &Store) -> usize {
    store.index.index().tired(StoreTimestamp(u64::MAX)).len()
}

fn put(store: &Store, queue: u16) {
    let key = QueueKey::new(1, queue);
    store.append(&record(key, b"once", &[])).unwrap();
    store.seal();
}

fn is_whole(disk: &SimDisk, store: &Store) {
    for queue in 0..QUEUES {
        let mut out = bytes::BytesMut::new();
        let key = QueueKey::new(1, queue);
        let from = store.bounds(key).min;
        let read = store.read(key, from, limits(10), &|_| true, &mut out);
        assert_eq!(disk.block_on(read).unwrap().found, 1, "queue {queue}");
    }
}

#[test]
fn queues_of_an_unused_store_go_to_sleep_and_stay_asleep_after_a_kill() {
    let (disk, tail) = (SimDisk::new(5), SharedTail::new(1 << 20));
    let store = disk.block_on(open(&disk, &tail));
    (0..QUEUES).for_each(|queue| put(&store, queue));
    // Nothing comes any more that would wake anybody.
    disk.block_on(disk.sleep_ms(SLEEP_MS / 2));
    assert_eq!(awake(&store), usize::from(QUEUES));
    disk.block_on(disk.sleep_ms(SLEEP_MS));
    assert_eq!(awake(&store), 0);
    is_whole(&disk, &store);
    disk.kill();
    drop(store);
    let store = disk.block_on(open(&disk, &tail));
    assert_eq!(awake(&store), 0);
    is_whole(&disk, &store);
}

#[test]
fn a_busy_queue_does_not_keep_the_others_awake() {
    let (disk, tail) = (SimDisk::new(6), SharedTail::new(1 << 20));
    let store = disk.block_on(open(&disk, &tail));
    (0..QUEUES).for_each(|queue| put(&store, queue));
    // Too little for a checkpoint by bytes, too often for one because of silence.
    let every_ms = 2_000;
    for _ in 0..2 * SLEEP_MS / every_ms {
        put(&store, QUEUES);
        disk.block_on(disk.sleep_ms(every_ms));
    }
    assert_eq!(awake(&store), 1, "only the busy one");
    is_whole(&disk, &store);
}

/// How many files a folder of the indexes has.
fn files_in(disk: &SimDisk, folder: &str) -> usize {
    let names = disk.file_names();
    names.iter().filter(|name| name.contains(folder)).count()
}

#[test]
fn what_a_failed_checkpoint_was_to_remove_goes_with_the_next_one() {
    let (disk, tail) = (SimDisk::new(9), SharedTail::new(4 << 20));
    disk.block_on(async {
        let options = StoreOptions {
            key_entries_max: 100,
            ..options(FlushMode::Async)
        };
        let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
        let (store, _) = opened.unwrap();
        let key = QueueKey::new(1, 0);
        for n in 0..1850 {
            store.append(&record(key, b"x", &[n])).unwrap();
            store.seal();
            disk.sleep_ms(1).await;
        }
        disk.sleep_ms(100).await;
        let partitions = store.keys.partitions_count();
        assert!(files_in(&disk, "/keys/") > partitions, "some were merged");
        // Not written, and written but two old files stay.
        for (op, after) in [(SimOp::Rename, 0), (SimOp::Remove, 1)] {
            disk.fail_after(op, after, DiskErrorKind::Io);
            let _ = store.checkpoint().await;
            assert!(files_in(&disk, "/keys/") > partitions, "{op:?}");
            disk.clear_faults();
        }
        store.checkpoint().await.unwrap();
        assert_eq!(store.keys.partitions_count(), partitions);
        assert_eq!(files_in(&disk, "/keys/"), partitions);
    });
}
