//! The pass: every ready actor's turn, one seal, answers, wake-ups.
//!
//! **Owns** the order of a pass and what happens when a turn panics.
//! **Lives on** the data core of the shard.
//! **Invariants** answers leave after the seal; waiting pulls are woken after it, when the record
//! is readable (trap 58). While the tail is full no queue stores, so no queue overtakes another's
//! place; those that stored nothing come before those that did.
//! Pulls of one queue, or of many, keep nobody waiting for more than their bytes of a pass.
//! **Limits** [`PANICS_MAX`] panics in [`PANIC_WINDOW_US`]; one more ends the process.
//! **Not here** single requests (`pulls`, `asks`, `queue::append`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_storage::error::AppendError;
use gantry_storage::units::StoreTimestamp;

use super::{
    Inner, PASS_PULLED_BYTES_MAX, Shard, TURN_APPENDS_MAX, TURN_ASKS_MAX, TURN_PULLED_BYTES_MAX,
};
use crate::data::host::Host;
use crate::data::queue::actor::QueueActor;
use crate::data::queue::append::Stamp;
use crate::data::queue::asker::Asker;
use crate::data::queue::store::QueueStore;
use crate::refusal::{DISK_FULL, Refusal};

/// Panics of actors that are repaired within [`PANIC_WINDOW_US`].
pub const PANICS_MAX: usize = 5;
/// Queues in a pass for which the store is asked to have them in the processor's caches.
const TOUCH_MIN: usize = 4;
/// The window of [`PANICS_MAX`].
pub const PANIC_WINDOW_US: u64 = 60_000_000;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Runs every actor that has something to do once. True when there is more to do now.
    pub fn pass(self: &Rc<Self>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        // The device may have taken something meanwhile: try again, one failed append tells.
        let was_stalled = inner.stalled_us.take();
        self.begin_times(inner);
        let mut turns = std::mem::replace(&mut inner.ready, std::mem::take(&mut inner.spare));
        inner.pass_pulled_from = inner.pulled_bytes;
        if turns.len() >= TOUCH_MIN {
            let actors = turns
                .iter()
                .filter_map(|slot| inner.actors.get(*slot as usize));
            let writing = actors.flatten().filter(|actor| !actor.appends.is_empty());
            self.store.touch(writing.map(|actor| actor.key));
        }
        for slot in turns.drain(..) {
            self.turn_of(inner, slot, was_stalled);
        }
        // Behind those whose requests this pass had no turn for.
        let mut again = std::mem::take(&mut inner.again);
        inner.ready.append(&mut again);
        inner.again = again;
        inner.spare = turns;
        let wakes_left = self.after_turns(inner);
        wakes_left || !inner.ready.is_empty() && inner.stalled_us.is_none()
    }

    fn turn_of(self: &Rc<Self>, inner: &mut Inner, slot: u32, was_stalled: Option<u64>) {
        let place = inner.actors.get_mut(slot as usize).and_then(Option::take);
        let Some(mut actor) = place else { return };
        actor.is_ready = false;
        let (appends_count, asks_count) = (actor.appends.len(), actor.asks.len());
        let turn = || self.turn(inner, &mut actor, was_stalled);
        if catch_unwind(AssertUnwindSafe(turn)).is_err() {
            self.repair(inner, &mut actor);
        }
        if !actor.appends.is_empty() || !actor.asks.is_empty() {
            actor.is_ready = true;
            // Nothing of what it asked was done: before a full tail, or after enough pulls. Next
            // time it comes before those that had some, or one busy queue would take all the room.
            let stored_none = appends_count > 0 && actor.appends.len() == appends_count;
            let answered_none = asks_count > 0 && actor.asks.len() == asks_count;
            let to = if stored_none || answered_none {
                &mut inner.ready
            } else {
                &mut inner.again
            };
            to.push(slot);
        } else {
            inner.lanes.take_back(&mut actor);
        }
        if let Some(place) = inner.actors.get_mut(slot as usize) {
            *place = Some(actor);
        }
    }

    fn turn(self: &Rc<Self>, inner: &mut Inner, actor: &mut QueueActor, was_stalled: Option<u64>) {
        self.store_some(inner, actor, was_stalled);
        if actor.asks.is_empty() {
            return;
        }
        let pulled_from = inner.pulled_bytes;
        for _ in 0..TURN_ASKS_MAX {
            let of_pass = inner.pulled_bytes - inner.pass_pulled_from;
            let of_turn = inner.pulled_bytes - pulled_from;
            if of_turn >= TURN_PULLED_BYTES_MAX || of_pass >= PASS_PULLED_BYTES_MAX {
                break;
            }
            let Some(ask) = actor.asks.pop_front() else {
                break;
            };
            inner.asks_count = inner.asks_count.saturating_sub(1);
            actor.at_work = Some(Asker::Client(ask.reply));
            self.ask(inner, actor, ask);
        }
        actor.at_work = None;
    }

    fn store_some(&self, inner: &mut Inner, actor: &mut QueueActor, was_stalled: Option<u64>) {
        if actor.appends.is_empty() || inner.stalled_us.is_some() {
            return;
        }
        let stamp = Stamp {
            store_host: self.rules.store_host,
            now: StoreTimestamp(self.host.wall_ms()),
            index_keys: self.rules.index_keys,
        };
        let mut has_tallied = false;
        for _ in 0..TURN_APPENDS_MAX {
            // It stays in the lane meanwhile: a panic takes all that is there, and tells them.
            let Some(pending) = actor.appends.front_mut() else {
                break;
            };
            #[cfg(test)]
            if self.panic_on.get() == Some(actor.key) {
                self.panic_on.set(None);
                panic!("a test wants this panic");
            }
            let charged = pending.append.bytes();
            self.in_store.set(true);
            let owed = pending.mark_owed(|| self.host.wall_ms_now());
            let stored = pending.store(&*self.store, actor.key, &stamp, &mut inner.acks);
            self.in_store.set(false);
            match stored {
                Ok(()) => {
                    self.time_front(inner, pending.arrived_us);
                    note_stored(inner, actor, owed, stamp.now);
                    has_tallied = true;
                }
                Err(AppendError::TailFull { .. }) => {
                    actor.has_stored |= pending.is_partly_stored();
                    inner.stalled_us = was_stalled.or(Some(self.host.mono_us()));
                    break;
                }
                Err(error) => {
                    // The first elements of a batch are there to be sealed and seen all the same.
                    actor.has_stored |= pending.is_partly_stored();
                    if matches!(error, AppendError::StoreFull { .. }) {
                        let (stage, cause) = DISK_FULL;
                        self.host.profile().refused(stage, cause);
                    }
                    let timing = self.time_refused(actor.key, pending);
                    self.refuse_asker(inner, &pending.asker, &refusal_of(&error), timing);
                }
            }
            forget(inner, charged);
            // Dropped where it lies.
            actor.appends.drain(..1);
        }
        if has_tallied {
            inner.note_tallied(actor);
        }
        if actor.has_stored {
            actor.has_stored = false;
            inner.fresh.push(actor.key);
        }
    }

    /// Seals what was stored and sends the answers that may leave. True when there are more pulls
    /// to wake.
    fn after_turns(self: &Rc<Self>, inner: &mut Inner) -> bool {
        let reported = self.after_stored(inner);
        if !inner.fresh.is_empty() {
            inner.fresh_us = self.host.mono_us();
        }
        if !inner.acks.is_empty() || !inner.fresh.is_empty() || reported {
            self.in_store.set(true);
            let sealed = self.store.seal();
            self.in_store.set(false);
            let fresh = inner.fresh.drain(..).map(|key| (sealed, key));
            inner.unread.extend(fresh);
            self.time_stored(inner, sealed);
        }
        self.answer_sends(inner);
        let wakes_left = self.wake_pulls(inner);
        self.hand_over_owed(inner);
        self.start_cold_reads(inner);
        wakes_left
    }

    fn answer_sends(&self, inner: &mut Inner) {
        let deadline_ms = self.host.mono_ms() + self.rules.settings.sync_flush_timeout_ms.get();
        let mut acks = std::mem::take(&mut inner.acks);
        for ack in &mut acks {
            inner.pass_times.mark(ack);
            if !self.rules.sync_flush || ack.no_wait {
                self.acknowledge(ack, ack.times.stored_us);
            }
        }
        if self.rules.sync_flush {
            for ack in acks.drain(..).filter(|ack| !ack.no_wait) {
                inner.flushing.push(ack, deadline_ms);
            }
        }
        acks.clear();
        inner.acks = acks;
        let committed = self.store.committed();
        while let Some(ack) = inner.flushing.pop_committed(committed) {
            self.acknowledge(&ack, self.log_times.committed_us());
        }
    }

    /// After a panic in an actor's turn: its callers are told, its memory goes to a fresh actor.
    fn repair(&self, inner: &mut Inner, actor: &mut Box<QueueActor>) {
        let now = self.host.mono_us();
        while inner
            .panics_us
            .front()
            .is_some_and(|at| now.saturating_sub(*at) > PANIC_WINDOW_US)
        {
            inner.panics_us.pop_front();
        }
        inner.panics_us.push_back(now);
        let key = actor.key;
        if self.in_store.get() {
            (self.on_bug)(&format!("shard {}: a panic inside the store", self.id));
        } else if inner.panics_us.len() > PANICS_MAX {
            (self.on_bug)(&format!(
                "shard {}: more than {PANICS_MAX} panics in 60 s",
                self.id
            ));
        }
        tracing::error!(shard = %self.id, topic = %key.topic, queue = %key.queue,
            "a queue actor panicked and is restarted from its log");
        let mut fresh = Box::new(QueueActor::new(key));
        fresh.state = std::mem::take(&mut actor.state);
        fresh.is_dirty = actor.is_dirty;
        fresh.tally = std::mem::take(&mut actor.tally);
        fresh.is_tallied = actor.is_tallied;
        let old = std::mem::replace(actor, fresh);
        if old.has_stored {
            inner.fresh.push(key);
        }
        let refusal = Refusal::new(
            response::SYSTEM_ERROR,
            "the queue's actor failed and was restarted; the request may or may not have been done",
        );
        let tell =
            |inner: &mut Inner, asker: &Asker| self.refuse_asker(inner, asker, &refusal, None);
        if let Some(asker) = &old.at_work {
            tell(inner, asker);
        }
        inner.inbox_count = inner.inbox_count.saturating_sub(old.appends.len());
        inner.asks_count = inner.asks_count.saturating_sub(old.asks.len());
        for pending in &old.appends {
            inner.inbox_bytes = inner.inbox_bytes.saturating_sub(pending.append.bytes());
            tell(inner, &pending.asker);
        }
        for ask in &old.asks {
            tell(inner, &Asker::Client(ask.reply));
        }
    }
}

/// Counts the message of the last acknowledgement, for which something may be owed then.
fn note_stored(
    inner: &mut Inner,
    actor: &mut QueueActor,
    owed_ms: Option<u64>,
    now: StoreTimestamp,
) {
    let Some(ack) = inner.acks.last() else { return };
    let (count, bytes) = (1 + ack.further().len() as u64, ack.stored_bytes());
    inner.totals.put_count += count;
    inner.totals.put_bytes += bytes;
    actor.tally.put(count, bytes);
    if let Some(time_ms) = owed_ms {
        let appended = ack.appended(now);
        inner.owed.note(actor.key, &appended, time_ms);
    }
    actor.has_stored = true;
}

/// A message that was charged so many bytes leaves the inboxes.
pub(super) fn forget(inner: &mut Inner, bytes: usize) {
    inner.inbox_count = inner.inbox_count.saturating_sub(1);
    inner.inbox_bytes = inner.inbox_bytes.saturating_sub(bytes);
}

/// What a producer is told when the store doesn't take its message.
fn refusal_of(error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::TailFull { .. } => response::SYSTEM_BUSY,
        AppendError::TooLarge { .. } => response::MESSAGE_ILLEGAL,
        AppendError::StoreFull { .. } | AppendError::Closed | AppendError::Poisoned { .. } => {
            response::SERVICE_NOT_AVAILABLE
        }
    };
    Refusal::new(code, error.to_string())
}
