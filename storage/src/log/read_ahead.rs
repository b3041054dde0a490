//! Cold reads: aligned chunks of the log, a bounded number of them kept for the next reader.
//!
//! **Owns** the chunks in memory and the guess what comes next.
//! **Lives on** the shard's core, shared by all readers of the shard.
//! **Invariants** only blocks the device has for good are kept; chunks never cross a segment.
//! **Limits** the bytes given at the start; `CHUNK_BYTES` to `SEQUENTIAL_BYTES` per read.
//! **Not here** bytes still in the tail (`staging`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::log::segments::Segments;
use crate::units::{FilePosition, index};

/// A read with no history.
pub const CHUNK_BYTES: u64 = 256 << 10;
/// A read that continues where a chunk in memory ends.
pub const SEQUENTIAL_BYTES: u64 = 1 << 20;

type ReadOf<D> = <<D as Disk>::File as DiskFile>::Read;

struct Chunk<D: Disk> {
    data: Rc<ReadOf<D>>,
    bytes: u64,
    used: u64,
}

/// The chunks of one shard.
pub struct ReadCache<D: Disk> {
    bytes_max: u64,
    bytes: Cell<u64>,
    clock: Cell<u64>,
    chunks: RefCell<BTreeMap<FilePosition, Chunk<D>>>,
}

impl<D: Disk> ReadCache<D> {
    /// A cache of at most `bytes_max` bytes (but at least one chunk).
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: bytes_max.max(SEQUENTIAL_BYTES),
            bytes: Cell::new(0),
            clock: Cell::new(0),
            chunks: RefCell::default(),
        }
    }

    fn find(&self, position: FilePosition) -> Option<(Rc<ReadOf<D>>, usize)> {
        let mut chunks = self.chunks.borrow_mut();
        let (start, chunk) = chunks.range_mut(..=position).next_back()?;
        let at = position.since(*start);
        if at >= chunk.bytes {
            return None;
        }
        self.clock.set(self.clock.get() + 1);
        chunk.used = self.clock.get();
        Some((Rc::clone(&chunk.data), index(at)))
    }

    /// Adds `start..start + len` to `out` if all of it is in memory.
    pub fn read_hot(&self, start: FilePosition, len: u64, out: &mut BytesMut) -> bool {
        let before = out.len();
        let end = start.plus(len);
        let mut at = start;
        while at < end {
            let Some((data, from)) = self.find(at) else {
                out.truncate(before);
                return false;
            };
            let rest = data.as_ref().as_ref().get(from..).unwrap_or_default();
            let part = rest
                .get(..index(end.since(at)).min(rest.len()))
                .unwrap_or_default();
            if part.is_empty() {
                out.truncate(before);
                return false;
            }
            out.extend_from_slice(part);
            at = at.plus(part.len() as u64);
        }
        true
    }

    /// Adds `start..start + len`, all of it before `stable`, to `out`, reading what is missing.
    ///
    /// # Errors
    /// As the device says.
    pub async fn read(
        &self,
        segments: &Segments<D>,
        stable: FilePosition,
        (start, len): (FilePosition, u64),
        out: &mut BytesMut,
    ) -> Result<(), DiskError> {
        let end = start.plus(len);
        let mut at = start;
        while at < end {
            let (data, from) = match self.find(at) {
                Some(found) => found,
                None => self.load(segments, stable, at, end).await?,
            };
            let rest = data.as_ref().as_ref().get(from..).unwrap_or_default();
            let part = rest
                .get(..index(end.since(at)).min(rest.len()))
                .unwrap_or_default();
            if part.is_empty() {
                return Err(short(segments, at));
            }
            out.extend_from_slice(part);
            at = at.plus(part.len() as u64);
        }
        Ok(())
    }

    /// Drops the chunks that touch `start..start + len`: what they hold was found damaged, and the
    /// next reader asks the device again.
    pub fn forget(&self, start: FilePosition, len: u64) {
        let mut chunks = self.chunks.borrow_mut();
        let end = start.plus(len);
        chunks.retain(|at, chunk| {
            let touched = *at < end && start < at.plus(chunk.bytes);
            if touched {
                self.bytes.set(self.bytes.get() - chunk.bytes);
            }
            !touched
        });
    }

    async fn load(
        &self,
        segments: &Segments<D>,
        stable: FilePosition,
        at: FilePosition,
        end: FilePosition,
    ) -> Result<(Rc<ReadOf<D>>, usize), DiskError> {
        let start = at.block_down();
        let sequential = start.0 > 0 && self.find(FilePosition(start.0 - 1)).is_some();
        let ahead = if sequential {
            SEQUENTIAL_BYTES
        } else {
            CHUNK_BYTES
        };
        let limit = stable.block_up().min(segments.next_start(start));
        let until = end.block_up().max(start.plus(ahead)).min(limit);
        // A record longer than one read is read in several.
        let bytes = until.since(start).min(SEQUENTIAL_BYTES);
        let Some(segment) = segments.open(start).await? else {
            return Err(short(segments, at));
        };
        let read = segment
            .file
            .read_at(segment.offset_of(start), index(bytes))
            .await?;
        let data = Rc::new(read);
        self.keep(start, Rc::clone(&data));
        Ok((data, index(at.since(start))))
    }

    fn keep(&self, start: FilePosition, data: Rc<ReadOf<D>>) {
        let bytes = (*data).as_ref().len() as u64;
        self.clock.set(self.clock.get() + 1);
        let chunk = Chunk {
            data,
            bytes,
            used: self.clock.get(),
        };
        let mut chunks = self.chunks.borrow_mut();
        let old = chunks.insert(start, chunk).map_or(0, |old| old.bytes);
        self.bytes.set(self.bytes.get() + bytes - old);
        while self.bytes.get() > self.bytes_max && chunks.len() > 1 {
            let oldest = chunks.iter().min_by_key(|(_, chunk)| chunk.used);
            let Some(oldest) = oldest.map(|(start, _)| *start) else {
                return;
            };
            if let Some(gone) = chunks.remove(&oldest) {
                self.bytes.set(self.bytes.get() - gone.bytes);
            }
        }
    }
}

fn short<D: Disk>(segments: &Segments<D>, at: FilePosition) -> DiskError {
    let name = crate::format::segment_name(segments.start_of(at));
    let detail = format!("nothing at position {at}");
    DiskError::new(DiskErrorKind::Io, "read", name, detail)
}
