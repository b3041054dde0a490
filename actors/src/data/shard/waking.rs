//! Suspended pulls: what wakes them, and what they are told then.
//!
//! **Owns** waking what waits for new messages, the end of a wait, and its end for another reason.
//! **Lives on** the data core of the shard.
//! **Invariants** who waits longest on a queue is woken first; what one message wakes keeps to the
//! bytes of a pass.
//! **Limits** [`super::PASS_WAKES_MAX`] pulls looked at a pass.
//! **Not here** who waits (`queue::waiters`), a pull's first pass and its reading (`pulls`).

use gantry_protocol::code::response;
use gantry_runtime::metrics::Stage;
use gantry_storage::units::QueueOffset;

use super::pulls::{Reading, Waiter, unmatched};
use super::{Inner, PASS_PULLED_BYTES_MAX, PASS_WAKES_MAX, Shard, TURN_PULLED_BYTES_MAX};
use crate::data::host::Host;
use crate::data::queue::pull::{self, PullStatus, Verdict};
use crate::data::queue::store::QueueStore;
use crate::data::queue::waiters::WaiterId;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Wakes the pulls that wait for what has become readable, as many as a pass may, the longest
    /// waiting of a queue first. True when there are more.
    pub(super) fn wake_pulls(&self, inner: &mut Inner) -> bool {
        let readable = self.store.acknowledged();
        // A pass's messages count as one here. Those before a failed write are readable and those
        // behind it never will be: nothing else would wake who waits.
        let is_over = !inner.unread.is_empty() && self.store.poisoned().is_some();
        let woken_from = inner.pulled_bytes;
        let mut looks = 0;
        loop {
            let of_pass = inner.pulled_bytes - inner.pass_pulled_from;
            let of_woken = inner.pulled_bytes - woken_from;
            // Of a pass whose turns gave all its bytes they get a turn's.
            let gave = of_woken >= TURN_PULLED_BYTES_MAX && of_pass >= PASS_PULLED_BYTES_MAX;
            if gave || looks >= PASS_WAKES_MAX {
                return true;
            }
            if let Some(id) = inner.waking.pop_front() {
                looks += 1;
                self.wake(inner, id);
                continue;
            }
            let next = inner
                .unread
                .pop_front_if(|(end, _)| is_over || *end <= readable);
            let Some((_, key)) = next else { return false };
            if inner.waiters.has(key) {
                inner.waking.extend(inner.waiters.of_queue(key));
            }
        }
    }

    /// Reads again for a waiting pull; by now another one may wait under this number.
    fn wake(&self, inner: &mut Inner, id: WaiterId) {
        let Some(waiter) = inner.waiters.get_mut(id) else {
            return;
        };
        let bounds = self.store.bounds(waiter.key);
        if waiter.scanned >= bounds.max {
            return;
        }
        waiter.times.wake(self.stamp_us());
        if !self.host.has_reply_room(waiter.reply.peer) {
            if let Some(waiter) = inner.waiters.take(id) {
                self.refuse_without_room(&waiter, Stage::Lookup);
            }
            return;
        }
        match self.read_hot(waiter, waiter.scanned, false) {
            Reading::Answered(got, next) => {
                if let Some(waiter) = inner.waiters.take(id) {
                    inner.note_got(None, &waiter, got, next);
                }
            }
            Reading::Unmatched(next) if next < bounds.max => {
                // The scan met its limit; what is wanted may lie behind, and nothing may come
                // any more that would wake this pull again.
                if let Some(waiter) = inner.waiters.take(id) {
                    self.tell(&waiter, unmatched(next), bounds);
                }
            }
            Reading::Unmatched(next) => waiter.scanned = next,
            Reading::Cold => {
                let from = waiter.scanned;
                if let Some(waiter) = inner.waiters.take(id) {
                    self.read_cold(inner, waiter, from);
                }
            }
        }
    }

    /// Answers a pull that has waited long enough: the same rules, without suspension.
    pub(super) fn give_up(&self, inner: &mut Inner, mut waiter: Waiter) {
        waiter.times.wake(self.stamp_us());
        let bounds = self.store.bounds(waiter.key);
        let wanted = i64::try_from(waiter.scanned.0).unwrap_or(i64::MAX);
        // No reset: a suspended pull is told of one when it comes.
        match pull::start(bounds, wanted, None) {
            Ok(from) => self.read_now(inner, None, waiter, from),
            // Everything that came was looked at and nothing matched (trap 54).
            Err(verdict) if verdict.may_suspend() && wanted > waiter.pull.wanted => {
                self.tell(&waiter, unmatched(verdict.next), bounds);
            }
            Err(verdict) => self.tell(&waiter, verdict, bounds),
        }
    }

    /// Tells a suspended pull that its group was reset.
    pub(super) fn redirect(&self, mut waiter: Waiter, to: QueueOffset) {
        waiter.times.wake(self.stamp_us());
        let bounds = self.store.bounds(waiter.key);
        self.tell(&waiter, pull::reset_to(to), bounds);
    }

    /// Tells a suspended pull to come again, from where it began.
    pub(super) fn begin_again(&self, mut waiter: Waiter) {
        waiter.times.wake(self.stamp_us());
        let bounds = self.store.bounds(waiter.key);
        let wanted = QueueOffset(u64::try_from(waiter.pull.wanted).unwrap_or(0));
        let verdict = Verdict {
            status: PullStatus::OffsetOverflowOne,
            code: response::PULL_NOT_FOUND,
            next: wanted,
        };
        self.tell(&waiter, verdict, bounds);
    }
}
