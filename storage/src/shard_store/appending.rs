//! The way in: a record into the tail, an offset out.
//!
//! **Owns** offsets given out, and when a record enters the indexes.
//! **Lives on** the shard's core; no await in here.
//! **Invariants** an offset is given only with its place in the tail; the indexes get records in
//! log order, once they may be acknowledged.
//! **Limits** `RECORD_BYTES_MAX`, `KEYS_COUNT_MAX` (more keys are not indexed); nothing is taken
//! while more than `index_waiting_bytes` of the queue index wait for the device.
//! **Not here** packing (`staging`), the record's layout (protocol).

use std::rc::Rc;

use gantry_protocol::message::{EncodedRecord, RecordParts};

use super::{Appended, NewRecord, RECORD_BYTES_MAX, ShardStore};
use crate::address;
use crate::disk::Disk;
use crate::error::AppendError;
use crate::format::{EntryHead, KEYS_COUNT_MAX, RecordSeed};
use crate::log::staging::Staging;
use crate::queue_index::IndexEntry;
use crate::units::{FilePosition, QueueKey, StoreTimestamp};

impl<D: Disk> ShardStore<D> {
    /// As `QueueIndex::touch`, for queues that `append` is about to be called for.
    pub fn touch(&self, keys: impl Iterator<Item = QueueKey>) {
        self.index.index().touch(keys);
    }

    /// Stages one record in the open run: a memory copy, no wait. Not readable and not
    /// acknowledgeable before `seal`.
    ///
    /// # Errors
    /// `TailFull` is flow control; the others are permanent or need the operator.
    pub fn append(&self, record: &NewRecord<'_>) -> Result<Appended, AppendError> {
        self.log.check_open()?;
        if self.index.is_overdue() {
            return Err(self.index_refusal());
        }
        let store_timestamp = record
            .store_timestamp
            .unwrap_or_else(|| StoreTimestamp(self.log.disk.now_ms()));
        let parts = parts(record, store_timestamp);
        let entry_bytes_max = self.log.entry_bytes_max.get();
        let too_large = || too_large(record, entry_bytes_max);
        let mut encoded = EncodedRecord::new(&parts).map_err(|_| too_large())?;
        let length = encoded.record_bytes();
        let hashes = record.key_hashes;
        let hashes = hashes.get(..KEYS_COUNT_MAX).unwrap_or(hashes);
        let entry_bytes = EntryHead::entry_bytes(u64::from(length), hashes.len());
        let mut staging = self.log.staging.borrow_mut();
        if u64::from(length) > RECORD_BYTES_MAX || entry_bytes > entry_bytes_max {
            return Err(too_large());
        }
        let start = self.log.reserve(&mut staging, entry_bytes)?;
        let position = start.plus(entry_bytes - u64::from(length));
        let physical = address::physical(self.log.options.shard, position);
        let offset = self.index.index_mut().assign(record.key);
        encoded.set_place(signed(offset.0), signed(physical.0));
        let head = EntryHead {
            record_bytes: length,
            key: record.key,
            tags_code: record.tags_code,
            keys_count: u16::try_from(hashes.len()).unwrap_or(0),
        };
        let mut scratch = self.entry_scratch.borrow_mut();
        let into = (&mut *staging, &mut *scratch);
        put(into, self.record_seed, (&head, hashes), &encoded);
        drop((staging, scratch));
        let entry = IndexEntry {
            position,
            length,
            tags_code: record.tags_code,
            store_time: store_timestamp,
        };
        let mut unindexed = self.unindexed.borrow_mut();
        unindexed.push(record.key, offset, entry, hashes);
        let end = position.plus(u64::from(length));
        Ok(Appended {
            queue_offset: offset,
            physical,
            end,
            store_timestamp,
        })
    }

    /// The log goes on without its index, but memory does not.
    #[cold]
    fn index_refusal(&self) -> AppendError {
        let fault = self.index_fault.borrow();
        let why = fault.as_deref().unwrap_or("the device is behind");
        AppendError::StoreFull {
            reason: Rc::from(format!("index pages can't be written: {why}")),
        }
    }

    /// Completes the open run in the tail and wakes the writer; returns `staged()`.
    pub fn seal(&self) -> FilePosition {
        let staged = self.log.seal();
        self.apply();
        staged
    }

    /// Puts what may be acknowledged by now into the indexes.
    pub(super) fn apply(&self) {
        let acknowledged = self.log.acknowledged();
        let mut unindexed = self.unindexed.borrow_mut();
        if !unindexed.has_until(acknowledged) {
            return;
        }
        let mut index = self.index.index_mut();
        while let Some((first, hashes)) = unindexed.pop_until(acknowledged) {
            if let Err(fault) = index.append(first.key, first.offset, first.entry) {
                // Offsets are given out densely, so this is a bug or a queue of 2^48 records.
                self.log.fail(&fault);
                return;
            }
            for hash in hashes {
                self.keys
                    .add_hash(hash, first.entry.position, first.entry.store_time);
            }
        }
        drop((unindexed, index));
        self.wake_upkeep();
    }
}

/// Puts the entry: what is small is collected in `scratch` first, so that the ring and the checksum
/// are touched once before the body and once behind it.
fn put(
    (staging, scratch): (&mut Staging, &mut Vec<u8>),
    seed: RecordSeed,
    (head, hashes): (&EntryHead, &[u64]),
    record: &EncodedRecord<'_>,
) {
    scratch.clear();
    scratch.extend_from_slice(&head.encode());
    for hash in hashes {
        scratch.extend_from_slice(&hash.to_le_bytes());
    }
    let check_at = scratch.len();
    scratch.extend_from_slice(&[0; 4]);
    record.put_head(scratch);
    let body_at = scratch.len();
    record.put_end(scratch);
    let summed = scratch.get(check_at + 4..).unwrap_or_default();
    let check = seed.check(summed);
    if let Some(slot) = scratch.get_mut(check_at..check_at + 4) {
        slot.copy_from_slice(&check);
    }
    let (before, after) = scratch.split_at(body_at);
    staging.put(before);
    staging.put(record.body());
    staging.put(after);
    staging.entry_done();
}

/// A record whose place is not yet known.
fn parts<'a>(record: &NewRecord<'a>, store_timestamp: StoreTimestamp) -> RecordParts<'a> {
    RecordParts {
        topic: record.topic,
        queue_id: i32::from(record.key.queue.0),
        flag: record.flag,
        queue_offset: 0,
        physical_offset: 0,
        sys_flag: record.sys_flag,
        born_timestamp: record.born_timestamp,
        born_host: record.born_host,
        store_timestamp: signed(store_timestamp.0),
        store_host: record.store_host,
        reconsume_times: record.reconsume_times,
        prepared_transaction_offset: record.prepared_offset,
        body: record.body,
        body_crc: record.body_crc,
        properties: record.properties,
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cold]
fn too_large(record: &NewRecord<'_>, entry_bytes_max: u64) -> AppendError {
    let bytes = record.body.len() + record.topic.len() + record.properties.len();
    AppendError::TooLarge {
        bytes: bytes as u64,
        bytes_max: RECORD_BYTES_MAX.min(entry_bytes_max),
    }
}
