//! What must be true of the records, as far as the clients know.
//!
//! **Owns** every message sent, what became of it, and where it was promised or seen to be.
//! **Lives on** a test's thread.
//! **Invariants** the rules it checks: one place for each message, dense offsets, in the order
//! sent; equal content wherever and whenever it is read; what was refused or lost never appears.
//! **Limits** none.
//! **Not here** how the broker is asked (`life`, `audit`).

use gantry_protocol::message::RecordView;
use gantry_storage::address;
use gantry_storage::sim_disk::Random;
use gantry_storage::units::{FilePosition, PhysicalOffset};

/// What the broker adds to the properties of a single message.
const ADDED: &str =
    "MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}CLUSTER\u{1}DefaultCluster\u{2}";
/// Bodies start with the message's number.
pub const BODY_BYTES_MIN: u64 = 8;
/// Different words in `KEYS`.
pub const KEYS_COUNT: u64 = 40;
/// Different tags.
pub const TAGS_COUNT: u64 = 3;

/// What became of a message, as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, or one that leaves it open: it may be there, wholly, or not.
    Open,
    /// Not taken.
    Refused,
    /// At this offset.
    Stored(u64),
    /// A death took it, as it might.
    Lost,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub queue: u16,
    pub body_bytes: u64,
    pub tag: u64,
    pub keys: [u64; 2],
    pub in_batch: bool,
    pub no_wait: bool,
    pub outcome: Outcome,
}

/// What is known of an offset.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub id: u64,
    /// Bytes of the log before it: physical offset.
    pub physical: Option<u64>,
    /// Checksum of the whole record as first read, and its store time.
    pub read: Option<(u32, u64)>,
    /// When its `SEND_OK` came.
    pub acked_us: Option<u64>,
    /// Must survive the death of the process.
    pub kill_safe: bool,
    /// Must survive a power cut.
    pub power_safe: bool,
    /// Every consumer must see it.
    pub visible: bool,
}

/// Where in its shard's log a record is.
pub fn position_of(physical: u64) -> FilePosition {
    let (_, position) = address::locate(PhysicalOffset(physical)).expect("as a broker gives it");
    position
}

/// All queues of a world.
#[derive(Default)]
pub struct Oracle {
    pub messages: Vec<Message>,
    pub queues: Vec<Vec<Option<Slot>>>,
}

/// The body of message `id`.
pub fn body_of(id: u64, bytes: u64) -> Vec<u8> {
    let len = usize::try_from(bytes).unwrap();
    let mut body = Vec::with_capacity(len + 8);
    body.extend_from_slice(&id.to_be_bytes());
    let mut word = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    while body.len() < len {
        word = word.rotate_left(7).wrapping_add(id | 1);
        body.extend_from_slice(&word.to_be_bytes());
    }
    body.truncate(len);
    body
}

impl Message {
    /// The properties as they are sent.
    pub fn properties(&self, id: u64) -> String {
        let [one, other] = self.keys;
        let wait = if self.no_wait && !self.in_batch {
            "WAIT\u{1}false\u{2}"
        } else {
            ""
        };
        format!(
            "KEYS\u{1}k{one} k{other}\u{2}TAGS\u{1}t{}\u{2}UNIQ_KEY\u{1}u{id}\u{2}{wait}",
            self.tag
        )
    }
}

impl Oracle {
    pub fn new(queues: u16) -> Self {
        Self {
            messages: Vec::new(),
            queues: vec![Vec::new(); usize::from(queues)],
        }
    }

    /// Makes up a message for `queue`.
    pub fn invent(&mut self, queue: u16, random: &Random, body_bytes: u64, no_wait: bool) -> u64 {
        self.messages.push(Message {
            queue,
            body_bytes: body_bytes.max(BODY_BYTES_MIN),
            tag: random.below(TAGS_COUNT),
            keys: [random.below(KEYS_COUNT), random.below(KEYS_COUNT)],
            in_batch: false,
            no_wait,
            outcome: Outcome::Open,
        });
        self.messages.len() as u64 - 1
    }

    pub fn message(&mut self, id: u64) -> &mut Message {
        &mut self.messages[usize::try_from(id).unwrap()]
    }

    /// Notes that message `id` is at `offset`; everything that speaks against it is a violation.
    pub fn place(&mut self, queue: u16, offset: u64, id: u64) -> &mut Slot {
        let known = self.messages.len();
        assert!(
            id < known as u64,
            "queue {queue} offset {offset}: message {id} was never sent"
        );
        let message = self.message(id);
        assert_eq!(message.queue, queue, "message {id} is in another queue");
        match message.outcome {
            Outcome::Open => message.outcome = Outcome::Stored(offset),
            Outcome::Stored(at) => {
                assert_eq!(
                    at, offset,
                    "message {id} of queue {queue} is at two offsets"
                );
            }
            gone => panic!("queue {queue} offset {offset}: message {id} was {gone:?}"),
        }
        let slots = &mut self.queues[usize::from(queue)];
        let at = usize::try_from(offset).unwrap();
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        let before = slots[..at].iter().rev().flatten().next();
        let after = slots[at + 1..].iter().flatten().next();
        let in_order = before.is_none_or(|slot| slot.id < id) && after.is_none_or(|s| s.id > id);
        assert!(
            in_order,
            "queue {queue} offset {offset}: message {id} is not in the order sent: {before:?} {after:?}"
        );
        let slot = slots[at].get_or_insert(Slot {
            id,
            physical: None,
            read: None,
            acked_us: None,
            kill_safe: false,
            power_safe: false,
            visible: false,
        });
        assert_eq!(
            slot.id, id,
            "queue {queue} offset {offset} has two messages"
        );
        slot
    }

    /// Checks a record that a consumer got, byte for byte.
    pub fn check_record(&mut self, queue: u16, offset: u64, raw: &[u8]) -> &mut Slot {
        let at = format!("queue {queue} offset {offset}");
        let record = RecordView::parse(raw).unwrap_or_else(|error| panic!("{at}: {error}"));
        let id = record
            .body
            .first_chunk::<8>()
            .map(|id| u64::from_be_bytes(*id));
        let id = id.unwrap_or_else(|| panic!("{at}: a body of {} bytes", record.body.len()));
        assert_eq!(
            record.queue_offset,
            offset.cast_signed(),
            "{at}: offset inside"
        );
        assert_eq!(record.queue_id, i32::from(queue), "{at}: queue inside");
        assert_eq!(record.topic, "T", "{at}: topic inside");
        assert!(
            id < self.messages.len() as u64,
            "{at}: message {id} was never sent"
        );
        let message = *self.message(id);
        assert!(
            record.body == body_of(id, message.body_bytes),
            "{at}: wrong body of message {id}"
        );
        let mut properties = message.properties(id);
        if !message.in_batch {
            properties.push_str(ADDED);
        }
        assert_eq!(
            record.properties, properties,
            "{at}: properties of message {id}"
        );
        let (physical, time) = (record.physical_offset, record.store_timestamp);
        let sum = crc32(raw);
        let slot = self.place(queue, offset, id);
        let physical = physical.cast_unsigned();
        assert_eq!(
            *slot.physical.get_or_insert(physical),
            physical,
            "{at}: moved"
        );
        let read = (sum, time.cast_unsigned());
        assert_eq!(
            *slot.read.get_or_insert(read),
            read,
            "{at}: content changed"
        );
        slot
    }

    /// Offsets of a queue that every consumer must see.
    pub fn visible_count(&self, queue: u16) -> u64 {
        let slots = &self.queues[usize::from(queue)];
        let last = slots
            .iter()
            .rposition(|slot| slot.is_some_and(|slot| slot.visible));
        last.map_or(0, |last| last as u64 + 1)
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    // A checksum of the tests' own would do; the protocol's is at hand.
    gantry_protocol::message::body_crc(bytes)
}
