//! A shard's share of transactions: its open halves, its ends, its op records.
//!
//! **Owns** the table of open halves, ends that wait for their turn, what is owed to the op queue.
//! **Lives on** the data core of the shard.
//! **Invariants** a half is open from the pass that stores it; the record of its end is appended in
//! the pass that stores the real message, behind it, so both become durable together or the end is
//! repeated. The op queue is written here and nowhere else.
//! **Limits** [`HALVES_MAX`] open halves; ends are charged to the shard's inboxes,
//! [`TURN_ENDS_MAX`] a pass.
//! **Not here** what an end must fulfil (`data::transactions::ends`), when a half is checked
//! (`data::transactions::checks`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gantry_protocol::code::response;
use gantry_protocol::message::body_crc;
use gantry_runtime::net::PeerRef;
use gantry_storage::error::{AppendError, ReadError};
use gantry_storage::shard_store::{NewRecord, ReadLimits};
use gantry_storage::units::{QueueKey, QueueOffset, ShardId, StoreTimestamp};

use super::timing::timing_of;
use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::append::{Ack, Pending};
use crate::data::queue::asker::Asker;
use crate::data::queue::store::QueueStore;
use crate::data::router::{CoreWord, core_of_shard};
use crate::data::transactions::checks::nobody;
use crate::data::transactions::halves::{Due, EndsAt, Halves};
use crate::data::words::{Append, End, ReplyTo, TransactionStep};
use crate::refusal::{BusyCause, ForGood, Refusal};
use crate::seam::TopicEntry;
use crate::transaction::{OpKind, OpText};

/// Ends looked at in a pass: as many as appends in a turn.
pub const TURN_ENDS_MAX: usize = super::TURN_APPENDS_MAX;
/// Open halves of one shard: at 85 bytes each a sixteenth of the default memory limit.
pub const HALVES_MAX: usize = 3_000_000;
/// Until an op record that the store refused is tried again, unless it takes something else.
const OPS_AGAIN_US: u64 = 1_000_000;
/// One record, whatever its size.
const ONE: ReadLimits = ReadLimits {
    messages: 1,
    bytes: 1,
    entries_examined: 1,
};

/// The queues of transactions on one shard.
#[derive(Debug, Clone)]
pub struct TransactionQueues {
    /// Where halves are.
    pub half: QueueKey,
    /// Topic of `half`.
    pub half_topic: Arc<TopicEntry>,
    /// Where their ends are reported.
    pub op: QueueKey,
    /// Topic of `op`.
    pub op_topic: Arc<TopicEntry>,
    /// Where halves are given up to.
    pub given_up: QueueKey,
    /// Topic of `given_up`.
    pub given_up_topic: Arc<TopicEntry>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Transacting {
    queues: Option<Rc<TransactionQueues>>,
    pub(super) halves: Halves,
    ends: VecDeque<(ReplyTo, End)>,
    /// Ends whose half record must be read from the device.
    cold: VecDeque<(ReplyTo, End)>,
    is_reading: bool,
    /// How many ends of a connection wait for such a read, or come back from one: its later ends go
    /// the same way, so that none passes another. No more than the inboxes are charged for.
    behind_reads: HashMap<PeerRef, usize>,
    is_checking: bool,
    moves_under_way: usize,
    ended: Vec<QueueOffset>,
    checked: Vec<QueueOffset>,
    text: OpText,
    /// The store refused an op record then, µs, for a reason that a pass or two don't end.
    ops_refused_us: Option<u64>,
    /// Halves whose end, or copy, no queue here will take, by shard and offset.
    for_good: ForGood<(ShardId, QueueOffset)>,
}

impl Transacting {
    fn owed(&mut self, kind: OpKind) -> &mut Vec<QueueOffset> {
        match kind {
            OpKind::Ended => &mut self.ended,
            OpKind::Checked => &mut self.checked,
        }
    }

    pub(super) fn owes(&self) -> bool {
        !self.ended.is_empty() || !self.checked.is_empty()
    }

    /// Whether the store may be asked again to take an op record: it has just taken something else,
    /// or some time has passed.
    fn may_store_ops(&self, has_stored: bool, now_us: u64) -> bool {
        let waits = |since_us| now_us.saturating_sub(since_us) < OPS_AGAIN_US;
        has_stored || !self.ops_refused_us.is_some_and(waits)
    }

    /// No half below this offset is open, as far as the log will say.
    fn floor(&self) -> QueueOffset {
        let owed = self.ended.iter().chain(&self.checked).min();
        let open = self.halves.floor();
        owed.map_or(open, |owed| open.min(*owed))
    }
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// The table as rebuilt from the log; from here on this shard takes halves and ends.
    pub fn begin_transactions(&self, queues: Rc<TransactionQueues>, halves: Halves) {
        let mut inner = self.inner.borrow_mut();
        inner.transacting.queues = Some(queues);
        inner.transacting.halves = halves;
    }

    /// The queues of transactions.
    pub fn transaction_queues(&self) -> Option<Rc<TransactionQueues>> {
        self.inner.borrow().transacting.queues.clone()
    }

    /// Open halves.
    pub fn open_halves(&self) -> usize {
        self.inner.borrow().transacting.halves.len()
    }

    /// Looks at the table.
    pub fn with_halves<R>(&self, look: impl FnOnce(&Halves) -> R) -> R {
        look(&self.inner.borrow().transacting.halves)
    }

    /// Whether another half can be opened.
    pub(super) fn admit_half(
        &self,
        inner: &Inner,
        key: QueueKey,
        topic: &str,
    ) -> Result<(), Refusal> {
        if inner.transacting.halves.len() < HALVES_MAX {
            return Ok(());
        }
        let remark = format!(
            "shard {}, topic {topic} queue {}, {HALVES_MAX} half messages are open",
            self.id, key.queue
        );
        Err(self.host.busy(BusyCause::Transactions, &remark))
    }

    /// Takes an end of a transaction.
    ///
    /// # Errors
    /// The inboxes are full, or the shard is closed.
    pub fn post_end(&self, reply: ReplyTo, end: End) -> Result<(), Refusal> {
        let mut inner = self.inner.borrow_mut();
        let Some(queues) = inner.transacting.queues.clone() else {
            let remark = "the broker is starting";
            return Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark));
        };
        self.admit(&inner, queues.half, &queues.half.topic, End::BYTES)?;
        inner.inbox_count += 1;
        inner.inbox_bytes += End::BYTES;
        inner.transacting.ends.push_back((reply, end));
        self.signal.set();
        Ok(())
    }

    /// Whether [`Shard::take_ends`] would give some now.
    pub fn has_ends_to_do(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.transacting.ends.is_empty() && inner.stalled_us.is_none()
    }

    /// Takes the ends of this pass.
    pub fn take_ends(&self, out: &mut Vec<(ReplyTo, End)>) {
        let mut inner = self.inner.borrow_mut();
        let count = inner.transacting.ends.len().min(TURN_ENDS_MAX);
        out.extend(inner.transacting.ends.drain(..count));
        inner.inbox_count = inner.inbox_count.saturating_sub(count);
        inner.inbox_bytes = inner.inbox_bytes.saturating_sub(count * End::BYTES);
    }

    /// Where the half that its producer knows as `first` is, if nobody has decided it.
    ///
    /// # Errors
    /// What an end of it is told.
    pub fn undecided_half(&self, first: QueueOffset) -> Result<QueueOffset, Refusal> {
        let inner = self.inner.borrow();
        let halves = &inner.transacting.halves;
        let found = halves.find(first);
        match found.filter(|offset| halves.is_undecided(*offset)) {
            Some(offset) => Ok(offset),
            None if found.is_some() => Err(no_half(first, "is being ended already")),
            None => Err(no_half(first, "is not open: it has ended, or never was")),
        }
    }

    /// The half's record, from memory.
    pub fn half_in_memory(&self, half: QueueKey, offset: QueueOffset) -> Option<Bytes> {
        let mut out = BytesMut::new();
        let read = self.store.read_hot(half, offset, ONE, &|_| true, &mut out);
        read.filter(|read| read.found == 1).map(|_| out.freeze())
    }

    /// The record at an offset of the half queue, or of the op queue; none where there is none that
    /// can be read.
    ///
    /// # Errors
    /// The device failed.
    pub async fn half_record(
        &self,
        half: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<Bytes>, ReadError> {
        if let Some(record) = self.half_in_memory(half, offset) {
            return Ok(Some(record));
        }
        let mut out = BytesMut::new();
        let read = self.store.read(half, offset, ONE, &|_| true, &mut out);
        Ok((read.await?.found == 1).then(|| out.freeze()))
    }

    /// Whether an end of this connection would pass an earlier one that needs the device.
    pub fn must_wait_for_reads(&self, peer: PeerRef) -> bool {
        let inner = self.inner.borrow();
        inner.transacting.behind_reads.contains_key(&peer)
    }

    /// An end is back from [`Shard::read_for_end`], and its turn has come.
    pub fn end_was_read(&self, peer: PeerRef) {
        let behind = &mut self.inner.borrow_mut().transacting.behind_reads;
        if let Entry::Occupied(mut left) = behind.entry(peer) {
            *left.get_mut() = left.get().saturating_sub(1);
            if *left.get() == 0 {
                left.remove();
            }
        }
    }

    /// An end needs its half's record from the device, or follows one that does: it comes back to
    /// the inbox with it.
    pub fn read_for_end(self: &Rc<Self>, half: QueueKey, reply: ReplyTo, end: End) {
        let mut inner = self.inner.borrow_mut();
        inner.inbox_count += 1;
        inner.inbox_bytes += End::BYTES;
        let transacting = &mut inner.transacting;
        *transacting.behind_reads.entry(reply.peer).or_default() += 1;
        transacting.cold.push_back((reply, end));
        if std::mem::replace(&mut inner.transacting.is_reading, true) {
            return;
        }
        let shard = Rc::clone(self);
        self.host.spawn(async move {
            // One after the other: reading ahead makes the next one cheap.
            while let Some((reply, mut end)) = shard.next_cold_end() {
                let offset = shard.with_halves(|halves| halves.find(end.half));
                let read = match offset {
                    Some(offset) => shard.open_half(half, offset).await,
                    None => Ok(None),
                };
                let read = read.map_err(|error| error.to_string());
                end.record = Some(read.and_then(|record| {
                    record.ok_or_else(|| "the log does not have its record".to_owned())
                }));
                let mut inner = shard.inner.borrow_mut();
                inner.transacting.ends.push_back((reply, end));
                shard.signal.set();
            }
        });
    }

    fn next_cold_end(&self) -> Option<(ReplyTo, End)> {
        let mut inner = self.inner.borrow_mut();
        let next = inner.transacting.cold.pop_front();
        inner.transacting.is_reading = next.is_some();
        next
    }

    /// An end of the half at `offset` begins; until it is stored, no other one does.
    pub fn begin_end(&self, offset: QueueOffset, at: EndsAt) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.transacting.halves.begin_end(offset, at)
    }

    /// It came to nothing.
    pub fn cancel_end(&self, offset: QueueOffset) {
        self.inner
            .borrow_mut()
            .transacting
            .halves
            .cancel_end(offset);
    }

    /// The half at `offset` has ended; the op record is written with the next pass.
    pub fn half_ended(&self, offset: QueueOffset) {
        let mut inner = self.inner.borrow_mut();
        if inner.transacting.halves.ended(offset) {
            inner.transacting.ended.push(offset);
            self.signal.set();
        }
    }

    /// Stores what an end or a check leads to; it was admitted when it came.
    pub fn post_step(&self, key: QueueKey, reply: ReplyTo, append: Append) {
        let mut inner = self.inner.borrow_mut();
        inner.inbox_count += 1;
        inner.inbox_bytes += append.bytes();
        let asker = Asker::of(reply, &append);
        inner.push_append(key, Pending::new(asker, append, self.host.mono_us()));
        self.signal.set();
    }

    /// Stores a copy of an open half. It joins no inbox's limits: there are few, and they free
    /// disk.
    pub fn post_move(&self, half: QueueKey, append: Append) {
        self.inner.borrow_mut().transacting.moves_under_way += 1;
        self.post_step(half, nobody(), append);
    }

    /// Copies that are not yet stored.
    pub fn moves_under_way(&self) -> usize {
        self.inner.borrow().transacting.moves_under_way
    }

    /// Begins a round of checks, unless one is under way or nothing is due, or what the last one
    /// did can't be told to the log: so no more is ever owed of checks than halves are open.
    pub fn begin_checks(&self, now_ms: u64) -> bool {
        let mut inner = self.inner.borrow_mut();
        let transacting = &mut inner.transacting;
        let due = transacting.halves.next_due_ms();
        let may_begin = !transacting.is_checking && transacting.checked.is_empty();
        let begins = may_begin && due.is_some_and(|due_ms| due_ms <= now_ms);
        transacting.is_checking |= begins;
        begins
    }

    /// The round is over.
    pub fn end_checks(&self) {
        self.inner.borrow_mut().transacting.is_checking = false;
    }

    /// Halves to be checked now.
    pub fn take_due_halves(&self, now_ms: u64, again_ms: u64, most: usize) -> Vec<Due> {
        let mut inner = self.inner.borrow_mut();
        inner.transacting.halves.take_due(now_ms, again_ms, most)
    }

    /// The half is being checked: counted, and told to the log with the next pass. None when it has
    /// been decided meanwhile.
    pub fn half_checked(&self, offset: QueueOffset, again_ms: u64) -> Option<u32> {
        let mut inner = self.inner.borrow_mut();
        let transacting = &mut inner.transacting;
        if !transacting.halves.is_undecided(offset) {
            return None;
        }
        let checks = transacting.halves.checked(offset, again_ms)?;
        transacting.checked.push(offset);
        self.signal.set();
        Some(checks)
    }

    /// What the records stored in this pass mean for transactions; then the op records.
    pub(super) fn after_stored(&self, inner: &mut Inner) -> bool {
        for ack in &inner.acks {
            let Asker::Transaction(_, step) = ack.asker else {
                continue;
            };
            let transacting = &mut inner.transacting;
            match step {
                TransactionStep::Half { due_ms } => {
                    transacting.halves.opened(ack.offset, due_ms, 0);
                }
                TransactionStep::Moved { first } => {
                    transacting.moves_under_way = transacting.moves_under_way.saturating_sub(1);
                    let old = transacting.halves.moved(first, ack.offset);
                    // Either the old record or the copy counts no longer.
                    transacting.ended.push(old.unwrap_or(ack.offset));
                }
                TransactionStep::Ending { home, half } if home == self.id => {
                    if transacting.halves.ended(half) {
                        transacting.ended.push(half);
                    }
                }
                // Told when the answer may leave, see `supply::acknowledge`.
                TransactionStep::Ending { .. } => {}
            }
        }
        self.store_ops(inner)
    }

    /// Writes what is owed to the op queue. A full tail leaves the rest for a later pass. True when
    /// anything was written, whatever came then: it must be sealed, as a run that is left open
    /// keeps the tail from changing its size and, once it wants to, from taking anything.
    fn store_ops(&self, inner: &mut Inner) -> bool {
        if !inner.transacting.owes() {
            return false;
        }
        let Some(queues) = inner.transacting.queues.clone() else {
            return false;
        };
        let now_us = self.host.mono_us();
        if !inner
            .transacting
            .may_store_ops(!inner.acks.is_empty(), now_us)
        {
            return false;
        }
        let mut stored = false;
        for kind in [OpKind::Ended, OpKind::Checked] {
            match self.store_ops_of(inner, kind, &queues, &mut stored) {
                Ok(()) => inner.transacting.ops_refused_us = None,
                Err(AppendError::TailFull { .. }) => {
                    inner.stalled_us.get_or_insert(now_us);
                    break;
                }
                Err(error) => {
                    if inner.transacting.ops_refused_us.replace(now_us).is_none() {
                        let shard = self.id;
                        tracing::error!(%shard, %error, "op records can't be stored for now");
                    }
                    break;
                }
            }
        }
        stored
    }

    fn store_ops_of(
        &self,
        inner: &mut Inner,
        kind: OpKind,
        queues: &TransactionQueues,
        stored: &mut bool,
    ) -> Result<(), AppendError> {
        let transacting = &mut inner.transacting;
        let mut text = std::mem::take(&mut transacting.text);
        let mut outcome = Ok(());
        while !transacting.owed(kind).is_empty() {
            let owed = transacting.owed(kind);
            let count = text.fill(owed);
            let reported: Vec<QueueOffset> = owed.drain(..count).collect();
            // The floor after this record, which speaks for what it reports.
            text.finish(kind, transacting.floor());
            let known = transacting.halves.next();
            self.in_store.set(true);
            let appended = self.store.append(&self.op_record(queues, &text, known));
            self.in_store.set(false);
            if let Err(error) = appended {
                transacting.owed(kind).extend(reported);
                outcome = Err(error);
                break;
            }
            *stored = true;
        }
        inner.transacting.text = text;
        outcome
    }

    fn op_record<'a>(
        &self,
        queues: &'a TransactionQueues,
        text: &'a OpText,
        known: QueueOffset,
    ) -> NewRecord<'a> {
        let now_ms = self.host.wall_ms();
        NewRecord {
            key: queues.op,
            topic: &queues.op_topic.config.name,
            flag: 0,
            sys_flag: 0,
            born_timestamp: i64::try_from(now_ms).unwrap_or(i64::MAX),
            born_host: self.rules.store_host,
            store_timestamp: Some(StoreTimestamp(now_ms)),
            store_host: self.rules.store_host,
            reconsume_times: 0,
            prepared_offset: 0,
            body: &text.body,
            body_crc: body_crc(&text.body),
            properties: &text.properties,
            // Lets a rebuild find its place in the op queue without reading records.
            tags_code: i64::try_from(known.0).unwrap_or(i64::MAX),
            key_hashes: &[],
        }
    }

    /// Answers whoever a step was done for, and tells the half's shard if it is another one.
    pub(super) fn answer_step(
        &self,
        ack: &Ack,
        (to, step): (ReplyTo, TransactionStep),
        code: i32,
        remark: Option<&str>,
        now_us: u64,
    ) {
        match step {
            TransactionStep::Half { .. } => {
                let timing = timing_of(to, ack, now_us);
                let to = (to, &timing);
                self.rules.marks.write(&*self.host, to, ack, code, remark);
            }
            TransactionStep::Moved { .. } => {}
            TransactionStep::Ending { home, half } => {
                if home != self.id && code == response::SUCCESS {
                    let word = CoreWord::HalfEnded(home, half);
                    let target = core_of_shard(home, self.rules.cores);
                    // A full road: the half stays open, is checked, and its message comes twice.
                    if self.host.send_core(target, word).is_err() {
                        tracing::warn!(%half, "an end could not be told to its half's shard");
                    }
                }
                self.host.reply(to, code, remark, None, &[]);
            }
        }
    }

    /// A step's record was not stored.
    pub(super) fn step_failed(&self, inner: &mut Inner, step: TransactionStep, refusal: &Refusal) {
        let transacting = &mut inner.transacting;
        let (home, half) = match step {
            TransactionStep::Ending { home, half } => {
                if home == self.id {
                    transacting.halves.cancel_end(half);
                }
                (home, half)
            }
            TransactionStep::Moved { first } => {
                let left = &mut transacting.moves_under_way;
                *left = left.saturating_sub(1);
                (self.id, first)
            }
            TransactionStep::Half { .. } => return,
        };
        // Its producer says the end one-way, and a check or a move has no client at all.
        if transacting.for_good.is_news(refusal, (home, half)) {
            tracing::error!(shard = %home, %half, %refusal, "a half message is refused for good");
        }
    }

    /// Of how many halves that was said.
    #[cfg(test)]
    pub fn refused_for_good(&self) -> usize {
        self.inner.borrow().transacting.for_good.count()
    }
}

fn no_half(first: QueueOffset, why: &str) -> Refusal {
    let remark = format!("the half message at queue offset {first} {why}");
    Refusal::new(response::SYSTEM_ERROR, remark)
}
