//! Index page files that are lost or damaged: the log makes the index anew, once it is whole.

use bytes::BytesMut;

use super::super::tests::{SharedTail, bodies, limits, options, record};
use super::*;
use crate::disk::OpenMode;
use crate::error::{AppendError, RecoverError};
use crate::log::offline::repair;
use crate::retention::floors;
use crate::shard_store::{FlushMode, RecoveryReport, StoreOptions};
use crate::sim_disk::SimDisk;
use crate::units::{Boundary, QueueKey, QueueOffset, ShardId, StoreTimestamp};
use std::rc::Rc;

const COUNT: u64 = 5000;
const PAGES: &str = "shard-0/index/00000000000000000000.idx";
const CHECKPOINT: &str = "shard-0/checkpoint";
const LOG: &str = "shard-0/00000000000000000000.log";

type Store = Rc<ShardStore<SimDisk>>;

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

async fn open(disk: &SimDisk, tail: &SharedTail) -> (Store, RecoveryReport) {
    open_with(disk, tail, 64 << 20).await.unwrap()
}

async fn open_with(
    disk: &SimDisk,
    tail: &SharedTail,
    index_waiting_bytes: usize,
) -> Result<(Store, RecoveryReport), RecoverError> {
    let options = StoreOptions {
        index_flush_bytes: 4096,
        index_waiting_bytes,
        ..options(FlushMode::Async)
    };
    ShardStore::open(disk.clone(), tail.lend(), options).await
}

fn kill(disk: &SimDisk, store: Store) {
    disk.kill();
    drop(store);
}

async fn put(store: &Store, count: u64) {
    put_numbers(store, 0..count).await;
}

async fn put_numbers(store: &Store, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let body = n.to_string();
        store.append(&record(key(), body.as_bytes(), &[])).unwrap();
        if n % 100 == 99 {
            store.until_committed(store.seal()).await.unwrap();
        }
    }
    store.until_committed(store.seal()).await.unwrap();
    store.log.disk.sleep_ms(100).await;
}

/// Records whose index pages the device has, and a checkpoint that names them.
fn written(disk: &SimDisk, tail: &SharedTail) {
    let store = disk.block_on(async {
        let (store, _) = open(disk, tail).await;
        put(&store, COUNT).await;
        store.checkpoint().await.unwrap();
        store
    });
    kill(disk, store);
    assert!(disk.file_names().contains(&PAGES.to_owned()));
}

async fn read(store: &Store, from: u64, messages: u32) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut out = BytesMut::new();
    let limits = limits(messages);
    let read = store.read(key(), QueueOffset(from), limits, &|_| true, &mut out);
    read.await.map(|_| bodies(&out))
}

async fn check_all(store: &Store) {
    let all = read(store, 0, u32::MAX).await.unwrap();
    let wanted = (0..COUNT).map(|n| n.to_string().into_bytes());
    assert_eq!(all.len() as u64, COUNT);
    assert!(all.into_iter().eq(wanted));
}

#[test]
fn a_page_file_that_is_missing_or_short_is_made_anew() {
    for is_short in [false, true] {
        let (disk, tail) = (SimDisk::new(1), SharedTail::new(1 << 20));
        written(&disk, &tail);
        disk.block_on(async {
            disk.remove(PAGES).await.unwrap();
            if is_short {
                disk.open(PAGES, OpenMode::CreateLen(8192)).await.unwrap();
            }
        });
        let store = disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!((report.records, report.damage.len()), (COUNT, 0));
            check_all(&store).await;
            // Pages are written again, and found after the next start.
            put(&store, 1000).await;
            assert!(store.index.index().unwritten_bytes() < 8192);
            store.checkpoint().await.unwrap();
            store
        });
        kill(&disk, store);
        disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!(report.records, 0);
            let new = read(&store, COUNT, u32::MAX).await.unwrap();
            assert_eq!(new.len(), 1000);
        });
    }
}

/// What the damaged page does not hide is read on; the next start makes the index anew, even if the
/// broker is killed while nothing comes.
#[test]
fn a_damaged_page_is_made_anew_by_the_next_start() {
    for is_lost in [false, true] {
        let (disk, tail) = (SimDisk::new(2), SharedTail::new(1 << 20));
        written(&disk, &tail);
        if is_lost {
            disk.spoil(PAGES, (4096 * 3, 4096 * 4), DiskErrorKind::Lost);
        } else {
            disk.flip_bit(PAGES, 4096 * 3 + 70, 1).unwrap();
        }
        let store = disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!(report.records, 0);
            let before = read(&store, 0, u32::MAX).await.unwrap();
            let hidden = before.len() as u64;
            assert_eq!(hidden, 3 * 201);
            let failed = read(&store, hidden, u32::MAX).await;
            assert!(matches!(failed, Err(ReadError::Index { .. })), "{failed:?}");
            let behind = read(&store, hidden + 201, u32::MAX).await.unwrap();
            assert_eq!(behind.len() as u64, COUNT - hidden - 201);
            disk.sleep_ms(1000).await;
            store
        });
        kill(&disk, store);
        // A new file has other sectors.
        disk.clear_faults();
        let store = disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!((report.records, report.damage.len()), (COUNT, 0));
            check_all(&store).await;
            store
        });
        kill(&disk, store);
        disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!(report.records, 0);
            check_all(&store).await;
        });
    }
}

/// Damage that only a search meets, and an orderly end right behind it.
#[test]
fn damage_met_by_a_search_is_not_in_the_last_checkpoint() {
    let (disk, tail) = (SimDisk::new(3), SharedTail::new(1 << 20));
    written(&disk, &tail);
    disk.flip_bit(PAGES, 4096 * 3 + 70, 1).unwrap();
    disk.block_on(async {
        let (store, _) = open(&disk, &tail).await;
        let mut failed = 0;
        for position in (0..store.staged().0).step_by(1000) {
            let found = store.search_by_position(key(), FilePosition(position));
            failed += u32::from(found.await.is_err());
        }
        assert!(failed > 0);
        let time = StoreTimestamp(u64::MAX);
        let last = store.search_by_time(key(), time, Boundary::Lower).await;
        assert_eq!(last, Ok(QueueOffset(COUNT)));
        store.shutdown().await.unwrap();
    });
    disk.kill();
    disk.block_on(async {
        let (store, report) = open(&disk, &tail).await;
        assert_eq!(report.records, COUNT);
        check_all(&store).await;
    });
}

/// Retention can't move a queue's first offset past a damaged page, and drops its segments.
#[test]
fn a_floor_far_below_the_first_record_hides_nothing() {
    const FIRST: u64 = 2 << 20;
    let (disk, tail) = (SimDisk::new(4), SharedTail::new(1 << 20));
    let store = disk.block_on(async {
        let (store, _) = open(&disk, &tail).await;
        let begin = QueueOffset(FIRST);
        store.index.index_mut().begin_at(key(), begin);
        put(&store, 10).await;
        let stale = [(key(), QueueOffset(5))];
        let (folder, id) = (&store.folder, store.store_id);
        floors::write(&disk, folder, id, &stale).await.unwrap();
        store
    });
    kill(&disk, store);
    disk.block_on(async {
        disk.remove("shard-0/checkpoint").await.unwrap();
        let (store, report) = open(&disk, &tail).await;
        assert_eq!((report.records, report.damage.len()), (10, 1));
        let bounds = store.bounds(key());
        assert_eq!((bounds.min.0, bounds.max.0), (FIRST, FIRST + 10));
        assert_eq!(read(&store, FIRST, 32).await.unwrap().len(), 10);
    });
}

/// Too small to have anything again that lies far behind.
fn small_tail() -> SharedTail {
    SharedTail::new(64 << 10)
}

/// A queue whose records all lie in one run in the middle of the log.
fn short() -> QueueKey {
    QueueKey::new(2, 0)
}

/// Records whose index pages the device has, and the position of those of `short` in between.
fn written_with_short(disk: &SimDisk, tail: &SharedTail) -> FilePosition {
    let (store, place) = disk.block_on(async {
        let (store, _) = open(disk, tail).await;
        put(&store, COUNT / 2).await;
        let mut place = FilePosition(0);
        for _ in 0..5 {
            let appended = store.append(&record(short(), b"short", &[])).unwrap();
            place = FilePosition(appended.physical.0);
        }
        store.until_committed(store.seal()).await.unwrap();
        put_numbers(&store, COUNT / 2..COUNT).await;
        store.checkpoint().await.unwrap();
        (store, place)
    });
    kill(disk, store);
    place
}

/// How the index is damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// A page of it is met by a reader.
    Page,
    /// The file is not there at a start.
    File,
}

/// Damages the index and has a broker meet that; kills it.
fn spoil(disk: &SimDisk, tail: &SharedTail, how: How) {
    if how == How::File {
        return disk.block_on(disk.remove(PAGES)).unwrap();
    }
    let store = disk.block_on(async {
        let (store, _) = open(disk, tail).await;
        disk.flip_bit(PAGES, 4096 * 3 + 70, 1).unwrap();
        read(&store, 603, u32::MAX).await.unwrap_err();
        assert!(store.has_index_damage());
        disk.sleep_ms(1000).await;
        store
    });
    kill(disk, store);
}

/// A start that can't make the index anew, for the log is damaged where nobody has met it, goes on
/// with what it has: no offset comes again, what can be read is read. It is made anew once the log
/// is whole.
#[test]
fn damage_of_the_log_as_well_does_not_refuse_a_start() {
    for how in [How::Page, How::File] {
        let (disk, tail) = (SimDisk::new(5), small_tail());
        let place = written_with_short(&disk, &tail);
        spoil(&disk, &tail, how);
        let flip = disk.flip_bit(LOG, place.0 + 100, 1).unwrap();
        for life in 0..2 {
            let store = disk.block_on(async {
                let (store, report) = open(&disk, &tail).await;
                assert!(report.scanned_from > place, "{how:?}: {report:?}");
                assert!(store.has_index_damage());
                assert_eq!(store.bounds(short()).max, QueueOffset(5));
                let end = store.bounds(key()).max;
                assert_eq!(end, QueueOffset(COUNT + life));
                let behind = if how == How::Page { 804 } else { COUNT - 1 };
                let read_on = read(&store, behind, u32::MAX).await;
                // A page that is in the checkpoint, or behind the damaged one.
                assert_eq!(read_on.unwrap().len() as u64, COUNT + life - behind);
                let new = record(key(), b"new", &[]);
                assert_eq!(store.append(&new).unwrap().queue_offset, end);
                store.until_committed(store.seal()).await.unwrap();
                store
            });
            kill(&disk, store);
        }
        assert!(disk.flip_back(&flip));
        disk.block_on(async {
            let (store, report) = open(&disk, &tail).await;
            assert_eq!(report.records, COUNT + 5 + 2, "{how:?}");
            assert!(!store.has_index_damage());
            let all = read(&store, 0, u32::MAX).await.unwrap();
            assert_eq!(all.len() as u64, COUNT + 2);
        });
    }
}

/// What a repair gives up may be the last that a queue had: it goes on where it was nevertheless.
#[test]
fn offsets_of_records_given_up_are_not_given_out_again() {
    let (disk, tail) = (SimDisk::new(6), small_tail());
    let place = written_with_short(&disk, &tail);
    spoil(&disk, &tail, How::Page);
    disk.flip_bit(LOG, place.0 + 100, 1).unwrap();
    let store = disk.block_on(async { open(&disk, &tail).await.0 });
    kill(&disk, store);
    disk.block_on(async {
        repair(&disk, ShardId(0), false).await.unwrap();
        let (store, report) = open(&disk, &tail).await;
        assert_eq!(report.records, COUNT);
        check_all(&store).await;
        assert_eq!(store.bounds(short()).max, QueueOffset(5));
        let appended = store.append(&record(short(), b"new", &[])).unwrap();
        assert_eq!(appended.queue_offset, QueueOffset(5));
    });
}

/// What the log has and the index lacks is kept in memory, up to a bound.
#[test]
fn records_are_refused_while_too_much_of_the_index_waits_for_the_device() {
    const WAITING: usize = 32 << 10;
    let (disk, tail) = (SimDisk::new(7), SharedTail::new(4 << 20));
    disk.block_on(async {
        let (store, _) = open_with(&disk, &tail, WAITING).await.unwrap();
        disk.spoil_writes(PAGES, (0, u64::MAX), DiskErrorKind::Io);
        let mut count = 0;
        let reason = loop {
            match store.append(&record(key(), count.to_string().as_bytes(), &[])) {
                Ok(_) => count += 1,
                Err(AppendError::StoreFull { reason }) => break reason,
                Err(error) => panic!("{error}"),
            }
            if count % 100 == 0 {
                store.until_committed(store.seal()).await.unwrap();
                disk.sleep_ms(20).await;
            }
            assert!(count < 2 * COUNT, "no bound");
        };
        assert!(
            reason.contains("index pages can't be written: index"),
            "{reason}"
        );
        let waiting = store.index.index().unwritten_bytes();
        assert!(
            waiting > WAITING && waiting < WAITING + (8 << 10),
            "{waiting}"
        );
        assert!(store.poisoned().is_none());
        assert_eq!(read(&store, 0, u32::MAX).await.unwrap().len() as u64, count);
        disk.clear_faults();
        disk.sleep_ms(10_000).await;
        store.append(&record(key(), b"on", &[])).unwrap();
    });
}

#[test]
fn a_start_makes_the_index_beside_a_place_that_can_not_be_written() {
    let (disk, tail) = (SimDisk::new(8), SharedTail::new(4 << 20));
    let store = disk.block_on(async {
        let (store, _) = open(&disk, &tail).await;
        put(&store, COUNT).await;
        store
    });
    kill(&disk, store);
    disk.block_on(disk.remove(CHECKPOINT)).unwrap();
    for (bad_end, is_written) in [(512, true), (u64::MAX, false)] {
        disk.spoil_writes(PAGES, (0, bad_end), DiskErrorKind::Io);
        let store = disk.block_on(async {
            let (store, _) = open(&disk, &tail).await;
            check_all(&store).await;
            assert_eq!(store.index.index().unwritten_bytes() < 4096, is_written);
            store
        });
        kill(&disk, store);
        disk.block_on(disk.remove(CHECKPOINT)).unwrap();
    }
    // Memory has its bound.
    let refused = disk.block_on(open_with(&disk, &tail, 4096));
    assert!(matches!(refused, Err(RecoverError::Disk(_))));
}
