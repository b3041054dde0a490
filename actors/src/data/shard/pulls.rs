//! Pulls: from memory, from the device, or later.
//!
//! **Owns** one pull's road through a shard: opening, reading into the session's buffer,
//! suspension, waking.
//! **Lives on** the data core of the shard.
//! **Invariants** records go from the store into the out buffer without a copy between; a suspended
//! pull is read again when something readable may match, and answered only if something does (traps
//! 56, 57); a peer that is gone costs nothing more; whatever is not in the tail waits for its turn
//! in the cold lane, behind what the pass does.
//! **Limits** `cold_reads_max` reads from the device, none without memory for its reply;
//! [`super::COLD_PULLS_MAX`] pulls that wait for their turn, [`super::COLD_WAIT_MS_MAX`] long;
//! suspended pulls as `queue::waiters` says.
//! **Not here** the table of verdicts (`queue::pull`), checks of names and rights
//! (`requests::pulls`).

use std::rc::Rc;

use bytes::BytesMut;
use gantry_protocol::code::response;
use gantry_protocol::command::{ExtValue, writer};
use gantry_runtime::budget::shared::Held;
use gantry_runtime::metrics::Stage;
use gantry_storage::shard_store::{ReadLimits, ReadOutcome};
use gantry_storage::units::{QueueBounds, QueueKey, QueueOffset};

use super::timing::PullTimes;
use super::{COLD_PULLS_MAX, COLD_WAIT_MS_MAX, Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::actor::QueueActor;
use crate::data::queue::offsets::Commit;
use crate::data::queue::pull::{self, PullStatus, Verdict};
use crate::data::queue::store::QueueStore;
use crate::data::queue::tally::Got;
use crate::data::queue::waiters::QUEUE_WAITERS_MAX;
use crate::data::words::{Pull, ReplyTo};
use crate::refusal::{BusyCause, Refusal};

/// A shard is taken to have messages coming in for so long after the last one.
const FRESH_US: u64 = 50_000;
/// Cold pulls started at a time when none come in.
const COLD_STARTS_MAX: usize = 16;
/// Cold pulls looked at then, of which some may be refused: 0.1 ms.
const COLD_LOOKS_MAX: usize = 64;
/// What a read from the device is counted with while it is under way.
const COLD_HELD_BYTES_MAX: usize = 1 << 20;

/// A suspended pull.
#[derive(Debug)]
pub struct Waiter {
    /// Which queue.
    pub key: QueueKey,
    /// Who asked.
    pub reply: ReplyTo,
    /// What.
    pub pull: Box<Pull>,
    /// The first offset not yet examined for it.
    pub scanned: QueueOffset,
    /// Its stamps.
    pub times: PullTimes,
}

/// A pull that needs the device.
#[derive(Debug)]
pub struct ColdPull {
    waiter: Waiter,
    from: QueueOffset,
    /// Since when, µs.
    since_us: u64,
}

/// What reading did.
pub(super) enum Reading {
    /// A reply is written, or nobody is there any more; where its reader goes on.
    Answered(Got, QueueOffset),
    /// Nothing matched up to here, and a reply wasn't wanted for that.
    Unmatched(QueueOffset),
    /// The device is needed.
    Cold,
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// A pull's first pass; it has been in its inbox since `posted_us`.
    pub(super) fn pull(
        &self,
        inner: &mut Inner,
        actor: &mut QueueActor,
        (reply, posted_us): (ReplyTo, u64),
        pull: Box<Pull>,
    ) {
        if reply.one_way {
            return Self::commit_only(inner, actor, &pull);
        }
        let key = actor.key;
        let times = self.begin_pull(reply, posted_us);
        let opening = actor.state.open_pull(&pull.group, pull.wanted, pull.commit);
        if opening.commit == Some(Commit::FirstDirty) {
            inner.note_dirty(actor);
        }
        let bounds = self.store.bounds(key);
        let offset = u64::try_from(pull.wanted).unwrap_or(0);
        let waiter = Waiter {
            key,
            reply,
            pull,
            scanned: QueueOffset(offset),
            times,
        };
        match pull::start(bounds, waiter.pull.wanted, opening.reset) {
            Ok(from) => self.read_now(inner, Some(actor), waiter, from),
            Err(verdict) => {
                inner.totals.missed_count += 1;
                inner.pulls_at_end += 1;
                let group = &waiter.pull.group;
                actor.state.offsets.pulled(group, verdict.next);
                if verdict.may_suspend() {
                    self.suspend(inner, waiter, bounds, verdict);
                } else {
                    self.tell(&waiter, verdict, bounds);
                }
            }
        }
    }

    /// What is left of a pull that nobody wants answered: the position it carries. A reset stays
    /// for who will be told of it.
    fn commit_only(inner: &mut Inner, actor: &mut QueueActor, pull: &Pull) {
        let Some(Ok(offset)) = pull.commit.map(u64::try_from) else {
            return;
        };
        let offsets = &mut actor.state.offsets;
        if offsets.commit(&pull.group, QueueOffset(offset)) == Commit::FirstDirty {
            inner.note_dirty(actor);
        }
    }

    /// `actor`: the queue's, when it is at work and therefore not in its place.
    pub(super) fn read_now(
        &self,
        inner: &mut Inner,
        actor: Option<&mut QueueActor>,
        waiter: Waiter,
        from: QueueOffset,
    ) {
        if !self.host.has_reply_room(waiter.reply.peer) {
            return self.refuse_without_room(&waiter, Stage::Lookup);
        }
        match self.read_hot(&waiter, from, true) {
            Reading::Answered(got, next) => {
                inner.pulls_at_end += u64::from(next >= self.store.bounds(waiter.key).max);
                inner.note_got(actor, &waiter, got, next);
            }
            Reading::Unmatched(_) => {}
            Reading::Cold => {
                if let Some(actor) = actor {
                    actor.state.offsets.pulled(&waiter.pull.group, from);
                }
                self.read_cold(inner, waiter, from);
            }
        }
    }

    fn suspend(
        &self,
        inner: &mut Inner,
        mut waiter: Waiter,
        bounds: QueueBounds,
        verdict: Verdict,
    ) {
        // One that was in the inbox when the broker was told to stop would wait for ever.
        let suspend_ms = waiter.pull.suspend_ms.filter(|_| !inner.is_closed);
        let Some(suspend_ms) = suspend_ms else {
            return self.tell(&waiter, verdict, bounds);
        };
        let deadline_ms = self.host.mono_ms() + suspend_ms;
        let (key, peer) = (waiter.key, waiter.reply.peer);
        waiter.times.park(self.stamp_us());
        if let Err(waiter) = inner.waiters.park(key, peer, deadline_ms, waiter) {
            // Told that nothing is there, its client would ask again at once, and for ever.
            let remark = format!(
                "shard {}, topic {} queue {}: {} pulls wait for messages, at most \
                 {QUEUE_WAITERS_MAX} a queue",
                self.id,
                key.topic,
                key.queue,
                inner.waiters.len(),
            );
            let busy = self.host.busy(BusyCause::Suspended, &remark);
            let timing = self.time_refused_pull(&waiter, Stage::Wait);
            self.host.refuse_timed(waiter.reply, &busy, timing);
        }
    }

    /// Reads from memory straight into the session's buffer. `always`: answer even when nothing
    /// matched.
    pub(super) fn read_hot(&self, waiter: &Waiter, from: QueueOffset, always: bool) -> Reading {
        let (pull, to) = (&waiter.pull, waiter.reply);
        let mut reading = Reading::Answered(Got::default(), from);
        self.host.write_timed(to.peer, |out| {
            let frame = writer::start_late_reply(out, to.encoding);
            let read = self
                .store
                .read_hot(waiter.key, from, limits_of(pull), &pull.filter, out);
            match read {
                None => {
                    frame.abandon(out);
                    reading = Reading::Cold;
                    None
                }
                Some(read) if read.found == 0 && !always => {
                    frame.abandon(out);
                    reading = Reading::Unmatched(read.next_offset);
                    None
                }
                Some(read) => {
                    let verdict = verdict_of(&read, from);
                    let status = verdict.status.remark();
                    let ext = ext_of(pull, verdict.next, read.bounds);
                    let written =
                        frame.finish(out, to.opaque, verdict.code, Some(status), Some(&ext));
                    debug_assert!(written.is_ok(), "a read is bounded below a frame");
                    reading = Reading::Answered(got_of(&read, 0), verdict.next);
                    self.time_pull(waiter, read.bytes)
                }
            }
        });
        reading
    }

    /// Busy: its client asks again in a while, and those who don't read are closed meanwhile.
    pub(super) fn refuse_without_room(&self, waiter: &Waiter, stage: Stage) {
        let remark = format!(
            "shard {}, replies that this client, or all of them, were sent and have not read hold \
             all the memory for them",
            self.id
        );
        let busy = self.host.busy(BusyCause::Replies, &remark);
        let timing = self.time_refused_pull(waiter, stage);
        self.host.refuse_timed(waiter.reply, &busy, timing);
    }

    pub(super) fn read_cold(&self, inner: &mut Inner, mut waiter: Waiter, from: QueueOffset) {
        waiter.times.ask_device(self.stamp_us());
        let cold = ColdPull {
            waiter,
            from,
            since_us: self.host.mono_us(),
        };
        let peer = cold.waiter.reply.peer;
        let Some(mut refused) = inner.cold.push(peer, cold, COLD_PULLS_MAX) else {
            return;
        };
        let remark = format!("shard {}, {COLD_PULLS_MAX} pulls wait for it", self.id);
        let busy = self.host.busy(BusyCause::DeviceRead, &remark);
        self.refuse_at_device(&mut refused.waiter, &busy);
    }

    /// Refuses a pull that has waited for the device.
    fn refuse_at_device(&self, waiter: &mut Waiter, refusal: &Refusal) {
        waiter.times.device_gave(self.stamp_us());
        let timing = self.time_refused_pull(waiter, Stage::DiskRead);
        self.host.refuse_timed(waiter.reply, refusal, timing);
    }

    /// Starts the cold lane unless it runs or has nothing it may do.
    pub(super) fn start_cold_reads(self: &Rc<Self>, inner: &mut Inner) {
        let may_run = inner.cold_under_way < self.rules.cold_reads_max && !inner.cold.is_empty();
        if !may_run || inner.cold_lane_runs {
            return;
        }
        inner.cold_lane_runs = true;
        let shard = Rc::clone(self);
        self.host.spawn(async move {
            while shard.start_some_cold() {
                shard.host.breathe().await;
            }
        });
    }

    /// Starts the cold pulls whose turn it is: one, so that sends and pulls of what is new
    /// wait for one reader of a backlog and not for all of them; more when there is nothing new.
    /// False when no more may start.
    fn start_some_cold(self: &Rc<Self>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let now_us = self.host.mono_us_now();
        let quiet_us = now_us.saturating_sub(inner.fresh_us);
        let mut starts_left = if quiet_us < FRESH_US {
            1
        } else {
            COLD_STARTS_MAX
        };
        for _ in 0..COLD_LOOKS_MAX {
            let may_run = inner.cold_under_way < self.rules.cold_reads_max;
            let has_unread = |peer| self.host.has_unread(peer);
            let next = may_run.then(|| inner.cold.take(has_unread)).flatten();
            let Some(mut cold) = next else {
                inner.cold_lane_runs = false;
                return false;
            };
            if self.refuse_cold(&inner, &mut cold, now_us) {
                continue;
            }
            self.start_cold(&mut inner, cold);
            starts_left -= 1;
            if starts_left == 0 {
                break;
            }
        }
        true
    }

    /// Refuses a cold pull whose turn has come too late: its client has given up, or will have by
    /// the time the device has answered, or doesn't read. False when it may start.
    fn refuse_cold(&self, inner: &Inner, cold: &mut ColdPull, now_us: u64) -> bool {
        let waited_ms = now_us.saturating_sub(cold.since_us) / 1000;
        if waited_ms > COLD_WAIT_MS_MAX {
            let key = cold.waiter.key;
            let remark = format!(
                "shard {}, topic {} queue {}: waited {waited_ms} ms for the device, {} pulls wait",
                self.id,
                key.topic,
                key.queue,
                inner.cold.len(),
            );
            let busy = self.host.busy(BusyCause::DeviceReadLate, &remark);
            self.refuse_at_device(&mut cold.waiter, &busy);
            return true;
        }
        // Room there was when it came may be taken by now.
        let has_room = self.host.has_reply_room(cold.waiter.reply.peer);
        if !has_room {
            cold.waiter.times.device_gave(now_us);
            self.refuse_without_room(&cold.waiter, Stage::DiskRead);
        }
        !has_room
    }

    fn start_cold(self: &Rc<Self>, inner: &mut Inner, cold: ColdPull) {
        let bytes = usize::try_from(cold.waiter.pull.bytes_max).unwrap_or(usize::MAX);
        let held = self.host.hold_reply(bytes.min(COLD_HELD_BYTES_MAX));
        inner.cold_under_way += 1;
        let shard = Rc::clone(self);
        self.host.spawn(async move {
            shard.finish_cold(cold, held).await;
            let mut inner = shard.inner.borrow_mut();
            inner.cold_under_way -= 1;
            shard.start_cold_reads(&mut inner);
        });
    }

    /// `held` counts the reply until the connection's buffer does.
    async fn finish_cold(&self, cold: ColdPull, held: Option<Held>) {
        let ColdPull {
            mut waiter,
            from,
            since_us,
        } = cold;
        let to = waiter.reply;
        let mut out = BytesMut::new();
        let frame = writer::start_late_reply(&mut out, to.encoding);
        let pull = &waiter.pull;
        let read = self
            .store
            .read(waiter.key, from, limits_of(pull), &pull.filter, &mut out)
            .await;
        waiter.times.device_gave(self.stamp_us());
        let pull = &waiter.pull;
        match read {
            Ok(read) => {
                let verdict = verdict_of(&read, from);
                let ext = ext_of(pull, verdict.next, read.bounds);
                let status = Some(verdict.status.remark());
                let written = frame.finish(&mut out, to.opaque, verdict.code, status, Some(&ext));
                debug_assert!(written.is_ok(), "a read is bounded below a frame");
                let timing = self.time_pull(&waiter, read.bytes);
                self.host.write_made(to.peer, out.freeze(), timing);
                drop(held);
                let read_ms = self.host.mono_us().saturating_sub(since_us) / 1000;
                let got = got_of(&read, read_ms);
                let mut inner = self.inner.borrow_mut();
                inner.note_got(None, &waiter, got, verdict.next);
            }
            Err(error) => {
                tracing::warn!(shard = %self.id, %error, "a pull failed");
                let refusal = Refusal::new(response::SYSTEM_ERROR, error.to_string());
                let timing = self.time_refused_pull(&waiter, Stage::DiskRead);
                self.host.refuse_timed(to, &refusal, timing);
            }
        }
    }

    pub(super) fn tell(&self, waiter: &Waiter, verdict: Verdict, bounds: QueueBounds) {
        let ext = ext_of(&waiter.pull, verdict.next, bounds);
        let (to, status) = (waiter.reply, Some(verdict.status.remark()));
        if to.one_way {
            return;
        }
        self.host.write_timed(to.peer, |out| {
            let ext = Some(ext.as_slice());
            let written =
                writer::write_reply(out, to.encoding, to.opaque, verdict.code, status, ext, &[]);
            debug_assert!(written.is_ok(), "an empty pull reply is short");
            self.time_pull(waiter, 0)
        });
    }
}

impl Inner {
    /// `next`: where its reader goes on (`PullMessageProcessor.tryCommitOffset`, 5.5.0).
    pub(super) fn note_got(
        &mut self,
        actor: Option<&mut QueueActor>,
        waiter: &Waiter,
        got: Got,
        next: QueueOffset,
    ) {
        let (key, group) = (waiter.key, &waiter.pull.group);
        if got.count == 0 {
            self.totals.missed_count += 1;
        } else {
            self.totals.found_count += 1;
            self.totals.got_count += got.count;
            self.pulled_bytes += got.bytes;
        }
        let tallied = match actor {
            Some(actor) => {
                actor.state.offsets.pulled(group, next);
                if got.count > 0 {
                    actor.tally.got(key.topic, group, got);
                    self.note_tallied(actor);
                }
                return;
            }
            None => self.known(key).and_then(|actor| {
                actor.state.offsets.pulled_on(group, next);
                (got.count > 0).then(|| {
                    actor.tally.got(key.topic, group, got);
                    std::mem::replace(&mut actor.is_tallied, true)
                })
            }),
        };
        if let (Some(false), Some(slot)) = (tallied, self.by_key.get(&key)) {
            self.tallied.push(*slot);
        }
    }
}

/// Everything up to `next` was looked at, and nothing is wanted.
pub(super) fn unmatched(next: QueueOffset) -> Verdict {
    Verdict {
        status: PullStatus::NoMatchedMessage,
        code: response::PULL_RETRY_IMMEDIATELY,
        next,
    }
}

fn got_of(read: &ReadOutcome, read_ms: u64) -> Got {
    Got {
        count: u64::from(read.found),
        bytes: read.bytes,
        read_ms,
    }
}

fn limits_of(pull: &Pull) -> ReadLimits {
    let wanted = usize::try_from(pull.messages_max).unwrap_or(usize::MAX);
    let examined = pull::examined_entries_max(wanted);
    ReadLimits {
        messages: pull.messages_max,
        bytes: pull.bytes_max,
        entries_examined: u32::try_from(examined).unwrap_or(u32::MAX),
    }
}

fn verdict_of(read: &ReadOutcome, from: QueueOffset) -> Verdict {
    if read.found == 0 && from < read.bounds.min {
        // Retention went past the reader.
        return Verdict {
            status: PullStatus::OffsetTooSmall,
            code: response::PULL_OFFSET_MOVED,
            next: read.bounds.min,
        };
    }
    pull::verdict(
        usize::try_from(read.found).unwrap_or(usize::MAX),
        from,
        read.next_offset,
    )
}

/// The fields that every reply of a pull must have (traps 3, 63), in the order of their names.
fn ext_of(
    pull: &Pull,
    next: QueueOffset,
    bounds: QueueBounds,
) -> [(&'static str, ExtValue<'static>); 6] {
    let number = |offset: QueueOffset| ExtValue::Int(i64::try_from(offset.0).unwrap_or(i64::MAX));
    [
        ("groupSysFlag", ExtValue::from(pull.group_sys_flag)),
        ("maxOffset", number(bounds.max)),
        ("minOffset", number(bounds.min)),
        ("nextBeginOffset", number(next)),
        ("suggestWhichBrokerId", ExtValue::Int(0)),
        ("topicSysFlag", ExtValue::from(pull.topic_sys_flag)),
    ]
}
