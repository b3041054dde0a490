//! The way out: ranges of a queue, single records, searches.
//!
//! **Owns** how much one read gives and in which memory it looks first.
//! **Lives on** the shard's core.
//! **Invariants** stored bytes go out as they are; nothing beyond the index, which holds only what
//! may be acknowledged.
//! **Limits** `ReadLimits`; `ENTRIES_STEP` index entries at a time.
//! **Not here** index pages (`queue_index`), chunks of the device (`read_ahead`).

use bytes::{Bytes, BytesMut};

use super::{ReadLimits, ReadOutcome, ShardStore};
use crate::address;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::format::{
    RECORD_CHECK_BYTES, RECORD_PEEK_BYTES, record_is_intact, record_peek, segment_name,
};
use crate::index_pages::page_files::PageFileError;
use crate::key_index::{KeyIndexError, KeyQuery};
use crate::queue_index::{IndexEntry, Lookup};
use crate::shard_store::RECORD_BYTES_MAX;
use crate::units::{
    Boundary, FilePosition, PhysicalOffset, QueueKey, QueueOffset, StoreTimestamp, TopicId,
};

/// Index entries looked up at a time.
const ENTRIES_STEP: usize = 256;

impl From<PageFileError> for ReadError {
    fn from(error: PageFileError) -> Self {
        match error {
            PageFileError::Disk(error) => Self::Disk(error),
            PageFileError::Damaged { .. } => Self::Index {
                detail: error.to_string(),
            },
        }
    }
}

impl From<KeyIndexError> for ReadError {
    fn from(error: KeyIndexError) -> Self {
        match error {
            KeyIndexError::Disk(error) => Self::Disk(error),
            other => Self::Index {
                detail: other.to_string(),
            },
        }
    }
}

/// What one entry does to a read.
enum Step {
    Pass,
    Take,
    Stop,
}

struct Progress {
    limits: ReadLimits,
    outcome: ReadOutcome,
    examined: u32,
}

impl Progress {
    fn step(&self, entry: &IndexEntry, filter: &dyn Fn(i64) -> bool) -> Step {
        if self.examined >= self.limits.entries_examined {
            return Step::Stop;
        }
        if !filter(entry.tags_code) {
            return Step::Pass;
        }
        let bytes = self.outcome.bytes + u64::from(entry.length);
        let full = self.outcome.found >= self.limits.messages.max(1)
            || (self.outcome.found > 0 && bytes > self.limits.bytes);
        if full { Step::Stop } else { Step::Take }
    }

    fn passed(&mut self) {
        self.examined += 1;
        self.outcome.next_offset = self.outcome.next_offset.next();
    }

    fn took(&mut self, entry: &IndexEntry) {
        self.outcome.found += 1;
        self.outcome.bytes += u64::from(entry.length);
        self.outcome.first_position.get_or_insert(entry.position);
        self.passed();
    }

    /// Entries worth looking up next.
    fn wanted(&self) -> usize {
        let left = self.limits.entries_examined.saturating_sub(self.examined);
        ENTRIES_STEP.min(usize::try_from(left).unwrap_or(ENTRIES_STEP))
    }
}

impl<D: Disk> ShardStore<D> {
    fn progress(&self, key: QueueKey, from: QueueOffset, limits: ReadLimits) -> Progress {
        let bounds = self.bounds(key);
        let outcome = ReadOutcome {
            next_offset: from,
            bounds,
            ..ReadOutcome::default()
        };
        Progress {
            limits,
            outcome,
            examined: 0,
        }
    }

    fn fetch_hot(&self, entry: &IndexEntry, out: &mut BytesMut) -> bool {
        let (position, len) = (entry.position, u64::from(entry.length));
        if self.log.read_hot(position, len, out) {
            return true;
        }
        let (at, before) = (check_of(position), out.len());
        let mut check = BytesMut::new();
        let found = self.cache.read_hot(at, RECORD_CHECK_BYTES, &mut check)
            && self.cache.read_hot(position, len, out);
        if found && self.is_record(&check, out.get(before..).unwrap_or_default(), entry) {
            return true;
        }
        out.truncate(before);
        false
    }

    /// Adds `position..position + len` to `out`, whatever it is.
    async fn fetch_bytes(
        &self,
        position: FilePosition,
        len: u64,
        out: &mut BytesMut,
    ) -> Result<(), ReadError> {
        if self.log.read_hot(position, len, out) {
            return Ok(());
        }
        let stable = self.log.marks.stable().0;
        let segments = &self.log.segments;
        Ok(self
            .cache
            .read(segments, stable, (position, len), out)
            .await?)
    }

    /// Adds the record of `entry` to `out` once it is known to be what was stored.
    async fn fetch(&self, entry: &IndexEntry, out: &mut BytesMut) -> Result<(), ReadError> {
        let (position, len) = (entry.position, u64::from(entry.length));
        let before = out.len();
        let mut check = BytesMut::new();
        let mut read = self
            .fetch_bytes(check_of(position), RECORD_CHECK_BYTES, &mut check)
            .await;
        if read.is_ok() {
            read = self.fetch_bytes(position, len, out).await;
        }
        if read.is_ok() && !self.is_record(&check, out.get(before..).unwrap_or_default(), entry) {
            // The device may have been wrong only once.
            self.cache
                .forget(check_of(position), len + RECORD_CHECK_BYTES);
            read = Err(self.damaged(position));
        }
        if read.is_err() {
            out.truncate(before);
        }
        read
    }

    /// Appends the records of `key` from `from` on whose tags code passes `filter` to `out`, byte
    /// for byte as stored, reading the device where needed.
    ///
    /// # Errors
    /// The device failed, or what is there is not a record.
    pub async fn read(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn Fn(i64) -> bool,
        out: &mut BytesMut,
    ) -> Result<ReadOutcome, ReadError> {
        let mut progress = self.progress(key, from, limits);
        let mut entries = Vec::new();
        loop {
            entries.clear();
            let next = progress.outcome.next_offset;
            let count = self
                .index
                .lookup(key, next, progress.wanted(), &mut entries)
                .await?;
            // The queue may have grown while the device was read.
            progress.outcome.bounds = self.bounds(key);
            if count == 0 {
                return Ok(progress.outcome);
            }
            for entry in &entries {
                match progress.step(entry, filter) {
                    Step::Stop => return Ok(progress.outcome),
                    Step::Pass => progress.passed(),
                    Step::Take => match self.fetch(entry, out).await {
                        Ok(()) => progress.took(entry),
                        // What lies before it is given; the next read begins with the fault.
                        Err(_) if progress.outcome.found > 0 => return Ok(progress.outcome),
                        Err(error) => return Err(error),
                    },
                }
            }
        }
    }

    /// As `read`, from memory only; `None` (and `out` as it was) when the device is needed before
    /// anything was found.
    pub fn read_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn Fn(i64) -> bool,
        out: &mut BytesMut,
    ) -> Option<ReadOutcome> {
        let mut progress = self.progress(key, from, limits);
        let mut entries = self.scratch.take();
        let mut cold = false;
        'read: while !cold {
            entries.clear();
            let next = progress.outcome.next_offset;
            let wanted = progress.wanted().min(step_for(limits));
            match self
                .index
                .index()
                .lookup_hot(key, next, wanted, &mut entries)
            {
                Lookup::Entries(0) => break,
                Lookup::Entries(_) => {}
                Lookup::NeedsPages(_) => cold = true,
            }
            for entry in &entries {
                match progress.step(entry, filter) {
                    Step::Stop => break 'read,
                    Step::Pass => progress.passed(),
                    Step::Take if self.fetch_hot(entry, out) => progress.took(entry),
                    Step::Take => {
                        cold = true;
                        break;
                    }
                }
            }
        }
        entries.clear();
        self.scratch.replace(entries);
        (!cold || progress.outcome.found > 0).then_some(progress.outcome)
    }

    fn is_record(&self, check: &[u8], bytes: &[u8], entry: &IndexEntry) -> bool {
        let physical = address::physical(self.log.options.shard, entry.position);
        record_peek(bytes) == Some((entry.length, physical.0))
            && record_is_intact(self.store_id, check, bytes)
    }

    fn damaged(&self, position: FilePosition) -> ReadError {
        let start = self.log.segments.start_of(position);
        let file = format!("{}/{}", self.folder, segment_name(start));
        ReadError::Damaged { file, position }
    }

    /// The record at a physical offset.
    ///
    /// # Errors
    /// `Outside` when the log does not reach there, `Damaged` when no record starts there.
    pub async fn record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        let outside = ReadError::Outside { physical };
        let Some((shard, position)) = address::locate(physical) else {
            return Err(outside);
        };
        let end = self.acknowledged();
        let exists = self.log.segments.exists(position);
        if shard != self.log.options.shard || !exists || end.since(position) < RECORD_PEEK_BYTES {
            return Err(outside);
        }
        let mut peek = BytesMut::new();
        self.fetch_bytes(position, RECORD_PEEK_BYTES, &mut peek)
            .await?;
        let Some((length, own)) = record_peek(&peek) else {
            return Err(self.damaged(position));
        };
        let bytes = u64::from(length);
        let fits = (RECORD_PEEK_BYTES..=RECORD_BYTES_MAX).contains(&bytes)
            && position.plus(bytes) <= end
            && position.0 >= RECORD_CHECK_BYTES;
        if own != physical.0 || !fits {
            self.cache.forget(position, RECORD_PEEK_BYTES);
            return Err(self.damaged(position));
        }
        let entry = IndexEntry {
            position,
            length,
            tags_code: 0,
            store_time: StoreTimestamp(0),
        };
        let mut out = BytesMut::new();
        self.fetch(&entry, &mut out).await?;
        Ok(out.freeze())
    }

    /// The offset of the first record stored at or after `time` (`Lower`), or of the last of
    /// those with that time (`Upper`); beyond the newest: `max`.
    ///
    /// # Errors
    /// The device failed.
    pub async fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        Ok(self.index.search_by_time(key, time, boundary).await?)
    }

    /// When the record at `offset` was stored; `None` outside the queue.
    ///
    /// # Errors
    /// The device failed.
    pub async fn store_time_at(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<StoreTimestamp>, ReadError> {
        Ok(self
            .index
            .entry(key, offset)
            .await?
            .map(|entry| entry.store_time))
    }

    /// Physical offsets of at most `count_max` records of `topic` that carry `word`, stored within
    /// `begin_ms..=end_ms`, newest first. Hash collisions are possible: check the record.
    ///
    /// # Errors
    /// The device failed.
    pub async fn query_key(
        &self,
        topic: TopicId,
        word: &str,
        begin_ms: u64,
        end_ms: u64,
        count_max: usize,
    ) -> Result<Vec<PhysicalOffset>, ReadError> {
        let query = KeyQuery {
            topic,
            key: word.as_bytes(),
            begin: StoreTimestamp(begin_ms),
            end: StoreTimestamp(end_ms),
            count_max,
        };
        let shard = self.log.options.shard;
        let positions = self.keys.query(query).await?;
        Ok(positions
            .into_iter()
            .map(|position| address::physical(shard, position))
            .collect())
    }
}

/// Where the check of the record at `position` starts.
fn check_of(position: FilePosition) -> FilePosition {
    FilePosition(position.0.saturating_sub(RECORD_CHECK_BYTES))
}

/// A reader of few messages does not want hundreds of entries copied.
fn step_for(limits: ReadLimits) -> usize {
    usize::try_from(limits.messages.max(8)).unwrap_or(ENTRIES_STEP)
}
