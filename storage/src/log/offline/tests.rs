use bytes::BytesMut;

use super::*;
use crate::disk::{DiskErrorKind, DiskFile};
use crate::key_index::key_hash;
use crate::shard_store::tests::{
    SEGMENT, SharedTail, append_patiently, bodies, limits, options, record,
};
use crate::shard_store::{FlushMode, ShardStore};
use crate::sim_disk::{SimDisk, SimOp};
use crate::units::{QueueKey, QueueOffset};

const FIRST: &str = "shard-0/00000000000000000000.log";
const SECOND: &str = "shard-0/00000000000008388608.log";

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

/// A store at rest with `count` records of `bytes` each, each committed by itself.
fn made(seed: u64, count: u8, bytes: usize, mode: FlushMode) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(mode));
        let (store, _) = opened.await.unwrap();
        for n in 0..count {
            append_patiently(
                &disk,
                &store,
                &record(key(), &vec![n; bytes], &[key_hash(key().topic, b"k")]),
            )
            .await;
            store.until_committed(store.staged()).await.unwrap();
        }
        store.shutdown().await.unwrap();
    });
    disk.kill();
    disk
}

fn look(disk: &SimDisk) -> (Survey, Vec<u64>) {
    let mut offsets = Vec::new();
    let walk = async {
        survey(disk, ShardId(0), &mut |entry| {
            offsets.push(entry.queue_offset.0);
        })
        .await
    };
    let found = disk.block_on(walk).unwrap();
    (found, offsets)
}

/// First bytes of what a queue has, by offset, and the damage the start reports.
fn read_all(disk: &SimDisk) -> (Vec<u8>, Vec<String>) {
    read_from(disk, QueueOffset(0))
}

fn read_from(disk: &SimDisk, from: QueueOffset) -> (Vec<u8>, Vec<String>) {
    disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        let (store, report) = opened.await.unwrap();
        let mut out = BytesMut::new();
        let read = store.read(key(), from, limits(999), &|_| true, &mut out);
        read.await.unwrap();
        append_patiently(disk, &store, &record(key(), b"\xFFon", &[])).await;
        let firsts = bodies(&out).iter().map(|body| body[0]).collect();
        store.shutdown().await.unwrap();
        (firsts, report.damage)
    })
}

fn mend(disk: &SimDisk) -> Repaired {
    disk.block_on(repair(disk, ShardId(0), false)).unwrap()
}

#[test]
fn a_sound_log_is_walked_to_its_end() {
    let disk = made(1, 20, 700_000, FlushMode::Sync);
    let (found, offsets) = look(&disk);
    assert_eq!((found.records, found.fillers), (20, 0));
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
    assert!(
        found.damages.is_empty() && found.torn.is_none(),
        "{found:?}"
    );
    assert!(found.end > FilePosition(SEGMENT));
    let writes = disk.count(SimOp::Write);
    assert!(mend(&disk).before.damages.is_empty());
    assert_eq!(disk.count(SimOp::Write), writes, "nothing to do");
}

#[test]
fn damage_is_found_with_file_and_position_and_the_rest_is_read() {
    let disk = made(2, 20, 20_000, FlushMode::Sync);
    disk.flip_bit(FIRST, 5 * 20_480 + 500, 1);
    let (found, offsets) = look(&disk);
    let [damage] = found.damages.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(damage.file, "00000000000000000000.log");
    assert!(damage.position.0.abs_diff(5 * 20_480) < 4096, "{damage:?}");
    assert_eq!((damage.runs_lost, found.records), (Some(1), 19));
    assert_eq!(offsets.len(), 19);
}

/// A run whose checksum is right over a record whose own check is not: a faulty writer's.
#[test]
fn a_record_that_does_not_fit_its_check_is_counted() {
    let disk = made(9, 3, 20_000, FlushMode::Sync);
    disk.block_on(async {
        let (segments, store_id) = open(&disk, ShardId(0)).await.unwrap();
        let mut scan = Walk::new(&segments, store_id).scan;
        let mut device = DeviceScan::new(&segments);
        let run = device.next(&mut scan).await.unwrap().unwrap();
        let (header, mut payload) = (run.header, run.payload.to_vec());
        // Behind the head and the hash of one key.
        payload[28] ^= 1;
        let file = segments.open(header.position).await.unwrap().unwrap();
        let bytes = header.end().block_up().since(header.position.block_down());
        let bytes = usize::try_from(bytes).unwrap();
        let mut block = vec![0; bytes];
        block[..64].copy_from_slice(&header.encode(store_id, &[&payload]));
        block[64..64 + payload.len()].copy_from_slice(&payload);
        let offset = file.offset_of(header.position);
        file.file.write_at(block, offset).await.unwrap();
        file.file.sync().await.unwrap();
    });
    let (found, offsets) = look(&disk);
    assert!(found.damages.is_empty(), "{found:?}");
    assert_eq!((found.records, offsets.len(), found.unfit), (3, 3, 1));
    assert_eq!(found.first_unfit, Some(FilePosition(64 + 32)));
    assert_eq!(read_all(&disk).0, [1, 2], "a reader passes over it");
}

#[test]
fn a_dry_repair_says_what_it_would_do_and_does_nothing() {
    let disk = made(3, 20, 20_000, FlushMode::Sync);
    disk.flip_bit(FIRST, 5 * 20_480 + 500, 1);
    let writes = disk.count(SimOp::Write);
    let told = disk.block_on(repair(&disk, ShardId(0), true)).unwrap();
    assert_eq!(told.before.damages.len(), 1);
    assert_eq!(disk.count(SimOp::Write), writes);
    assert_eq!(look(&disk).0.damages.len(), 1);
}

/// Damages a store, checks that it would not open without its checkpoint, mends it, and reads what
/// is left: all but `lost`.
fn check_mended<T>(disk: &SimDisk, damage: impl Fn() -> T, count: u8, lost: &[u8]) {
    damage();
    disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
    let done = mend(disk);
    assert!(!done.before.damages.is_empty());
    assert!(look(disk).0.damages.is_empty());
    let (firsts, told) = read_all(disk);
    let left: Vec<u8> = (0..count).filter(|n| !lost.contains(n)).collect();
    assert_eq!(firsts, left);
    assert_eq!(told.len(), usize::from(!lost.is_empty()), "{told:?}");
    assert!(mend(disk).before.damages.is_empty(), "mended for good");
    // Everything that was appended since is there, too.
    let (firsts, _) = read_all(disk);
    assert_eq!(firsts.len(), left.len() + 1);
}

#[test]
fn a_mended_log_opens_with_what_was_before_and_after() {
    let disk = made(4, 20, 20_000, FlushMode::Sync);
    check_mended(
        &disk,
        || disk.flip_bit(FIRST, 5 * 20_480 + 500, 1),
        20,
        &[5],
    );
    // A damaged header hides where its run ends.
    let disk = made(5, 20, 20_000, FlushMode::Sync);
    check_mended(&disk, || disk.flip_bit(FIRST, 7 * 20_480, 1), 20, &[7]);
    // The first run of a segment, behind a place at the end of the one before that was too small.
    let disk = made(6, 30, 700_000, FlushMode::Sync);
    check_mended(&disk, || disk.flip_bit(SECOND, 500, 1), 30, &[11]);
    // Several runs in a row, the last of a segment among them.
    let disk = made(6, 30, 700_000, FlushMode::Sync);
    let hit = || {
        for n in 9..12u64 {
            disk.flip_bit(FIRST, n * 704_512 + 9000, 1);
        }
        disk.flip_bit(SECOND, 500, 1);
    };
    check_mended(&disk, hit, 30, &[9, 10, 11]);
}

/// The segment behind is not taken for the log's beginning.
#[test]
fn damage_at_the_very_beginning_hides_one_run_and_not_the_first_segment() {
    let disk = made(6, 30, 700_000, FlushMode::Sync);
    assert!(look(&disk).0.end > FilePosition(SEGMENT));
    disk.flip_bit(FIRST, 500, 1);
    let (found, offsets) = look(&disk);
    assert_eq!(found.damages.len(), 1, "{found:?}");
    assert_eq!(found.damages[0].position, FilePosition(0));
    assert_eq!(offsets, (1..30).collect::<Vec<_>>());
    disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
    let tail = SharedTail::new(4 << 20);
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
    let refused = disk.block_on(opened).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("gantry admin log repair")));
    assert_eq!(mend(&disk).before.damages.len(), 1);
    assert!(look(&disk).0.damages.is_empty());
    // Nothing knows of the record before the queue's first one.
    let (firsts, told) = read_from(&disk, QueueOffset(1));
    assert_eq!(firsts, (1..30).collect::<Vec<_>>());
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_start_refuses_damage_that_it_would_have_to_replay_and_names_the_tool() {
    let disk = made(7, 20, 20_000, FlushMode::Async);
    disk.flip_bit(FIRST, 5 * 20_480 + 500, 1);
    disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
    let tail = SharedTail::new(4 << 20);
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
    let refused = disk.block_on(opened).err().unwrap().to_string();
    assert!(refused.contains("00000000000000000000.log"), "{refused}");
    assert!(refused.contains("gantry admin log repair"), "{refused}");
}

/// Damage at the log's very end, which only the checkpoint can prove.
#[test]
fn a_repair_drops_a_checkpoint_behind_the_end() {
    let disk = made(10, 20, 20_000, FlushMode::Sync);
    disk.flip_bit(FIRST, 19 * 20_480 + 500, 1);
    disk.flip_bit("shard-0/checkpoint", 70, 1);
    let (found, _) = look(&disk);
    let known = found.unreached.expect("the checkpoint knows of more");
    assert!(found.damages.is_empty() && found.end < known, "{found:?}");
    let writes = disk.count(SimOp::Write);
    let told = disk.block_on(repair(&disk, ShardId(0), true)).unwrap();
    assert!(told.drops_checkpoint);
    assert_eq!(disk.count(SimOp::Write), writes, "a dry one does nothing");
    let epoch = epoch(&disk);
    assert!(mend(&disk).drops_checkpoint);
    assert_eq!(self::epoch(&disk), epoch, "no epoch is given away twice");
    assert!(!mend(&disk).drops_checkpoint);
    assert_eq!(look(&disk).0.unreached, None);
    let (firsts, told) = read_all(&disk);
    assert_eq!(firsts, (0..19).collect::<Vec<_>>());
    assert!(told.is_empty(), "{told:?}");
}

fn epoch(disk: &SimDisk) -> u64 {
    disk.block_on(async {
        let (_, store_id) = open(disk, ShardId(0)).await.unwrap();
        let read = checkpoint::read(disk, "shard-0", store_id).await;
        read.unwrap().unwrap().header.epoch
    })
}

/// What the checkpoint proves is bridged, not cut off: sound runs lie behind it.
#[test]
fn a_checkpoint_proves_damage_before_it() {
    let disk = SimDisk::new(11);
    disk.block_on(async {
        let tail = SharedTail::new(1 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
        let (store, _) = opened.await.unwrap();
        disk.set_latency_us(1, 2);
        // Three groups, written before the first sync: no run says that another was synced.
        for n in 0..3u8 {
            append_patiently(&disk, &store, &record(key(), &vec![n; 100_000], &[])).await;
            disk.sleep_ms(20).await;
        }
        store.checkpoint().await.unwrap();
    });
    disk.kill();
    disk.flip_bit(FIRST, 150_000, 1);
    let (found, offsets) = look(&disk);
    assert_eq!(found.damages.len(), 1, "{found:?}");
    assert_eq!((found.torn, found.unreached), (None, None));
    assert_eq!(offsets, [0, 2]);
    mend(&disk);
    assert!(look(&disk).0.damages.is_empty());
}

#[test]
fn a_torn_end_is_no_damage() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.block_on(async {
            let tail = SharedTail::new(1 << 20);
            let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
            let (store, _) = opened.await.unwrap();
            for n in 0..60u8 {
                let body = vec![n; 30_000];
                append_patiently(&disk, &store, &record(key(), &body, &[])).await;
                disk.sleep_us(disk.random().below(30_000)).await;
            }
        });
        disk.cut_power();
        let (found, _) = look(&disk);
        assert!(found.damages.is_empty(), "seed {seed}: {found:?}");
    }
}

#[test]
fn damage_is_proved_by_a_run_far_behind_it() {
    let disk = SimDisk::new(8);
    disk.block_on(async {
        let tail = SharedTail::new(1 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
        let (store, _) = opened.await.unwrap();
        // More than is searched block by block, all sealed before the first sync.
        disk.set_latency_us(1, 2);
        for n in 0..20u8 {
            append_patiently(&disk, &store, &record(key(), &vec![n; 300_000], &[])).await;
        }
        disk.sleep_ms(2000).await;
        append_patiently(&disk, &store, &record(key(), b"proof", &[])).await;
        disk.sleep_ms(2000).await;
    });
    disk.kill();
    disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
    disk.flip_bit(FIRST, 9000, 1);
    let tail = SharedTail::new(4 << 20);
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Async));
    let refused = disk.block_on(opened).err().map(|error| error.to_string());
    let why = refused.expect("what lies behind proves the damage");
    assert!(why.contains("damaged at position"), "{why}");
    assert_eq!(look(&disk).0.damages.len(), 1);
}

/// Where each record of a store begins in the first segment's file.
fn places(disk: &SimDisk) -> Vec<u64> {
    let mut places = Vec::new();
    let walk = async { survey(disk, ShardId(0), &mut |entry| places.push(entry.position.0)).await };
    disk.block_on(walk).unwrap();
    places
}

/// What a read ahead can't get does no harm to the runs before it: one sector takes one run.
#[test]
fn an_unreadable_sector_takes_one_run() {
    for kind in [DiskErrorKind::Io, DiskErrorKind::Lost] {
        let disk = made(21, 60, 20_000, FlushMode::Sync);
        let at = places(&disk)[40] + 10_000;
        disk.spoil(FIRST, (at, at + 1), kind);
        let (found, offsets) = look(&disk);
        assert_eq!(found.damages.len(), 1);
        assert_eq!(found.damages[0].runs_lost, Some(1));
        let others: Vec<u64> = (0..60).filter(|offset| *offset != 40).collect();
        assert_eq!(offsets, others);
        disk.block_on(repair(&disk, ShardId(0), false)).unwrap();
        let others: Vec<u8> = (0..60).filter(|n| *n != 40).collect();
        assert_eq!(read_all(&disk).0, others);
    }
}

/// What a repair puts at a segment's start has no time of its own: the segment before is as old as
/// the next records say, not from 1970.
#[test]
fn a_repaired_segment_does_not_age_the_one_before_it() {
    let disk = made(23, 40, 700_000, FlushMode::Sync);
    let third = 2 * SEGMENT;
    let at = places(&disk).into_iter().find(|at| *at > third).unwrap();
    assert!(at < third + 4096, "{at}");
    let name = format!(
        "shard-0/{}",
        crate::format::segment_name(FilePosition(third))
    );
    disk.flip_bit(&name, at + 300 - third, 1).unwrap();
    assert_eq!(mend(&disk).before.damages.len(), 1);
    let ages = disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        let (store, _) = opened.await.unwrap();
        store.oldest_segments(3).await
    });
    let newest: Vec<_> = ages
        .iter()
        .map(|age| age.newest.map(|time| time.0 > 0))
        .collect();
    assert_eq!(newest, [Some(true), None, Some(true)]);
}

/// A sector that no record needs: what the device has lost there is no matter, and what it can't
/// read for another reason is told, and cleared by a repair.
#[test]
fn an_unreadable_sector_behind_the_end_can_be_cleared() {
    for (kind, starts) in [(DiskErrorKind::Lost, true), (DiskErrorKind::Io, false)] {
        let disk = made(22, 60, 20_000, FlushMode::Sync);
        let behind = look(&disk).0.end.plus(100 << 10).block_down();
        let all: Vec<u8> = (0..60).collect();
        disk.spoil(FIRST, (behind.0, behind.0 + 512), kind);
        let open = async {
            let tail = SharedTail::new(4 << 20);
            let options = options(FlushMode::Sync);
            ShardStore::open(disk.clone(), tail.lend(), options)
                .await
                .map(drop)
        };
        assert_eq!(disk.block_on(open).is_ok(), starts);
        disk.kill();
        disk.spoil(FIRST, (behind.0, behind.0 + 512), kind);
        assert_eq!(look(&disk).0.unreadable, [behind]);
        let done = disk.block_on(repair(&disk, ShardId(0), false)).unwrap();
        assert!(!done.is_nothing() && !done.drops_checkpoint);
        assert_eq!(look(&disk).0.unreadable, []);
        assert_eq!(read_all(&disk), (all, Vec::new()));
    }
}

/// A store whose checkpoint lies between two damaged runs: a filler takes its position's place.
fn damaged_around_its_checkpoint() -> SimDisk {
    let disk = SimDisk::new(24);
    disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        let (store, _) = opened.await.unwrap();
        for n in 0..12u8 {
            append_patiently(&disk, &store, &record(key(), &vec![n; 20_000], &[])).await;
            store.until_committed(store.staged()).await.unwrap();
            if n == 6 {
                store.checkpoint().await.unwrap();
            }
        }
    });
    disk.kill();
    let places = places(&disk);
    for n in [6, 7] {
        disk.flip_bit(FIRST, places[n] + 500, 1).unwrap();
    }
    disk
}

/// What a start gives, if it does not refuse.
fn start(disk: &SimDisk) -> Option<Vec<u8>> {
    let firsts = disk.block_on(async {
        let tail = SharedTail::new(4 << 20);
        let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
        let (store, _) = opened.await.ok()?;
        let mut out = BytesMut::new();
        let read = store.read(key(), QueueOffset(0), limits(999), &|_| true, &mut out);
        read.await.unwrap();
        Some(bodies(&out).iter().map(|body| body[0]).collect())
    });
    disk.kill();
    firsts
}

fn all_but_two() -> Vec<u8> {
    (0..12).filter(|n| ![6, 7].contains(n)).collect()
}

/// How many polls a repair has done when it begins to write, and when it looks at the log again.
fn writing(make: impl Fn() -> SimDisk) -> std::ops::Range<u64> {
    let polls = |is_dry| {
        let disk = make();
        let begun = disk.polls();
        disk.block_on(repair(&disk, ShardId(0), is_dry)).unwrap();
        disk.polls() - begun
    };
    let (looking, all) = (polls(true), polls(false));
    looking..all - looking + 4
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Kill,
    Power,
    /// And a start before the next repair.
    KillAndStart,
}

const DEATHS: [Death; 3] = [Death::Kill, Death::Power, Death::KillAndStart];

/// What lies before the checkpoint is not read by a start that has its parts: fillers alone would
/// leave a log that can't be gone on with, and nothing to mend.
#[test]
fn a_repair_that_died_is_finished_by_the_next() {
    let writing = writing(damaged_around_its_checkpoint);
    assert!(writing.end - writing.start >= 10, "{writing:?}");
    for (polls, death) in writing.zip(DEATHS.into_iter().cycle()) {
        let disk = damaged_around_its_checkpoint();
        disk.die_after(polls);
        disk.run(repair(&disk, ShardId(0), false));
        match death {
            Death::Power => disk.cut_power(),
            _ => disk.kill(),
        }
        if matches!(death, Death::KillAndStart)
            && let Some(firsts) = start(&disk)
        {
            assert_eq!(firsts, all_but_two(), "{polls}");
        }
        mend(&disk);
        assert!(mend(&disk).is_nothing(), "{polls} {death:?}");
        assert_eq!(start(&disk), Some(all_but_two()), "{polls} {death:?}");
    }
}

/// The checkpoint must go on knowing how far the log was synced until the last run is given up.
#[test]
fn a_repair_of_the_logs_end_that_died_is_finished_by_the_next() {
    let damaged = || {
        let disk = made(25, 8, 20_000, FlushMode::Sync);
        disk.flip_bit(FIRST, places(&disk)[7] + 500, 1).unwrap();
        disk
    };
    for (polls, death) in writing(damaged).zip(DEATHS.into_iter().cycle()) {
        let disk = damaged();
        disk.die_after(polls);
        disk.run(repair(&disk, ShardId(0), false));
        match death {
            Death::Power => disk.cut_power(),
            _ => disk.kill(),
        }
        mend(&disk);
        assert!(mend(&disk).is_nothing(), "{polls} {death:?}");
        assert_eq!(start(&disk), Some((0..7).collect()), "{polls} {death:?}");
    }
}

#[test]
fn without_a_free_block_a_log_can_be_mended() {
    let disk = damaged_around_its_checkpoint();
    let free = disk.block_on(disk.free_bytes()).unwrap();
    disk.set_capacity(u64::MAX - free);
    assert_eq!(disk.block_on(disk.free_bytes()), Ok(0));
    assert!(mend(&disk).drops_checkpoint);
    assert_eq!(start(&disk), Some(all_but_two()));
}
