//! The way out: ranges of a queue, single records, searches.
//!
//! **Owns** how much one read gives and in which memory it looks first.
//! **Lives on** the shard's core.
//! **Invariants** stored bytes go out as they are; nothing beyond the index, which holds only what
//! may be acknowledged.
//! **Limits** `ReadLimits`; `ENTRIES_STEP` index entries at a time; `DAMAGED_PASSED_MAX` records.
//! **Not here** index pages (`queue_index`), chunks of the device (`read_ahead`).

use bytes::{Bytes, BytesMut};

use super::{ReadLimits, ReadOutcome, RecordFilter, ShardStore};
use crate::address;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::format::{RECORD_CHECK_BYTES, RECORD_PEEK_BYTES, record_is_intact, record_peek};
use crate::key_index::{KeyIndexError, KeyQuery};
use crate::log::pieces::Pieces;
use crate::queue_index::{IndexEntry, Lookup};
use crate::shard_store::RECORD_BYTES_MAX;
use crate::units::{
    Boundary, FilePosition, PhysicalOffset, QueueKey, QueueOffset, StoreTimestamp, TopicId, index,
};

/// Damaged records that one read passes over, each at the price of a read of the device: whoever
/// reads is told soon where to go on, and does not ask for the same again after its timeout.
pub const DAMAGED_PASSED_MAX: u32 = 32;
/// Index entries looked up at a time.
const ENTRIES_STEP: usize = 256;

impl From<KeyIndexError> for ReadError {
    fn from(error: KeyIndexError) -> Self {
        match error {
            KeyIndexError::Disk(failed) if !error.is_damage() => Self::Disk(failed),
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
    /// Bytes of records that were fetched and not wanted.
    unwanted_bytes: u64,
    /// Damaged records passed over.
    damaged_count: u32,
}

impl Progress {
    fn step(&self, entry: &IndexEntry, wanted: &dyn RecordFilter) -> Step {
        if self.examined >= self.limits.entries_examined {
            return Step::Stop;
        }
        if entry.is_lost() || !wanted.wants_code(entry.tags_code) {
            return Step::Pass;
        }
        let looked_at = self.outcome.bytes + self.unwanted_bytes;
        if wanted.scan_bytes_max().is_some_and(|max| looked_at >= max) {
            return Step::Stop;
        }
        let bytes = self.outcome.bytes + u64::from(entry.length);
        let full = self.outcome.found >= self.limits.messages.max(1)
            || (self.outcome.found > 0 && bytes > self.limits.bytes);
        if full { Step::Stop } else { Step::Take }
    }

    /// What it may still give.
    fn left(&self) -> ReadLimits {
        ReadLimits {
            messages: self.limits.messages.saturating_sub(self.outcome.found),
            bytes: self.limits.bytes.saturating_sub(self.outcome.bytes),
            ..self.limits
        }
    }

    fn passed(&mut self) {
        self.examined += 1;
        self.outcome.next_offset = self.outcome.next_offset.next();
    }

    /// The record of `entry` was added to `out` at `before`: it stays there if it is wanted.
    fn fetched(
        &mut self,
        entry: &IndexEntry,
        wanted: &dyn RecordFilter,
        out: &mut BytesMut,
        before: usize,
    ) {
        let record = out.get(before..).unwrap_or_default();
        if !wanted.wants_record(record) {
            out.truncate(before);
            self.unwanted_bytes += u64::from(entry.length);
            return self.passed();
        }
        self.outcome.found += 1;
        self.outcome.bytes += u64::from(entry.length);
        self.outcome.first_position.get_or_insert(entry.position);
        self.passed();
    }

    /// The outcome of a read that met an error: what was found before it, or the error.
    fn ended(self, error: ReadError) -> Result<ReadOutcome, ReadError> {
        if self.outcome.found > 0 {
            return Ok(self.outcome);
        }
        Err(error)
    }

    /// Reserves at the first record what the rest of the read may need, so that `out` does not grow
    /// by copying what is in it already.
    fn make_room(&self, entries: Option<&[IndexEntry]>, out: &mut BytesMut) {
        if self.outcome.found > 0 {
            return;
        }
        let count = usize::try_from(self.limits.messages.max(1)).unwrap_or(usize::MAX);
        let lengths = entries.unwrap_or_default().iter().take(count);
        let bytes: u64 = lengths.map(|entry| u64::from(entry.length)).sum();
        out.reserve(usize::try_from(bytes.min(self.limits.bytes)).unwrap_or(0));
    }

    /// Entries worth looking up next.
    fn next_step(&self) -> usize {
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
            unwanted_bytes: 0,
            damaged_count: 0,
        }
    }

    /// Whether `pieces` have the first record that will be taken.
    fn has_first(pieces: &Pieces<D>, entries: &[IndexEntry], wanted: &dyn RecordFilter) -> bool {
        let mut taken = entries
            .iter()
            .filter(|entry| !entry.is_lost() && wanted.wants_code(entry.tags_code));
        taken.next().is_none_or(|entry| {
            let with_check = u64::from(entry.length) + RECORD_CHECK_BYTES;
            pieces.get(check_of(entry.position), with_check).is_some()
        })
    }

    /// Adds the record of `entry` to `out` if it is in memory: in the tail, which is never wrong,
    /// or as it was stored in `pieces` or a chunk.
    fn fetch_here(&self, pieces: &Pieces<D>, entry: &IndexEntry, out: &mut BytesMut) -> bool {
        let (position, len) = (entry.position, u64::from(entry.length));
        if self.log.read_hot(position, len, out) {
            return true;
        }
        let (at, with_check) = (check_of(position), len + RECORD_CHECK_BYTES);
        if let Some(bytes) = pieces.get(at, with_check) {
            return self.take_record(bytes, entry, out);
        }
        let Some((chunk, from)) = self.cache.find(at) else {
            return false;
        };
        self.cache.go_ahead(&self.log);
        let bytes = (*chunk).as_ref().get(from..from + index(with_check));
        bytes.is_some_and(|bytes| self.take_record(bytes, entry, out))
    }

    /// Adds the record behind its check in `bytes` to `out` if it is the one of `entry`.
    pub(super) fn take_record(&self, bytes: &[u8], entry: &IndexEntry, out: &mut BytesMut) -> bool {
        let Some((check, record)) = bytes.split_first_chunk() else {
            return false;
        };
        let is_record = self.is_record(*check, Some(record), entry);
        if is_record {
            out.extend_from_slice(record);
        }
        is_record
    }

    /// Adds `position..position + len` to `out`, whatever it is.
    async fn fetch_bytes(
        &self,
        position: FilePosition,
        len: u64,
        out: &mut BytesMut,
    ) -> Result<(), ReadError> {
        let before = out.len();
        if self.log.read_hot(position, len, out) {
            return Ok(());
        }
        let stable = self.log.marks.stable().0;
        let segments = &self.log.segments;
        let read = self
            .cache
            .read(segments, stable, (position, len), out)
            .await;
        self.cache.go_ahead(&self.log);
        if read.is_err() {
            out.truncate(before);
        }
        Ok(read?)
    }

    /// Adds the record of `entry` to `out` if it is what was stored. What is not, or could not be
    /// read with its neighbours, is read once more by itself.
    async fn fetch(&self, entry: &IndexEntry, out: &mut BytesMut) -> Result<(), ReadError> {
        let (position, len, before) = (entry.position, u64::from(entry.length), out.len());
        let at = check_of(position);
        let mut fetched = self.fetch_bytes(at, RECORD_CHECK_BYTES, out).await;
        if fetched.is_ok() {
            let check = take_check(out, before);
            fetched = self.fetch_bytes(position, len, out).await;
            if fetched.is_ok() && self.is_record(check, out.get(before..), entry) {
                return Ok(());
            }
        }
        out.truncate(before);
        match fetched {
            // Bytes are wrong, or one of the chunk's sectors can't be read: is it this record's?
            Ok(()) | Err(ReadError::Disk(_)) => self.read_again(entry, out).await,
            Err(error) => Err(error),
        }
    }

    /// Appends the records of `key` from `from` on that are `wanted` to `out`, byte for byte as
    /// stored, reading the device where needed. A damaged record is reported and passed over,
    /// [`DAMAGED_PASSED_MAX`] of them at most; when retention overtakes the reader, `bounds` says
    /// where the queue begins now.
    ///
    /// # Errors
    /// The device failed before anything was found.
    pub async fn read(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        wanted: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Result<ReadOutcome, ReadError> {
        let mut progress = self.progress(key, from, limits);
        let mut entries = Vec::new();
        let mut pieces = Pieces::default();
        loop {
            entries.clear();
            let next = progress.outcome.next_offset;
            let step = progress.next_step().min(step_for(limits));
            let count = match self.index.lookup(key, next, step, &mut entries).await {
                Ok(count) => count,
                Err(_) if next < self.min_of(key) => 0,
                Err(error) => return progress.ended(self.index_failed(error)),
            };
            // The queue may have grown, or lost its beginning, while the device was read.
            progress.outcome.bounds = self.bounds(key);
            if count == 0 {
                return Ok(progress.outcome);
            }
            if !Self::has_first(&pieces, &entries, wanted) {
                let left = progress.left();
                pieces = self.pieces_for((key, next), &entries, left, wanted).await;
            }
            for (index, entry) in entries.iter().enumerate() {
                match progress.step(entry, wanted) {
                    Step::Stop => return Ok(progress.outcome),
                    Step::Pass => progress.passed(),
                    Step::Take => {
                        progress.make_room(entries.get(index..), out);
                        let before = out.len();
                        if self.fetch_here(&pieces, entry, out) {
                            progress.fetched(entry, wanted, out, before);
                            continue;
                        }
                        let Err(error) = self.fetch(entry, out).await else {
                            progress.fetched(entry, wanted, out, before);
                            continue;
                        };
                        if self.is_gone(entry.position) {
                            self.begins_behind(key, progress.outcome.next_offset).await;
                            progress.outcome.bounds = self.bounds(key);
                            return Ok(progress.outcome);
                        }
                        if !matches!(error, ReadError::Damaged { .. }) {
                            return progress.ended(error);
                        }
                        self.report_damage(entry.position);
                        progress.passed();
                        progress.damaged_count += 1;
                        if progress.damaged_count >= DAMAGED_PASSED_MAX {
                            return Ok(progress.outcome);
                        }
                    }
                }
            }
        }
    }

    /// As `read`, from the tail only; `None` (and `out` as it was) when more is needed before
    /// anything was found.
    pub fn read_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        wanted: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Option<ReadOutcome> {
        let mut progress = self.progress(key, from, limits);
        let mut entries = self.scratch.take();
        let mut cold = false;
        'read: while !cold {
            entries.clear();
            let next = progress.outcome.next_offset;
            let step = progress.next_step().min(step_for(limits));
            match self.index.index().lookup_hot(key, next, step, &mut entries) {
                Lookup::Entries(0) => break,
                Lookup::Entries(_) => {}
                Lookup::NeedsPages(_) => cold = true,
            }
            for (index, entry) in entries.iter().enumerate() {
                match progress.step(entry, wanted) {
                    Step::Stop => break 'read,
                    Step::Pass => progress.passed(),
                    Step::Take => {
                        progress.make_room(entries.get(index..), out);
                        let before = out.len();
                        let len = u64::from(entry.length);
                        if !self.log.read_hot(entry.position, len, out) {
                            cold = true;
                            break;
                        }
                        progress.fetched(entry, wanted, out, before);
                    }
                }
            }
        }
        entries.clear();
        self.scratch.replace(entries);
        (!cold || progress.outcome.found > 0).then_some(progress.outcome)
    }

    /// Whether these bytes are the record the index means, as it was stored behind `check`.
    fn is_record(&self, check: [u8; 4], bytes: Option<&[u8]>, entry: &IndexEntry) -> bool {
        let physical = address::physical(self.log.options.shard, entry.position);
        bytes.is_some_and(|bytes| {
            record_peek(bytes) == Some((entry.length, physical.0))
                && record_is_intact(self.record_seed, &check, bytes)
        })
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
        let mut peeked = self
            .fetch_bytes(position, RECORD_PEEK_BYTES, &mut peek)
            .await;
        if matches!(peeked, Err(ReadError::Disk(_))) {
            peeked = self.peek_again(position, &mut peek).await;
        }
        if let Err(error) = peeked {
            let is_gone = self.is_gone(position);
            return Err(if is_gone { outside } else { error });
        }
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
        match self.fetch(&entry, &mut out).await {
            Ok(()) => Ok(out.freeze()),
            Err(_) if self.is_gone(position) => Err(outside),
            Err(error) => Err(error),
        }
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
        let found = self.index.search_by_time(key, time, boundary).await;
        found.map_err(|error| self.index_failed(error))
    }

    /// The offset of a queue's first record at or after `position`; the queue's next when none is.
    ///
    /// # Errors
    /// The device failed.
    pub async fn search_by_position(
        &self,
        key: QueueKey,
        position: FilePosition,
    ) -> Result<QueueOffset, ReadError> {
        let found = self.index.search_by_position(key, position).await;
        found.map_err(|error| self.index_failed(error))
    }

    /// Up to `entries_max` entries of a queue's index from `from` on, at least one for an offset
    /// inside the queue.
    ///
    /// # Errors
    /// The device failed.
    pub async fn entries(
        &self,
        key: QueueKey,
        from: QueueOffset,
        entries_max: usize,
    ) -> Result<Vec<IndexEntry>, ReadError> {
        let mut entries = Vec::new();
        let found = self.index.lookup(key, from, entries_max, &mut entries);
        match found.await {
            Ok(_) => Ok(entries),
            Err(error) => Err(self.index_failed(error)),
        }
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
        let entry = self.index.entry(key, offset).await;
        let entry = entry.map_err(|error| self.index_failed(error))?;
        Ok(entry.map(|entry| entry.store_time))
    }

    /// Physical offsets of at most `count_max` records of `topic` that carry `word`, stored within
    /// `begin_ms..=end_ms`, newest first. Hash collisions are possible: check the record.
    ///
    /// # Errors
    /// Nothing was found, and a part of the index can't be read.
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
        let found = self.keys.query(query).await;
        self.note_key_damage();
        Ok(found?
            .into_iter()
            .map(|position| address::physical(shard, position))
            .collect())
    }
}

/// Where the check of the record at `position` starts.
pub(super) fn check_of(position: FilePosition) -> FilePosition {
    FilePosition(position.0.saturating_sub(RECORD_CHECK_BYTES))
}

/// Takes the check at `at` out of `out` again.
fn take_check(out: &mut BytesMut, at: usize) -> [u8; 4] {
    let check = out.get(at..).and_then(|bytes| bytes.first_chunk().copied());
    out.truncate(at);
    check.unwrap_or_default()
}

/// A reader of few messages does not want hundreds of entries copied; the one behind those it wants
/// ends its read.
fn step_for(limits: ReadLimits) -> usize {
    usize::try_from(limits.messages.max(8)).map_or(ENTRIES_STEP, |messages| messages + 1)
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
