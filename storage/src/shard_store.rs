//! One shard's store: the log, the queue index and the key index behind one face.
//!
//! **Owns** the composition; what queue actors and the control plane may ask of storage.
//! **Lives on** the shard's core, behind an `Rc`; everything is single-threaded.
//! **Invariants** offsets of a queue are dense and in the order of `append`; a record is readable
//! only once its `SEND_OK` could be given (`StoreOptions::flush_mode` decides).
//! **Limits** `RECORD_BYTES_MAX`; the ring bounds what waits for the device.
//! **Not here** `RocketMQ`'s rules (actors), the wire (protocol), the real disk (runtime).

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::disk::Disk;
use crate::error::{AppendError, FlushError, ReadError, RecoverError};
use crate::tail::TailMemory;
use crate::units::{
    Boundary, FilePosition, PhysicalOffset, QueueBounds, QueueKey, QueueOffset, ShardId,
    StoreTimestamp, TopicId,
};

/// Bytes one record may have: `RocketMQ`'s default body of 4 MiB, 32 KiB of properties, and room.
pub const RECORD_BYTES_MAX: u64 = (4 << 20) + (128 << 10);

/// When a `SEND_OK` may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// Once the record is in the tail.
    #[default]
    Async,
    /// Once it is written and synced.
    Sync,
}

/// How a shard is run.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Which shard this is.
    pub shard: ShardId,
    /// When a `SEND_OK` may be given, and therefore what readers see.
    pub flush_mode: FlushMode,
    /// Longest time between syncs under `FlushMode::Async` (`RocketMQ`'s `flushIntervalCommitLog`).
    pub flush_interval_ms: u64,
    /// Longest time a staged byte waits for its device write under `FlushMode::Async`.
    pub write_delay_ms: u64,
    /// Bytes of one segment file; only used when the shard is created.
    pub segment_bytes: u64,
    /// Bytes of log after which a checkpoint is taken.
    pub checkpoint_bytes: u64,
    /// Bytes of cold log kept in memory for readers.
    pub read_cache_bytes: u64,
    /// Bytes of the queue index kept in memory.
    pub index_cache_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            flush_mode: FlushMode::Async,
            flush_interval_ms: 500,
            write_delay_ms: 10,
            segment_bytes: 256 << 20,
            checkpoint_bytes: 32 << 20,
            read_cache_bytes: 16 << 20,
            index_cache_bytes: 32 << 20,
        }
    }
}

/// A record to append; storage fills in queue offset, physical offset and the checksums.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The queue.
    pub key: QueueKey,
    /// The topic's name, stored in the record.
    pub topic: &'a [u8],
    /// The user's flag.
    pub flag: i32,
    /// the wire's `sysFlag`; the bits for IPv6 hosts are set by storage.
    pub sys_flag: i32,
    /// When the message was born, in milliseconds.
    pub born_timestamp: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// When the broker took it; `None` means the disk's clock.
    pub store_timestamp: Option<StoreTimestamp>,
    /// The broker's own address.
    pub store_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// The half record's physical offset in a committed transaction, else 0.
    pub prepared_offset: i64,
    /// The body as it is stored.
    pub body: &'a [u8],
    /// The encoded properties.
    pub properties: &'a [u8],
    /// The hash (or time) the queue index keeps beside the record.
    pub tags_code: i64,
    /// Keys under which `query_key` finds the record.
    pub keys: &'a [&'a str],
}

/// Where an appended record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its offset in its queue.
    pub queue_offset: QueueOffset,
    /// Its offset as clients see it.
    pub physical: PhysicalOffset,
    /// The end of its bytes: committed once `committed()` has reached this.
    pub end: FilePosition,
    /// The store time given to it.
    pub store_timestamp: StoreTimestamp,
}

/// How much one read may do. At least one record is given when there is one to give.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Records given.
    pub messages: u32,
    /// Bytes of records given.
    pub bytes: u64,
    /// Index entries looked at, matching or not.
    pub entries_examined: u32,
}

/// What a read found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Records put into the buffer.
    pub found: u32,
    /// Bytes put into the buffer.
    pub bytes: u64,
    /// Where the next read continues: after the last entry looked at.
    pub next_offset: QueueOffset,
    /// What the queue held.
    pub bounds: QueueBounds,
    /// Position in the log of the first record given.
    pub first_position: Option<FilePosition>,
}

/// What opening a shard found.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Whether the shard was created by this call.
    pub created: bool,
    /// Where the checkpoint said the scan starts.
    pub scanned_from: FilePosition,
    /// Runs found on the device after the checkpoint.
    pub runs_from_disk: u64,
    /// Runs found only in the tail.
    pub runs_from_tail: u64,
    /// Records put back into the index.
    pub records: u64,
    /// Where the log continues.
    pub end: FilePosition,
    /// Damage that was found and passed over, with file and position.
    pub damage: Vec<String>,
    /// Time it took.
    pub elapsed_us: u64,
}

/// One shard's store.
#[allow(dead_code, reason = "bodies follow")]
pub struct ShardStore<D: Disk> {
    disk: D,
    options: StoreOptions,
}

#[allow(
    unused_variables,
    clippy::unused_async,
    clippy::unimplemented,
    clippy::needless_pass_by_value,
    reason = "bodies follow"
)]
impl<D: Disk> ShardStore<D> {
    /// Opens (or creates) the shard below the disk's root, replays what the checkpoint does not
    /// cover from the device and the tail, and starts the writer.
    ///
    /// # Errors
    /// `RecoverError` when the device fails, the format is newer, or the shard's files are damaged.
    pub async fn open(
        disk: D,
        tail: Box<dyn TailMemory>,
        options: StoreOptions,
    ) -> Result<(Rc<Self>, RecoveryReport), RecoverError> {
        unimplemented!()
    }

    /// Stages one record in the open run: a memory copy, no wait. Not readable and not
    /// acknowledgeable before `seal`.
    ///
    /// # Errors
    /// `TailFull` is flow control; the others are permanent or need the operator.
    pub fn append(&self, record: &NewRecord<'_>) -> Result<Appended, AppendError> {
        unimplemented!()
    }

    /// Completes the open run in the tail and wakes the writer; returns `staged()`.
    pub fn seal(&self) -> FilePosition {
        unimplemented!()
    }

    /// Everything before this is in the tail and survives the death of the process.
    pub fn staged(&self) -> FilePosition {
        unimplemented!()
    }

    /// Everything before this is written to the device.
    pub fn stable(&self) -> FilePosition {
        unimplemented!()
    }

    /// Everything before this survives a power cut.
    pub fn committed(&self) -> FilePosition {
        unimplemented!()
    }

    /// Up to where a `SEND_OK` may be given and a consumer may see: staged or committed, as the
    /// flush mode says. The one function that decides.
    pub fn acknowledged(&self) -> FilePosition {
        unimplemented!()
    }

    /// Why the shard takes nothing any more, if so.
    pub fn poisoned(&self) -> Option<Rc<str>> {
        unimplemented!()
    }

    /// Waits until `committed() >= position`.
    ///
    /// # Errors
    /// When that will never happen.
    pub async fn until_committed(&self, position: FilePosition) -> Result<(), FlushError> {
        unimplemented!()
    }

    /// Calls `hook` after every advance of a watermark and after poisoning (from the writer's
    /// task, so it must only note or wake). Stays for the store's life.
    pub fn on_progress(&self, hook: Box<dyn Fn()>) {
        unimplemented!()
    }

    /// The readable range of a queue; an unknown queue is `0..0`.
    pub fn bounds(&self, key: QueueKey) -> QueueBounds {
        unimplemented!()
    }

    /// All queues the shard knows.
    pub fn queues(&self) -> Vec<QueueKey> {
        unimplemented!()
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
        unimplemented!()
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
        unimplemented!()
    }

    /// The record at a physical offset.
    ///
    /// # Errors
    /// `Outside` or `Damaged` when there is none.
    pub async fn record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        unimplemented!()
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
        unimplemented!()
    }

    /// When the record at `offset` was stored.
    ///
    /// # Errors
    /// The device failed.
    pub async fn store_time_at(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<StoreTimestamp>, ReadError> {
        unimplemented!()
    }

    /// Physical offsets of at most `max` records of `topic` that carry `word`, stored within
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
        max: usize,
    ) -> Result<Vec<PhysicalOffset>, ReadError> {
        unimplemented!()
    }

    /// Forgets all queues of a topic.
    pub fn drop_topic(&self, topic: TopicId) {
        unimplemented!()
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// `FlushError` when the shard is poisoned.
    pub async fn checkpoint(&self) -> Result<(), FlushError> {
        unimplemented!()
    }

    /// Seals, writes, syncs, checkpoints, stops the tasks. Appends get `Closed` from now on.
    ///
    /// # Errors
    /// When the last bytes could not be made durable.
    pub async fn shutdown(&self) -> Result<(), FlushError> {
        unimplemented!()
    }
}
