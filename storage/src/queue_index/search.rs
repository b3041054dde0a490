//! Searches within one queue by something that never decreases: store time, log position.
//!
//! **Owns** the meaning of lower and upper boundary (`RocketMQ`'s search offset by timestamp).
//! **Lives on** one data core.
//! **Invariants** O(log n) in the queue's entries: the directory first, then one page; a search by
//! position may ask for O(log pages) pages, one at a time.
//! **Limits** none.
//! **Not here** loading the pages asked for (`paged`).

use super::page_ref::PageRef;
use super::queue::Queue;
use super::{PageId, PageWanted, QueueIndex};
use crate::index_pages::Page;
use crate::units::{Boundary, FilePosition, QueueKey, QueueOffset, StoreTimestamp};

/// The outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The offset.
    At(QueueOffset),
    /// This page must be in memory first.
    NeedsPage(PageWanted),
}

impl QueueIndex {
    /// `Lower`: the smallest offset stored at or after `time`; before the first the queue's min,
    /// after the last its next. `Upper`: the largest offset stored at or before `time`; before the
    /// first its min, after the last the last. An empty queue answers its next.
    pub fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Search {
        let Some(queue) = self.queues.get(&key) else {
            return Search::At(QueueOffset(0));
        };
        if queue.min >= queue.next {
            return Search::At(QueueOffset(queue.next));
        }
        let before = |stored: StoreTimestamp| {
            #[cfg(test)]
            super::tests::LOOKED_AT.set(super::tests::LOOKED_AT.get() + 1);
            match boundary {
                Boundary::Lower => stored < time,
                Boundary::Upper => stored <= time,
            }
        };
        // The first entry for which `before` is false is in the last page that begins with
        // `before`, or right after it.
        let found = if let Some(hot) = &queue.hot
            && before(hot.first_time())
        {
            first_false(hot, |entry| before(entry.store_time))
        } else {
            let pages = queue
                .pages
                .partition_point(|page| before(page.first_time()));
            match pages.checked_sub(1).and_then(|at| queue.pages.get(at)) {
                None => queue.min,
                Some(page_ref) => match self.page_of(key, *page_ref) {
                    Ok(page) => first_false(page, |entry| before(entry.store_time)),
                    Err(wanted) => return Search::NeedsPage(wanted),
                },
            }
        };
        let offset = match boundary {
            Boundary::Lower => found,
            Boundary::Upper => found.saturating_sub(1),
        };
        Search::At(QueueOffset(offset.max(queue.min)))
    }

    /// The smallest offset whose record lies at or after `position`; the queue's next when none
    /// does.
    pub fn search_by_position(&self, key: QueueKey, position: FilePosition) -> Search {
        let Some(queue) = self.queues.get(&key) else {
            return Search::At(QueueOffset(0));
        };
        if let Some(hot) = &queue.hot
            && hot.entry(0).is_some_and(|first| first.position < position)
        {
            let found = first_false(hot, |entry| entry.position < position);
            return Search::At(QueueOffset(found.max(queue.min)));
        }
        match self.search_pages_by_position(key, queue, position) {
            Ok(found) => Search::At(QueueOffset(found.max(queue.min))),
            Err(wanted) => Search::NeedsPage(wanted),
        }
    }

    fn search_pages_by_position(
        &self,
        key: QueueKey,
        queue: &Queue,
        position: FilePosition,
    ) -> Result<u64, PageWanted> {
        let (mut low, mut high) = (0, queue.pages.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let Some(page_ref) = queue.pages.get(middle) else {
                break;
            };
            let page = self.page_of(key, *page_ref)?;
            if page.entry(0).is_some_and(|entry| entry.position < position) {
                let found = first_false(page, |entry| entry.position < position);
                if found < page.end_offset().0 {
                    return Ok(found);
                }
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(queue
            .pages
            .get(low)
            .map_or(queue.hot_start(), |page| page.first_offset().0))
    }

    fn page_of(&self, key: QueueKey, page_ref: PageRef) -> Result<&Page, PageWanted> {
        let id = PageId {
            key,
            first_offset: page_ref.first_offset(),
        };
        if let Some(page) = self.resident(id) {
            return Ok(page);
        }
        let place = page_ref.place();
        Err(PageWanted { id, place })
    }
}

/// Offset of the first entry of `page` for which `before` is false; its end when there is none.
fn first_false(page: &Page, before: impl Fn(&super::IndexEntry) -> bool) -> u64 {
    page.first_offset().0 + page.partition_point(before) as u64
}
