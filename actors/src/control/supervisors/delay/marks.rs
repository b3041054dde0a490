//! How far the supervisor of delayed messages has come, in the tables.
//!
//! **Owns** the spelling of the marks and of recalled messages.
//! **Lives on** the control plane's thread (reading at start) and a blocking thread (commits).
//! **Invariants** all marks travel in one commit, and each is true of the log as it is on the
//! device: a mark that ran ahead of the log would lose messages in a power cut, one that lags only
//! has some delivered again. Pending records have no rows: the log's index is their table.
//! **Limits** a row for each queue of parked records, and one for each recalled message until its
//! time has passed.
//! **Not here** when marks are taken (`keeper`).

use std::collections::HashMap;

use gantry_storage::tables::{Batch, Namespace, Tables, TablesError};
use gantry_storage::units::{PhysicalOffset, QueueId, QueueKey, QueueOffset, TopicId};

use crate::seam::owed::OwedRow;

/// Key of the time; never change one of these.
const DONE: &[u8] = b"done";
/// First byte of a queue's key; topic and queue follow.
const QUEUE: u8 = b'q';
/// First byte of a recalled message's key; its physical offset follows. The value is its due time
/// and when it was recalled; of rows of earlier versions the due time alone.
const RECALLED: u8 = b'r';

/// One queue's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueMark {
    /// Which.
    pub key: QueueKey,
    /// Rows before this offset are done if they were due by `Marks::done_ms`.
    pub next: QueueOffset,
    /// Nothing pending lies before this.
    pub floor: Option<PhysicalOffset>,
}

/// All marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// What was due by then is done, as far as `QueueMark::next`.
    pub done_ms: u64,
    /// The queues.
    pub queues: Vec<QueueMark>,
}

/// A parked record that isn't to be delivered any more: recalled, or parked again elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recalled {
    /// When it was due.
    pub due_ms: u64,
    /// When that was said. A power cut may take the record and leave this row, and then another
    /// record, stored later, lies in its place.
    pub at_ms: u64,
}

impl Recalled {
    /// Whether it speaks of this record, which lies in that place.
    pub fn is_of(&self, row: &OwedRow) -> bool {
        self.due_ms == row.time_ms && row.store_ms <= self.at_ms
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Stored {
    /// The marks.
    pub marks: Marks,
    /// Recalled messages by physical offset.
    pub recalled: HashMap<u64, Recalled>,
}

fn queue_key(key: QueueKey) -> Vec<u8> {
    let mut bytes = vec![QUEUE];
    bytes.extend_from_slice(&key.topic.0.to_be_bytes());
    bytes.extend_from_slice(&key.queue.0.to_be_bytes());
    bytes
}

fn recalled_key(physical: u64) -> Vec<u8> {
    let mut bytes = vec![RECALLED];
    bytes.extend_from_slice(&physical.to_be_bytes());
    bytes
}

fn recalled_of(value: &[u8]) -> Option<Recalled> {
    let (due_ms, at_ms) = value.split_first_chunk::<8>()?;
    let at_ms = match at_ms {
        [] => u64::MAX,
        at_ms => number(at_ms)?,
    };
    Some(Recalled {
        due_ms: u64::from_be_bytes(*due_ms),
        at_ms,
    })
}

fn queue_mark(key: &[u8], value: &[u8]) -> Option<QueueMark> {
    let (topic, rest) = key.split_first_chunk::<4>()?;
    let queue = <[u8; 2]>::try_from(rest).ok()?;
    let (next, floor) = value.split_first_chunk::<8>()?;
    let floor = match floor {
        [] => None,
        floor => Some(PhysicalOffset(number(floor)?)),
    };
    Some(QueueMark {
        key: QueueKey {
            topic: TopicId(u32::from_be_bytes(*topic)),
            queue: QueueId(u16::from_be_bytes(queue)),
        },
        next: QueueOffset(u64::from_be_bytes(*next)),
        floor,
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Reads the rows. A row that can't be read is as if it weren't there: more of the log is read.
///
/// # Errors
/// The store fails.
pub fn load(tables: &Tables) -> Result<Stored, TablesError> {
    let mut stored = Stored::default();
    for (key, value) in tables.all(Namespace::Timers)? {
        match key.split_first() {
            _ if key == DONE => stored.marks.done_ms = number(&value).unwrap_or(0),
            Some((&QUEUE, rest)) => stored.marks.queues.extend(queue_mark(rest, &value)),
            Some((&RECALLED, rest)) => {
                stored
                    .recalled
                    .extend(number(rest).zip(recalled_of(&value)));
            }
            _ => {}
        }
    }
    Ok(stored)
}

fn put_queues(batch: &mut Batch, queues: &[QueueMark]) {
    for mark in queues {
        let mut value = mark.next.0.to_be_bytes().to_vec();
        if let Some(floor) = mark.floor {
            value.extend_from_slice(&floor.0.to_be_bytes());
        }
        batch.put(Namespace::Timers, queue_key(mark.key), value);
    }
}

/// Stores the marks of these queues alone.
///
/// # Errors
/// The store fails.
pub fn store_queues(tables: &Tables, queues: &[QueueMark]) -> Result<(), TablesError> {
    if queues.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    put_queues(&mut batch, queues);
    tables.commit(&batch)
}

/// Stores the marks and forgets recalled messages whose time has passed.
///
/// # Errors
/// The store fails.
pub fn store(tables: &Tables, marks: &Marks, forget: &[u64]) -> Result<(), TablesError> {
    let mut batch = Batch::new();
    batch.put(Namespace::Timers, DONE, marks.done_ms.to_be_bytes());
    put_queues(&mut batch, &marks.queues);
    for physical in forget {
        batch.delete(Namespace::Timers, recalled_key(*physical));
    }
    tables.commit(&batch)
}

/// Stores that the records at these physical offsets won't be delivered.
///
/// # Errors
/// The store fails.
pub fn store_recalled(tables: &Tables, recalled: &[(u64, Recalled)]) -> Result<(), TablesError> {
    let mut batch = Batch::new();
    for (physical, recalled) in recalled {
        let value = [recalled.due_ms, recalled.at_ms].map(u64::to_be_bytes);
        let key = recalled_key(*physical);
        batch.put(Namespace::Timers, key, value.as_flattened());
    }
    tables.commit(&batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let tables = Tables::open(folder.path()).unwrap();
        let mark = |queue, floor| QueueMark {
            key: QueueKey::new(7, queue),
            next: QueueOffset(u64::from(queue) + 9),
            floor,
        };
        let marks = Marks {
            done_ms: 55,
            queues: vec![mark(0, None), mark(1, Some(PhysicalOffset(3)))],
        };
        let recalled = |due_ms, at_ms| Recalled { due_ms, at_ms };
        store_recalled(&tables, &[(4, recalled(44, 1)), (5, recalled(55, 2))]).unwrap();
        // As earlier versions wrote them.
        let mut batch = Batch::new();
        batch.put(Namespace::Timers, recalled_key(6), 66_u64.to_be_bytes());
        tables.commit(&batch).unwrap();
        store(&tables, &marks, &[4]).unwrap();
        let stored = load(&tables).unwrap();
        assert_eq!(stored.marks, marks);
        let left = [(5, recalled(55, 2)), (6, recalled(66, u64::MAX))];
        assert_eq!(stored.recalled, HashMap::from(left));
    }
}
