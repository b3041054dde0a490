//! One queue of the index: bounds, page directory and hot page.
//!
//! **Owns** the order of a queue's pages and the clamping of its store times.
//! **Lives on** one data core.
//! **Invariants** directory pages are consecutive: each ends where the next begins, the last where
//! the hot page begins, the hot page at `next`; at most the first page reaches below `min`.
//! **Limits** the struct is at most `QUEUE_STRUCT_BYTES_MAX`; a sleeping queue holds nothing else
//! but its directory.
//! **Not here** pages that are not hot (`QueueIndex`).

use std::collections::VecDeque;

use super::page_ref::{PagePlace, PageRef};
use crate::index_pages::{IndexEntry, Page};
use crate::units::QueueOffset;

/// With 8 bytes of key and 1 of hash, in a table 7/16 to 7/8 full, and a directory of 4 lines, an
/// idle queue costs 212 to 359 bytes, 275 in a table of 10,000; just after the table doubled it is
/// the most.
const QUEUE_STRUCT_BYTES_MAX: usize = 120;
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
    pub(super) pages: VecDeque<PageRef>,
    pub(super) hot: Page,
}

impl Queue {
    /// Appends at `next`; gives back the page this completed, if any.
    #[inline]
    pub(super) fn push(&mut self, mut entry: IndexEntry) -> Option<Page> {
        entry.store_time.0 = entry.store_time.0.max(self.last_time);
        self.last_time = entry.store_time.0;
        if self.hot.is_empty() {
            self.hot = Page::new(QueueOffset(self.next), self.hot.is_wide());
        }
        let mut completed = None;
        if !self.hot.push(&entry) {
            completed = self.seal();
            if !self.hot.push(&entry) {
                debug_assert!(false, "an empty page takes any entry");
            }
        }
        self.next += 1;
        completed
    }

    /// Completes the hot page; a new empty one begins at its end.
    #[cold]
    pub(super) fn seal(&mut self) -> Option<Page> {
        if self.hot.is_empty() {
            return None;
        }
        let fresh = Page::new(self.hot.end_offset(), self.hot.is_wide());
        let mut page = std::mem::replace(&mut self.hot, fresh);
        page.shrink();
        self.pages
            .push_back(PageRef::new(page.first_offset(), page.first_time(), None));
        Some(page)
    }

    pub(super) fn has_hot_entries(&self) -> bool {
        !self.hot.is_empty()
    }

    /// Offset at which the hot page begins and the directory ends.
    pub(super) fn hot_start(&self) -> u64 {
        if self.hot.is_empty() {
            self.next
        } else {
            self.hot.first_offset().0
        }
    }

    /// The page that holds `offset`.
    pub(super) fn find(&self, offset: u64) -> Found<'_> {
        if offset >= self.next {
            return Found::Nothing;
        }
        if offset >= self.hot_start() {
            return Found::Hot(&self.hot);
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
        self.pages.range(after.saturating_sub(1)..).copied()
    }

    fn position_of(&self, first: QueueOffset) -> Option<usize> {
        self.pages
            .binary_search_by_key(&first, |page| page.first_offset())
            .ok()
    }

    pub(super) fn has_page(&self, first: QueueOffset) -> bool {
        self.position_of(first).is_some()
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
            self.hot = Page::new(QueueOffset(self.next), self.hot.is_wide());
        }
        let mut dropped = Vec::new();
        loop {
            let end = self
                .pages
                .get(1)
                .map_or(self.hot_start(), |page| page.first_offset().0);
            if end > self.min {
                break;
            }
            match self.pages.pop_front() {
                Some(page) => dropped.push(page),
                None => break,
            }
        }
        dropped
    }
}
