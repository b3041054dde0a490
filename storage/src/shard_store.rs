//! One shard's store: the log, the queue index and the key index behind one face.
//!
//! **Owns** the composition; what queue actors and the control plane may ask of storage.
//! **Lives on** the shard's core, behind an `Rc`; everything is single-threaded.
//! **Invariants** offsets of a queue are dense and in the order of `append`; the indexes hold only
//! what may be acknowledged, so a record is readable only once its `SEND_OK` could be given.
//! **Limits** `RECORD_BYTES_MAX`; the ring bounds what waits for the device.
//! **Not here** `RocketMQ`'s rules (actors), the wire (protocol), the real disk (runtime).

mod alone;
mod appending;
mod damage;
mod indexes;
mod known;
mod opening;
mod reading;
mod retaining;
mod sparse;
mod types;
mod unindexed;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub use damage::DAMAGE_NOTED_MAX;
pub use retaining::{Dropped, RetainError};
pub use types::{
    Appended, FlushMode, NewRecord, RECORD_BYTES_MAX, ReadLimits, ReadOutcome, RecordFilter,
    RecoveryReport, StoreOptions,
};

use crate::disk::Disk;
use crate::error::FlushError;
use crate::format::RecordSeed;
use crate::key_index::KeyIndex;
use crate::log::pieces::Crowd;
use crate::log::read_ahead::ReadCache;
use crate::log::shard_log::ShardLog;
use crate::log::signal::Signal;
use crate::queue_index::IndexEntry;
use crate::queue_index::paged::PagedIndex;
use crate::units::{FilePosition, QueueBounds, QueueKey, TopicId};
use unindexed::Unindexed;

/// One shard's store.
pub struct ShardStore<D: Disk> {
    log: Rc<ShardLog<D>>,
    index: PagedIndex<D>,
    keys: KeyIndex<D>,
    cache: Rc<ReadCache<D>>,
    crowd: Crowd,
    sparse_reads: Cell<(u64, u64)>,
    folder: String,
    store_id: u64,
    record_seed: RecordSeed,
    unindexed: RefCell<Unindexed>,
    scratch: RefCell<Vec<IndexEntry>>,
    /// The small pieces of the entry being put.
    entry_scratch: RefCell<Vec<u8>>,
    /// Something for the task of pages and checkpoints to look at.
    upkeep: Signal,
    /// Keys for their task to write.
    keys_full: Signal,
    upkeep_tasks: Cell<u8>,
    /// A pause of records is waited for.
    waits_for_quiet: Cell<bool>,
    checkpoint_position: Cell<FilePosition>,
    checkpointing: Cell<bool>,
    /// When queues without new records were last looked for, ms of the monotonic clock.
    rested_ms: Cell<Option<u64>>,
    retained: retaining::Retained,
    damage: damage::Damage,
    /// Why index pages could not be written the last time, if so.
    index_fault: RefCell<Option<String>>,
    /// Bytes of the last checkpoint's parts.
    checkpoint_bytes: Cell<u64>,
}

impl<D: Disk> ShardStore<D> {
    /// Everything before this is in the tail and survives the death of the process.
    pub fn staged(&self) -> FilePosition {
        self.log.marks.staged().0
    }

    /// Everything before this is written to the device.
    pub fn stable(&self) -> FilePosition {
        self.log.marks.stable().0
    }

    /// Everything before this survives a power cut.
    pub fn committed(&self) -> FilePosition {
        self.log.marks.committed().0
    }

    /// Up to where a `SEND_OK` may be given and a consumer may see: staged or committed, as the
    /// flush mode says.
    pub fn acknowledged(&self) -> FilePosition {
        self.log.acknowledged()
    }

    /// Why the shard takes nothing any more, if so.
    pub fn poisoned(&self) -> Option<Rc<str>> {
        self.log.poison.reason()
    }

    /// Device writes, syncs and bytes written (padding included, zeros not) since the start.
    pub fn device_counts(&self) -> (u64, u64, u64) {
        let log = &self.log;
        (
            log.writes_count.get(),
            log.syncs_count.get(),
            log.written_bytes.get(),
        )
    }

    /// Reads of cold log from the device since the start, and how many of them were ahead of their
    /// readers.
    pub fn cold_reads_counts(&self) -> (u64, u64) {
        self.cache.loads_counts()
    }

    /// Waits until `committed() >= position`, hurrying the writer on.
    ///
    /// # Errors
    /// When that will never happen.
    pub async fn until_committed(&self, position: FilePosition) -> Result<(), FlushError> {
        self.log.until_committed(position).await
    }

    /// Calls `hook` after every advance of a watermark on the device and after poisoning (from the
    /// writer's task, so it must only note or wake). Stays for the store's life.
    pub fn on_progress(&self, hook: Box<dyn Fn()>) {
        self.log.on_progress(hook);
    }

    /// The readable range of a queue; an unknown queue is `0..0`.
    pub fn bounds(&self, key: QueueKey) -> QueueBounds {
        self.index.index().bounds(key).unwrap_or_default()
    }

    /// Keys that searches won't find, because the device took no index for too long.
    pub fn keys_skipped(&self) -> u64 {
        self.keys.skipped_count()
    }

    /// All queues the shard knows, in no particular order.
    pub fn queues(&self) -> Vec<QueueKey> {
        self.index.index().queues().map(|(key, _)| key).collect()
    }

    /// Forgets all queues of a topic; the next record of a queue with this key gets offset 0.
    pub fn drop_topic(&self, topic: TopicId) {
        self.unindexed.borrow_mut().drop_topic(topic);
        self.index.index_mut().drop_topic(topic);
    }
}

#[cfg(test)]
#[path = "shard_store_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "shard_store_damage_tests.rs"]
mod damage_tests;
