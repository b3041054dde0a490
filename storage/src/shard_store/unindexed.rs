//! Records that are not yet in the indexes, because they may not be acknowledged yet.
//!
//! **Owns** what the indexes will be told of them.
//! **Lives on** the shard's core.
//! **Invariants** in log order; each record's hashes lie in the order of the records.
//! **Limits** as many as the ring has room for.
//! **Not here** when they may be acknowledged (`log`), the indexes.

use std::collections::VecDeque;

use crate::queue_index::IndexEntry;
use crate::units::{FilePosition, QueueKey, QueueOffset, TopicId};

/// One record. Plain words, hashes apart: it is put together where it stays. A record that carried
/// its hashes was copied right after it was written, which had to wait until the stores into the
/// ring before it were through: 60 ns, half of an append.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Its queue.
    pub key: QueueKey,
    /// Its offset there.
    pub offset: QueueOffset,
    /// What the queue index will have of it.
    pub entry: IndexEntry,
    hashes_count: u32,
}

impl Record {
    fn end(&self) -> FilePosition {
        self.entry.position.plus(u64::from(self.entry.length))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unindexed {
    records: VecDeque<Record>,
    hashes: VecDeque<u64>,
}

impl Unindexed {
    /// Adds a record behind the others.
    #[inline]
    pub fn push(&mut self, key: QueueKey, offset: QueueOffset, entry: IndexEntry, hashes: &[u64]) {
        // One or two: no loop for many.
        for hash in hashes {
            self.hashes.push_back(*hash);
        }
        self.records.push_back(Record {
            key,
            offset,
            entry,
            hashes_count: u32::try_from(hashes.len()).unwrap_or(0),
        });
    }

    /// Whether the first record ends at or before `acknowledged`.
    pub fn has_until(&self, acknowledged: FilePosition) -> bool {
        let first = self.records.front();
        first.is_some_and(|first| first.end() <= acknowledged)
    }

    /// Takes the first record if it ends at or before `acknowledged`; with it its hashes.
    pub fn pop_until(&mut self, acknowledged: FilePosition) -> Option<(Record, Hashes<'_>)> {
        if !self.has_until(acknowledged) {
            return None;
        }
        let record = self.records.pop_front()?;
        let hashes = Hashes {
            all: &mut self.hashes,
            left: record.hashes_count,
        };
        Some((record, hashes))
    }

    /// Forgets the records of a topic.
    pub fn drop_topic(&mut self, topic: TopicId) {
        let mut hashes = std::mem::take(&mut self.hashes).into_iter();
        self.records.retain(|record| {
            let own = hashes.by_ref().take(record.hashes_count as usize);
            let stays = record.key.topic != topic;
            if stays {
                self.hashes.extend(own);
            } else {
                own.for_each(drop);
            }
            stays
        });
    }
}

/// The hashes of a record that was taken, to be taken.
pub(super) struct Hashes<'a> {
    all: &'a mut VecDeque<u64>,
    left: u32,
}

impl Iterator for Hashes<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.all.pop_front()
    }
}

impl Drop for Hashes<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(all: &mut Unindexed, topic: u32, position: u64, hashes: &[u64]) {
        let entry = IndexEntry {
            position: FilePosition(position),
            length: 10,
            ..IndexEntry::default()
        };
        all.push(QueueKey::new(topic, 0), QueueOffset(0), entry, hashes);
    }

    #[test]
    fn each_record_has_its_own_hashes() {
        let mut all = Unindexed::default();
        push(&mut all, 1, 0, &[1, 2, 3]);
        push(&mut all, 2, 10, &[4]);
        push(&mut all, 1, 20, &[]);
        push(&mut all, 3, 30, &[5, 6]);
        assert!(!all.has_until(FilePosition(9)));
        assert!(all.pop_until(FilePosition(9)).is_none());
        // Not all of the first one's are looked at.
        let (first, mut hashes) = all.pop_until(FilePosition(10)).unwrap();
        assert_eq!((first.key.topic, hashes.next()), (TopicId(1), Some(1)));
        drop(hashes);
        all.drop_topic(TopicId(2));
        let mut left = Vec::new();
        while let Some((record, hashes)) = all.pop_until(FilePosition(40)) {
            left.push((record.key.topic.0, hashes.collect::<Vec<_>>()));
        }
        assert_eq!(left, [(1, vec![]), (3, vec![5, 6])]);
    }
}
