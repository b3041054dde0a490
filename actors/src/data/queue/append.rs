//! Storing a message: from a checked request to staged records.
//!
//! **Owns** the step from an [`Append`] to `QueueStore::append`, and what the producer is told of
//! it.
//! **Lives on** the queue's data core.
//! **Invariants** the elements of a batch get consecutive offsets; a batch interrupted by a full
//! tail goes on where it stopped, before anything else of its queue. Nothing is acknowledged from
//! here.
//! **Limits** [`INDEXED_KEYS_MAX`] keys a message are indexed, further ones are not.
//! **Not here** checks and property rewriting (`data::requests::send`), when an answer may leave
//! (`shard::acks`).

use std::net::SocketAddr;

use bytes::Bytes;
use gantry_runtime::metrics::Front;
use gantry_storage::address;
use gantry_storage::error::AppendError;
use gantry_storage::key_index::key_hash;
use gantry_storage::shard_store::{Appended, NewRecord};
use gantry_storage::units::{
    FilePosition, PhysicalOffset, QueueKey, QueueOffset, StoreTimestamp, TopicId,
};

use super::asker::Asker;
use super::store::QueueStore;
use crate::data::words::{Append, KeyHashes, Marks, Part, TransactionStep};

/// Most keys of one message that are indexed, its unique key included.
pub const INDEXED_KEYS_MAX: usize = 64;

/// What every record of this broker carries.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The advertised address.
    pub store_host: SocketAddr,
    /// Now, as of this tick.
    pub now: StoreTimestamp,
    /// `messageIndexEnable`.
    pub index_keys: bool,
}

/// A message being stored; of a batch, what is stored so far.
#[derive(Debug)]
pub struct Pending {
    /// Who asked.
    pub asker: Asker,
    /// What.
    pub append: Append,
    /// When its shard took it, µs.
    pub arrived_us: u64,
    stored: Vec<Appended>,
}

/// What the producer will be told, once it may be.
#[derive(Debug)]
pub struct Ack {
    /// Who asked.
    pub asker: Asker,
    /// The queue the producer is shown: the one it meant.
    pub queue_id: u16,
    /// The first message's offset.
    pub offset: QueueOffset,
    /// The first message's physical offset.
    pub physical: PhysicalOffset,
    /// The message's unique key; none for a batch.
    pub unique_key: Option<Bytes>,
    /// End of its bytes in the log.
    pub end: FilePosition,
    /// The producer doesn't want to wait for the flush.
    pub no_wait: bool,
    /// What few have: all are moved from hand to hand, and are short without it.
    pub rare: Option<Box<RareAck>>,
    /// Where it is.
    pub key: QueueKey,
    /// How long it took so far, if that is recorded.
    pub times: SendTimes,
}

/// What most producers are not told.
#[derive(Debug)]
pub struct RareAck {
    /// Physical offsets of the further messages of a batch.
    pub further: Vec<PhysicalOffset>,
    /// `recallHandle` of the reply.
    pub recall: Option<Box<str>>,
}

impl RareAck {
    fn kept(self) -> Option<Box<Self>> {
        let has_some = self.recall.is_some() || !self.further.is_empty();
        has_some.then(|| Box::new(self))
    }
}

/// The stages of a send until its record is sealed.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendTimes {
    /// Until its turn.
    pub front: Front,
    /// `Stage::Append`, µs.
    pub append_us: u32,
    /// When its record was sealed, µs.
    pub stored_us: u64,
}

impl Ack {
    /// See [`RareAck::further`].
    pub fn further(&self) -> &[PhysicalOffset] {
        self.rare.as_ref().map_or(&[], |rare| &rare.further)
    }

    /// See [`RareAck::recall`].
    pub fn recall(&self) -> Option<&str> {
        self.rare.as_ref()?.recall.as_deref()
    }

    /// Bytes of its records in the log; of a batch that was interrupted by a full tail, with the
    /// few bytes between its runs.
    pub fn stored_bytes(&self) -> u64 {
        address::locate(self.physical).map_or(0, |(_, begin)| self.end.since(begin))
    }
}

impl Pending {
    /// A message that waits to be stored.
    #[inline]
    pub fn new(asker: Asker, append: Append, arrived_us: u64) -> Self {
        Self {
            asker,
            append,
            arrived_us,
            stored: Vec::new(),
        }
    }

    /// Whether part of it is in the log already.
    pub fn is_partly_stored(&self) -> bool {
        !self.stored.is_empty()
    }

    fn is_half(&self) -> bool {
        let step = self.append.step();
        matches!(
            step,
            Some(TransactionStep::Half { .. } | TransactionStep::Moved { .. })
        )
    }

    /// Whether it is what a decided half became.
    pub fn ends_a_transaction(&self) -> bool {
        let step = self.append.step();
        matches!(step, Some(TransactionStep::Ending { .. }))
    }

    /// If something is owed for it, fixes when, and puts that time in the tags code's place.
    pub fn mark_owed(&mut self, now_ms: impl Fn() -> u64) -> Option<u64> {
        let owed = self.append.owed()?;
        let time_ms = owed.time_ms(now_ms());
        self.append.marks.tags_code = i64::try_from(time_ms).unwrap_or(i64::MAX);
        Some(time_ms)
    }

    /// Stores it, or the rest of it, and adds what its producer will be told to `acks`. Afterwards
    /// it has no properties any more.
    ///
    /// # Errors
    /// As the store says; after `TailFull` the same call goes on.
    pub fn store<S: QueueStore>(
        &mut self,
        store: &S,
        key: QueueKey,
        stamp: &Stamp,
        acks: &mut Vec<Ack>,
    ) -> Result<(), AppendError> {
        if self.append.elements().is_empty() {
            let append = &self.append;
            // A half is found by no key: only what it becomes is (trap 81).
            let hashes = if stamp.index_keys && !self.is_half() {
                marked_hashes(key.topic, &append.properties, &append.marks)
            } else {
                KeyHashes::new()
            };
            let appended = store.append(&NewRecord {
                key_hashes: &hashes,
                ..record_of(append, key, stamp)
            })?;
            acks.push(self.ack(key, appended, Vec::new()));
            return Ok(());
        }
        self.store_elements(store, key, stamp)?;
        let stored = std::mem::take(&mut self.stored);
        let mut all = stored.into_iter();
        // A batch without elements is refused before it comes here.
        let Some(first) = all.next() else {
            return Err(AppendError::Closed);
        };
        let mut end = first.end;
        let further = all.map(|next| {
            end = end.max(next.end);
            next.physical
        });
        let further = further.collect();
        acks.push(self.ack(key, Appended { end, ..first }, further));
        Ok(())
    }

    fn store_elements<S: QueueStore>(
        &mut self,
        store: &S,
        key: QueueKey,
        stamp: &Stamp,
    ) -> Result<(), AppendError> {
        let append = &self.append;
        self.stored.reserve_exact(append.elements().len());
        let template = record_of(append, key, stamp);
        for element in append.elements().iter().skip(self.stored.len()) {
            let stored = store.append(&NewRecord {
                flag: element.flag,
                body: element.body.of(&append.body),
                body_crc: element.body_crc,
                properties: element.properties.of(&append.body),
                tags_code: element.tags_code,
                key_hashes: &element.key_hashes,
                ..template
            })?;
            self.stored.push(stored);
        }
        Ok(())
    }

    #[inline]
    fn ack(&mut self, key: QueueKey, first: Appended, further: Vec<PhysicalOffset>) -> Ack {
        let append = &mut self.append;
        // The record has the properties; whoever is told of it needs no more than the key.
        let properties = std::mem::take(&mut append.properties);
        let unique = append.marks.unique_key;
        let unique = unique.filter(|_| append.elements().is_empty());
        let rare = append.rare.as_deref();
        let recall = rare.and_then(|rare| rare.recall.clone());
        let rare_ack = RareAck { further, recall };
        Ack {
            asker: self.asker.clone(),
            queue_id: rare
                .and_then(|rare| rare.shown_queue)
                .unwrap_or(key.queue.0),
            offset: first.queue_offset,
            physical: first.physical,
            rare: rare_ack.kept(),
            unique_key: unique.and_then(|part| part.cut_out(properties)),
            end: first.end,
            no_wait: append.marks.no_wait,
            key,
            times: SendTimes::default(),
        }
    }
}

impl Ack {
    /// The place of its first message.
    pub fn appended(&self, store_timestamp: StoreTimestamp) -> Appended {
        Appended {
            queue_offset: self.offset,
            physical: self.physical,
            end: self.end,
            store_timestamp,
        }
    }
}

/// The record of a single message, without its keys.
fn record_of<'a>(append: &'a Append, key: QueueKey, stamp: &Stamp) -> NewRecord<'a> {
    NewRecord {
        key,
        topic: &append.topic.config.name,
        flag: append.flag,
        sys_flag: append.sys_flag,
        born_timestamp: append.born_ms,
        born_host: append.born_host,
        store_timestamp: Some(stamp.now),
        store_host: stamp.store_host,
        reconsume_times: append.reconsume_times,
        prepared_offset: append.rare.as_ref().map_or(0, |rare| rare.prepared_offset),
        body: &append.body,
        body_crc: append.body_crc,
        properties: &append.properties,
        tags_code: append.marks.tags_code,
        key_hashes: &[],
    }
}

fn marked_hashes(topic: TopicId, properties: &[u8], marks: &Marks) -> KeyHashes {
    let value = |part: Option<Part>| Some(part?.of(properties));
    key_hashes(topic, value(marks.unique_key), value(marks.keys))
}

/// Hashes of the unique key and of every word of `KEYS`.
pub fn key_hashes(topic: TopicId, unique: Option<&[u8]>, keys: Option<&[u8]>) -> KeyHashes {
    let words = keys
        .into_iter()
        .flat_map(|keys| keys.split(|byte| *byte == b' '));
    let all = unique.into_iter().chain(words);
    let all = all.filter(|word| !word.is_empty());
    all.take(INDEXED_KEYS_MAX)
        .map(|word| key_hash(topic, word))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_key_and_every_word_are_indexed() {
        let properties = b"UNIQ_KEY\x01U1\x02KEYS\x01a  b\x02";
        let marks = Marks {
            unique_key: Some(Part::new(9, 2)),
            keys: Some(Part::new(17, 4)),
            ..Marks::default()
        };
        let topic = TopicId(5);
        let hashes = ["U1", "a", "b"].map(|word| key_hash(topic, word.as_bytes()));
        assert_eq!(marked_hashes(topic, properties, &marks).as_slice(), hashes);
        let wrong = Marks {
            keys: Some(Part::new(17, 82)),
            ..Marks::default()
        };
        assert!(marked_hashes(topic, properties, &wrong).is_empty());
    }
}
