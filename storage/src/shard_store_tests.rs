use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use gantry_protocol::message::body_crc;

use super::*;
use crate::error::{AppendError, ReadError, RecoverError};
use crate::key_index::key_hash;
use crate::sim_disk::{SimDisk, SimOp};
use crate::tail::TailMemory;
use crate::units::{Boundary, PhysicalOffset, QueueOffset, StoreTimestamp};

pub(crate) const SEGMENT: u64 = 8 << 20;

/// A tail that outlives the store, as a mapping would.
#[derive(Clone)]
pub(crate) struct SharedTail(Rc<RefCell<Vec<u8>>>);

struct TailLoan {
    home: SharedTail,
    bytes: Vec<u8>,
}

impl SharedTail {
    pub(crate) fn new(ring: usize) -> Self {
        Self(Rc::new(RefCell::new(vec![0; 4096 + ring])))
    }

    pub(crate) fn lend(&self) -> Box<dyn TailMemory> {
        Box::new(TailLoan {
            home: self.clone(),
            bytes: self.0.borrow().clone(),
        })
    }

    /// Zeroes the page in which the ring has `position`, as if the page had never been written.
    pub(crate) fn lose_page(&self, position: u64) {
        let mut bytes = self.0.borrow_mut();
        let ring = bytes.len() - 4096;
        let at = 4096 + (usize::try_from(position).unwrap() % ring) / 4096 * 4096;
        bytes[at..at + 4096].fill(0);
    }
}

impl AsRef<[u8]> for TailLoan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for TailLoan {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for TailLoan {
    fn drop(&mut self) {
        self.home.0.replace(std::mem::take(&mut self.bytes));
    }
}

pub(crate) fn options(flush_mode: FlushMode) -> StoreOptions {
    StoreOptions {
        flush_mode,
        segment_bytes: SEGMENT,
        ..StoreOptions::default()
    }
}

pub(crate) fn record<'a>(key: QueueKey, body: &'a [u8], key_hashes: &'a [u64]) -> NewRecord<'a> {
    NewRecord {
        key,
        topic: "Topic",
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_timestamp: None,
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_offset: 0,
        body,
        body_crc: body_crc(body),
        properties: b"",
        tags_code: 7,
        key_hashes,
    }
}

pub(crate) fn limits(messages: u32) -> ReadLimits {
    ReadLimits {
        messages,
        bytes: 64 << 20,
        entries_examined: 100_000,
    }
}

pub(crate) fn bodies(out: &[u8]) -> Vec<Vec<u8>> {
    gantry_protocol::message::RecordIter::new(out)
        .map(|record| record.unwrap().body.to_vec())
        .collect()
}

type Store = Rc<ShardStore<SimDisk>>;

async fn open(disk: &SimDisk, tail: &SharedTail, mode: FlushMode) -> (Store, RecoveryReport) {
    ShardStore::open(disk.clone(), tail.lend(), options(mode))
        .await
        .unwrap()
}

/// The process dies: its tasks go first, then what it owned.
fn kill(disk: &SimDisk, store: Store) {
    disk.kill();
    assert_eq!(Rc::strong_count(&store), 1);
    drop(store);
}

async fn read_all(store: &Store, key: QueueKey) -> Vec<Vec<u8>> {
    let mut out = BytesMut::new();
    let from = store.bounds(key).min;
    let outcome = store
        .read(key, from, limits(1 << 30), &|_| true, &mut out)
        .await
        .unwrap();
    assert_eq!(outcome.next_offset, outcome.bounds.max);
    bodies(&out)
}

#[test]
fn records_come_back_hot_cold_and_after_a_kill() {
    let disk = SimDisk::new(1);
    let tail = SharedTail::new(1 << 20);
    let key = QueueKey::new(3, 1);
    let store = disk.block_on(async {
        let (store, report) = open(&disk, &tail, FlushMode::Async).await;
        assert!(report.created);
        for n in 0..100u64 {
            let body = n.to_string().repeat(10);
            let appended = store
                .append(&record(key, body.as_bytes(), &[key_hash(key.topic, b"k")]))
                .unwrap();
            assert_eq!(appended.queue_offset, QueueOffset(n));
            assert_eq!(store.bounds(key).max, QueueOffset(0), "not sealed yet");
        }
        store.seal();
        let mut out = BytesMut::new();
        let hot = store
            .read_hot(key, QueueOffset(10), limits(5), &|_| true, &mut out)
            .unwrap();
        assert_eq!((hot.found, hot.next_offset), (5, QueueOffset(15)));
        assert_eq!(bodies(&out)[0], b"10".repeat(10));
        store
    });
    kill(&disk, store);
    disk.block_on(async {
        let (store, report) = open(&disk, &tail, FlushMode::Async).await;
        assert_eq!((report.records, report.damage.len()), (100, 0));
        assert!(report.runs_from_tail > 0);
        assert_eq!(read_all(&store, key).await.len(), 100);
        let mut out = BytesMut::new();
        let hot = store.read_hot(key, QueueOffset(0), limits(32), &|_| true, &mut out);
        assert!(hot.is_none(), "only the device has it");
        let found = store
            .query_key(TopicId(3), "k", 0, u64::MAX, 200)
            .await
            .unwrap();
        assert_eq!(found.len(), 100);
        let newest = store.record_at(found[0]).await.unwrap();
        assert_eq!(bodies(&newest), [b"99".repeat(10)]);
        let wrong = store.record_at(PhysicalOffset(found[0].0 + 1)).await;
        assert!(matches!(wrong, Err(ReadError::Damaged { .. })));
        let beyond = store.record_at(PhysicalOffset(1 << 40)).await;
        assert!(matches!(beyond, Err(ReadError::Outside { .. })));
        let appended = store.append(&record(key, b"next", &[])).unwrap();
        assert_eq!(appended.queue_offset, QueueOffset(100));
    });
}

#[test]
fn a_clean_shutdown_leaves_nothing_to_replay() {
    let disk = SimDisk::new(2);
    let key = QueueKey::new(1, 0);
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Async).await;
        store.append(&record(key, b"a", &[])).unwrap();
        store.seal();
        store.shutdown().await.unwrap();
        assert_eq!(
            store.append(&record(key, b"b", &[])),
            Err(AppendError::Closed)
        );
    });
    disk.cut_power();
    disk.block_on(async {
        let (store, report) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Async).await;
        assert_eq!((report.runs_from_disk, report.runs_from_tail), (0, 0));
        assert_eq!(read_all(&store, key).await, [b"a"]);
        let time = store
            .store_time_at(key, QueueOffset(0))
            .await
            .unwrap()
            .unwrap();
        let at = store
            .search_by_time(key, time, Boundary::Lower)
            .await
            .unwrap();
        assert_eq!(at, QueueOffset(0));
        let late = StoreTimestamp(time.0 + 1);
        let at = store
            .search_by_time(key, late, Boundary::Lower)
            .await
            .unwrap();
        assert_eq!(at, QueueOffset(1));
    });
}

#[test]
fn sync_shows_nothing_before_it_is_durable() {
    let disk = SimDisk::new(3);
    let key = QueueKey::new(1, 0);
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Sync).await;
        let end = store.append(&record(key, b"a", &[])).unwrap().end;
        store.seal();
        assert_eq!(store.bounds(key).max, QueueOffset(0));
        store.until_committed(end).await.unwrap();
        assert_eq!(store.bounds(key).max, QueueOffset(1));
    });
    disk.cut_power();
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Sync).await;
        assert_eq!(read_all(&store, key).await, [b"a"]);
    });
}

#[test]
fn async_writes_within_the_delay_and_syncs_within_the_interval() {
    let disk = SimDisk::new(4);
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Async).await;
        let end = store
            .append(&record(QueueKey::new(1, 0), b"a", &[]))
            .unwrap()
            .end;
        store.seal();
        disk.sleep_ms(15).await;
        assert!(store.stable() >= end);
        assert!(store.committed() < end);
        disk.sleep_ms(510).await;
        assert!(store.committed() >= end);
    });
}

#[test]
fn large_records_wrap_and_roll() {
    let disk = SimDisk::new(5);
    let tail = SharedTail::new(16 << 20);
    let key = QueueKey::new(1, 0);
    let sizes = [
        3 << 20,
        100,
        2 << 20,
        4 << 20,
        7,
        1 << 20,
        4 << 20,
        4 << 20,
        1000,
        3 << 20,
    ];
    let store = disk.block_on(async {
        let (store, _) = open(&disk, &tail, FlushMode::Async).await;
        for (n, size) in (0u8..).zip(sizes) {
            append_patiently(&disk, &store, &record(key, &vec![n; size], &[])).await;
        }
        let too_large = vec![0; 5 << 20];
        let refused = store.append(&record(key, &too_large, &[]));
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
        store
    });
    kill(&disk, store);
    disk.block_on(async {
        let (store, _) = open(&disk, &tail, FlushMode::Async).await;
        let found = read_all(&store, key).await;
        assert_eq!(found.len(), sizes.len());
        for ((body, size), n) in found.iter().zip(sizes).zip(0u8..) {
            assert!(body.len() == size && body.iter().all(|byte| *byte == n));
        }
    });
}

pub(crate) async fn append_patiently(disk: &SimDisk, store: &Store, record: &NewRecord<'_>) {
    for _ in 0..10_000 {
        match store.append(record) {
            Ok(_) => {
                store.seal();
                return;
            }
            Err(AppendError::TailFull { .. }) => disk.sleep_ms(1).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the tail stays full");
}

#[test]
fn a_failed_sync_poisons() {
    for mode in [FlushMode::Async, FlushMode::Sync] {
        let disk = SimDisk::new(6);
        disk.block_on(async {
            let (store, _) = open(&disk, &SharedTail::new(1 << 20), mode).await;
            let key = QueueKey::new(1, 0);
            disk.sleep_ms(1000).await;
            disk.fail_after(SimOp::Sync, 0, crate::disk::DiskErrorKind::Io);
            let end = store.append(&record(key, b"a", &[])).unwrap().end;
            store.seal();
            let waited = store.until_committed(end).await;
            assert!(
                matches!(waited, Err(FlushError::Poisoned { .. })),
                "{waited:?}"
            );
            let refused = store.append(&record(key, b"b", &[]));
            assert!(matches!(refused, Err(AppendError::Poisoned { .. })));
            assert!(store.poisoned().is_some());
        });
    }
}

#[test]
fn a_full_device_refuses_and_loses_nothing() {
    let disk = SimDisk::new(7);
    let tail = SharedTail::new(4 << 20);
    let key = QueueKey::new(1, 0);
    let body = vec![1; 100_000];
    let taken = disk.block_on(async {
        let (store, _) = open(&disk, &tail, FlushMode::Async).await;
        disk.set_capacity(2 * SEGMENT + (1 << 20));
        let mut taken = 0u64;
        let reason = loop {
            match store.append(&record(key, &body, &[])) {
                Ok(_) => taken += 1,
                Err(AppendError::TailFull { .. }) => disk.sleep_ms(1).await,
                Err(AppendError::StoreFull { reason }) => break reason,
                Err(other) => panic!("{other}"),
            }
            store.seal();
        };
        assert!(reason.contains("no space"), "{reason}");
        assert_eq!(store.bounds(key).max, QueueOffset(taken));
        assert_eq!(read_all(&store, key).await.len() as u64, taken);
        disk.set_capacity(u64::MAX);
        disk.sleep_ms(2000).await;
        store.append(&record(key, &body, &[])).unwrap();
        let end = store.seal();
        store.until_committed(end).await.unwrap();
        taken + 1
    });
    disk.cut_power();
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(4 << 20), FlushMode::Async).await;
        assert_eq!(read_all(&store, key).await.len() as u64, taken);
    });
}

#[test]
fn damage_in_synced_bytes_is_not_taken_for_the_end() {
    let disk = SimDisk::new(10);
    let tail = SharedTail::new(1 << 20);
    let key = QueueKey::new(1, 0);
    let store = disk.block_on(async {
        let (store, _) = open(&disk, &tail, FlushMode::Sync).await;
        for _ in 0..5 {
            let end = store.append(&record(key, &[1; 5000], &[])).unwrap().end;
            store.seal();
            store.until_committed(end).await.unwrap();
        }
        store
    });
    kill(&disk, store);
    disk.flip_bit("shard-0/00000000000000000000.log", 8192 + 100, 3);
    let empty = SharedTail::new(1 << 20);
    let opened = ShardStore::open(disk.clone(), empty.lend(), options(FlushMode::Sync));
    let error = disk.block_on(opened).err().unwrap();
    assert!(matches!(error, RecoverError::Damaged { .. }), "{error}");
    // The tail still has the run: nothing is lost then.
    let opened = ShardStore::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
    let (store, report) = disk.block_on(opened).unwrap();
    assert!(report.runs_from_tail > 0);
    assert_eq!(disk.block_on(read_all(&store, key)).len(), 5);
}

#[test]
fn a_thousand_queues_come_back() {
    let disk = SimDisk::new(8);
    let tail = SharedTail::new(4 << 20);
    let store = disk.block_on(async {
        let (store, _) = open(&disk, &tail, FlushMode::Async).await;
        for round in 0..5u16 {
            for queue in 0..1000 {
                let key = QueueKey::new(u32::from(queue % 7), queue);
                append_patiently(&disk, &store, &record(key, &round.to_le_bytes(), &[])).await;
            }
            if round == 2 {
                store.checkpoint().await.unwrap();
            }
        }
        store.drop_topic(TopicId(6));
        store
    });
    kill(&disk, store);
    disk.block_on(async {
        let (store, report) = open(&disk, &tail, FlushMode::Async).await;
        assert!(report.records <= 2000, "{report:?}");
        for queue in 0..1000 {
            let key = QueueKey::new(u32::from(queue % 7), queue);
            assert_eq!(store.bounds(key).max, QueueOffset(5), "{key:?}");
            assert_eq!(read_all(&store, key).await[4], 4u16.to_le_bytes());
        }
    });
}

#[test]
fn filters_and_limits() {
    let disk = SimDisk::new(9);
    let key = QueueKey::new(1, 0);
    disk.block_on(async {
        let (store, _) = open(&disk, &SharedTail::new(1 << 20), FlushMode::Async).await;
        for n in 0..20i64 {
            let new = NewRecord {
                tags_code: n % 4,
                ..record(key, b"0123456789", &[])
            };
            store.append(&new).unwrap();
        }
        store.seal();
        let mut out = BytesMut::new();
        let read = |limits, out: &mut BytesMut| {
            store
                .read_hot(key, QueueOffset(2), limits, &|code| code == 1, out)
                .unwrap()
        };
        let outcome = read(limits(2), &mut out);
        assert_eq!((outcome.found, outcome.next_offset), (2, QueueOffset(13)));
        let outcome = read(
            ReadLimits {
                bytes: 1,
                ..limits(9)
            },
            &mut out,
        );
        assert_eq!((outcome.found, outcome.next_offset), (1, QueueOffset(9)));
        let outcome = read(
            ReadLimits {
                entries_examined: 4,
                ..limits(9)
            },
            &mut out,
        );
        assert_eq!((outcome.found, outcome.next_offset), (1, QueueOffset(6)));
        assert_eq!(outcome.bounds.max, QueueOffset(20));
        let nothing = store.read_hot(key, QueueOffset(20), limits(1), &|_| true, &mut out);
        assert_eq!(nothing.unwrap().found, 0);
    });
}

#[test]
#[ignore = "a measurement, meant for the release profile"]
fn append_speed() {
    let disk = SimDisk::new(1);
    let body = vec![7; 1024];
    let properties = b"UNIQ_KEY\x01AC11000100002A9F0000000000000001\x02WAIT\x01true\x02";
    let key = QueueKey::new(1, 0);
    let hashes = [key_hash(key.topic, b"AC11000100002A9F0000000000000001")];
    let template = record(key, &body, &hashes);
    let (mut appending, mut reading) = (Vec::new(), Vec::new());
    disk.block_on(async {
        let mut options = options(FlushMode::Async);
        options.segment_bytes = 256 << 20;
        let tail = SharedTail::new(16 << 20);
        let (store, _) = ShardStore::open(disk.clone(), tail.lend(), options)
            .await
            .unwrap();
        for _ in 0..20 {
            let started = std::time::Instant::now();
            for n in 0..10_000u64 {
                let key = QueueKey::new(1, u16::try_from(n % 8).unwrap());
                let mut new = template;
                (new.key, new.properties) = (key, properties);
                new.store_timestamp = Some(StoreTimestamp(n));
                store.append(&new).unwrap();
                if n % 32 == 31 {
                    store.seal();
                }
            }
            appending.push(started.elapsed().as_nanos() / 10_000);
            let started = std::time::Instant::now();
            let mut out = BytesMut::with_capacity(1 << 20);
            for queue in 0..8 {
                let key = QueueKey::new(1, queue);
                let mut from = QueueOffset(store.bounds(key).max.0 - 1024);
                for _ in 0..32 {
                    out.clear();
                    let read = store.read_hot(key, from, limits(32), &|_| true, &mut out);
                    from = read.unwrap().next_offset;
                }
            }
            reading.push(started.elapsed().as_nanos() / (8 * 1024));
            let end = store.seal();
            store.until_committed(end).await.unwrap();
        }
    });
    // Rounds differ with the machine's other work: best and median.
    appending.sort_unstable();
    reading.sort_unstable();
    println!(
        "1 KiB: append and seal {} / {} ns, hot read {} / {} ns",
        appending[0], appending[10], reading[0], reading[10]
    );
}

/// A log of `total` bytes in two queues that the next process must read from the device.
async fn cold_store(disk: &SimDisk, tail: &SharedTail, total: usize) -> (Store, [QueueKey; 2]) {
    let keys = [QueueKey::new(1, 0), QueueKey::new(1, 1)];
    let (store, _) = open(disk, tail, FlushMode::Sync).await;
    let body = vec![b'c'; 4000];
    for n in 0..total / body.len() {
        store.append(&record(keys[n % 2], &body, &[])).unwrap();
        if n % 16 == 15 {
            store.until_committed(store.seal()).await.unwrap();
        }
    }
    store.until_committed(store.seal()).await.unwrap();
    store.shutdown().await.unwrap();
    drop(store);
    (open(disk, tail, FlushMode::Sync).await.0, keys)
}

async fn count_records(store: &Store, key: QueueKey) -> u64 {
    let (mut next, mut out) = (QueueOffset(0), BytesMut::new());
    while next < store.bounds(key).max {
        out.clear();
        let read = store.read(key, next, limits(32), &|_| true, &mut out);
        let read = read.await.unwrap();
        assert_eq!(bodies(&out).len() as u64, u64::from(read.found));
        next = read.next_offset;
    }
    next.0
}

#[test]
fn a_cold_backlog_is_read_once_and_ahead_of_its_readers() {
    const TOTAL: usize = 12 << 20;
    let (disk, tail) = (SimDisk::new(5), SharedTail::new(1 << 20));
    let (store, keys) = disk.block_on(cold_store(&disk, &tail, TOTAL));
    // Two readers side by side want the same chunks at the same time.
    let counts = Rc::new(RefCell::new(Vec::new()));
    for key in keys {
        let (store, counts) = (Rc::clone(&store), Rc::clone(&counts));
        disk.spawn(async move {
            let count = count_records(&store, key).await;
            counts.borrow_mut().push(count);
        });
    }
    disk.block_on(async {
        while counts.borrow().len() < 2 {
            disk.sleep_ms(1).await;
        }
    });
    let records = counts.borrow().iter().sum::<u64>();
    assert_eq!(records, (TOTAL / 4000) as u64);
    let chunks = (store.staged().0).div_ceil(crate::log::read_ahead::CHUNK_BYTES);
    let (loads, ahead) = store.cold_reads_counts();
    assert!(loads <= chunks + 1, "{loads} reads of {chunks} chunks");
    // The first two begin the stream; the last one, not whole, is never read ahead.
    assert!(loads - ahead <= 4, "{ahead} of {loads} reads ahead");
}
