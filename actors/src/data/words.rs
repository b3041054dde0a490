//! The requests that travel from a session to a queue actor.
//!
//! **Owns** their types: whom to answer, and what is asked, already checked against the catalog.
//! **Lives on** the data cores; everything here is plain data and `Send`, for a session's core and
//! a queue's core may differ.
//! **Invariants** bodies and properties are slices of the read buffer or of an arena: moving a
//! request copies no payload.
//! **Limits** a request is charged to its shard's inbox by [`Append::bytes`].
//! **Not here** the wire's spelling (`dispatch`), what is done with them (`queue`).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use gantry_protocol::frame::HeaderEncoding;
use gantry_protocol::system_topic;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{Boundary, PhysicalOffset, QueueOffset, ShardId, StoreTimestamp};

use smallvec::SmallVec;

use crate::data::filter::subscription::Wanted;
use crate::seam::TopicEntry;
use crate::seam::owed::OwedTime;

/// Whom to answer, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The connection.
    pub peer: PeerRef,
    /// Copied into the reply.
    pub opaque: i32,
    /// The reply mirrors the request.
    pub encoding: HeaderEncoding,
    /// Nobody waits: nothing is written (trap 5).
    pub one_way: bool,
    /// When the read that completed the request was done, µs; with the peer's core it names that
    /// read.
    pub read_us: u64,
}

/// What can be asked of a queue actor besides storing a message.
#[derive(Debug)]
pub enum QueueRequest {
    /// Read records, or wait for one.
    Pull(Box<Pull>),
    /// 14: a group's offset.
    QueryOffset {
        /// The group.
        group: Arc<str>,
        /// `setZeroIfNotFound`, true when absent.
        zero_if_young: bool,
    },
    /// 15: a group commits.
    CommitOffset {
        /// The group.
        group: Arc<str>,
        /// Its position; foreign, may be negative.
        offset: i64,
    },
    /// 30.
    MaxOffset,
    /// 31.
    MinOffset,
    /// 32.
    EarliestTime,
    /// 29.
    SearchTime {
        /// The wanted store time.
        time: StoreTimestamp,
        /// Which of equal ones.
        boundary: Boundary,
    },
}

/// A message (or batch) to store.
#[derive(Debug)]
pub struct Append {
    /// The topic, for the name in the record.
    pub topic: Arc<TopicEntry>,
    /// The user's flag.
    pub flag: i32,
    /// RocketMQ's sysFlag as sent.
    pub sys_flag: i32,
    /// When the message was born, ms.
    pub born_ms: i64,
    /// Who sent it.
    pub born_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// The body as it is stored; of a batch, all its elements.
    pub body: Bytes,
    /// Of the body as the record carries it, made while its bytes were in the cache; of a batch,
    /// each element has its own.
    pub body_crc: u32,
    /// The properties as they are stored; empty for a batch.
    pub properties: Bytes,
    /// What the properties say, as parts of them.
    pub marks: Marks,
    /// What few messages have: a message is moved from hand to hand some times, and is short
    /// without it.
    pub rare: Option<Box<Rare>>,
}

/// What most messages don't have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rare {
    /// The elements of a batch, as parts of the body; empty for a single message.
    pub elements: Vec<Element>,
    /// What its being stored means for a transaction.
    pub step: Option<TransactionStep>,
    /// Something is owed for it.
    pub owed: Option<OwedTime>,
    /// The queue that the reply names, where another one really holds the record.
    pub shown_queue: Option<u16>,
    /// The half record's physical offset in a committed transaction, else 0.
    pub prepared_offset: i64,
    /// `recallHandle` of the reply.
    pub recall: Option<Box<str>>,
    /// It is the reply to a request, which was pushed with this outcome: what its sender is told.
    pub pushed: Option<Arc<Pushed>>,
}

impl Rare {
    /// As an append has it: nothing, if there is nothing.
    pub fn kept(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Append {
    /// See [`Rare::elements`].
    pub fn elements(&self) -> &[Element] {
        self.rare.as_ref().map_or(&[], |rare| &rare.elements)
    }

    /// See [`Rare::step`].
    pub fn step(&self) -> Option<TransactionStep> {
        self.rare.as_ref()?.step
    }

    /// See [`Rare::owed`].
    pub fn owed(&self) -> Option<OwedTime> {
        self.rare.as_ref()?.owed
    }

    /// See [`Rare::pushed`].
    pub fn pushed(&self) -> Option<&Arc<Pushed>> {
        self.rare.as_ref()?.pushed.as_ref()
    }

    /// Its rare parts, to be set.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Bytes this request holds in memory while it waits.
    pub fn bytes(&self) -> usize {
        let elements = |rare: &Rare| rare.elements.len() * size_of::<Element>();
        let rare = self.rare.as_ref();
        let rare = rare.map_or(0, |rare| size_of::<Rare>() + elements(rare));
        size_of::<Self>() + rare + self.body.len() + self.properties.len()
    }
}

/// What became of a reply that was to be pushed to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Why it did not arrive; none when it did.
    pub failed: Option<String>,
    /// The queue of the reply topic that it was sent to.
    pub queue_id: u16,
}

/// What storing needs to know of a message's properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Value of `UNIQ_KEY`.
    pub unique_key: Option<Part>,
    /// Value of `KEYS`.
    pub keys: Option<Part>,
    /// Hash of the tag, 0 without one.
    pub tags_code: i64,
    /// `WAIT` is false: `SEND_OK` doesn't wait for the flush.
    pub no_wait: bool,
}

/// One message of a batch, as parts of the batch's body. All that storing needs is read out of it
/// while it is split: when its turn comes, its bytes may have left the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The user's flag.
    pub flag: i32,
    /// Of its body, as the record carries it.
    pub body_crc: u32,
    /// Its body.
    pub body: Part,
    /// Its properties.
    pub properties: Part,
    /// Hash of the tag, 0 without one.
    pub tags_code: i64,
    /// Of the keys it is found by.
    pub key_hashes: KeyHashes,
}

/// Part of other bytes, of a frame or of properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its first byte.
    pub at: u32,
    /// Its bytes.
    pub len: u32,
}

impl Part {
    /// `len` bytes from `at` on. Frames and properties are shorter than 4 GiB.
    pub fn new(at: usize, len: usize) -> Self {
        let short = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            at: short(at),
            len: short(len),
        }
    }

    /// These bytes as what is left of `whole`; none when it has no such.
    pub fn cut_out(self, mut whole: Bytes) -> Option<Bytes> {
        let (at, len) = (self.at as usize, self.len as usize);
        let end = at.checked_add(len)?;
        (end <= whole.len()).then(|| {
            whole.truncate(end);
            whole.advance(at);
            whole
        })
    }

    /// These bytes of `whole`; none when it has no such.
    pub fn of(self, whole: &[u8]) -> &[u8] {
        let at = self.at as usize;
        whole
            .get(at..at.saturating_add(self.len as usize))
            .unwrap_or_default()
    }
}

/// Hashes of the keys of one message: usually its unique key and one of its own.
pub type KeyHashes = SmallVec<[u64; 2]>;

/// What a stored record means for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStep {
    /// A half is open, and first due then.
    Half {
        /// Ms.
        due_ms: u64,
    },
    /// A half has a copy further on.
    Moved {
        /// The offset its producer was told.
        first: QueueOffset,
    },
    /// A half has ended with this record.
    Ending {
        /// Its shard.
        home: ShardId,
        /// Where it is in that shard's half queue.
        half: QueueOffset,
    },
}

impl TransactionStep {
    /// Whether it ends a half of another shard than this one.
    pub fn ends_elsewhere(&self, here: ShardId) -> bool {
        matches!(self, Self::Ending { home, .. } if *home != here)
    }
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its message goes to its queue.
    Commit,
    /// Its message is dropped.
    Rollback,
    /// Nobody knows: its message goes to `TRANS_CHECK_MAX_TIME_TOPIC`.
    GiveUp,
}

/// The end of a transaction, not yet held against its half.
#[derive(Debug)]
pub struct End {
    /// The producer's group; none for an end of the broker's own.
    pub group: Option<Box<str>>,
    /// Offset of the half, as its producer was told.
    pub half: QueueOffset,
    /// Physical offset of the half, as its producer was told.
    pub physical: Option<PhysicalOffset>,
    /// How it ends.
    pub verdict: Verdict,
    /// It answers a check.
    pub from_check: bool,
    /// The half's record, or why it couldn't be read, once the device was asked.
    pub record: Option<Result<Bytes, String>>,
}

impl End {
    /// The longest name of a producer group: what clients hold themselves to.
    pub const GROUP_BYTES_MAX: usize = system_topic::RETRY_OR_DLQ_TOPIC_CHARS_MAX;
    /// What one is charged to its shard's inbox: itself and a producer group's name.
    pub const BYTES: usize = size_of::<Self>() + Self::GROUP_BYTES_MAX;
}

/// A pull, checked.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The group.
    pub group: Arc<str>,
    /// The wanted offset; foreign, may be negative.
    pub wanted: i64,
    /// Most records.
    pub messages_max: u32,
    /// Most bytes of records.
    pub bytes_max: u64,
    /// What it wants.
    pub filter: Wanted,
    /// That is its group's subscription and not its own.
    pub is_subscribed: bool,
    /// The group's position, when the request carries one.
    pub commit: Option<i64>,
    /// How long it may wait, ms; none: not at all.
    pub suspend_ms: Option<u64>,
    /// For the reply.
    pub topic_sys_flag: i32,
    /// For the reply.
    pub group_sys_flag: i32,
}
