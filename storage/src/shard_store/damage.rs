//! Records and index pages that can't be given any more: wrong bytes, or a device that has lost
//! them.
//!
//! **Owns** when a record counts as damaged, and what was said of it; when indexes are suspect.
//! **Lives on** the shard's core.
//! **Invariants** a record is passed over only where its bytes are wrong at a second look, the
//! device says that it has lost them, or it has failed to read just them again and again while it
//! reads what lies beside them; each place is reported once. After damage of an index every
//! checkpoint says so, so that the next start makes them anew from the log, if that is whole.
//! **Limits** [`DAMAGE_NOTED_MAX`], [`REFUSED_KEPT_MAX`] places.
//! **Not here** the second look (`alone`), passing over (`reading`), damage at rest that nobody
//! reads (`log::offline`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::ShardStore;
use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::error::ReadError;
use crate::format::segment_name;
use crate::index_pages::page_files::PageFileError;
use crate::units::{BLOCK_BYTES, FilePosition};

/// Places of damaged records that are remembered and reported one by one; a device with more of
/// them needs no further lines.
pub const DAMAGE_NOTED_MAX: usize = 1024;
/// Records whose blocks the device lately failed to read.
const REFUSED_KEPT_MAX: usize = 256;
/// A record is given up after so many failed reads of its own blocks, over so long a time: a cable
/// or a path to the device may come back, and a consumer that waited lost nothing.
pub(super) const REFUSALS_MIN: u32 = 5;
pub(super) const REFUSED_US: u64 = 60_000_000;
/// Where a segment is read instead of its first block.
const BESIDE_BYTES: u64 = 4 * BLOCK_BYTES;
/// Failures further apart than this have nothing to do with each other: clients come again after
/// three to five seconds.
const REFUSALS_APART_US: u64 = 20_000_000;

/// Failed reads of one record's blocks, one after the other.
struct Refused {
    first_us: u64,
    last_us: u64,
    count: u32,
}

/// What is known of a shard's damaged records.
#[derive(Default)]
pub(super) struct Damage {
    /// So that each is reported once.
    noted: RefCell<BTreeSet<FilePosition>>,
    refused: RefCell<BTreeMap<FilePosition, Refused>>,
    /// Whether a page of an index was not what had been written.
    index: Cell<bool>,
    /// Whether the last checkpoint says so.
    is_told: Cell<bool>,
}

impl Damage {
    /// Damage of an index was met.
    pub(super) fn index_is_damaged(&self) {
        self.index.set(true);
    }

    /// Whether the next start does not know yet of damage to an index.
    pub(super) fn must_tell(&self) -> bool {
        self.index.get() && !self.is_told.get()
    }

    /// A checkpoint says so.
    pub(super) fn told(&self) {
        self.is_told.set(true);
    }
}

impl<D: Disk> ShardStore<D> {
    /// Says once of each place that its record is damaged.
    pub(super) fn report_damage(&self, position: FilePosition) {
        let mut noted = self.damage.noted.borrow_mut();
        if noted.len() < DAMAGE_NOTED_MAX && noted.insert(position) {
            let error = self.damaged(position);
            tracing::error!(%error, "a damaged record is passed over: gantry admin log verify");
        }
    }

    /// Places where damaged records were met since the start, at most [`DAMAGE_NOTED_MAX`].
    pub fn damage_met(&self) -> Vec<FilePosition> {
        self.damage.noted.borrow().iter().copied().collect()
    }

    /// Whether damage of an index was met since the start: the checkpoints behind it say so, and
    /// the next start makes the indexes anew if the log is whole.
    pub fn has_index_damage(&self) -> bool {
        self.damage.index.get()
    }

    /// What a failed look into the queue index means for its reader. After damage the other pages
    /// are good for this process, as long as it lives.
    pub(super) fn index_failed(&self, error: PageFileError) -> ReadError {
        if error.is_damage() {
            if !self.damage.index.replace(true) {
                tracing::error!(
                    %error, shard = %self.log.options.shard,
                    "the queue index is damaged: a restart makes it anew from the log, which \
                     gantry admin log verify looks at before; until then some messages can't be \
                     read"
                );
                self.upkeep.notify();
            }
            let detail = error.to_string();
            return ReadError::Index { detail };
        }
        match error {
            PageFileError::Disk(error) => ReadError::Disk(error),
            other => ReadError::Index {
                detail: other.to_string(),
            },
        }
    }

    /// Has the next start make the indexes anew if a part of the key index was met damaged, which
    /// says so itself.
    pub(super) fn note_key_damage(&self) {
        if self.keys.has_damage() && !self.damage.index.replace(true) {
            self.upkeep.notify();
        }
    }

    pub(super) fn damaged(&self, position: FilePosition) -> ReadError {
        let start = self.log.segments.start_of(position);
        let file = format!("{}/{}", self.folder, segment_name(start));
        ReadError::Damaged { file, position }
    }

    /// What a failed read of just the blocks of the record at `position` means: `Damaged` where
    /// they are lost, else the error, and the reader may come again.
    pub(super) async fn refused(&self, position: FilePosition, error: DiskError) -> ReadError {
        // Says nothing of the device.
        if error.is_no_handle() || error.is_not_found() {
            return ReadError::Disk(error);
        }
        if error.kind == DiskErrorKind::Lost {
            tracing::error!(%position, %error, "the device has lost a record");
            return self.damaged(position);
        }
        let is_over = self.count_refusal(position);
        // A device that fails altogether comes back, or is given up as a whole.
        if is_over && !self.log.poison.is_set() && self.answers_beside(position).await {
            tracing::error!(%position, %error, "the device does not give a record any more");
            return self.damaged(position);
        }
        ReadError::Disk(error)
    }

    /// Whether the device reads another block of the segment that has `position`.
    async fn answers_beside(&self, position: FilePosition) -> bool {
        let start = self.log.segments.start_of(position);
        let is_first = position.since(start) < BLOCK_BYTES;
        let beside = if is_first {
            start.plus(BESIDE_BYTES)
        } else {
            start
        };
        matches!(self.blocks(beside, BLOCK_BYTES).await, Ok(Some(_)))
    }

    /// Counts a failed read of the record at `position`; true when it has gone on for long.
    fn count_refusal(&self, position: FilePosition) -> bool {
        let now_us = self.log.disk.now_mono_us();
        let mut refused = self.damage.refused.borrow_mut();
        if refused.len() >= REFUSED_KEPT_MAX && !refused.contains_key(&position) {
            refused.pop_first();
        }
        let fresh = || Refused {
            first_us: now_us,
            last_us: now_us,
            count: 0,
        };
        let record = refused.entry(position).or_insert_with(fresh);
        if now_us - record.last_us > REFUSALS_APART_US {
            *record = fresh();
        }
        record.last_us = now_us;
        record.count += 1;
        record.count >= REFUSALS_MIN && now_us - record.first_us >= REFUSED_US
    }

    /// The blocks of the record at `position` could be read after all.
    pub(super) fn not_refused(&self, position: FilePosition) {
        self.damage.refused.borrow_mut().remove(&position);
    }
}

#[cfg(test)]
#[path = "index_damage_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "key_damage_tests.rs"]
mod key_tests;
