//! What one start leaves for the next, and lives that are hardly more than a start.
//!
//! **Owns** the checks that no client could make: where a start began to read, which epoch it took.
//! **Lives on** a test's thread.
//! **Invariants** the checkpoint of a start that succeeded is there at the next one, whatever death
//! lies between, unless it told of a damaged index; no two starts of a shard have the same epoch.
//! **Limits** `MESSAGES_MAX` messages in a short life.
//! **Not here** the log's content (`audit`).

use std::rc::Rc;

use gantry_storage::shard_store::RecoveryReport;

use super::life::Manner;
use super::world::{Store, World};

/// Most messages of a short life.
const MESSAGES_MAX: u64 = 4;
/// Longer than the log waits for company before it writes: each message gets a write of its own.
const ALONE_US: u64 = 12_000;

/// What a start of a shard has left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Position of the checkpoint it wrote.
    checkpoint: u64,
    epoch: u64,
}

impl World {
    /// Compares a start with the one before.
    pub fn check_start(&self, shard: u8, report: &RecoveryReport) {
        let mut starts = self.starts.borrow_mut();
        let last = starts.get(&shard).copied().unwrap_or_default();
        let excused = self.reads_may_fail();
        assert!(
            excused || report.scanned_from.0 >= last.checkpoint,
            "shard {shard}: the checkpoint of the last start is gone, {last:?}: {report:?}"
        );
        // Without a checkpoint epochs are skipped, as many as the clock says at least.
        let excused = excused && (!self.only_sectors_are_lost() || self.mix.clock_jumps);
        assert!(
            excused || report.epoch > last.epoch,
            "shard {shard}: an epoch was used before, {last:?}: {report:?}"
        );
        let start = Start {
            checkpoint: report.end.0,
            epoch: report.epoch.max(last.epoch),
        };
        starts.insert(shard, start);
    }

    /// A start that faults met may have given the checkpoint up before it failed.
    pub fn forget_checkpoints(&self, had_faults: bool) {
        self.gave_up.set(self.gave_up.get() || had_faults);
        for start in self.starts.borrow_mut().values_mut() {
            start.checkpoint = 0;
        }
    }

    /// A life that met damage of an index has given its shard's checkpoint up.
    pub fn index_was_damaged(&self, stores: &[Rc<Store>]) {
        for (shard, store) in (0..).zip(stores) {
            if let Some(start) = self.starts.borrow_mut().get_mut(&shard)
                && store.has_index_damage()
            {
                start.checkpoint = 0;
                self.gave_up.set(true);
            }
        }
    }

    /// A few messages, each in a write of its own: where a power cut takes one and leaves a later
    /// one, the next life's may end right before that.
    pub async fn live_shortly(&self) {
        self.disk.set_rates(self.mix.rates);
        for _ in 0..self.choices.below(MESSAGES_MAX + 1) {
            self.produce(self.any_queue(), Manner::Waits);
            let us = ALONE_US + self.choices.below(2 * self.mix.latency_us);
            self.disk.sleep_us(us).await;
            self.drain();
        }
    }
}
