//! What the control plane tells this core.
//!
//! **Owns** the handling of `ToData`, in order.
//! **Lives on** each data core.
//! **Invariants** a catalog change is applied before a later message is looked at, so a heartbeat's
//! reply never overtakes its subscriptions (trap 62). No suspended pull outlives its rights.
//! **Limits** a batch is what the mailbox gives.
//! **Not here** the mailbox (runtime), answers of single shards (`shard::questions`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use gantry_runtime::metrics::Refused;
use gantry_storage::units::{QueueKey, QueueOffset, TopicId};

use crate::data::catalog::{Catalog, PERM_READ};
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::shard::pulls::Waiter;
use crate::data::transactions::moves::open_halves;
use crate::refusal::{DISK_FULL, Refusal};
use crate::seam::{
    Answer, CatalogChange, CoreProfile, OffsetRow, Question, ResetTo, StoreReport, Ticket,
    ToControl, ToData,
};

/// Rights that suspended pulls may have lost by a change. `RocketMQ` checks again when it wakes one
/// (`PullRequestHoldService`, 5.5.0); here they learn it at once, by asking again.
enum Lost {
    /// Those of every pull.
    Broker,
    /// Those of a topic's queues from this number on.
    Topic(TopicId, u16),
    /// A group's.
    Group(Arc<str>),
}

impl Lost {
    fn by(change: &CatalogChange, now: &Catalog) -> Option<Self> {
        match change {
            CatalogChange::TopicPut(entry) => {
                let (was, is) = (&now.topic(&entry.config.name)?.config, &entry.config);
                if was.perm & PERM_READ != 0 && is.perm & PERM_READ == 0 {
                    return Some(Self::Topic(entry.id, 0));
                }
                let left = u16::try_from(is.read_queue_nums).unwrap_or(0);
                let has_fewer = is.read_queue_nums < was.read_queue_nums;
                has_fewer.then_some(Self::Topic(entry.id, left))
            }
            CatalogChange::GroupPut(entry) => {
                let was = &now.group(&entry.name)?.entry;
                let had = (
                    was.config.consume_enable,
                    was.config.consume_broadcast_enable,
                );
                let has = (
                    entry.config.consume_enable,
                    entry.config.consume_broadcast_enable,
                );
                let is_forbidden = !entry.forbidden.is_subset(&was.forbidden);
                let has_less = had.0 && !has.0 || had.1 && !has.1 || is_forbidden;
                has_less.then(|| Self::Group(Arc::clone(&entry.name)))
            }
            CatalogChange::GroupGone(name) => Some(Self::Group(Arc::clone(name))),
            CatalogChange::BrokerPermission(permission) => {
                (permission & PERM_READ == 0).then_some(Self::Broker)
            }
            // A topic's queues go with it, and tell whoever waits there.
            CatalogChange::TopicGone(_)
            | CatalogChange::Topics(_)
            | CatalogChange::Requester(_) => None,
        }
    }

    fn by_pull(&self, waiter: &Waiter) -> bool {
        match self {
            Self::Broker => true,
            Self::Topic(topic, left) => waiter.key.topic == *topic && waiter.key.queue.0 >= *left,
            Self::Group(group) => *waiter.pull.group == **group,
        }
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Handles a batch from the control plane.
    pub fn on_control(self: &Rc<Self>, batch: &mut Vec<ToData>) {
        for message in batch.drain(..) {
            match message {
                ToData::Catalog(change) => self.on_catalog(change),
                ToData::Write { peer, frame } => {
                    self.host.write(peer, |out| out.extend_from_slice(&frame));
                }
                ToData::Close(peer) => self.host.close_peer(peer),
                ToData::Resolved { ticket, outcome } => self.resume(ticket, &outcome),
                ToData::ForgetGroup(group) => {
                    self.shards().for_each(|shard| shard.drop_group(&group));
                }
                ToData::Ask { ticket, question } => self.answer_control(ticket, question),
                ToData::Errand { ticket, errand } => self.run_errand(ticket, errand),
                ToData::Loaded => {}
                ToData::OffsetsLoaded(rows) => self.load_offsets(&rows),
            }
        }
    }

    fn on_catalog(&self, change: CatalogChange) {
        let lost = Lost::by(&change, &self.catalog.borrow());
        let changed = self.catalog.borrow_mut().apply(change);
        if let Some(lost) = lost {
            self.shards()
                .for_each(|shard| shard.ask_again(|waiter| lost.by_pull(waiter)));
        }
        let Some((old, new)) = changed else { return };
        let catalog = self.catalog.borrow();
        for (topic, wanted) in new.resubscribed(&old) {
            let Some(topic) = catalog.topic(topic) else {
                continue;
            };
            for shard in self.shards() {
                shard.resubscribed(topic.id, &new.entry.name, wanted);
            }
        }
    }

    fn load_offsets(&self, rows: &[OffsetRow]) {
        let beyond = Cell::new(0_usize);
        self.each_own(rows, |shard, row| {
            beyond.set(beyond.get() + usize::from(shard.load_offset(row)));
        });
        if beyond.get() > 0 {
            let positions = beyond.get();
            tracing::warn!(
                positions,
                "positions beyond the end of their queues go back to it"
            );
        }
    }

    /// Gives the shards of this core what is theirs.
    fn each_own(&self, rows: &[OffsetRow], give: impl Fn(&Shard<S, H>, &OffsetRow)) {
        for row in rows {
            if let Some(shard) = self.shard_of(row.queue) {
                give(&shard, row);
            }
        }
    }

    fn answer_control(self: &Rc<Self>, ticket: Ticket, question: Question) {
        let here = Rc::clone(self);
        let is_housekeeping = matches!(question, Question::Ages(_));
        let work = async move {
            let answer = here.answer(question).await;
            let core = here.number;
            // The question was small and came from a plane that is alive: wait for room if need be.
            let mut message = ToControl::Answer {
                core,
                ticket,
                answer,
            };
            while let Err(back) = here.host.offer_control(message) {
                message = *back;
                here.host.sleep_ms(1).await;
            }
        };
        if is_housekeeping {
            self.host.spawn_clean(work);
        } else {
            self.host.spawn(work);
        }
    }

    async fn answer(self: &Rc<Self>, question: Question) -> Answer {
        match question {
            Question::Bounds(keys) => Answer::Bounds(self.bounds_of(&keys).await),
            Question::Offsets {
                group,
                topics,
                with_times,
            } => {
                let (group, topics) = (group.as_deref(), topics.as_deref());
                self.reports_of(group, topics, with_times).await
            }
            Question::FindOffsets(rows) => Answer::FoundOffsets(self.find_offsets(&rows).await),
            Question::ResetOffsets(rows) => {
                self.each_own(&rows, Shard::reset_offset);
                Answer::Done
            }
            Question::PutOffsets(rows) => {
                self.each_own(&rows, Shard::put_offset);
                Answer::Done
            }
            Question::StoreReport => Answer::Store(self.store_report().await),
            Question::Profile => Answer::Profile(Box::new(self.latency_profile())),
            Question::DropTopic(topic) => {
                self.shards().for_each(|shard| shard.drop_topic(topic));
                Answer::Done
            }
            Question::Ages(own) => Answer::Ages(self.ages(&own).await),
            Question::OpenHalves { shard, move_below } => match self.shard(shard) {
                Some(shard) => Answer::OpenHalves(open_halves(&shard, move_below).await),
                None => Answer::Done,
            },
            Question::ListHalves {
                shard,
                from,
                is_one,
                count_max,
            } => match self.shard(shard) {
                Some(shard) => Answer::Halves(shard.list_halves(from, is_one, count_max).await),
                None => Answer::Done,
            },
            Question::DropSegments(plan) => {
                self.drop_segments(&plan);
                Answer::Done
            }
            Question::RefuseWrites(reason) => {
                self.desk.refuse_writes(reason);
                Answer::Done
            }
            Question::Record(physical) => Answer::Record(self.record_at(physical).await),
            Question::StoreTimes(rows) => self.store_times(&rows).await,
            Question::IndexRows {
                queue,
                from,
                count_max,
            } => match self.shard_of(queue) {
                Some(shard) => Answer::IndexRows(shard.index_rows(queue, from, count_max).await),
                None => Answer::IndexRows(None),
            },
            Question::DropUnknownTopics { known, below } => {
                for shard in self.shards() {
                    shard.drop_unknown_topics(&known, below);
                }
                Answer::Done
            }
        }
    }

    fn latency_profile(&self) -> CoreProfile {
        let now_us = self.host.mono_us_now();
        CoreProfile {
            core: self.number,
            now_us,
            counts: self.host.counts(),
            refused: self.refusals(),
            snapshot: self.host.profile().snapshot(now_us),
        }
    }

    fn refusals(&self) -> Vec<Refused> {
        let mut refused = self.host.profile().refusals();
        let count = self.desk.refused_full();
        if count > 0 {
            let (stage, cause) = DISK_FULL;
            refused.push(Refused {
                stage,
                cause,
                count,
            });
        }
        refused
    }

    async fn bounds_of(&self, keys: &[QueueKey]) -> Vec<crate::seam::QueueReport> {
        let mut reports = Vec::new();
        for key in keys {
            if let Some(shard) = self.shard_of(*key) {
                reports.push(shard.report(*key).await);
            }
        }
        reports
    }

    async fn reports_of(
        &self,
        group: Option<&str>,
        topics: Option<&[TopicId]>,
        with_times: bool,
    ) -> Answer {
        let mut reports = Vec::new();
        for shard in self.shards() {
            reports.extend(shard.group_reports(group, topics, with_times).await);
        }
        Answer::Offsets(reports)
    }

    async fn find_offsets(
        &self,
        rows: &[(QueueKey, ResetTo)],
    ) -> Result<Vec<(QueueKey, QueueOffset)>, Refusal> {
        let mut found = Vec::new();
        for (key, to) in rows {
            if let Some(shard) = self.shard_of(*key) {
                found.push((*key, shard.find_offset(*key, *to).await?));
            }
        }
        Ok(found)
    }

    async fn store_times(&self, rows: &[(QueueKey, QueueOffset)]) -> Answer {
        let mut times = Vec::new();
        for (key, offset) in rows {
            if let Some(shard) = self.shard_of(*key) {
                times.push((*key, *offset, shard.store_ms(*key, *offset).await));
            }
        }
        Answer::StoreTimes(times)
    }

    async fn store_report(&self) -> StoreReport {
        let mut report = StoreReport::default();
        for shard in self.shards() {
            report.totals.add(&shard.totals());
            let (waiting_count, waiting_ms) = shard.waiting();
            report.waiting_count += waiting_count;
            report.waiting_ms = report.waiting_ms.max(waiting_ms);
            report.staged_bytes += shard.store().staged().0;
            report.open_halves += u64::try_from(shard.open_halves()).unwrap_or(u64::MAX);
            let earliest = shard.earliest_ms().await;
            if earliest > 0 && (report.earliest_ms == 0 || earliest < report.earliest_ms) {
                report.earliest_ms = earliest;
            }
        }
        report
    }
}
