//! `END_TRANSACTION` (37): a producer's word on its half.
//!
//! **Owns** what an end must fulfil, and the message a commit makes of a half.
//! **Lives on** the session's core (the header) and on the core of the half's shard (the rest).
//! **Invariants** only an open half is ended, once; a repeated or late end changes nothing. Ends
//! that came on one connection keep their order, wherever their halves must be read from.
//! A commit stores a message: while sends are refused for a full disk, so is it, and its half stays
//! open. "Unknown" gets no answer (trap 84): the check asks again.
//! **Limits** `shard::transactions::TURN_ENDS_MAX` a pass.
//! **Not here** the table and the op records (`shard::transactions`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::command::HeaderView;
use gantry_protocol::message::body_crc;
use gantry_protocol::properties::SendProperties;
use gantry_protocol::request::transaction::EndTransaction;
use gantry_protocol::{sys_flag, system_topic};
use gantry_storage::address::locate;
use gantry_storage::units::{PhysicalOffset, QueueId, QueueKey, QueueOffset, ShardId};

use crate::data::catalog::Catalog;
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::requests::send::delay::{Delay, PARKED_BYTES_MAX};
use crate::data::requests::send::{marks, parking};
use crate::data::router::CoreWord;
use crate::data::shard::Shard;
use crate::data::transactions::halves::EndsAt;
use crate::data::words::{Append, End, Rare, ReplyTo, TransactionStep, Verdict};
use crate::refusal::{Refusal, quoted};
use crate::seam::TopicEntry;
use crate::transaction::Half;

/// What RocketMQ answers to requests about halves that it can't do.
pub(super) fn wrong(remark: impl Into<String>) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, remark.into())
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// 37.
    pub(in crate::data) fn end_transaction(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        to: ReplyTo,
    ) -> Result<(), Refusal> {
        let header = EndTransaction::parse(view).map_err(Refusal::malformed)?;
        let verdict = match header.commit_or_rollback {
            sys_flag::TRANSACTION_COMMIT => Verdict::Commit,
            sys_flag::TRANSACTION_ROLLBACK => Verdict::Rollback,
            _ => return Ok(()),
        };
        let physical = PhysicalOffset(header.half_physical.cast_unsigned());
        let place = locate(physical).filter(|(shard, _)| shard.0 < self.shards_count);
        let (shard, _) = place.ok_or_else(|| wrong("The commit log offset wrong"))?;
        let half = u64::try_from(header.half_offset)
            .map_err(|_| wrong("The transaction state table offset wrong"))?;
        if header.producer_group.len() > End::GROUP_BYTES_MAX {
            return Err(wrong("The producer group wrong"));
        }
        let end = End {
            group: Some(header.producer_group.into()),
            half: QueueOffset(half),
            physical: Some(physical),
            verdict,
            from_check: header.from_check,
            record: None,
        };
        self.route_end(shard, to, end)
    }

    /// Hands an end to its half's shard.
    pub(in crate::data) fn route_end(
        &self,
        shard: ShardId,
        to: ReplyTo,
        end: End,
    ) -> Result<(), Refusal> {
        if let Some(shard) = self.shard(shard) {
            return shard.post_end(to, end);
        }
        self.route_to_shard(shard, CoreWord::End(shard, to, end))
    }

    /// The ends of this pass, before the actors' turns.
    pub(in crate::data) fn end_some(self: &Rc<Self>, shard: &Rc<Shard<S, H>>) {
        if !shard.has_ends_to_do() {
            return;
        }
        let mut ends = Vec::new();
        shard.take_ends(&mut ends);
        for (to, end) in ends {
            if end.record.is_some() {
                shard.end_was_read(to.peer);
            }
            if let Err(refusal) = self.end_one(shard, to, end) {
                tracing::debug!(why = refusal.remark, "the end of a transaction is refused");
                self.host.refuse(to, &refusal);
            }
        }
    }

    fn end_one(
        self: &Rc<Self>,
        shard: &Rc<Shard<S, H>>,
        to: ReplyTo,
        mut end: End,
    ) -> Result<(), Refusal> {
        let offset = shard.undecided_half(end.half)?;
        let queues = shard
            .transaction_queues()
            .ok_or_else(|| wrong("the broker is starting"))?;
        let read = end.record.take().or_else(|| {
            // The messages of one producer come in the order in which it committed them.
            let waits = shard.must_wait_for_reads(to.peer);
            let read = (!waits).then(|| shard.half_in_memory(queues.half, offset));
            read.flatten().map(Ok)
        });
        let Some(read) = read else {
            shard.read_for_end(queues.half, to, end);
            return Ok(());
        };
        let record = read.map_err(|why| wrong(format!("the half message: {why}")))?;
        let half = Half::of(&record).ok_or_else(|| wrong("no half message is at this offset"))?;
        self.check_end(&half, &end)?;
        let step = TransactionStep::Ending {
            home: shard.id(),
            half: offset,
        };
        match end.verdict {
            Verdict::Rollback => {
                shard.half_ended(offset);
                self.host.reply(to, response::SUCCESS, None, None, &[]);
            }
            Verdict::Commit => {
                self.desk.check_room()?;
                let (key, append) = self.committed(&half, &record, step)?;
                self.post_end_step(shard, offset, (key, to, append))?;
            }
            Verdict::GiveUp => {
                let append = copied(&half, &record, &queues.given_up_topic, step);
                self.post_end_step(shard, offset, (queues.given_up, to, append))?;
            }
        }
        Ok(())
    }

    /// The checks of `EndTransactionProcessor` (5.5.0), in its order and words.
    fn check_end(&self, half: &Half<'_>, end: &End) -> Result<(), Refusal> {
        if let Some(group) = end.group.as_deref() {
            let now_ms = self.host.wall_ms();
            let timeout_ms = self.settings.transaction_timeout_ms;
            if !end.from_check && half.end_is_late(now_ms, timeout_ms) {
                let remark = "the end comes after the half message's own immunity time; \
                              the next check decides";
                return Err(Refusal::new(response::ILLEGAL_OPERATION, remark));
            }
            if half.sent.producer_group != Some(group) {
                return Err(wrong("The producer group wrong"));
            }
        }
        if half.id.offset != end.half {
            return Err(wrong("The transaction state table offset wrong"));
        }
        if end.physical.is_some_and(|told| told != half.id.physical) {
            return Err(wrong("The commit log offset wrong"));
        }
        Ok(())
    }

    /// The message of a committed half, and its queue.
    fn committed(
        &self,
        half: &Half<'_>,
        record: &Bytes,
        step: TransactionStep,
    ) -> Result<(QueueKey, Append), Refusal> {
        let catalog = self.catalog.borrow();
        let Some(topic) = catalog.topic(half.topic) else {
            // Its half stays open: the topic may come back, and after the last check the message is
            // kept among those given up.
            let remark = format!("the topic {} does not exist", quoted(half.topic));
            return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
        };
        // The topic may have shrunk meanwhile: no consumer would look beyond its queues.
        let queues = u16::try_from(topic.config.queue_nums()).unwrap_or(u16::MAX);
        let key = QueueKey {
            topic: topic.id,
            queue: QueueId(half.queue % queues.max(1)),
        };
        let append = copied(half, record, topic, step);
        let sys_flag =
            sys_flag::with_transaction_type(append.sys_flag, sys_flag::TRANSACTION_COMMIT);
        let mut append = Append { sys_flag, ..append };
        append.rare_mut().prepared_offset = half.id.physical.0.cast_signed();
        self.delayed(half, (key, append), &catalog)
    }

    /// A message that was to wait begins to do so with its commit
    /// (`HookUtils.handleScheduleMessage`, 5.5.0).
    fn delayed(
        &self,
        half: &Half<'_>,
        (key, append): (QueueKey, Append),
        catalog: &Catalog,
    ) -> Result<(QueueKey, Append), Refusal> {
        let (sent, settings) = (half.record.properties, &self.settings);
        let now_ms = self.host.wall_ms();
        let delay = Delay::of(&half.sent, sent, append.sys_flag, settings, now_ms)?;
        let is_dead = system_topic::group_of_dlq_topic(half.topic).is_some();
        let Some((parked, topic)) = parking(catalog, delay)?.filter(|_| !is_dead) else {
            return Ok((key, append));
        };
        let mut properties = Vec::with_capacity(sent.len() + PARKED_BYTES_MAX);
        delay.rewrite(sent, half.topic, half.queue, &mut properties);
        let text = std::str::from_utf8(&properties).unwrap_or_default();
        let marks = marks::of_kept(&SendProperties::scan(text), text);
        let mut append = Append {
            topic: Arc::clone(topic),
            properties: properties.into(),
            marks,
            ..append
        };
        append.rare_mut().owed = delay.time(settings);
        Ok((parked, append))
    }

    fn post_end_step(
        &self,
        shard: &Rc<Shard<S, H>>,
        half: QueueOffset,
        (key, to, append): (QueueKey, ReplyTo, Append),
    ) -> Result<(), Refusal> {
        let is_home = key.shard(self.shards_count) == shard.id();
        let at = if is_home { EndsAt::Home } else { EndsAt::Away };
        shard.begin_end(half, at);
        if is_home && append.owed().is_none() {
            shard.post_step(key, to, append);
            return Ok(());
        }
        // It waits, for which there is a limit, or lies on another shard: its topic was deleted and
        // made again or has fewer queues, or the queue of its delay level does.
        let routed = self.route_append(key, to, append);
        if routed.is_err() {
            shard.cancel_end(half);
        }
        routed
    }
}

/// A half's record as a message of another topic.
pub(super) fn copied(
    half: &Half<'_>,
    record: &Bytes,
    topic: &Arc<TopicEntry>,
    step: TransactionStep,
) -> Append {
    let view = &half.record;
    Append {
        topic: Arc::clone(topic),
        flag: view.flag,
        sys_flag: view.sys_flag & !sys_flag::INNER_BATCH_MASK,
        born_ms: view.born_timestamp,
        born_host: view.born_host,
        reconsume_times: view.reconsume_times,
        body: record.slice_ref(view.body),
        body_crc: body_crc(view.body),
        properties: record.slice_ref(view.properties.as_bytes()),
        marks: marks::of_kept(&half.sent, view.properties),
        rare: Rare {
            step: Some(step),
            ..Rare::default()
        }
        .kept(),
    }
}
