//! Index page files that are lost or damaged: the log makes the index anew.

use bytes::BytesMut;

use super::super::tests::{SharedTail, bodies, limits, options, record};
use super::*;
use crate::disk::OpenMode;
use crate::retention::floors;
use crate::shard_store::{FlushMode, RecoveryReport, StoreOptions};
use crate::sim_disk::SimDisk;
use crate::units::{Boundary, QueueKey, QueueOffset, StoreTimestamp};
use std::rc::Rc;

const COUNT: u64 = 5000;
const PAGES: &str = "shard-0/index/00000000000000000000.idx";

type Store = Rc<ShardStore<SimDisk>>;

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

async fn open(disk: &SimDisk, tail: &SharedTail) -> (Store, RecoveryReport) {
    let options = StoreOptions {
        index_flush_bytes: 4096,
        ..options(FlushMode::Async)
    };
    let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
    opened.unwrap()
}

fn kill(disk: &SimDisk, store: Store) {
    disk.kill();
    drop(store);
}

async fn put(store: &Store, count: u64) {
    for n in 0..count {
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
