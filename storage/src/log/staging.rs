//! Packing: entries into runs, runs into groups, all of it in the tail.
//!
//! **Owns** where the next byte goes, the open run, the groups the device has not taken yet, the
//! change of the ring's size.
//! **Lives on** the shard's core; no await in here.
//! **Invariants** a run lies in one segment; a group (one device write) starts on a block and is
//! padded with zeros to the next; nothing is put over bytes the device has not taken, and the ring
//! changes its size only when there are none.
//! **Limits** `RUN_BYTES_MAX`, `GROUP_BYTES`, the ring.
//! **Not here** the device (`log_writer`), what an entry says (`format`), which size the ring
//! should have (`tail::ring_size`).

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::format::{RUN_HEADER_BYTES, RunHeader};
use crate::tail::Tail;
use crate::tail::ring_size::RingSize;
use crate::units::{BLOCK_BYTES, FilePosition};

/// An open run of this size is closed before the next entry, so that a scan needs little memory.
/// A single larger entry still gets a run of its own.
pub const RUN_BYTES_MAX: u64 = 256 << 10;
/// A group of this size is closed: one device write of about this size.
pub const GROUP_BYTES: u64 = 1 << 20;

/// One device write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its first byte, on a block.
    pub start: FilePosition,
    /// The end of its last run.
    pub runs_end: FilePosition,
}

impl Group {
    /// Its end on the device, on a block.
    pub fn end(&self) -> FilePosition {
        self.runs_end.block_up()
    }
}

/// What staging starts from.
#[derive(Clone, Copy, Debug)]
pub struct StagingStart {
    /// The number checksums are made with.
    pub store_id: u64,
    /// This process's epoch.
    pub epoch: u64,
    /// The next run's number.
    pub sequence: u64,
    /// Where the log continues, on a block.
    pub position: FilePosition,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

impl StagingStart {
    fn segment_end(&self, position: FilePosition) -> FilePosition {
        let segment = position.0 / self.segment_bytes + 1;
        FilePosition(segment.saturating_mul(self.segment_bytes))
    }
}

/// Why an entry has no place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The device must take something first.
    Tail {
        /// Bytes it has not taken.
        unwritten_bytes: u64,
    },
    /// The segment is full and the next one does not exist.
    Segment,
}

/// The writing end of a shard's log.
pub struct Staging {
    tail: Tail,
    size: RingSize,
    start: StagingStart,
    /// The ring holds the log's bytes from here on, as far as they are not overwritten.
    base: FilePosition,
    head: FilePosition,
    run_start: FilePosition,
    records_count: u32,
    group_start: FilePosition,
    /// The end of its segment.
    group_full_at: FilePosition,
    runs_end: FilePosition,
    groups: VecDeque<Group>,
    /// Taken, and not yet written as far as we know.
    in_flight: VecDeque<Group>,
    /// First byte the device has not taken.
    unwritten: FilePosition,
}

impl Staging {
    /// Continues a log in the ring of `tail`.
    pub fn new(tail: Tail, start: StagingStart) -> Self {
        let position = start.position;
        Self {
            size: RingSize::new(tail.ring_bytes_max()),
            tail,
            start,
            base: position,
            head: position,
            run_start: position,
            records_count: 0,
            group_start: position,
            group_full_at: start.segment_end(position),
            runs_end: position,
            groups: VecDeque::new(),
            in_flight: VecDeque::new(),
            unwritten: position,
        }
    }

    /// Entry bytes a ring and a segment of these sizes can take.
    pub const fn entry_bytes_max(ring_bytes: u64, segment_bytes: u64) -> u64 {
        let half = ring_bytes / 2;
        let room = if half < segment_bytes {
            half
        } else {
            segment_bytes
        };
        room.saturating_sub(RUN_HEADER_BYTES + BLOCK_BYTES)
    }

    /// Makes the tail this process's own; returns the bytes of the smallest and of the largest
    /// ring.
    pub fn begin_tail(&mut self) -> (u64, u64) {
        self.begin_ring(self.size.small_bytes());
        (self.size.small_bytes(), self.tail.ring_bytes_max())
    }

    fn begin_ring(&mut self, bytes: u64) {
        let StagingStart {
            store_id, epoch, ..
        } = self.start;
        self.tail.begin(store_id, epoch, bytes);
        self.base = self.head;
    }

    /// Whether entries are refused until the device has taken everything, so that the ring can
    /// change its size.
    pub fn is_draining(&self) -> bool {
        self.size
            .change(self.tail.ring_bytes(), self.head)
            .is_some()
    }

    /// Changes the ring's size if it should be another one.
    #[inline]
    fn settle_size(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let ring_bytes = self.tail.ring_bytes();
        if Self::entry_bytes_max(ring_bytes, u64::MAX) < bytes {
            self.size.need_whole(self.head);
        }
        let Some(size) = self.size.change(ring_bytes, self.head) else {
            return Ok(());
        };
        if self.is_open() || self.unwritten < self.runs_end {
            return Err(NoRoom::Tail {
                unwritten_bytes: self.head.since(self.unwritten),
            });
        }
        self.begin_ring(size);
        self.size.changed(size);
        Ok(())
    }

    /// This process's epoch.
    pub fn epoch(&self) -> u64 {
        self.start.epoch
    }

    /// The number of the next run to be sealed, or of the open one.
    pub fn sequence(&self) -> u64 {
        self.start.sequence
    }

    /// The first position nothing has been given away of.
    pub fn head(&self) -> FilePosition {
        self.head
    }

    /// Where the next run would start if everything open were closed now.
    pub fn next_group_start(&self) -> FilePosition {
        self.head.block_up()
    }

    /// The end of the last sealed run.
    pub fn runs_end(&self) -> FilePosition {
        self.runs_end
    }

    /// Whether entries wait for `seal`.
    pub fn is_open(&self) -> bool {
        self.records_count > 0
    }

    /// Bytes sealed that no group taken so far has.
    pub fn sealed_bytes(&self) -> u64 {
        self.runs_end.since(self.untaken())
    }

    /// The first position no group taken so far has.
    pub fn untaken(&self) -> FilePosition {
        self.groups
            .front()
            .map_or(self.group_start, |group| group.start)
    }

    /// Finds the place for an entry of `bytes`, sealing and rolling as needed; the entry must then
    /// be put at once. Segments exist up to `segments_end`; `committed` goes into the header of a
    /// run that must be sealed.
    pub fn reserve(
        &mut self,
        bytes: u64,
        committed: FilePosition,
        segments_end: FilePosition,
    ) -> Result<FilePosition, NoRoom> {
        self.settle_size(bytes)?;
        // A group never leaves its segment, and neither does the open run in it.
        let full_at = self.group_full_at;
        let run_bytes = self.head.since(self.run_start).saturating_add(bytes);
        if self.is_open() && run_bytes <= RUN_BYTES_MAX && self.head.plus(bytes) <= full_at {
            self.check_ring(self.head, bytes)?;
            return Ok(self.head);
        }
        // A new run. Sealing the open one may close its group, which moves the head to a block.
        let mut start = if self.is_open() {
            self.head.block_up()
        } else {
            self.head
        };
        let rolls = start.plus(RUN_HEADER_BYTES + bytes) > full_at;
        if rolls {
            start = full_at;
        }
        if self.start.segment_end(start) > segments_end {
            return Err(NoRoom::Segment);
        }
        self.check_ring(start.plus(RUN_HEADER_BYTES), bytes)?;
        self.seal(committed);
        if rolls {
            self.roll(full_at);
        }
        self.run_start = self.head;
        self.head = self.run_start.plus(RUN_HEADER_BYTES);
        Ok(self.head)
    }

    fn begin_group(&mut self, at: FilePosition) {
        self.group_start = at;
        self.group_full_at = self.start.segment_end(at);
    }

    fn roll(&mut self, segment_end: FilePosition) {
        self.close_group();
        self.head = segment_end;
        self.run_start = segment_end;
        self.begin_group(segment_end);
    }

    fn check_ring(&self, start: FilePosition, bytes: u64) -> Result<(), NoRoom> {
        // With nothing unwritten even a jump over a segment's end is free.
        if !self.is_open() && self.unwritten >= self.runs_end {
            return Ok(());
        }
        let end = start.plus(bytes).block_up();
        let used = end.since(self.unwritten);
        if used > self.size.small_bytes() {
            self.size.need_whole(self.head);
        }
        if used > self.tail.ring_bytes() {
            return Err(NoRoom::Tail {
                unwritten_bytes: self.head.since(self.unwritten),
            });
        }
        Ok(())
    }

    /// Adds a piece of the entry whose place was reserved.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.tail.put(self.head, bytes);
        self.head = self.head.plus(bytes.len() as u64);
    }

    /// Counts the entry put.
    pub fn entry_done(&mut self) {
        self.records_count += 1;
    }

    /// Completes the open run, if there is one; returns the end of the last run.
    pub fn seal(&mut self, committed: FilePosition) -> FilePosition {
        if !self.is_open() {
            return self.runs_end;
        }
        let payload = self.run_start.plus(RUN_HEADER_BYTES);
        let payload_bytes = self.head.since(payload);
        let header = RunHeader {
            payload_bytes: u32::try_from(payload_bytes).unwrap_or(u32::MAX),
            records_count: self.records_count,
            epoch: self.start.epoch,
            sequence: self.start.sequence,
            position: self.run_start,
            committed,
        };
        let pieces = self.tail.pieces(payload, payload_bytes);
        let bytes = header.encode(self.start.store_id, &pieces);
        self.tail.put(self.run_start, &bytes);
        self.start.sequence += 1;
        self.records_count = 0;
        self.run_start = self.head;
        self.runs_end = self.head;
        if self.runs_end.since(self.group_start) >= GROUP_BYTES {
            self.close_group();
        }
        self.runs_end
    }

    /// Ends the group at the last sealed run; nothing may be open.
    fn close_group(&mut self) {
        if self.runs_end <= self.group_start {
            return;
        }
        let group = Group {
            start: self.group_start,
            runs_end: self.runs_end,
        };
        self.tail.zero(group.runs_end, group.end());
        self.groups.push_back(group);
        self.head = group.end();
        self.run_start = self.head;
        self.begin_group(self.head);
    }

    /// The next group for the device; seals and closes what is open when nothing else waits.
    pub fn take_group(&mut self, committed: FilePosition) -> Option<Group> {
        if self.groups.is_empty() {
            self.seal(committed);
            self.close_group();
        }
        let group = self.groups.pop_front()?;
        self.in_flight.push_back(group);
        Some(group)
    }

    /// Groups taken that the device has not.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the device has taken everything before `group`, which it got.
    pub fn is_next_written(&self, group: Group) -> bool {
        self.in_flight.front() == Some(&group)
    }

    /// The device has taken everything before the end of `group`, the first in flight.
    pub fn written(&mut self, group: Group) {
        debug_assert!(self.is_next_written(group), "groups end in log order");
        self.in_flight.pop_front();
        self.unwritten = group.end();
    }

    /// A group's bytes, in one or two pieces.
    pub fn pieces(&self, position: FilePosition, len: u64) -> [&[u8]; 2] {
        self.tail.pieces(position, len)
    }

    /// Whether the ring still has all of `position..position + len`.
    #[inline]
    pub fn holds(&self, position: FilePosition, len: u64) -> bool {
        let end = position.plus(len);
        self.size.note_reader(self.head.since(position), self.head);
        let kept_from = self
            .head
            .block_up()
            .0
            .saturating_sub(self.tail.ring_bytes());
        position >= self.base && position.0 >= kept_from && end <= self.head
    }

    /// Adds `position..position + len`, which the ring `holds`, to `out`.
    pub fn get(&self, position: FilePosition, len: u64, out: &mut BytesMut) {
        self.tail.get(position, len, out);
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
