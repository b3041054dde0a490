//! One record whose neighbours nobody asks for: the blocks it lies in, and nothing else.
//!
//! **Owns** the choice how much of the device is read for one record.
//! **Lives on** the shard's core.
//! **Invariants** what is given is what was stored: check, size and place are looked at as in every
//! other read. What this can't read, or finds wrong, the usual way reads again and names.
//! **Limits** [`GUESS_BYTES`] are read before the record's length is known; a longer one takes two
//! reads.
//! **Not here** chunks and what is kept of them (`read_ahead`): reading 256 KiB for 1 KiB, a record
//! that falls due far from the others would cost as much as two hundred.

use bytes::{Bytes, BytesMut};

use super::ShardStore;
use super::reading::check_of;
use crate::address;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::error::ReadError;
use crate::format::{RECORD_CHECK_BYTES, RECORD_PEEK_BYTES, record_is_intact, record_peek};
use crate::queue_index::IndexEntry;
use crate::shard_store::RECORD_BYTES_MAX;
use crate::units::{BLOCK_BYTES, FilePosition, PhysicalOffset, index};

/// Read from the block in which a record begins: most records end there.
const GUESS_BYTES: u64 = 2 * BLOCK_BYTES;

impl<D: Disk> ShardStore<D> {
    /// As [`ShardStore::record_at`], for a reader that asks for few records close to each other.
    ///
    /// # Errors
    /// As [`ShardStore::record_at`].
    pub async fn lone_record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        match self.read_alone(physical).await {
            Some(record) => Ok(record),
            None => self.record_at(physical).await,
        }
    }

    async fn read_alone(&self, physical: PhysicalOffset) -> Option<Bytes> {
        let (shard, position) = address::locate(physical)?;
        let at = FilePosition(position.0.checked_sub(RECORD_CHECK_BYTES)?);
        let is_ours = shard == self.log.options.shard && self.log.segments.exists(position);
        // The tail's bytes are copied, not read.
        let mut peek = BytesMut::new();
        if !is_ours || self.log.read_hot(position, RECORD_PEEK_BYTES, &mut peek) {
            return None;
        }
        let mut bytes = self.blocks(at, GUESS_BYTES).await.ok()??;
        let behind_check = index(RECORD_CHECK_BYTES);
        let (length, own) = record_peek(bytes.get(behind_check..)?)?;
        let with_check = RECORD_CHECK_BYTES + u64::from(length);
        if own != physical.0 || u64::from(length) > RECORD_BYTES_MAX {
            return None;
        }
        if (bytes.len() as u64) < with_check {
            bytes = self.blocks(at, with_check).await.ok()??;
        }
        let record = bytes.slice(behind_check..bytes.len().min(index(with_check)));
        let check = bytes.first_chunk::<4>()?;
        let is_whole = record.len() as u64 == u64::from(length);
        let is_it = is_whole && record_is_intact(self.record_seed, check, &record);
        is_it.then_some(record)
    }

    /// Adds the record of `entry`, which a chunk had wrong or could not be read with, to `out` if
    /// its own blocks have it right: the device may have been wrong only once, and where it stays
    /// wrong each record costs its blocks and not its chunk again.
    ///
    /// # Errors
    /// `Damaged`, or as the device says.
    pub(super) async fn read_again(
        &self,
        entry: &IndexEntry,
        out: &mut BytesMut,
    ) -> Result<(), ReadError> {
        let (position, len) = (entry.position, u64::from(entry.length));
        if self.log.read_hot(position, len, out) {
            return Ok(());
        }
        let at = check_of(position);
        let bytes = match self.blocks(at, RECORD_CHECK_BYTES + len).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.refused(position, error).await),
        };
        self.not_refused(position);
        let bytes = bytes.as_deref().unwrap_or_default();
        let with_check = bytes.get(..index(RECORD_CHECK_BYTES + len));
        if with_check.is_some_and(|bytes| self.take_record(bytes, entry, out)) {
            return Ok(());
        }
        Err(self.damaged(position))
    }

    /// Adds the first [`RECORD_PEEK_BYTES`] at `position` to `out`, whose chunk can't be read.
    ///
    /// # Errors
    /// `Damaged`, or as the device says.
    pub(super) async fn peek_again(
        &self,
        position: FilePosition,
        out: &mut BytesMut,
    ) -> Result<(), ReadError> {
        let peeked = match self.blocks(position, RECORD_PEEK_BYTES).await {
            Ok(peeked) => peeked,
            Err(error) => return Err(self.refused(position, error).await),
        };
        let peeked = peeked.as_deref().unwrap_or_default();
        out.extend_from_slice(peeked.get(..index(RECORD_PEEK_BYTES)).unwrap_or(peeked));
        Ok(())
    }

    /// At least `len` bytes from `at` on, as far as the device has them for good; nothing when it
    /// has none.
    pub(super) async fn blocks(
        &self,
        at: FilePosition,
        len: u64,
    ) -> Result<Option<Bytes>, DiskError> {
        let segments = &self.log.segments;
        let limit = self.log.marks.stable().0.min(segments.next_start(at));
        let start = FilePosition(at.0 - at.0 % BLOCK_BYTES);
        let end = at.plus(len).block_up().min(limit.block_up());
        if start >= end {
            return Ok(None);
        }
        let Some(segment) = segments.open(at).await? else {
            return Ok(None);
        };
        let offset = segment.offset_of(start);
        let read = segment
            .file
            .read_at(offset, index(end.since(start)))
            .await?;
        let from = index(at.since(start));
        let bytes = read.as_ref().get(from..index(limit.min(end).since(start)));
        Ok(bytes.map(Bytes::copy_from_slice))
    }
}
