//! What the supervisor knows of the queues that hold parked records.
//!
//! **Owns** for each queue how far its rows are known, and where its oldest pending record lies.
//! **Lives on** the control plane's thread; pure.
//! **Invariants** `floor` is at or below every pending record of the queue: nothing pending lies
//! before it. It is exact to [`CHUNK_BITS`].
//! **Limits** one counter for each stretch of log that holds a pending record.
//! **Not here** the entries (`due`), persistence (`marks`).

use std::collections::BTreeMap;

use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

/// Positions are counted by stretches of 4 MiB.
const CHUNK_BITS: u32 = 22;

/// One queue.
#[derive(Debug, Default)]
pub struct ParkedQueue {
    /// Which.
    pub key: QueueKey,
    /// Rows before this offset are known.
    pub next: QueueOffset,
    /// One past the last record delivered, for tools.
    pub delivered: QueueOffset,
    /// Pending records by stretch of the log.
    chunks: BTreeMap<u64, u32>,
}

impl ParkedQueue {
    /// A queue nothing is known of.
    pub fn new(key: QueueKey) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// A record is pending.
    pub fn add(&mut self, physical: u64) {
        *self.chunks.entry(physical >> CHUNK_BITS).or_default() += 1;
    }

    /// A record is no longer pending.
    pub fn done(&mut self, physical: u64) {
        let chunk = physical >> CHUNK_BITS;
        if let Some(count) = self.chunks.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.chunks.remove(&chunk);
            }
        }
    }

    /// Nothing pending lies before this; none when nothing is pending.
    pub fn floor(&self) -> Option<PhysicalOffset> {
        let (chunk, _) = self.chunks.first_key_value()?;
        Some(PhysicalOffset(chunk << CHUNK_BITS))
    }

    /// Records pending.
    pub fn pending(&self) -> u64 {
        self.chunks.values().map(|count| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_oldest_pending_record() {
        let mut queue = ParkedQueue::default();
        assert_eq!(queue.floor(), None);
        for physical in [5, 6, 9 << CHUNK_BITS, 7 << CHUNK_BITS] {
            queue.add(physical);
        }
        assert_eq!(
            (queue.floor(), queue.pending()),
            (Some(PhysicalOffset(0)), 4)
        );
        queue.done(5);
        assert_eq!(queue.floor(), Some(PhysicalOffset(0)));
        queue.done(6);
        assert_eq!(queue.floor(), Some(PhysicalOffset(7 << CHUNK_BITS)));
        queue.done(9 << CHUNK_BITS);
        queue.done(7 << CHUNK_BITS);
        assert_eq!((queue.floor(), queue.pending()), (None, 0));
    }
}
