//! Giving up what is old: queues first, then whole segments.
//!
//! **Owns** the order of a drop, the ages of segments, what a topic's own time does to its queues.
//! **Lives on** the shard's core, in a task of low share; yields between queues.
//! **Invariants** a queue's first offset moves on, durably, before a segment that holds its records
//! goes; the segment the checkpoint or the writer stands in never goes; a reader that is overtaken
//! learns the new bounds.
//! **Limits** one drop at a time; `QUEUES_PER_TURN` queues between two yields; `PUT_OFFS_MAX` drops
//! in a row are put off for an index page that can't be read.
//! **Not here** which segments go (`retention`), who asks for it (the cleaning supervisor).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use thiserror::Error;

use super::ShardStore;
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::error::ReadError;
use crate::format::{FIRST_TIME_BYTES, INDEX_FOLDER, RUN_HEADER_BYTES, first_record};
use crate::log::aside;
use crate::log::recovery::PAYLOAD_BYTES_MAX;
use crate::log::segments::SPARES_MAX;
use crate::retention::SegmentAge;
use crate::retention::floors::{self, Floor};
use crate::units::{
    Boundary, FilePosition, QueueBounds, QueueKey, QueueOffset, StoreTimestamp, TopicId, index,
};

/// Queues looked at between two yields: some 20 µs each when their pages are in memory.
const QUEUES_PER_TURN: usize = 16;

/// Drops in a row that are put off because an index page can't be read: a minute, as they come
/// every ten seconds by default. A cable or a path to the device may come back in it; a page that
/// does not must not fill the device.
const PUT_OFFS_MAX: u32 = 6;

/// What retention remembers of a shard.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// Store times of the first records of segments, as far as they were asked for.
    first_times: RefCell<BTreeMap<FilePosition, StoreTimestamp>>,
    is_dropping: Cell<bool>,
    /// Drops put off since one was not.
    put_offs: Cell<u32>,
}

/// What a drop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Segments given up.
    pub segments: u64,
    /// Spare segments removed besides.
    pub spares: u64,
    /// Where the log begins now.
    pub first: FilePosition,
}

/// Why nothing, or not everything, was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RetainError {
    /// A drop is under way.
    #[error("a drop is under way already")]
    Busy,
    /// The device failed; what was given up before stays so.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl<D: Disk> ShardStore<D> {
    /// Where the log begins.
    pub fn first(&self) -> FilePosition {
        self.log.segments.first().unwrap_or_default()
    }

    /// Everything from here on stays, whoever asks.
    fn untouchable(&self) -> FilePosition {
        // Replay starts at the checkpoint; the writer's segment is at or behind it.
        let position = self.checkpoint_position.get().min(self.committed());
        self.log.segments.start_of(position)
    }

    /// The oldest segments that could go, at most `count_max`, with the time nothing in them is
    /// newer than; none where that can't be read.
    pub async fn oldest_segments(&self, count_max: usize) -> Vec<SegmentAge> {
        let bytes = self.log.segments.segment_bytes();
        let (first, end) = (self.first(), self.untouchable());
        self.forget_times_before(first);
        let mut ages = Vec::new();
        let mut start = first;
        while start < end && ages.len() < count_max {
            if self.log.segments.exists(start) {
                // A block that can't be read must not keep every segment of the shard.
                let newest = self.first_time(start.plus(bytes)).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a segment's age can't be read: a later one's counts");
                    None
                });
                ages.push(SegmentAge {
                    start,
                    bytes,
                    newest,
                });
            }
            start = start.plus(bytes);
        }
        ages
    }

    fn forget_times_before(&self, first: FilePosition) {
        let mut times = self.retained.first_times.borrow_mut();
        *times = times.split_off(&first);
    }

    /// Store time of the first record of the segment at `start`: no record before it is newer,
    /// as far as the clock went forward.
    async fn first_time(&self, start: FilePosition) -> Result<Option<StoreTimestamp>, DiskError> {
        if let Some(time) = self.retained.first_times.borrow().get(&start) {
            return Ok(Some(*time));
        }
        if start >= self.stable() {
            return Ok(None);
        }
        let Some(segment) = self.log.segments.open(start).await? else {
            return Ok(None);
        };
        let block = segment.file.read_at(0, FIRST_TIME_BYTES).await?;
        let time = match first_record(block.as_ref(), start) {
            // A longer one is read whole, once.
            Some(first) if first.end > index(RUN_HEADER_BYTES + PAYLOAD_BYTES_MAX) => None,
            Some(first) if first.end > FIRST_TIME_BYTES => {
                let bytes = first.end.next_multiple_of(FIRST_TIME_BYTES);
                let bytes = segment.file.read_at(0, bytes).await?;
                first.time(self.record_seed, bytes.as_ref())
            }
            Some(first) => first.time(self.record_seed, block.as_ref()),
            None => None,
        };
        if let Some(time) = time {
            self.retained.first_times.borrow_mut().insert(start, time);
        }
        Ok(time)
    }

    /// Store time of the log's first record; `None` when there is none or it can't be read. At most
    /// one read, the first time.
    pub async fn earliest(&self) -> Option<StoreTimestamp> {
        self.first_time(self.first()).await.ok().flatten()
    }

    /// Makes the queues of topics begin at their first record stored at or after the topic's time.
    /// Space follows with the segments. Returns how many queues moved.
    ///
    /// # Errors
    /// The device failed at a queue, which stays as it is; the others are done all the same.
    pub async fn trim_topics(
        &self,
        topics: &[(TopicId, StoreTimestamp)],
    ) -> Result<u64, ReadError> {
        let (mut moved, mut failed) = (0, None);
        for (n, (key, time)) in self.queues_of(topics).into_iter().enumerate() {
            self.breathe(n).await;
            let offset = match self.search_by_time(key, time, Boundary::Lower).await {
                Ok(offset) => offset,
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let before = self.bounds(key).min;
            self.index.index_mut().set_min(key, offset);
            moved += u64::from(self.bounds(key).min > before);
        }
        failed.map_or(Ok(moved), Err)
    }

    /// The first position at which a record of one of the topics is stored that is not older than
    /// the topic's time.
    ///
    /// # Errors
    /// The device failed.
    pub async fn first_since(
        &self,
        topics: &[(TopicId, StoreTimestamp)],
    ) -> Result<Option<FilePosition>, ReadError> {
        let mut first: Option<FilePosition> = None;
        for (n, (key, time)) in self.queues_of(topics).into_iter().enumerate() {
            self.breathe(n).await;
            let offset = self.search_by_time(key, time, Boundary::Lower).await?;
            // An empty or wholly older queue has nothing to keep.
            let entry = self.index.entry(key, offset).await;
            if let Some(entry) = entry.map_err(|error| self.index_failed(error))? {
                first = Some(first.map_or(entry.position, |first| first.min(entry.position)));
            }
        }
        Ok(first)
    }

    /// The queues of these topics, with their topic's time: one look through the table for all.
    fn queues_of(&self, topics: &[(TopicId, StoreTimestamp)]) -> Vec<(QueueKey, StoreTimestamp)> {
        let times: BTreeMap<_, _> = topics.iter().copied().collect();
        if times.is_empty() {
            return Vec::new();
        }
        let index = self.index.index();
        let of_topics = index
            .queues()
            .filter_map(|(key, _)| Some((key, *times.get(&key.topic)?)));
        of_topics.collect()
    }

    async fn breathe(&self, n: usize) {
        if n % QUEUES_PER_TURN == QUEUES_PER_TURN - 1 {
            self.log.disk.yield_now().await;
        }
    }

    /// Gives up the whole segments before `position`; those that are kept for use again are kept
    /// only if `is_recycling`.
    ///
    /// # Errors
    /// As the device says, or `Busy`.
    pub async fn drop_before(
        &self,
        position: FilePosition,
        is_recycling: bool,
    ) -> Result<Dropped, RetainError> {
        if self.retained.is_dropping.replace(true) {
            return Err(RetainError::Busy);
        }
        let result = self.drop_here(position, is_recycling).await;
        self.retained.is_dropping.set(false);
        Ok(result?)
    }

    async fn drop_here(
        &self,
        position: FilePosition,
        is_recycling: bool,
    ) -> Result<Dropped, DiskError> {
        let segments = &self.log.segments;
        let mut done = Dropped::default();
        if !is_recycling {
            done.spares = segments.release_spares().await?;
        }
        let position = segments.start_of(position.min(self.untouchable()));
        if self.first() < position {
            self.raise_mins(position).await?;
            let floors = self.floors();
            let (disk, folder, id) = (&self.log.disk, &self.folder, self.store_id);
            let write = async || floors::write(disk, folder, id, &floors).await;
            aside::with_reserve(disk, folder, write).await?;
            let spares_max = if is_recycling { SPARES_MAX } else { 0 };
            let dropped = segments.truncate_before(position, spares_max).await;
            self.keys.drop_below(self.first());
            aside::keep_reserve(disk, folder).await;
            done.segments = dropped?;
        }
        done.first = self.first();
        Ok(done)
    }

    /// Moves the first offset of every queue to its first record at or after `position`. Where
    /// that can't be found for a while, its first reader finds it, or a start says that records are
    /// lost.
    ///
    /// # Errors
    /// An index page can't be read, or is wrong, and the drop is put off.
    async fn raise_mins(&self, position: FilePosition) -> Result<(), DiskError> {
        let put_offs = &self.retained.put_offs;
        let (mut left, mut failed) = (0u64, None);
        for (n, key) in self.queues().into_iter().enumerate() {
            self.breathe(n).await;
            let bounds = self.bounds(key);
            if bounds.min >= bounds.max || self.begins_at_or_after(key, bounds, position) {
                continue;
            }
            match self.search_by_position(key, position).await {
                Ok(offset) => self.index.index_mut().set_min(key, offset),
                // What comes wrong once may be right the next time.
                Err(error) if put_offs.get() < PUT_OFFS_MAX => {
                    put_offs.set(put_offs.get() + 1);
                    return Err(match error {
                        ReadError::Disk(error) => error,
                        other => DiskError::new(DiskErrorKind::Io, "read", INDEX_FOLDER, other),
                    });
                }
                Err(error) => {
                    left += 1;
                    failed.get_or_insert((key, error));
                }
            }
        }
        put_offs.set(0);
        if let Some((key, error)) = failed {
            tracing::warn!(
                queues = left, topic = key.topic.0, queue = key.queue.0, %error,
                "first offsets of queues can't be found, one of them this queue's"
            );
        }
        Ok(())
    }

    /// Whether memory alone knows that nothing of the queue lies before `position`.
    fn begins_at_or_after(
        &self,
        key: QueueKey,
        bounds: QueueBounds,
        position: FilePosition,
    ) -> bool {
        let first = self.index.index().entry_hot(key, bounds.min);
        first.is_some_and(|entry| entry.position >= position)
    }

    fn floors(&self) -> Vec<Floor> {
        let index = self.index.index();
        let moved = index.queues().filter(|(_, bounds)| bounds.min.0 > 0);
        let mut floors: Vec<Floor> = moved.map(|(key, bounds)| (key, bounds.min)).collect();
        floors.sort_unstable();
        floors
    }

    /// Whether retention has taken the record at `position` away while somebody was about to read
    /// it.
    pub(super) fn is_gone(&self, position: FilePosition) -> bool {
        position < self.first()
    }

    /// The record at `offset` of `key` is gone: the queue begins behind it. A drop that could not
    /// find where leaves that to the first reader.
    pub(super) async fn begins_behind(&self, key: QueueKey, offset: QueueOffset) {
        if self.min_of(key) > offset {
            return;
        }
        let found = self.search_by_position(key, self.first()).await;
        let min = found.unwrap_or(QueueOffset(offset.0 + 1));
        self.index.index_mut().set_min(key, min);
    }

    /// The first offset of `key` that can still be read.
    pub(super) fn min_of(&self, key: QueueKey) -> QueueOffset {
        self.bounds(key).min
    }
}

#[cfg(test)]
#[path = "retaining_tests.rs"]
mod tests;
