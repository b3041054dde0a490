//! A shard's store in a few vectors, with the faults a test asks for.
//!
//! **Owns** the records of one shard, encoded as the real store encodes them.
//! **Lives on** a test's thread.
//! **Invariants** readable is what is sealed, or committed under SYNC_FLUSH.
//! **Limits** none.
//! **Not here** durability (storage).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use gantry_protocol::message::{EncodedRecord, RecordParts};
use gantry_storage::error::{AppendError, ReadError};
use gantry_storage::key_index::key_hash;
use gantry_storage::queue_index::IndexEntry;
use gantry_storage::retention::SegmentAge;
use gantry_storage::shard_store::{
    Appended, Dropped, NewRecord, ReadLimits, ReadOutcome, RecordFilter, RetainError,
};
use gantry_storage::units::{
    Boundary, FilePosition, PhysicalOffset, QueueBounds, QueueKey, QueueOffset, ShardId,
    StoreTimestamp, TopicId,
};

use crate::data::queue::store::QueueStore;

#[derive(Clone)]
struct Row {
    bytes: Bytes,
    end: FilePosition,
    physical: PhysicalOffset,
    tags_code: i64,
    time: StoreTimestamp,
    key_hashes: Vec<u64>,
}

#[derive(Default)]
struct Queue {
    min: u64,
    rows: Vec<Row>,
}

/// See the module.
pub struct MemoryStore {
    shard: ShardId,
    sync: bool,
    queues: RefCell<BTreeMap<QueueKey, Queue>>,
    end: Cell<u64>,
    staged: Cell<u64>,
    committed: Cell<u64>,
    hook: RefCell<Option<Box<dyn Fn()>>>,
    pub seals: Cell<u64>,
    /// Records that still fit; then the tail is full.
    pub room: Cell<u64>,
    /// Nothing is in memory: reads need the device.
    pub is_cold: Cell<bool>,
    /// The device answers no read for now; and how many were begun, of ranges and of records.
    pub is_stuck: Cell<bool>,
    pub reads: Cell<usize>,
    pub record_reads: Cell<usize>,
    /// Appends that were tried.
    pub appends: Cell<usize>,
    /// The longest body it takes.
    pub body_bytes_max: Cell<usize>,
    /// The next append panics in its caller, after the store is done.
    pub poison: RefCell<Option<Rc<str>>>,
    /// Records whose bytes are wrong on the device: passed over, as the real store does.
    pub damaged: RefCell<BTreeSet<PhysicalOffset>>,
    /// Records that a recovery did not find: their index entries stand in front of the next one.
    pub lost: RefCell<BTreeSet<PhysicalOffset>>,
    /// A record that is wrong when it is read the next time, and right after that.
    pub misread: Cell<Option<PhysicalOffset>>,
    /// Searches find a damaged page of the index.
    pub is_index_damaged: Cell<bool>,
    /// What retention asked for.
    pub asked: RefCell<Vec<String>>,
    /// What it offers to retention.
    pub old_segments: RefCell<Vec<SegmentAge>>,
}

impl MemoryStore {
    pub fn new(shard: ShardId, sync: bool) -> Rc<Self> {
        Rc::new(Self {
            shard,
            sync,
            queues: RefCell::default(),
            end: Cell::new(0),
            staged: Cell::new(0),
            committed: Cell::new(0),
            hook: RefCell::default(),
            seals: Cell::new(0),
            room: Cell::new(u64::MAX),
            is_cold: Cell::new(false),
            is_stuck: Cell::new(false),
            reads: Cell::new(0),
            record_reads: Cell::new(0),
            appends: Cell::new(0),
            body_bytes_max: Cell::new(usize::MAX),
            poison: RefCell::default(),
            damaged: RefCell::default(),
            lost: RefCell::default(),
            misread: Cell::default(),
            is_index_damaged: Cell::default(),
            asked: RefCell::default(),
            old_segments: RefCell::default(),
        })
    }

    pub fn on_progress(&self, hook: Box<dyn Fn()>) {
        *self.hook.borrow_mut() = Some(hook);
    }

    /// The log is at least so long, whatever it has.
    pub fn lengthen(&self, bytes: u64) {
        for mark in [&self.end, &self.staged, &self.committed] {
            mark.set(mark.get().max(bytes));
        }
    }

    /// The device has taken everything staged.
    pub fn commit(&self) {
        self.committed.set(self.staged.get());
        if let Some(hook) = &*self.hook.borrow() {
            hook();
        }
    }

    /// Records below `min` are gone.
    pub fn trim(&self, key: QueueKey, min: u64) {
        self.queues.borrow_mut().entry(key).or_default().min = min;
    }

    /// Every record's physical offset and end, in the order of the log.
    pub fn ends(&self) -> Vec<(i64, FilePosition)> {
        let queues = self.queues.borrow();
        let rows = queues.values().flat_map(|queue| &queue.rows);
        let mut ends: Vec<_> = rows
            .map(|row| (row.physical.0.cast_signed(), row.end))
            .collect();
        ends.sort_by_key(|(_, end)| *end);
        ends
    }

    /// What is left after a crash: the first `count` records of the log.
    pub fn survivor(&self, count: usize) -> Rc<Self> {
        let ends = self.ends();
        let cut = count.checked_sub(1).map_or(0, |last| ends[last].1.0);
        let left = Self::new(self.shard, self.sync);
        for (key, queue) in &*self.queues.borrow() {
            let rows = queue.rows.iter().filter(|row| row.end.0 <= cut);
            let rows = rows.cloned().collect();
            let queue = Queue {
                min: queue.min,
                rows,
            };
            left.queues.borrow_mut().insert(*key, queue);
        }
        left.damaged.replace(self.damaged.borrow().clone());
        for position in [&left.end, &left.staged, &left.committed] {
            position.set(cut);
        }
        left
    }

    /// The readable records of a topic, queue by queue.
    pub fn records_of(&self, topic: u32) -> Vec<Bytes> {
        let queues = self.queues.borrow();
        let queues = queues.iter().filter(|(key, _)| key.topic.0 == topic);
        let rows = queues.flat_map(|(_, queue)| &queue.rows);
        rows.filter(|row| row.end.0 <= self.readable())
            .map(|row| row.bytes.clone())
            .collect()
    }

    fn index_page(&self) -> Result<(), ReadError> {
        let detail = "a page is damaged".to_owned();
        let error = ReadError::Index { detail };
        if self.is_index_damaged.get() {
            Err(error)
        } else {
            Ok(())
        }
    }

    async fn unstuck(&self) {
        std::future::poll_fn(|_| {
            if self.is_stuck.get() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn readable(&self) -> u64 {
        if self.sync {
            self.committed.get()
        } else {
            self.staged.get()
        }
    }
}

impl QueueStore for MemoryStore {
    fn touch(&self, _keys: impl Iterator<Item = QueueKey>) {}
    fn append(&self, record: &NewRecord<'_>) -> Result<Appended, AppendError> {
        self.appends.set(self.appends.get() + 1);
        if self.room.get() == 0 {
            return Err(AppendError::TailFull { unwritten_bytes: 1 });
        }
        if let Some(reason) = &*self.poison.borrow() {
            return Err(AppendError::Poisoned {
                reason: Rc::clone(reason),
            });
        }
        if record.body.len() > self.body_bytes_max.get() {
            return Err(AppendError::TooLarge {
                bytes: record.body.len() as u64,
                bytes_max: self.body_bytes_max.get() as u64,
            });
        }
        assert_ne!(record.body, b"panic outside the store");
        self.room.set(self.room.get() - 1);
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(record.key).or_default();
        let offset = queue.rows.len() as u64;
        let physical = PhysicalOffset(u64::from(self.shard.0) << 56 | self.end.get());
        let time = record.store_timestamp.unwrap();
        let parts = RecordParts {
            topic: record.topic,
            queue_id: i32::from(record.key.queue.0),
            flag: record.flag,
            queue_offset: offset.cast_signed(),
            physical_offset: physical.0.cast_signed(),
            sys_flag: record.sys_flag,
            born_timestamp: record.born_timestamp,
            born_host: record.born_host,
            store_timestamp: time.0.cast_signed(),
            store_host: record.store_host,
            reconsume_times: record.reconsume_times,
            prepared_transaction_offset: record.prepared_offset,
            body: record.body,
            body_crc: record.body_crc,
            properties: record.properties,
        };
        let mut bytes = BytesMut::new();
        EncodedRecord::new(&parts).unwrap().write(&mut bytes);
        self.end.set(self.end.get() + bytes.len() as u64);
        let end = FilePosition(self.end.get());
        queue.rows.push(Row {
            bytes: bytes.freeze(),
            end,
            physical,
            tags_code: record.tags_code,
            time,
            key_hashes: record.key_hashes.to_vec(),
        });
        Ok(Appended {
            queue_offset: QueueOffset(offset),
            physical,
            end,
            store_timestamp: time,
        })
    }

    fn seal(&self) -> FilePosition {
        self.seals.set(self.seals.get() + 1);
        self.staged.set(self.end.get());
        self.staged()
    }

    fn staged(&self) -> FilePosition {
        FilePosition(self.staged.get())
    }

    fn stable(&self) -> FilePosition {
        self.committed()
    }
    fn committed(&self) -> FilePosition {
        FilePosition(self.committed.get())
    }

    fn acknowledged(&self) -> FilePosition {
        FilePosition(self.readable())
    }

    fn poisoned(&self) -> Option<Rc<str>> {
        self.poison.borrow().clone()
    }

    fn bounds(&self, key: QueueKey) -> QueueBounds {
        let queues = self.queues.borrow();
        let Some(queue) = queues.get(&key) else {
            return QueueBounds::default();
        };
        let max = queue
            .rows
            .iter()
            .filter(|row| row.end.0 <= self.readable())
            .count() as u64;
        QueueBounds {
            min: QueueOffset(queue.min),
            max: QueueOffset(max),
        }
    }

    fn queues(&self) -> Vec<QueueKey> {
        self.queues.borrow().keys().copied().collect()
    }

    fn drop_topic(&self, topic: TopicId) {
        self.queues.borrow_mut().retain(|key, _| key.topic != topic);
    }

    fn read_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Option<ReadOutcome> {
        if self.is_cold.get() {
            return None;
        }
        let bounds = self.bounds(key);
        let queues = self.queues.borrow();
        let mut outcome = ReadOutcome {
            bounds,
            next_offset: from,
            ..ReadOutcome::default()
        };
        let rows = queues.get(&key).map_or(&[][..], |queue| &queue.rows);
        let readable = usize::try_from(bounds.max.0).unwrap();
        let start = usize::try_from(from.0).unwrap();
        let (scan_bytes_max, mut scanned_bytes) = (filter.scan_bytes_max(), 0);
        for row in rows.iter().take(readable).skip(start) {
            let full = outcome.found >= limits.messages
                || outcome.found > 0 && outcome.bytes + row.bytes.len() as u64 > limits.bytes;
            if full || outcome.next_offset.0 - from.0 >= u64::from(limits.entries_examined) {
                break;
            }
            if scan_bytes_max.is_some_and(|max| scanned_bytes >= max) {
                break;
            }
            scanned_bytes += row.bytes.len() as u64;
            outcome.next_offset = outcome.next_offset.next();
            if self.damaged.borrow().contains(&row.physical) {
                continue;
            }
            if filter.wants_code(row.tags_code) && filter.wants_record(&row.bytes) {
                outcome.found += 1;
                outcome.bytes += row.bytes.len() as u64;
                outcome.first_position.get_or_insert(row.end);
                out.extend_from_slice(&row.bytes);
            }
        }
        Some(outcome)
    }

    async fn read(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Result<ReadOutcome, ReadError> {
        self.reads.set(self.reads.get() + 1);
        self.unstuck().await;
        // As the real store, which looks what will be wanted before it reads it.
        if let Some(queue) = self.queues.borrow().get(&key) {
            let from = usize::try_from(from.0).unwrap();
            let ahead = queue.rows.iter().skip(from);
            ahead
                .take_while(|row| !filter.wants_code(row.tags_code))
                .count();
        }
        let cold = self.is_cold.replace(false);
        let read = self.read_hot(key, from, limits, filter, out);
        self.is_cold.set(cold);
        Ok(read.unwrap())
    }

    async fn record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        self.record_reads.set(self.record_reads.get() + 1);
        let queues = self.queues.borrow();
        let is_misread = self.misread.get() == Some(physical);
        if is_misread || self.damaged.borrow().contains(&physical) {
            self.misread.set(None);
            let position = gantry_storage::address::locate(physical).unwrap().1;
            let file = "a file".to_owned();
            return Err(ReadError::Damaged { file, position });
        }
        let mut rows = queues.values().flat_map(|queue| &queue.rows);
        let found = rows.find(|row| row.physical == physical);
        found
            .map(|row| row.bytes.clone())
            .ok_or(ReadError::Outside { physical })
    }

    async fn lone_record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        self.record_at(physical).await
    }

    async fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        _boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        self.index_page()?;
        let queues = self.queues.borrow();
        let rows = queues.get(&key).map_or(&[][..], |queue| &queue.rows);
        let found = rows
            .iter()
            .position(|row| row.time >= time)
            .unwrap_or(rows.len());
        Ok(QueueOffset(found as u64))
    }

    async fn store_time_at(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<StoreTimestamp>, ReadError> {
        self.unstuck().await;
        let queues = self.queues.borrow();
        let at = usize::try_from(offset.0).unwrap();
        Ok(queues
            .get(&key)
            .and_then(|queue| queue.rows.get(at))
            .map(|row| row.time))
    }

    async fn query_key(
        &self,
        topic: TopicId,
        word: &str,
        _begin_ms: u64,
        _end_ms: u64,
        max: usize,
    ) -> Result<Vec<PhysicalOffset>, ReadError> {
        let queues = self.queues.borrow();
        let rows = queues.iter().filter(|(key, _)| key.topic == topic);
        let rows = rows.flat_map(|(_, queue)| queue.rows.iter().rev());
        let hash = key_hash(topic, word.as_bytes());
        let hits = rows.filter(|row| row.key_hashes.contains(&hash));
        Ok(hits.map(|row| row.physical).take(max).collect())
    }

    async fn trim_topics(&self, topics: &[(TopicId, StoreTimestamp)]) -> Result<u64, ReadError> {
        let asked = topics
            .iter()
            .map(|(id, time)| format!("trim {id} to {time}"));
        self.asked.borrow_mut().extend(asked);
        self.index_page()?;
        Ok(0)
    }

    async fn first_since(
        &self,
        topics: &[(TopicId, StoreTimestamp)],
    ) -> Result<Option<FilePosition>, ReadError> {
        let asked = topics
            .iter()
            .map(|(id, time)| format!("keep {id} since {time}"));
        self.asked.borrow_mut().extend(asked);
        self.unstuck().await;
        self.index_page()?;
        Ok(topics.iter().map(|(_, time)| FilePosition(time.0)).min())
    }

    async fn earliest(&self) -> Option<StoreTimestamp> {
        let queues = self.queues.borrow();
        let rows = queues.values().flat_map(|queue| queue.rows.iter());
        rows.map(|row| row.time).min()
    }

    async fn oldest_segments(&self, _max: usize) -> Vec<SegmentAge> {
        self.old_segments.borrow().clone()
    }

    async fn drop_before(
        &self,
        position: FilePosition,
        is_recycling: bool,
    ) -> Result<Dropped, RetainError> {
        self.asked
            .borrow_mut()
            .push(format!("drop before {position}, {is_recycling}"));
        Ok(Dropped::default())
    }

    async fn search_by_position(
        &self,
        key: QueueKey,
        position: FilePosition,
    ) -> Result<QueueOffset, ReadError> {
        let queues = self.queues.borrow();
        let rows = queues.get(&key).map_or(&[][..], |queue| &queue.rows);
        let at = |row: &Row| gantry_storage::address::locate(row.physical).unwrap().1;
        let found = rows.iter().position(|row| at(row) >= position);
        Ok(QueueOffset(found.unwrap_or(rows.len()) as u64))
    }

    async fn entries(
        &self,
        key: QueueKey,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<IndexEntry>, ReadError> {
        let readable = usize::try_from(self.bounds(key).max.0).unwrap();
        let queues = self.queues.borrow();
        let rows = queues.get(&key).map_or(&[][..], |queue| &queue.rows);
        let from = usize::try_from(from.0).unwrap();
        let lost = self.lost.borrow();
        let entry = |at: usize| {
            let is_lost = lost.contains(&rows[at].physical);
            let known = rows[at..].iter();
            let mut known = known.filter(|row| !lost.contains(&row.physical));
            let row = known.next().expect("one that is known behind a lost one");
            IndexEntry {
                position: gantry_storage::address::locate(row.physical).unwrap().1,
                length: u32::try_from(row.bytes.len()).unwrap() * u32::from(!is_lost),
                tags_code: if is_lost { 0 } else { row.tags_code },
                store_time: row.time,
            }
        };
        Ok((from..readable).take(max).map(entry).collect())
    }
}
