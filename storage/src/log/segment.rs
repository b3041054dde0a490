//! One file of the log: preallocated, zeroed ahead of the writer, or used again as it is.
//!
//! **Owns** a segment's handle and how far its zeros go.
//! **Lives on** the shard's core.
//! **Invariants** zeros are never written at or before a position given to a group.
//! **Limits** one chunk of zeros in flight.
//! **Not here** which segments exist (`segments`), when zeros are written (`segment_pool`).

use std::cell::Cell;

use crate::disk::Disk;
use crate::units::FilePosition;

/// One segment.
pub struct Segment<D: Disk> {
    /// Its file.
    pub file: D::File,
    /// The position of its first byte.
    pub start: FilePosition,
    /// Zeros (or an earlier life's bytes) are on the device up to here.
    zeroed: Cell<FilePosition>,
    /// A chunk of zeros in flight.
    zeroing: Cell<Option<(FilePosition, FilePosition)>>,
}

impl<D: Disk> Segment<D> {
    /// A segment whose blocks before `zeroed` need no zeros.
    pub fn new(file: D::File, start: FilePosition, zeroed: FilePosition) -> Self {
        Self {
            file,
            start,
            zeroed: Cell::new(zeroed),
            zeroing: Cell::new(None),
        }
    }

    /// The next chunk that wants zeros: at or after `from`, before `until`; one at a time.
    pub fn next_zeros(
        &self,
        from: FilePosition,
        until: FilePosition,
        bytes_max: u64,
    ) -> Option<(FilePosition, FilePosition)> {
        let start = self.zeroed.get().max(from);
        let is_idle = self.zeroing.get().is_none();
        (is_idle && start < until).then(|| (start, start.plus(bytes_max).min(until)))
    }

    /// `chunk` is about to be written.
    pub fn begin_zeros(&self, chunk: (FilePosition, FilePosition)) {
        self.zeroing.set(Some(chunk));
    }

    /// The chunk in flight is done.
    pub fn end_zeros(&self) {
        if let Some((_, end)) = self.zeroing.take() {
            self.zeroed.set(self.zeroed.get().max(end));
        }
    }

    /// Whether zeros in flight touch `start..end`.
    pub fn zeros_touch(&self, start: FilePosition, end: FilePosition) -> bool {
        self.zeroing
            .get()
            .is_some_and(|(from, to)| from < end && start < to)
    }

    /// The position within the file.
    pub fn offset_of(&self, position: FilePosition) -> u64 {
        position.since(self.start)
    }
}
