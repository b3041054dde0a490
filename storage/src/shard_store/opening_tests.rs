use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::super::tests::{SharedTail, options, record};
use super::*;
use crate::shard_store::FlushMode;
use crate::sim_disk::SimDisk;
use crate::units::QueueKey;

#[test]
fn progress_is_told_once_a_second_and_not_before() {
    let mut progress = Progress::new(5);
    assert!(!progress.is_due(PROGRESS_US));
    assert!(progress.is_due(PROGRESS_US + 5));
    assert!(!progress.is_due(2 * PROGRESS_US));
    assert!(progress.is_due(2 * PROGRESS_US + 5));
}

/// Hears the lines about a recovery: how much was replayed, of each.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u64>>>);

#[derive(Default)]
struct Line {
    is_progress: bool,
    replayed_mib: u64,
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "replayed_mib" {
            self.replayed_mib = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let is_text = field.name() == "message";
        self.is_progress |= is_text && format!("{value:?}") == "recovering the log";
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.is_progress {
            self.0.lock().unwrap().push(line.replayed_mib);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What a killed store with so many committed records has left behind, but for its checkpoint.
fn killed(options: &StoreOptions, records: u64, body: &[u8]) -> (SimDisk, SharedTail) {
    let (disk, tail) = (SimDisk::new(1), SharedTail::new(4 << 20));
    let store = disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), options.clone()).await;
        let (store, _) = opened.unwrap();
        for n in 0..records {
            store
                .append(&record(QueueKey::new(1, 0), body, &[n]))
                .unwrap();
            store.until_committed(store.seal()).await.unwrap();
        }
        store
    });
    disk.kill();
    drop(store);
    disk.block_on(disk.remove("shard-0/checkpoint")).unwrap();
    (disk, tail)
}

/// A start with 8 MiB of log to read from a device on which each operation takes so long: what is
/// told, and the time it took.
fn recovery(latency_us: u64) -> (Vec<u64>, u64) {
    let options = options(FlushMode::Async);
    let (disk, tail) = killed(&options, 512, &[7; 16 << 10]);
    let open = || ShardStore::open(disk.clone(), tail.lend(), options.clone());
    disk.set_latency_us(latency_us, latency_us);
    let told = Told::default();
    let report = tracing::subscriber::with_default(told.clone(), || {
        disk.block_on(async { open().await.unwrap().1 })
    });
    assert_eq!(report.records, 512);
    let told = told.0.lock().unwrap().clone();
    (told, report.elapsed_us)
}

#[test]
fn a_recovery_that_takes_long_says_once_a_second_how_far_it_is() {
    let (told, took_us) = recovery(400_000);
    assert!(took_us > 3 * PROGRESS_US, "{took_us}");
    assert!(told.len() >= 2, "{told:?} in {took_us} µs");
    assert!(told.len() as u64 <= took_us / PROGRESS_US, "{told:?}");
    assert!(told.is_sorted() && told.last() > told.first(), "{told:?}");
    let (told, took_us) = recovery(20);
    assert!(took_us < PROGRESS_US && told.is_empty(), "{told:?}");
}

/// How many parts of the key index are on the device after a start that reads so many records.
fn partitions_after_start(records: u64) -> usize {
    let options = StoreOptions {
        key_entries_max: 100,
        ..options(FlushMode::Async)
    };
    let (disk, tail) = killed(&options, records, b"x");
    disk.block_on(async {
        let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
        let (store, _) = opened.unwrap();
        let partitions = store.keys.partitions_count();
        disk.sleep_ms(1000).await;
        assert!(!store.keys.needs_write(), "written while it runs");
        assert_eq!(store.keys.skipped_count(), 0);
        partitions
    })
}

/// Full buffers of the key index wait until the store runs, while there are few of them.
#[test]
fn a_start_does_not_wait_for_keys_to_be_written() {
    assert_eq!(partitions_after_start(450), 0);
    assert!(partitions_after_start(1050) > 0);
}
