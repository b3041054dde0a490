//! Delivering what is due.
//!
//! **Owns** the way from a batch of due entries to records in their real queues.
//! **Lives on** the control plane's thread; two errands a batch, no hop a message.
//! **Invariants** an entry is finished only when its record's copy is acknowledged as the flush
//! mode promises, or its record is gone or damaged for good; whatever else happens it is tried
//! again. What has no topic is given up only [`MISSING_TOPIC_MS_MAX`] after its time. The copy
//! carries the parked record's properties and isn't delayed again (trap 50).
//! **Limits** the caller's batches; a refused record waits [`BUSY_MS`], or [`FAULT_MS`] to
//! [`FAULT_MS_MAX`].
//! **Not here** what is due (`board`).

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{self, name};
use gantry_protocol::system_topic;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::units::{PhysicalOffset, QueueId, QueueKey, QueueOffset};

use super::{Board, Entry};
use crate::control::plane::Plane;
use crate::refusal::Refusal;
use crate::seam::errands::{FetchFault, SupplyRecord};

/// Until the next try when a queue's inbox was full.
const BUSY_MS: u64 = 20;
/// Until the next try when something is broken, twice as long each time it still is.
const FAULT_MS: u64 = 1000;
/// The longest such wait: each try reads all that is due from the device again.
const FAULT_MS_MAX: u64 = 16_000;
/// Why an entry is dropped whose record the log does not hold.
pub(super) const GONE: &str = "its record is no longer stored";

/// How long after its time a message waits for a topic that is missing: two heartbeats of a client,
/// which make the retry topic of its group again, or a topic's route asked for twice.
const MISSING_TOPIC_MS_MAX: u64 = 2 * 30_000;
/// Between two looks for it: each reads the record again.
const MISSING_TOPIC_MS: u64 = 5000;

/// A record that can't be delivered.
enum Undeliverable {
    /// Ever.
    ForGood(String),
    /// Unless its topic is made again.
    NoTopic(String),
}

/// Whether deliveries fail, and how long the last ones that did wait.
#[derive(Debug, Default)]
pub(super) struct Faults(Cell<u64>);

impl Faults {
    /// A batch met one: until the next try, and whether that is news.
    fn met(&self) -> (u64, bool) {
        let last_ms = self.0.get();
        let wait_ms = last_ms.saturating_mul(2).clamp(FAULT_MS, FAULT_MS_MAX);
        self.0.set(wait_ms);
        (wait_ms, last_ms == 0)
    }

    /// Nothing waits for another try any more. Whether that is news.
    fn are_over(&self) -> bool {
        self.0.replace(0) > 0
    }
}

/// Delivers a batch, in order; every entry of it is finished or goes back.
pub async fn deliver(plane: &Rc<Plane>, batch: Vec<Entry>) {
    let places = batch.iter().map(|entry| PhysicalOffset(entry.physical));
    let records = plane.errands.fetch(places.collect()).await;
    let (mut supplies, mut sent) = (Vec::new(), Vec::new());
    let mut failed = Vec::new();
    for (entry, record) in batch.into_iter().zip(records) {
        match record {
            Ok(record) => match supply_of(plane, &record) {
                Ok((supply, parked_at)) => {
                    supplies.push(supply);
                    sent.push((entry, parked_at));
                }
                Err(Undeliverable::ForGood(why)) => drop_entry(plane, entry, &why),
                Err(Undeliverable::NoTopic(why)) => wait_for_topic(plane, entry, &why),
            },
            Err(FetchFault::Gone) => drop_entry(plane, entry, GONE),
            Err(FetchFault::Lost(why)) => drop_entry(plane, entry, &why),
            Err(FetchFault::Failed(why)) => failed.push((entry, why)),
        }
    }
    let outcomes = plane.errands.supply(supplies).await;
    let now_ms = wall_now_ms();
    let mut board = plane.delay.board_mut();
    for ((entry, parked_at), outcome) in sent.into_iter().zip(outcomes) {
        match outcome {
            Ok(_) => {
                board.totals.delivered += 1;
                board.finish(entry, Some(parked_at));
            }
            Err(refusal) if refusal.code == response::SYSTEM_BUSY => {
                board.try_again(entry, now_ms + BUSY_MS);
            }
            Err(refusal) => {
                say_for_good(plane, &entry, &refusal);
                failed.push((entry, refusal.to_string()));
            }
        }
    }
    put_back(&plane.delay.faults, &mut board, failed, now_ms);
}

/// Puts back what met something broken, and says when that begins and ends: a full disk is said
/// once, not with each message.
fn put_back(faults: &Faults, board: &mut Board, failed: Vec<(Entry, String)>, now_ms: u64) {
    if let Some((_, why)) = failed.first() {
        let (wait_ms, is_new) = faults.met();
        if is_new {
            let count = failed.len();
            tracing::warn!(count, why, "delayed messages can't be delivered yet");
        }
        for (entry, _) in failed {
            board.try_again(entry, now_ms + wait_ms);
        }
    } else if !board.has_again() && faults.are_over() {
        tracing::info!("delayed messages are delivered again");
    }
}

/// Says, once, that a record is refused for good.
pub(super) fn say_for_good(plane: &Plane, entry: &Entry, refusal: &Refusal) {
    let (physical, due_ms) = (entry.physical, entry.due_ms);
    let mut said = plane.delay.for_good.borrow_mut();
    if said.is_news(refusal, physical) {
        tracing::error!(physical, due_ms, %refusal, "a delayed message is refused for good");
    }
}

/// An entry whose topic is missing is tried again for a while, then given up.
fn wait_for_topic(plane: &Rc<Plane>, entry: Entry, why: &str) {
    let now_ms = wall_now_ms();
    let until_ms = entry.due_ms.saturating_add(MISSING_TOPIC_MS_MAX);
    if now_ms >= until_ms {
        return drop_entry(plane, entry, why);
    }
    let at_ms = until_ms.min(now_ms + MISSING_TOPIC_MS);
    plane.delay.board_mut().try_again(entry, at_ms);
}

/// Gives up an entry whose record can't be delivered, ever: kept, it would keep its segment and all
/// behind it.
pub(super) fn drop_entry(plane: &Rc<Plane>, entry: Entry, why: &str) {
    tracing::error!(
        physical = entry.physical,
        due_ms = entry.due_ms,
        why,
        "a delayed message can't be delivered"
    );
    let mut board = plane.delay.board_mut();
    board.totals.dropped += 1;
    board.finish(entry, None);
}

/// The copy of a parked record for its real queue, and the parked record's own offset.
fn supply_of(
    plane: &Rc<Plane>,
    record: &Bytes,
) -> Result<(SupplyRecord, QueueOffset), Undeliverable> {
    let view =
        RecordView::parse(record).map_err(|error| Undeliverable::ForGood(error.to_string()))?;
    let property = |wanted| {
        properties::get(view.properties, wanted)
            .ok_or_else(|| Undeliverable::ForGood(format!("it has no property {wanted}")))
    };
    let (topic, queue) = (property(name::REAL_TOPIC)?, property(name::REAL_QUEUE_ID)?);
    if system_topic::is_not_sendable(topic) {
        // No send was parked for it: whoever wrote that would end halves, or make records owed.
        let why = format!("topic {topic} takes no messages of clients");
        return Err(Undeliverable::ForGood(why));
    }
    let topics = plane.topics.borrow();
    let Some(entry) = topics.get(topic) else {
        let why = format!("its topic {topic} was deleted");
        return Err(Undeliverable::NoTopic(why));
    };
    let queues = entry
        .config
        .write_queue_nums
        .max(entry.config.read_queue_nums);
    let queue: i32 = queue.parse().unwrap_or(0).max(0);
    // The topic may have shrunk meanwhile: no consumer would look beyond its queues.
    let queue = if queue < queues {
        queue
    } else {
        queue % queues.max(1)
    };
    let key = QueueKey {
        topic: entry.id,
        queue: QueueId(u16::try_from(queue).unwrap_or(0)),
    };
    let supply = SupplyRecord {
        key,
        topic: entry.clone(),
        flag: view.flag,
        sys_flag: view.sys_flag,
        born_ms: view.born_timestamp,
        born_host: view.born_host,
        reconsume_times: view.reconsume_times,
        prepared_offset: view.prepared_transaction_offset,
        body: record.slice_ref(view.body),
        properties: delivered_properties(record, &view),
        owed: None,
    };
    let parked_at = QueueOffset(u64::try_from(view.queue_offset).unwrap_or(0));
    Ok((supply, parked_at))
}

/// As parked; a timed message says when it was parked and taken out.
fn delivered_properties(record: &Bytes, view: &RecordView<'_>) -> Bytes {
    if view.topic != system_topic::TIMER_TOPIC {
        return record.slice_ref(view.properties.as_bytes());
    }
    let mut out = Vec::with_capacity(view.properties.len() + 80);
    let times = [
        (name::TIMER_ENQUEUE_MS, view.store_timestamp.to_string()),
        (name::TIMER_DEQUEUE_MS, wall_now_ms().to_string()),
    ];
    for (name, value) in &times {
        properties::append(&mut out, name, value);
    }
    out.extend_from_slice(view.properties.as_bytes());
    if out.len() > gantry_protocol::message::PROPERTIES_BYTES_MAX {
        return record.slice_ref(view.properties.as_bytes());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_broken_is_said_once_and_tried_less_and_less_often() {
        let (faults, mut board) = (Faults::default(), Board::default());
        let entry = Entry {
            due_ms: 1,
            physical: 7,
            bytes: 9,
            queue: 0,
        };
        board.due.insert(entry);
        assert_eq!(board.take_due(u64::MAX, (9, 9)), [entry]);
        let mut waits_ms = Vec::new();
        for _ in 0..7 {
            put_back(&faults, &mut board, vec![(entry, "full".to_owned())], 100);
            waits_ms.push(board.next_ms().unwrap() - 100);
            assert_eq!(board.take_due(u64::MAX, (9, 9)), [entry]);
        }
        let expected = [1000, 2000, 4000, 8000, 16_000, 16_000, 16_000];
        assert_eq!(waits_ms, expected);
        assert!(!faults.met().1, "no news");
        // Something else was delivered, this one still waits.
        board.try_again(entry, 200);
        put_back(&faults, &mut board, Vec::new(), 100);
        assert!(!faults.met().1);
        assert_eq!(board.take_due(u64::MAX, (9, 9)), [entry]);
        put_back(&faults, &mut board, Vec::new(), 100);
        assert_eq!(faults.met(), (FAULT_MS, true));
    }
}
