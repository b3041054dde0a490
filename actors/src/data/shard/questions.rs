//! What the control plane and other cores ask of a shard's queues.
//!
//! **Owns** the shard's share of the answers to `seam::Question`, and order locks.
//! **Lives on** the data core of the shard.
//! **Invariants** a queue that was never used answers 0..0; asking wakes no actor.
//! **Limits** none of its own: questions name their queues.
//! **Not here** the mailboxes (`data::orders`), gathering over cores (`data::gather`).

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::response;
use gantry_storage::address;
use gantry_storage::units::{Boundary, QueueKey, QueueOffset, StoreTimestamp, TopicId};

use super::pulls::Waiter;
use super::{Inner, Shard};
use crate::data::filter::subscription::Wanted;
use crate::data::host::Host;
use crate::data::queue::offsets::Commit;
use crate::data::queue::store::QueueStore;
use crate::refusal::Refusal;
use crate::seam::{GroupReport, IndexRow, OffsetRow, QueueReport, ResetTo};

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Takes or renews an order lock.
    pub fn lock_queue(&self, key: QueueKey, group: &Arc<str>, client: &Arc<str>) -> bool {
        let now_ms = self.host.mono_ms();
        self.inner
            .borrow_mut()
            .actor_of(key)
            .state
            .locks
            .lock(group, client, now_ms)
    }

    /// Gives an order lock back.
    pub fn unlock_queue(&self, key: QueueKey, group: &str, client: &str) {
        if let Some(actor) = self.inner.borrow_mut().known(key) {
            actor.state.locks.unlock(group, client);
        }
    }

    /// A position read from the tables at start, when the log is recovered. One beyond the queue's
    /// end becomes the end: the log has lost what was consumed, and what is stored there from now
    /// on is new. True then.
    pub fn load_offset(&self, row: &OffsetRow) -> bool {
        let bounds = self.store.bounds(row.queue);
        let end = bounds.max.max(bounds.min);
        if row.offset > end {
            self.set_offset(row.queue, &row.group, end, false);
            return true;
        }
        let mut inner = self.inner.borrow_mut();
        let offsets = &mut inner.actor_of(row.queue).state.offsets;
        offsets.load(&row.group, row.offset);
        false
    }

    /// Sets a position directly.
    pub fn put_offset(&self, row: &OffsetRow) {
        self.set_offset(row.queue, &row.group, row.offset, false);
    }

    fn set_offset(&self, key: QueueKey, group: &Arc<str>, offset: QueueOffset, one_shot: bool) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let slot = inner.slot_of(key);
        let place = inner.actors.get_mut(slot as usize).and_then(Option::take);
        let Some(mut actor) = place else { return };
        if actor.state.offsets.reset(group, offset, one_shot) == Commit::FirstDirty {
            inner.note_dirty(&mut actor);
        }
        if let Some(place) = inner.actors.get_mut(slot as usize) {
            *place = Some(actor);
        }
        if one_shot {
            self.redirect_waiting(inner, key, group);
        }
    }

    /// Pulls that wait on a queue whose group was reset learn it now, not at their deadline, all of
    /// them: some may be left from before a rebalance. So the reset stays for who pulls next.
    fn redirect_waiting(&self, inner: &mut Inner, key: QueueKey, group: &str) {
        for id in inner.waiters.of_queue(key) {
            let same = inner
                .waiters
                .get_mut(id)
                .is_some_and(|waiter| *waiter.pull.group == *group);
            let told = || inner.known(key)?.state.offsets.tell_reset(group);
            let Some(to) = same.then(told).flatten() else {
                continue;
            };
            if let Some(waiter) = inner.waiters.take(id) {
                self.redirect(waiter, to);
            }
        }
    }

    /// Pulls of a group that wait on a topic for something else than it wants now ask again from
    /// where they began: what they passed over may be wanted. (`RocketMQ` filters again from there
    /// when their time is up.)
    pub fn resubscribed(&self, topic: TopicId, group: &str, wanted: &Wanted) {
        self.ask_again(|waiter| {
            let pull = &waiter.pull;
            let is_old = waiter.key.topic == topic && pull.filter != *wanted;
            is_old && pull.is_subscribed && *pull.group == *group
        });
    }

    /// These suspended pulls ask again from where they began, and are answered as anybody is who
    /// asks now.
    pub fn ask_again(&self, fits: impl Fn(&Waiter) -> bool) {
        for waiter in self.inner.borrow_mut().waiters.take_if(fits) {
            self.begin_again(waiter);
        }
    }

    /// Redirects a group in one queue, once.
    pub fn reset_offset(&self, row: &OffsetRow) {
        self.set_offset(row.queue, &row.group, row.offset, true);
    }

    /// Where a reset of this queue would go.
    ///
    /// # Errors
    /// 1 for an offset that the queue doesn't have (`AdminBrokerProcessor.resetOffsetInner`, 5.5.0,
    /// which takes one beyond the end, too: its message would be skipped), and when the search by
    /// time can't read.
    pub async fn find_offset(&self, key: QueueKey, to: ResetTo) -> Result<QueueOffset, Refusal> {
        let failed = |remark| Err(Refusal::new(response::SYSTEM_ERROR, remark));
        let bounds = self.store.bounds(key);
        let (min, max) = (bounds.min, bounds.max.max(bounds.min));
        match to {
            ResetTo::Max => Ok(max),
            ResetTo::Offset(offset) if (min..=max).contains(&offset) => Ok(offset),
            ResetTo::Offset(offset) => failed(format!(
                "Target offset {offset} not in consume queue range [{min}-{max}]"
            )),
            ResetTo::Timestamp(ms) => {
                let time = StoreTimestamp(u64::try_from(ms).unwrap_or(0));
                let found = self.offset_at(key, time, Boundary::Lower).await;
                found.or_else(|error| {
                    tracing::warn!(shard = %self.id, queue = %key.queue, %error, "no reset");
                    failed(format!("queue {}: {error}", key.queue))
                })
            }
        }
    }

    /// Bounds and last store time of a queue.
    pub async fn report(&self, key: QueueKey) -> QueueReport {
        let bounds = self.store.bounds(key);
        let last_update_ms = match bounds.max.0.checked_sub(1) {
            Some(last) if bounds.max > bounds.min => self.store_ms(key, QueueOffset(last)).await,
            _ => 0,
        };
        QueueReport {
            queue: key,
            min: bounds.min,
            max: bounds.max,
            last_update_ms,
        }
    }

    /// Store time of a record in ms, 0 when it isn't there.
    pub async fn store_ms(&self, key: QueueKey, offset: QueueOffset) -> u64 {
        let time = self.store.store_time_at(key, offset).await;
        time.ok().flatten().map_or(0, |time| time.0)
    }

    /// Positions of one group (or all) in these topics (or all), from memory unless `with_times`.
    pub async fn group_reports(
        &self,
        group: Option<&str>,
        topics: Option<&[TopicId]>,
        with_times: bool,
    ) -> Vec<GroupReport> {
        let mut rows = Vec::new();
        for actor in self.inner.borrow().actors.iter().flatten() {
            if topics.is_some_and(|topics| !topics.contains(&actor.key.topic)) {
                continue;
            }
            for (name, position) in actor.state.offsets.iter() {
                if group.is_none_or(|group| group == &**name) {
                    rows.push((actor.key, Arc::clone(name), *position));
                }
            }
        }
        let mut reports = Vec::with_capacity(rows.len());
        for (queue, group, position) in rows {
            let Some(consumer_offset) = position.reset.or(position.committed) else {
                continue;
            };
            let bounds = self.store.bounds(queue);
            let last = consumer_offset.0.checked_sub(1).map(QueueOffset);
            let last_timestamp_ms = match last {
                Some(last) if with_times && last >= bounds.min && last < bounds.max => {
                    self.store_ms(queue, last).await
                }
                _ => 0,
            };
            let pull_offset = position.pulled;
            reports.push(GroupReport {
                group,
                queue,
                consumer_offset,
                pull_offset,
                last_timestamp_ms,
            });
        }
        reports
    }

    /// Store time of the oldest record of the shard's log, 0 when empty
    /// (`DefaultMessageStore.getEarliestMessageTime`, 5.5.0).
    pub async fn earliest_ms(&self) -> u64 {
        self.store.earliest().await.map_or(0, |time| time.0)
    }

    /// Forgets a topic's queues, offsets and locks; its waiting pulls are told.
    pub fn drop_topic(self: &Rc<Self>, topic: TopicId) {
        self.store.drop_topic(topic);
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let keys: Vec<QueueKey> = inner
            .by_key
            .keys()
            .filter(|key| key.topic == topic)
            .copied()
            .collect();
        let refusal = Refusal::new(response::TOPIC_NOT_EXIST, "the topic was deleted");
        for key in keys {
            for id in inner.waiters.of_queue(key) {
                if let Some(waiter) = inner.waiters.take(id) {
                    self.host.refuse(waiter.reply, &refusal);
                }
            }
            if let Some(actor) = inner.known(key) {
                actor.state = super::super::queue::state::QueueState::default();
            }
        }
    }

    /// Forgets queues of topics that no longer exist (code 316).
    pub fn drop_unknown_topics(self: &Rc<Self>, known: &HashSet<TopicId>, below: TopicId) {
        let topics: HashSet<TopicId> = self
            .store
            .queues()
            .into_iter()
            .map(|key| key.topic)
            .collect();
        for topic in topics {
            if topic < below && !known.contains(&topic) {
                let shard = self.id;
                tracing::info!(%shard, %topic, "queues of a topic that is gone are dropped");
                self.drop_topic(topic);
            }
        }
    }

    /// What the index says of `count_max` records from `from` on; `None` when reading fails.
    pub async fn index_rows(
        &self,
        key: QueueKey,
        from: QueueOffset,
        count_max: u32,
    ) -> Option<Vec<IndexRow>> {
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        while rows.len() < count_max {
            let next = QueueOffset(from.0.saturating_add(rows.len() as u64));
            let left = count_max - rows.len();
            let entries = match self.store.entries(key, next, left).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(shard = %self.id, %error, "index rows can't be read");
                    return None;
                }
            };
            if entries.is_empty() {
                break;
            }
            rows.extend(entries.iter().map(|entry| IndexRow {
                physical: address::physical(self.id, entry.position),
                bytes: entry.length,
                tags_code: entry.tags_code,
            }));
        }
        Some(rows)
    }

    /// Forgets a group's offsets and locks. That goes to the tables as changed offsets do, and in
    /// their order: what the group commits from here on, made again, stays.
    pub fn drop_group(&self, group: &str) {
        let mut inner = self.inner.borrow_mut();
        let Inner { actors, dirty, .. } = &mut *inner;
        for (slot, actor) in (0_u32..).zip(actors.iter_mut()) {
            let Some(actor) = actor else { continue };
            actor.state.locks.drop_group(group);
            let is_first = actor.state.offsets.drop_group(group) == Commit::FirstDirty;
            if is_first && !actor.is_dirty {
                actor.is_dirty = true;
                dirty.push_back(slot);
            }
        }
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
