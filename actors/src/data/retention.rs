//! This core's part in retention: what its shards could give up, and giving it up.
//!
//! **Owns** the answers to `Question::Ages` and `Question::DropSegments`.
//! **Lives on** each data core, in tasks with the housekeeping share.
//! **Invariants** serving goes on meanwhile; a shard does one drop at a time, a second order is
//! dropped (the supervisor comes again).
//! **Limits** [`SEGMENTS_OFFERED_MAX`] segments a shard are offered at once.
//! **Not here** which segments go (`control::cleaning`), how (`gantry_storage`).

use std::rc::Rc;

use gantry_storage::retention::{Plan, ShardAges};
use gantry_storage::shard_store::RetainError;
use gantry_storage::units::FilePosition;

use super::core::DataCore;
use super::host::Host;
use super::queue::store::QueueStore;
use super::shard::Shard;
use crate::seam::OwnTimes;

/// Segments one shard offers at once: more than one run may take of segments of the default size.
pub const SEGMENTS_OFFERED_MAX: usize = 64;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Moves the queues of topics with a shorter time, and tells what each shard could give up.
    /// What of it can't be read is no reason to offer nothing, as it may stay so.
    pub(super) async fn ages(&self, own: &OwnTimes) -> Vec<ShardAges> {
        let mut all = Vec::new();
        for shard in self.shards() {
            all.push(ages_of(&shard, own).await);
        }
        all
    }

    /// Begins to give up segments; done later, in the background.
    pub(super) fn drop_segments(self: &Rc<Self>, plan: &Plan) {
        for shard in self.shards() {
            let mine = plan.drops.iter().find(|drop| drop.shard == shard.id());
            let before = mine.map_or(FilePosition(0), |drop| drop.before);
            let is_recycling = plan.is_recycling;
            if mine.is_some() || !is_recycling {
                self.host
                    .spawn_clean(async move { drop_in(&shard, before, is_recycling).await });
            }
        }
    }
}

async fn ages_of<S: QueueStore, H: Host>(shard: &Shard<S, H>, own: &OwnTimes) -> ShardAges {
    let store = shard.store();
    for (topic, time) in &own.trim {
        // Its space goes with the segments all the same.
        if let Err(error) = store.trim_topic(*topic, *time).await {
            tracing::warn!(shard = %shard.id(), %topic, %error, "a topic's queues aren't cut");
        }
    }
    let mut reserved_from: Option<FilePosition> = None;
    for (topic, time) in &own.keep {
        let first = store.first_since(*topic, *time).await.unwrap_or_else(|error| {
            tracing::warn!(shard = %shard.id(), %topic, %error, "what a topic wants isn't known");
            // All, then: what only the forced watermark takes.
            Some(FilePosition(0))
        });
        if let Some(first) = first {
            reserved_from = Some(reserved_from.map_or(first, |from| from.min(first)));
        }
    }
    ShardAges {
        shard: shard.id(),
        segments: store.oldest_segments(SEGMENTS_OFFERED_MAX).await,
        reserved_from,
    }
}

async fn drop_in<S: QueueStore, H: Host>(shard: &Shard<S, H>, before: FilePosition, keep: bool) {
    match shard.store().drop_before(before, keep).await {
        Ok(done) if done.segments + done.spares > 0 => tracing::info!(
            shard = %shard.id(), segments = done.segments, spares = done.spares,
            begins_at = done.first.0, "old segments are given up"
        ),
        Ok(_) | Err(RetainError::Busy) => {}
        Err(RetainError::Disk(error)) => {
            tracing::warn!(shard = %shard.id(), %error, "old segments stay for now");
        }
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
