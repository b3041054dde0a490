//! Packed pages of queue index entries, in memory and as bytes.
//!
//! **Owns** the layout of one index page: header, narrow and wide entries, checksum.
//! **Lives on** one data core; pure bytes, no device.
//! **Invariants** a page holds consecutive offsets of one queue; store times within it never
//! decrease; an encoded page is at most one block and a multiple of `PAGE_UNIT_BYTES`.
//! **Limits** `NARROW_ENTRIES_MAX` entries (32-bit tag hash) or `WIDE_ENTRIES_MAX` (64-bit code).
//! **Not here** which pages exist (`queue_index`), where they lie on the device (`page_files`).
//!
//! Header, little-endian, 64 bytes: magic u32, crc32 u32 (of all bytes after it), topic u32,
//! queue u16, count u16, first offset u64, base position u64, first time u64, last time u64,
//! version u16, stride u16, zeros. Entry: u64 (position - base) << 16 | upper 16 bits of
//! (time - first time), u32 lower 32 bits of that, u32 record length, i32 or i64 tags code.

pub mod page_files;

use bytes::{Buf, BufMut};
use thiserror::Error;

use crate::units::{FilePosition, QueueKey, QueueOffset, StoreTimestamp};

/// First bytes of an encoded page ("GIP1").
const PAGE_MAGIC: u32 = 0x3150_4947;
/// Layout version written today.
const PAGE_VERSION: u16 = 1;
/// Bytes of a page's header.
pub const PAGE_HEADER_BYTES: usize = 64;
/// An encoded page is never longer than this: one device block.
pub const PAGE_BYTES_MAX: usize = 4096;
/// Encoded pages start at multiples of this, so that short pages of idle queues pack well.
pub const PAGE_UNIT_BYTES: usize = 64;
/// Bytes of an entry whose tags code fits 32 bits.
const NARROW_BYTES: usize = 20;
/// Bytes of an entry with a 64-bit tags code (due times of delay topics).
const WIDE_BYTES: usize = 24;
/// Entries of a full narrow page.
pub const NARROW_ENTRIES_MAX: usize = (PAGE_BYTES_MAX - PAGE_HEADER_BYTES) / NARROW_BYTES;
/// Entries of a full wide page.
pub const WIDE_ENTRIES_MAX: usize = (PAGE_BYTES_MAX - PAGE_HEADER_BYTES) / WIDE_BYTES;
/// Largest distance of a position or a time from the page's first that an entry can hold.
const DELTA_MAX: u64 = (1 << 48) - 1;

const _: () = assert!(PAGE_BYTES_MAX.is_multiple_of(PAGE_UNIT_BYTES));
const _: () = assert!(NARROW_ENTRIES_MAX == 201 && WIDE_ENTRIES_MAX == 168);

/// What the index knows of one record; its offset is its place in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where the record starts in the shard's log.
    pub position: FilePosition,
    /// Bytes of the record.
    pub length: u32,
    /// Tag hash sign-extended, or the due time for delay topics (`RocketMQ`'s consume queue).
    pub tags_code: i64,
    /// When the broker stored it; never less than its predecessor's in the same queue.
    pub store_time: StoreTimestamp,
}

impl IndexEntry {
    /// An entry in front of this one whose record is lost: of no length.
    pub(crate) fn lost(self) -> Self {
        Self {
            length: 0,
            tags_code: 0,
            ..self
        }
    }

    /// Whether there is no record behind it.
    pub fn is_lost(&self) -> bool {
        self.length == 0
    }
}

/// Why bytes are not the page they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// Too short, or its length fields contradict its bytes.
    #[error("index page is malformed: {0}")]
    Malformed(&'static str),
    /// The checksum differs: the bytes changed after they were written.
    #[error("index page checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The checksum stored in the page.
        found: u32,
        /// The checksum of the bytes read.
        computed: u32,
    },
    /// A sound page, but another one.
    #[error(
        "index page is of topic {topic} queue {queue} offset {first_offset}, not the one wanted"
    )]
    Misplaced {
        /// Topic number found.
        topic: u32,
        /// Queue number found.
        queue: u16,
        /// First offset found.
        first_offset: u64,
    },
}

/// Consecutive entries of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    first_offset: u64,
    base_position: u64,
    first_time: u64,
    last_time: u64,
    entries: Vec<u8>,
    count: u16,
    wide: bool,
}

impl Page {
    /// An empty page whose first entry will have `first_offset`; `wide` as its predecessor was.
    pub fn new(first_offset: QueueOffset, wide: bool) -> Self {
        Self {
            first_offset: first_offset.0,
            wide,
            ..Self::default()
        }
    }

    /// Adds an entry; false when it does not fit and a new page must be begun.
    #[inline]
    pub fn push(&mut self, entry: &IndexEntry) -> bool {
        let narrow_code = i32::try_from(entry.tags_code);
        if narrow_code.is_err() && !self.wide && !self.widen() {
            return false;
        }
        if self.count == 0 {
            self.base_position = entry.position.0;
            self.first_time = entry.store_time.0;
        } else if usize::from(self.count) >= self.entries_max() {
            return false;
        }
        let position = entry.position.0.wrapping_sub(self.base_position);
        let time = entry.store_time.0.wrapping_sub(self.first_time);
        if position > DELTA_MAX || time > DELTA_MAX {
            return false;
        }
        if self.entries.capacity() - self.entries.len() < self.stride() {
            self.grow();
        }
        let mut packed = [0u8; WIDE_BYTES];
        let head = (position << 16) | (time >> 32);
        packed[..8].copy_from_slice(&head.to_le_bytes());
        packed[8..12].copy_from_slice(&low_u32(time).to_le_bytes());
        packed[12..16].copy_from_slice(&entry.length.to_le_bytes());
        match narrow_code {
            Ok(code) if !self.wide => {
                packed[16..20].copy_from_slice(&code.to_le_bytes());
                self.entries.extend_from_slice(&packed[..NARROW_BYTES]);
            }
            _ => {
                packed[16..24].copy_from_slice(&entry.tags_code.to_le_bytes());
                self.entries.extend_from_slice(&packed);
            }
        }
        self.count += 1;
        self.last_time = entry.store_time.0;
        true
    }

    /// Room for 4, 16, 64, then a full page's entries: a little-used queue stays small, a busy one
    /// does not copy often, and a complete page has nothing to give back.
    #[cold]
    fn grow(&mut self) {
        let count = self.count();
        let wanted = (count * 4).max(4);
        let wanted = if wanted > 64 {
            self.entries_max()
        } else {
            wanted
        };
        self.entries
            .reserve_exact((wanted - count.min(wanted)) * self.stride());
    }

    /// Re-packs narrow entries as wide ones; false when they would not fit.
    #[cold]
    fn widen(&mut self) -> bool {
        if usize::from(self.count) >= WIDE_ENTRIES_MAX {
            return false;
        }
        let old: Vec<IndexEntry> = self.iter_from(0).collect();
        let mut wider = Self::new(QueueOffset(self.first_offset), true);
        for entry in &old {
            wider.push(entry);
        }
        *self = wider;
        true
    }

    fn entries_max(&self) -> usize {
        if self.wide {
            WIDE_ENTRIES_MAX
        } else {
            NARROW_ENTRIES_MAX
        }
    }

    fn stride(&self) -> usize {
        if self.wide { WIDE_BYTES } else { NARROW_BYTES }
    }

    /// Offset of the first entry.
    pub fn first_offset(&self) -> QueueOffset {
        QueueOffset(self.first_offset)
    }

    /// Offset after the last entry.
    pub fn end_offset(&self) -> QueueOffset {
        QueueOffset(self.first_offset.saturating_add(u64::from(self.count)))
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether entries are wide.
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// Store time of the first entry.
    pub fn first_time(&self) -> StoreTimestamp {
        StoreTimestamp(self.first_time)
    }

    /// Store time of the last entry.
    pub fn last_time(&self) -> StoreTimestamp {
        StoreTimestamp(self.last_time)
    }

    /// Bytes it occupies in memory, for cache accounting.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.entries.capacity()
    }

    /// The last entry's last byte.
    pub fn last_byte(&self) -> Option<u8> {
        self.entries.last().copied()
    }

    /// Gives unused capacity back; called once a page is complete.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Entries from index `skip` on.
    pub fn iter_from(&self, skip: usize) -> impl Iterator<Item = IndexEntry> + '_ {
        let stride = self.stride();
        let bytes = self
            .entries
            .get(skip.saturating_mul(stride)..)
            .unwrap_or_default();
        bytes.chunks_exact(stride).map(|packed| self.unpack(packed))
    }

    /// The entry at index `at`.
    pub fn entry(&self, at: usize) -> Option<IndexEntry> {
        self.iter_from(at).next()
    }

    #[inline]
    fn unpack(&self, mut packed: &[u8]) -> IndexEntry {
        let wide = packed.len() == WIDE_BYTES;
        let head = packed.try_get_u64_le().unwrap_or(0);
        let time_low = packed.try_get_u32_le().unwrap_or(0);
        let length = packed.try_get_u32_le().unwrap_or(0);
        let tags_code = if wide {
            packed.try_get_i64_le().unwrap_or(0)
        } else {
            i64::from(packed.try_get_i32_le().unwrap_or(0))
        };
        let time = ((head & 0xffff) << 32) | u64::from(time_low);
        IndexEntry {
            position: FilePosition(self.base_position.wrapping_add(head >> 16)),
            length,
            tags_code,
            store_time: StoreTimestamp(self.first_time.wrapping_add(time)),
        }
    }

    /// Index of the first entry for which `before` is false; `count` when there is none.
    /// Entries must be ordered by it.
    pub fn partition_point(&self, before: impl Fn(&IndexEntry) -> bool) -> usize {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.entry(middle) {
                Some(entry) if before(&entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    /// Bytes of the encoded page.
    pub fn encoded_bytes(&self) -> usize {
        (PAGE_HEADER_BYTES + self.entries.len()).next_multiple_of(PAGE_UNIT_BYTES)
    }

    /// Appends the encoded page of queue `key` to `out`.
    pub fn encode(&self, key: QueueKey, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(self.encoded_bytes());
        body.put_u32_le(key.topic.0);
        body.put_u16_le(key.queue.0);
        body.put_u16_le(self.count);
        body.put_u64_le(self.first_offset);
        body.put_u64_le(self.base_position);
        body.put_u64_le(self.first_time);
        body.put_u64_le(self.last_time);
        body.put_u16_le(PAGE_VERSION);
        body.put_u16_le(if self.wide { 24 } else { 20 });
        body.resize(PAGE_HEADER_BYTES - 8, 0);
        body.extend_from_slice(&self.entries);
        body.resize(self.encoded_bytes() - 8, 0);
        out.put_u32_le(PAGE_MAGIC);
        out.put_u32_le(crc32fast::hash(&body));
        out.extend_from_slice(&body);
    }

    /// Reads the page of `key` at the front of `bytes`; more bytes may follow.
    ///
    /// # Errors
    /// `PageError` when the bytes are damaged or of another queue.
    pub fn decode(key: QueueKey, bytes: &[u8]) -> Result<Self, PageError> {
        const SHORT: PageError = PageError::Malformed("too short");
        let mut head = bytes.get(..PAGE_HEADER_BYTES).ok_or(SHORT)?;
        if head.get_u32_le() != PAGE_MAGIC {
            return Err(PageError::Malformed("no page starts here"));
        }
        let found = head.get_u32_le();
        let (topic, queue, count) = (head.get_u32_le(), head.get_u16_le(), head.get_u16_le());
        let first_offset = head.get_u64_le();
        let (base_position, first_time) = (head.get_u64_le(), head.get_u64_le());
        let last_time = head.get_u64_le();
        let (version, stride) = (head.get_u16_le(), usize::from(head.get_u16_le()));
        if version != PAGE_VERSION || (stride != NARROW_BYTES && stride != WIDE_BYTES) {
            return Err(PageError::Malformed("unknown version or entry size"));
        }
        let length = stride * usize::from(count);
        let encoded = (PAGE_HEADER_BYTES + length).next_multiple_of(PAGE_UNIT_BYTES);
        let entries = bytes.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + length);
        let (Some(entries), Some(summed)) = (entries, bytes.get(8..encoded)) else {
            return Err(SHORT);
        };
        let computed = crc32fast::hash(summed);
        if computed != found {
            return Err(PageError::Checksum { found, computed });
        }
        if topic != key.topic.0 || queue != key.queue.0 {
            return Err(PageError::Misplaced {
                topic,
                queue,
                first_offset,
            });
        }
        let (entries, wide) = (entries.to_vec(), stride == WIDE_BYTES);
        Ok(Self {
            first_offset,
            base_position,
            first_time,
            last_time,
            entries,
            count,
            wide,
        })
    }
}

/// The lower half of a 64-bit number.
fn low_u32(value: u64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is wanted"
    )]
    let low = value as u32;
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: u64, tags_code: i64) -> IndexEntry {
        let position = FilePosition(1_000_000 + i * 1100);
        let store_time = StoreTimestamp(1_700_000_000_000 + i * 7);
        IndexEntry {
            position,
            length: 1100,
            tags_code,
            store_time,
        }
    }

    fn filled(count: u64, code: impl Fn(u64) -> i64) -> Page {
        let mut page = Page::new(QueueOffset(500), false);
        for i in 0..count {
            assert!(page.push(&entry(i, code(i))));
        }
        page
    }

    #[test]
    fn a_full_narrow_page_is_one_block_and_survives_a_round_trip() {
        let mut page = filled(NARROW_ENTRIES_MAX as u64, |i| -(i.cast_signed()));
        assert!(!page.push(&entry(201, 0)));
        assert_eq!(page.encoded_bytes(), PAGE_BYTES_MAX);
        let mut bytes = Vec::new();
        page.encode(QueueKey::new(7, 3), &mut bytes);
        assert_eq!(bytes.len(), PAGE_BYTES_MAX);
        assert_eq!(Page::decode(QueueKey::new(7, 3), &bytes), Ok(page.clone()));
        assert_eq!(page.entry(200), Some(entry(200, -200)));
        assert_eq!(page.entry(201), None);
    }

    #[test]
    fn a_wide_code_widens_the_page_and_keeps_its_entries() {
        let mut page = filled(100, |_| 5);
        assert!(page.push(&entry(100, i64::MAX)));
        assert!(page.is_wide());
        assert_eq!(page.entry(99), Some(entry(99, 5)));
        assert_eq!(page.entry(100), Some(entry(100, i64::MAX)));
        let mut full = filled(WIDE_ENTRIES_MAX as u64, |_| 5);
        assert!(
            !full.push(&entry(999, i64::MIN)),
            "no room to widen: a new page is needed"
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let page = filled(3, |_| 1);
        let key = QueueKey::new(7, 3);
        let mut bytes = Vec::new();
        page.encode(key, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::decode(key, &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let other = Page::decode(QueueKey::new(7, 4), &bytes);
        assert_eq!(
            other,
            Err(PageError::Misplaced {
                topic: 7,
                queue: 3,
                first_offset: 500
            })
        );
        assert!(Page::decode(key, &bytes[..40]).is_err());
    }
}
