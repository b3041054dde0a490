//! The queue table as bytes for a checkpoint, and back.
//!
//! **Owns** the layout of the snapshot.
//! **Lives on** one data core; taken in slices so that other tasks run between them.
//! **Invariants** a snapshot may be *fuzzy*: queues written later hold later entries, which replay
//! from the checkpoint's position skips. It must become the checkpoint only once every record
//! staged when its last slice was taken is committed. Pages the device lacks are inside.
//! **Limits** bytes of one slice are the caller's choice.
//! **Not here** where the bytes are kept (`checkpoint`).
//!
//! Layout, little-endian: magic u32, version u32; per queue: mark u8 = 1, topic u32, queue u16,
//! min u64, next u64, last time u64, directory length u32, 16 bytes per page, pages inside u32,
//! each its length u32 and an encoded page; at the end mark u8 = 0 and crc32 of all before.

use bytes::{Buf, BufMut};
use thiserror::Error;

use super::page_ref::PageRef;
use super::queue::Queue;
use super::{IndexLimits, Page, PageError, PageId, QueueIndex};
use crate::units::QueueKey;

const SNAPSHOT_MAGIC: u32 = 0x3153_4947;
const SNAPSHOT_VERSION: u32 = 1;

/// What a queue takes in a snapshot beside its pages, with one page in its directory.
const QUEUE_BYTES: usize = 64;

/// Why a snapshot cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes end too early or hold impossible values.
    #[error("index snapshot is malformed")]
    Malformed,
    /// Written by a newer program.
    #[error("index snapshot has version {0}, this program knows {SNAPSHOT_VERSION}")]
    Newer(u32),
    /// The checksum differs.
    #[error("index snapshot checksum differs")]
    Checksum,
    /// A page inside is damaged.
    #[error("index snapshot: {0}")]
    Page(#[from] PageError),
}

/// Progress of a snapshot being taken.
#[derive(Debug)]
pub struct SnapshotCursor {
    keys: Vec<QueueKey>,
    out: Vec<u8>,
}

impl QueueIndex {
    /// Begins a snapshot.
    pub fn snapshot_begin(&self) -> SnapshotCursor {
        let mut keys: Vec<QueueKey> = self.queues.keys().copied().collect();
        // Sorted so that equal stores give equal bytes; taken from the end.
        keys.sort_unstable_by(|a, b| b.cmp(a));
        // Room for all, so that nothing moves while it grows; what stays unused costs no memory.
        let pages_bytes = self.hot_bytes.saturating_add(self.unwritten_bytes);
        let mut out = Vec::with_capacity(pages_bytes + QUEUE_BYTES * keys.len());
        out.put_u32_le(SNAPSHOT_MAGIC);
        out.put_u32_le(SNAPSHOT_VERSION);
        SnapshotCursor { keys, out }
    }

    /// Adds about `bytes_max` bytes of queues; false once nothing is left and `finish` may be
    /// called.
    pub fn snapshot_step(&self, cursor: &mut SnapshotCursor, bytes_max: usize) -> bool {
        let stop = cursor.out.len().saturating_add(bytes_max);
        while cursor.out.len() < stop {
            let Some(key) = cursor.keys.pop() else {
                return false;
            };
            if let Some(queue) = self.queues.get(&key) {
                self.put_queue(key, queue, &mut cursor.out);
            }
        }
        !cursor.keys.is_empty()
    }

    /// The whole table at once; for shutdown and tests, else use the steps.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut cursor = self.snapshot_begin();
        while self.snapshot_step(&mut cursor, usize::MAX) {}
        cursor.finish()
    }

    fn put_queue(&self, key: QueueKey, queue: &Queue, out: &mut Vec<u8>) {
        out.put_u8(1);
        out.put_u32_le(key.topic.0);
        out.put_u16_le(key.queue.0);
        out.put_u64_le(queue.min);
        out.put_u64_le(queue.next);
        out.put_u64_le(queue.last_time);
        out.put_u32_le(u32::try_from(queue.pages.len()).unwrap_or(u32::MAX));
        for page in &queue.pages {
            out.put_u128_le(page.bits());
        }
        let inside: Vec<&Page> = queue
            .pages
            .iter()
            .filter(|page| page.place().is_none())
            .filter_map(|page| {
                self.unwritten.get(&PageId {
                    key,
                    first_offset: page.first_offset(),
                })
            })
            .map(AsRef::as_ref)
            .chain(queue.hot.as_deref())
            .collect();
        out.put_u32_le(u32::try_from(inside.len()).unwrap_or(u32::MAX));
        for page in inside {
            out.put_u32_le(u32::try_from(page.encoded_bytes()).unwrap_or(u32::MAX));
            page.encode(key, out);
        }
    }

    /// The index a snapshot holds.
    ///
    /// # Errors
    /// `SnapshotError` when the bytes are not a whole, sound snapshot.
    pub fn restore(bytes: &[u8], limits: IndexLimits) -> Result<Self, SnapshotError> {
        let (mut body, mut sum) = bytes
            .split_at_checked(bytes.len().saturating_sub(4))
            .ok_or(SnapshotError::Malformed)?;
        if sum.try_get_u32_le().map_err(malformed)? != crc32fast::hash(body) {
            return Err(SnapshotError::Checksum);
        }
        if body.try_get_u32_le().map_err(malformed)? != SNAPSHOT_MAGIC {
            return Err(SnapshotError::Malformed);
        }
        let version = body.try_get_u32_le().map_err(malformed)?;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Newer(version));
        }
        let mut index = Self::new(limits);
        while body.try_get_u8().map_err(malformed)? == 1 {
            index.take_queue(&mut body)?;
        }
        Ok(index)
    }

    fn take_queue(&mut self, body: &mut &[u8]) -> Result<(), SnapshotError> {
        let topic = body.try_get_u32_le().map_err(malformed)?;
        let key = QueueKey::new(topic, body.try_get_u16_le().map_err(malformed)?);
        let mut queue = Queue {
            min: body.try_get_u64_le().map_err(malformed)?,
            next: body.try_get_u64_le().map_err(malformed)?,
            last_time: body.try_get_u64_le().map_err(malformed)?,
            ..Queue::default()
        };
        for _ in 0..body.try_get_u32_le().map_err(malformed)? {
            queue.pages.push(PageRef::from_bits(
                body.try_get_u128_le().map_err(malformed)?,
            ));
        }
        for _ in 0..body.try_get_u32_le().map_err(malformed)? {
            let length = body.try_get_u32_le().map_err(malformed)?;
            let length = usize::try_from(length).map_err(malformed)?;
            let (encoded, rest) = body
                .split_at_checked(length)
                .ok_or(SnapshotError::Malformed)?;
            *body = rest;
            let page = Page::decode(key, encoded)?;
            if queue.has_page(page.first_offset()) {
                self.keep_unwritten(key, page);
            } else if page.end_offset().0 == queue.next && !page.is_empty() {
                self.hot_bytes += page.memory_bytes();
                queue.hot = Some(Box::new(page));
            } else {
                return Err(SnapshotError::Malformed);
            }
        }
        let is_inside = |page: &PageRef| {
            let first_offset = page.first_offset();
            self.unwritten.contains_key(&PageId { key, first_offset })
        };
        let mut placeless = queue.pages.iter().filter(|page| page.place().is_none());
        if !placeless.all(is_inside) {
            return Err(SnapshotError::Malformed);
        }
        self.queues.insert(key, queue);
        Ok(())
    }
}

impl SnapshotCursor {
    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// The snapshot.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.put_u8(0);
        let sum = crc32fast::hash(&self.out);
        self.out.put_u32_le(sum);
        self.out
    }
}

/// Any short read means the same.
fn malformed<E>(_: E) -> SnapshotError {
    SnapshotError::Malformed
}
