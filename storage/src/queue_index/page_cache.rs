//! Written pages kept in memory, least useful first out.
//!
//! **Owns** the pages that may be dropped at any time because the device has them.
//! **Lives on** one data core.
//! **Invariants** bytes never exceed the bound after an insert (but `PAGES_KEPT_MIN` pages stay);
//! they count what a page takes in the tables here, too: short ones take more there than elsewhere.
//! **Limits** the bound given at creation.
//! **Not here** pages the device does not have yet (`QueueIndex::unwritten`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

use super::PageId;
use crate::index_pages::Page;

/// Pages kept whatever the bound says, so that one lookup's pages always fit.
const PAGES_KEPT_MIN: usize = 2 * super::PAGES_WANTED_MAX;

/// What a page takes besides itself: a place in a table (in the mean 5/8 full) and in the clock's
/// row, and what the allocator adds.
const PAGE_PLACE_BYTES: usize = 112;

/// A page and whether it was used since the clock's hand last passed.
#[derive(Debug)]
struct Kept {
    page: Rc<Page>,
    used: Cell<bool>,
}

/// Second-chance cache over pages.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    pages: HashMap<PageId, Kept>,
    clock: VecDeque<PageId>,
    bytes: usize,
    bytes_max: usize,
}

impl PageCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, id: PageId) -> Option<&Page> {
        let kept = self.pages.get(&id)?;
        kept.used.set(true);
        Some(&kept.page)
    }

    pub(super) fn insert(&mut self, id: PageId, page: Rc<Page>) {
        self.bytes += bytes_of(&page);
        match self.pages.insert(
            id,
            Kept {
                page,
                used: Cell::new(true),
            },
        ) {
            Some(old) => self.bytes = self.bytes.saturating_sub(bytes_of(&old.page)),
            None => self.clock.push_back(id),
        }
        self.evict();
    }

    pub(super) fn remove(&mut self, id: PageId) {
        if let Some(old) = self.pages.remove(&id) {
            self.bytes = self.bytes.saturating_sub(bytes_of(&old.page));
            // A dropped topic may leave many dead names: sweep once they are the majority.
            if self.clock.len() > 2 * self.pages.len() + PAGES_KEPT_MIN {
                self.clock.retain(|id| self.pages.contains_key(id));
            }
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max && self.pages.len() > PAGES_KEPT_MIN {
            let Some(id) = self.clock.pop_front() else {
                break;
            };
            let Some(kept) = self.pages.get(&id) else {
                continue;
            };
            if kept.used.replace(false) {
                self.clock.push_back(id);
            } else if let Some(old) = self.pages.remove(&id) {
                self.bytes = self.bytes.saturating_sub(bytes_of(&old.page));
            }
        }
    }
}

fn bytes_of(page: &Page) -> usize {
    page.memory_bytes() + PAGE_PLACE_BYTES
}
