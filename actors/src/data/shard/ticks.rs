//! What a shard does because time has passed.
//!
//! **Owns** deadlines of suspended pulls, of answers that wait for a flush, of messages before a
//! full tail; the offsets handed to the control plane; the sleep of idle actors.
//! **Lives on** the data core of the shard; called by the core's timer.
//! **Invariants** a late answer is given, never forgotten; a message that is partly stored isn't
//! refused, and neither is the end of a transaction, which its producer says once and one-way.
//! **Limits** [`SWEEP_MAX`] actors looked at a call, [`GIVE_UPS_MAX`] pulls whose time is up.
//! **Not here** the timer (`data::core`).

use std::rc::Rc;

use super::turns::forget;
use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::refusal::BusyCause;
use crate::seam::{Counted, OffsetChange};

/// Actors looked at for sleep in one call.
pub const SWEEP_MAX: u32 = 1024;
/// Suspended pulls answered in one call because their time is up: 1 ms. Those of 100,000 that end
/// at once are a second late, and sends are not.
pub const GIVE_UPS_MAX: usize = 1024;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Whether anything here waits for time to pass.
    pub fn has_deadlines(&self) -> bool {
        let inner = self.inner.borrow();
        let waits = !inner.waiters.is_empty() || !inner.flushing.is_empty();
        waits || inner.stalled_us.is_some() || inner.owed.are_waiting()
    }

    /// Does what is due.
    pub fn tick(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let now_ms = self.host.mono_ms();
        for _ in 0..GIVE_UPS_MAX {
            let Some(waiter) = inner.waiters.take_due(now_ms) else {
                break;
            };
            self.give_up(inner, waiter);
        }
        self.start_cold_reads(inner);
        let poisoned = self.store.poisoned();
        let mut again = Vec::new();
        while let Some(ack) = inner.flushing.pop_late(now_ms, poisoned.is_some()) {
            again.extend(self.acknowledge_late(ack, poisoned.as_deref()));
        }
        // Behind those that are younger: whenever its turn comes, it is committed by then.
        for ack in again {
            let deadline_ms = now_ms + self.rules.settings.sync_flush_timeout_ms.get();
            inner.flushing.push(ack, deadline_ms);
        }
        self.hand_over_owed(inner);
        if inner.stalled_us.is_some() {
            self.refuse_stalled(inner);
            self.signal.set();
        }
    }

    /// Answers every suspended pull as if its time were up.
    pub fn answer_waiting(self: &Rc<Self>) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        for waiter in inner.waiters.take_all() {
            self.give_up(inner, waiter);
        }
        self.start_cold_reads(inner);
    }

    /// Tells producers whose message has waited too long before a full tail.
    fn refuse_stalled(&self, inner: &mut Inner) {
        let now_us = self.host.mono_us();
        let limit_us = self.rules.settings.wait_time_in_send_queue_ms.get() * 1000;
        let slots = std::mem::take(&mut inner.ready);
        for slot in &slots {
            let place = inner.actors.get_mut(*slot as usize).and_then(Option::take);
            let Some(mut actor) = place else { continue };
            while let Some(first) = actor.appends.front() {
                let waited_us = now_us.saturating_sub(first.arrived_us);
                let stays = first.is_partly_stored() || first.ends_a_transaction();
                if waited_us < limit_us || stays {
                    break;
                }
                let Some(pending) = actor.appends.pop_front() else {
                    break;
                };
                forget(inner, pending.append.bytes());
                let remark = format!(
                    "shard {}, topic {} queue {}: the disk is behind; waited {} ms, {} requests \
                     wait",
                    self.id,
                    pending.append.topic.config.name,
                    actor.key.queue,
                    waited_us / 1000,
                    inner.inbox_count,
                );
                let busy = self.host.busy(BusyCause::Tail, &remark);
                let timing = self.time_refused(actor.key, &pending);
                self.refuse_asker(inner, &pending.asker, &busy, timing);
            }
            if let Some(place) = inner.actors.get_mut(*slot as usize) {
                *place = Some(actor);
            }
        }
        inner.ready = slots;
    }

    /// Moves up to `most` changed offsets to `out`. True when none is left.
    pub fn take_changed_offsets(&self, most: usize, out: &mut Vec<OffsetChange>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut rows = Vec::new();
        while out.len() < most {
            let Some(slot) = inner.dirty.front().copied() else {
                return true;
            };
            let actor = inner
                .actors
                .get_mut(slot as usize)
                .and_then(Option::as_deref_mut);
            let Some(actor) = actor else {
                inner.dirty.pop_front();
                continue;
            };
            let clean = actor.state.offsets.take_dirty(most - out.len(), &mut rows);
            let queue = actor.key;
            out.extend(rows.drain(..).map(|(group, offset)| OffsetChange {
                queue,
                group,
                offset,
            }));
            if clean {
                actor.is_dirty = false;
                inner.dirty.pop_front();
            }
        }
        inner.dirty.is_empty()
    }

    /// Hands over what the queues have counted.
    pub fn harvest(&self, counted: &mut Counted) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        counted.totals.add(&inner.totals);
        for slot in inner.tallied.drain(..) {
            let place = inner.actors.get_mut(slot as usize);
            if let Some(actor) = place.and_then(Option::as_deref_mut) {
                actor.is_tallied = false;
                let topic = actor.key.topic;
                let (topics, groups) = (&mut counted.topics, &mut counted.groups);
                actor.tally.harvest(topic, topics, groups);
            }
        }
    }

    /// Puts idle actors to sleep: their queues stay in the store, and the next request wakes them.
    pub fn sweep(&self) {
        let now_ms = self.host.mono_ms();
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        for _ in 0..SWEEP_MAX.min(u32::try_from(inner.actors.len()).unwrap_or(SWEEP_MAX)) {
            let slot = inner.sweep_at;
            let Some(place) = inner.actors.get_mut(slot as usize) else {
                inner.sweep_at = 0;
                inner.shrink();
                continue;
            };
            inner.sweep_at = slot + 1;
            if let Some(actor) = place {
                // A lock that ran out would keep its actor awake for ever.
                actor.state.locks.forget_dead(now_ms);
            }
            let idle = place.as_ref().filter(|actor| actor.is_idle());
            if let Some(key) = idle.map(|actor| actor.key) {
                *place = None;
                inner.by_key.remove(&key);
                inner.free.push(slot);
            }
        }
    }
}
