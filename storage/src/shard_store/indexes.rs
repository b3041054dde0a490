//! The indexes while a start fills them.
//!
//! **Owns** opening them as a checkpoint has them, or empty; what an entry of the log adds to them.
//! **Lives on** the shard's core, at start only.
//! **Invariants** a queue's offsets keep their records, whatever is lost before them.
//! **Limits** [`LOST_BEFORE_MAX`] lost offsets at a queue's beginning; `index_waiting_bytes` of
//! pages that the device does not take.
//! **Not here** which checkpoint, which part of the log (`opening`).

use std::cell::Cell;
use std::ops::Range;

use super::{RecoveryReport, StoreOptions};
use crate::disk::{Disk, DiskError};
use crate::error::RecoverError;
use crate::format::{Entry, INDEX_FOLDER, KEYS_FOLDER, entries};
use crate::index_pages::page_files::{PLACE_TRIES_MAX, PageFileError};
use crate::key_index::{KeyIndex, KeyIndexError};
use crate::log::checkpoint::Parts;
use crate::queue_index::paged::{PagedIndex, PagedOptions};
use crate::queue_index::{Added, IndexAppendError, IndexEntry, IndexLimits};
use crate::retention::floors::Floor;
use crate::units::{FilePosition, QueueKey, QueueOffset, index};

/// Lost offsets before a queue's first record that are entered; where there are more, it begins
/// there.
const LOST_BEFORE_MAX: u64 = 1 << 20;
/// Lost offsets entered between two looks whether the index should be written.
const LOST_ENTRIES_STEP: u64 = 4096;
/// What the device did not take isn't tried again before so many runs.
const RUNS_BETWEEN_TRIES: u32 = 256;
/// Writes in a row before that, where the device failed: the last one goes to another place.
const TRIES_MAX: u32 = PLACE_TRIES_MAX + 1;

/// The indexes while they are being filled.
pub(super) struct Indexes<D: Disk> {
    pub(super) queues: PagedIndex<D>,
    pub(super) keys: KeyIndex<D>,
    /// Where queues were known to go on before the indexes were made anew.
    ends: Vec<(QueueKey, QueueOffset)>,
    /// Runs until writing is tried again.
    rest: Cell<u32>,
}

impl<D: Disk> Indexes<D> {
    /// Opens both as `parts` have them, of which files may be missing, or both empty; `None` when
    /// the parts are unusable.
    ///
    /// # Errors
    /// As the device says.
    pub(super) async fn open(
        disk: &D,
        folder: &str,
        options: &StoreOptions,
        parts: Option<&Parts>,
    ) -> Result<Option<Self>, RecoverError> {
        let limits = IndexLimits {
            resident_bytes_max: index(options.index_cache_bytes),
            hot_bytes_max: index(options.index_cache_bytes / 2),
        };
        let paged = PagedOptions {
            limits,
            flush_bytes: options.index_flush_bytes,
            unwritten_bytes_max: options.index_waiting_bytes,
            ..PagedOptions::default()
        };
        let index_folder = format!("{folder}/{INDEX_FOLDER}");
        let keys_folder = format!("{folder}/{KEYS_FOLDER}");
        let (queues, keys) = (parts.map(|one| &*one.index), parts.map(|one| &*one.keys));
        let queues = PagedIndex::open(disk.clone(), &index_folder, paged, queues).await;
        let entries_max = options.key_entries_max;
        let keys = KeyIndex::open_with(disk.clone(), &keys_folder, keys, entries_max).await;
        match (queues, keys) {
            (Ok(queues), Ok(keys)) => Ok(Some(Self {
                queues,
                keys,
                ends: Vec::new(),
                rest: Cell::default(),
            })),
            (Err(error), _) if !error.is_damage() => Err(damaged(folder, &error)),
            (_, Err(KeyIndexError::Disk(error))) => Err(error.into()),
            (queues, keys) => {
                let (queues, keys) = (queues.err(), keys.err());
                tracing::warn!(?queues, ?keys, "the checkpoint's indexes are unusable");
                Ok(None)
            }
        }
    }

    /// Whether files were missing when they were opened, or were met damaged since.
    pub(super) fn is_damaged(&self) -> bool {
        let queues = self.queues.damage();
        if let Some(error) = &queues {
            tracing::error!(%error, "the queue index is damaged");
        }
        queues.is_some() || self.keys.has_damage()
    }

    /// Where each queue goes on.
    pub(super) fn into_ends(self) -> Vec<(QueueKey, QueueOffset)> {
        let index = self.queues.index();
        let ends = index.queues().map(|(key, bounds)| (key, bounds.max));
        ends.collect()
    }

    /// The log fills these, and no queue goes on before its end of `ends`.
    pub(super) fn with_ends(self, ends: Vec<(QueueKey, QueueOffset)>) -> Self {
        Self { ends, ..self }
    }

    /// Offsets that were given out are not given out again, though the log has lost their records:
    /// a repair puts nothing behind a queue's last one.
    pub(super) async fn keep_ends(&mut self) -> Result<(), RecoverError> {
        for (key, end) in std::mem::take(&mut self.ends) {
            let bounds = self.queues.index().bounds(key).unwrap_or_default();
            if bounds.max >= end {
                continue;
            }
            let last = QueueOffset(bounds.max.0.saturating_sub(1));
            let entry = self.queues.entry(key, last).await;
            match entry.map_err(|error| damaged(INDEX_FOLDER, &error))? {
                Some(entry) => self.enter_lost(key, bounds.max..end, entry).await?,
                None => self.queues.index_mut().begin_at(key, end),
            }
        }
        Ok(())
    }

    /// Lets queues begin where retention left them; `is_whole_log`: also those that the index does
    /// not know, because their records are gone.
    pub(super) fn apply_floors(&self, floors: &[Floor], is_whole_log: bool) {
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
        let is_resting = self.rest.get() > 0 && !self.queues.is_overdue();
        if is_resting || !self.queues.needs_flush() {
            return Ok(());
        }
        // Again until pages that fail go to another place.
        let is_lasting =
            |error: &_| matches!(error, PageFileError::Disk(error) if is_of_place(error));
        match tried(async || self.queues.flush().await, is_lasting).await {
            Ok(()) => Ok(()),
            Err(PageFileError::Disk(error)) => self.put_off(error),
            Err(error) => Err(damaged(INDEX_FOLDER, &error)),
        }
    }

    async fn write_keys(&self) -> Result<(), RecoverError> {
        if self.rest.get() > 0 || !self.keys.is_crowded() {
            return Ok(());
        }
        // Again, each time to another file.
        let is_lasting =
            |error: &_| matches!(error, KeyIndexError::Disk(error) if is_of_place(error));
        match tried(async || self.keys.write_frozen().await, is_lasting).await {
            Ok(()) => Ok(()),
            Err(KeyIndexError::Disk(error)) => self.put_off(error),
            Err(error) => Err(damaged(KEYS_FOLDER, &error)),
        }
    }

    /// As while the store is running: what the device does not take, or for want of a handle, waits
    /// in memory. The checkpoint that ends a start has space of its own.
    fn put_off(&self, error: DiskError) -> Result<(), RecoverError> {
        if self.queues.is_overdue() {
            return Err(error.into());
        }
        tracing::warn!(%error, "index pages can't be written: they wait in memory");
        self.rest.set(RUNS_BETWEEN_TRIES);
        Ok(())
    }

    pub(super) async fn replay_run(
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
        self.rest.set(self.rest.get().saturating_sub(1));
        self.write_queues().await?;
        self.write_keys().await
    }
}

/// Whether another place may be better: not when the device is full, or too many files are open.
fn is_of_place(error: &DiskError) -> bool {
    !error.is_no_space() && !error.is_no_handle()
}

/// Writes again while that fails so that another try may succeed.
async fn tried<E>(
    write: impl AsyncFn() -> Result<(), E>,
    is_worth_it: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..TRIES_MAX {
        match write().await {
            Err(error) if is_worth_it(&error) => {}
            written => return written,
        }
    }
    write().await
}

fn damaged(folder: &str, error: &dyn std::fmt::Display) -> RecoverError {
    RecoverError::Damaged {
        file: folder.to_owned(),
        detail: error.to_string(),
    }
}

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
            let indexes = Indexes {
                queues,
                keys,
                ends: Vec::new(),
                rest: Cell::default(),
            };
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
}
