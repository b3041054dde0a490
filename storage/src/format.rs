//! Every magic, version, name and byte layout of the store (docs/STORAGE.md has the pictures).
//!
//! **Owns** run headers, entry heads, the tail's header, shard and store files, checkpoint headers.
//! **Lives on** any core; pure bytes.
//! **Invariants** little-endian but for the records, which are the wire's; every checksum covers
//! the store's secret number, so that bytes a client sends can't pass for ours.
//! **Limits** `RUN_HEADER_BYTES`, `ENTRY_HEAD_BYTES`, `KEYS_COUNT_MAX`.
//! **Not here** where things lie and when they are written; what a record holds (`record`).

mod record;

pub use record::{
    FIRST_TIME_BYTES, FirstRecord, RECORD_PEEK_BYTES, RecordSeed, first_record, record_fields,
    record_is_intact, record_peek,
};

use bytes::{Buf, BufMut};
use crc32fast::Hasher;

use crate::units::{
    FilePosition, QueueId, QueueKey, QueueOffset, ShardId, StoreTimestamp, TopicId,
};

/// The newest format this program reads and the one it writes.
pub const FORMAT_VERSION: u32 = 1;

/// First bytes of a run ("GRUN").
const RUN_MAGIC: u32 = 0x4E55_5247;
/// First bytes of the tail's header page ("GTAI").
const TAIL_MAGIC: u32 = 0x4941_5447;
/// First bytes of a shard's floors ("GFLR").
pub const FLOORS_MAGIC: u32 = 0x524C_4647;
/// First bytes of a checkpoint ("GCKP").
const CHECKPOINT_MAGIC: u32 = 0x504B_4347;
/// First bytes of a shard's identity file ("GSHD").
const SHARD_MAGIC: u32 = 0x4448_5347;
/// First bytes of the store's file ("GSTO").
const STORE_MAGIC: u32 = 0x4F54_5347;

/// Bytes before a run's first entry.
pub const RUN_HEADER_BYTES: u64 = 64;
/// Bytes of a run's header that its checksum covers.
const RUN_SEALED_BYTES: usize = 60;
/// Bytes of an entry that are neither key hashes nor the record: its head, and the record's check.
pub const ENTRY_HEAD_BYTES: u64 = HEAD_BYTES + RECORD_CHECK_BYTES;
/// Bytes before an entry's key hashes.
const HEAD_BYTES: u64 = 20;
/// Bytes of the check right before a record.
pub const RECORD_CHECK_BYTES: u64 = 4;
/// Key hashes one entry may carry.
pub const KEYS_COUNT_MAX: usize = 64;
/// Bytes of the tail before its ring: one page.
pub const TAIL_HEADER_BYTES: u64 = 4096;
/// Bytes of a checkpoint before its parts.
pub const CHECKPOINT_HEADER_BYTES: usize = 64;
/// Bytes of the identity files: one block.
pub const IDENTITY_BYTES: usize = 4096;
/// Bytes of an identity file that are used.
const IDENTITY_USED_BYTES: usize = 40;

/// The store's own file.
pub const STORE_FILE: &str = "gantry.store";

/// The folder of a shard.
pub fn shard_folder(shard: ShardId) -> String {
    format!("shard-{}", shard.0)
}

/// The file name of the segment that starts at `start`.
pub fn segment_name(start: FilePosition) -> String {
    format!("{:020}.log", start.0)
}

/// The start of the segment with this file name.
pub fn segment_start(name: &str) -> Option<FilePosition> {
    let digits = name.strip_suffix(".log")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits {
        digits.parse().ok().map(FilePosition)
    } else {
        None
    }
}

/// The file name of a segment waiting to be used again.
pub fn spare_name(number: u64) -> String {
    format!("spare-{number:010}.seg")
}

/// Whether a file is a spare segment.
pub fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?
        .strip_suffix(".seg")?
        .parse()
        .ok()
}

/// The file name of a shard's identity.
pub const SHARD_FILE: &str = "shard.meta";
/// The file name of a shard's checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";
/// The file name of the first offsets that retention left in a shard's queues.
pub const FLOORS_FILE: &str = "floors";
/// The folder of a shard's queue index.
pub const INDEX_FOLDER: &str = "index";
/// The folder of a shard's key index.
pub const KEYS_FOLDER: &str = "keys";

/// What stands before the entries of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHeader {
    /// Bytes of entries.
    pub payload_bytes: u32,
    /// Number of entries.
    pub records_count: u32,
    /// The shard's epoch: one more at every start.
    pub epoch: u64,
    /// One more for every run of the shard.
    pub sequence: u64,
    /// Where this header starts.
    pub position: FilePosition,
    /// What was committed when the run was sealed: damage before it is no torn end.
    pub committed: FilePosition,
}

fn seeded(store_id: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(&store_id.to_le_bytes());
    hasher
}

impl RunHeader {
    fn sealed(&self) -> [u8; RUN_SEALED_BYTES] {
        let mut bytes = [0; RUN_SEALED_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(RUN_MAGIC);
        out.put_u16_le(64);
        out.put_u16_le(0);
        out.put_u32_le(self.payload_bytes);
        out.put_u32_le(self.records_count);
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.position.0);
        out.put_u64_le(self.committed.0);
        bytes
    }

    /// The header's bytes over a payload given in pieces.
    pub fn encode(&self, store_id: u64, payload: &[&[u8]]) -> [u8; 64] {
        let sealed = self.sealed();
        let crc = run_crc(store_id, payload, &sealed);
        let mut bytes = [0; 64];
        let mut out = bytes.as_mut_slice();
        out.put_slice(&sealed);
        out.put_u32_le(crc);
        bytes
    }

    /// A header that may be one: magic and position are right, the checksum is not looked at.
    pub fn peek(bytes: &[u8], position: FilePosition) -> Option<Self> {
        let mut from = bytes.get(..index_of(RUN_HEADER_BYTES))?;
        if from.get_u32_le() != RUN_MAGIC || from.get_u16_le() != 64 || from.get_u16_le() != 0 {
            return None;
        }
        let header = Self {
            payload_bytes: from.get_u32_le(),
            records_count: from.get_u32_le(),
            epoch: from.get_u64_le(),
            sequence: from.get_u64_le(),
            position: FilePosition(from.get_u64_le()),
            committed: FilePosition(from.get_u64_le()),
        };
        (header.position == position).then_some(header)
    }

    /// Whether `bytes` (the header as stored) and the payload belong together.
    pub fn verify(&self, store_id: u64, bytes: &[u8], payload: &[&[u8]]) -> bool {
        let Some((sealed, mut crc)) = bytes.split_at_checked(RUN_SEALED_BYTES) else {
            return false;
        };
        crc.len() >= 4 && crc.get_u32_le() == run_crc(store_id, payload, sealed)
    }

    /// Where the run ends.
    pub fn end(&self) -> FilePosition {
        self.position
            .plus(RUN_HEADER_BYTES + u64::from(self.payload_bytes))
    }
}

fn run_crc(store_id: u64, payload: &[&[u8]], sealed: &[u8]) -> u32 {
    let mut hasher = seeded(store_id);
    for piece in payload {
        hasher.update(piece);
    }
    hasher.update(sealed);
    hasher.finalize()
}

fn index_of(bytes: u64) -> usize {
    crate::units::index(bytes)
}

/// What stands before a record: all that replay needs beside the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// Bytes of the record.
    pub record_bytes: u32,
    /// The record's queue.
    pub key: QueueKey,
    /// What the queue index keeps beside the record.
    pub tags_code: i64,
    /// Key hashes (8 bytes each) between this head and the record.
    pub keys_count: u16,
}

impl EntryHead {
    /// The head's bytes.
    pub fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(self.record_bytes);
        out.put_u32_le(self.key.topic.0);
        out.put_i64_le(self.tags_code);
        out.put_u16_le(self.key.queue.0);
        out.put_u16_le(self.keys_count);
        bytes
    }

    fn decode(from: &mut &[u8]) -> Option<Self> {
        if from.len() < index_of(HEAD_BYTES) {
            return None;
        }
        let record_bytes = from.get_u32_le();
        let topic = TopicId(from.get_u32_le());
        let tags_code = from.get_i64_le();
        let queue = QueueId(from.get_u16_le());
        let keys_count = from.get_u16_le();
        Some(Self {
            record_bytes,
            key: QueueKey { topic, queue },
            tags_code,
            keys_count,
        })
    }

    /// Bytes of an entry with these sizes.
    pub fn entry_bytes(record_bytes: u64, keys_count: usize) -> u64 {
        ENTRY_HEAD_BYTES + 8 * keys_count as u64 + record_bytes
    }
}

/// One entry of a run, as replay sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its head.
    pub head: EntryHead,
    /// Where the record starts.
    pub position: FilePosition,
    /// The record's offset in its queue.
    pub queue_offset: QueueOffset,
    /// When it was stored.
    pub store_time: StoreTimestamp,
    /// Its key hashes, 8 bytes each.
    pub key_hashes: &'a [u8],
    /// The record's check.
    pub check: &'a [u8],
    /// The record.
    pub record: &'a [u8],
}

impl Entry<'_> {
    /// The hashes of its keys.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.key_hashes
            .chunks_exact(8)
            .map(|mut bytes| bytes.get_u64_le())
    }
}

/// The entries of a run's payload; ends early at what is not an entry.
pub fn entries(payload: &[u8], start: FilePosition) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let head = EntryHead::decode(&mut rest)?;
        let (key_hashes, after) = rest.split_at_checked(usize::from(head.keys_count) * 8)?;
        // The run's checksum has vouched for the record already; the check is for single reads.
        let (check, after) = after.split_at_checked(index_of(RECORD_CHECK_BYTES))?;
        let (record, after) = after.split_at_checked(index_of(u64::from(head.record_bytes)))?;
        rest = after;
        let used = (payload.len() - rest.len() - record.len()) as u64;
        let (queue_offset, store_time) = record_fields(record)?;
        let position = start.plus(used);
        Some(Entry {
            head,
            position,
            queue_offset,
            store_time,
            key_hashes,
            check,
            record,
        })
    })
}

/// The tail's header page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailHeader {
    /// The shard's own number.
    pub store_id: u64,
    /// Bytes of the ring that follows.
    pub ring_bytes: u64,
    /// The epoch of the process that last opened it.
    pub epoch: u64,
}

impl TailHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(TAIL_MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u64_le(self.store_id);
        out.put_u64_le(self.ring_bytes);
        out.put_u64_le(self.epoch);
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it; `None` when the memory is fresh or foreign.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let sealed = bytes.get(..32)?;
        let crc = bytes.get(32..36)?.get_u32_le();
        let mut from = sealed;
        if from.get_u32_le() != TAIL_MAGIC || crc != crc32fast::hash(sealed) {
            return None;
        }
        (from.get_u32_le() == FORMAT_VERSION).then(|| Self {
            store_id: from.get_u64_le(),
            ring_bytes: from.get_u64_le(),
            epoch: from.get_u64_le(),
        })
    }
}

/// What a checkpoint's header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// The epoch of the process that wrote it.
    pub epoch: u64,
    /// The scan starts here,
    pub position: FilePosition,
    /// expecting a run of this sequence and at least this epoch.
    pub sequence: u64,
    /// Bytes of the queue index's part.
    pub index_bytes: u64,
    /// Bytes of the key index's part.
    pub keys_bytes: u64,
    /// Whether the indexes were met damaged: a start makes them anew if the log is whole. Not in
    /// the checksum, which an earlier version reads: wrong, it costs or saves a start that work.
    pub is_suspect: bool,
}

impl CheckpointHeader {
    /// Its bytes, over parts with this checksum.
    pub fn encode(&self, store_id: u64, parts_crc: u32) -> [u8; CHECKPOINT_HEADER_BYTES] {
        let mut bytes = [0; CHECKPOINT_HEADER_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(CHECKPOINT_MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.position.0);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.index_bytes);
        out.put_u64_le(self.keys_bytes);
        out.put_u32_le(parts_crc);
        let mut hasher = seeded(store_id);
        hasher.update(&bytes[..52]);
        let crc = hasher.finalize();
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes[56] = u8::from(self.is_suspect);
        bytes
    }

    /// Reads it, with the checksum its parts must have; `None` when it is not one of this shard.
    pub fn decode(bytes: &[u8], store_id: u64) -> Option<(Self, u32)> {
        let sealed = bytes.get(..52)?;
        let mut hasher = seeded(store_id);
        hasher.update(sealed);
        if bytes.get(52..56)?.get_u32_le() != hasher.finalize() {
            return None;
        }
        let mut from = sealed;
        if from.get_u32_le() != CHECKPOINT_MAGIC || from.get_u32_le() != FORMAT_VERSION {
            return None;
        }
        let header = Self {
            epoch: from.get_u64_le(),
            position: FilePosition(from.get_u64_le()),
            sequence: from.get_u64_le(),
            index_bytes: from.get_u64_le(),
            keys_bytes: from.get_u64_le(),
            is_suspect: bytes.get(56) == Some(&1),
        };
        Some((header, from.get_u32_le()))
    }
}

/// What an identity file (of the store or of a shard) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A random number of this store or shard.
    pub id: u64,
    /// Bytes of a segment (shard), unused for the store.
    pub segment_bytes: u64,
    /// The shard's number, or how many shards the store has.
    pub shard: u8,
}

/// Which identity file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// The store's.
    Store,
    /// A shard's.
    Shard,
}

/// Why an identity file can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// Written by a newer program: its format.
    Newer(u32),
    /// Not what it must be.
    Damaged,
}

impl IdentityKind {
    fn magic(self) -> u32 {
        match self {
            Self::Store => STORE_MAGIC,
            Self::Shard => SHARD_MAGIC,
        }
    }
}

impl Identity {
    /// Fills the first bytes of a block.
    pub fn encode(&self, kind: IdentityKind, block: &mut [u8]) {
        block.fill(0);
        let mut bytes = [0; IDENTITY_USED_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_u32_le(kind.magic());
        out.put_u32_le(FORMAT_VERSION);
        out.put_u64_le(self.id);
        out.put_u64_le(self.segment_bytes);
        out.put_u8(self.shard);
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        if let Some(into) = block.get_mut(..IDENTITY_USED_BYTES) {
            into.copy_from_slice(&bytes);
        }
    }

    /// Reads it. The version is believed before the checksum, whose place may change with it.
    ///
    /// # Errors
    /// `Newer` or `Damaged`.
    pub fn decode(kind: IdentityKind, block: &[u8]) -> Result<Self, IdentityError> {
        let sealed = block.get(..36).ok_or(IdentityError::Damaged)?;
        let mut from = sealed;
        if from.get_u32_le() != kind.magic() {
            return Err(IdentityError::Damaged);
        }
        let version = from.get_u32_le();
        if version > FORMAT_VERSION {
            return Err(IdentityError::Newer(version));
        }
        let crc = block.get(36..40).map_or(0, |mut crc| crc.get_u32_le());
        if version != FORMAT_VERSION || crc != crc32fast::hash(sealed) {
            return Err(IdentityError::Damaged);
        }
        let (id, segment_bytes) = (from.get_u64_le(), from.get_u64_le());
        Ok(Self {
            id,
            segment_bytes,
            shard: from.get_u8(),
        })
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
pub(crate) mod tests;
