//! What a checkpoint's header is good for when its parts are broken.

use super::super::tests::{SharedTail, options, record};
use super::super::*;
use crate::error::RecoverError;
use crate::key_index::key_hash;
use crate::sim_disk::SimDisk;
use crate::units::{FilePosition, QueueOffset};

type Opened = Result<(Rc<ShardStore<SimDisk>>, RecoveryReport), RecoverError>;

const CHECKPOINT: &str = "shard-0/checkpoint";
const LOG: &str = "shard-0/00000000000000000000.log";
/// Behind the header.
const IN_PARTS: u64 = 70;

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

/// Starts with a fresh tail, does something, and dies.
fn lived<T>(disk: &SimDisk, then: impl AsyncFn(Opened) -> T) -> T {
    let tail = SharedTail::new(1 << 20);
    let done = disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        then(opened.await).await
    });
    disk.kill();
    done
}

/// A store at rest with five records, each in a group of its own.
fn made(disk: &SimDisk) {
    lived(disk, async |opened| {
        let (store, _) = opened.unwrap();
        for number in 0..5 {
            let end = store.append(&record(
                key(),
                &[number; 9000],
                &[key_hash(key().topic, b"k")],
            ));
            store.seal();
            store.until_committed(end.unwrap().end).await.unwrap();
        }
        store.shutdown().await.unwrap();
    });
}

fn bounds(disk: &SimDisk) -> (QueueOffset, FilePosition) {
    lived(disk, async |opened| {
        let (store, report) = opened.unwrap();
        (store.bounds(key()).max, report.scanned_from)
    })
}

fn refusal(disk: &SimDisk) -> String {
    lived(disk, async |opened| {
        opened.err().map_or_else(String::new, |e| e.to_string())
    })
}

#[test]
fn a_log_that_ends_before_the_last_checkpoint_is_refused() {
    let disk = SimDisk::new(1);
    made(&disk);
    disk.flip_bit(CHECKPOINT, IN_PARTS, 1).unwrap();
    // The last record: nothing lies behind it that could prove the damage.
    let flip = disk.flip_bit(LOG, 4 * 12_288 + 3000, 1).unwrap();
    for _ in 0..3 {
        // The first start gives the parts up; what the header knows stays.
        let why = refusal(&disk);
        assert!(why.contains(&LOG["shard-0/".len()..]), "{why}");
        assert!(why.contains("it was synced up to"), "{why}");
        assert!(why.contains("gantry admin log repair"), "{why}");
    }
    assert!(disk.flip_back(&flip));
    assert_eq!(bounds(&disk), (QueueOffset(5), FilePosition(0)));
    let (count, from) = bounds(&disk);
    assert!(count == QueueOffset(5) && from > FilePosition(40_000));
}

/// A start has written a checkpoint at the next block: the log's end alone does not say that a run
/// before it is missing.
#[test]
fn a_log_that_lacks_a_run_of_its_last_block_is_refused() {
    let disk = SimDisk::new(5);
    let last = lived(&disk, async |opened| {
        let (store, _) = opened.unwrap();
        let mut last = None;
        for number in 0..3 {
            let stored = store.append(&record(key(), &[number; 200], &[]));
            store.seal();
            last = Some(stored.unwrap());
        }
        store.shutdown().await.unwrap();
        last.unwrap()
    });
    assert!(last.end < FilePosition(4096), "{last:?}");
    bounds(&disk);
    disk.flip_bit(CHECKPOINT, IN_PARTS, 1).unwrap();
    let flip = disk.flip_bit(LOG, last.end.0 - 50, 1).unwrap();
    for _ in 0..3 {
        let why = refusal(&disk);
        assert!(why.contains("it was synced up to 4096"), "{why}");
    }
    assert!(disk.flip_back(&flip));
    assert_eq!(bounds(&disk).0, QueueOffset(3));
}

#[test]
fn a_log_without_its_segments_is_refused() {
    let disk = SimDisk::new(2);
    made(&disk);
    disk.flip_bit(CHECKPOINT, IN_PARTS, 1).unwrap();
    disk.block_on(crate::disk::Disk::remove(&disk, LOG))
        .unwrap();
    assert!(refusal(&disk).contains("it was synced up to"));
}

/// Whatever is broken, no epoch is used twice, and the next run has the next number.
#[test]
fn epochs_and_numbers_go_on_behind_a_broken_checkpoint() {
    for byte in [IN_PARTS, 9] {
        let disk = SimDisk::new(3);
        made(&disk);
        let state = |opened: Opened| {
            let (store, _) = opened.unwrap();
            let staging = store.log.staging.borrow();
            (staging.epoch(), staging.sequence())
        };
        // Starts that write no run leave no trace in the log.
        for _ in 0..3 {
            lived(&disk, async |opened| state(opened));
        }
        let (before, number) = lived(&disk, async |opened| state(opened));
        disk.flip_bit(CHECKPOINT, byte, 1).unwrap();
        let (after, same) = lived(&disk, async |opened| state(opened));
        assert!(after > before, "byte {byte}: {after} follows {before}");
        assert_eq!(same, number);
        assert_eq!(bounds(&disk).0, QueueOffset(5));
    }
}

/// A record that came between a checkpoint's position and its look at the indexes.
#[test]
fn a_log_that_lacks_what_the_indexes_know_is_refused() {
    let disk = SimDisk::new(4);
    let tail = SharedTail::new(1 << 20);
    let late = disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
        let (store, _) = opened.await.unwrap();
        store
            .append(&record(key(), &[0; 9000], &[key_hash(key().topic, b"k")]))
            .unwrap();
        let position = store.seal();
        let sequence = store.log.staging.borrow().sequence();
        let late = store
            .append(&record(key(), &[1; 9000], &[key_hash(key().topic, b"k")]))
            .unwrap();
        store.seal();
        let written = store.write_checkpoint(position, sequence).await;
        written.unwrap();
        assert!(store.checkpoint_position.get().0 < late.physical.0);
        late.physical.0
    });
    disk.kill();
    let flip = disk.flip_bit(LOG, late + 2000, 1).unwrap();
    let why = refusal(&disk);
    assert!(why.contains("it was synced up to"), "{why}");
    assert!(disk.flip_back(&flip));
    assert_eq!(bounds(&disk).0, QueueOffset(2));
}

/// Nothing of the log says which epochs were used, and the header is lost a second time.
#[test]
fn a_header_lost_again_repeats_no_epoch() {
    let disk = SimDisk::new(1);
    let start = || {
        lived(&disk, async |opened| {
            let (_, report) = opened.unwrap();
            disk.sleep_ms(5).await;
            report.epoch
        })
    };
    let mut last = start();
    for _ in 0..3 {
        disk.flip_bit(CHECKPOINT, 10, 1).unwrap();
        let epoch = start();
        assert!(epoch > last, "{epoch}, before {last}");
        last = epoch;
    }
}
