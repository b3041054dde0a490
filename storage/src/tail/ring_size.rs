//! How much of the tail's memory is in use: little while nobody needs more.
//!
//! **Owns** the wish for another size of the ring.
//! **Lives on** the shard's core; knows positions and no clock.
//! **Invariants** whoever needs the whole memory gets it: an entry too long for the small ring, a
//! device that fell behind, a reader who wants what the whole ring would still have.
//! **Limits** one of two sizes, [`SMALL_SHARE`] apart; it becomes small again after
//! [`PATIENCE_RINGS`] rings of log without need, later and later.
//! **Not here** the change itself (`staging`): it needs a ring without unwritten bytes.
//!
//! Why: the bytes of a ring that is larger than what a core has of the cache come from memory
//! each time they are written, and push everything else out.

use std::cell::Cell;

use crate::tail::RING_BYTES_MIN;
use crate::units::FilePosition;

/// The small ring is this part of the memory.
pub const SMALL_SHARE: u64 = 8;
/// The whole memory is used for at least so many times its bytes.
const PATIENCE_RINGS: u64 = 16;
/// The patience doubles with every need up to so many times the first one.
const PATIENCE_GROWTH_MAX: u64 = 64;

/// What the ring's size should be.
#[derive(Debug)]
pub struct RingSize {
    whole: u64,
    small: u64,
    patience: u64,
    /// The whole memory is needed until the log has got here.
    needed_until: Cell<FilePosition>,
}

impl RingSize {
    /// Of a memory with a ring of `whole` bytes (a power of two), small at first.
    pub fn new(whole: u64) -> Self {
        let small = (whole / SMALL_SHARE).max(RING_BYTES_MIN).min(whole);
        Self {
            whole,
            small,
            patience: whole.saturating_mul(PATIENCE_RINGS),
            needed_until: Cell::default(),
        }
    }

    /// Bytes of the small one, which is the first.
    pub fn small_bytes(&self) -> u64 {
        self.small
    }

    /// The whole ring is needed with the log's end at `head`.
    pub fn need_whole(&self, head: FilePosition) {
        self.needed_until.set(head.plus(self.patience));
    }

    /// Somebody reads what begins `back_bytes` before the log's end.
    #[inline]
    pub fn note_reader(&self, back_bytes: u64, head: FilePosition) {
        if back_bytes > self.small && back_bytes <= self.whole {
            self.need_whole(head);
        }
    }

    /// The size to change to, if a ring of `bytes` should be another one with the log's end at
    /// `head`.
    #[inline]
    pub fn change(&self, bytes: u64, head: FilePosition) -> Option<u64> {
        let needs_whole = head < self.needed_until.get();
        let wanted = if needs_whole { self.whole } else { self.small };
        (wanted != bytes).then_some(wanted)
    }

    /// The ring has `bytes` bytes now.
    pub fn changed(&mut self, bytes: u64) {
        if bytes == self.whole {
            let most = self.whole * PATIENCE_RINGS * PATIENCE_GROWTH_MAX;
            self.patience = self.patience.saturating_mul(2).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: u64 = 16 << 20;
    const SMALL: u64 = 2 << 20;

    #[test]
    fn it_is_small_until_somebody_needs_more_and_again_after_a_while() {
        let mut size = RingSize::new(WHOLE);
        assert_eq!(size.small_bytes(), SMALL);
        let head = FilePosition(1 << 40);
        assert_eq!(size.change(SMALL, head), None, "small at first");
        size.note_reader(SMALL, head);
        size.note_reader(WHOLE + 1, head);
        assert_eq!(
            size.change(SMALL, head),
            None,
            "nobody whom the whole ring would help"
        );
        size.note_reader(SMALL + 1, head);
        assert_eq!(size.change(SMALL, head), Some(WHOLE));
        size.changed(WHOLE);
        assert_eq!(size.change(WHOLE, head), None);
        let last = head.plus(WHOLE * 16 - 1);
        assert_eq!(size.change(WHOLE, last), None);
        assert_eq!(size.change(WHOLE, last.plus(1)), Some(SMALL));
        size.note_reader(WHOLE, last);
        assert_eq!(
            size.change(WHOLE, last.plus(WHOLE * 32 - 1)),
            None,
            "patience doubled"
        );
        assert_eq!(size.change(WHOLE, last.plus(WHOLE * 32)), Some(SMALL));
    }

    #[test]
    fn a_memory_that_is_small_stays_as_it_is() {
        let size = RingSize::new(RING_BYTES_MIN);
        assert_eq!(size.small_bytes(), RING_BYTES_MIN);
        size.need_whole(FilePosition(1));
        assert_eq!(size.change(RING_BYTES_MIN, FilePosition(1)), None);
        let double = RingSize::new(2 * RING_BYTES_MIN);
        assert_eq!(double.small_bytes(), RING_BYTES_MIN);
    }
}
