//! Positions on their way into the tables.
//!
//! **Owns** the newest position of each row that isn't stored yet, and the rows under way.
//! **Lives on** the control plane's thread; pure.
//! **Invariants** one commit at a time, so no older position comes behind a newer one; of one row
//! the last position counts; what could not be stored waits again; of a deleted topic nothing is
//! stored behind its deletion; a row that can never be stored is not taken, for it would let every
//! commit fail.
//! **Limits** one entry for each row there is.
//! **Not here** when and how they are stored (`super`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use gantry_storage::units::{QueueKey, QueueOffset, TopicId};

use crate::control::ledger::OFFSET_GROUP_BYTES_MAX;
use crate::seam::OffsetChange;

/// See the module.
#[derive(Debug, Default)]
pub struct WriteBehind {
    /// None: the position is to be forgotten.
    waiting: HashMap<(QueueKey, Arc<str>), Option<QueueOffset>>,
    under_way: Option<Arc<Vec<OffsetChange>>>,
    /// Topics deleted since the commit under way began.
    gone: Vec<TopicId>,
}

impl WriteBehind {
    /// Adds rows.
    pub fn add(&mut self, rows: Vec<OffsetChange>) {
        for row in rows {
            let bytes = row.group.len();
            if bytes > OFFSET_GROUP_BYTES_MAX {
                tracing::warn!(
                    topic = %row.queue.topic,
                    queue = %row.queue.queue,
                    "a position is not stored: its group's name has {bytes} bytes, \
                     {OFFSET_GROUP_BYTES_MAX} are allowed"
                );
                continue;
            }
            self.waiting.insert((row.queue, row.group), row.offset);
        }
    }

    /// Forgets a topic's rows. False while some of them may be under way: they are to be dropped
    /// when that has ended.
    pub fn forget(&mut self, topic: TopicId) -> bool {
        self.waiting.retain(|(queue, _), _| queue.topic != topic);
        if self.under_way.is_some() {
            self.gone.push(topic);
        }
        self.under_way.is_none()
    }

    /// How many wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// The rows of the next commit, if there are some and none is under way.
    pub fn begin(&mut self) -> Option<Arc<Vec<OffsetChange>>> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        let rows = Arc::new(self.take_waiting());
        self.under_way = Some(Arc::clone(&rows));
        Some(rows)
    }

    /// The commit has ended. The topics whose rows are to be dropped now.
    pub fn ended(&mut self, is_stored: bool) -> Vec<TopicId> {
        let gone = std::mem::take(&mut self.gone);
        let rows = self.under_way.take().unwrap_or_default();
        let lost = rows
            .iter()
            .filter(|row| !is_stored && !gone.contains(&row.queue.topic));
        for row in lost {
            let key = (row.queue, Arc::clone(&row.group));
            if let Entry::Vacant(place) = self.waiting.entry(key) {
                place.insert(row.offset);
            }
        }
        gone
    }

    /// Gives up what waits, and the topics whose rows are to be dropped.
    pub fn take_all(&mut self) -> (Vec<OffsetChange>, Vec<TopicId>) {
        self.under_way = None;
        (self.take_waiting(), std::mem::take(&mut self.gone))
    }

    fn take_waiting(&mut self) -> Vec<OffsetChange> {
        let rows = std::mem::take(&mut self.waiting).into_iter();
        let rows = rows.map(|((queue, group), offset)| OffsetChange {
            queue,
            group,
            offset,
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ledger::Ledger;

    fn row(topic: u32, group: &str, offset: Option<u64>) -> OffsetChange {
        OffsetChange {
            queue: QueueKey::new(topic, 0),
            group: Arc::from(group),
            offset: offset.map(QueueOffset),
        }
    }

    /// Topics and offsets of the next commit, sorted.
    fn begun(behind: &mut WriteBehind) -> Option<Vec<(u32, Option<u64>)>> {
        let rows = behind.begin()?;
        let mut rows: Vec<_> = rows
            .iter()
            .map(|row| (row.queue.topic.0, row.offset.map(|offset| offset.0)))
            .collect();
        rows.sort_unstable();
        Some(rows)
    }

    #[test]
    fn a_commit_waits_for_the_one_under_way() {
        let mut behind = WriteBehind::default();
        assert_eq!(begun(&mut behind), None);
        behind.add(vec![row(1, "g", Some(7)), row(1, "g", Some(8))]);
        assert_eq!(begun(&mut behind), Some(vec![(1, Some(8))]));
        behind.add(vec![row(1, "g", None)]);
        assert_eq!(begun(&mut behind), None);
        assert!(behind.ended(true).is_empty());
        assert_eq!(begun(&mut behind), Some(vec![(1, None)]));
        behind.ended(true);
        assert_eq!((begun(&mut behind), behind.waiting_count()), (None, 0));
    }

    #[test]
    fn what_could_not_be_stored_waits_again_below_newer_positions() {
        let mut behind = WriteBehind::default();
        behind.add(vec![row(1, "g", Some(7)), row(2, "g", Some(70))]);
        assert!(behind.begin().is_some());
        behind.add(vec![row(1, "g", Some(8))]);
        behind.ended(false);
        assert_eq!(begun(&mut behind), Some(vec![(1, Some(8)), (2, Some(70))]));
    }

    #[test]
    fn of_a_deleted_topic_nothing_comes_back() {
        let mut behind = WriteBehind::default();
        behind.add(vec![row(1, "g", Some(7)), row(2, "g", Some(70))]);
        assert!(behind.forget(TopicId(1)), "to be dropped at once");
        assert_eq!(begun(&mut behind), Some(vec![(2, Some(70))]));
        assert!(!behind.forget(TopicId(2)), "its row may be on its way");
        assert_eq!(behind.ended(false), [TopicId(2)]);
        assert_eq!(begun(&mut behind), None);
    }

    #[test]
    fn what_can_never_be_stored_does_not_wait() {
        let mut behind = WriteBehind::default();
        let longest = "g".repeat(OFFSET_GROUP_BYTES_MAX);
        let rows = [longest.clone(), format!("{longest}g")];
        behind.add(rows.iter().map(|group| row(1, group, Some(1))).collect());
        assert_eq!(behind.waiting_count(), 1);
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        assert_eq!(ledger.store_offsets(&behind.begin().unwrap()), Ok(()));
    }
}
