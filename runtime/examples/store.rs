//! What the storage engine costs and gives by itself, beside the device it stands on: no sockets, no
//! queue actors, the real log, indexes, tail and checkpoints.
//!
//! `cargo run --release -p gantry-runtime --example store -- FOLDER [MILLIONS]` prints, in one run,
//! the device alone (4 KiB writes with a sync, one after the other; a sequential reader), appends
//! under `ASYNC_FLUSH` with their CPU, group commits and single commits under `SYNC_FLUSH`, and a
//! cold read of all queues. Records carry a body of 1 KiB, properties and one key, as sends have.

mod shard;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gantry_runtime::glommio_disk::{GlommioDisk, SharedTail};
use gantry_runtime::shard::CoreContext;
use gantry_storage::disk::{Disk, DiskFile, OpenMode};
use gantry_storage::error::ReadError;
use gantry_storage::format::segment_name;
use gantry_storage::shard_store::{FlushMode, ShardStore, StoreOptions};
use gantry_storage::units::{FilePosition, QueueKey, QueueOffset};
use hdrhistogram::Histogram;

use shard::{BLOCK, Outcome, PULL, Sample, Store, cpu, on_core, stream};

const QUEUES: u16 = 8;
const PROPERTIES: usize = 118;
/// Sends in flight: 4 connections with 64 each.
const IN_FLIGHT: usize = 256;
/// Appends between two looks at the rings: fewer, and the looks would cost more than the appends.
const ROUND: usize = IN_FLIGHT;
const COMMITS: u64 = 4_000;
const GROUPS: u64 = 2_000;
/// Appends a second: what a broker's core takes on such a machine.
const RATE: u64 = 400_000;
/// Between two rounds: the core asks its rings, as it does for sockets.
const BREATH: Duration = Duration::from_micros(1);
/// Quiet before synced writes, in which segments get their zeros.
const QUIET: Duration = Duration::from_secs(6);
const ZEROS_AHEAD: u64 = 1 << 30;
const TAIL: u64 = (16 << 20) + 4096;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().filter(|text| !text.starts_with('-'));
    let root = PathBuf::from(folder.ok_or("store FOLDER [MILLIONS]: see the head of this file")?);
    let millions: u64 = args.get(1).map_or(Ok(2), |text| text.parse())?;
    on_core((root, millions), |core, (root, millions)| {
        run(core, root, millions)
    })
}

async fn run(core: CoreContext, root: PathBuf, millions: u64) -> Outcome<()> {
    let disk = GlommioDisk::open(&root, core.queues.flush).await?;
    device(&disk).await?;
    appends(&disk, &root, millions * 1_000_000, RATE).await?;
    reads(&disk, &root).await?;
    let place = root.join("synced");
    let disk = GlommioDisk::open(&place, core.queues.flush).await?;
    synced(&disk, &place).await
}

async fn open(disk: &GlommioDisk, root: &Path, flush_mode: FlushMode) -> Outcome<Rc<Store>> {
    let name = match flush_mode {
        FlushMode::Async => "async.tail",
        FlushMode::Sync => "sync.tail",
    };
    let tail = SharedTail::open(&root.join(name), TAIL)?;
    let options = StoreOptions {
        flush_mode,
        zeros_ahead_bytes: ZEROS_AHEAD,
        ..StoreOptions::default()
    };
    let (store, _) = ShardStore::open(disk.clone(), Box::new(tail), options).await?;
    Ok(store)
}

/// Makes records like those of sends.
struct Writer {
    sample: Sample,
    count: u64,
}

impl Writer {
    fn new() -> Self {
        Self {
            sample: Sample::new(PROPERTIES),
            count: 0,
        }
    }

    /// Appends one record and returns where it ends; `None` while the tail is full.
    fn append(&mut self, store: &Store) -> Option<FilePosition> {
        let queue = u16::try_from(self.count % u64::from(QUEUES)).ok()?;
        let hash = self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let key = QueueKey::new(1, queue);
        let appended = store.append(&self.sample.record(key, &[hash])).ok()?;
        self.count += 1;
        Some(appended.end)
    }
}

/// The device alone: 4 KiB and a sync, over zeros.
async fn device(disk: &GlommioDisk) -> Outcome<()> {
    let bytes = COMMITS * BLOCK;
    let file = disk.open("zeroed", OpenMode::CreateLen(bytes)).await?;
    for at in (0..bytes).step_by(1 << 20) {
        let mut buf = disk.alloc(usize::try_from((bytes - at).min(1 << 20))?);
        buf.as_mut().fill(0);
        file.write_at(buf, at).await?;
    }
    file.sync().await?;
    let path = disk.root().join("zeroed");
    let took = blocking_commits(&path)?;
    say("device, 4 KiB write + fdatasync", &took);
    file.close().await?;
    Ok(disk.remove("zeroed").await?)
}

/// By plain system calls, as any program would.
fn blocking_commits(path: &Path) -> Outcome<Histogram<u64>> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).custom_flags(direct).open(path)?;
    let len = usize::try_from(BLOCK)?;
    let space = vec![1_u8; 2 * len];
    let skip = space.as_ptr().align_offset(len);
    let block = space.get(skip..skip + len).ok_or("no aligned block")?;
    let mut took = Histogram::new(3)?;
    for round in 0..COMMITS {
        let begin = Instant::now();
        file.write_all_at(block, round * BLOCK)?;
        file.sync_data()?;
        took.saturating_record(micros(begin));
    }
    Ok(took)
}

fn micros(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn say(name: &str, took: &Histogram<u64>) {
    let at = |quantile| took.value_at_quantile(quantile);
    println!("{name:<34} p50 {} us, p99 {} us", at(0.5), at(0.99));
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn say_rate(name: &str, count: u64, begin: (Instant, Duration), store: &Store) {
    let (took, used) = (
        begin.0.elapsed().as_secs_f64(),
        cpu().saturating_sub(begin.1),
    );
    let (writes, _, bytes) = store.device_counts();
    println!(
        "{name:<34} {:>8.0} records/s, {:.3} CPU-s per million, {writes} writes of {} KiB",
        count as f64 / took,
        used.as_secs_f64() * 1e6 / count as f64,
        bytes / writes.max(1) / 1024,
    );
}

/// `count` records at a rate the device can follow, or flat out.
async fn appends(disk: &GlommioDisk, root: &Path, count: u64, per_second: u64) -> Outcome<()> {
    let store = open(disk, root, FlushMode::Async).await?;
    let mut writer = Writer::new();
    let begin = (Instant::now(), cpu());
    while writer.count < count {
        let mut is_full = false;
        for _ in 0..ROUND {
            is_full |= writer.append(&store).is_none();
        }
        store.seal();
        let due = Duration::from_micros(writer.count * 1_000_000 / per_second);
        let early = due.saturating_sub(begin.0.elapsed());
        let wait = if is_full {
            Duration::from_millis(1)
        } else {
            BREATH
        };
        glommio::timer::sleep(wait.max(early)).await;
    }
    store.until_committed(store.staged()).await?;
    let name = format!("{per_second} a second, ASYNC_FLUSH");
    say_rate(&name, writer.count, begin, &store);
    Ok(store.shutdown().await?)
}

/// All queues from their beginning, each by pulls of 32, with nothing in memory; then the same files
/// by a sequential reader.
async fn reads(disk: &GlommioDisk, root: &Path) -> Outcome<()> {
    let store = open(disk, root, FlushMode::Async).await?;
    let begin = (Instant::now(), cpu());
    let readers: Vec<_> = (0..QUEUES)
        .map(|queue| glommio::spawn_local(read_queue(Rc::clone(&store), QueueKey::new(1, queue))))
        .collect();
    let mut records = 0;
    for reader in readers {
        records += reader.await.map_err(|error| error.to_string())?;
    }
    say_read("cold read of all queues", &store, begin);
    println!("{records:>44} records");
    let begin = (Instant::now(), cpu());
    sequential(disk, store.committed().0).await?;
    say_read("device, sequential reader", &store, begin);
    Ok(store.shutdown().await?)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn say_read(name: &str, store: &Store, begin: (Instant, Duration)) {
    let mib = store.committed().0 as f64 / f64::from(1 << 20);
    let (took, used) = (
        begin.0.elapsed().as_secs_f64(),
        cpu().saturating_sub(begin.1),
    );
    println!(
        "{name:<34} {:>8.0} MiB/s of log, {:.0} CPU-ms per GiB",
        mib / took,
        used.as_secs_f64() * 1e3 * 1024.0 / mib
    );
}

async fn read_queue(store: Rc<Store>, key: QueueKey) -> Result<u64, ReadError> {
    let (mut next, mut records, mut out) = (QueueOffset(0), 0, BytesMut::new());
    while next < store.bounds(key).max {
        out.clear();
        let read = store.read(key, next, PULL, &|_| true, &mut out).await?;
        next = read.next_offset;
        records += u64::from(read.found);
        // A pull's reply goes out before the next pull comes.
        glommio::timer::sleep(BREATH).await;
    }
    Ok(records)
}

async fn sequential(disk: &GlommioDisk, bytes: u64) -> Outcome<()> {
    let segment_bytes = StoreOptions::default().segment_bytes;
    for segment in (0..bytes).step_by(usize::try_from(segment_bytes)?) {
        let name = format!("shard-0/{}", segment_name(FilePosition(segment)));
        let part = segment_bytes.min(bytes - segment);
        stream(disk, &name, part / BLOCK * BLOCK).await?;
    }
    Ok(())
}

/// Group commits of what 256 sends in flight come to, and one record at a time.
async fn synced(disk: &GlommioDisk, root: &Path) -> Outcome<()> {
    let store = open(disk, root, FlushMode::Sync).await?;
    disk.sleep_ms(u64::try_from(QUIET.as_millis())?).await;
    let mut writer = Writer::new();
    let mut took = Histogram::new(3)?;
    for _ in 0..COMMITS {
        let begin = Instant::now();
        let end = writer.append(&store).ok_or("the tail is full")?;
        store.seal();
        store.until_committed(end).await?;
        took.saturating_record(micros(begin));
    }
    say("one record, SYNC_FLUSH", &took);
    let begin = (Instant::now(), cpu());
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..GROUPS {
        for _ in 0..IN_FLIGHT / 2 {
            waiting.push_back(writer.append(&store).ok_or("the tail is full")?);
        }
        store.seal();
        // Half of the senders have their answers, and send again while the other half waits.
        while waiting.len() > IN_FLIGHT / 2
            && let Some(end) = waiting.pop_front()
        {
            store.until_committed(end).await?;
        }
    }
    store.until_committed(store.staged()).await?;
    let count = GROUPS * (IN_FLIGHT / 2) as u64;
    say_rate("256 in flight, SYNC_FLUSH", count, begin, &store);
    Ok(store.shutdown().await?)
}
