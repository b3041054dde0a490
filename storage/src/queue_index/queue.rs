//! One queue of the index: bounds, page directory and hot page.
//!
//! **Owns** the order of a queue's pages and the clamping of its store times.
//! **Lives on** one data core.
//! **Invariants** directory pages are consecutive: each ends where the next begins, the last where
//! the hot page begins, the hot page at `next`; at most the first page reaches below `min`.
//! **Limits** the struct is at most `QUEUE_STRUCT_BYTES_MAX`; a sleeping queue holds nothing else
//! but its directory.
//! **Not here** pages that are not hot (`QueueIndex`).

use smallvec::SmallVec;

use super::page_ref::{PagePlace, PageRef};
use crate::index_pages::{IndexEntry, Page};
use crate::units::QueueOffset;

/// With 8 bytes of key and 1 of hash, in a table 7/16 to 7/8 full, a sleeping queue of one page
/// costs 93 to 185 bytes and no allocation of its own.
const QUEUE_STRUCT_BYTES_MAX: usize = 72;
const _: () = assert!(size_of::<Queue>() <= QUEUE_STRUCT_BYTES_MAX);

/// Where an offset is.
pub(super) enum Found<'a> {
    /// In the hot page.
    Hot(&'a Page),
    /// In this complete page.
    Cold(PageRef),
    /// Outside the queue.
    Nothing,
}

/// One queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) min: u64,
    pub(super) next: u64,
    /// Store time of the last entry, which the next one may not undercut.
    pub(super) last_time: u64,
    /// The directory; most queues never have a second page.
    pub(super) pages: SmallVec<[PageRef; 1]>,
    /// Entries that no directory page has; never empty. Boxed, for most queues have none.
    pub(super) hot: Option<Box<Page>>,
    /// Offsets given out beyond `next`: their records may not be acknowledged yet.
    pub(super) ahead: u32,
}

impl Queue {
    /// Appends at `next`; gives back the page this completed, if any.
    #[inline]
    pub(super) fn push(&mut self, mut entry: IndexEntry) -> Option<Page> {
        entry.store_time.0 = entry.store_time.0.max(self.last_time);
        self.last_time = entry.store_time.0;
        let mut completed = None;
        let taken = self.hot.as_mut().is_some_and(|hot| hot.push(&entry));
        if !taken {
            completed = self.seal();
            let mut fresh = Box::new(Page::new(QueueOffset(self.next), false));
            let taken = fresh.push(&entry);
            debug_assert!(taken, "an empty page takes any entry");
            self.hot = Some(fresh);
        }
        self.next += 1;
        self.ahead = self.ahead.saturating_sub(1);
        completed
    }

    /// Completes the hot page.
    #[cold]
    pub(super) fn seal(&mut self) -> Option<Page> {
        let mut page = *self.hot.take()?;
        page.shrink();
        self.pages
            .push(PageRef::new(page.first_offset(), page.first_time(), None));
        Some(page)
    }

    /// The byte behind which the next entry goes, whichever it is: to have it in the caches.
    pub(super) fn hot_end(&self) -> u64 {
        let last = self.hot.as_ref().and_then(|hot| hot.last_byte());
        u64::from(last.unwrap_or(0))
    }

    /// Memory of the hot page.
    pub(super) fn hot_bytes(&self) -> usize {
        self.hot.as_ref().map_or(0, |hot| hot.memory_bytes())
    }

    /// Offset at which the hot page begins and the directory ends.
    pub(super) fn hot_start(&self) -> u64 {
        self.hot
            .as_ref()
            .map_or(self.next, |hot| hot.first_offset().0)
    }

    /// The page that holds `offset`.
    pub(super) fn find(&self, offset: u64) -> Found<'_> {
        if offset >= self.next {
            return Found::Nothing;
        }
        if let Some(hot) = &self.hot
            && offset >= hot.first_offset().0
        {
            return Found::Hot(hot);
        }
        let after = self
            .pages
            .partition_point(|page| page.first_offset().0 <= offset);
        match after.checked_sub(1).and_then(|at| self.pages.get(at)) {
            Some(page) => Found::Cold(*page),
            None => Found::Nothing,
        }
    }

    /// Complete pages from the one that holds `offset` on.
    pub(super) fn cold_pages_from(&self, offset: u64) -> impl Iterator<Item = PageRef> + '_ {
        let after = self
            .pages
            .partition_point(|page| page.first_offset().0 <= offset);
        let pages = self.pages.get(after.saturating_sub(1)..);
        pages.unwrap_or_default().iter().copied()
    }

    fn position_of(&self, first: QueueOffset) -> Option<usize> {
        self.pages
            .binary_search_by_key(&first, |page| page.first_offset())
            .ok()
    }

    /// The complete page that begins at `first`.
    pub(super) fn page(&self, first: QueueOffset) -> Option<PageRef> {
        self.position_of(first)
            .and_then(|at| self.pages.get(at))
            .copied()
    }

    pub(super) fn has_page(&self, first: QueueOffset) -> bool {
        self.page(first).is_some()
    }

    /// Records where the page that begins at `first` lies; false when it is gone.
    pub(super) fn set_place(&mut self, first: QueueOffset, place: PagePlace) -> bool {
        match self
            .position_of(first)
            .and_then(|at| self.pages.get_mut(at))
        {
            Some(page) => {
                *page = page.placed(place);
                true
            }
            None => false,
        }
    }

    /// Raises `min`; gives back the pages wholly below it.
    pub(super) fn set_min(&mut self, min: u64) -> Vec<PageRef> {
        self.min = min.clamp(self.min, self.next.max(self.min));
        if self.min == self.next {
            self.hot = None;
        }
        // A page ends where the next one begins.
        let begun = self
            .pages
            .partition_point(|page| page.first_offset().0 <= self.min);
        let all_over = self.hot_start() <= self.min;
        let over = if all_over {
            begun
        } else {
            begun.saturating_sub(1)
        };
        self.pages.drain(..over).collect()
    }
}
