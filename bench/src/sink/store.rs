//! What the sink keeps, and the ways in which it can be told to spoil it.
//!
//! **Owns** the records of each queue, or only their number.
//! **Lives on** the sink's executor.
//! **Invariants** queue offsets are dense whatever is spoilt, so that only the stamps of the
//! messages can tell.
//! **Limits** [`STORE_BYTES_MAX`] of records.
//! **Not here** requests (`sink`).

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use gantry_protocol::error::RecordError;
use gantry_protocol::message::{EncodedRecord, RecordParts, RecordView, body_crc};
use gantry_protocol::request::send::SendHeader;

use crate::args::SinkArgs;

/// Records kept: the sink is for short tests.
pub const STORE_BYTES_MAX: usize = 1 << 30;

/// One message to store.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its request.
    pub header: &'a SendHeader<'a>,
    /// Its properties.
    pub properties: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

#[derive(Debug, Default)]
struct Queue {
    count: i64,
    records: Vec<Bytes>,
    /// A record that is to come behind the next one.
    held: Option<Vec<u8>>,
}

impl Queue {
    /// Appends a record; its offset is known only now. The bytes kept for it.
    fn push(&mut self, mut record: Vec<u8>) -> Result<usize, RecordError> {
        RecordView::patch_queue_offset(&mut record, self.count)?;
        let bytes = record.len();
        self.records.push(record.into());
        self.count += 1;
        Ok(bytes)
    }
}

/// All queues.
#[derive(Debug)]
pub struct Store {
    addr: SocketAddr,
    args: SinkArgs,
    topics: HashMap<String, HashMap<i32, Queue>>,
    bytes: usize,
    sends: u64,
    messages: u64,
}

/// Whether the n-th of something is one of every `every`.
fn is_due(every: Option<u64>, n: u64) -> bool {
    every.is_some_and(|every| every > 0 && n.is_multiple_of(every))
}

impl Store {
    /// An empty one.
    pub fn new(addr: SocketAddr, args: SinkArgs) -> Self {
        Self {
            addr,
            args,
            topics: HashMap::new(),
            bytes: 0,
            sends: 0,
            messages: 0,
        }
    }

    /// Whether sends are only counted: nothing is kept, refused or spoilt.
    pub fn only_counts(&self) -> bool {
        let args = &self.args;
        !args.keep && args.refuse_every.is_none() && args.lose_every.is_none()
    }

    /// Counts a message of a queue.
    pub fn count_one(&mut self, topic: &str, queue_id: i32) {
        if let Some(queues) = self.topics.get_mut(topic) {
            queues.entry(queue_id).or_default().count += 1;
        } else {
            let queue = Queue {
                count: 1,
                ..Queue::default()
            };
            let queues = HashMap::from([(queue_id, queue)]);
            self.topics.insert(topic.to_owned(), queues);
        }
    }

    /// Whether the next send is refused: asked for, or no room.
    pub fn refuses(&mut self) -> bool {
        self.sends += 1;
        is_due(self.args.refuse_every, self.sends) || self.bytes > STORE_BYTES_MAX
    }

    /// Appends a message, or does with it what the sink was told to; the offset to answer with.
    ///
    /// # Errors
    /// A record that can't be encoded.
    pub fn append(&mut self, message: &Message<'_>) -> Result<i64, RecordError> {
        self.messages += 1;
        let number = self.messages;
        let header = message.header;
        if !self.topics.contains_key(header.topic) {
            self.topics.insert(header.topic.to_owned(), HashMap::new());
        }
        let Some(topic) = self.topics.get_mut(header.topic) else {
            return Ok(0);
        };
        let queue = topic.entry(header.queue_id).or_default();
        let answered = queue.count;
        if is_due(self.args.lose_every, number) {
            return Ok(answered);
        }
        if !self.args.keep {
            queue.count += 1;
            return Ok(answered);
        }
        let mut body = message.body.to_vec();
        if let Some(byte) = body
            .first_mut()
            .filter(|_| is_due(self.args.damage_every, number))
        {
            *byte ^= 1;
        }
        let record = encoded(self.addr, message, &body)?;
        if is_due(self.args.swap_every, number) && queue.held.is_none() {
            queue.held = Some(record);
            return Ok(answered);
        }
        if is_due(self.args.repeat_every, number) {
            self.bytes += queue.push(record.clone())?;
        }
        self.bytes += queue.push(record)?;
        if let Some(held) = queue.held.take() {
            self.bytes += queue.push(held)?;
        }
        Ok(answered)
    }

    /// Stores what is still held back: whoever asks for the end of a queue waits for nothing more.
    ///
    /// # Errors
    /// None that a record of ours can give.
    pub fn release(&mut self, topic: &str, queue_id: i32) -> Result<(), RecordError> {
        let queue = self
            .topics
            .get_mut(topic)
            .and_then(|t| t.get_mut(&queue_id));
        if let Some(queue) = queue
            && let Some(held) = queue.held.take()
        {
            self.bytes += queue.push(held)?;
        }
        Ok(())
    }

    /// Messages of a queue.
    pub fn count(&self, topic: &str, queue_id: i32) -> i64 {
        let queue = self.topics.get(topic).and_then(|t| t.get(&queue_id));
        queue.map_or(0, |queue| queue.count)
    }

    /// Records from an offset on, at least one if there is one.
    pub fn records(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        max: usize,
        bytes_max: usize,
    ) -> impl Iterator<Item = &Bytes> {
        let queue = self.topics.get(topic).and_then(|t| t.get(&queue_id));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = queue.and_then(|queue| queue.records.get(from..));
        let mut room = bytes_max;
        rest.unwrap_or_default()
            .iter()
            .take(max)
            .take_while(move |record| {
                let fits = room > 0;
                room = room.saturating_sub(record.len());
                fits
            })
    }
}

/// A record, but for its place in the queue.
fn encoded(addr: SocketAddr, message: &Message<'_>, body: &[u8]) -> Result<Vec<u8>, RecordError> {
    let header = message.header;
    let parts = RecordParts {
        topic: header.topic,
        queue_id: header.queue_id,
        flag: header.flag,
        queue_offset: 0,
        physical_offset: 0,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        born_host: addr,
        store_timestamp: header.born_timestamp,
        store_host: addr,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        body_crc: body_crc(body),
        properties: message.properties.as_bytes(),
    };
    let mut record = Vec::new();
    EncodedRecord::new(&parts)?.write(&mut record);
    Ok(record)
}
