//! Opening a shard: checkpoint, device, tail, and then the tasks.
//!
//! **Owns** the order of recovery.
//! **Lives on** the shard's core, at start only.
//! **Invariants** the ring is not written before what it has is on the device; the new epoch is
//! durable before a run of it can be.
//! **Limits** none: time follows from the checkpoint's distance.
//! **Not here** what counts as a run (`recovery`), what an index keeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::indexes::Indexes;
use super::known::Known;
use super::{RECORD_BYTES_MAX, RecoveryReport, ShardStore, StoreOptions};
use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::error::RecoverError;
use crate::format::{Identity, IdentityKind, RecordSeed, SHARD_FILE, segment_name, shard_folder};
use crate::identity;
use crate::log::aside;
use crate::log::checkpoint;
use crate::log::pieces::Crowd;
use crate::log::read_ahead::ReadCache;
use crate::log::recovery::{DeviceScan, END_READS_MAX, Scan, TailRuns};
use crate::log::segments::Segments;
use crate::log::shard_log::{NoSegment, ShardLog};
use crate::log::signal::Signal;
use crate::log::staging::{Staging, StagingStart};
use crate::log::{log_writer, segment_pool};
use crate::retention::floors;
use crate::tail::{Tail, TailMemory};
use crate::units::{BLOCK_BYTES, FilePosition};

/// The smallest segment a store may have: one largest record with its run, a power of two.
pub const SEGMENT_BYTES_MIN: u64 = RECORD_BYTES_MAX.next_power_of_two();

/// Time between two lines about a recovery that takes longer.
const PROGRESS_US: u64 = 1_000_000;

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
        let mut known = Known {
            checkpoint,
            is_whole_log: false,
        };
        let opening = Opening {
            disk: &disk,
            segments: &segments,
            place: (folder.as_str(), identity.id),
            options: &options,
        };
        let (mut indexes, is_damaged) = opening.indexes(&mut known, &mut tail).await?;
        let mut report = RecoveryReport {
            created,
            ..RecoveryReport::default()
        };
        let filled = opening.fill(&known, &mut indexes, &mut tail, &mut report);
        let (scan, tail_epoch) = filled.await?;
        let start = StagingStart {
            store_id: identity.id,
            epoch: known.next_epoch(&scan, tail_epoch, created, disk.now_ms()),
            sequence: known.next_sequence(&scan),
            position: scan.position.block_up(),
            segment_bytes: identity.segment_bytes,
        };
        report.end = start.position;
        report.epoch = start.epoch;
        let full = open_head(&segments, start.position).await?;
        let store = assemble(disk, options, segments, tail, start, (folder, indexes));
        *store.log.full.borrow_mut() = full;
        if is_damaged {
            store.damage.index_is_damaged();
        }
        store.note_key_damage();
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

/// What indexes are opened over.
struct Opening<'a, D: Disk> {
    disk: &'a D,
    segments: &'a Segments<D>,
    /// The shard's folder and secret number.
    place: (&'a str, u64),
    options: &'a StoreOptions,
}

impl<D: Disk> Opening<'_, D> {
    /// Opens both indexes as the checkpoint has them, or both empty, to be filled from the whole
    /// log, where they are damaged or there are none. Damaged ones are kept, and said to be so,
    /// while the log is damaged as well: what they have can be read, and they know which offset
    /// each queue gives next.
    async fn indexes(
        &self,
        known: &mut Known,
        tail: &mut Tail,
    ) -> Result<(Indexes<D>, bool), RecoverError> {
        let (folder, store_id) = self.place;
        let mut ends = Vec::new();
        if let Some(saved) = self.saved(known).await? {
            if !saved.is_damaged() && !known.is_suspect() {
                return Ok((saved, false));
            }
            if let Err(error) = self.look_at_log(known, tail).await {
                tracing::error!(
                    %error, shard = %self.options.shard,
                    "damaged indexes can't be made anew from a damaged log: some messages can't \
                     be read or found until that is repaired"
                );
                return Ok((saved, true));
            }
            ends = saved.into_ends();
        }
        if known.checkpoint.is_some() {
            tracing::warn!("the indexes are made anew from the whole log");
        }
        // Opening them empty removes the files an old checkpoint names; a death in the middle must
        // not leave one that can be read after all, nor take away how far the log is known to
        // reach.
        known.is_whole_log = true;
        let header = known.checkpoint.as_ref().map(|found| found.header);
        let forget = async || checkpoint::forget_parts(self.disk, folder, store_id, header).await;
        aside::with_reserve(self.disk, folder, forget).await?;
        let empty = Indexes::open(self.disk, folder, self.options, None).await?;
        if header.is_some() {
            // The files that are gone make up for what was used of it. A new store's first segment
            // comes before it.
            aside::keep_reserve(self.disk, folder).await;
        }
        let empty = empty.ok_or_else(|| RecoverError::Damaged {
            file: folder.to_owned(),
            detail: "no new indexes can be made".to_owned(),
        })?;
        Ok((empty.with_ends(ends), false))
    }

    /// Adds to the indexes what they lack of the log; returns where that ends, and the epoch of the
    /// process whose tail was found.
    async fn fill(
        &self,
        known: &Known,
        indexes: &mut Indexes<D>,
        tail: &mut Tail,
        report: &mut RecoveryReport,
    ) -> Result<(Scan, Option<u64>), RecoverError> {
        let (folder, store_id) = self.place;
        let floors = floors::read(self.disk, folder, store_id).await?;
        indexes.apply_floors(&floors, known.is_whole_log);
        let mut scan = known.first_scan(store_id, self.segments);
        report.scanned_from = scan.position;
        let mut replay = Replay {
            disk: self.disk,
            segments: self.segments,
            known,
            indexes: Some(indexes),
            report,
        };
        let tail_epoch = replay.run(tail, &mut scan).await?;
        indexes.keep_ends().await?;
        indexes.keys.tell_skipped();
        // A topic's own time may have taken records that only now are known again.
        indexes.apply_floors(&floors, false);
        let first = self.segments.first().unwrap_or_default();
        indexes.keys.drop_below(first);
        Ok((scan, tail_epoch))
    }

    /// The indexes of the checkpoint.
    async fn saved(&self, known: &Known) -> Result<Option<Indexes<D>>, RecoverError> {
        let checkpoint = known.checkpoint.as_ref();
        let parts = checkpoint.and_then(|found| found.parts.as_ref());
        if parts.is_none() {
            return Ok(None);
        }
        Indexes::open(self.disk, self.place.0, self.options, parts).await
    }

    /// Reads the log from its beginning to its end, as for making the indexes anew, which takes as
    /// long again: but what they have must not go before it is known that it comes back.
    async fn look_at_log(&self, known: &mut Known, tail: &mut Tail) -> Result<(), RecoverError> {
        known.is_whole_log = true;
        let mut scan = known.first_scan(self.place.1, self.segments);
        let mut report = RecoveryReport {
            scanned_from: scan.position,
            ..RecoveryReport::default()
        };
        let mut replay = Replay {
            disk: self.disk,
            segments: self.segments,
            known,
            indexes: None,
            report: &mut report,
        };
        let read = replay.run(tail, &mut scan).await;
        known.is_whole_log = false;
        read.map(drop)
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
    /// None where the log is only looked at.
    indexes: Option<&'a Indexes<D>>,
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
        self.known.check_reached(scan, self.segments)?;
        // A look is followed by a replay, whose sync may not be a second try of one that failed.
        if self.indexes.is_some() {
            device.sync(self.report.scanned_from, scan.position).await?;
        }
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
                if let Some(indexes) = self.indexes {
                    indexes.replay_run(run.payload, start, self.report).await?;
                }
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
            if let Some(indexes) = self.indexes {
                indexes.replay_run(&payload, start, self.report).await?;
            }
        }
        Ok(self.report.runs_from_tail > runs_before)
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
        record_seed: RecordSeed::of(start.store_id),
        unindexed: RefCell::default(),
        scratch: RefCell::new(Vec::new()),
        entry_scratch: RefCell::default(),
        upkeep: Signal::default(),
        keys_full: Signal::default(),
        upkeep_tasks: Cell::new(0),
        waits_for_quiet: Cell::new(false),
        checkpoint_position: Cell::new(start.position),
        checkpointing: Cell::new(false),
        rested_ms: Cell::new(None),
        retained: super::retaining::Retained::default(),
        damage: super::damage::Damage::default(),
        index_fault: RefCell::default(),
        checkpoint_bytes: Cell::new(0),
    })
}

const _: () = assert!(SEGMENT_BYTES_MIN > RECORD_BYTES_MAX + (64 << 10));

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
