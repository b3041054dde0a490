//! The key index of one shard: from a message key to the records that carry it, newest first.
//!
//! **Owns** entries not yet on the device, the list of partitions, and what a checkpoint must know.
//! **Lives on** one data core; `add` is synchronous, the rest waits on the device.
//! **Invariants** derived from the log: a crash loses nothing that replay does not bring back;
//! every entry is in exactly one of active, frozen, partition; sources are ordered by log position;
//! a file is removed only when no checkpoint names it and no query or merge holds its partition;
//! a damaged partition is asked for what it still gives and never merged: it hides its own entries,
//! and keeps nothing else from the device.
//! **Limits** `ACTIVE_ENTRIES_MAX`, and the memory of two such buffers kept for writing the next;
//! `FROZEN_MAX` (beyond it entries are skipped and counted, the device has then taken nothing for
//! `FROZEN_MAX × ACTIVE_ENTRIES_MAX` keys), `MERGE_COUNT`, `RETIRED_MAX` (beyond it nothing is
//! merged).
//! **Not here** which keys a record has (the actors), comparing the keys themselves (the clients
//! do: hash collisions give additional answers, as `RocketMQ`'s own index does).

mod merging;
mod partition;
mod snapshot;
mod sorting;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use thiserror::Error;

pub(crate) use snapshot::covered;
pub use snapshot::{KeySnapshot, KeySnapshotError};

use crate::disk::{DirEntry, Disk, DiskError, DiskErrorKind};
use crate::units::{FilePosition, StoreTimestamp, TopicId};
use partition::{Partition, PartitionWriter};
use sorting::Buckets;

/// Entries collected in memory before they become a partition: 1.5 MiB, 32,000 records with a
/// unique key and one more. One linear scan of them in a query takes about 50 µs.
pub const ACTIVE_ENTRIES_MAX: usize = 64 << 10;
/// Full buffers that may wait for the device: 12 MiB.
pub const FROZEN_MAX: usize = 8;
/// With so many a start writes them before it goes on: one more may become full meanwhile.
const CROWDED: usize = FROZEN_MAX - 2;
/// So many neighbouring small partitions become one: a query reads each partition about twice.
pub const MERGE_COUNT: usize = 16;
/// So many partitions may wait for the next checkpoint, and for the queries that hold them, to be
/// removed, with those that failed half-way: twelve merges.
const RETIRED_MAX: usize = 12 * MERGE_COUNT;
/// A merged partition is not merged again; it holds about a million entries.
const LEVEL_MERGED: u32 = 1;
/// Between two lines about keys that were left out: as long as the device takes nothing, there are
/// more with every message.
const TELL_US: u64 = 60_000_000;
/// Entries sorted and written between two yields: some 0.05 ms.
const WRITE_SLICE: usize = 2048;

/// One key of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) hash: u64,
    pub(crate) position: FilePosition,
    pub(crate) time: StoreTimestamp,
}

/// Why the key index could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyIndexError {
    /// The device failed.
    #[error("key index: {0}")]
    Disk(#[from] DiskError),
    /// A partition does not hold what was written.
    #[error("{file}, page {page}: {detail}")]
    Damaged {
        /// The file.
        file: String,
        /// The 4 KiB page, 0 for the head.
        page: u64,
        /// What is wrong.
        detail: &'static str,
    },
    /// A partition is not there, or not all of it.
    #[error("{file} is missing or too short")]
    Missing {
        /// The file.
        file: String,
    },
    /// The checkpoint's part is unusable: open without it and replay the log from its start.
    #[error(transparent)]
    Snapshot(#[from] KeySnapshotError),
}

impl KeyIndexError {
    /// Whether entries are gone for good, whatever the device does next. Files in use are never
    /// removed: one that is not there is damage.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing { .. } | Self::Snapshot(_) => true,
            Self::Disk(error) => error.kind == DiskErrorKind::Lost || error.is_not_found(),
        }
    }
}

/// What a key query wants.
#[derive(Clone, Copy, Debug)]
pub struct KeyQuery<'a> {
    /// The topic.
    pub topic: TopicId,
    /// The key: a unique key or one token of KEYS.
    pub key: &'a [u8],
    /// Earliest store time, inclusive.
    pub begin: StoreTimestamp,
    /// Latest store time, inclusive.
    pub end: StoreTimestamp,
    /// Most positions wanted.
    pub count_max: usize,
}

/// Entries in memory and the time they span.
#[derive(Debug)]
struct Buffer {
    entries: Vec<KeyEntry>,
    time_min: StoreTimestamp,
    time_max: StoreTimestamp,
}

impl Default for Buffer {
    fn default() -> Self {
        let (time_min, time_max) = (StoreTimestamp(u64::MAX), StoreTimestamp(0));
        Self {
            entries: Vec::new(),
            time_min,
            time_max,
        }
    }
}

impl Buffer {
    #[inline]
    fn push(&mut self, entry: KeyEntry) {
        self.time_min = self.time_min.min(entry.time);
        self.time_max = self.time_max.max(entry.time);
        self.entries.push(entry);
    }

    fn find(&self, wanted: &Wanted, out: &mut Vec<FilePosition>) {
        if self.time_max < wanted.begin || self.time_min > wanted.end {
            return;
        }
        for entry in self.entries.iter().rev() {
            if out.len() >= wanted.count_max {
                return;
            }
            wanted.take(entry, out);
        }
    }
}

/// A query after hashing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    hash: u64,
    begin: StoreTimestamp,
    end: StoreTimestamp,
    position_min: FilePosition,
    count_max: usize,
}

impl Wanted {
    fn take(&self, entry: &KeyEntry, out: &mut Vec<FilePosition>) {
        let hit = entry.hash == self.hash
            && (self.begin..=self.end).contains(&entry.time)
            && entry.position >= self.position_min;
        // The same key twice in one record (a unique key that is also in KEYS) is one answer.
        if hit && out.last() != Some(&entry.position) {
            out.push(entry.position);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    active: Buffer,
    frozen: VecDeque<Rc<Buffer>>,
    /// Memory of the last one written, for the next one: the kernel would give new pages.
    spare: Vec<KeyEntry>,
    partitions: Vec<Rc<Partition>>,
    next_number: u64,
    /// Position after the last record added; replay below it is ignored.
    covered: FilePosition,
    last_position: Option<FilePosition>,
    position_min: FilePosition,
    /// No longer part of the index, but a query that began before may still read them.
    retired: Vec<Rc<Partition>>,
    /// Files of partitions that were not finished: nobody knows them.
    discarded: Vec<u64>,
    skipped: u64,
    /// Of these, those of which the log was told, and when it was last.
    told: (u64, Option<u64>),
}

/// The key index of a shard.
pub struct KeyIndex<D: Disk> {
    disk: D,
    folder: String,
    entries_max: usize,
    state: RefCell<State>,
    writing: Cell<bool>,
    /// For sorting full buffers.
    buckets: RefCell<Buckets>,
}

/// The 64-bit hash under which a key of a topic is found.
#[inline]
pub fn key_hash(topic: TopicId, key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(topic.0))
}

impl<D: Disk> KeyIndex<D> {
    /// Opens the index in `folder`; `snapshot` is the checkpoint's part, none for an empty index
    /// that the log fills again. Partitions the snapshot does not name are removed; of those that
    /// are not there, see `has_damage`.
    ///
    /// # Errors
    /// `Snapshot` (open again without one), or as the device says.
    pub async fn open(
        disk: D,
        folder: &str,
        snapshot: Option<&[u8]>,
    ) -> Result<Self, KeyIndexError> {
        Self::open_with(disk, folder, snapshot, ACTIVE_ENTRIES_MAX).await
    }

    /// `open` with buffers of `entries_max` instead of `ACTIVE_ENTRIES_MAX` entries.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_with(
        disk: D,
        folder: &str,
        snapshot: Option<&[u8]>,
        entries_max: usize,
    ) -> Result<Self, KeyIndexError> {
        let state = match snapshot {
            Some(bytes) => snapshot::restore(bytes)?,
            None => State::default(),
        };
        disk.make_dir(folder).await?;
        let found = disk.list(folder).await?;
        for entry in &found {
            let Some(number) = partition::number_of(&entry.name) else {
                continue;
            };
            if !state
                .partitions
                .iter()
                .any(|partition| partition.number == number)
            {
                disk.remove(&format!("{folder}/{}", entry.name)).await?;
            }
        }
        for partition in &state.partitions {
            let bytes = partition::file_bytes(partition.count);
            let is_it = |found: &DirEntry| {
                partition::number_of(&found.name) == Some(partition.number) && found.len >= bytes
            };
            if !found.iter().any(is_it) {
                let file = partition::file_name(folder, partition.number);
                partition.damaged(&KeyIndexError::Missing { file });
            }
        }
        Ok(Self {
            disk,
            folder: folder.to_owned(),
            entries_max,
            state: RefCell::new(state),
            writing: Cell::new(false),
            buckets: RefCell::default(),
        })
    }

    /// Adds one key of the record at `position`. Records come in log order; all keys of a record
    /// are added in one turn. Positions the index has already (replay) are ignored. Replay calls
    /// `write_frozen` whenever it `is_crowded`, as nothing else runs then.
    #[inline]
    pub fn add(&self, topic: TopicId, key: &[u8], position: FilePosition, time: StoreTimestamp) {
        self.add_hash(key_hash(topic, key), position, time);
    }

    /// `add` of a key hashed before (by `key_hash`), as the log keeps it.
    #[inline]
    pub fn add_hash(&self, hash: u64, position: FilePosition, time: StoreTimestamp) {
        let mut state = self.state.borrow_mut();
        if position < state.covered {
            return;
        }
        if state.active.entries.len() >= self.entries_max && !state.freeze(self.entries_max) {
            return;
        }
        state.active.push(KeyEntry {
            hash,
            position,
            time,
        });
        state.last_position = Some(position);
    }

    /// Whether a full buffer waits for `write_frozen`.
    pub fn needs_write(&self) -> bool {
        !self.state.borrow().frozen.is_empty() && !self.writing.get()
    }

    /// Whether so many wait that a start, which has better things to do, should write them.
    pub fn is_crowded(&self) -> bool {
        self.state.borrow().frozen.len() >= CROWDED
    }

    /// Keys not indexed because the device took nothing for too long.
    pub fn skipped_count(&self) -> u64 {
        self.state.borrow().skipped
    }

    /// Says how many keys were left out since it was last said, at most once a `TELL_US`; gives
    /// that number, 0 if nothing was said.
    pub fn tell_skipped(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let (told, told_us) = state.told;
        let keys = state.skipped - told;
        let now_us = self.disk.now_mono_us();
        let is_early = told_us.is_some_and(|at| now_us.saturating_sub(at) < TELL_US);
        if keys == 0 || is_early {
            return 0;
        }
        state.told = (state.skipped, Some(now_us));
        tracing::warn!(
            keys, folder = %self.folder,
            "keys of messages are left out of the key index: they won't be found by them"
        );
        keys
    }

    /// Number of partitions on the device.
    pub fn partitions_count(&self) -> usize {
        self.state.borrow().partitions.len()
    }

    /// Whether a partition in use was met damaged since the start.
    pub fn has_damage(&self) -> bool {
        let state = self.state.borrow();
        state.partitions.iter().any(|one| one.is_damaged.get())
    }

    /// Positions of the records with this key, newest first; without those that only a partition
    /// knows that can't be read.
    ///
    /// # Errors
    /// Nothing was found, and there is a partition that can't be read.
    pub async fn query(&self, query: KeyQuery<'_>) -> Result<Vec<FilePosition>, KeyIndexError> {
        let mut out = Vec::new();
        let (wanted, partitions) = {
            let state = self.state.borrow();
            let wanted = Wanted {
                hash: key_hash(query.topic, query.key),
                begin: query.begin,
                end: query.end,
                position_min: state.position_min,
                count_max: query.count_max,
            };
            state.active.find(&wanted, &mut out);
            for frozen in state.frozen.iter().rev() {
                frozen.find(&wanted, &mut out);
            }
            (wanted, state.partitions.clone())
        };
        let mut failed = None;
        for partition in partitions.iter().rev() {
            if out.len() >= wanted.count_max {
                break;
            }
            let found = partition.find(&self.disk, &self.folder, &wanted, &mut out);
            if let Err(error) = found.await {
                failed.get_or_insert(error);
            }
        }
        match failed {
            // "There is none" would not be true.
            Some(error) if out.is_empty() => Err(error),
            _ => Ok(out),
        }
    }

    /// Writes full buffers as partitions and merges small ones, yielding every fraction of a
    /// millisecond. One at a time; a second call returns at once. A merge that fails keeps nothing
    /// in memory: there are more partitions until one that can be read goes through.
    ///
    /// # Errors
    /// As the device says; the entries stay in memory and the next call tries again.
    pub async fn write_frozen(&self) -> Result<(), KeyIndexError> {
        if self.writing.replace(true) {
            return Ok(());
        }
        let result = self.write_and_merge().await;
        self.writing.set(false);
        result
    }

    async fn write_and_merge(&self) -> Result<(), KeyIndexError> {
        loop {
            let front = self.state.borrow().frozen.front().cloned();
            let Some(frozen) = front else { break };
            let number = self.take_number();
            let written = self.write_partition(&frozen, number).await;
            let partition = written.inspect_err(|_| self.discard(number))?;
            {
                let mut state = self.state.borrow_mut();
                state.partitions.push(Rc::new(partition));
                state.frozen.pop_front();
                if let Some(written) = Rc::into_inner(frozen) {
                    state.spare = written.entries;
                    state.spare.clear();
                }
            }
            if let Some(small) = self.mergeable() {
                let number = self.take_number();
                if let Err(error) = self.merge(&small, number).await {
                    self.discard(number);
                    tracing::warn!(%error, "parts of the key index were not merged");
                }
            }
        }
        Ok(())
    }

    /// A partition that was not finished: its file goes with the next checkpoint.
    fn discard(&self, number: u64) {
        self.state.borrow_mut().discarded.push(number);
    }

    fn take_number(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.next_number += 1;
        state.next_number
    }

    async fn write_partition(
        &self,
        frozen: &Buffer,
        number: u64,
    ) -> Result<Partition, KeyIndexError> {
        let mut buckets = self.buckets.take();
        buckets.distribute(&self.disk, &frozen.entries).await;
        let count = frozen.entries.len() as u64;
        let mut writer =
            PartitionWriter::create(&self.disk, &self.folder, number, 0, count).await?;
        for slice in buckets.sorted(WRITE_SLICE) {
            writer.push(slice).await?;
            self.disk.yield_now().await;
        }
        self.buckets.replace(buckets);
        writer.finish().await
    }

    /// The last `MERGE_COUNT` partitions, if none of them was merged or is damaged, and their
    /// files may go.
    fn mergeable(&self) -> Option<Vec<Rc<Partition>>> {
        let state = self.state.borrow();
        if state.retired.len() + state.discarded.len() + MERGE_COUNT > RETIRED_MAX {
            return None;
        }
        let from = state.partitions.len().checked_sub(MERGE_COUNT)?;
        let last = state.partitions.get(from..)?;
        last.iter()
            .all(|partition| partition.level < LEVEL_MERGED && !partition.is_damaged.get())
            .then(|| last.to_vec())
    }

    async fn merge(&self, small: &[Rc<Partition>], number: u64) -> Result<(), KeyIndexError> {
        let count = small.iter().map(|partition| partition.count).sum();
        let (disk, folder) = (&self.disk, &self.folder);
        let mut writer = PartitionWriter::create(disk, folder, number, LEVEL_MERGED, count).await?;
        merging::merge(disk, folder, small, &mut writer).await?;
        let merged = Rc::new(writer.finish().await?);
        let mut state = self.state.borrow_mut();
        let is_old = |partition: &Rc<Partition>| small.iter().any(|old| Rc::ptr_eq(old, partition));
        // Retention may have dropped some meanwhile: the merged one takes the place of the rest.
        let at = state.partitions.iter().position(is_old);
        let (old, mut kept): (Vec<_>, Vec<_>) = std::mem::take(&mut state.partitions)
            .into_iter()
            .partition(is_old);
        match at {
            Some(at) => kept.insert(at, merged),
            None => state.discarded.push(number),
        }
        state.partitions = kept;
        state.retired.extend(old);
        Ok(())
    }

    /// Forgets what points below `position`, the log's first: whole partitions, and single answers.
    pub fn drop_below(&self, position: FilePosition) {
        let mut state = self.state.borrow_mut();
        state.position_min = state.position_min.max(position);
        let (kept, dropped) = std::mem::take(&mut state.partitions)
            .into_iter()
            .partition(|partition| partition.last_position >= position);
        state.partitions = kept;
        state.retired.extend::<Vec<_>>(dropped);
    }

    /// The index's part of a checkpoint. It may become the checkpoint only when every record added
    /// before this call is committed.
    pub fn snapshot(&self) -> KeySnapshot {
        let mut state = self.state.borrow_mut();
        // Nobody can take up a retired partition any more, so what is free now stays free.
        let (held, free): (Vec<_>, Vec<_>) = std::mem::take(&mut state.retired)
            .into_iter()
            .partition(|partition| Rc::strong_count(partition) > 1);
        state.retired = held;
        let mut unneeded = std::mem::take(&mut state.discarded);
        unneeded.extend(free.iter().map(|partition| partition.number));
        KeySnapshot {
            bytes: snapshot::take(&state),
            unneeded,
        }
    }

    /// To be called when the checkpoint with this snapshot is durable: removes partitions nothing
    /// needs.
    ///
    /// # Errors
    /// As the device says; the files are then removed after the next checkpoint.
    pub async fn checkpoint_durable(&self, unneeded: &[u64]) -> Result<(), KeyIndexError> {
        for number in unneeded {
            let name = partition::file_name(&self.folder, *number);
            match self.disk.remove(&name).await {
                Err(error) if !error.is_not_found() => {
                    self.checkpoint_failed(unneeded);
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// To be called when the checkpoint with this snapshot could not be written: the next one lets
    /// the partitions go. Their numbers are not used again.
    pub fn checkpoint_failed(&self, unneeded: &[u64]) {
        self.state.borrow_mut().discarded.extend(unneeded);
    }
}

impl State {
    /// Moves the full active buffer to the frozen ones; false when too many wait already.
    #[cold]
    fn freeze(&mut self, entries_max: usize) -> bool {
        if self.frozen.len() >= FROZEN_MAX {
            self.skipped += 1;
            return false;
        }
        let mut entries = std::mem::take(&mut self.spare);
        entries.reserve_exact(entries_max);
        let fresh = Buffer {
            entries,
            ..Buffer::default()
        };
        let full = std::mem::replace(&mut self.active, fresh);
        self.frozen.push_back(Rc::new(full));
        true
    }
}
