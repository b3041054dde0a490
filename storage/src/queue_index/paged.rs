//! The queue index together with its page files: what the shard uses.
//!
//! **Owns** when pages travel between memory and device.
//! **Lives on** one data core; calls without `async` never wait.
//! **Invariants** no borrow is held across an await; one flush at a time.
//! **Limits** `PagedOptions`; a lookup loads at most `PAGES_WANTED_MAX` pages per round.
//! **Not here** what a record is, or when a checkpoint is due (`checkpoint`).

use std::cell::{Cell, Ref, RefCell, RefMut};

use bytes::{Buf, BufMut};
use thiserror::Error;

use super::{
    IndexEntry, IndexLimits, Lookup, PageWanted, QueueIndex, Search, SnapshotError,
    UNWRITTEN_BYTES_FLUSH, UNWRITTEN_BYTES_MAX,
};
use crate::disk::Disk;
use crate::index_pages::Page;
use crate::index_pages::page_files::{PAGE_FILE_BYTES_DEFAULT, PageFileError, PageFiles};
use crate::units::{Boundary, FilePosition, QueueKey, QueueOffset, StoreTimestamp};

/// Bytes of queue table copied and summed between two yields: about 0.1 ms (41 MB took 75 ms).
const SNAPSHOT_SLICE_BYTES: usize = 64 << 10;

/// Queues put to sleep between two yields: about 0.1 ms.
const SLEEP_SLICE: usize = 256;

/// Bounds and sizes.
#[derive(Clone, Copy, Debug)]
pub struct PagedOptions {
    /// Memory bounds.
    pub limits: IndexLimits,
    /// Length of a page file.
    pub file_bytes: u64,
    /// Complete pages are written once they have so many bytes.
    pub flush_bytes: usize,
    /// Beyond so many bytes of complete pages that wait for the device nothing should be added.
    pub unwritten_bytes_max: usize,
}

impl Default for PagedOptions {
    fn default() -> Self {
        Self {
            limits: IndexLimits::default(),
            file_bytes: PAGE_FILE_BYTES_DEFAULT,
            flush_bytes: UNWRITTEN_BYTES_FLUSH,
            unwritten_bytes_max: UNWRITTEN_BYTES_MAX,
        }
    }
}

/// Why the index could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexOpenError {
    /// The checkpoint's part is unusable: open without it and replay the log from its start.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The page files cannot be used.
    #[error(transparent)]
    Files(#[from] PageFileError),
}

impl IndexOpenError {
    /// Whether the log has to make the index anew, not the device to be tried again.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot(_) => true,
            Self::Files(error) => error.is_damage(),
        }
    }
}

/// The index's part of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct PagedSnapshot {
    /// What `PagedIndex::open` takes back.
    pub bytes: Vec<u8>,
    /// Page files to remove once these bytes are durable; goes to `PagedIndex::checkpoint_durable`.
    pub unneeded_files: Vec<u64>,
}

/// A shard's queue index over a disk.
pub struct PagedIndex<D: Disk> {
    disk: D,
    index: RefCell<QueueIndex>,
    files: PageFiles<D>,
    flush_bytes: usize,
    unwritten_bytes_max: usize,
    flushing: Cell<bool>,
}

impl<D: Disk> PagedIndex<D> {
    /// Opens the index in `folder`; `snapshot` is the checkpoint's part, none for an empty index
    /// that the log fills again.
    ///
    /// # Errors
    /// `IndexOpenError`: where `is_damage`, the caller may open again without a snapshot.
    pub async fn open(
        disk: D,
        folder: &str,
        options: PagedOptions,
        snapshot: Option<&[u8]>,
    ) -> Result<Self, IndexOpenError> {
        let (index, end) = match snapshot {
            None => (QueueIndex::new(options.limits), 0),
            Some(mut bytes) => {
                let end = bytes
                    .try_get_u64_le()
                    .map_err(|_| SnapshotError::Malformed)?;
                (QueueIndex::restore(bytes, options.limits)?, end)
            }
        };
        let files = PageFiles::open(
            disk.clone(),
            folder,
            options.file_bytes,
            end,
            index.places(),
        )
        .await?;
        Ok(Self {
            disk,
            index: RefCell::new(index),
            files,
            flush_bytes: options.flush_bytes.clamp(1, UNWRITTEN_BYTES_FLUSH),
            unwritten_bytes_max: options.unwritten_bytes_max,
            flushing: Cell::new(false),
        })
    }

    /// What was lost before this was opened; see `PageFiles::damage`.
    pub fn damage(&self) -> Option<PageFileError> {
        self.files.damage()
    }

    /// The index, to ask what memory can answer. Not to be held across an await.
    pub fn index(&self) -> Ref<'_, QueueIndex> {
        self.index.borrow()
    }

    /// The index, to append to or to change. Not to be held across an await.
    pub fn index_mut(&self) -> RefMut<'_, QueueIndex> {
        self.index.borrow_mut()
    }

    /// Adds up to `entries_max` entries from `from` on to `out` and returns how many; loads pages
    /// as needed, so that at least one entry comes back for every offset inside the queue.
    ///
    /// # Errors
    /// As reading a page.
    pub async fn lookup(
        &self,
        key: QueueKey,
        from: QueueOffset,
        entries_max: usize,
        out: &mut Vec<IndexEntry>,
    ) -> Result<usize, PageFileError> {
        loop {
            let answer = self.index.borrow().lookup_hot(key, from, entries_max, out);
            let pages = match answer {
                Lookup::Entries(count) => return Ok(count),
                Lookup::NeedsPages(pages) => pages,
            };
            let mut loaded = Vec::with_capacity(pages.len());
            for wanted in pages {
                match self.read(wanted).await {
                    Ok(page) => loaded.extend(page.map(|page| (wanted.id, page))),
                    Err(error) if loaded.is_empty() => return Err(error),
                    // What lies before can be given.
                    Err(_) => break,
                }
            }
            // Given back in one go: nothing can evict them before the next turn of the loop.
            let mut index = self.index.borrow_mut();
            for (id, page) in loaded {
                index.page_loaded(id, page);
            }
        }
    }

    /// Reads a page; `None` if nobody asks for it any more, because retention was quicker.
    async fn read(&self, wanted: PageWanted) -> Result<Option<Page>, PageFileError> {
        let mut read = self.files.read(wanted).await;
        if read.as_ref().is_err_and(PageFileError::is_damage) {
            // A read may be wrong once.
            read = self.files.read(wanted).await;
        }
        match read {
            Err(_) if !self.index.borrow().wants(&wanted) => Ok(None),
            read => read.map(Some),
        }
    }

    /// The entry at `offset`; `None` outside the queue.
    ///
    /// # Errors
    /// As reading a page.
    pub async fn entry(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<IndexEntry>, PageFileError> {
        if let Some(entry) = self.index.borrow().entry_hot(key, offset) {
            return Ok(Some(entry));
        }
        let mut out = Vec::with_capacity(1);
        self.lookup(key, offset, 1, &mut out).await?;
        Ok(out.first().copied())
    }

    /// `QueueIndex::search_by_time`, loading the page it needs.
    ///
    /// # Errors
    /// As reading a page.
    pub async fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Result<QueueOffset, PageFileError> {
        self.search(|index| index.search_by_time(key, time, boundary))
            .await
    }

    /// `QueueIndex::search_by_position`, loading the pages it needs.
    ///
    /// # Errors
    /// As reading a page.
    pub async fn search_by_position(
        &self,
        key: QueueKey,
        position: FilePosition,
    ) -> Result<QueueOffset, PageFileError> {
        self.search(|index| index.search_by_position(key, position))
            .await
    }

    async fn search(
        &self,
        ask: impl Fn(&QueueIndex) -> Search,
    ) -> Result<QueueOffset, PageFileError> {
        loop {
            let answer = ask(&self.index.borrow());
            match answer {
                Search::At(offset) => return Ok(offset),
                Search::NeedsPage(wanted) => {
                    if let Some(page) = self.read(wanted).await? {
                        self.index.borrow_mut().page_loaded(wanted.id, page);
                    }
                }
            }
        }
    }

    /// Completes short pages of queues without an append since `before`, and of others when all
    /// that are being filled hold too much memory, and writes them as they become enough for it, so
    /// that few wait at once; says how many. What can't be written now stays in memory.
    pub async fn put_to_sleep(&self, before: StoreTimestamp) -> usize {
        let tired = self.index.borrow().tired(before);
        for keys in tired.chunks(SLEEP_SLICE) {
            self.index.borrow_mut().complete_pages(keys, before);
            if self.needs_flush() && self.flush().await.is_err() {
                // The next flush says why.
                break;
            }
            self.disk.yield_now().await;
        }
        tired.len()
    }

    /// Whether any queue has a page that is being filled.
    pub fn has_hot(&self) -> bool {
        self.index.borrow().has_hot()
    }

    /// Whether `put_to_sleep` should run because of memory.
    pub fn is_hot_full(&self) -> bool {
        self.index.borrow().is_hot_full()
    }

    /// Whether enough complete pages wait that `flush` should run.
    pub fn needs_flush(&self) -> bool {
        self.index.borrow().unwritten_bytes() >= self.flush_bytes && !self.flushing.get()
    }

    /// Whether so many complete pages wait that nothing should be added until some are written.
    #[inline]
    pub fn is_overdue(&self) -> bool {
        self.index.borrow().unwritten_bytes() > self.unwritten_bytes_max
    }

    /// Writes complete pages to the device in batches until none waits. Nothing is lost when it
    /// fails or never runs: the pages stay in memory and go into snapshots.
    ///
    /// # Errors
    /// As the device says.
    pub async fn flush(&self) -> Result<(), PageFileError> {
        if self.flushing.replace(true) {
            return Ok(());
        }
        let result = self.flush_batches().await;
        self.flushing.set(false);
        result
    }

    async fn flush_batches(&self) -> Result<(), PageFileError> {
        loop {
            let batch = self.index.borrow().unwritten_batch(UNWRITTEN_BYTES_FLUSH);
            if batch.is_empty() {
                return Ok(());
            }
            let written = self.files.write(&batch).await?;
            self.index.borrow_mut().pages_written(written);
            self.count_freed();
        }
    }

    fn count_freed(&self) {
        let freed = self.index.borrow_mut().take_freed();
        self.files.freed(&freed);
    }

    /// The index's part of a checkpoint at the log position *staged when this is called*. It may
    /// become the checkpoint only when everything staged when this *returns* is committed, because
    /// entries appended meanwhile can be inside. Yields while it runs.
    pub async fn snapshot(&self) -> PagedSnapshot {
        self.count_freed();
        let unneeded_files = self.files.take_retired();
        let mut cursor = self.index.borrow().snapshot_begin();
        loop {
            let more = self
                .index
                .borrow()
                .snapshot_step(&mut cursor, SNAPSHOT_SLICE_BYTES);
            if !more {
                break;
            }
            self.disk.yield_now().await;
        }
        // Taken last: every place inside that is of the file being filled lies before it.
        let mut bytes = Vec::with_capacity(cursor.bytes() + 16);
        bytes.put_u64_le(self.files.end());
        bytes.extend_from_slice(&cursor.finish());
        PagedSnapshot {
            bytes,
            unneeded_files,
        }
    }

    /// To be called when the checkpoint with this snapshot is durable: removes files nothing needs.
    ///
    /// # Errors
    /// As the device says; the files are then removed after the next checkpoint.
    pub async fn checkpoint_durable(&self, unneeded_files: &[u64]) -> Result<(), PageFileError> {
        self.files.remove(unneeded_files).await
    }

    /// To be called when the checkpoint with this snapshot could not be written: the next one lets
    /// the files go.
    pub fn checkpoint_failed(&self, unneeded_files: &[u64]) {
        self.files.give_back(unneeded_files);
    }
}
