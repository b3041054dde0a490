//! This core's part in retention: what its shards could give up, and giving it up.
//!
//! **Owns** the answers to `Question::Ages` and `Question::DropSegments`.
//! **Lives on** each data core, in tasks with the housekeeping share.
//! **Invariants** serving goes on meanwhile; a shard does one drop at a time, a second order is
//! dropped (the supervisor comes again).
//! **Limits** [`SEGMENTS_OFFERED_MAX`] segments a shard are offered at once; one search a shard for
//! what topics with a time of their own want.
//! **Not here** which segments go (`control::cleaning`), how (`gantry_storage`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gantry_storage::retention::{Plan, ShardAges};
use gantry_storage::shard_store::RetainError;
use gantry_storage::units::{FilePosition, StoreTimestamp, TopicId};

use super::core::DataCore;
use super::host::Host;
use super::queue::store::QueueStore;
use super::shard::Shard;
use crate::seam::OwnTimes;

/// Segments one shard offers at once: more than one run may take of segments of the default size.
pub const SEGMENTS_OFFERED_MAX: usize = 64;
/// How long an answer waits for what topics with a time of their own want, in so many looks: well
/// below the time in which the control plane wants it. Usually it is known at once, but each queue
/// may take a read, and those of 50,000 must not keep back what the forced watermark needs.
const OWN_LOOKS: u32 = 20;
const OWN_LOOK_MS: u64 = 25;
/// So many times as long as it took, what they want isn't looked for again.
const OWN_PAUSE_FACTOR: u64 = 9;

/// A shard's topics with a time of their own: what they want, as it was last found.
#[derive(Default)]
pub struct OwnWork {
    /// The topics it was found for, and the position.
    last: RefCell<Option<(BTreeMap<TopicId, StoreTimestamp>, FilePosition)>>,
    /// One search is under way.
    is_busy: Cell<bool>,
    next_us: Cell<u64>,
}

impl OwnWork {
    /// From where on these topics may want records; none when that isn't known. Found for an
    /// earlier time it is a lower position, and so still right.
    fn reserved_from(&self, keep: &[(TopicId, StoreTimestamp)]) -> Option<FilePosition> {
        let last = self.last.borrow();
        let (found_for, from) = last.as_ref()?;
        let covers = |(topic, time): &(TopicId, StoreTimestamp)| {
            found_for
                .get(topic)
                .is_some_and(|found_for| found_for <= time)
        };
        keep.iter().all(covers).then_some(*from)
    }

    fn is_known(&self, own: &OwnTimes) -> bool {
        own.keep.is_empty() || self.reserved_from(&own.keep).is_some()
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Moves the queues of topics with a shorter time, and tells what each shard could give up.
    /// What of it can't be read is no reason to offer nothing, as it may stay so; nor is what takes
    /// long, it goes on in the background.
    pub(super) async fn ages(&self, own: &Arc<OwnTimes>) -> Vec<ShardAges> {
        let shards: Vec<_> = self.shards().collect();
        let mut all = Vec::with_capacity(shards.len());
        for shard in &shards {
            self.begin_own_times(shard, own);
            all.push(ShardAges {
                shard: shard.id(),
                segments: shard.store().oldest_segments(SEGMENTS_OFFERED_MAX).await,
                reserved_from: None,
            });
        }
        for _ in 0..OWN_LOOKS {
            if shards.iter().all(|shard| shard.own_times().is_known(own)) {
                break;
            }
            self.host.sleep_ms(OWN_LOOK_MS).await;
        }
        for (shard, ages) in shards.iter().zip(&mut all) {
            if !own.keep.is_empty() {
                // All, if it isn't known: what only the forced watermark takes.
                let from = shard.own_times().reserved_from(&own.keep);
                ages.reserved_from = Some(from.unwrap_or_default());
            }
        }
        all
    }

    /// Begins to look for what the topics want, if that isn't under way.
    fn begin_own_times(&self, shard: &Rc<Shard<S, H>>, own: &Arc<OwnTimes>) {
        let work = shard.own_times();
        let is_early = work.is_known(own) && self.host.mono_us_now() < work.next_us.get();
        let is_nothing = own.keep.is_empty() && own.trim.is_empty();
        if is_nothing || is_early || work.is_busy.replace(true) {
            return;
        }
        let (shard, own, host) = (Rc::clone(shard), Arc::clone(own), Rc::clone(&self.host));
        self.host.spawn_clean(async move {
            let begun_us = host.mono_us_now();
            apply_own_times(&shard, &own).await;
            let now_us = host.mono_us_now();
            let pause_us = (now_us - begun_us).saturating_mul(OWN_PAUSE_FACTOR);
            shard.own_times().next_us.set(now_us + pause_us);
            shard.own_times().is_busy.set(false);
        });
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

async fn apply_own_times<S: QueueStore, H: Host>(shard: &Shard<S, H>, own: &OwnTimes) {
    let store = shard.store();
    if let Err(error) = store.trim_topics(&own.trim).await {
        // Their space goes with the segments all the same.
        tracing::warn!(shard = %shard.id(), %error, "a topic's queues aren't all cut");
    }
    // What is stored meanwhile lies behind it.
    let end = store.staged();
    let first = store.first_since(&own.keep).await.unwrap_or_else(|error| {
        tracing::warn!(shard = %shard.id(), %error, "what topics want isn't known");
        Some(FilePosition(0))
    });
    let found_for = own.keep.iter().copied().collect();
    let from = first.map_or(end, |first| first.min(end));
    *shard.own_times().last.borrow_mut() = Some((found_for, from));
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
