//! When the batches of requests at work on this core were decoded, and when they came here.
//!
//! **Owns** one mark for each latest batch: what one read of a connection completed.
//! **Lives on** each data core.
//! **Invariants** a batch is named by the core that read it and the time of that read, which its
//! requests carry; so a request carries one stamp, whatever its batch went through.
//! **Limits** [`BATCHES_MAX`] marks; a request whose batch is older has waited so long that its
//! share of decoding doesn't matter, and is given to its wait.
//! **Not here** the requests (actors).

use std::collections::VecDeque;

/// Marks kept: some reads of a hundred connections.
pub(super) const BATCHES_MAX: usize = 128;

#[derive(Debug, Clone, Copy)]
pub(super) struct Batch {
    pub(super) core: u16,
    pub(super) read_us: u64,
    pub(super) decoded_us: u64,
    /// When it came from its core; on the core itself the end of decoding.
    pub(super) arrived_us: u64,
    /// Sends of it that were taken from their inboxes in the pass at work.
    pub(super) taken: u64,
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    marks: VecDeque<Batch>,
    /// Where the last one was found: requests of a batch come together.
    last: usize,
}

impl Batches {
    pub(super) fn add(&mut self, batch: Batch) {
        if self.marks.len() >= BATCHES_MAX {
            self.last = self.last.saturating_sub(1);
            self.marks.pop_front();
        }
        self.marks.push_back(batch);
    }

    pub(super) fn find(&mut self, core: u16, read_us: u64) -> Option<&mut Batch> {
        let is_it = |batch: &Batch| batch.read_us == read_us && batch.core == core;
        if !self.marks.get(self.last).is_some_and(is_it) {
            self.last = self.marks.iter().rposition(is_it)?;
        }
        self.marks.get_mut(self.last)
    }

    pub(super) fn taken(&mut self) -> impl Iterator<Item = &mut Batch> {
        self.marks.iter_mut().filter(|batch| batch.taken > 0)
    }
}
