//! Partitions of the key index that are lost or damaged: the others answer, merging goes on, and
//! the log makes the index anew.

use std::rc::Rc;

use super::super::tests::{SharedTail, options, record};
use super::*;
use crate::disk::OpenMode;
use crate::key_index::key_hash;
use crate::shard_store::{FlushMode, RecoveryReport, StoreOptions};
use crate::sim_disk::{SimDisk, SimOp};
use crate::units::QueueKey;

type Store = Rc<ShardStore<SimDisk>>;

/// Entries of a partition; each record has two.
const ENTRIES: u64 = 400;
/// Records whose keys fill ten partitions.
const BEFORE: u64 = 5 * ENTRIES;
/// Records that fill as many again, so that sixteen are merged.
const BEHIND: u64 = 5 * ENTRIES;
/// Of the records from 400 to 599.
const PARTITION: &str = "shard-0/keys/00000000000000000003.keys";
const ITS: std::ops::Range<u64> = ENTRIES..3 * ENTRIES / 2;

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

async fn open(disk: &SimDisk, tail: &SharedTail) -> (Store, RecoveryReport) {
    let options = StoreOptions {
        key_entries_max: usize::try_from(ENTRIES).unwrap(),
        ..options(FlushMode::Async)
    };
    let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
    opened.unwrap()
}

async fn put(store: &Store, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let topic = key().topic;
        let hashes = [
            key_hash(topic, n.to_string().as_bytes()),
            key_hash(topic, b"all"),
        ];
        store.append(&record(key(), b"body", &hashes)).unwrap();
        if n % 100 == 99 {
            store.until_committed(store.seal()).await.unwrap();
            store.log.disk.sleep_ms(1).await;
        }
    }
    store.until_committed(store.seal()).await.unwrap();
}

/// Of the numbers, those that are looked for.
const STEP: usize = 20;

/// Those of the damaged partition.
fn its() -> Vec<u64> {
    ITS.step_by(STEP).collect()
}

async fn find(store: &Store, word: &str) -> Result<usize, ReadError> {
    let found = store.query_key(key().topic, word, 0, u64::MAX, 100_000);
    found.await.map(|found| found.len())
}

/// Numbers of records that are not found by their own key, and whether the search said so.
async fn not_found(store: &Store, until: u64) -> (Vec<u64>, bool) {
    let (mut lacking, mut is_told) = (Vec::new(), true);
    for n in (0..until).step_by(STEP) {
        let found = find(store, &n.to_string()).await;
        if !matches!(found, Ok(1)) {
            lacking.push(n);
            is_told &= matches!(found, Err(ReadError::Index { .. }));
        }
    }
    (lacking, is_told)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Missing,
    Short,
    Flipped,
    Lost,
}

const ALL: [How; 4] = [How::Missing, How::Short, How::Flipped, How::Lost];

async fn spoil(disk: &SimDisk, how: How) {
    match how {
        How::Missing => disk.remove(PARTITION).await.unwrap(),
        How::Short => {
            disk.remove(PARTITION).await.unwrap();
            let mode = OpenMode::CreateLen(4096);
            disk.open(PARTITION, mode).await.unwrap();
        }
        How::Flipped => {
            for page in 1..3 {
                disk.flip_bit(PARTITION, 4096 * page + 70, 1).unwrap();
            }
        }
        How::Lost => disk.spoil(PARTITION, (4096, 3 * 4096), DiskErrorKind::Lost),
    }
}

/// Ten partitions on the device and a checkpoint that names them.
async fn written(disk: &SimDisk, tail: &SharedTail) -> Store {
    let (store, _) = open(disk, tail).await;
    put(&store, 0..BEFORE).await;
    store.checkpoint().await.unwrap();
    assert_eq!(store.keys.partitions_count(), 9);
    store
}

/// The next start makes the index anew, and the one after it has it.
fn check_made_anew(disk: &SimDisk, tail: &SharedTail, store: Store, records: u64) {
    disk.kill();
    drop(store);
    disk.clear_faults();
    for replayed in [records, 0] {
        let store = disk.block_on(async {
            let (store, report) = open(disk, tail).await;
            assert_eq!((report.records, report.damage.len()), (replayed, 0));
            assert_eq!(not_found(&store, records).await.0, []);
            assert!(!store.has_index_damage());
            store
        });
        disk.kill();
        drop(store);
    }
}

/// What the damaged partition does not hide is found; what it may hide is an error, not nothing.
#[test]
fn a_search_finds_what_other_partitions_and_memory_have() {
    for how in ALL {
        let (disk, tail) = (SimDisk::new(1), SharedTail::new(4 << 20));
        let store = disk.block_on(async {
            let store = written(&disk, &tail).await;
            spoil(&disk, how).await;
            let all = find(&store, "all").await.unwrap();
            assert_eq!(all as u64, BEFORE - ENTRIES / 2, "{how:?}");
            let (lacking, is_told) = not_found(&store, BEFORE).await;
            assert_eq!(lacking, its(), "{how:?}");
            assert!(is_told && store.has_index_damage(), "{how:?}");
            // The checkpoint that tells the next start is taken though nothing comes.
            disk.sleep_ms(100).await;
            store
        });
        check_made_anew(&disk, &tail, store, BEFORE);
    }
}

/// A merge leaves the damaged partition alone; no key waits for it, none is skipped.
#[test]
fn merging_goes_on_beside_a_damaged_partition() {
    for how in ALL {
        let (disk, tail) = (SimDisk::new(2), SharedTail::new(4 << 20));
        let store = disk.block_on(async {
            let store = written(&disk, &tail).await;
            spoil(&disk, how).await;
            let reads = disk.count(SimOp::Read);
            put(&store, BEFORE..10 * BEFORE).await;
            assert_eq!(store.keys_skipped(), 0, "{how:?}");
            // Of hundred full buffers.
            let (left, reads) = (
                store.keys.partitions_count(),
                disk.count(SimOp::Read) - reads,
            );
            assert!(left < 3 + 6 + 2 * 16, "{how:?}: {left} partitions");
            assert!(reads < 400, "{how:?}: {reads} reads");
            assert!(store.has_index_damage(), "{how:?}");
            let (lacking, _) = not_found(&store, 10 * BEFORE).await;
            assert_eq!(lacking, its(), "{how:?}");
            store
        });
        check_made_anew(&disk, &tail, store, 10 * BEFORE);
    }
}

/// A start that must merge while it replays is not refused.
#[test]
fn a_start_that_meets_a_damaged_partition_goes_on() {
    for how in ALL {
        let (disk, tail) = (SimDisk::new(3), SharedTail::new(4 << 20));
        let store = disk.block_on(async {
            let store = written(&disk, &tail).await;
            put(&store, BEFORE..BEFORE + BEHIND).await;
            store.log.disk.sleep_ms(100).await;
            assert_eq!(store.keys.partitions_count(), 4, "merged");
            store
        });
        disk.kill();
        drop(store);
        let count = BEFORE + BEHIND;
        let store = disk.block_on(async {
            spoil(&disk, how).await;
            let (store, report) = open(&disk, &tail).await;
            // What the folder's listing shows is made anew at once.
            let is_seen = matches!(how, How::Missing | How::Short);
            let replayed = if is_seen { count } else { BEHIND };
            assert_eq!(
                (report.records, report.damage.len()),
                (replayed, 0),
                "{how:?}"
            );
            let (lacking, _) = not_found(&store, count).await;
            assert_eq!(lacking.is_empty(), is_seen, "{how:?}");
            assert_eq!(store.has_index_damage(), !is_seen);
            store
        });
        if store.has_index_damage() {
            check_made_anew(&disk, &tail, store, count);
        }
    }
}

/// A device that only refuses to read a part, which may pass, keeps no key in memory either, and
/// nothing is made anew for it.
#[test]
fn a_merge_that_fails_keeps_no_keys_in_memory() {
    let (disk, tail) = (SimDisk::new(4), SharedTail::new(4 << 20));
    disk.block_on(async {
        let store = written(&disk, &tail).await;
        disk.spoil(PARTITION, (4096, 3 * 4096), DiskErrorKind::Io);
        put(&store, BEFORE..10 * BEFORE).await;
        assert_eq!(store.keys_skipped(), 0);
        assert!(!store.has_index_damage());
        // It is passed over after sixteen more, as a damaged one.
        assert!(store.keys.partitions_count() < 3 + 6 + 2 * 16);
        assert_eq!(not_found(&store, 10 * BEFORE).await.0, its());
        disk.clear_faults();
        assert_eq!(not_found(&store, 10 * BEFORE).await.0, []);
    });
}

/// What fills the index is in the log: a partition that can't be written waits in memory, and goes
/// to another file.
#[test]
fn a_start_goes_on_without_a_partition_that_can_not_be_written() {
    let (disk, tail) = (SimDisk::new(9), SharedTail::new(4 << 20));
    let store = disk.block_on(written(&disk, &tail));
    disk.kill();
    drop(store);
    disk.block_on(async {
        disk.remove("shard-0/checkpoint").await.unwrap();
        let first = "shard-0/keys/00000000000000000001.keys";
        disk.spoil_writes(first, (0, u64::MAX), DiskErrorKind::Io);
        let (store, report) = open(&disk, &tail).await;
        assert_eq!(report.records, BEFORE);
        assert_eq!(not_found(&store, BEFORE).await.0, []);
        assert_eq!(store.keys_skipped(), 0);
    });
}

/// While the device takes no keys, memory has its bound, and that some are left out is said.
#[test]
fn keys_that_are_left_out_are_told_while_the_store_runs() {
    let (disk, tail) = (SimDisk::new(10), SharedTail::new(4 << 20));
    disk.block_on(async {
        let (store, _) = open(&disk, &tail).await;
        for number in 1..10 {
            let file = format!("shard-0/keys/{number:020}.keys");
            disk.spoil_writes(&file, (0, u64::MAX), DiskErrorKind::Io);
        }
        put(&store, 0..BEFORE).await;
        assert!(store.keys_skipped() > 0);
        disk.sleep_ms(6000).await;
        assert_eq!(store.keys.tell_skipped(), 0, "it was said");
        // It ends by itself.
        disk.clear_faults();
        disk.sleep_ms(6000).await;
        assert!(!store.keys.needs_write());
    });
}
