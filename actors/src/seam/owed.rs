//! Records that the broker still owes the delivery of.
//!
//! **Owns** how such a record is marked when it is stored, and the row that tells the control
//! plane.
//! **Lives on** both planes; plain data.
//! **Invariants** the mark's time is the tags code of the queue index's entry (as RocketMQ's
//! schedule queues keep theirs), so rows can be made from the index alone: what the control plane
//! knows is always rebuildable from the log. Rows of one queue come in the order of its offsets,
//! each once it could be acknowledged; a row that comes twice or a gap shows by its offset.
//! **Limits** [`OWED_ROWS_MAX`] rows a message; [`OWED_WAITING_MAX`] rows wait for the control
//! plane on a shard, then further marked messages are refused with `SYSTEM_BUSY`.
//! **Not here** what is done about them (`control`).

use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

/// Most rows one message carries.
pub const OWED_ROWS_MAX: usize = 4096;
/// Rows of one shard that may wait for room in the control plane's mailbox: seconds of a flood.
pub const OWED_WAITING_MAX: usize = 64 * 1024;

const _: () = assert!(OWED_ROWS_MAX < OWED_WAITING_MAX);

/// The mark of a message about to be stored: its delivery is owed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwedTime {
    /// At this time, ms since 1970.
    At(u64),
    /// This long after it is stored, ms.
    AfterStore(u64),
}

impl OwedTime {
    /// The time, for a record stored at `now_ms`, the clock read at that moment. A ms is begun, so
    /// "after" counts from its end: never early.
    pub fn time_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::AfterStore(ms) => now_ms.saturating_add(1).saturating_add(ms),
        }
    }
}

/// A stored record whose delivery is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwedRow {
    /// The (system) queue that holds it.
    pub queue: QueueKey,
    /// Where in the queue.
    pub offset: QueueOffset,
    /// Where in the log.
    pub physical: PhysicalOffset,
    /// The record's length.
    pub bytes: u32,
    /// When, ms since 1970.
    pub time_ms: u64,
    /// When it was stored, ms since 1970.
    pub store_ms: u64,
}
