//! Opening a shard: checkpoint, device, tail, and then the tasks.
//!
//! **Owns** the order of recovery.
//! **Lives on** the shard's core, at start only.
//! **Invariants** the ring is not written before what it has is on the device; the new epoch is
//! durable before a run of it can be.
//! **Limits** none: time follows from the checkpoint's distance.
//! **Not here** what counts as a run (`recovery`), what an index keeps.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::known::Known;
use super::{RECORD_BYTES_MAX, RecoveryReport, ShardStore, StoreOptions};
use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::error::RecoverError;
use crate::format::{
    Entry, INDEX_FOLDER, Identity, IdentityKind, KEYS_FOLDER, SHARD_FILE, entries, segment_name,
    shard_folder,
};
use crate::identity;
use crate::key_index::{KeyIndex, KeyIndexError};
use crate::log::aside;
use crate::log::checkpoint::{self, Checkpoint};
use crate::log::pieces::Crowd;
use crate::log::read_ahead::ReadCache;
use crate::log::recovery::{DeviceScan, END_READS_MAX, Scan, TailRuns};
use crate::log::segments::Segments;
use crate::log::shard_log::{NoSegment, ShardLog};
use crate::log::signal::Signal;
use crate::log::staging::{Staging, StagingStart};
use crate::log::{log_writer, segment_pool};
use crate::queue_index::paged::{PagedIndex, PagedOptions};
use crate::queue_index::{Added, IndexAppendError, IndexEntry, IndexLimits};
use crate::retention::floors::{self, Floor};
use crate::tail::{Tail, TailMemory};
use crate::units::{BLOCK_BYTES, FilePosition, QueueKey, QueueOffset, index};

/// The smallest segment a store may have: twice the largest record.
pub const SEGMENT_BYTES_MIN: u64 = 2 * RECORD_BYTES_MAX.next_power_of_two() / 2;

/// Lost offsets before a queue's first record that are entered; where there are more, it begins
/// there.
const LOST_BEFORE_MAX: u64 = 1 << 20;
/// Lost offsets entered between two looks whether the index should be written.
const LOST_ENTRIES_STEP: u64 = 4096;
/// Time between two lines about a recovery that takes longer.
const PROGRESS_US: u64 = 1_000_000;

/// The indexes while they are being filled.
struct Indexes<D: Disk> {
    queues: PagedIndex<D>,
    keys: KeyIndex<D>,
}

impl<D: Disk> ShardStore<D> {
    /// Opens (or creates) the shard below the disk's root, replays what the checkpoint does not
    /// cover from the device and the tail, and starts the writer.
    ///
    /// # Errors
    /// `RecoverError` when the device fails, the format is newer, or the shard's files are damaged.
    pub async fn open(
        disk: D,
        memory: Box<dyn TailMemory>,
        options: StoreOptions,
    ) -> Result<(Rc<Self>, RecoveryReport), RecoverError> {
        let started_us = disk.now_mono_us();
        let mut tail = Tail::new(memory).ok_or_else(|| RecoverError::Options {
            detail: "the tail's memory is too small".to_owned(),
        })?;
        check(&options)?;
        let folder = shard_folder(options.shard);
        let wanted = Identity {
            id: disk.random_u64(),
            segment_bytes: options.segment_bytes,
            shard: options.shard.0,
        };
        let place = (folder.as_str(), SHARD_FILE);
        let (identity, created) =
            identity::load_or_create(&disk, IdentityKind::Shard, place, wanted).await?;
        let segments = Segments::load(disk.clone(), folder.clone(), identity.segment_bytes).await?;
        let checkpoint = checkpoint::read(&disk, &folder, identity.id).await?;
        let place = (folder.as_str(), identity.id);
        let (indexes, known) = open_indexes(&disk, place, &options, checkpoint).await?;
        let floors = floors::read(&disk, &folder, identity.id).await?;
        indexes.apply_floors(&floors, known.is_whole_log);
        let mut scan = known.first_scan(identity.id, &segments);
        let mut report = RecoveryReport {
            created,
            scanned_from: scan.position,
            ..RecoveryReport::default()
        };
        let mut replay = Replay {
            disk: &disk,
            segments: &segments,
            known: &known,
            indexes: &indexes,
            report: &mut report,
        };
        let tail_epoch = replay.run(&mut tail, &mut scan).await?;
        // A topic's own time may have taken records that only now are known again.
        indexes.apply_floors(&floors, false);
        indexes
            .keys
            .drop_below(segments.first().unwrap_or_default());
        let start = StagingStart {
            store_id: identity.id,
            epoch: known.next_epoch(&scan, tail_epoch, created),
            sequence: known.next_sequence(&scan),
            position: scan.position.block_up(),
            segment_bytes: identity.segment_bytes,
        };
        report.end = start.position;
        report.epoch = start.epoch;
        let full = open_head(&segments, start.position).await?;
        let store = assemble(disk, options, segments, tail, start, (folder, indexes));
        *store.log.full.borrow_mut() = full;
        // The new epoch must be durable before any run carries it.
        let first = async || store.write_checkpoint(start.position, start.sequence).await;
        aside::with_reserve(&store.log.disk, &store.folder, first).await?;
        aside::keep_reserve(&store.log.disk, &store.folder).await;
        store.log.begin_tail();
        Self::begin(&store);
        report.elapsed_us = store.log.disk.now_mono_us().saturating_sub(started_us);
        Ok((store, report))
    }

    fn begin(store: &Rc<Self>) {
        let weak = Rc::downgrade(store);
        store.log.on_progress(Box::new(move || {
            if let Some(store) = weak.upgrade() {
                store.apply();
            }
        }));
        log_writer::start(&store.log);
        segment_pool::start(&store.log);
        Self::start_upkeep(store);
    }
}

fn check(options: &StoreOptions) -> Result<(), RecoverError> {
    let bytes = options.segment_bytes;
    if bytes < SEGMENT_BYTES_MIN || !bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(RecoverError::Options {
            detail: format!(
                "segments of {bytes} bytes: at least {SEGMENT_BYTES_MIN} and a multiple of 4096"
            ),
        });
    }
    Ok(())
}

/// Opens the segment that is written next. A log that ends with its segment on a full device goes
/// on without: the reason is returned, and the segment is made once that is over.
async fn open_head<D: Disk>(
    segments: &Segments<D>,
    head: FilePosition,
) -> Result<Option<NoSegment>, DiskError> {
    if !segments.exists(head)
        && let Err(error) = segments.create(segments.start_of(head)).await
    {
        let why = NoSegment::of(&error).filter(|_| head == segments.start_of(head));
        why.as_ref().ok_or(error)?.warn();
        return Ok(why);
    }
    segments.open(head).await?;
    Ok(None)
}

/// Opens both indexes from the checkpoint, or both empty when a part is unusable.
async fn open_indexes<D: Disk>(
    disk: &D,
    (folder, store_id): (&str, u64),
    options: &StoreOptions,
    checkpoint: Option<Checkpoint>,
) -> Result<(Indexes<D>, Known), RecoverError> {
    let limits = IndexLimits {
        resident_bytes_max: index(options.index_cache_bytes),
        hot_bytes_max: index(options.index_cache_bytes / 2),
    };
    let paged = PagedOptions {
        limits,
        flush_bytes: options.index_flush_bytes,
        ..PagedOptions::default()
    };
    let key_entries = options.key_entries_max;
    let index_folder = format!("{folder}/{INDEX_FOLDER}");
    let keys_folder = format!("{folder}/{KEYS_FOLDER}");
    let mut known = Known {
        checkpoint,
        is_whole_log: false,
    };
    let checkpoint = known.checkpoint.as_ref();
    if let Some(found) = checkpoint.and_then(|found| found.parts.as_ref()) {
        let queues = PagedIndex::open(disk.clone(), &index_folder, paged, Some(&found.index)).await;
        let keys =
            KeyIndex::open_with(disk.clone(), &keys_folder, Some(&found.keys), key_entries).await;
        match (queues, keys) {
            (Ok(queues), Ok(keys)) => return Ok((Indexes { queues, keys }, known)),
            (Err(error), _) if !error.is_damage() => return Err(damaged(folder, &error)),
            (_, Err(KeyIndexError::Disk(error))) => return Err(error.into()),
            (queues, keys) => {
                let (queues, keys) = (queues.err(), keys.err());
                tracing::warn!(?queues, ?keys, "indexes are rebuilt from the whole log");
            }
        }
    } else if checkpoint.is_some() {
        tracing::warn!("the checkpoint has no indexes: they are rebuilt from the whole log");
    }
    // Opening them empty removes the files an old checkpoint names; a death in the middle must not
    // leave one that can be read after all, nor take away how far the log is known to reach.
    known.is_whole_log = true;
    let header = checkpoint.map(|found| found.header);
    checkpoint::forget_parts(disk, folder, store_id, header).await?;
    let queues = PagedIndex::open(disk.clone(), &index_folder, paged, None)
        .await
        .map_err(|error| damaged(folder, &error))?;
    let keys = KeyIndex::open_with(disk.clone(), &keys_folder, None, key_entries)
        .await
        .map_err(|error| damaged(folder, &error))?;
    Ok((Indexes { queues, keys }, known))
}

fn damaged(folder: &str, error: &dyn std::fmt::Display) -> RecoverError {
    RecoverError::Damaged {
        file: folder.to_owned(),
        detail: error.to_string(),
    }
}

/// When a long recovery says how far it is.
struct Progress {
    due_us: u64,
}

impl Progress {
    fn new(now_us: u64) -> Self {
        let due_us = now_us + PROGRESS_US;
        Self { due_us }
    }

    fn is_due(&mut self, now_us: u64) -> bool {
        let is_due = now_us >= self.due_us;
        if is_due {
            self.due_us = now_us + PROGRESS_US;
        }
        is_due
    }
}

/// Reading what the indexes lack, from the device and the tail.
struct Replay<'a, D: Disk> {
    disk: &'a D,
    segments: &'a Segments<D>,
    known: &'a Known,
    indexes: &'a Indexes<D>,
    report: &'a mut RecoveryReport,
}

impl<D: Disk> Replay<'_, D> {
    /// Moves `scan` to the log's end; returns the epoch of the process whose tail was found.
    async fn run(&mut self, tail: &mut Tail, scan: &mut Scan) -> Result<Option<u64>, RecoverError> {
        let mut device = DeviceScan::new(self.segments);
        let mut progress = Progress::new(self.disk.now_mono_us());
        self.run_device(&mut device, scan, &mut progress).await?;
        let header = tail
            .header()
            .filter(|header| header.store_id == scan.store_id);
        let tail_epoch = header.map(|header| header.epoch);
        if header.is_some_and(|header| tail.use_ring_of(&header)) {
            tracing::debug!(epoch = tail_epoch, "reading the tail of the last process");
            let mut runs = TailRuns::default();
            // Where a run is damaged on the device and whole in the tail, the device may go on:
            // after a power cut, a tail in the data folder is a mix of newer and older pages.
            while self.run_tail(tail, &mut runs, scan).await? {
                if self.run_device(&mut device, scan, &mut progress).await? {
                    runs.are_followed();
                }
            }
            runs.write(self.disk, tail, &mut device).await?;
        }
        if let Some(proof) = device.proof_of_damage(scan).await? {
            return Err(RecoverError::Damaged {
                file: segment_name(self.segments.start_of(scan.position)),
                detail: format!(
                    "the log is damaged at position {}: the run at position {proof} was sealed \
                     when what lies between was synced. Restore the file, or give up what is \
                     damaged: gantry admin log verify says what that is, gantry admin log repair \
                     does it",
                    scan.position
                ),
            });
        }
        self.known.check_reached(scan.position, self.segments)?;
        device.sync(self.report.scanned_from, scan.position).await?;
        Ok(tail_epoch)
    }

    fn tell(&self, scan: &Scan) {
        let replayed_mib = scan.position.since(self.report.scanned_from) >> 20;
        let end = self.segments.end_after(scan.position);
        let left_mib_max = end.since(scan.position) >> 20;
        let records = self.report.records;
        tracing::info!(replayed_mib, left_mib_max, records, "recovering the log");
    }

    /// Moves `scan` over the runs that the device has; whether there was one.
    async fn run_device(
        &mut self,
        device: &mut DeviceScan<'_, D>,
        scan: &mut Scan,
        progress: &mut Progress,
    ) -> Result<bool, RecoverError> {
        let runs_before = self.report.runs_from_disk;
        let (mut end_seen, mut reads) = (None, 0);
        loop {
            while let Some(run) = device.next(scan).await? {
                (end_seen, reads) = (None, 0);
                self.report.runs_from_disk += 1;
                let start = run.payload_start();
                self.indexes
                    .replay_run(run.payload, start, self.report)
                    .await?;
                if progress.is_due(self.disk.now_mono_us()) {
                    self.tell(scan);
                }
            }
            // Wrong reads must not cut the log off: what ends it is read until two reads agree.
            if end_seen == Some(device.end_seen()) {
                return Ok(self.report.runs_from_disk > runs_before);
            }
            end_seen = Some(device.end_seen());
            reads += 1;
            if reads > END_READS_MAX {
                let name = segment_name(self.segments.start_of(scan.position));
                let detail = format!("no two reads at position {} agree", scan.position);
                return Err(DiskError::new(DiskErrorKind::Io, "read", name, detail).into());
            }
            device.forget();
        }
    }

    /// Moves `scan` over the runs that only the tail has; whether there was one.
    async fn run_tail(
        &mut self,
        tail: &Tail,
        runs: &mut TailRuns,
        scan: &mut Scan,
    ) -> Result<bool, RecoverError> {
        let runs_before = self.report.runs_from_tail;
        let mut payload = Vec::new();
        while let Some(run) = runs.next(tail, self.segments, scan, &mut payload) {
            self.report.runs_from_tail += 1;
            let start = run.position.plus(crate::format::RUN_HEADER_BYTES);
            self.indexes
                .replay_run(&payload, start, self.report)
                .await?;
        }
        Ok(self.report.runs_from_tail > runs_before)
    }
}

impl<D: Disk> Indexes<D> {
    /// Lets queues begin where retention left them; `is_whole_log`: also those that the index does
    /// not know, because their records are gone.
    fn apply_floors(&self, floors: &[Floor], is_whole_log: bool) {
        let mut index = self.queues.index_mut();
        for (key, offset) in floors {
            if is_whole_log {
                index.begin_at(*key, *offset);
            }
            index.set_min(*key, *offset);
        }
    }

    /// Adds an entry of the log to the queue index. Offsets that no record of the log has any more
    /// (damage that was repaired by giving it up, whole segments of it at times) become entries
    /// without a record: what comes behind them keeps its own.
    async fn index_entry(
        &self,
        entry: &Entry<'_>,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoverError> {
        let (key, offset) = (entry.head.key, entry.queue_offset);
        let known = IndexEntry {
            position: entry.position,
            length: entry.head.record_bytes,
            tags_code: entry.head.tags_code,
            store_time: entry.store_time,
        };
        if self.queues.index().bounds(key).is_none() {
            // Its earlier records went with their segments.
            self.queues.index_mut().begin_at(key, offset);
        }
        let mut added = self.queues.index_mut().append(key, offset, known);
        if let Err(IndexAppendError::Gap { next, found, .. }) = added {
            let bounds = self.queues.index().bounds(key);
            let is_empty = bounds.is_none_or(|bounds| bounds.min == bounds.max);
            if is_empty && found.0 - next.0 > LOST_BEFORE_MAX {
                // A first offset that retention could not move with the log's beginning.
                self.queues.index_mut().begin_at(key, found);
            } else {
                self.enter_lost(key, next..found, known).await?;
            }
            report.damage.push(format!(
                "topic {} queue {}: the records at offsets {next} to {} are lost",
                key.topic,
                key.queue,
                found.0 - 1
            ));
            added = self.queues.index_mut().append(key, offset, known);
        }
        match added {
            Ok(Added::Yes) => report.records += 1,
            Ok(Added::Known) => {}
            Err(error) => {
                let position = entry.position;
                return Err(RecoverError::Damaged {
                    file: INDEX_FOLDER.to_owned(),
                    detail: format!("the record at position {position} can't be indexed: {error}"),
                });
            }
        }
        Ok(())
    }

    async fn enter_lost(
        &self,
        key: QueueKey,
        offsets: Range<QueueOffset>,
        at: IndexEntry,
    ) -> Result<(), RecoverError> {
        for lost in offsets.start.0..offsets.end.0 {
            // A failure here is a failure of the append behind it as well.
            let lost_entry = at.lost();
            let _ = self
                .queues
                .index_mut()
                .append(key, QueueOffset(lost), lost_entry);
            if lost % LOST_ENTRIES_STEP == 0 {
                self.write_queues().await?;
            }
        }
        Ok(())
    }

    /// Writes the queue index's pages when enough of them wait in memory.
    async fn write_queues(&self) -> Result<(), RecoverError> {
        if self.queues.needs_flush() {
            self.queues
                .flush()
                .await
                .map_err(|error| damaged(INDEX_FOLDER, &error))?;
        }
        Ok(())
    }

    async fn replay_run(
        &self,
        payload: &[u8],
        start: FilePosition,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoverError> {
        for entry in entries(payload, start) {
            self.index_entry(&entry, report).await?;
            for hash in entry.hashes() {
                self.keys.add_hash(hash, entry.position, entry.store_time);
            }
        }
        self.write_queues().await?;
        if self.keys.needs_write() {
            self.keys
                .write_frozen()
                .await
                .map_err(|error| damaged(KEYS_FOLDER, &error))?;
        }
        Ok(())
    }
}

fn assemble<D: Disk>(
    disk: D,
    options: StoreOptions,
    segments: Segments<D>,
    tail: Tail,
    start: StagingStart,
    (folder, indexes): (String, Indexes<D>),
) -> Rc<ShardStore<D>> {
    let cache = Rc::new(ReadCache::new(options.read_cache_bytes));
    let staging = Staging::new(tail, start);
    Rc::new(ShardStore {
        log: Rc::new(ShardLog::new(disk, options, segments, staging)),
        index: indexes.queues,
        keys: indexes.keys,
        cache,
        crowd: Crowd::default(),
        sparse_reads: Cell::default(),
        folder,
        store_id: start.store_id,
        unindexed: RefCell::default(),
        scratch: RefCell::new(Vec::new()),
        entry_scratch: RefCell::default(),
        upkeep: Signal::default(),
        keys_full: Signal::default(),
        upkeep_tasks: Cell::new(0),
        checkpoint_position: Cell::new(start.position),
        checkpointing: Cell::new(false),
        rested_ms: Cell::new(None),
        retained: super::retaining::Retained::default(),
        damage: super::damage::Damage::default(),
        checkpoint_bytes: Cell::new(0),
    })
}

const _: () = assert!(SEGMENT_BYTES_MIN > RECORD_BYTES_MAX + (64 << 10));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::EntryHead;
    use crate::sim_disk::SimDisk;
    use crate::units::StoreTimestamp;

    /// Damage of whole segments can take more records of a queue than any one run had.
    #[test]
    fn what_lies_behind_a_long_gap_keeps_its_offsets() {
        let disk = SimDisk::new(1);
        disk.block_on(async {
            let paged = PagedOptions::default();
            let queues = PagedIndex::open(disk.clone(), "i", paged, None).await;
            let keys = KeyIndex::open_with(disk.clone(), "k", None, 1000).await;
            let (queues, keys) = (queues.unwrap(), keys.unwrap());
            let indexes = Indexes { queues, keys };
            let key = QueueKey::new(1, 0);
            let mut report = RecoveryReport::default();
            let offsets = [0, 1_200_000, 1_200_001];
            for (position, offset) in (4096..).step_by(4096).zip(offsets) {
                let head = EntryHead {
                    record_bytes: 200,
                    key,
                    tags_code: 0,
                    keys_count: 0,
                };
                let entry = Entry {
                    head,
                    position: FilePosition(position),
                    queue_offset: QueueOffset(offset),
                    store_time: StoreTimestamp(1),
                    key_hashes: &[],
                    check: &[],
                    record: &[],
                };
                indexes.index_entry(&entry, &mut report).await.unwrap();
            }
            assert_eq!((report.records, report.damage.len()), (3, 1));
            let bounds = indexes.queues.index().bounds(key).unwrap();
            assert_eq!(bounds.max, QueueOffset(1_200_002));
        });
    }

    #[test]
    fn progress_is_told_once_a_second_and_not_before() {
        let mut progress = Progress::new(5);
        assert!(!progress.is_due(PROGRESS_US));
        assert!(progress.is_due(PROGRESS_US + 5));
        assert!(!progress.is_due(2 * PROGRESS_US));
        assert!(progress.is_due(2 * PROGRESS_US + 5));
    }
}
