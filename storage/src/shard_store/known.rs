//! What a start knows of the log before it has read it.
//!
//! **Owns** what a checkpoint's header says even when its parts are broken: how far the log must
//! reach, and which epochs are taken.
//! **Lives on** the shard's core, at start only.
//! **Invariants** a log that ends before a position known as committed is reported, never gone on
//! with; no run of an earlier process has the epoch of this one.
//! **Limits** none.
//! **Not here** reading the log (`recovery`), the checkpoint's bytes (`checkpoint`).

use crate::disk::Disk;
use crate::error::RecoverError;
use crate::format::segment_name;
use crate::log::checkpoint::Checkpoint;
use crate::log::recovery::Scan;
use crate::log::segments::Segments;

/// Where nothing says which epochs were used, the runs of so many starts may lie behind the log's
/// end, un-synced.
const EPOCHS_SKIPPED: u64 = 1 << 20;

/// What is known.
pub(super) struct Known {
    /// The last checkpoint.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether the indexes are filled from the whole log, for the checkpoint has no use.
    pub(super) is_whole_log: bool,
}

impl Known {
    /// Whether the last process met damage of the indexes.
    pub(super) fn is_suspect(&self) -> bool {
        let checkpoint = self.checkpoint.as_ref();
        checkpoint.is_some_and(|found| found.header.is_suspect)
    }

    /// Where the scan begins.
    pub(super) fn first_scan<D: Disk>(&self, store_id: u64, segments: &Segments<D>) -> Scan {
        let checkpoint = self.checkpoint.as_ref().filter(|_| !self.is_whole_log);
        match checkpoint {
            Some(Checkpoint { header, .. }) => Scan {
                store_id,
                position: header.position,
                sequence: Some(header.sequence),
                epoch: header.epoch,
            },
            None => Scan {
                store_id,
                position: segments.first().unwrap_or_default(),
                sequence: None,
                epoch: 0,
            },
        }
    }

    /// Whether the log, as far as it was read, has all that was committed when the checkpoint was
    /// written.
    ///
    /// # Errors
    /// `Damaged`, with the place.
    pub(super) fn check_reached<D: Disk>(
        &self,
        scan: &Scan,
        segments: &Segments<D>,
    ) -> Result<(), RecoverError> {
        let (end, checkpoint) = (scan.position, self.checkpoint.as_ref());
        let Some(missed) = checkpoint.filter(|found| !found.is_reached(end, scan.sequence)) else {
            return Ok(());
        };
        let reached = missed.synced_until();
        Err(RecoverError::Damaged {
            file: segment_name(segments.start_of(end)),
            detail: format!(
                "the log ends at position {end}, but it was synced up to {reached} when the last \
                 checkpoint was written. Restore the file, or give up what is missing: gantry \
                 admin log verify says what is left, gantry admin log repair does it"
            ),
        })
    }

    /// The number of the next run.
    pub(super) fn next_sequence(&self, scan: &Scan) -> u64 {
        let checkpoint = self.checkpoint.as_ref();
        let known = checkpoint.map_or(0, |found| found.header.sequence);
        scan.sequence.unwrap_or(known)
    }

    /// An epoch no process had before; `tail` is that of the one whose tail was found. The clock
    /// tells apart starts that each found nothing of the others: what one skips is a millisecond.
    pub(super) fn next_epoch(
        &self,
        scan: &Scan,
        tail: Option<u64>,
        is_first_start: bool,
        now_ms: u64,
    ) -> u64 {
        let seen = scan.epoch.max(tail.unwrap_or(0)) + 1;
        match &self.checkpoint {
            Some(found) => seen.max(found.header.epoch + 1),
            None if is_first_start => seen,
            None => (seen + EPOCHS_SKIPPED).max(now_ms.saturating_mul(EPOCHS_SKIPPED)),
        }
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
