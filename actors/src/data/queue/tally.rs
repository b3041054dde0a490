//! What a queue stored and delivered since it was last asked.
//!
//! **Owns** one queue's counts: messages stored, messages delivered by group.
//! **Lives on** the queue's data core, inside its actor: plain additions, no lock, no atomic.
//! **Invariants** a count is handed over exactly once; between two harvests each group has one row.
//! **Limits** [`GROUPS_MAX`](super::offsets::GROUPS_MAX) rows, for a group without a position isn't
//! delivered to; a harvest empties it.
//! **Not here** windows and rates (`control::admin::stats`), who harvests (`shard::ticks`).

use std::sync::Arc;

use crate::seam::{GroupCount, TopicCount};
use gantry_storage::units::TopicId;

use super::offsets::GROUPS_MAX;

/// One queue's counts; see the room's head.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    bytes: u64,
    requests: u64,
    groups: Vec<GroupCount>,
}

/// What one pull took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Got {
    /// Messages.
    pub count: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Time spent reading, ms.
    pub read_ms: u64,
}

impl Tally {
    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.groups.is_empty()
    }

    /// A request was stored.
    pub fn put(&mut self, count: u64, bytes: u64) {
        self.count += count;
        self.bytes += bytes;
        self.requests += 1;
    }

    /// A pull was answered with messages. Few groups read one queue, so the rows are searched.
    pub fn got(&mut self, topic: TopicId, group: &Arc<str>, got: Got) {
        let is_it = |row: &&mut GroupCount| Arc::ptr_eq(&row.group, group) || row.group == *group;
        if let Some(row) = self.groups.iter_mut().find(is_it) {
            row.count += got.count;
            row.bytes += got.bytes;
            row.requests += 1;
            row.read_ms += got.read_ms;
        } else if self.groups.len() < GROUPS_MAX {
            self.groups.push(GroupCount {
                topic,
                group: Arc::clone(group),
                count: got.count,
                bytes: got.bytes,
                requests: 1,
                read_ms: got.read_ms,
            });
        }
    }

    /// Hands everything over.
    pub fn harvest(
        &mut self,
        topic: TopicId,
        topics: &mut Vec<TopicCount>,
        groups: &mut Vec<GroupCount>,
    ) {
        let Self {
            count,
            bytes,
            requests,
            groups: mine,
        } = std::mem::take(self);
        if requests > 0 {
            topics.push(TopicCount {
                topic,
                count,
                bytes,
                requests,
            });
        }
        groups.extend(mine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_handed_over_once() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        tally.put(3, 300);
        tally.put(1, 100);
        let group: Arc<str> = Arc::from("g");
        let got = |count| Got {
            count,
            bytes: count * 100,
            read_ms: 2,
        };
        tally.got(TopicId(7), &group, got(2));
        tally.got(TopicId(7), &Arc::from("g"), got(1));
        tally.got(TopicId(7), &Arc::from("h"), got(4));
        let (mut topics, mut groups) = (Vec::new(), Vec::new());
        tally.harvest(TopicId(7), &mut topics, &mut groups);
        let stored = (topics[0].count, topics[0].bytes, topics[0].requests);
        assert_eq!((topics.len(), stored), (1, (4, 400, 2)));
        let delivered: Vec<_> = groups
            .iter()
            .map(|row| (&*row.group, row.count, row.bytes, row.requests, row.read_ms))
            .collect();
        assert_eq!(delivered, [("g", 3, 300, 2, 4), ("h", 4, 400, 1, 2)]);
        assert!(tally.is_empty());
        tally.harvest(TopicId(7), &mut topics, &mut groups);
        assert_eq!((topics.len(), groups.len()), (1, 2));
    }
}
