//! The disaster list, one named test each, on the simulated disk. Those that need whole processes
//! are in the root's `tests/disasters.rs`.

use std::rc::Rc;

use bytes::BytesMut;

use crate::disk::{Disk, DiskErrorKind, DiskFile, OpenMode};
use crate::error::{AppendError, FlushError, ReadError, RecoverError};
use crate::format::segment_name;
use crate::key_index::key_hash;
use crate::log::segments::Segments;
use crate::shard_store::tests::{SEGMENT, SharedTail, bodies, limits, options, record};
use crate::shard_store::{FlushMode, ShardStore, StoreOptions};
use crate::sim_disk::{SimDisk, SimOp};
use crate::units::{FilePosition, QueueKey, QueueOffset};

type Store = Rc<ShardStore<SimDisk>>;

const BOTH: [FlushMode; 2] = [FlushMode::Async, FlushMode::Sync];

fn key() -> QueueKey {
    QueueKey::new(1, 0)
}

async fn open(disk: &SimDisk, tail: &SharedTail, mode: FlushMode) -> Result<Store, RecoverError> {
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(mode)).await;
    opened.map(|(store, _)| store)
}

/// Appends and waits until it is acknowledged for good.
async fn put(store: &Store, body: &[u8]) -> Result<QueueOffset, String> {
    let appended = store.append(&record(key(), body, &[key_hash(key().topic, b"k")]));
    let appended = appended.map_err(|error| error.to_string())?;
    store.seal();
    let committed = store.until_committed(appended.end).await;
    committed.map_err(|error| error.to_string())?;
    Ok(appended.queue_offset)
}

async fn read_from(store: &Store, from: u64) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut out = BytesMut::new();
    let from = QueueOffset(from);
    store
        .read(key(), from, limits(1 << 20), &|_| true, &mut out)
        .await?;
    Ok(bodies(&out))
}

/// What was acknowledged is there, however the process goes on.
fn check_after_kill(disk: &SimDisk, tail: &SharedTail, mode: FlushMode, wanted: &[Vec<u8>]) {
    disk.kill();
    disk.clear_faults();
    disk.block_on(async {
        let store = open(disk, tail, mode).await.unwrap();
        let found = read_from(&store, 0).await.unwrap();
        assert!(
            found.starts_with(wanted),
            "{} of {}",
            found.len(),
            wanted.len()
        );
        put(&store, b"after").await.unwrap();
    });
}

#[test]
fn disaster_open_fails() {
    let disk = SimDisk::new(1);
    let tail = SharedTail::new(1 << 20);
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Async).await.unwrap();
        put(&store, b"kept").await.unwrap();
        store.shutdown().await.unwrap();
    });
    disk.kill();
    // Each of the files that a start opens, one after the other.
    for nth in 0..3 {
        disk.fail_after(SimOp::Open, nth, DiskErrorKind::Io);
        let refused = disk.block_on(open(&disk, &tail, FlushMode::Async)).err();
        let refused = refused.unwrap_or_else(|| panic!("open {nth} of a start"));
        assert!(matches!(refused, RecoverError::Disk(_)), "{refused}");
        assert!(refused.to_string().contains("shard-0/"), "{refused}");
        disk.kill();
        disk.clear_faults();
    }
    check_after_kill(&disk, &tail, FlushMode::Async, &[b"kept".to_vec()]);
}

#[test]
fn disaster_read_fails() {
    let disk = SimDisk::new(2);
    let tail = SharedTail::new(64 << 10);
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        for n in 0..40u8 {
            put(&store, &vec![n; 10_000]).await.unwrap();
        }
        // A read that failed once is nothing that a reader hears of.
        disk.fail_after(SimOp::Read, 0, DiskErrorKind::Io);
        assert_eq!(read_from(&store, 0).await.unwrap().len(), 40);
        let log = format!("shard-0/{}", segment_name(FilePosition(0)));
        disk.spoil(&log, (0, 1 << 20), DiskErrorKind::Io);
        let failed = read_from(&store, 0).await;
        let failed = failed.map(|found| found.len());
        assert!(matches!(failed, Err(ReadError::Disk(_))), "{failed:?}");
        disk.clear_faults();
        // Neither the next reader nor any writer notices.
        assert!(store.poisoned().is_none());
        put(&store, b"on").await.unwrap();
        assert_eq!(read_from(&store, 0).await.unwrap().len(), 41);
    });
}

#[test]
fn disaster_write_fails() {
    for mode in BOTH {
        let disk = SimDisk::new(3);
        let tail = SharedTail::new(1 << 20);
        let kept = disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            put(&store, b"kept").await.unwrap();
            disk.sleep_ms(1000).await;
            disk.fail_after(SimOp::Write, 0, DiskErrorKind::Io);
            let failed = put(&store, b"lost").await.unwrap_err();
            assert!(failed.contains("Write fault"), "{failed}");
            refuses_until_restart(&disk, &store).await;
            read_from(&store, 0).await.unwrap()
        });
        assert_eq!(kept[0], b"kept");
        check_after_kill(&disk, &tail, mode, &kept);
    }
}

/// The shard is poisoned: it says why, refuses writes, and reads go on.
async fn refuses_until_restart(disk: &SimDisk, store: &Store) {
    let reason = store.poisoned().expect("a reason");
    for _ in 0..3 {
        let refused = store.append(&record(key(), b"no", &[]));
        let Err(AppendError::Poisoned { reason: told }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(told, reason);
        disk.sleep_ms(2000).await;
    }
    assert!(!read_from(store, 0).await.unwrap().is_empty());
}

#[test]
fn disaster_sync_fails() {
    for mode in BOTH {
        let disk = SimDisk::new(4);
        let tail = SharedTail::new(1 << 20);
        let kept = disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            put(&store, b"kept").await.unwrap();
            disk.sleep_ms(1000).await;
            disk.fail_after(SimOp::Sync, 0, DiskErrorKind::Io);
            let appended = store.append(&record(key(), b"unsure", &[])).unwrap();
            store.seal();
            let waited = store.until_committed(appended.end).await;
            assert!(
                matches!(waited, Err(FlushError::Poisoned { .. })),
                "{waited:?}"
            );
            // One failed sync is enough: it is not asked again whether it would work now.
            let syncs = disk.count(SimOp::Sync);
            refuses_until_restart(&disk, &store).await;
            assert_eq!(disk.count(SimOp::Sync), syncs);
            read_from(&store, 0).await.unwrap()
        });
        check_after_kill(&disk, &tail, mode, &kept);
    }
}

#[test]
fn disaster_roll_fails() {
    let disk = SimDisk::new(5);
    let tail = SharedTail::new(1 << 20);
    let kept = disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        disk.sleep_ms(1000).await;
        disk.fail_after(SimOp::Create, 0, DiskErrorKind::Io);
        let mut kept = Vec::new();
        // The next segment is made when the one before is half full.
        let refused = loop {
            let body = vec![1; 200_000];
            match put(&store, &body).await {
                Ok(_) => kept.push(body),
                Err(refused) => break refused,
            }
            assert!(kept.len() < 100);
        };
        assert!(refused.contains("Create fault"), "{refused}");
        refuses_until_restart(&disk, &store).await;
        kept
    });
    assert!(kept.len() > 10);
    check_after_kill(&disk, &tail, FlushMode::Sync, &kept);
}

#[test]
fn disaster_rename_fails() {
    let disk = SimDisk::new(6);
    let tail = SharedTail::new(1 << 20);
    let kept = disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        put(&store, b"kept").await.unwrap();
        disk.fail_after(SimOp::Rename, 0, DiskErrorKind::Io);
        let failed = store.checkpoint().await;
        assert!(
            matches!(failed, Err(FlushError::Device { .. })),
            "{failed:?}"
        );
        // The old checkpoint is still there; the log goes on and the next one is taken.
        assert!(store.poisoned().is_none());
        put(&store, b"kept, too").await.unwrap();
        store.checkpoint().await.unwrap();
        read_from(&store, 0).await.unwrap()
    });
    assert_eq!(kept.len(), 2);
    check_after_kill(&disk, &tail, FlushMode::Sync, &kept);
}

#[test]
fn disaster_full_disk() {
    for mode in BOTH {
        let disk = SimDisk::new(7);
        let tail = SharedTail::new(4 << 20);
        let body = vec![1; 100_000];
        let mut kept = Vec::new();
        disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            disk.set_capacity(2 * SEGMENT + (1 << 20));
            let refused = loop {
                match put(&store, &body).await {
                    Ok(_) => kept.push(body.clone()),
                    Err(error) if error.contains("tail is full") => disk.sleep_ms(1).await,
                    Err(error) => break error,
                }
            };
            assert!(refused.contains("the store is full") && refused.contains("no space left"));
            assert!(store.poisoned().is_none(), "a full disk is no fault");
            assert_eq!(read_from(&store, 0).await.unwrap().len(), kept.len());
            // Room for one segment would be full again at once.
            disk.set_capacity(3 * SEGMENT + (2 << 20));
            disk.sleep_ms(3000).await;
            assert!(put(&store, &body).await.is_err(), "hysteresis");
            disk.set_capacity(5 * SEGMENT);
            disk.sleep_ms(3000).await;
            put(&store, &body).await.unwrap();
            kept.push(body.clone());
        });
        check_after_kill(&disk, &tail, mode, &kept);
    }
}

/// Clients can use up the process's file handles: what needs one waits, and goes on by itself.
#[test]
fn disaster_too_many_open_files() {
    for mode in BOTH {
        let disk = SimDisk::new(22);
        let tail = SharedTail::new(4 << 20);
        let body = vec![1; 100_000];
        let mut kept = Vec::new();
        disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            disk.sleep_ms(1000).await;
            for _ in 0..2 {
                disk.fail_after(SimOp::Create, 0, DiskErrorKind::NoHandle);
            }
            let refused = loop {
                match put(&store, &body).await {
                    Ok(_) => kept.push(body.clone()),
                    Err(error) if error.contains("tail is full") => disk.sleep_ms(1).await,
                    Err(error) => break error,
                }
                assert!(kept.len() < 200, "the faults were never met");
            };
            assert!(refused.contains("too many files are open"), "{refused}");
            assert!(store.poisoned().is_none(), "{:?}", store.poisoned());
            disk.sleep_ms(3000).await;
            put(&store, &body).await.unwrap();
            kept.push(body.clone());
            assert_eq!(read_from(&store, 0).await.unwrap().len(), kept.len());
        });
        check_after_kill(&disk, &tail, mode, &kept);
    }
}

/// A segment may exist from before a restart, and be opened by the first write to it.
#[test]
fn disaster_too_many_open_files_for_a_segment_that_exists() {
    let disk = SimDisk::new(23);
    let tail = SharedTail::new(4 << 20);
    let body = vec![1; 100_000];
    let with_segments_ahead = || StoreOptions {
        zeros_ahead_bytes: 4 * SEGMENT,
        ..options(FlushMode::Sync)
    };
    let mut kept = Vec::new();
    disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), with_segments_ahead()).await;
        let (store, _) = opened.unwrap();
        put(&store, &body).await.unwrap();
        kept.push(body.clone());
        // They are made while nothing else is to do.
        disk.sleep_ms(10_000).await;
        store.shutdown().await.unwrap();
    });
    disk.kill();
    disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), with_segments_ahead()).await;
        let (store, _) = opened.unwrap();
        let opened = disk.count(SimOp::Open);
        disk.fail_after(SimOp::Open, 0, DiskErrorKind::NoHandle);
        while disk.count(SimOp::Open) < opened + 2 {
            put(&store, &body).await.unwrap();
            kept.push(body.clone());
            assert!(kept.len() < 200, "no segment was opened");
        }
        assert!(store.poisoned().is_none(), "{:?}", store.poisoned());
    });
    check_after_kill(&disk, &tail, FlushMode::Sync, &kept);
}

/// A segment kept to be used again is still one when it can't be opened.
#[test]
fn a_spare_that_cannot_be_opened_stays_a_spare() {
    let disk = SimDisk::new(24);
    disk.block_on(async {
        disk.make_dir("shard-0").await.unwrap();
        let folder = "shard-0".to_owned();
        let spare = format!("shard-0/{}", crate::format::spare_name(0));
        let made = disk.open(&spare, OpenMode::CreateLen(SEGMENT)).await;
        made.unwrap().sync().await.unwrap();
        let segments = Segments::load(disk.clone(), folder, SEGMENT).await.unwrap();
        disk.fail_after(SimOp::Open, 0, DiskErrorKind::NoHandle);
        let failed = segments.create(FilePosition(0)).await.unwrap_err();
        assert!(failed.is_no_handle(), "{failed}");
        assert_eq!(segments.spares_count(), 1);
        segments.create(FilePosition(0)).await.unwrap();
        assert!(segments.exists(FilePosition(0)) && segments.spares_count() == 0);
    });
}

#[test]
fn disaster_corrupt_run_in_the_middle() {
    let disk = SimDisk::new(8);
    // The ring is too small to still have it.
    let tail = SharedTail::new(64 << 10);
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        for n in 0..30u8 {
            put(&store, &vec![n; 20_000]).await.unwrap();
        }
        store.checkpoint().await.unwrap();
        store.shutdown().await.unwrap();
    });
    disk.kill();
    let file = format!("shard-0/{}", segment_name(FilePosition(0)));
    disk.flip_bit(&file, 10 * 20_480 + 9000, 3);
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        let found = read_from(&store, 0).await.unwrap();
        let numbers: Vec<u8> = found.iter().map(|body| body[0]).collect();
        assert_eq!(found.len(), 29, "one record is passed over: {numbers:?}");
        assert!(numbers.is_sorted() && numbers[0] == 0 && numbers[28] == 29);
        let met = store.damage_met();
        assert_eq!(met.len(), 1);
        assert!(met[0].0.abs_diff(10 * 20_480) <= 20_480, "{met:?}");
        // Once in the read cache it is not served from there, either.
        assert_eq!(read_from(&store, 0).await.unwrap().len(), 29);
        put(&store, b"goes on").await.unwrap();
    });
}

#[test]
fn disaster_newer_format() {
    let disk = SimDisk::new(9);
    let tail = SharedTail::new(1 << 20);
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Async).await.unwrap();
        put(&store, b"a").await.unwrap();
        store.shutdown().await.unwrap();
    });
    disk.kill();
    disk.flip_bit("shard-0/shard.meta", 4, 1);
    let writes = disk.count(SimOp::Write);
    let refused = disk
        .block_on(open(&disk, &tail, FlushMode::Async))
        .err()
        .unwrap();
    let RecoverError::NewerFormat { file, found, known } = refused else {
        panic!("{refused}");
    };
    assert_eq!((file.as_str(), found, known), ("shard-0/shard.meta", 3, 1));
    assert_eq!(disk.count(SimOp::Write), writes, "nothing is touched");
    disk.flip_bit("shard-0/shard.meta", 4, 1);
    check_after_kill(&disk, &tail, FlushMode::Async, &[b"a".to_vec()]);
}

/// With a new secret the whole log would count as rubbish, and be written over.
#[test]
fn disaster_shard_file_lost() {
    let (disk, tail) = (SimDisk::new(10), SharedTail::new(1 << 20));
    disk.block_on(async {
        let store = open(&disk, &tail, FlushMode::Sync).await.unwrap();
        for body in [b"a", b"b"] {
            put(&store, body).await.unwrap();
        }
        store.shutdown().await.unwrap();
    });
    disk.kill();
    let (file, kept) = ("shard-0/shard.meta", "kept");
    disk.block_on(disk.rename(file, kept)).unwrap();
    let content = || {
        let read = async |name: &str| {
            let file = disk.open(name, OpenMode::Existing).await.unwrap();
            let len = usize::try_from(file.len()).unwrap();
            file.read_at(0, len).await.unwrap()
        };
        let names = disk.file_names();
        disk.block_on(async {
            let mut content = Vec::new();
            for name in names {
                content.push((read(&name).await, name));
            }
            content
        })
    };
    let before = content();
    let refused = disk.block_on(open(&disk, &tail, FlushMode::Sync)).err();
    let why = refused.map(|error| error.to_string()).unwrap_or_default();
    assert!(why.starts_with(file), "{why}");
    assert!(why.contains("move the shard's folder away"), "{why}");
    assert!(content() == before, "nothing is touched");
    disk.block_on(disk.rename(kept, file)).unwrap();
    check_after_kill(
        &disk,
        &tail,
        FlushMode::Sync,
        &[b"a".to_vec(), b"b".to_vec()],
    );
}

#[test]
fn disaster_killed_on_a_full_disk_with_the_segment_full_to_its_last_block() {
    for mode in BOTH {
        let disk = SimDisk::new(21);
        let tail = SharedTail::new(4 << 20);
        // One segment and what is kept beside the log; no room for a second one.
        disk.set_capacity(SEGMENT + (1 << 20));
        // With its headers a block, so that the last one reaches the segment's end.
        let body = [7; 3_500];
        let taken = disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            let mut taken = 0;
            while put(&store, &body).await.is_ok() {
                taken += 1;
            }
            taken
        });
        assert_eq!(taken, SEGMENT / 4096, "{mode:?}: not to the last block");
        for _ in 0..2 {
            disk.kill();
            disk.block_on(async {
                let store = open(&disk, &tail, mode).await.unwrap();
                assert_eq!(store.bounds(key()).max, QueueOffset(taken));
                assert!(!read_from(&store, taken - 5).await.unwrap().is_empty());
                let refused = store.append(&record(key(), b"more", &[]));
                let is_full = matches!(refused, Err(AppendError::StoreFull { .. }));
                assert!(is_full, "{refused:?}");
            });
        }
        disk.kill();
        disk.set_capacity(u64::MAX);
        disk.block_on(async {
            let store = open(&disk, &tail, mode).await.unwrap();
            let at = put(&store, b"after").await.unwrap();
            assert_eq!(at, QueueOffset(taken));
            assert_eq!(read_from(&store, taken).await.unwrap(), [b"after"]);
        });
        disk.cut_power();
        disk.block_on(async {
            let store = open(&disk, &SharedTail::new(4 << 20), mode).await.unwrap();
            assert_eq!(store.bounds(key()).max, QueueOffset(taken + 1));
        });
    }
}
