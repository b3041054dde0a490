//! What a supervisor has done by a data core: store records, read records, scan a queue.
//!
//! **Owns** the errands and their outcomes.
//! **Lives on** both planes; plain data. Bodies are slices: no payload is copied on the way.
//! **Invariants** an errand goes to the core that holds all its queues or positions and is answered
//! once, as one batch; outcomes stand in the order of what was asked. `Placed` means that the
//! durability contract of the flush mode is met.
//! **Limits** [`SUPPLY_RECORDS_MAX`] records of [`SUPPLY_BYTES_MAX`], [`FETCH_RECORDS_MAX`]
//! positions, [`SCAN_ROWS_MAX`] rows an errand; `control::cores::errands` cuts to fit.
//! **Not here** who sends them (`control`), how they are done (`data::orders::errands`).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gantry_storage::units::{PhysicalOffset, QueueBounds, QueueKey, QueueOffset};

use super::TopicEntry;
use super::owed::{OwedRow, OwedTime};
use crate::refusal::Refusal;

/// Most records stored by one errand.
pub const SUPPLY_RECORDS_MAX: usize = 1024;
/// Bytes of bodies and properties after which an errand takes no further record (one always fits).
pub const SUPPLY_BYTES_MAX: usize = 4 << 20;
/// Most records read by one errand.
pub const FETCH_RECORDS_MAX: usize = 256;
/// Most rows given by one scan.
pub const SCAN_ROWS_MAX: usize = 4096;

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Errand {
    /// Store these, in this order where they share a queue.
    Supply(Vec<SupplyRecord>),
    /// Read these.
    Fetch(Vec<PhysicalOffset>),
    /// Look through a queue's index.
    Scan(Scan),
    /// Find a queue's first record at or after a place in the log.
    Locate(QueueKey, PhysicalOffset),
    /// Wait until the device has all that the core's shards have stored by now, whatever the flush
    /// mode.
    Durable,
}

/// A record to store.
#[derive(Debug, Clone)]
pub struct SupplyRecord {
    /// The queue.
    pub key: QueueKey,
    /// Its topic, for the name in the record.
    pub topic: Arc<TopicEntry>,
    /// The user's flag.
    pub flag: i32,
    /// RocketMQ's sysFlag.
    pub sys_flag: i32,
    /// When the message was born, ms.
    pub born_ms: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// The half record's physical offset in a committed transaction, else 0.
    pub prepared_offset: i64,
    /// The body as it is stored.
    pub body: Bytes,
    /// The properties as they are stored; tag and keys are found in them.
    pub properties: Bytes,
    /// Something is owed for it: it is marked, and its row comes back like a producer's.
    pub owed: Option<OwedTime>,
}

impl SupplyRecord {
    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.body.len() + self.properties.len()
    }
}

/// Where a stored record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// In its queue.
    pub offset: QueueOffset,
    /// In the log.
    pub physical: PhysicalOffset,
}

/// Which part of a queue to look through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// The queue.
    pub queue: QueueKey,
    /// From here on, or from the queue's first record if that is later.
    pub from: QueueOffset,
    /// Rows below this offset whose time is not after `done_ms` are left out.
    pub done_below: QueueOffset,
    /// See `done_below`.
    pub done_ms: u64,
}

impl Scan {
    /// Whether a row is done by what the asker knows.
    pub fn leaves_out(&self, offset: QueueOffset, time_ms: u64) -> bool {
        offset < self.done_below && time_ms <= self.done_ms
    }
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// The rows.
    pub rows: Vec<OwedRow>,
    /// Where to go on; the queue's end when all is seen, and never beyond it.
    pub next: QueueOffset,
    /// What the queue holds.
    pub bounds: QueueBounds,
}

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchFault {
    /// The log does not hold it (any more).
    Gone,
    /// Its bytes are wrong, also at a second look, or the device has lost them: which file, where.
    Lost(String),
    /// It can't be read for now.
    Failed(String),
}

/// What became of an errand.
#[derive(Debug, Clone)]
pub enum ErrandDone {
    /// Each record's place, or why it wasn't stored.
    Supplied(Vec<Result<Placed, Refusal>>),
    /// Each record's bytes.
    Fetched(Vec<Result<Bytes, FetchFault>>),
    /// The rows, or why the index could not be read.
    Scanned(Result<Scanned, String>),
    /// That record's offset, the queue's end when there is none, or why it couldn't be found.
    Located(Result<QueueOffset, String>),
    /// The device has it, or why that can't be said; not while a shard is poisoned.
    Durable(Result<(), String>),
}
