//! The queue index over page files: what goes out, what comes back, and which files stay.
//!
//! **Owns** the tests of `paged` and `page_files`.
//! **Lives on** the test runner, over a simulated disk.
//! **Invariants** whatever was appended and not dropped is found, before and after a restart.
//! **Limits** the smallest page files there are.
//! **Not here** the index in memory (`tests`), damage at a start (`shard_store`).

use super::*;
use crate::disk::{Disk, DiskErrorKind};
use crate::index_pages::page_files::{PAGE_FILE_BYTES_MIN, PLACE_TRIES_MAX, PageFileError};
use crate::queue_index::paged::{PagedIndex, PagedOptions, PagedSnapshot};
use crate::sim_disk::{SimDisk, SimOp};

const KEY: QueueKey = QueueKey {
    topic: TopicId(3),
    queue: crate::units::QueueId(1),
};

fn options() -> PagedOptions {
    let limits = IndexLimits {
        resident_bytes_max: 0,
        ..IndexLimits::default()
    };
    PagedOptions {
        limits,
        file_bytes: PAGE_FILE_BYTES_MIN,
        ..PagedOptions::default()
    }
}

/// A new index.
async fn fresh(disk: &SimDisk) -> PagedIndex<SimDisk> {
    let opened = PagedIndex::open(disk.clone(), "i", options(), None).await;
    opened.unwrap()
}

async fn fill(index: &PagedIndex<SimDisk>, from: u64, to: u64) {
    for i in from..to {
        index
            .index_mut()
            .append(KEY, QueueOffset(i), entry(i))
            .unwrap();
        if index.needs_flush() {
            index.flush().await.unwrap();
        }
    }
}

async fn check(index: &PagedIndex<SimDisk>, from: u64, to: u64) {
    for at in (from..to).step_by(777) {
        let mut out = Vec::new();
        let count = index
            .lookup(KEY, QueueOffset(at), 50, &mut out)
            .await
            .unwrap();
        let wanted: Vec<_> = (at..(at + count as u64)).map(entry).collect();
        assert!(count > 0 && out == wanted, "offset {at}");
        let found = index.search_by_time(KEY, StoreTimestamp(1000 + at), Boundary::Upper);
        assert_eq!(found.await.unwrap(), QueueOffset(at));
        let found = index
            .search_by_position(KEY, FilePosition(at * 1200))
            .await
            .unwrap();
        assert_eq!(found, QueueOffset(at));
        assert_eq!(
            index.entry(KEY, QueueOffset(at)).await.unwrap(),
            Some(entry(at))
        );
    }
    assert_eq!(index.entry(KEY, QueueOffset(to)).await.unwrap(), None);
}

#[test]
fn pages_go_out_come_back_and_their_files_go_when_unused() {
    let disk = SimDisk::new(5);
    disk.block_on(async {
        let index = fresh(&disk).await;
        fill(&index, 0, 100_000).await;
        check(&index, 0, 100_000).await;
        let PagedSnapshot { bytes, .. } = index.snapshot().await;
        fill(&index, 100_000, 120_000).await;
        // A crash here: pages written after the checkpoint are forgotten and written again.
        let index = PagedIndex::open(disk.clone(), "i", options(), Some(&bytes))
            .await
            .unwrap();
        assert_eq!(index.index().next_offset(KEY), QueueOffset(100_000));
        fill(&index, 90_000, 130_000).await;
        check(&index, 0, 130_000).await;
        let files = disk.list("i").await.unwrap().len();
        index.index_mut().set_min(KEY, QueueOffset(100_000));
        let PagedSnapshot {
            bytes,
            unneeded_files,
        } = index.snapshot().await;
        assert_eq!(
            disk.list("i").await.unwrap().len(),
            files,
            "the old checkpoint needs them"
        );
        index.checkpoint_durable(&unneeded_files).await.unwrap();
        assert!(disk.list("i").await.unwrap().len() < files);
        let index = PagedIndex::open(disk.clone(), "i", options(), Some(&bytes))
            .await
            .unwrap();
        check(&index, 100_000, 130_000).await;
    });
}

/// Appends without writing a page.
fn append(index: &PagedIndex<SimDisk>, numbers: std::ops::Range<u64>) {
    for i in numbers {
        let mut index = index.index_mut();
        index.append(KEY, QueueOffset(i), entry(i)).unwrap();
    }
}

#[test]
fn a_place_that_can_not_be_written_is_passed_over() {
    let disk = SimDisk::new(7);
    disk.block_on(async {
        let index = fresh(&disk).await;
        append(&index, 0..5000);
        disk.spoil_writes(&format!("i/{:020}.idx", 0), (0, 512), DiskErrorKind::Io);
        for _ in 0..PLACE_TRIES_MAX {
            assert!(index.flush().await.is_err());
            check(&index, 0, 5000).await;
        }
        index.flush().await.unwrap();
        append(&index, 5000..20_000);
        index.flush().await.unwrap();
        assert_eq!(index.index().unwritten_bytes(), 0);
        check(&index, 0, 20_000).await;
        let PagedSnapshot { bytes, .. } = index.snapshot().await;
        let opened = PagedIndex::open(disk.clone(), "i", options(), Some(&bytes));
        check(&opened.await.unwrap(), 0, 20_000).await;
    });
}

#[test]
fn a_page_right_before_a_place_that_is_passed_over_can_be_read() {
    let disk = SimDisk::new(9);
    disk.block_on(async {
        let index = fresh(&disk).await;
        let queues = [1, 2].map(|queue| QueueKey::new(KEY.topic.0, queue));
        for begin in [0, 50] {
            for (key, i) in queues
                .iter()
                .flat_map(|key| (begin..begin + 50).map(|i| (*key, i)))
            {
                let mut index = index.index_mut();
                index.append(key, QueueOffset(i), entry(i)).unwrap();
            }
            // Short pages, two of them in a block, and none of them kept in memory.
            index.put_to_sleep(StoreTimestamp(u64::MAX)).await;
            for _ in 0..=PLACE_TRIES_MAX {
                let _ = index.flush().await;
            }
            assert_eq!(index.index().unwritten_bytes(), 0);
            let (name, bad) = (format!("i/{:020}.idx", 0), (4096, 8192));
            disk.spoil_writes(&name, bad, DiskErrorKind::Io);
            disk.spoil(&name, bad, DiskErrorKind::Io);
        }
        for key in queues {
            let mut out = Vec::new();
            let mut found = 0;
            while found < 100 {
                found += index
                    .lookup(key, QueueOffset(found as u64), 100, &mut out)
                    .await
                    .unwrap();
            }
            assert!(out.into_iter().eq((0..100).map(entry)));
        }
    });
}

#[test]
fn a_page_file_that_can_not_be_made_is_passed_over() {
    let disk = SimDisk::new(8);
    disk.block_on(async {
        let index = fresh(&disk).await;
        append(&index, 0..5000);
        for _ in 0..PLACE_TRIES_MAX {
            disk.fail_after(SimOp::Create, 0, DiskErrorKind::Io);
            assert!(index.flush().await.is_err());
        }
        disk.spoil_writes(
            &format!("i/{:020}.idx", 0),
            (0, u64::MAX),
            DiskErrorKind::Io,
        );
        index.flush().await.unwrap();
        check(&index, 0, 5000).await;
        // Want of room says nothing of a place.
        append(&index, 5000..9000);
        for _ in 0..2 * PLACE_TRIES_MAX {
            disk.fail_after(SimOp::Write, 0, DiskErrorKind::NoSpace);
            assert!(index.flush().await.is_err());
        }
        index.flush().await.unwrap();
        let second = disk.written_blocks(&format!("i/{PAGE_FILE_BYTES_MIN:020}.idx"));
        let in_order = (0..).step_by(4096).take(second.len());
        assert!(second.into_iter().eq(in_order), "no place is left out");
        check(&index, 0, 9000).await;
    });
}

#[test]
fn a_failed_write_keeps_the_pages_and_a_flipped_bit_is_named() {
    let disk = SimDisk::new(6);
    disk.block_on(async {
        let index = fresh(&disk).await;
        for i in 0..5000 {
            index
                .index_mut()
                .append(KEY, QueueOffset(i), entry(i))
                .unwrap();
        }
        for op in [SimOp::Write, SimOp::Sync] {
            disk.fail_after(op, 0, DiskErrorKind::Io);
            assert!(index.flush().await.is_err(), "{op:?}");
            disk.clear_faults();
            check(&index, 0, 5000).await;
        }
        index.flush().await.unwrap();
        check(&index, 0, 5000).await;
        let name = format!("i/{:020}.idx", 0);
        disk.flip_bit(&name, 4096 * 3 + 70, 1);
        let mut out = Vec::new();
        let at = QueueOffset(NARROW_ENTRIES_MAX as u64 * 3);
        let saved = index.snapshot().await.bytes;
        let open = PagedIndex::open(disk.clone(), "i", options(), Some(&saved));
        let index = open.await.unwrap();
        match index.lookup(KEY, at, 1, &mut out).await {
            Err(PageFileError::Damaged { file, position, .. }) => {
                assert_eq!((file, position), (name, 4096 * 3));
            }
            other => panic!("{other:?}"),
        }
    });
}

/// The index as it was, but with so much written that the next page goes to byte `end`.
fn moved_to(mut snapshot: PagedSnapshot, end: u64) -> Vec<u8> {
    snapshot.bytes[..8].copy_from_slice(&end.to_le_bytes());
    snapshot.bytes
}

async fn reopened(disk: &SimDisk, bytes: &[u8]) -> PagedIndex<SimDisk> {
    let opened = PagedIndex::open(disk.clone(), "i", options(), Some(bytes)).await;
    opened.unwrap()
}

/// A checkpoint, and the start after it.
async fn restarted(disk: &SimDisk, index: PagedIndex<SimDisk>) -> PagedIndex<SimDisk> {
    let saved = index.snapshot().await;
    let durable = index.checkpoint_durable(&saved.unneeded_files).await;
    durable.unwrap();
    reopened(disk, &saved.bytes).await
}

async fn files(disk: &SimDisk) -> Vec<u64> {
    let listed = disk.list("i").await.unwrap().into_iter();
    let starts = listed.map(|file| file.name.strip_suffix(".idx").unwrap().parse().unwrap());
    let mut starts: Vec<u64> = starts.collect();
    starts.sort_unstable();
    starts
}

#[test]
fn places_go_round() {
    const STEP: u64 = 20_000;
    let disk = SimDisk::new(7);
    disk.block_on(async {
        let (mut from, mut to) = (0, 0);
        let mut index = fresh(&disk).await;
        for _ in 0..2 {
            let bytes = moved_to(index.snapshot().await, (1 << 42) - 8192);
            index = reopened(&disk, &bytes).await;
            // Old pages go and new ones come, on both sides of the last place.
            for round in 0..6 {
                fill(&index, to, to + STEP).await;
                index.flush().await.unwrap();
                to += STEP;
                check(&index, from, to).await;
                index = restarted(&disk, index).await;
                check(&index, from, to).await;
                if round % 2 == 1 {
                    from = to - STEP;
                    index.index_mut().set_min(KEY, QueueOffset(from));
                    index = restarted(&disk, index).await;
                    check(&index, from, to).await;
                }
            }
            let files = files(&disk).await;
            let behind = PAGE_FILE_BYTES_MIN * 8;
            assert!(files.iter().all(|start| *start < behind), "{files:?}");
            assert!(files.len() <= 3, "{files:?}");
        }
    });
}

/// The files at the first places are in use, or wait for a checkpoint to be removed.
#[test]
fn places_in_use_are_passed_over() {
    let disk = SimDisk::new(8);
    disk.block_on(async {
        let index = fresh(&disk).await;
        fill(&index, 0, 60_000).await;
        index.flush().await.unwrap();
        let first = files(&disk).await;
        assert!(first.len() > 2, "{first:?}");
        let saved = index.snapshot().await;
        let names_all = saved.bytes.clone();
        let index = reopened(&disk, &moved_to(saved, (1 << 42) - 8192)).await;
        // The first of them is not in use any more, but the last checkpoint names it.
        index.index_mut().set_min(KEY, QueueOffset(30_000));
        let failed = index.snapshot().await;
        assert!(failed.unneeded_files.contains(&0));
        fill(&index, 60_000, 100_000).await;
        index.flush().await.unwrap();
        check(&index, 30_000, 100_000).await;
        let next = first.last().unwrap() + PAGE_FILE_BYTES_MIN;
        assert!(files(&disk).await.contains(&next));
        let before = reopened(&disk, &names_all).await;
        check(&before, 0, 60_000).await;
    });
}

/// What was to go with a checkpoint that failed, or could not be removed, goes with the next one;
/// what was removed does not go again when its place is used.
#[test]
fn files_that_stayed_go_with_the_next_checkpoint() {
    let disk = SimDisk::new(11);
    disk.block_on(async {
        let index = fresh(&disk).await;
        fill(&index, 0, 60_000).await;
        index.flush().await.unwrap();
        let all = files(&disk).await;
        assert!(all.len() > 2, "{all:?}");
        index.index_mut().set_min(KEY, QueueOffset(59_000));
        let failed = index.snapshot().await;
        let unneeded = failed.unneeded_files.len();
        assert!(unneeded > 1);
        index.checkpoint_failed(&failed.unneeded_files);
        let next = index.snapshot().await;
        assert_eq!(next.unneeded_files, failed.unneeded_files);
        disk.fail_after(SimOp::Remove, 1, DiskErrorKind::Io);
        let removed = index.checkpoint_durable(&next.unneeded_files).await;
        assert!(removed.is_err());
        disk.clear_faults();
        let last = index.snapshot().await;
        assert_eq!(last.unneeded_files, next.unneeded_files[1..]);
        index
            .checkpoint_durable(&last.unneeded_files)
            .await
            .unwrap();
        assert_eq!(files(&disk).await.len(), all.len() - unneeded);
        check(&index, 59_000, 60_000).await;
    });
}

#[test]
fn the_file_begun_next_is_not_taken_for_an_old_one() {
    let disk = SimDisk::new(9);
    disk.block_on(async {
        let index = fresh(&disk).await;
        let saved = index.snapshot().await;
        let index = reopened(&disk, &moved_to(saved, PAGE_FILE_BYTES_MIN - 4096)).await;
        for i in 0..5000 {
            index
                .index_mut()
                .append(KEY, QueueOffset(i), entry(i))
                .unwrap();
        }
        disk.fail_after(SimOp::Sync, 0, DiskErrorKind::Io);
        assert!(index.flush().await.is_err());
        disk.clear_faults();
        // A checkpoint looks for files without a page in use.
        let saved = index.snapshot().await;
        assert_eq!(saved.unneeded_files, []);
        index.flush().await.unwrap();
        check(&index, 0, 5000).await;
        assert_eq!(files(&disk).await, [PAGE_FILE_BYTES_MIN]);
        let index = restarted(&disk, index).await;
        check(&index, 0, 5000).await;
    });
}

#[test]
fn a_page_that_is_nowhere_is_an_error() {
    let disk = SimDisk::new(10);
    disk.block_on(async {
        let index = fresh(&disk).await;
        for i in 0..500 {
            let appended = index.index_mut().append(KEY, QueueOffset(i), entry(i));
            appended.unwrap();
        }
        index.index_mut().unwritten.clear();
        let found = index.lookup(KEY, QueueOffset(3), 9, &mut Vec::new()).await;
        assert!(matches!(found, Err(PageFileError::Nowhere(_))), "{found:?}");
        let found = index.search_by_position(KEY, FilePosition(1200)).await;
        assert!(matches!(found, Err(PageFileError::Nowhere(_))), "{found:?}");
        // Nor is it left out of a checkpoint unseen.
        let saved = index.snapshot().await.bytes;
        let opened = PagedIndex::open(disk.clone(), "i", options(), Some(&saved)).await;
        assert!(opened.is_err());
    });
}
