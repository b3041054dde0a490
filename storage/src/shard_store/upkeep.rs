//! What a shard does besides taking and giving records: index pages out, checkpoints, the end.
//!
//! **Owns** when a checkpoint is due and the order in which it becomes durable.
//! **Lives on** the shard's core, two tasks: a checkpoint does not wait while a million keys are
//! merged.
//! **Invariants** a checkpoint is written only when all that its index parts know is committed.
//! **Limits** `checkpoint_bytes` of log, or `IDLE_MS` without news, between two checkpoints;
//! `rest_ms` between two looks for queues that may go to sleep.
//! **Not here** the checkpoint's bytes (`checkpoint`).

use std::future::Future;
use std::rc::Rc;

use super::ShardStore;
use crate::disk::{Disk, DiskError};
use crate::error::FlushError;
use crate::format::CheckpointHeader;
use crate::log::checkpoint::{self, Checkpoint, Parts};
use crate::log::signal::Signal;
use crate::units::{FilePosition, StoreTimestamp};

/// After so long without a new record a checkpoint is taken, so that the next start is quick.
pub const IDLE_MS: u64 = 5000;
/// After so long without a new record one is taken as soon as it is worth its bytes: the device has
/// nothing better to do.
const QUIET_MS: u64 = 10;

/// A start replays so much in a few milliseconds.
const QUIET_BYTES: u64 = 4 << 20;

/// A queue without a new record for `StoreOptions::sleep_ms` goes to sleep, whether other queues
/// have records or not: a page of its own for what it has, in exchange for the memory of the page
/// it was filling. Such queues are looked for so many times in that while, as long as any queue is
/// filling a page.
const LOOKS: u64 = 10;
/// Queues that have gone to sleep before their memory is given back: some hundred KiB.
const SLEPT_MANY: usize = 4096;
/// Bytes of log for each byte of a checkpoint: checkpoints of many busy queues, which repeat all
/// their short pages, add at most this part to what the device gets, and to a message's work.
const LOG_PER_CHECKPOINT: u64 = 32;
/// The same in a pause, where it only costs the device.
const QUIET_LOG_PER_CHECKPOINT: u64 = 4;
/// Bytes of log behind a checkpoint, whatever its size: what a start replays in the worst case.
const LOG_BYTES_MAX: u64 = 128 << 20;

impl<D: Disk> ShardStore<D> {
    pub(super) fn start_upkeep(store: &Rc<Self>) {
        let pages = Rc::clone(store);
        store.run(async move { pages.upkeep_loop().await });
        let keys = Rc::clone(store);
        store.run(async move { keys.keys_loop().await });
    }

    /// Runs one of the tasks whose end a shutdown waits for.
    fn run(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.upkeep_tasks.set(self.upkeep_tasks.get() + 1);
        let store = Rc::clone(self);
        self.log.disk.spawn(async move {
            task.await;
            store.upkeep_tasks.set(store.upkeep_tasks.get() - 1);
            store.upkeep.notify();
        });
    }

    fn ends(&self) -> bool {
        self.log.closing.get() || self.log.poison.is_set()
    }

    fn checkpoint_due(&self) -> bool {
        self.damage.must_tell()
            || self.is_behind(self.log.options.checkpoint_bytes, LOG_PER_CHECKPOINT)
    }

    /// Whether there is so much log behind the last checkpoint, and enough for its size.
    fn is_behind(&self, bytes: u64, per_checkpoint: u64) -> bool {
        let last = self.checkpoint_bytes.get();
        let enough = last.saturating_mul(per_checkpoint).min(LOG_BYTES_MAX);
        self.staged().since(self.checkpoint_position.get()) >= bytes.max(enough)
    }

    /// Between two looks for queues that may go to sleep.
    fn rest_ms(&self) -> u64 {
        (self.log.options.sleep_ms / LOOKS).max(1)
    }

    /// Whether there are pages being filled that nobody has looked at for so long.
    fn rest_due(&self) -> bool {
        let now_ms = self.log.disk.now_mono_us() / 1000;
        let is_long_ago = |rested: u64| now_ms.saturating_sub(rested) >= self.rest_ms();
        self.index.has_hot() && self.rested_ms.get().is_none_or(is_long_ago)
    }

    fn has_work(&self) -> bool {
        self.is_full() || self.rest_due()
    }

    /// Whether what was appended makes work.
    fn is_full(&self) -> bool {
        let pages = self.index.needs_flush() || self.index.is_hot_full();
        pages || self.checkpoint_due()
    }

    pub(super) fn wake_upkeep(&self) {
        // The first news after a checkpoint also starts the idle timer; while that runs, news alone
        // are nothing to wake up for. What else is due with time is looked at when it ends.
        if !self.waits_for_quiet.get() || self.is_full() {
            self.upkeep.notify();
        }
        if self.keys.needs_write() {
            self.keys_full.notify();
        }
    }

    async fn upkeep_loop(&self) {
        // Queues that went to sleep since memory was given back.
        let mut slept = 0;
        loop {
            let news = || self.staged() > self.checkpoint_position.get() || self.has_work();
            if self.index.has_hot() {
                let (disk, stop) = (&self.log.disk, || news() || self.ends());
                self.upkeep.wait_ms(disk, self.rest_ms(), stop).await;
            } else {
                let news = || (news() || self.ends()).then_some(());
                self.upkeep.wait(news).await;
            }
            if self.ends() {
                return;
            }
            if !self.has_work() {
                if self.staged() <= self.checkpoint_position.get() {
                    continue;
                }
                if self.is_quiet().await {
                    self.try_checkpoint().await;
                }
                continue;
            }
            // Pages that went to sleep are in the checkpoint as well, else a start would bring them
            // back.
            let rested = self.write_indexes().await;
            if rested > 0 || self.checkpoint_due() {
                self.try_checkpoint().await;
            }
            slept += rested;
            if slept >= SLEPT_MANY {
                slept = 0;
                self.log.disk.give_memory_back().await;
            }
        }
    }

    /// Waits for news or for the time to take a checkpoint because there are none.
    async fn is_quiet(&self) -> bool {
        let disk = &self.log.disk;
        let seen = self.staged();
        let comes = || self.has_work() || self.ends();
        self.waits_for_quiet.set(true);
        self.upkeep.wait_ms(disk, QUIET_MS, comes).await;
        self.waits_for_quiet.set(false);
        if !comes()
            && self.staged() == seen
            && !self.is_behind(QUIET_BYTES, QUIET_LOG_PER_CHECKPOINT)
        {
            let comes = || comes() || self.staged() != seen;
            self.upkeep.wait_ms(disk, IDLE_MS - QUIET_MS, comes).await;
        }
        !comes() && self.staged() == seen
    }

    /// How many queues went to sleep that nobody had looked at for long.
    async fn write_indexes(&self) -> usize {
        let rest_due = self.rest_due();
        let mut slept = 0;
        if self.index.is_hot_full() || self.checkpoint_due() || rest_due {
            let now_ms = self.log.disk.now_mono_us() / 1000;
            self.rested_ms.set(Some(now_ms));
            let (disk, sleep_ms) = (&self.log.disk, self.log.options.sleep_ms);
            let before = disk.now_ms().saturating_sub(sleep_ms);
            slept = self.index.put_to_sleep(StoreTimestamp(before)).await;
        }
        let flushed = self.index.flush().await;
        let fault = flushed.as_ref().err().map(ToString::to_string);
        self.index_fault.replace(fault);
        if let Err(error) = flushed {
            if self.index.is_overdue() {
                tracing::error!("new records are refused: index pages can't be written");
            }
            self.could_not_write(&error, &self.upkeep).await;
        }
        if rest_due { slept } else { 0 }
    }

    async fn keys_loop(&self) {
        loop {
            let news = || (self.keys.needs_write() || self.ends()).then_some(());
            self.keys_full.wait(news).await;
            if self.ends() {
                return;
            }
            let written = self.keys.write_frozen().await;
            self.keys.tell_skipped();
            if let Err(error) = written {
                self.could_not_write(&error, &self.keys_full).await;
            }
            self.note_key_damage();
        }
    }

    /// Nothing is lost: entries stay in memory and in the log.
    async fn could_not_write(&self, error: &dyn std::fmt::Display, task: &Signal) {
        tracing::warn!(%error, "index pages could not be written");
        self.pause(task).await;
    }

    /// What failed is not tried again at once. `task`: what its task waits on.
    async fn pause(&self, task: &Signal) {
        let ends = || self.ends();
        task.wait_ms(&self.log.disk, IDLE_MS, ends).await;
    }

    async fn try_checkpoint(&self) {
        if let Err(error) = self.checkpoint().await {
            tracing::warn!(%error, "no checkpoint");
            self.pause(&self.upkeep).await;
        }
    }

    /// Writes a checkpoint now; when one is being written, only waits for that one.
    ///
    /// # Errors
    /// When the shard is poisoned or the device fails.
    pub async fn checkpoint(&self) -> Result<(), FlushError> {
        if self.checkpointing.replace(true) {
            // Returning at once would let the upkeep task spin while one is due.
            let done = || (!self.checkpointing.get()).then_some(());
            self.upkeep.wait(done).await;
            return Ok(());
        }
        let result = self.checkpoint_here().await;
        self.checkpointing.set(false);
        self.upkeep.notify();
        result
    }

    async fn checkpoint_here(&self) -> Result<(), FlushError> {
        let position = self.seal();
        // The run after `position` has this number, whoever seals it.
        let sequence = self.log.staging.borrow().sequence();
        // What may be acknowledged is in the indexes, and `write_checkpoint` waits until it is
        // committed; one wait less, and so much less of the log for a start to read.
        if self.log.acknowledged() < position {
            self.until_committed(position).await?;
        }
        self.apply();
        let write = self.write_checkpoint(position, sequence).await;
        write.map_err(|error| FlushError::Device {
            detail: error.to_string(),
        })?;
        // A poisoned shard wrote none, and says so here; else this is true already.
        self.until_committed(position).await
    }

    /// Snapshots the indexes, which cover at least `position`, waits until all they cover is
    /// committed, and writes the checkpoint.
    pub(super) async fn write_checkpoint(
        &self,
        position: FilePosition,
        sequence: u64,
    ) -> Result<(), DiskError> {
        let keys = self.keys.snapshot();
        let queues = self.index.snapshot().await;
        let covered = self.log.acknowledged();
        if self.log.marks.committed().0 < covered && self.until_committed(covered).await.is_err() {
            return Ok(());
        }
        let epoch = self.log.staging.borrow().epoch();
        let header = CheckpointHeader {
            epoch,
            position,
            sequence,
            is_suspect: self.has_index_damage(),
            ..CheckpointHeader::default()
        };
        let parts_bytes = queues.bytes.len() + keys.bytes.len();
        let parts = Some(Parts {
            index: queues.bytes,
            keys: keys.bytes,
        });
        let checkpoint = Checkpoint { header, parts };
        let disk = &self.log.disk;
        let written = checkpoint::write(disk, &self.folder, self.store_id, &checkpoint).await;
        if let Err(error) = written {
            // Else nothing would remove them before the next start.
            self.index.checkpoint_failed(&queues.unneeded_files);
            self.keys.checkpoint_failed(&keys.unneeded);
            return Err(error);
        }
        self.checkpoint_position.set(position);
        self.checkpoint_bytes.set(parts_bytes as u64);
        if header.is_suspect {
            self.damage.told();
        }
        let queues = self
            .index
            .checkpoint_durable(&queues.unneeded_files)
            .await
            .err();
        let keys = self.keys.checkpoint_durable(&keys.unneeded).await.err();
        if queues.is_some() || keys.is_some() {
            // They are removed after the next checkpoint.
            tracing::debug!(?queues, ?keys, "old index files stay for now");
        }
        Ok(())
    }

    /// Seals, writes, syncs, checkpoints, stops the tasks. Appends get `Closed` from now on.
    ///
    /// # Errors
    /// When the last bytes could not be made durable.
    pub async fn shutdown(&self) -> Result<(), FlushError> {
        let checkpoint = self.checkpoint().await;
        let closed = self.log.close().await;
        self.upkeep.notify();
        self.keys_full.notify();
        self.upkeep
            .wait(|| (self.upkeep_tasks.get() == 0).then_some(()))
            .await;
        closed.and(checkpoint)
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
