//! What the simulation found, each with a test of its own.

use bytes::BytesMut;

use super::tests::{SharedTail, bodies, limits, options, record};
use super::*;
use crate::disk::{Disk, DiskErrorKind, DiskFile, OpenMode};
use crate::error::ReadError;
use crate::format::record_peek;
use crate::key_index::key_hash;
use crate::sim_disk::{FaultRates, RATE_SCALE, SimDisk, SimOp};
use crate::units::{FilePosition, PhysicalOffset, QueueOffset};

type Store = Rc<ShardStore<SimDisk>>;

const LOG: &str = "shard-0/00000000000000000000.log";

async fn open(disk: &SimDisk, tail: &SharedTail, mode: FlushMode) -> Store {
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(mode)).await;
    opened.unwrap().0
}

/// Five records of 9000 bytes that only the device has, each in a group of its own.
fn five_cold(disk: &SimDisk, key: QueueKey) -> (Store, Vec<PhysicalOffset>) {
    let tail = SharedTail::new(1 << 20);
    let places = disk.block_on(async {
        let store = open(disk, &tail, FlushMode::Sync).await;
        let mut places = Vec::new();
        for number in 0..5 {
            let appended = store
                .append(&record(key, &[number; 9000], &[key_hash(key.topic, b"k")]))
                .unwrap();
            store.seal();
            store.until_committed(appended.end).await.unwrap();
            places.push(appended.physical);
        }
        store.shutdown().await.unwrap();
        places
    });
    disk.kill();
    let tail = SharedTail::new(1 << 20);
    (disk.block_on(open(disk, &tail, FlushMode::Sync)), places)
}

async fn read_from(store: &Store, key: QueueKey, from: u64) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut out = BytesMut::new();
    let from = QueueOffset(from);
    store
        .read(key, from, limits(100), &|_| true, &mut out)
        .await?;
    Ok(bodies(&out))
}

/// Whichever bit of a cold record or its check flips, the record is reported and passed over; the
/// flipped bytes are never given, neither at once nor when the chunk is in memory already.
#[test]
fn a_record_with_a_flipped_bit_anywhere_is_passed_over() {
    let disk = SimDisk::new(3);
    let key = QueueKey::new(1, 0);
    let (store, places) = five_cold(&disk, key);
    disk.kill();
    drop(store);
    let (start, end) = (places[2].0 - 4, places[2].0 + 9000);
    for at in (start..start + 200).chain((start + 200..end).step_by(700)) {
        let flip = disk.flip_bit(LOG, at, 5).unwrap();
        let fresh = SharedTail::new(1 << 20);
        let store = disk.block_on(open(&disk, &fresh, FlushMode::Sync));
        disk.block_on(async {
            for _ in 0..2 {
                let found = read_from(&store, key, 0).await.unwrap();
                let firsts: Vec<u8> = found.iter().map(|body| body[0]).collect();
                assert_eq!(firsts, [0, 1, 3, 4], "byte {at}");
                assert_eq!(store.damage_met(), [FilePosition(places[2].0)]);
                assert!(store.record_at(places[2]).await.is_err(), "byte {at}");
                assert!(store.lone_record_at(places[2]).await.is_err(), "{at}");
                let alone = store.lone_record_at(places[1]).await.unwrap();
                assert_eq!(alone, store.record_at(places[1]).await.unwrap());
                let mut out = BytesMut::new();
                let from = QueueOffset(2);
                let hot = store.read_hot(key, from, limits(1), &|_| true, &mut out);
                assert!(hot.is_none() && out.is_empty(), "byte {at}");
            }
        });
        disk.kill();
        assert!(disk.flip_back(&flip));
    }
}

/// A bit that was wrong only in one read is read again, at once and by the next reader, not kept.
#[test]
fn a_wrong_read_passes() {
    let mut errors = 0;
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let (store, places) = five_cold(&disk, QueueKey::new(1, 0));
        disk.set_rates(FaultRates {
            read_flip: RATE_SCALE,
            ..FaultRates::default()
        });
        let read = disk.block_on(store.record_at(places[0]));
        errors += u32::from(read.is_err());
        disk.clear_faults();
        let record = disk.block_on(store.record_at(places[0])).unwrap();
        assert_eq!(record_peek(&record).unwrap().1, places[0].0);
    }
    // Only where two reads in a row were wrong in this record: one of five and three of four.
    assert!((30..100).contains(&errors), "{errors} of 400");
}

/// A long stretch of damage: one read ends while its client still waits, says where to go on, and
/// does not read the chunks around each record again.
#[test]
fn a_reader_gets_past_a_long_damage_step_by_step() {
    const DAMAGED: u64 = 100;
    let disk = SimDisk::new(5);
    let key = QueueKey::new(1, 0);
    let tail = SharedTail::new(2 << 20);
    let places: Vec<u64> = disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await;
        let body = [1; 2000];
        let appended = (0..DAMAGED + 5).map(|_| store.append(&record(key, &body, &[])));
        let places = appended.map(|one| one.unwrap().physical.0).collect();
        store.until_committed(store.seal()).await.unwrap();
        store.shutdown().await.unwrap();
        places
    });
    disk.kill();
    let store = disk.block_on(open(&disk, &SharedTail::new(2 << 20), FlushMode::Sync));
    for place in places.iter().take(usize::try_from(DAMAGED).unwrap()) {
        disk.flip_bit(LOG, place + 500, 3).unwrap();
    }
    disk.block_on(async {
        let (mut next, mut reads) = (0, Vec::new());
        while next < DAMAGED {
            let (mut out, before) = (BytesMut::new(), disk.count(SimOp::Read));
            let from = QueueOffset(next);
            let read = store.read(key, from, limits(100), &|_| true, &mut out);
            let read = read.await.unwrap();
            next = read.next_offset.0;
            reads.push((read.found, next, disk.count(SimOp::Read) - before));
        }
        let given: Vec<_> = reads
            .iter()
            .map(|(found, next, _)| (*found, *next))
            .collect();
        assert_eq!(given, [(0, 32), (0, 64), (0, 96), (5, 105)]);
        // A read for each record, and their chunk and the index page once.
        let most = 36;
        assert!(
            reads.iter().all(|(_, _, count)| *count <= most),
            "{reads:?}"
        );
    });
}

/// A sector that the device can't read takes its own record and no neighbour. What the device says
/// it has lost is passed over at once, and its chunk is not asked for again with each neighbour.
#[test]
fn a_lost_sector_takes_only_its_own_record() {
    let disk = SimDisk::new(9);
    let key = QueueKey::new(1, 0);
    let (store, places) = five_cold(&disk, key);
    let at = places[2].0 + 5000;
    disk.spoil(LOG, (at, at + 1), DiskErrorKind::Lost);
    disk.block_on(async {
        let before = disk.count(SimOp::Read);
        for _ in 0..2 {
            let found = read_from(&store, key, 0).await.unwrap();
            let firsts: Vec<u8> = found.iter().map(|body| body[0]).collect();
            assert_eq!(firsts, [0, 1, 3, 4]);
        }
        assert_eq!(store.damage_met(), [FilePosition(places[2].0)]);
        let damaged = Err(ReadError::Damaged {
            file: LOG.to_owned(),
            position: FilePosition(places[2].0),
        });
        assert_eq!(store.record_at(places[2]).await, damaged);
        assert_eq!(store.lone_record_at(places[2]).await, damaged);
        let alone = store.lone_record_at(places[3]).await.unwrap();
        assert_eq!(store.record_at(places[3]).await.unwrap(), alone);
        // Each look reads five records alone; their chunk once, their index page once, and what
        // the four single records take.
        assert!(disk.count(SimOp::Read) - before <= 22);
    });
}

/// A bad sector can take the device seconds each time: who waits for a read of its chunk is told
/// how that ended, and does not ask again.
#[test]
fn those_who_wait_for_a_chunk_share_its_failure() {
    const READERS: u64 = 5;
    let disk = SimDisk::new(12);
    let (store, places) = five_cold(&disk, QueueKey::new(1, 0));
    disk.spoil(LOG, (places[2].0, places[2].0 + 1), DiskErrorKind::Io);
    disk.set_latency_us(1_000, 1_000);
    let failed = Rc::new(Cell::new(0));
    let before = disk.count(SimOp::Read);
    disk.block_on(async {
        for _ in 0..READERS {
            let (store, failed, at) = (Rc::clone(&store), Rc::clone(&failed), places[0].0);
            disk.spawn(async move {
                let stable = store.log.marks.stable().0;
                let (segments, mut out) = (&store.log.segments, BytesMut::new());
                let part = (FilePosition(at), 100);
                let read = store.cache.read(segments, stable, part, &mut out).await;
                failed.set(failed.get() + u64::from(read.is_err()));
            });
        }
        disk.sleep_ms(100).await;
    });
    assert_eq!(
        (failed.get(), disk.count(SimOp::Read) - before),
        (READERS, 1)
    );
}

/// A device that fails to read a record may do it again: its reader is told so and comes again. It
/// is given up when it goes on for long, and not before.
#[test]
fn a_record_that_stays_unreadable_is_given_up_in_the_end() {
    let disk = SimDisk::new(10);
    let key = QueueKey::new(1, 0);
    let (store, places) = five_cold(&disk, key);
    let at = places[2].0 + 100;
    disk.spoil(LOG, (at, at + 1), DiskErrorKind::Io);
    disk.block_on(async {
        assert_eq!(read_from(&store, key, 0).await.unwrap().len(), 2);
        assert_eq!(read_from(&store, key, 3).await.unwrap().len(), 2);
        let before_ms = disk.now_mono_us() / 1000;
        while disk.now_mono_us() / 1000 - before_ms < 55_000 {
            let read = read_from(&store, key, 2).await;
            assert!(matches!(read, Err(ReadError::Disk(_))), "{read:?}");
            disk.sleep_ms(3000).await;
        }
        assert!(store.damage_met().is_empty());
        // It comes back: nothing was lost, and the time begins anew.
        disk.clear_faults();
        assert_eq!(read_from(&store, key, 2).await.unwrap().len(), 3);
        disk.sleep_ms(21_000).await;
        disk.spoil(LOG, (at, at + 1), DiskErrorKind::Io);
        store.cache.forget(FilePosition(0), 1 << 20);
        let mut tries = 0;
        while read_from(&store, key, 2).await.is_err() {
            tries += 1;
            disk.sleep_ms(3000).await;
        }
        assert!((20..23).contains(&tries), "{tries}");
        assert_eq!(store.damage_met(), [FilePosition(places[2].0)]);
        assert_eq!(read_from(&store, key, 2).await.unwrap().len(), 2);
    });
}

/// A device that reads nothing at all for a while, or a process with too many files open, has lost
/// nothing.
#[test]
fn nothing_is_given_up_while_the_device_reads_nothing() {
    for kind in [DiskErrorKind::Io, DiskErrorKind::NoHandle] {
        let disk = SimDisk::new(11);
        let key = QueueKey::new(1, 0);
        let (store, places) = five_cold(&disk, key);
        let at = places[2].0 + 100;
        let range = if kind == DiskErrorKind::Io {
            (0, 1 << 20)
        } else {
            (at, at + 1)
        };
        disk.spoil(LOG, range, kind);
        disk.block_on(async {
            for _ in 0..60 {
                let read = read_from(&store, key, 2).await;
                assert!(matches!(read, Err(ReadError::Disk(_))), "{read:?}");
                disk.sleep_ms(3000).await;
            }
            disk.clear_faults();
            assert_eq!(read_from(&store, key, 2).await.unwrap().len(), 3);
            assert!(store.damage_met().is_empty());
        });
    }
}

/// A group of several writes: each of them is synced, not only the last.
#[test]
fn a_large_synced_record_survives_a_power_cut() {
    for seed in 0..12 {
        let disk = SimDisk::new(seed);
        let tail = SharedTail::new(16 << 20);
        let key = QueueKey::new(1, 0);
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Sync).await;
            let large = vec![7; 3 << 20];
            let end = store.append(&record(key, &large, &[])).unwrap().end;
            store.seal();
            store.until_committed(end).await.unwrap();
        });
        disk.cut_power();
        let tail = SharedTail::new(16 << 20);
        let store = disk.block_on(open(&disk, &tail, FlushMode::Sync));
        assert_eq!(store.bounds(key).max, QueueOffset(1), "seed {seed}");
    }
}

/// The first run after a restart is lost in a power cut, one behind it is not, and the checkpoint
/// is unusable: the gap up to the block where the restart went on is no proof of damage.
#[test]
fn the_gap_before_a_restart_is_not_taken_for_damage() {
    let mut gaps = 0;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let key = QueueKey::new(1, 0);
        let tail = SharedTail::new(1 << 20);
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Async).await;
            store.append(&record(key, &[1; 100], &[])).unwrap();
            store.shutdown().await.unwrap();
        });
        disk.kill();
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Async).await;
            for number in 2..6 {
                store.append(&record(key, &[number; 5000], &[])).unwrap();
                store.seal();
                disk.sleep_ms(20).await;
            }
        });
        disk.cut_power();
        let tail = SharedTail::new(1 << 20);
        disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
        let (store, _) = disk.block_on(opened).unwrap();
        gaps += u32::from(store.bounds(key).max < QueueOffset(5));
    }
    assert!(gaps > 5, "{gaps} of 60");
}

/// After a power cut the device has one run damaged, and the tail in the data folder another: each
/// is taken from where it is whole, and the device has them all afterwards.
#[test]
fn runs_are_taken_from_the_device_again_behind_those_of_the_tail() {
    for (bad_on_device, bad_in_tail) in [(0, 1), (0, 3), (1, 2), (2, 4), (3, 0)] {
        let disk = SimDisk::new(5);
        let key = QueueKey::new(1, 0);
        let tail = SharedTail::new(1 << 20);
        let mut places = Vec::new();
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Sync).await;
            for number in 0..5 {
                let body = [number; 9001];
                let appended = store.append(&record(key, &body, &[])).unwrap();
                store.seal();
                store.until_committed(appended.end).await.unwrap();
                places.push(appended.physical.0);
            }
        });
        disk.kill();
        disk.flip_bit(LOG, places[bad_on_device] + 300, 3).unwrap();
        tail.lose_page(places[bad_in_tail] + 4096);
        let all: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 9001]).collect();
        for tail in [tail, SharedTail::new(1 << 20)] {
            let store = disk.block_on(open(&disk, &tail, FlushMode::Sync));
            let found = disk.block_on(read_from(&store, key, 0)).unwrap();
            assert!(
                found == all,
                "{bad_on_device} {bad_in_tail}: {}",
                found.len()
            );
            drop(store);
            disk.kill();
            // The indexes of a start can't hide what the log has lost.
            disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
        }
    }
}

/// Of two un-synced runs the first is lost in a power cut, the second is not. After a new first run
/// it has the right place and number, but not the epoch.
#[test]
fn a_run_that_outlived_its_predecessor_is_not_taken() {
    let mut outlived = 0;
    for seed in 0..80 {
        let disk = SimDisk::new(seed);
        let key = QueueKey::new(1, 0);
        let tail = SharedTail::new(1 << 20);
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Async).await;
            for number in 1..3 {
                store.append(&record(key, &[number; 100], &[])).unwrap();
                store.seal();
                disk.sleep_ms(20).await;
            }
        });
        disk.cut_power();
        let tail = SharedTail::new(1 << 20);
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Async).await;
            if store.bounds(key).max == QueueOffset(0) {
                outlived += 1;
            }
            let end = store.append(&record(key, &[3; 100], &[])).unwrap().end;
            store.seal();
            store.until_committed(end).await.unwrap();
            let found = read_from(&store, key, 0).await.unwrap();
            assert_eq!(found.last().unwrap(), &[3; 100]);
        });
        disk.kill();
        let tail = SharedTail::new(1 << 20);
        let store = disk.block_on(open(&disk, &tail, FlushMode::Async));
        let found = disk.block_on(read_from(&store, key, 0)).unwrap();
        assert_eq!(found.last().unwrap(), &[3; 100], "seed {seed}");
    }
    assert!(outlived > 5, "{outlived} of 80");
}

/// `write_at_and_sync` promises its own bytes only: the simulated disk keeps it to that.
#[test]
fn a_synced_write_syncs_nothing_else() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.block_on(async {
            let file = disk.open("f", OpenMode::CreateLen(8192)).await.unwrap();
            disk.sync_dir("").await.unwrap();
            file.write_at(vec![1; 4096], 0).await.unwrap();
            file.write_at_and_sync(vec![2; 4096], 4096).await.unwrap();
        });
        disk.cut_power();
        let both = disk.block_on(async {
            let file = disk.open("f", OpenMode::Existing).await.unwrap();
            file.read_at(0, 8192).await.unwrap()
        });
        assert!(both[4096..].iter().all(|byte| *byte == 2));
        lost += u32::from(both[..4096].contains(&0));
    }
    assert!(lost > 5, "{lost} of 40");
}

/// Every other read has a wrong bit: a start fails, or finds the whole log; it never takes two
/// wrong reads in a row for the log's end.
#[test]
fn wrong_reads_in_a_row_do_not_cut_the_log_off() {
    let key = QueueKey::new(1, 0);
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..150 {
        let disk = SimDisk::new(seed);
        let tail = SharedTail::new(1 << 20);
        disk.block_on(async {
            let store = open(&disk, &tail, FlushMode::Sync).await;
            for number in 0..4 {
                let end = store.append(&record(key, &vec![number; 240_000], &[]));
                store.seal();
                store.until_committed(end.unwrap().end).await.unwrap();
            }
        });
        disk.kill();
        disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
        disk.set_rates(FaultRates {
            read_flip: RATE_SCALE / 2,
            ..FaultRates::default()
        });
        let tail = SharedTail::new(1 << 20);
        let start = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        match disk.block_on(start) {
            Ok((store, _)) => {
                assert_eq!(store.bounds(key).max, QueueOffset(4), "seed {seed}");
                opened += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(opened > 75, "{opened} opened, {refused} refused");
}
