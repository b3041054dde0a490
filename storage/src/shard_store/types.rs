//! What goes into a shard's store and what comes back.
//!
//! **Owns** the plain types of the facade.
//! **Lives on** any core.
//! **Invariants** none of its own.
//! **Limits** `RECORD_BYTES_MAX`.
//! **Not here** behaviour (`shard_store`).

use std::net::SocketAddr;

use crate::key_index::ACTIVE_ENTRIES_MAX;
use crate::queue_index::{UNWRITTEN_BYTES_FLUSH, UNWRITTEN_BYTES_MAX};
use crate::units::{
    FilePosition, PhysicalOffset, QueueBounds, QueueKey, QueueOffset, ShardId, StoreTimestamp,
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
    /// Complete index pages are written once they have so many bytes.
    pub index_flush_bytes: usize,
    /// While more bytes of complete index pages wait for the device, new records are refused.
    pub index_waiting_bytes: usize,
    /// A queue without a new record for so long goes to sleep.
    pub sleep_ms: u64,
    /// Key index entries collected in memory before they are written.
    pub key_entries_max: usize,
    /// Bytes before the log's head in which zeros are kept in quiet times, beyond the next segment;
    /// only under `FlushMode::Sync`.
    pub zeros_ahead_bytes: u64,
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
            index_flush_bytes: UNWRITTEN_BYTES_FLUSH,
            index_waiting_bytes: UNWRITTEN_BYTES_MAX,
            sleep_ms: 600_000,
            key_entries_max: ACTIVE_ENTRIES_MAX,
            zeros_ahead_bytes: 0,
        }
    }
}

/// A record to append; storage fills in queue offset, physical offset and the entry's checksum.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The queue.
    pub key: QueueKey,
    /// The topic's name, stored in the record.
    pub topic: &'a str,
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
    /// [`gantry_protocol::message::body_crc`] of the body, made while its bytes were at hand.
    pub body_crc: u32,
    /// The encoded properties.
    pub properties: &'a [u8],
    /// The hash (or time) the queue index keeps beside the record.
    pub tags_code: i64,
    /// [`key_hash`](crate::key_index::key_hash) of each key under which `query_key` finds the
    /// record.
    pub key_hashes: &'a [u64],
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

/// Which records of a queue a read gives.
pub trait RecordFilter {
    /// Whether a record with this tags code may be wanted. Asked as often as the store likes.
    fn wants_code(&self, tags_code: i64) -> bool;

    /// Whether this record, whose code is wanted, is.
    fn wants_record(&self, _record: &[u8]) -> bool {
        true
    }

    /// Bytes of records that one read looks at, wanted or not; the first is looked at whatever its
    /// size. Nothing: records are not looked at.
    fn scan_bytes_max(&self) -> Option<u64> {
        None
    }
}

impl<F: Fn(i64) -> bool> RecordFilter for F {
    fn wants_code(&self, tags_code: i64) -> bool {
        self(tags_code)
    }
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
    /// The epoch of the runs from there on.
    pub epoch: u64,
    /// Damage that was found and passed over, with file and position.
    pub damage: Vec<String>,
    /// Time it took.
    pub elapsed_us: u64,
}
