//! Whether a cold read fetches whole chunks of the log or just its own records.
//!
//! **Owns** the look at a reader's next index entries that decides it.
//! **Lives on** the shard's core.
//! **Invariants** nothing depends on the answer but speed: what is not in the pieces is read by
//! chunks, and so is what did not fit its check.
//! **Limits** [`ENTRIES_AHEAD`], `PIECES_MAX` reads.
//! **Not here** the costs that are compared (`log::pieces`).

use super::{ReadLimits, RecordFilter, ShardStore};
use crate::disk::Disk;
use crate::format::RECORD_CHECK_BYTES;
use crate::log::pieces::{Pieces, Plan, Wish};
use crate::log::read_ahead::CHUNK_BYTES;
use crate::queue_index::IndexEntry;
use crate::units::{FilePosition, QueueKey, QueueOffset};

/// Entries of a reader that tell how much of the log is its own.
const ENTRIES_AHEAD: usize = 256;

impl<D: Disk> ShardStore<D> {
    /// The blocks of the records that a read of `key` at `from` will take, if they are too few for
    /// chunks; else nothing. `entries`: what the read looked up there.
    pub(super) async fn pieces_for(
        &self,
        (key, from): (QueueKey, QueueOffset),
        entries: &[IndexEntry],
        limits: ReadLimits,
        wanted: &dyn RecordFilter,
    ) -> Pieces<D> {
        if self.are_here(entries) {
            return Pieces::default();
        }
        let ahead = self.entries(key, from, ENTRIES_AHEAD).await;
        // Whoever really needs the page reads it again and is told.
        let Some((plan, together)) = ahead
            .ok()
            .and_then(|ahead| self.plan(key, &ahead, limits, wanted))
        else {
            return Pieces::default();
        };
        if !plan.is_cheaper(together) {
            return Pieces::default();
        }
        match Pieces::read(&self.log.segments, &plan).await {
            Ok(pieces) => {
                let pieces = pieces.unwrap_or_default();
                let ((count, bytes), (more, more_bytes)) =
                    (self.sparse_reads_counts(), pieces.counts());
                self.sparse_reads.set((count + more, bytes + more_bytes));
                pieces
            }
            Err(error) => {
                // As above.
                tracing::debug!(%error, "a read of pieces failed");
                Pieces::default()
            }
        }
    }

    /// Whether a reader's way is in memory already: it follows somebody who reads chunks, or its
    /// own read-ahead.
    fn are_here(&self, entries: &[IndexEntry]) -> bool {
        let is_here = |entry: Option<&IndexEntry>| {
            entry.is_none_or(|entry| {
                let end = entry.position.plus(u64::from(entry.length));
                entry.is_lost() || !self.is_cold(entry.position, end)
            })
        };
        is_here(entries.first()) && is_here(entries.last())
    }

    /// Reads of single records' blocks from the device since the start, and their bytes.
    pub fn sparse_reads_counts(&self) -> (u64, u64) {
        self.sparse_reads.get()
    }

    fn plan(
        &self,
        key: QueueKey,
        entries: &[IndexEntry],
        limits: ReadLimits,
        wanted: &dyn RecordFilter,
    ) -> Option<(Plan, u64)> {
        let taken = |entry: &&IndexEntry| !entry.is_lost() && wanted.wants_code(entry.tags_code);
        let first = entries.iter().find(taken)?.position;
        let (mut plan, mut is_open) = (Plan::default(), true);
        let (mut count, mut bytes, mut end) = (0, 0, first);
        for entry in entries.iter().filter(taken) {
            let length = u64::from(entry.length);
            let start = FilePosition(entry.position.0.saturating_sub(RECORD_CHECK_BYTES));
            (count, bytes, end) = (count + 1, bytes + length, entry.position.plus(length));
            let is_asked = count <= limits.messages.max(1) && bytes <= limits.bytes.max(length);
            is_open &= is_asked;
            if is_open && self.is_cold(start, end) {
                is_open = plan.add(start, end, self.log.segments.start_of(start));
            }
        }
        let wish = Wish {
            key,
            at: first,
            bytes,
            of_bytes: end.since(first).max(CHUNK_BYTES),
            now_us: self.log.disk.now_mono_us(),
        };
        let together = self.crowd.join(wish, self.log.options.read_cache_bytes);
        Some((plan, together))
    }

    /// Whether only the device has `start..end`.
    fn is_cold(&self, start: FilePosition, end: FilePosition) -> bool {
        let is_hot = self.log.holds(start, end.since(start)) || self.cache.has(start);
        !is_hot && end <= self.log.marks.stable().0
    }
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
