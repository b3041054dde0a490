//! Open halves whose record the log can't give any more.
//!
//! **Owns** the end of such a half.
//! **Lives on** the core of the half's shard.
//! **Invariants** only a half whose record is gone or damaged is given up, and only while no end of
//! it is under way: what can't be read for now, or isn't readable yet, stays open. It ends like any
//! other, with an op record, so a restart doesn't open it again; `moves` needn't wait for that
//! record, as there is nothing left to lose.
//! **Limits** none of its own.
//! **Not here** when a record counts as damaged (storage), halves given up that can still be read
//! (`checks`).

use bytes::Bytes;
use gantry_storage::address;
use gantry_storage::error::ReadError;
use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// The record of an open half; none when it can't be read yet, or the half is given up.
    ///
    /// One whose record is lost is given up here: nobody can be asked about it and no end of it can
    /// be done, but as the first open half it would keep every segment from its own on for ever.
    ///
    /// # Errors
    /// The device failed.
    pub async fn open_half(
        &self,
        half: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<Bytes>, ReadError> {
        let record = self.half_record(half, offset).await?;
        // Under SYNC_FLUSH the end of the queue may not be readable yet.
        if record.is_none() && offset < self.store().bounds(half).max {
            self.give_up_lost(half, offset).await;
        }
        Ok(record)
    }

    async fn give_up_lost(&self, half: QueueKey, offset: QueueOffset) {
        let is_undecided = || self.with_halves(|halves| halves.is_undecided(offset));
        // One that is being ended was read for its end.
        if !is_undecided() {
            return;
        }
        let place = self.place_of(half, offset).await;
        if is_undecided() {
            let physical = place.map(|physical| physical.0);
            tracing::error!(shard = %self.id(), half = %offset, physical,
                "an open half message is gone from the log or damaged: it is given up");
            self.half_ended(offset);
        }
    }

    /// Where its record lay, for whoever looks for it.
    async fn place_of(&self, half: QueueKey, offset: QueueOffset) -> Option<PhysicalOffset> {
        let entries = self.store().entries(half, offset, 1).await.ok()?;
        let entry = entries.first().filter(|entry| !entry.is_lost())?;
        Some(address::physical(self.id(), entry.position))
    }
}
