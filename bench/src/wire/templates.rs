//! Prepared frames: what a send looks like.
//!
//! **Owns** one ready-made header per queue and one body, with the places to patch: opaque number,
//! unique key, stamp.
//! **Lives on** the generator's executor.
//! **Invariants** a patch never changes a frame's length; every message has its own unique key, so
//! that the broker's key index has real work; writing a frame allocates nothing.
//! **Limits** opaque numbers are [`OPAQUE_BASE`] + slot, always nine digits.
//! **Not here** reading replies (`reply`), the stamp itself (`payload`).

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::frame::HeaderEncoding;
use gantry_protocol::message::{BatchElement, RECORD_HEAD_BYTES_MIN, encode_batch_element};
use memchr::memmem;

use super::payload::{Filler, STAMP_BYTES, Stamp};
use super::reply::FRAME_HEAD_BYTES;

/// First opaque number; nine digits leave room for 65,536 slots at the same length.
pub const OPAQUE_BASE: i32 = 100_000_000;
/// Producer group of every send.
pub const PRODUCER_GROUP: &str = "gantry_bench";
/// `sysFlag` of a half message.
const SYS_FLAG_PREPARED: i64 = 4;
/// Hex digits of a unique key, as Java's clients make them.
const UNIQUE_KEY_DIGITS: usize = 32;
/// Digits of the unique key that count up; the rest name the run and the connection.
const COUNTER_DIGITS: usize = 12;
const OPAQUE_DIGITS: usize = 9;
/// Lengths of topic and properties in a record.
const RECORD_LENGTHS_BYTES: usize = 1 + 2;
/// Fixed bytes of a batch element in front of its body.
const ELEMENT_HEAD_BYTES: usize = 5 * 4;
const HEX: &[u8; 16] = b"0123456789ABCDEF";
/// Digits of a due time, ms since 1970: until the year 2286.
const DUE_DIGITS: usize = 13;
const DUE_NAME: &str = "TIMER_DELIVER_MS";
const NS_PER_MS: u64 = 1_000_000;

/// What kind of messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Ordinary ones.
    Plain,
    /// One of the 18 delay levels.
    DelayLevel(u32),
    /// An arbitrary delay.
    DelayMs(u64),
    /// Each at a time of its own.
    DueAt(Dues),
    /// Half messages of a transaction.
    Half,
}

/// Messages among which the due times are dealt out in another order than they are sent.
const SCATTER: u64 = 1 << 16;
/// Odd, so that every place of such a stretch is taken once.
const SCATTER_STRIDE: u64 = 40_503;

/// Due times at a fixed rate; the connections take them in turn. Within [`SCATTER`] messages they
/// come in another order than they are sent: what is due together lies all over the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dues {
    /// The first one, ms since 1970.
    pub first_ms: u64,
    /// How many a second.
    pub per_second: u64,
    /// Connections that send.
    pub senders: u32,
}

impl Dues {
    /// The due time of a connection's n-th message, ms since 1970.
    pub fn due_ms(self, stream: u32, n: u64) -> u64 {
        let sent = n * u64::from(self.senders) + u64::from(stream);
        let (stretch, at) = (sent / SCATTER, sent % SCATTER);
        let place = stretch * SCATTER + at * SCATTER_STRIDE % SCATTER;
        self.first_ms + place * 1000 / self.per_second.max(1)
    }
}

/// What all connections of a run send.
#[derive(Debug, Clone)]
pub struct SendShape {
    /// Topics; each has `queues` queues.
    pub topics: Vec<String>,
    /// Queues of each topic.
    pub queues: u32,
    /// Bytes of a body.
    pub size: usize,
    /// Messages of a frame.
    pub batch: u32,
    /// Header encoding.
    pub encoding: HeaderEncoding,
    /// Without an answer.
    pub one_way: bool,
    /// What kind of messages.
    pub flavour: Flavour,
    /// The run's number, in every stamp and key.
    pub run: u32,
}

impl SendShape {
    /// Queues of all topics.
    pub fn queues_count(&self) -> usize {
        self.topics.len() * self.queues as usize
    }

    /// Bytes of a message in the form of a record, without what a broker adds to its properties.
    pub fn record_bytes(&self) -> usize {
        let topic = self.topics.first().map_or(0, String::len);
        let properties = properties(self.flavour, &unique_key(self.run, 0)).len();
        RECORD_HEAD_BYTES_MIN + RECORD_LENGTHS_BYTES + self.size + topic + properties
    }
}

/// What was put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Index of the queue among all topics' queues.
    pub queue: u32,
    /// Sequence of the first message of the frame.
    pub first: u64,
    /// The unique key's counter of the first message.
    pub counter: u64,
}

/// The send frames of one connection.
#[derive(Debug, Clone)]
pub struct SendTemplate {
    heads: Vec<HeadTemplate>,
    body: Vec<u8>,
    /// Where each message's stamp begins in the body, and its key's counter if that is there, too.
    messages: Vec<(usize, Option<usize>)>,
    filler: Filler,
    sequences: Vec<u64>,
    next_head: usize,
    counter: u64,
    run: u32,
    stream: u32,
    dues: Option<Dues>,
}

#[derive(Debug, Clone)]
struct HeadTemplate {
    bytes: Vec<u8>,
    opaque: OpaquePlace,
    /// Where the counting digits of a single message's key begin.
    counter_at: Option<usize>,
    /// Where the digits of its due time begin.
    due_at: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum OpaquePlace {
    Digits(usize),
    Word(usize),
}

impl SendTemplate {
    /// The frames of connection `stream`: one per queue, used in turn from another one on for each
    /// connection.
    pub fn new(shape: &SendShape, stream: u32) -> Self {
        let filler = Filler::new(shape.size);
        let key = unique_key(shape.run, stream);
        let (body, messages) = body(shape, &filler, &key);
        let queue_ids = (0..shape.queues).flat_map(|q| shape.topics.iter().map(move |t| (t, q)));
        let heads: Vec<_> = queue_ids
            .map(|(topic, queue)| head(shape, topic, queue, &key, &body))
            .collect();
        Self {
            sequences: vec![0; heads.len()],
            next_head: stream as usize % heads.len().max(1),
            heads,
            body,
            messages,
            filler,
            counter: 0,
            run: shape.run,
            stream,
            dues: match shape.flavour {
                Flavour::DueAt(dues) => Some(dues),
                _ => None,
            },
        }
    }

    /// Messages in one frame.
    pub fn messages_count(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Bytes of one frame, about.
    pub fn frame_bytes(&self) -> usize {
        self.heads.first().map_or(0, |h| h.bytes.len()) + self.body.len()
    }

    /// Appends the next frame for this slot. A message with a due time of its own is stamped with
    /// that, in ns since 1970, instead of the intended time.
    pub fn write(&mut self, slot: u32, intended_ns: u64, out: &mut Vec<u8>) -> Written {
        let due_ms = self.dues.map(|dues| dues.due_ms(self.stream, self.counter));
        let intended_ns = due_ms.map_or(intended_ns, |due_ms| due_ms * NS_PER_MS);
        let queue = self.next_head;
        self.next_head = (queue + 1) % self.heads.len().max(1);
        let first_counter = self.counter + 1;
        let at = out.len();
        let mut first = 0;
        if let (Some(head), Some(sequence)) = (self.heads.get(queue), self.sequences.get_mut(queue))
        {
            first = *sequence;
            out.extend_from_slice(&head.bytes);
            if let Some(written) = out.get_mut(at..) {
                head.patch(written, slot, first_counter);
                if let Some((place, due_ms)) = head.due_at.zip(due_ms) {
                    patch_decimal(written, place, DUE_DIGITS, due_ms);
                }
            }
            let at = out.len();
            out.extend_from_slice(&self.body);
            let written = out.get_mut(at..).unwrap_or_default();
            for (stamp_at, counter_at) in &self.messages {
                self.counter += 1;
                let stamp = Stamp {
                    run: self.run,
                    stream: self.stream,
                    sequence: *sequence,
                    intended_ns,
                };
                *sequence += 1;
                let place = written.get_mut(*stamp_at..);
                if let Some(place) = place.and_then(|rest| rest.first_chunk_mut()) {
                    self.filler.seal(place, &stamp);
                }
                if let Some(place) = counter_at {
                    patch_hex(written, *place, self.counter);
                }
            }
        }
        Written {
            queue: u32::try_from(queue).unwrap_or(u32::MAX),
            first,
            counter: first_counter,
        }
    }

    /// Messages written so far for each queue.
    pub fn sequences(&self) -> &[u64] {
        &self.sequences
    }

    /// The whole unique key of a message.
    pub fn key(&self, counter: u64) -> String {
        let mut key = unique_key(self.run, self.stream).into_bytes();
        patch_hex(&mut key, UNIQUE_KEY_DIGITS - COUNTER_DIGITS, counter);
        String::from_utf8(key).unwrap_or_default()
    }
}

impl HeadTemplate {
    fn patch(&self, written: &mut [u8], slot: u32, counter: u64) {
        let opaque = OPAQUE_BASE.unsigned_abs() + slot;
        match self.opaque {
            OpaquePlace::Digits(place) => {
                patch_decimal(written, place, OPAQUE_DIGITS, u64::from(opaque));
            }
            OpaquePlace::Word(place) => {
                if let Some(word) = written.get_mut(place..place + 4) {
                    word.copy_from_slice(&opaque.to_be_bytes());
                }
            }
        }
        if let Some(place) = self.counter_at {
            patch_hex(written, place, counter);
        }
    }
}

fn patch_decimal(bytes: &mut [u8], place: usize, digits: usize, mut value: u64) {
    let slots = bytes.get_mut(place..place + digits);
    for slot in slots.unwrap_or_default().iter_mut().rev() {
        // A remainder of ten always fits a byte.
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

fn patch_hex(bytes: &mut [u8], place: usize, mut value: u64) {
    let slots = bytes.get_mut(place..place + COUNTER_DIGITS);
    for slot in slots.unwrap_or_default().iter_mut().rev() {
        let digit = usize::try_from(value & 15).unwrap_or(0);
        *slot = HEX.get(digit).copied().unwrap_or(b'0');
        value >>= 4;
    }
}

/// A unique key of the right shape: run, connection, then zeros where the counter goes.
fn unique_key(run: u32, stream: u32) -> String {
    format!("{run:012X}{stream:08X}{}", "0".repeat(COUNTER_DIGITS))
}

fn properties(flavour: Flavour, key: &str) -> String {
    let more = match flavour {
        Flavour::Plain => String::new(),
        Flavour::DelayLevel(level) => format!("DELAY\u{1}{level}\u{2}"),
        Flavour::DelayMs(ms) => format!("TIMER_DELAY_MS\u{1}{ms}\u{2}"),
        Flavour::DueAt(_) => format!("{DUE_NAME}\u{1}{}\u{2}", "0".repeat(DUE_DIGITS)),
        Flavour::Half => format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{PRODUCER_GROUP}\u{2}"),
    };
    format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}{more}")
}

/// The body of a frame, and in it where each message's stamp and counter begin.
fn body(shape: &SendShape, filler: &Filler, key: &str) -> (Vec<u8>, Vec<(usize, Option<usize>)>) {
    let one = filler.body();
    if shape.batch <= 1 {
        let stamp_at = one.len() - STAMP_BYTES;
        return (one, vec![(stamp_at, None)]);
    }
    let properties = properties(shape.flavour, key);
    let mut element = Vec::new();
    let parts = BatchElement {
        flag: 0,
        body: &one,
        properties: &properties,
    };
    // Only a body beyond i32 could fail here.
    let _ = encode_batch_element(&parts, &mut element);
    let total = element.len();
    let stamp_at = ELEMENT_HEAD_BYTES + one.len() - STAMP_BYTES;
    let counter_at = counter_in(&element, key);
    let places = (0..shape.batch as usize)
        .map(|n| (n * total + stamp_at, counter_at.map(|at| n * total + at)))
        .collect();
    (element.repeat(shape.batch as usize), places)
}

fn counter_in(bytes: &[u8], key: &str) -> Option<usize> {
    memmem::find(bytes, key.as_bytes()).map(|at| at + UNIQUE_KEY_DIGITS - COUNTER_DIGITS)
}

fn head(shape: &SendShape, topic: &str, queue: u32, key: &str, body: &[u8]) -> HeadTemplate {
    let batch = shape.batch > 1;
    let (code, properties) = if batch {
        (codes::SEND_BATCH_MESSAGE, String::new())
    } else {
        (codes::SEND_MESSAGE_V2, properties(shape.flavour, key))
    };
    let sys_flag = if shape.flavour == Flavour::Half {
        SYS_FLAG_PREPARED
    } else {
        0
    };
    let born = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
    let ext = [
        ("a", ExtValue::Str(PRODUCER_GROUP)),
        ("b", ExtValue::Str(topic)),
        ("c", ExtValue::Str("TBW102")),
        ("d", ExtValue::Int(i64::from(shape.queues))),
        ("e", ExtValue::Int(i64::from(queue))),
        ("f", ExtValue::Int(sys_flag)),
        ("g", ExtValue::Int(born)),
        ("h", ExtValue::Int(0)),
        ("i", ExtValue::Str(&properties)),
        ("j", ExtValue::Int(0)),
        ("k", ExtValue::Str("false")),
        ("m", ExtValue::from(batch)),
    ];
    let mut out = BytesMut::new();
    // A frame beyond the limit can't be written; `check` refuses such sizes before.
    let _ = writer::write_request(
        &mut out,
        shape.encoding,
        OPAQUE_BASE,
        code,
        shape.one_way,
        Some(&ext),
        &[body],
    );
    let head_len = out.len().saturating_sub(body.len());
    let bytes = out.get(..head_len).unwrap_or_default().to_vec();
    let opaque = match shape.encoding {
        HeaderEncoding::Json => {
            let name = "\"opaque\":";
            let at = memmem::find(&bytes, format!("{name}{OPAQUE_BASE}").as_bytes());
            OpaquePlace::Digits(at.unwrap_or(0) + name.len())
        }
        // code 2, language 1, version 2.
        HeaderEncoding::Binary => OpaquePlace::Word(FRAME_HEAD_BYTES + 5),
    };
    let counter_at = counter_in(&bytes, key);
    // What separates name and value is one character, spelled by the encoding as it likes.
    let zeros = "0".repeat(DUE_DIGITS);
    let due_at = memmem::find(&bytes, DUE_NAME.as_bytes()).and_then(|name| {
        let rest = bytes.get(name..)?;
        Some(name + memmem::find(rest, zeros.as_bytes())?)
    });
    HeadTemplate {
        bytes,
        opaque,
        counter_at,
        due_at,
    }
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
