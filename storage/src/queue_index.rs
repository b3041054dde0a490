//! The queue index of one shard: queue offset to place, size, tags code and store time.
//!
//! **Owns** every queue's bounds, hot page and page directory, and the pages kept in memory.
//! **Lives on** one data core; synchronous, never touches the device.
//! **Invariants** entries are appended densely and only at `next`; store times within a queue never
//! decrease (clamped); a page leaves memory only after it was written (`pages_written`).
//! **Limits** `IndexLimits`; offsets below 2^48 per queue, 16 bytes of directory per page.
//! **Not here** reading and writing pages (`paged`), their layout (`index_pages`).

#[cfg(test)]
mod memory_tests;
mod page_cache;
mod page_ref;
pub mod paged;
mod queue;
mod search;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;
use thiserror::Error;

pub use crate::index_pages::{IndexEntry, Page, PageError};
pub(crate) use page_ref::PLACES_END_BYTE;
pub use page_ref::PagePlace;
pub use search::Search;
pub use snapshot::{SnapshotCursor, SnapshotError};

use crate::units::{QueueBounds, QueueKey, QueueOffset, StoreTimestamp};
use page_cache::PageCache;
use queue::{Found, Queue};

/// Default bound of written pages kept in memory: 4,096 full pages, 800,000 entries.
pub const RESIDENT_BYTES_DEFAULT: usize = 16 << 20;
/// Default bound of pages being filled: 10,000 busy queues with 80 entries each.
pub const HOT_BYTES_DEFAULT: usize = 16 << 20;
/// Complete pages waiting for the device are written once they reach this many bytes.
pub const UNWRITTEN_BYTES_FLUSH: usize = 256 << 10;
/// Complete pages that may wait for the device, by default; beyond it a store takes no records:
/// 3.3 million entries, many times what the log behind a checkpoint fills.
pub const UNWRITTEN_BYTES_MAX: usize = 64 << 20;
/// Most pages one lookup asks for: `RocketMQ` examines at most 800 entries per pull by default,
/// that is 5 full pages; short pages are fetched in further rounds.
pub const PAGES_WANTED_MAX: usize = 8;
/// Entries one queue's directory can address (48 bits).
pub const OFFSET_MAX: u64 = (1 << 48) - 1;

/// Bounds of the index's memory.
#[derive(Clone, Copy, Debug)]
pub struct IndexLimits {
    /// Bytes of written pages kept in memory; at least `PAGES_WANTED_MAX` pages are kept whatever
    /// it says.
    pub resident_bytes_max: usize,
    /// Bytes of pages that are being filled; beyond it `tired` names those to complete early. What
    /// they hold is also what a checkpoint must repeat each time.
    pub hot_bytes_max: usize,
}

impl Default for IndexLimits {
    fn default() -> Self {
        Self {
            resident_bytes_max: RESIDENT_BYTES_DEFAULT,
            hot_bytes_max: HOT_BYTES_DEFAULT,
        }
    }
}

/// Names a page: its queue and its first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// The queue.
    pub key: QueueKey,
    /// The page's first offset.
    pub first_offset: QueueOffset,
}

/// A page that must be read from the device before a question can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWanted {
    /// Which page.
    pub id: PageId,
    /// Where it lies; a page without a place is in memory, so that none is asked for.
    pub place: Option<PagePlace>,
}

/// The pages a lookup lacks, at most `PAGES_WANTED_MAX`.
pub type PagesWanted = Vec<PageWanted>;

/// The outcome of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// This many entries were added to the output, consecutive from the offset asked for; fewer
    /// than asked when the queue or the pages in memory end. Zero only outside `min..next`.
    Entries(usize),
    /// The page of the first offset is not in memory: load these, call `page_loaded`, ask again.
    NeedsPages(PagesWanted),
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexAppendError {
    /// The offset is beyond the queue's next: entries between are missing.
    #[error(
        "queue {}/{} is at offset {next}, entry {found} would leave a gap",
        .key.topic, .key.queue
    )]
    Gap {
        /// The queue.
        key: QueueKey,
        /// The offset expected.
        next: QueueOffset,
        /// The offset given.
        found: QueueOffset,
    },
    /// The queue has as many entries as its directory can address.
    #[error("queue {}/{} is full: no offset above 2^48", .key.topic, .key.queue)]
    Full {
        /// The queue.
        key: QueueKey,
    },
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The entry is in the index.
    Yes,
    /// The index had this offset already (replay after a checkpoint).
    Known,
}

/// The index of one shard.
#[derive(Debug, Default)]
pub struct QueueIndex {
    queues: HashMap<QueueKey, Queue>,
    /// Complete pages the device does not have yet; never evicted.
    unwritten: HashMap<PageId, Rc<Page>>,
    unwritten_order: VecDeque<PageId>,
    unwritten_bytes: usize,
    /// Memory of hot pages.
    hot_bytes: usize,
    hot_bytes_max: usize,
    cache: PageCache,
    /// Pages whose last entry is older are not kept once they are written: their queues sleep.
    kept_from: StoreTimestamp,
    /// Places no queue refers to any more, for the page files to count down.
    freed: Vec<PagePlace>,
}

impl QueueIndex {
    /// An empty index.
    pub fn new(limits: IndexLimits) -> Self {
        Self {
            cache: PageCache::new(limits.resident_bytes_max),
            hot_bytes_max: limits.hot_bytes_max,
            ..Self::default()
        }
    }

    /// The offset the next record of `key` gets, after those `assign` has given out; 0 for a queue
    /// never used.
    pub fn next_offset(&self, key: QueueKey) -> QueueOffset {
        let next = |queue: &Queue| queue.next.saturating_add(u64::from(queue.ahead));
        QueueOffset(self.queues.get(&key).map_or(0, next))
    }

    /// Brings what `assign` and `append` will look at into the processor's caches. One queue after
    /// the other, each would wait for memory by itself; here the waits of many overlap.
    pub fn touch(&self, keys: impl Iterator<Item = QueueKey>) {
        let queues = keys.filter_map(|key| self.queues.get(&key));
        let seen = queues.fold(0, |seen, queue| seen ^ queue.next ^ queue.hot_end());
        std::hint::black_box(seen);
    }

    /// Gives `next_offset` out: the entry follows with `append`, in this order.
    pub fn assign(&mut self, key: QueueKey) -> QueueOffset {
        let queue = self.queues.entry(key).or_default();
        let offset = queue.next.saturating_add(u64::from(queue.ahead));
        queue.ahead = queue.ahead.saturating_add(1);
        QueueOffset(offset)
    }

    /// Appends the entry of the record at `offset`. A store time below its predecessor's is raised
    /// to it.
    ///
    /// # Errors
    /// `Gap` when `offset` is beyond the queue's next, `Full` at 2^48 entries.
    #[inline]
    pub fn append(
        &mut self,
        key: QueueKey,
        offset: QueueOffset,
        entry: IndexEntry,
    ) -> Result<Added, IndexAppendError> {
        let queue = self.queues.entry(key).or_default();
        if offset.0 != queue.next {
            if offset.0 < queue.next {
                return Ok(Added::Known);
            }
            return Err(IndexAppendError::Gap {
                key,
                next: QueueOffset(queue.next),
                found: offset,
            });
        }
        if offset.0 >= OFFSET_MAX {
            return Err(IndexAppendError::Full { key });
        }
        let hot_bytes = queue.hot_bytes();
        let completed = queue.push(entry);
        self.hot_bytes = (self.hot_bytes + queue.hot_bytes()).saturating_sub(hot_bytes);
        if let Some(page) = completed {
            self.keep_unwritten(key, page);
        }
        Ok(Added::Yes)
    }

    /// Where the entries of a restored or replicated queue begin when its earlier records are gone:
    /// an unknown queue starts at `offset` instead of 0, an empty one at `offset` if that is
    /// further on. A queue with entries is left alone.
    pub fn begin_at(&mut self, key: QueueKey, offset: QueueOffset) {
        let queue = self.queues.entry(key).or_default();
        let is_empty = queue.min >= queue.next;
        if is_empty && offset.0 > queue.next {
            queue.min = offset.0;
            queue.next = offset.0;
        }
    }

    #[cold]
    fn keep_unwritten(&mut self, key: QueueKey, page: Page) {
        let id = PageId {
            key,
            first_offset: page.first_offset(),
        };
        self.unwritten_bytes += page.memory_bytes();
        self.unwritten.insert(id, Rc::new(page));
        self.unwritten_order.push_back(id);
    }

    /// First and next offset of `key`; `None` for a queue never used.
    pub fn bounds(&self, key: QueueKey) -> Option<QueueBounds> {
        let queue = self.queues.get(&key)?;
        Some(QueueBounds {
            min: QueueOffset(queue.min),
            max: QueueOffset(queue.next),
        })
    }

    /// Every queue with its bounds, in no particular order.
    pub fn queues(&self) -> impl Iterator<Item = (QueueKey, QueueBounds)> + '_ {
        self.queues.iter().map(|(key, queue)| {
            (
                *key,
                QueueBounds {
                    min: QueueOffset(queue.min),
                    max: QueueOffset(queue.next),
                },
            )
        })
    }

    /// Number of queues.
    pub fn queues_count(&self) -> usize {
        self.queues.len()
    }

    /// Adds up to `entries_max` entries from offset `from` on to `out`, as far as they are in
    /// memory.
    pub fn lookup_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        entries_max: usize,
        out: &mut Vec<IndexEntry>,
    ) -> Lookup {
        let Some(queue) = self.queues.get(&key) else {
            return Lookup::Entries(0);
        };
        if from.0 < queue.min || from.0 >= queue.next {
            return Lookup::Entries(0);
        }
        let (mut at, mut added) = (from.0, 0);
        while added < entries_max && at < queue.next {
            let end = match queue.find(at) {
                Found::Hot(page) => take(page, at, entries_max - added, out),
                Found::Cold(page_ref) => {
                    let id = PageId {
                        key,
                        first_offset: page_ref.first_offset(),
                    };
                    match self.resident(id) {
                        Some(page) => take(page, at, entries_max - added, out),
                        None if added > 0 => break,
                        None => {
                            return Lookup::NeedsPages(self.missing(key, queue, at, entries_max));
                        }
                    }
                }
                Found::Nothing => break,
            };
            if end == 0 {
                break;
            }
            at += end as u64;
            added += end;
        }
        Lookup::Entries(added)
    }

    /// The entry at `offset`, if its page is in memory.
    pub fn entry_hot(&self, key: QueueKey, offset: QueueOffset) -> Option<IndexEntry> {
        let queue = self.queues.get(&key)?;
        if offset.0 < queue.min {
            return None;
        }
        let page = match queue.find(offset.0) {
            Found::Hot(page) => page,
            Found::Cold(page_ref) => self.resident(PageId {
                key,
                first_offset: page_ref.first_offset(),
            })?,
            Found::Nothing => return None,
        };
        page.entry(index_in(page, offset.0)?)
    }

    fn resident(&self, id: PageId) -> Option<&Page> {
        match self.unwritten.get(&id) {
            Some(page) => Some(page),
            None => self.cache.get(id),
        }
    }

    #[cold]
    fn missing(&self, key: QueueKey, queue: &Queue, from: u64, entries_max: usize) -> PagesWanted {
        let end = from.saturating_add(entries_max as u64);
        queue
            .cold_pages_from(from)
            .take_while(|page_ref| page_ref.first_offset().0 < end)
            .map(|page_ref| PageWanted {
                id: PageId {
                    key,
                    first_offset: page_ref.first_offset(),
                },
                place: page_ref.place(),
            })
            .filter(|wanted| self.resident(wanted.id).is_none())
            .take(PAGES_WANTED_MAX)
            .collect()
    }

    /// Whether a page is still asked for, and still at that place.
    pub(crate) fn wants(&self, wanted: &PageWanted) -> bool {
        let queue = self.queues.get(&wanted.id.key);
        let page = queue.and_then(|queue| queue.page(wanted.id.first_offset));
        page.is_some_and(|page| page.place() == wanted.place)
    }

    /// Gives the index a page it asked for; evicts others beyond the memory bound.
    pub fn page_loaded(&mut self, id: PageId, page: Page) {
        if self
            .queues
            .get(&id.key)
            .is_some_and(|queue| queue.has_page(id.first_offset))
        {
            self.cache.insert(id, Rc::new(page));
        }
    }

    /// Bytes of complete pages the device does not have yet.
    pub fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }

    /// Bytes of written pages kept in memory.
    pub fn resident_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// The oldest unwritten pages, about `bytes_max` of them (at least one if there is any). They
    /// stay readable; hand them back with `pages_written` once they are on the device and synced.
    pub fn unwritten_batch(&self, bytes_max: usize) -> Vec<(PageId, Rc<Page>)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for id in &self.unwritten_order {
            let Some(page) = self.unwritten.get(id) else {
                continue;
            };
            bytes += page.encoded_bytes();
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            batch.push((*id, Rc::clone(page)));
        }
        batch
    }

    /// Records where pages of a batch now lie; from here on they may leave memory.
    pub fn pages_written(&mut self, written: impl IntoIterator<Item = (PageId, PagePlace)>) {
        for (id, place) in written {
            let Some(page) = self.unwritten.remove(&id) else {
                self.freed.push(place);
                continue;
            };
            self.unwritten_bytes = self.unwritten_bytes.saturating_sub(page.memory_bytes());
            let queue = self.queues.get_mut(&id.key);
            if !queue.is_some_and(|queue| queue.set_place(id.first_offset, place)) {
                self.freed.push(place);
            } else if page.last_time() >= self.kept_from {
                self.cache.insert(id, page);
            }
        }
        while self
            .unwritten_order
            .front()
            .is_some_and(|id| !self.unwritten.contains_key(id))
        {
            self.unwritten_order.pop_front();
        }
    }

    /// Whether any queue has a page that is being filled.
    pub fn has_hot(&self) -> bool {
        self.hot_bytes > 0
    }

    /// Whether pages being filled hold more memory than they may.
    pub fn is_hot_full(&self) -> bool {
        self.hot_bytes > self.hot_bytes_max
    }

    /// Queues whose hot pages are to be completed although they are short: those without an append
    /// since `before`, so that an idle queue keeps only its table row, and, when all of them hold
    /// too much, those of at least half the average size: the others hold less than half of it all.
    /// Sorted: their pages are written in this order, and equal histories write equal files.
    pub fn tired(&self, before: StoreTimestamp) -> Vec<QueueKey> {
        let hot = || self.queues.iter().filter(|(_, queue)| queue.hot.is_some());
        let large = if self.is_hot_full() {
            self.hot_bytes / hot().count().max(1) / 2
        } else {
            usize::MAX
        };
        let mut keys: Vec<QueueKey> = hot()
            .filter(|(_, queue)| queue.last_time < before.0 || queue.hot_bytes() >= large)
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Completes the hot pages of these queues, of which those without an append since `before`
    /// sleep from now on: a sleeping queue keeps its table row and nothing else.
    pub fn complete_pages(&mut self, keys: &[QueueKey], before: StoreTimestamp) {
        self.kept_from = before;
        for key in keys {
            let Some(queue) = self.queues.get_mut(key) else {
                continue;
            };
            let hot_bytes = queue.hot_bytes();
            if let Some(page) = queue.seal() {
                self.hot_bytes = self.hot_bytes.saturating_sub(hot_bytes);
                self.keep_unwritten(*key, page);
            }
        }
    }

    /// Raises the first offset of `key` (retention); pages wholly below it are forgotten. Never
    /// lowers it and never passes the queue's next.
    pub fn set_min(&mut self, key: QueueKey, min: QueueOffset) {
        let Some(queue) = self.queues.get_mut(&key) else {
            return;
        };
        let hot_bytes = queue.hot_bytes();
        let dropped = queue.set_min(min.0);
        self.hot_bytes = (self.hot_bytes + queue.hot_bytes()).saturating_sub(hot_bytes);
        for page_ref in dropped {
            self.forget(key, page_ref);
        }
    }

    /// Forgets every queue of `topic`.
    pub fn drop_topic(&mut self, topic: crate::units::TopicId) {
        let keys: Vec<QueueKey> = self
            .queues
            .keys()
            .filter(|key| key.topic == topic)
            .copied()
            .collect();
        for key in keys {
            if let Some(queue) = self.queues.remove(&key) {
                self.hot_bytes = self.hot_bytes.saturating_sub(queue.hot_bytes());
                for page_ref in queue.pages {
                    self.forget(key, page_ref);
                }
            }
        }
    }

    fn forget(&mut self, key: QueueKey, page_ref: page_ref::PageRef) {
        let id = PageId {
            key,
            first_offset: page_ref.first_offset(),
        };
        if let Some(page) = self.unwritten.remove(&id) {
            self.unwritten_bytes = self.unwritten_bytes.saturating_sub(page.memory_bytes());
        }
        self.cache.remove(id);
        self.freed.extend(page_ref.place());
    }

    /// Places no queue refers to any more since the last call.
    pub fn take_freed(&mut self) -> Vec<PagePlace> {
        std::mem::take(&mut self.freed)
    }

    /// Places in use, for the page files to count at start.
    pub fn places(&self) -> impl Iterator<Item = PagePlace> + '_ {
        self.queues
            .values()
            .flat_map(|queue| queue.pages.iter().filter_map(|page| page.place()))
    }
}

/// Index within `page` of the entry at `offset`.
fn index_in(page: &Page, offset: u64) -> Option<usize> {
    usize::try_from(offset.checked_sub(page.first_offset().0)?).ok()
}

/// Adds up to `count` entries of `page` from `offset` on to `out`; returns how many.
fn take(page: &Page, offset: u64, count: usize, out: &mut Vec<IndexEntry>) -> usize {
    let Some(skip) = index_in(page, offset) else {
        return 0;
    };
    let before = out.len();
    out.extend(page.iter_from(skip).take(count));
    out.len() - before
}
