//! Cold reads: aligned chunks of the log, a bounded number of them kept for the next reader.
//!
//! **Owns** the chunks in memory, the reads under way, and the guess what comes next.
//! **Lives on** the shard's core, shared by all readers of the shard.
//! **Invariants** only blocks the device has for good are kept; chunks never cross a segment; a
//! chunk is read once, however many readers wait for it.
//! **Limits** the bytes given at the start, and `AHEAD_LOADS_MAX` chunks under way beyond them;
//! `FAILED_KEPT_MAX` chunks that could not be read.
//! **Not here** bytes still in the tail (`staging`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::BytesMut;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::log::segments::Segments;
use crate::log::shard_log::ShardLog;
use crate::log::signal::Signal;
use crate::units::{FilePosition, index};

/// One read of the device.
pub const CHUNK_BYTES: u64 = 256 << 10;
/// Chunks read ahead of a reader that goes on where the chunk before ended: the device works on
/// them side by side while the reader takes what is there.
pub const AHEAD_CHUNKS: u64 = 4;
/// Chunks read ahead at a time, over all readers: two streams at full depth.
pub const AHEAD_LOADS_MAX: usize = 8;

/// Chunks that could not be read which are remembered, and how many of their readers are told so
/// before the device is asked again: a bad sector can take it seconds each time.
const FAILED_KEPT_MAX: usize = 64;
const FAILED_TELLS: u32 = 64;

const _: () = assert!(AHEAD_LOADS_MAX as u64 >= AHEAD_CHUNKS);

/// Bytes of one read.
pub type ReadOf<D> = <<D as Disk>::File as DiskFile>::Read;

struct Chunk<D: Disk> {
    data: Rc<ReadOf<D>>,
    bytes: u64,
    used: u64,
    /// Nobody has taken anything of it yet.
    fresh: bool,
}

/// Why a chunk could not be read, and to how many of its readers that is still to be told.
struct Failed {
    error: DiskError,
    tells_left: u32,
}

/// The chunks of one shard.
pub struct ReadCache<D: Disk> {
    bytes_max: u64,
    bytes: Cell<u64>,
    clock: Cell<u64>,
    chunks: RefCell<BTreeMap<FilePosition, Chunk<D>>>,
    /// Where the chunk found last begins, and what it is: the next record is in it as well,
    /// and a look into the tree costs as much as checking one.
    latest: RefCell<Option<(FilePosition, Rc<ReadOf<D>>)>>,
    /// Starts of chunks under way.
    loading: RefCell<BTreeSet<FilePosition>>,
    loaded: Signal,
    failed: RefCell<BTreeMap<FilePosition, Failed>>,
    /// The chunk somebody began to take since the last look.
    begun: Cell<Option<FilePosition>>,
    /// Reads of the device, and those of them that no reader had asked for yet.
    loads_count: Cell<u64>,
    ahead_count: Cell<u64>,
}

/// Marks a chunk as under way until dropped.
struct Loading<'a, D: Disk> {
    cache: &'a ReadCache<D>,
    start: FilePosition,
}

impl<D: Disk> Drop for Loading<'_, D> {
    fn drop(&mut self) {
        self.cache.loading.borrow_mut().remove(&self.start);
        self.cache.loaded.notify();
    }
}

impl<D: Disk> ReadCache<D> {
    /// A cache of at most `bytes_max` bytes (but at least one chunk and what is read ahead of it).
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: bytes_max.max((AHEAD_CHUNKS + 2) * CHUNK_BYTES),
            bytes: Cell::new(0),
            clock: Cell::new(0),
            chunks: RefCell::default(),
            latest: RefCell::new(None),
            loading: RefCell::default(),
            loaded: Signal::default(),
            failed: RefCell::default(),
            begun: Cell::new(None),
            loads_count: Cell::new(0),
            ahead_count: Cell::new(0),
        }
    }

    /// Reads of the device so far, and how many of them were ahead of their readers.
    pub fn loads_counts(&self) -> (u64, u64) {
        (self.loads_count.get(), self.ahead_count.get())
    }

    /// The chunk that has `position`, if it is in memory, and where in it.
    pub fn find(&self, position: FilePosition) -> Option<(Rc<ReadOf<D>>, usize)> {
        if let Some((start, data)) = &*self.latest.borrow()
            && *start <= position
            && position.since(*start) < (**data).as_ref().len() as u64
        {
            return Some((Rc::clone(data), index(position.since(*start))));
        }
        let mut chunks = self.chunks.borrow_mut();
        let (start, chunk) = chunks.range_mut(..=position).next_back()?;
        let at = position.since(*start);
        if at >= chunk.bytes {
            return None;
        }
        self.clock.set(self.clock.get() + 1);
        chunk.used = self.clock.get();
        if std::mem::take(&mut chunk.fresh) {
            self.begun.set(Some(*start));
        }
        let data = Rc::clone(&chunk.data);
        *self.latest.borrow_mut() = Some((*start, Rc::clone(&data)));
        Some((data, index(at)))
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
                None => self.demand(segments, stable, at).await?,
            };
            let part = take((*data).as_ref(), from, end.since(at), out);
            if part == 0 {
                return Err(short(segments, at));
            }
            at = at.plus(part);
        }
        Ok(())
    }

    /// The chunk around `position`, once it is there; a read of it that is under way is waited for.
    async fn demand(
        &self,
        segments: &Segments<D>,
        stable: FilePosition,
        position: FilePosition,
    ) -> Result<(Rc<ReadOf<D>>, usize), DiskError> {
        let start = chunk_start(segments, position);
        loop {
            // Also of those who have waited: each would keep the device for as long again.
            if let Some(error) = self.failed_lately(start) {
                return Err(error);
            }
            if let Some(loading) = self.begin(start) {
                let data = self.load(segments, stable, &loading).await?;
                self.begun.set(Some(start));
                return Ok((data, index(position.since(start))));
            }
            let done = || (!self.loading.borrow().contains(&start)).then_some(());
            self.loaded.wait(done).await;
            // It was a shorter one, or is gone again: then it is this reader's to read.
            if let Some(found) = self.find(position) {
                return Ok(found);
            }
        }
    }

    fn begin(&self, start: FilePosition) -> Option<Loading<'_, D>> {
        let is_first = self.loading.borrow_mut().insert(start);
        // Lazily: dropping one ends the mark.
        is_first.then(|| Loading { cache: self, start })
    }

    /// Drops the chunks that touch `start..start + len`: what they hold was found damaged, and the
    /// next reader asks the device again.
    pub fn forget(&self, start: FilePosition, len: u64) {
        *self.latest.borrow_mut() = None;
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
        loading: &Loading<'_, D>,
    ) -> Result<Rc<ReadOf<D>>, DiskError> {
        let start = loading.start;
        let limit = stable.block_up().min(segments.next_start(start));
        let bytes = start.plus(CHUNK_BYTES).min(limit).since(start);
        let Some(segment) = segments.open(start).await? else {
            return Err(short(segments, start));
        };
        let offset = segment.offset_of(start);
        let read = segment.file.read_at(offset, index(bytes)).await;
        let read = read.inspect_err(|error| self.note_failed(start, error))?;
        self.loads_count.set(self.loads_count.get() + 1);
        let data = Rc::new(read);
        self.keep(start, Rc::clone(&data));
        Ok(data)
    }

    /// The error of a chunk that could not be read the last time.
    fn failed_lately(&self, start: FilePosition) -> Option<DiskError> {
        let mut failed = self.failed.borrow_mut();
        let lately = failed.get_mut(&start)?;
        let error = lately.error.clone();
        lately.tells_left -= 1;
        if lately.tells_left == 0 {
            failed.remove(&start);
        }
        Some(error)
    }

    fn note_failed(&self, start: FilePosition, error: &DiskError) {
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= FAILED_KEPT_MAX {
            failed.pop_first();
        }
        let (error, tells_left) = (error.clone(), FAILED_TELLS);
        failed.insert(start, Failed { error, tells_left });
    }

    fn keep(&self, start: FilePosition, data: Rc<ReadOf<D>>) {
        let bytes = (*data).as_ref().len() as u64;
        self.clock.set(self.clock.get() + 1);
        let chunk = Chunk {
            data,
            bytes,
            used: self.clock.get(),
            fresh: true,
        };
        // It may be the one that goes, or that this one replaces.
        *self.latest.borrow_mut() = None;
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

    /// Reads ahead of whoever began a chunk right behind one that is in memory. To be called after
    /// reads; costs nothing when no chunk was begun.
    #[inline]
    pub fn go_ahead(self: &Rc<Self>, log: &Rc<ShardLog<D>>) {
        if let Some(begun) = self.begun.take() {
            self.read_ahead(log, begun);
        }
    }

    #[cold]
    fn read_ahead(self: &Rc<Self>, log: &Rc<ShardLog<D>>, begun: FilePosition) {
        let before = begun.0.checked_sub(1).map(FilePosition);
        let goes_on = before.is_some_and(|before| self.has(before));
        if !goes_on {
            return;
        }
        let stable = log.marks.stable().0;
        let mut start = begun;
        for _ in 0..AHEAD_CHUNKS {
            start = chunk_end(&log.segments, start);
            // What the device is about to get is still in the tail.
            let is_whole = chunk_end(&log.segments, start) <= stable;
            if !is_whole || !log.segments.exists(start) {
                return;
            }
            let is_there = self.has(start) || self.loading.borrow().contains(&start);
            if is_there || self.failed.borrow().contains_key(&start) {
                continue;
            }
            if self.loading.borrow().len() >= AHEAD_LOADS_MAX {
                return;
            }
            self.loading.borrow_mut().insert(start);
            self.ahead_count.set(self.ahead_count.get() + 1);
            let (cache, log) = (Rc::clone(self), Rc::clone(log));
            log.disk.clone().spawn(async move {
                let loading = Loading {
                    cache: &cache,
                    start,
                };
                if let Err(error) = cache.load(&log.segments, stable, &loading).await {
                    // Whoever really needs it reads it again and is told.
                    tracing::debug!(%error, "a read ahead failed");
                }
            });
        }
    }

    /// Whether a chunk in memory has `position`.
    pub fn has(&self, position: FilePosition) -> bool {
        let chunks = self.chunks.borrow();
        let found = chunks.range(..=position).next_back();
        found.is_some_and(|(start, chunk)| position.since(*start) < chunk.bytes)
    }
}

/// Start of the chunk around `position`: chunks are counted from their segment's start.
fn chunk_start<D: Disk>(segments: &Segments<D>, position: FilePosition) -> FilePosition {
    let segment = segments.start_of(position);
    segment.plus(position.since(segment) / CHUNK_BYTES * CHUNK_BYTES)
}

/// End of the chunk that begins at `start`.
fn chunk_end<D: Disk>(segments: &Segments<D>, start: FilePosition) -> FilePosition {
    start.plus(CHUNK_BYTES).min(segments.next_start(start))
}

/// Adds at most `wanted` bytes of `data` from `from` on to `out`; returns how many.
fn take(data: &[u8], from: usize, wanted: u64, out: &mut BytesMut) -> u64 {
    let rest = data.get(from..).unwrap_or_default();
    let part = rest.get(..index(wanted)).unwrap_or(rest);
    out.extend_from_slice(part);
    part.len() as u64
}

fn short<D: Disk>(segments: &Segments<D>, at: FilePosition) -> DiskError {
    let name = crate::format::segment_name(segments.start_of(at));
    let detail = format!("nothing at position {at}");
    DiskError::new(DiskErrorKind::Io, "read", name, detail)
}
