use std::rc::Rc;

use bytes::BytesMut;

use super::*;
use crate::disk::DiskErrorKind;
use crate::key_index::key_hash;
use crate::shard_store::tests::{
    SEGMENT, SharedTail, append_patiently, bodies, limits, options, record,
};
use crate::shard_store::{FlushMode, RecoveryReport, StoreOptions};
use crate::sim_disk::{SimDisk, SimOp};

type Store = Rc<ShardStore<SimDisk>>;

const PAGES: &str = "shard-0/index/00000000000000000000.idx";
const FLOORS: &str = "shard-0/floors";
const BODY: usize = 1 << 20;
/// Bodies of that size in one segment of 8 MiB.
const A_SEGMENT: u64 = 7;

async fn open(disk: &SimDisk, tail: &SharedTail) -> (Store, RecoveryReport) {
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
    opened.await.unwrap()
}

fn main_queue() -> QueueKey {
    QueueKey::new(1, 0)
}

/// A queue with a record in the first segment and none later.
fn quiet_queue() -> QueueKey {
    QueueKey::new(2, 0)
}

/// Fills `segments` segments with records of the main queue, one second between two of them.
async fn fill(disk: &SimDisk, store: &Store, segments: u64) {
    for _ in 0..segments * A_SEGMENT {
        let body = vec![7; BODY];
        append_patiently(
            disk,
            store,
            &record(main_queue(), &body, &[key_hash(main_queue().topic, b"k")]),
        )
        .await;
        disk.sleep_ms(1000).await;
    }
    store.checkpoint().await.unwrap();
}

async fn filled(disk: &SimDisk, tail: &SharedTail, segments: u64) -> Store {
    let (store, _) = open(disk, tail).await;
    append_patiently(
        disk,
        &store,
        &record(
            quiet_queue(),
            b"early",
            &[key_hash(quiet_queue().topic, b"early")],
        ),
    )
    .await;
    fill(disk, &store, segments).await;
    store
}

async fn first_of(store: &Store, key: QueueKey) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    let from = store.bounds(key).min;
    let read = store.read(key, from, limits(1), &|_| true, &mut out).await;
    read.unwrap();
    bodies(&out).into_iter().next()
}

fn kill(disk: &SimDisk, store: Store) {
    disk.kill();
    drop(store);
}

/// What must be true once the first two segments are gone.
async fn check_dropped(store: &Store, max: QueueOffset) {
    let main = store.bounds(main_queue());
    assert_eq!(store.first(), FilePosition(2 * SEGMENT));
    assert_eq!(main.max, max);
    assert!(
        main.min.0 >= 2 * A_SEGMENT - 2 && main.min.0 <= 2 * A_SEGMENT,
        "{main:?}"
    );
    assert_eq!(
        first_of(store, main_queue()).await.map(|body| body.len()),
        Some(BODY)
    );
    let quiet = store.bounds(quiet_queue());
    assert_eq!((quiet.min, quiet.max), (QueueOffset(1), QueueOffset(1)));
    assert_eq!(first_of(store, quiet_queue()).await, None);
    // Queries and searches begin where the queue does.
    let early = store
        .query_key(quiet_queue().topic, "early", 0, u64::MAX, 9)
        .await;
    assert_eq!(early.unwrap(), []);
    let found = store
        .query_key(main_queue().topic, "k", 0, u64::MAX, 100)
        .await
        .unwrap();
    assert_eq!(found.len() as u64, max.0 - main.min.0);
    let oldest = store.record_at(*found.last().unwrap()).await.unwrap();
    assert_eq!(bodies(&oldest).len(), 1);
    let time = StoreTimestamp(0);
    let at = store
        .search_by_time(main_queue(), time, Boundary::Lower)
        .await;
    assert_eq!(at.unwrap(), main.min);
    assert!(
        store
            .store_time_at(main_queue(), main.min)
            .await
            .unwrap()
            .is_some()
    );
    let below = QueueOffset(main.min.0 - 1);
    assert_eq!(
        store.store_time_at(main_queue(), below).await.unwrap(),
        None
    );
}

#[test]
fn old_segments_go_and_queues_begin_later_before_and_after_a_restart() {
    let disk = SimDisk::new(1);
    let tail = SharedTail::new(4 << 20);
    let (store, max) = disk.block_on(async {
        let store = filled(&disk, &tail, 4).await;
        let ages = store.oldest_segments(9).await;
        assert!(
            ages.len() >= 3 && ages.iter().all(|age| age.newest.is_some()),
            "{ages:?}"
        );
        assert!(ages.is_sorted_by_key(|age| age.newest));
        assert_eq!(ages[0].start, FilePosition(0));
        let done = store
            .drop_before(FilePosition(2 * SEGMENT + 5), true)
            .await
            .unwrap();
        assert_eq!((done.segments, done.first), (2, FilePosition(2 * SEGMENT)));
        let max = store.bounds(main_queue()).max;
        check_dropped(&store, max).await;
        (store, max)
    });
    // Killed before the next checkpoint: the old one still has the old queues.
    kill(&disk, store);
    let store = disk.block_on(async {
        let (store, report) = open(&disk, &tail).await;
        assert!(report.damage.is_empty(), "{report:?}");
        check_dropped(&store, max).await;
        store
    });
    kill(&disk, store);
    // Without a checkpoint the whole log is replayed, from its new beginning.
    disk.flip_bit("shard-0/checkpoint", 20, 1);
    disk.block_on(async {
        let (store, report) = open(&disk, &tail).await;
        assert!(report.damage.is_empty(), "{report:?}");
        assert_eq!(report.scanned_from, FilePosition(2 * SEGMENT));
        check_dropped(&store, max).await;
        append_patiently(&disk, &store, &record(quiet_queue(), b"late", &[])).await;
        assert_eq!(
            store.bounds(quiet_queue()).max,
            QueueOffset(2),
            "no offset twice"
        );
        assert_eq!(
            first_of(&store, quiet_queue()).await.as_deref(),
            Some(&b"late"[..])
        );
    });
}

#[test]
fn the_newest_segments_stay_whatever_is_asked() {
    let disk = SimDisk::new(2);
    disk.block_on(async {
        let store = filled(&disk, &SharedTail::new(4 << 20), 2).await;
        store
            .drop_before(FilePosition(u64::MAX), false)
            .await
            .unwrap();
        let end = store.staged();
        assert!(
            store.first() <= end && end.since(store.first()) <= SEGMENT,
            "{end}"
        );
        let bounds = store.bounds(main_queue());
        assert!(bounds.min < bounds.max);
        assert!(first_of(&store, main_queue()).await.is_some());
        assert_eq!(store.oldest_segments(9).await, []);
    });
}

#[test]
fn segments_given_up_are_used_again_up_to_a_bound() {
    let disk = SimDisk::new(3);
    disk.block_on(async {
        let store = filled(&disk, &SharedTail::new(4 << 20), 7).await;
        let done = store
            .drop_before(FilePosition(6 * SEGMENT), true)
            .await
            .unwrap();
        assert_eq!(done.segments, 6);
        let names = disk.list("shard-0").await.unwrap();
        let spares = names.iter().filter(|entry| entry.name.starts_with("spare"));
        assert_eq!(spares.count(), 4, "four are kept, the rest removed");
        let seg = |n: u64| {
            format!(
                "shard-0/{}",
                crate::format::segment_name(FilePosition(n * SEGMENT))
            )
        };
        // Room for checkpoints, none for a new segment.
        let used = u64::MAX - disk.free_bytes().await.unwrap();
        disk.set_capacity(used + (1 << 20));
        fill(&disk, &store, 3).await;
        assert!(
            disk.open(&seg(9), crate::disk::OpenMode::Existing)
                .await
                .is_ok()
        );
        // A tight disk keeps none.
        let done = store
            .drop_before(FilePosition(7 * SEGMENT), false)
            .await
            .unwrap();
        assert!(done.spares > 0 && done.segments == 1, "{done:?}");
        let left = disk.list("shard-0").await.unwrap();
        assert!(
            left.iter().all(|entry| !entry.name.starts_with("spare")),
            "{left:?}"
        );
    });
}

#[test]
fn a_segment_whose_beginning_can_not_be_read_is_offered_and_goes() {
    let disk = SimDisk::new(7);
    disk.block_on(async {
        let store = filled(&disk, &SharedTail::new(4 << 20), 4).await;
        let second = crate::format::segment_name(FilePosition(SEGMENT));
        let second = format!("shard-0/{second}");
        disk.spoil(&second, (0, 1), DiskErrorKind::Io);
        let ages = store.oldest_segments(9).await;
        let known: Vec<bool> = ages.iter().map(|age| age.newest.is_some()).collect();
        // The first one's time is that of the second one's beginning.
        assert_eq!(known[..3], [false, true, true]);
        let done = store
            .drop_before(FilePosition(2 * SEGMENT), true)
            .await
            .unwrap();
        assert_eq!((done.segments, done.first), (2, FilePosition(2 * SEGMENT)));
    });
}

#[test]
fn a_reader_overtaken_by_retention_learns_the_new_bounds() {
    let disk = SimDisk::new(4);
    disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let store = filled(&disk, &tail, 4).await;
        disk.set_latency_us(5000, 5000);
        let (reader, answer) = (Rc::clone(&store), Rc::new(std::cell::RefCell::new(None)));
        let told = Rc::clone(&answer);
        disk.spawn(async move {
            let mut out = BytesMut::new();
            let read = reader.read(main_queue(), QueueOffset(1), limits(9), &|_| true, &mut out);
            *told.borrow_mut() = Some((read.await, out.len()));
        });
        store
            .drop_before(FilePosition(2 * SEGMENT), false)
            .await
            .unwrap();
        disk.sleep_ms(1000).await;
        let (read, bytes) = answer.borrow_mut().take().unwrap();
        let read = read.unwrap();
        assert!(
            read.found > 0 || read.bounds.min > QueueOffset(1),
            "{read:?}"
        );
        assert_eq!(bytes as u64, read.bytes);
        // Asked after the drop, it is told at once.
        let mut out = BytesMut::new();
        let read = store.read(main_queue(), QueueOffset(1), limits(9), &|_| true, &mut out);
        let read = read.await.unwrap();
        assert_eq!((read.found, read.next_offset), (0, QueueOffset(1)));
        assert!(read.bounds.min > QueueOffset(1));
    });
}

#[test]
fn a_topics_own_time_moves_its_queues_and_says_what_it_still_wants() {
    let disk = SimDisk::new(5);
    let tail = SharedTail::new(4 << 20);
    let store = disk.block_on(async {
        let store = filled(&disk, &tail, 2).await;
        let topic = main_queue().topic;
        let seventh = store
            .store_time_at(main_queue(), QueueOffset(7))
            .await
            .unwrap()
            .unwrap();
        let from = store
            .first_since(&[(topic, seventh)])
            .await
            .unwrap()
            .unwrap();
        assert!(from > FilePosition(SEGMENT / 2) && from < FilePosition(2 * SEGMENT));
        assert_eq!(
            store
                .first_since(&[(quiet_queue().topic, seventh)])
                .await
                .unwrap(),
            None
        );
        assert_eq!(store.trim_topics(&[(topic, seventh)]).await.unwrap(), 1);
        assert_eq!(store.bounds(main_queue()).min, QueueOffset(7));
        assert_eq!(store.trim_topics(&[(topic, seventh)]).await.unwrap(), 0);
        assert_eq!(
            store.bounds(quiet_queue()).min,
            QueueOffset(0),
            "another topic"
        );
        // All of it may go: the queue is empty and goes on.
        let later = StoreTimestamp(u64::MAX >> 8);
        store.trim_topics(&[(topic, later)]).await.unwrap();
        let bounds = store.bounds(main_queue());
        assert!(bounds.min == bounds.max && bounds.max.0 == 2 * A_SEGMENT);
        store
            .drop_before(FilePosition(SEGMENT), true)
            .await
            .unwrap();
        store
    });
    kill(&disk, store);
    disk.block_on(async {
        let (store, report) = open(&disk, &tail).await;
        assert!(report.damage.is_empty(), "{report:?}");
        let bounds = store.bounds(main_queue());
        assert!(
            bounds.min == bounds.max && bounds.max.0 == 2 * A_SEGMENT,
            "{bounds:?}"
        );
    });
}

#[test]
fn a_drop_that_fails_half_way_is_finished_by_the_next() {
    let disk = SimDisk::new(6);
    disk.block_on(async {
        let store = filled(&disk, &SharedTail::new(4 << 20), 4).await;
        let to = FilePosition(3 * SEGMENT);
        // The first rename is that of the floors file.
        disk.fail_after(SimOp::Rename, 2, DiskErrorKind::Io);
        let failed = store.drop_before(to, true).await;
        assert!(matches!(failed, Err(RetainError::Disk(_))), "{failed:?}");
        assert_eq!(store.first(), FilePosition(SEGMENT));
        assert!(first_of(&store, main_queue()).await.is_some());
        disk.fail_after(SimOp::Remove, 0, DiskErrorKind::Io);
        let done = store.drop_before(to, false).await;
        assert!(matches!(done, Err(RetainError::Disk(_))), "{done:?}");
        let done = store.drop_before(to, false).await.unwrap();
        assert_eq!(done.first, to);
        assert!(store.poisoned().is_none());
    });
}

#[test]
fn a_power_cut_at_any_moment_of_a_drop_loses_only_what_was_to_go() {
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let tail = SharedTail::new(4 << 20);
        let store = disk.block_on(filled(&disk, &tail, 3));
        let dropping = Rc::clone(&store);
        disk.spawn(async move {
            let _ = dropping
                .drop_before(FilePosition(2 * SEGMENT), seed % 2 == 0)
                .await;
        });
        disk.block_on(disk.sleep_us(disk.random().below(6000)));
        disk.cut_power();
        drop(store);
        disk.block_on(async {
            let (store, report) = open(&disk, &SharedTail::new(4 << 20)).await;
            assert!(report.damage.is_empty(), "seed {seed}: {report:?}");
            let bounds = store.bounds(main_queue());
            assert_eq!(bounds.max.0, 3 * A_SEGMENT, "seed {seed}");
            assert!(bounds.min.0 <= 2 * A_SEGMENT);
            let mut out = BytesMut::new();
            let read = store.read(main_queue(), bounds.min, limits(99), &|_| true, &mut out);
            let read = read.await.unwrap();
            assert_eq!(
                u64::from(read.found),
                bounds.max.0 - bounds.min.0,
                "seed {seed}"
            );
            assert_eq!(store.bounds(quiet_queue()).max, QueueOffset(1));
            assert!(store.damage_met().is_empty());
        });
    }
}

/// Another program has taken the last block: what makes room, and a start, need files of their own.
#[test]
fn without_a_free_block_segments_can_be_given_up_and_a_start_succeeds() {
    let disk = SimDisk::new(40);
    let tail = SharedTail::new(4 << 20);
    disk.block_on(async {
        let store = filled(&disk, &tail, 4).await;
        let used = 1 << 40;
        disk.set_capacity(used);
        disk.set_capacity(used - disk.free_bytes().await.unwrap());
        assert_eq!(disk.free_bytes().await.unwrap(), 0);
        let dropped = store.drop_before(FilePosition(2 * SEGMENT), false).await;
        assert_eq!(dropped.unwrap().segments, 2);
        assert!(disk.free_bytes().await.unwrap() > SEGMENT);
        store.shutdown().await.unwrap();
        disk.set_capacity(used);
        disk.set_capacity(used - disk.free_bytes().await.unwrap());
    });
    disk.kill();
    let tail = SharedTail::new(4 << 20);
    disk.block_on(async {
        let (store, _) = open(&disk, &tail).await;
        assert_eq!(store.first(), FilePosition(2 * SEGMENT));
        assert!(first_of(&store, main_queue()).await.is_some());
    });
}

async fn fill_up(disk: &SimDisk) {
    disk.set_capacity(1 << 40);
    disk.set_capacity((1 << 40) - disk.free_bytes().await.unwrap());
    assert_eq!(disk.free_bytes().await.unwrap(), 0);
}

/// Index pages and keys behind the last checkpoint wait in memory, as while the store is running;
/// so they do where the checkpoint's own are damaged.
#[test]
fn without_a_free_block_a_start_fills_its_indexes_in_memory() {
    const RECORDS: u32 = 6000;
    for is_damaged in [false, true] {
        let disk = SimDisk::new(41);
        let tail = SharedTail::new(16 << 20);
        let hash = key_hash(main_queue().topic, b"k");
        let store = disk.block_on(async {
            let (store, _) = open(&disk, &tail).await;
            for n in 0..RECORDS {
                append_patiently(
                    &disk,
                    &store,
                    &record(main_queue(), &n.to_le_bytes(), &[hash]),
                )
                .await;
            }
            store.until_committed(store.seal()).await.unwrap();
            store
        });
        kill(&disk, store);
        if is_damaged {
            disk.flip_bit("shard-0/checkpoint", 70, 1).unwrap();
        }
        disk.block_on(async {
            fill_up(&disk).await;
            let small = StoreOptions {
                key_entries_max: 1000,
                index_flush_bytes: 16 << 10,
                ..options(FlushMode::Async)
            };
            let opened = ShardStore::open(disk.clone(), tail.lend(), small).await;
            let (store, report) = opened.unwrap();
            assert_eq!(report.records, u64::from(RECORDS));
            assert_eq!(store.bounds(main_queue()).max.0, u64::from(RECORDS));
            assert_eq!(store.keys_skipped(), 0);
            let topic = main_queue().topic;
            let found = store.query_key(topic, "k", 0, u64::MAX, usize::MAX).await;
            assert_eq!(found.unwrap().len(), RECORDS as usize);
            // Once there is room they are written.
            disk.set_capacity(1 << 40);
            disk.sleep_ms(30_000).await;
            store.checkpoint().await.unwrap();
            assert!(disk.file_names().iter().any(|name| name.contains("/keys/")));
        });
    }
}

/// What an admin tool asks for every few seconds.
#[test]
fn the_oldest_time_of_a_shard_takes_one_read_whatever_its_queues() {
    let disk = SimDisk::new(12);
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(4 << 20)).await;
        assert_eq!(store.earliest().await, None);
        disk.sleep_ms(1000).await;
        let begun = StoreTimestamp(disk.now_ms());
        for queue in 0..1000 {
            let key = QueueKey::new(3, queue);
            append_patiently(&disk, &store, &record(key, b"x", &[])).await;
        }
        store.checkpoint().await.unwrap();
        disk.sleep_ms(1000).await;
        let reads = disk.count(SimOp::Read);
        for _ in 0..9 {
            assert_eq!(store.earliest().await, Some(begun));
        }
        assert_eq!(disk.count(SimOp::Read) - reads, 1);
    });
}

/// A wrong byte in a segment's first record must not say how old the segment before it is.
#[test]
fn a_segments_time_is_that_of_a_record_that_fits_its_check() {
    let disk = SimDisk::new(13);
    let tail = SharedTail::new(4 << 20);
    let store = disk.block_on(filled(&disk, &tail, 4));
    kill(&disk, store);
    let ages = || {
        disk.block_on(async {
            let (store, _) = open(&disk, &SharedTail::new(4 << 20)).await;
            let ages = store.oldest_segments(9).await;
            ages.iter().map(|age| age.newest).collect::<Vec<_>>()
        })
    };
    let before = ages();
    assert!(before[0].is_some() && before[1].is_some(), "{before:?}");
    disk.kill();
    let name = format!(
        "shard-0/{}",
        crate::format::segment_name(FilePosition(SEGMENT))
    );
    let in_store_time = 64 + 20 + 8 + 4 + 57;
    disk.flip_bit(&name, in_store_time, 1).unwrap();
    let after = ages();
    assert_eq!((after[0], &after[1..]), (None, &before[1..]));
}

#[path = "retaining_put_off_tests.rs"]
mod put_off;
