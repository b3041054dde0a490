//! What clients do while the broker lives, and what they are told.
//!
//! **Owns** requests under way, the check of each reply.
//! **Lives on** a test's thread, inside the world's executor.
//! **Invariants** an acknowledgement is believed from the moment it is written for the producer.
//! **Limits** none.
//! **Not here** the choice of what happens next (`steps`), questions that wait (`audit`).

use bytes::BytesMut;
use gantry_protocol::code::{request, response};
use gantry_protocol::command::{Command, ExtValue, writer};
use gantry_protocol::frame::{Frame, HeaderEncoding, take_frame};
use gantry_protocol::message::{BatchElement, encode_batch_element};
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::request::pull::PullHeader;
use gantry_storage::disk::Disk;
use gantry_storage::shard_store::{DAMAGE_NOTED_MAX, FlushMode};
use gantry_storage::units::FilePosition;

use super::super::{client_addr, ext, long_pull, peer, pull_frame, pull_header, send_header};
use super::oracle::{Oracle, Outcome, Slot, body_of, position_of};
use super::world::World;
use crate::data::requests::parked::Caller;

/// A request under way.
#[derive(Debug)]
pub enum Asked {
    /// Somebody waits for the reply.
    Answer(Option<Command>),
    Send {
        queue: u16,
        ids: Vec<u64>,
        no_wait: bool,
    },
    Pull {
        queue: u16,
        from: u64,
        tag: Option<u64>,
        may_wait: bool,
        /// Offsets that were to be seen when it was sent.
        visible: u64,
    },
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Waits,
    NoWait,
    OneWay,
    Batch(u64),
}

/// The records of a pull's body, one by one.
pub fn raw_records(mut body: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(size) = body.first_chunk::<4>() {
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap();
        let (record, rest) = body.split_at_checked(size).expect("a record is cut off");
        assert!(size > 4, "a record of {size} bytes");
        records.push(record);
        body = rest;
    }
    assert!(
        body.is_empty(),
        "{} bytes behind the last record",
        body.len()
    );
    records
}

fn frame(
    code: i32,
    opaque: i32,
    one_way: bool,
    ext: &[(&str, ExtValue<'_>)],
    body: &[u8],
) -> Frame {
    let mut out = BytesMut::new();
    let encoding = HeaderEncoding::Json;
    writer::write_request(
        &mut out,
        encoding,
        opaque,
        code,
        one_way,
        Some(ext),
        &[body],
    )
    .unwrap();
    take_frame(&mut out).unwrap().unwrap()
}

impl World {
    pub fn next_opaque(&self) -> i32 {
        self.last_opaque.set(self.last_opaque.get() + 1);
        self.last_opaque.get()
    }

    pub fn send(&self, frame: &Frame) {
        self.totals.borrow_mut().requests += 1;
        let caller = Caller {
            peer: peer(0, 1),
            addr: client_addr(),
        };
        let running = self.running.borrow();
        let running = running.as_ref().expect("requests are for a living process");
        running.core.handle(caller, frame).unwrap();
    }

    /// Sends one message or batch.
    pub fn produce(&self, queue: u16, manner: Manner) -> i32 {
        let opaque = self.next_opaque();
        let count = if let Manner::Batch(count) = manner {
            count
        } else {
            1
        };
        let no_wait = manner == Manner::NoWait;
        let mut oracle = self.oracle.borrow_mut();
        let mut ids = Vec::new();
        let (mut body, mut properties) = (Vec::new(), String::new());
        for _ in 0..count {
            let bytes = self.choices.below(self.mix.body_bytes_max);
            let id = oracle.invent(queue, &self.choices, bytes, no_wait);
            ids.push(id);
            let message = oracle.message(id);
            message.in_batch = matches!(manner, Manner::Batch(_));
            properties = message.properties(id);
            let one = body_of(id, message.body_bytes);
            if message.in_batch {
                let element = BatchElement {
                    flag: 0,
                    body: &one,
                    properties: &properties,
                };
                encode_batch_element(&element, &mut body).unwrap();
            } else {
                body = one;
            }
        }
        drop(oracle);
        self.totals.borrow_mut().messages += count;
        let mut header = send_header("T");
        header.queue_id = i32::from(queue);
        let (code, batch) = match manner {
            Manner::Batch(_) => (request::SEND_BATCH_MESSAGE, true),
            _ => (request::SEND_MESSAGE_V2, false),
        };
        header.batch = batch;
        header.properties = if batch { "" } else { &properties };
        let one_way = manner == Manner::OneWay;
        if !one_way {
            let asked = Asked::Send {
                queue,
                ids,
                no_wait,
            };
            self.asked.borrow_mut().insert(opaque, asked);
        }
        self.send(&frame(code, opaque, one_way, &header.to_ext(code), &body));
        opaque
    }

    /// Sends a pull and does not wait.
    pub fn pull(&self, queue: u16, from: u64, tag: Option<u64>, may_wait: bool) {
        let opaque = self.next_opaque();
        let subscription = tag.map_or_else(|| "*".to_owned(), |tag| format!("t{tag}"));
        let make = if may_wait { long_pull } else { pull_header };
        let header = PullHeader {
            subscription: Some(&subscription),
            max_msg_nums: i32::try_from(1 + self.choices.below(40)).unwrap(),
            ..make("T", i32::from(queue), from.cast_signed())
        };
        let visible = self.oracle.borrow().visible_count(queue);
        let asked = Asked::Pull {
            queue,
            from,
            tag,
            may_wait,
            visible,
        };
        self.asked.borrow_mut().insert(opaque, asked);
        self.send(&pull_frame(opaque, &header));
    }

    /// Takes in and checks what the broker has answered.
    pub fn drain(&self) {
        let replies = match &*self.running.borrow() {
            Some(running) => running.host.take_replies(),
            None => return,
        };
        if !self.poisoned() {
            self.healthy_us.set(self.disk.now_mono_us());
        }
        // Producers first: what they are told is what consumers may see.
        let (sends, others): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| {
            let asked = self.asked.borrow();
            matches!(asked.get(&reply.opaque), Some(Asked::Send { .. }))
        });
        for reply in sends.into_iter().chain(others) {
            self.fold(u64::from(reply.opaque.unsigned_abs()));
            self.fold(u64::from(reply.code.unsigned_abs()));
            self.fold(reply.body.len() as u64);
            let asked = self.asked.borrow_mut().remove(&reply.opaque);
            match asked {
                Some(Asked::Send {
                    queue,
                    ids,
                    no_wait,
                }) => {
                    self.told_producer(queue, &ids, no_wait, &reply);
                }
                Some(Asked::Pull {
                    queue,
                    from,
                    tag,
                    visible,
                    ..
                }) => self.told_consumer((queue, from), tag, visible, &reply),
                Some(Asked::Answer(None)) => {
                    let opaque = reply.opaque;
                    let answer = Asked::Answer(Some(reply));
                    self.asked.borrow_mut().insert(opaque, answer);
                }
                Some(Asked::Answer(Some(_))) | None => panic!("nobody waits for {reply:?}"),
            }
        }
    }

    fn told_producer(&self, queue: u16, ids: &[u64], no_wait: bool, reply: &Command) {
        let late = reply.code == response::FLUSH_DISK_TIMEOUT;
        if reply.code != response::SUCCESS && !late {
            let known = [response::SYSTEM_BUSY, response::SERVICE_NOT_AVAILABLE];
            assert!(known.contains(&reply.code), "a send was refused: {reply:?}");
            self.totals.borrow_mut().refused += 1;
            // A batch may be refused after its first elements were stored.
            if let [id] = ids {
                let mut oracle = self.oracle.borrow_mut();
                let outcome = oracle.message(*id).outcome;
                assert_eq!(
                    outcome,
                    Outcome::Open,
                    "message {id} was seen and is refused"
                );
                oracle.message(*id).outcome = Outcome::Refused;
            }
            return;
        }
        let sync = self.mix.flush == FlushMode::Sync;
        let waited = !(late || sync && no_wait);
        let now_us = self.disk.now_mono_us();
        let first: u64 = ext(reply, "queueOffset").parse().unwrap();
        let message_ids = ext(reply, "msgId").split(',');
        let mut oracle = self.oracle.borrow_mut();
        let mut count = 0;
        for ((offset, id), message_id) in (first..).zip(ids).zip(message_ids) {
            let (_, physical) = parse_offset_id(message_id).expect("a message id");
            let physical = physical.cast_unsigned();
            let slot = oracle.place(queue, offset, *id);
            assert_eq!(*slot.physical.get_or_insert(physical), physical);
            if waited {
                slot.acked_us = Some(now_us);
                slot.visible = true;
                slot.power_safe |= sync;
            }
            // Under SYNC_FLUSH without waiting, or late, it is in the tail all the same.
            slot.kill_safe = true;
            count += 1;
        }
        assert_eq!(count, ids.len(), "an id for each message: {reply:?}");
        self.totals.borrow_mut().acked += count as u64;
    }

    fn told_consumer(
        &self,
        (queue, from): (u16, u64),
        tag: Option<u64>,
        visible: u64,
        reply: &Command,
    ) {
        let at = format!("pull of queue {queue} from {from} with {visible} visible: {reply:?}");
        if reply.code == response::SYSTEM_ERROR || reply.code == response::SYSTEM_BUSY {
            let busy = reply.code == response::SYSTEM_BUSY;
            assert!(busy || self.index_may_fail(), "{at}");
            self.totals.borrow_mut().read_errors += 1;
            return;
        }
        let next: u64 = ext(reply, "nextBeginOffset").parse().unwrap();
        let max: u64 = ext(reply, "maxOffset").parse().unwrap();
        let told_min: u64 = ext(reply, "minOffset").parse().unwrap();
        assert!(
            told_min <= self.min_of(queue, &self.oracle.borrow()),
            "{at}"
        );
        assert!(max >= visible, "{at}");
        match reply.code {
            response::SUCCESS => assert!(next > from && next <= max, "{at}"),
            response::PULL_RETRY_IMMEDIATELY => assert!(next > from, "{at}"),
            response::PULL_NOT_FOUND => assert!(from >= visible && next <= max, "{at}"),
            response::PULL_OFFSET_MOVED => {
                assert!(from > visible || visible == 0 || from < told_min, "{at}");
            }
            _ => panic!("{at}"),
        }
        if !matches!(
            reply.code,
            response::SUCCESS | response::PULL_RETRY_IMMEDIATELY
        ) {
            return;
        }
        let mut oracle = self.oracle.borrow_mut();
        let mut seen = Vec::new();
        for raw in raw_records(&reply.body) {
            let offset = raw.get(20..28).and_then(|bytes| bytes.first_chunk::<8>());
            let offset = u64::from_be_bytes(*offset.unwrap());
            assert!(
                offset >= seen.last().map_or(from, |last| last + 1) && offset < next,
                "{at}"
            );
            let slot = oracle.check_record(queue, offset, raw);
            // A consumer sees what its producer may be told: it survives the same deaths.
            slot.kill_safe = true;
            slot.visible = true;
            slot.power_safe |= self.mix.flush == FlushMode::Sync;
            let id = slot.id;
            assert!(tag.is_none_or(|tag| oracle.message(id).tag == tag), "{at}");
            seen.push(offset);
        }
        self.totals.borrow_mut().records_read += seen.len() as u64;
        // Without a filter everything was to be seen; with one, what producers know of.
        let until = tag.map_or(next, |_| next.min(visible));
        for offset in (from..until).filter(|offset| !seen.contains(offset)) {
            let slots = &oracle.queues[usize::from(queue)];
            let slot = slots.get(usize::try_from(offset).unwrap()).copied();
            let slot = slot.flatten();
            let is_wanted =
                tag.is_none() || slot.is_some_and(|slot| Some(oracle.message(slot.id).tag) == tag);
            let needs_no_excuse = !is_wanted || self.may_be_gone(queue, offset, &oracle);
            let excused = needs_no_excuse || self.is_passed_over(queue, slot.as_ref(), &mut oracle);
            assert!(excused, "{offset} left out, seen {seen:?}: {at}");
        }
    }

    /// Where the shard of a queue has met damage since its start.
    pub fn told_damaged(&self, queue: u16) -> Vec<FilePosition> {
        let running = self.running.borrow();
        let shard = usize::from(self.shard_of(queue));
        let store = running.as_ref().map(|running| &running.stores[shard]);
        store.map(|store| store.damage_met()).unwrap_or_default()
    }

    /// Whether a record may be missing in what a consumer got: its bytes were damaged, and the
    /// store has said so of its place (of any, where its place is not known to clients).
    pub fn is_passed_over(&self, queue: u16, slot: Option<&Slot>, oracle: &mut Oracle) -> bool {
        let told = self.told_damaged(queue);
        let physical = slot.and_then(|slot| slot.physical);
        let position = physical.map(position_of);
        // Beyond so many places it says no more.
        let is_full = told.len() >= DAMAGE_NOTED_MAX;
        let is_told = position.map_or(!told.is_empty(), |position| {
            is_full || told.contains(&position)
        });
        let body_bytes = slot.map_or(0, |slot| oracle.message(slot.id).body_bytes);
        is_told && self.may_be_damaged(queue, physical, body_bytes)
    }
}
