//! What private segments for a busy queue would bring and cost, beside the shared log (ADR 0011).
//!
//! `cargo run --release -p gantry-runtime --example own_segments -- read FOLDER QUEUES MIB BURST`
//! fills a shard with QUEUES queues, BURST records of 1 KiB at a time, and reads one of them cold:
//! from the shared log as pulls do, block by block as its index says, and from a private segment.
//! `... -- write FOLDER` commits groups of 512 KiB whole, and with parts of it in private segments.
//! `... -- scan FOLDER` reads what a recovery would, from one file and from many.

mod shard;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gantry_runtime::glommio_disk::{GlommioDisk, GlommioFile};
use gantry_runtime::shard::CoreContext;
use gantry_storage::disk::{Disk, DiskFile, OpenMode};
use gantry_storage::format::segment_name;
use gantry_storage::shard_store::StoreOptions;
use gantry_storage::units::{FilePosition, QueueKey, QueueOffset};

use shard::{BLOCK, CHUNK, Outcome, PULL, Sample, Store, cpu, on_core, stream};

/// Blocks that lie closer are read as one.
const GAP: u64 = 16 << 10;
/// Records asked for at a time when blocks are read as the index says: four pulls.
const WINDOW: usize = 128;
const TAIL: usize = (16 << 20) + 4096;
const PRIVATE: &str = "own/private.log";
const COMMIT: u64 = 512 << 10;
const COMMITS: u64 = 400;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root: PathBuf = args.get(1).ok_or("see the head of this file")?.into();
    on_core((args, root), |core, (args, root)| run(core, args, root))
}

async fn run(core: CoreContext, args: Vec<String>, root: PathBuf) -> Outcome<()> {
    let disk = GlommioDisk::open(&root, core.queues.flush).await?;
    disk.make_dir("own").await?;
    let number = |at: usize| args.get(at).and_then(|text| text.parse().ok());
    match args.first().map(String::as_str) {
        Some("read") => {
            let queues = u16::try_from(number(2).unwrap_or(64_u64))?;
            let (mib, burst) = (number(3).unwrap_or(1024), number(4).unwrap_or(4));
            reading(&disk, queues, mib, burst).await
        }
        Some("write") => writing(&disk).await,
        Some("scan") => scanning(&disk).await,
        _ => Err("read, write or scan".into()),
    }
}

/// Bytes this process has had read from devices.
fn device_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|text| text.parse().ok()).unwrap_or(0)
}

struct Measure(Instant, u64, Duration);

impl Measure {
    fn begin() -> Self {
        Self(Instant::now(), device_bytes(), cpu())
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn report(self, what: &str, delivered: u64) {
        let (took, read) = (self.0.elapsed().as_secs_f64(), device_bytes() - self.1);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{what:<28} {:>7.1} MiB in {took:>6.3} s = {:>7.1} MiB/s; device {:>7.1} MiB, \
             {:>5.1} a byte; CPU {:>5} ms",
            mib(delivered),
            mib(delivered) / took,
            mib(read),
            read as f64 / delivered.max(1) as f64,
            cpu().saturating_sub(self.2).as_millis(),
        );
    }
}

fn key(queue: u16) -> QueueKey {
    QueueKey::new(1, queue)
}

async fn open(disk: &GlommioDisk) -> Outcome<Rc<Store>> {
    let tail = Box::new(vec![0_u8; TAIL]);
    let (store, _) = Store::open(disk.clone(), tail, StoreOptions::default()).await?;
    Ok(store)
}

async fn fill(disk: &GlommioDisk, queues: u16, bytes: u64, burst: u64) -> Outcome<()> {
    let store = open(disk).await?;
    let (sample, mut appended) = (Sample::new(0), 0);
    while appended < bytes {
        for queue in 0..queues {
            for _ in 0..burst {
                let record = sample.record(key(queue), &[]);
                while store.append(&record).is_err() {
                    store.seal();
                    disk.sleep_ms(1).await;
                }
                appended += 1200;
            }
        }
        store.seal();
    }
    store.shutdown().await?;
    Ok(())
}

/// Fills a shard, copies one queue into a private file, and reads that queue in every way.
async fn reading(disk: &GlommioDisk, queues: u16, mib: u64, burst: u64) -> Outcome<()> {
    if disk.list("shard-0").await.is_err() {
        fill(disk, queues, mib << 20, burst).await?;
    }
    let store = open(disk).await?;
    let wanted = key(queues / 2);
    println!("{queues} queues, {burst} records at a time, 1 KiB bodies");
    raw(disk, &store).await?;
    let measure = Measure::begin();
    let bytes = shared(&store, wanted).await?;
    measure.report("shared log, chunks", bytes);
    let measure = Measure::begin();
    let bytes = by_index(disk, &store, wanted).await?;
    measure.report("shared log, as indexed", bytes);
    copy_private(disk, bytes).await?;
    let measure = Measure::begin();
    stream(disk, PRIVATE, bytes.next_multiple_of(BLOCK)).await?;
    measure.report("private segment", bytes);
    store.shutdown().await?;
    Ok(())
}

async fn raw(disk: &GlommioDisk, store: &Store) -> Outcome<()> {
    let bytes = store
        .committed()
        .0
        .min(StoreOptions::default().segment_bytes);
    let name = format!("shard-0/{}", segment_name(FilePosition(0)));
    let measure = Measure::begin();
    stream(disk, &name, bytes / BLOCK * BLOCK).await?;
    measure.report("device, in order", bytes);
    Ok(())
}

/// As pulls of 32 messages do it.
async fn shared(store: &Store, wanted: QueueKey) -> Outcome<u64> {
    let (mut next, mut bytes, mut out) = (QueueOffset(0), 0, BytesMut::new());
    while next < store.bounds(wanted).max {
        out.clear();
        let read = store.read(wanted, next, PULL, &|_| true, &mut out).await?;
        next = read.next_offset;
        bytes += read.bytes;
    }
    Ok(bytes)
}

/// Only the blocks in which the queue's records lie; neighbours are joined.
async fn by_index(disk: &GlommioDisk, store: &Store, wanted: QueueKey) -> Outcome<u64> {
    let segment_bytes = StoreOptions::default().segment_bytes;
    let (mut next, mut bytes) = (QueueOffset(0), 0);
    let mut files: std::collections::BTreeMap<u64, GlommioFile> = std::collections::BTreeMap::new();
    while next < store.bounds(wanted).max {
        let entries = store.entries(wanted, next, WINDOW).await?;
        let mut parts: Vec<(u64, u64)> = Vec::new();
        for entry in &entries {
            let start = entry.position.0.saturating_sub(4) / BLOCK * BLOCK;
            let end = (entry.position.0 + u64::from(entry.length)).next_multiple_of(BLOCK);
            bytes += u64::from(entry.length);
            match parts.last_mut() {
                Some(last)
                    if start <= last.1 + GAP && start / segment_bytes == last.0 / segment_bytes =>
                {
                    last.1 = last.1.max(end);
                }
                _ => parts.push((start, end)),
            }
        }
        for (start, _) in &parts {
            let segment = start / segment_bytes * segment_bytes;
            if let std::collections::btree_map::Entry::Vacant(place) = files.entry(segment) {
                let name = format!("shard-0/{}", segment_name(FilePosition(segment)));
                place.insert(disk.open(&name, OpenMode::Existing).await?);
            }
        }
        let tasks: Vec<_> = parts
            .into_iter()
            .filter_map(|(start, end)| {
                let segment = start / segment_bytes * segment_bytes;
                let file = files.get(&segment)?.clone();
                let len = usize::try_from(end - start).ok()?;
                Some(glommio::spawn_local(async move {
                    file.read_at(start - segment, len).await.map(drop)
                }))
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        next = QueueOffset(next.0 + entries.len() as u64);
    }
    Ok(bytes)
}

async fn copy_private(disk: &GlommioDisk, bytes: u64) -> Outcome<()> {
    let bytes = bytes.next_multiple_of(BLOCK);
    let file = disk.open(PRIVATE, OpenMode::CreateLen(bytes)).await?;
    for at in (0..bytes).step_by(usize::try_from(CHUNK)?) {
        let buf = disk.alloc(usize::try_from(CHUNK.min(bytes - at))?);
        file.write_at(buf, at).await?;
    }
    file.sync().await?;
    file.close().await?;
    Ok(())
}

/// Groups of `COMMIT` bytes: all in one file, or with a part in each of some private files.
async fn writing(disk: &GlommioDisk) -> Outcome<()> {
    for (queues, part) in [(0, 0), (1, 64), (2, 64), (4, 64), (7, 64), (16, 8), (60, 8)] {
        let part: u64 = part << 10;
        let shared = COMMIT - queues * part;
        let mut files = Vec::new();
        for (n, len) in std::iter::once(shared)
            .chain((0..queues).map(|_| part))
            .enumerate()
        {
            let name = format!("own/w{n}");
            let file = disk.open(&name, OpenMode::CreateLen(len * COMMITS)).await?;
            files.push((file, len));
        }
        for sync in [false, true] {
            // The first time over each block costs the file system more; segments used again don't.
            for timed in [false, true] {
                let (began, used) = (Instant::now(), cpu());
                commits(disk, &files, sync && timed).await?;
                let took = began.elapsed();
                if timed {
                    println!(
                        "{queues:>2} private of {:>2} KiB, sync {sync:<5}: {:>6} µs a commit, CPU {:>4} µs",
                        part >> 10,
                        took.as_micros() / u128::from(COMMITS),
                        cpu().saturating_sub(used).as_micros() / u128::from(COMMITS),
                    );
                }
            }
        }
        for (n, (file, _)) in files.into_iter().enumerate() {
            file.close().await?;
            disk.remove(&format!("own/w{n}")).await?;
        }
    }
    Ok(())
}

/// A commit is done when all of its parts are.
async fn commits(disk: &GlommioDisk, files: &[(GlommioFile, u64)], sync: bool) -> Outcome<()> {
    for commit in 0..COMMITS {
        let mut parts = Vec::with_capacity(files.len());
        for (file, len) in files {
            let (file, at, len) = (file.clone(), commit * len, usize::try_from(*len)?);
            let mut buf = disk.alloc(len);
            buf.as_mut().fill(b'w');
            parts.push(glommio::spawn_local(async move {
                if sync {
                    file.write_at_and_sync(buf, at).await
                } else {
                    file.write_at(buf, at).await
                }
            }));
        }
        for part in parts {
            part.await?;
        }
    }
    Ok(())
}

/// 128 MiB behind the last checkpoint, in one file or spread over many.
async fn scanning(disk: &GlommioDisk) -> Outcome<()> {
    const TOTAL: u64 = 128 << 20;
    for files in [1_u64, 5, 17, 65] {
        let len = (TOTAL / files).next_multiple_of(BLOCK);
        for n in 0..files {
            let file = disk
                .open(&format!("own/s{n}"), OpenMode::CreateLen(len))
                .await?;
            for at in (0..len).step_by(usize::try_from(CHUNK)?) {
                let buf = disk.alloc(usize::try_from(CHUNK.min(len - at))?);
                file.write_at(buf, at).await?;
            }
            file.sync().await?;
            file.close().await?;
        }
        let slowest = Cell::new(0);
        let began = Instant::now();
        for n in 0..files {
            let from = Instant::now();
            stream(disk, &format!("own/s{n}"), len).await?;
            slowest.set(slowest.get().max(from.elapsed().as_micros()));
        }
        println!(
            "{files:>2} files: {:?}, slowest {} µs",
            began.elapsed(),
            slowest.get()
        );
        for n in 0..files {
            disk.remove(&format!("own/s{n}")).await?;
        }
    }
    Ok(())
}
