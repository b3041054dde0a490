//! What of a record is read and checked here: its own fields, the check that lies before it.
//!
//! **Owns** where `RocketMQ`'s record keeps what the store needs of it, the check's bytes.
//! **Lives on** any core; pure bytes.
//! **Invariants** a check covers the store's secret and all of the record but its body, which has a
//! checksum of its own inside.
//! **Limits** `FIRST_TIME_BYTES` hold what says when a run's first record was stored.
//! **Not here** making records (`gantry_protocol::message`).

use bytes::Buf;
use crc32fast::Hasher;
use gantry_protocol::message::body_crc;
use smallvec::SmallVec;

use super::{
    EntryHead, KEYS_COUNT_MAX, RECORD_CHECK_BYTES, RUN_HEADER_BYTES, RunHeader, index_of, seeded,
};
use crate::units::{FilePosition, QueueOffset, StoreTimestamp};

/// Where `RocketMQ`'s record keeps its queue offset.
const QUEUE_OFFSET_AT: usize = 20;
/// Where it keeps its own physical offset.
const PHYSICAL_OFFSET_AT: usize = 28;
/// Where it keeps its system flag.
const SYS_FLAG_AT: usize = 36;
/// Where it keeps its store time when the sender's address is IPv4 (12 bytes later for IPv6).
const STORE_TIME_AT: usize = 56;
/// The system flag's bit for an IPv6 sender.
const BORN_HOST_V6: u32 = 0x10;

/// A record's queue offset and store time.
pub fn record_fields(record: &[u8]) -> Option<(QueueOffset, StoreTimestamp)> {
    let at = |from: usize, len: usize| record.get(from..from + len);
    let queue_offset = at(QUEUE_OFFSET_AT, 8)?.get_u64();
    let v6 = at(SYS_FLAG_AT, 4)?.get_u32() & BORN_HOST_V6 != 0;
    let store_time = at(STORE_TIME_AT + if v6 { 12 } else { 0 }, 8)?.get_u64();
    Some((QueueOffset(queue_offset), StoreTimestamp(store_time)))
}

/// A run's first record, as the run's first bytes have it (`FIRST_TIME_BYTES` always do).
#[derive(Clone, Copy, Debug)]
pub struct FirstRecord {
    /// Where its check begins in the run.
    check_at: usize,
    /// Where it ends in the run.
    pub end: usize,
}

impl FirstRecord {
    /// Its store time, from the run's bytes up to its end, if it fits its check.
    pub fn time(self, seed: RecordSeed, run: &[u8]) -> Option<StoreTimestamp> {
        let checked = run.get(self.check_at..self.end)?;
        let (check, record) = checked.split_at_checked(index_of(RECORD_CHECK_BYTES))?;
        let is_intact = record_is_intact(seed, check, record);
        record_fields(record)
            .filter(|_| is_intact)
            .map(|(_, time)| time)
    }
}

/// The first record of the run at `position`. A run without records (a repair's) has none.
pub fn first_record(run: &[u8], position: FilePosition) -> Option<FirstRecord> {
    let header = RunHeader::peek(run, position)?;
    let header_bytes = index_of(RUN_HEADER_BYTES);
    let mut rest = run.get(header_bytes..)?;
    let before = rest.len();
    let head = EntryHead::decode(&mut rest)?;
    let head_bytes = before - rest.len();
    let check_at = header_bytes + head_bytes + usize::from(head.keys_count) * 8;
    let record_at = check_at + index_of(RECORD_CHECK_BYTES);
    let end = record_at.checked_add(index_of(u64::from(head.record_bytes)))?;
    let run_end = header_bytes.checked_add(index_of(u64::from(header.payload_bytes)))?;
    (head.record_bytes > 0 && end <= run_end).then_some(FirstRecord { check_at, end })
}

/// Bytes `first_record` needs: header, head, the most key hashes, a record's fixed part.
pub const FIRST_TIME_BYTES: usize = 4096;
const _: () = assert!(FIRST_TIME_BYTES > 64 + 24 + 8 * KEYS_COUNT_MAX + STORE_TIME_AT + 12 + 8);

/// A record's own size and physical offset, from its first `RECORD_PEEK_BYTES` bytes.
pub fn record_peek(mut record: &[u8]) -> Option<(u32, u64)> {
    let physical = record
        .get(PHYSICAL_OFFSET_AT..PHYSICAL_OFFSET_AT + 8)?
        .get_u64();
    Some((record.get_u32(), physical))
}

/// Where it keeps its body's checksum.
const BODY_CRC_AT: usize = 8;
/// Bytes before its body when both addresses are IPv4.
const BODY_AT: usize = 88;
/// The system flag's bit for an IPv6 store address.
const STORE_HOST_V6: u32 = 0x20;

/// What the checks of a store's records begin with, made once: it costs a tenth of a check.
#[derive(Clone, Copy, Debug)]
pub struct RecordSeed(u32);

/// Pieces of less than this are put together before they are summed, as it is quicker by far.
pub(super) const SUMMED_TOGETHER_BYTES: usize = 512;

impl RecordSeed {
    /// Of the store with that secret.
    pub fn of(store_id: u64) -> Self {
        Self(seeded(store_id).finalize())
    }

    /// What lies right before a record: a checksum of everything but the body, whose own is inside.
    /// The secret keeps bytes of a body from passing for a record.
    pub fn check(self, summed: &[u8]) -> [u8; 4] {
        let mut hasher = Hasher::new_with_initial(self.0);
        hasher.update(summed);
        hasher.finalize().to_le_bytes()
    }

    pub(super) fn check_of_two(self, head: &[u8], rest: &[u8]) -> [u8; 4] {
        if head.len() + rest.len() <= SUMMED_TOGETHER_BYTES {
            // Nothing is zeroed first, which would cost as much as the sum.
            let mut both: SmallVec<[u8; SUMMED_TOGETHER_BYTES]> = SmallVec::from_slice(head);
            both.extend_from_slice(rest);
            return self.check(&both);
        }
        let mut hasher = Hasher::new_with_initial(self.0);
        hasher.update(head);
        hasher.update(rest);
        hasher.finalize().to_le_bytes()
    }
}

/// Whether a record is as it was stored behind `check`.
pub fn record_is_intact(seed: RecordSeed, check: &[u8], record: &[u8]) -> bool {
    let word = |at: usize| Some(record.get(at..)?.first_chunk::<4>()?.to_owned());
    let split = || {
        let flags = u32::from_be_bytes(word(SYS_FLAG_AT)?);
        let v6 = [BORN_HOST_V6, STORE_HOST_V6].map(|bit| usize::from(flags & bit != 0));
        let body_at = BODY_AT + 12 * v6.iter().sum::<usize>();
        let body_bytes = u32::from_be_bytes(word(body_at - 4)?);
        let (head, rest) = record.split_at_checked(body_at)?;
        let (body, rest) = rest.split_at_checked(index_of(u64::from(body_bytes)))?;
        Some((head, body, rest))
    };
    let Some((head, body, rest)) = split() else {
        return false;
    };
    check == seed.check_of_two(head, rest)
        && word(BODY_CRC_AT).map(u32::from_be_bytes) == Some(body_crc(body))
}

/// Bytes `record_peek` needs.
pub const RECORD_PEEK_BYTES: u64 = 36;
