//! The key index against a list, on the simulated disk.

use proptest::prelude::*;

use super::*;
use crate::disk::DiskErrorKind;
use crate::sim_disk::{SimDisk, SimOp};

const TOPIC: TopicId = TopicId(3);

fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// A record in the model: key, position, time.
type Record = (u64, u64, u64);

fn expected(model: &[Record], wanted: (u64, u64, u64, usize), first: u64) -> Vec<FilePosition> {
    let (key, begin, end, max) = wanted;
    let hits = model
        .iter()
        .rev()
        .filter(|record| record.0 == key && record.1 >= first);
    let hits = hits.filter(|record| (begin..=end).contains(&record.2));
    hits.take(max)
        .map(|record| FilePosition(record.1))
        .collect()
}

async fn ask(index: &KeyIndex<SimDisk>, wanted: (u64, u64, u64, usize)) -> Vec<FilePosition> {
    let key = key(wanted.0);
    index.query(query(&key, wanted)).await.unwrap()
}

fn query(key: &[u8], (_, begin, end, count_max): (u64, u64, u64, usize)) -> KeyQuery<'_> {
    KeyQuery {
        topic: TOPIC,
        key,
        begin: StoreTimestamp(begin),
        end: StoreTimestamp(end),
        count_max,
    }
}

fn add(index: &KeyIndex<SimDisk>, model: &[Record]) {
    for (number, position, time) in model {
        index.add(
            TOPIC,
            &key(*number),
            FilePosition(*position),
            StoreTimestamp(*time),
        );
    }
}

fn run(seed: u64, body: impl AsyncFn(SimDisk)) -> u64 {
    let disk = SimDisk::new(seed);
    disk.block_on(body(disk.clone()));
    disk.trace()
}

/// Adds what `keys` says, writing and restarting as told, and compares; gives the disk's trace.
fn agrees(seed: u64, keys: &[(u64, u8)], first_part: u64) -> u64 {
    run(seed, async |disk| {
        let mut index = KeyIndex::open_with(disk.clone(), "keys", None, 300)
            .await
            .unwrap();
        let mut model: Vec<Record> = Vec::new();
        let (mut saved, mut saved_at) = (None, 0);
        for (at, (number, step)) in (0u64..).zip(keys) {
            for i in 0..120 {
                let at = at * 120 + i;
                let record = ((number + i) % 50, at * 1000, 5000 + at / 7);
                model.push(record);
                add(&index, &[record]);
            }
            match step {
                0 | 1 => index.write_frozen().await.unwrap(),
                2 => {
                    let KeySnapshot { bytes, unneeded } = index.snapshot();
                    index.checkpoint_durable(&unneeded).await.unwrap();
                    (saved, saved_at) = (Some(bytes), model.len() / 2);
                }
                3 => {
                    let open = KeyIndex::open_with(disk.clone(), "keys", saved.as_deref(), 300);
                    index = open.await.unwrap();
                    // Replay from before the checkpoint: what is known is not added again.
                    for record in &model[saved_at..] {
                        add(&index, &[*record]);
                        if index.needs_write() && record.0 % 7 == 0 {
                            index.write_frozen().await.unwrap();
                        }
                    }
                }
                _ => {}
            }
            assert_eq!(index.skipped_count(), 0);
            if index.state.borrow().frozen.len() > FROZEN_MAX / 2 {
                index.write_frozen().await.unwrap();
            }
        }
        let last = model.len() as u64;
        let first = last * 1000 * first_part / 10;
        index.drop_below(FilePosition(first));
        for number in [0, 1, 17, 49, 50] {
            for (begin, end) in [
                (0, u64::MAX),
                (5000, 5000 + last / 14),
                (6000, 6001),
                (9, 1),
            ] {
                for max in [0, 1, 32, 10_000] {
                    let wanted = (number, begin, end, max);
                    assert_eq!(ask(&index, wanted).await, expected(&model, wanted, first));
                }
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_index_agrees_with_a_list(
        keys in prop::collection::vec((0..50u64, 0..8u8), 1..60),
        seed in any::<u64>(),
        first_part in 0..10u64,
    ) {
        let trace = agrees(seed, &keys, first_part);
        prop_assert_eq!(trace, agrees(seed, &keys, first_part), "one seed, one run");
    }
}

#[test]
fn a_much_used_key_and_merging_stay_right() {
    run(7, async |disk| {
        let index = KeyIndex::open_with(disk.clone(), "keys", None, 1000)
            .await
            .unwrap();
        let mut model = Vec::new();
        for at in 0..40_000 {
            let record = (if at % 2 == 0 { 0 } else { at }, at * 10, at);
            model.push(record);
            add(&index, &[record]);
            if index.needs_write() {
                index.write_frozen().await.unwrap();
            }
        }
        assert!(
            index.partitions_count() < 2 + 39 % MERGE_COUNT + 2,
            "merged"
        );
        for wanted in [
            (0, 0, u64::MAX, 64),
            (0, 0, 20_000, 3),
            (777, 0, u64::MAX, 5),
        ] {
            assert_eq!(ask(&index, wanted).await, expected(&model, wanted, 0));
        }
        let reads = disk.count(SimOp::Read);
        ask(&index, (39_999, 39_000, u64::MAX, 32)).await;
        assert!(
            disk.count(SimOp::Read) - reads <= 4,
            "few reads per partition"
        );
    });
}

#[test]
fn a_failing_device_loses_nothing_and_memory_stays_bounded() {
    run(8, async |disk| {
        let index = KeyIndex::open_with(disk.clone(), "keys", None, 100)
            .await
            .unwrap();
        add(&index, &(0..250).map(|at| (at, at, at)).collect::<Vec<_>>());
        for op in [SimOp::Create, SimOp::Write, SimOp::Sync, SimOp::SyncDir] {
            disk.fail_after(op, 0, DiskErrorKind::Io);
            assert!(index.write_frozen().await.is_err(), "{op:?}");
            disk.clear_faults();
        }
        assert_eq!(ask(&index, (3, 0, 900, 9)).await, [FilePosition(3)]);
        index.write_frozen().await.unwrap();
        assert_eq!(ask(&index, (3, 0, 900, 9)).await, [FilePosition(3)]);
        add(
            &index,
            &(300..2000).map(|at| (at, at, at)).collect::<Vec<_>>(),
        );
        let skipped = index.skipped_count();
        assert!(skipped > 0);
        assert_eq!(index.state.borrow().frozen.len(), FROZEN_MAX);
        // It is said, now and then.
        assert_eq!(index.tell_skipped(), skipped);
        add(&index, &[(2000, 2000, 2000)]);
        for told in [0, 1, 0] {
            assert_eq!(index.tell_skipped(), told);
            disk.sleep_ms(TELL_US / 1000 - 1000).await;
            assert_eq!(index.tell_skipped(), 0);
            disk.sleep_ms(1000).await;
        }
    });
}

#[test]
fn a_flipped_bit_is_reported_with_its_place() {
    run(9, async |disk| {
        let index = KeyIndex::open_with(disk.clone(), "keys", None, 100)
            .await
            .unwrap();
        add(&index, &(0..101).map(|at| (at, at, at)).collect::<Vec<_>>());
        index.write_frozen().await.unwrap();
        disk.flip_bit(&partition::file_name("keys", 1), 4096 + 99, 3);
        let key = key(3);
        let damaged = index.query(query(&key, (3, 0, 900, 9))).await.unwrap_err();
        let said = "keys/00000000000000000001.keys, page 1: checksum differs";
        assert_eq!(damaged.to_string(), said);
    });
}

/// `cargo test --release -p gantry-storage key_index_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, meant for the release profile"]
fn key_index_speed() {
    run(1, async |disk| {
        let index = KeyIndex::open(disk.clone(), "keys", None).await.unwrap();
        let key = b"7F000001000018B4AAC20000000000A7";
        let (rounds, part) = (40u64, ACTIVE_ENTRIES_MAX as u64);
        let mut spent = std::time::Duration::ZERO;
        let begun_all = std::time::Instant::now();
        for round in 0..rounds {
            let begun = std::time::Instant::now();
            for at in 0..part {
                index.add(
                    TOPIC,
                    key,
                    FilePosition(round * part + at),
                    StoreTimestamp(at),
                );
            }
            spent += begun.elapsed();
            index.write_frozen().await.unwrap();
        }
        let (ns, all) = (spent.as_nanos(), begun_all.elapsed().as_nanos());
        let count = u128::from(rounds * part);
        println!(
            "{} ns per key, {} ns with sort, merge, write",
            ns / count,
            all / count
        );
    });
}

/// Every page of a partition, not only its head, is on the device before it is used.
#[test]
fn a_partition_survives_a_power_cut() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let records: Vec<Record> = (0..900).map(|n| (n % 50, n * 100, 5000)).collect();
        let saved = disk.block_on(async {
            let index = KeyIndex::open_with(disk.clone(), "keys", None, 800).await;
            let index = index.unwrap();
            add(&index, &records);
            disk.sync_dir("").await.unwrap();
            index.write_frozen().await.unwrap();
            index.snapshot().bytes
        });
        disk.cut_power();
        disk.block_on(async {
            let index = KeyIndex::open_with(disk.clone(), "keys", Some(&saved), 800)
                .await
                .unwrap();
            assert_eq!(index.partitions_count(), 1);
            for number in 0..50 {
                let wanted = (number, 0, u64::MAX, 100);
                assert_eq!(
                    ask(&index, wanted).await,
                    expected(&records, wanted, 0),
                    "seed {seed}"
                );
            }
        });
    }
}

fn files(disk: &SimDisk) -> usize {
    disk.file_names().len()
}

/// A query that began before a merge reads the old partitions to its end, whatever checkpoint comes
/// in between; then they go.
#[test]
fn a_merge_takes_nothing_away_from_a_query_under_way() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.block_on(async {
            let open = KeyIndex::open_with(disk.clone(), "keys", None, 100);
            let index = Rc::new(open.await.unwrap());
            let model: Vec<Record> = (0..1_601).map(|n| (n % 100, n, n)).collect();
            let (before, last) = model.split_at(1_501);
            for part in before.chunks(200) {
                add(&index, part);
                index.write_frozen().await.unwrap();
            }
            add(&index, last);
            let wanted = (7, 0, u64::MAX, 64);
            let answer = Rc::new(RefCell::new(None));
            let (asked, told) = (Rc::clone(&index), Rc::clone(&answer));
            disk.spawn(async move {
                told.replace(Some(ask(&asked, wanted).await));
            });
            // It opens the newest of fifteen partitions, which takes long.
            disk.set_latency_us(1_000_000, 1_000_000);
            while disk.count(SimOp::Open) == 0 {
                disk.yield_now().await;
            }
            disk.set_latency_us(1, 2);
            index.write_frozen().await.unwrap();
            assert_eq!(index.partitions_count(), 1, "merged");
            let KeySnapshot { bytes, unneeded } = index.snapshot();
            index.checkpoint_durable(&unneeded).await.unwrap();
            assert!(answer.borrow().is_none(), "the query is under way");
            disk.sleep_ms(2_000).await;
            assert_eq!(answer.take().unwrap(), expected(&model, wanted, 0));
            // A death now leaves them to the next start, else the next checkpoint takes them.
            assert!(files(&disk) > 10);
            if seed % 2 == 0 {
                let open = KeyIndex::open_with(disk.clone(), "keys", Some(&bytes), 100);
                let index = open.await.unwrap();
                assert_eq!(ask(&index, wanted).await, expected(&model, wanted, 0));
            } else {
                let unneeded = index.snapshot().unneeded;
                index.checkpoint_durable(&unneeded).await.unwrap();
            }
            assert_eq!(files(&disk), 1);
        });
    }
}

/// A partition the checkpoint names is there, or the index says that it is damaged.
#[test]
fn a_partition_that_is_missing_is_told() {
    run(10, async |disk| {
        let open = KeyIndex::open_with(disk.clone(), "keys", None, 100);
        let index = open.await.unwrap();
        add(&index, &(0..101).map(|at| (at, at, at)).collect::<Vec<_>>());
        index.write_frozen().await.unwrap();
        let saved = index.snapshot().bytes;
        disk.remove(&partition::file_name("keys", 1)).await.unwrap();
        assert!(!index.has_damage());
        let again = KeyIndex::open_with(disk.clone(), "keys", Some(&saved), 100).await;
        let again = again.unwrap();
        assert!(again.has_damage());
        let wanted = (3, 0, u64::MAX, 9);
        assert!(again.query(query(&key(3), wanted)).await.is_err());
        let wanted = (100, 0, u64::MAX, 9);
        assert_eq!(ask(&again, wanted).await, [FilePosition(100)], "in memory");
    });
}
