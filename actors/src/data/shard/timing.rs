//! A shard's share of the latency profile: the stamps of its passes.
//!
//! **Owns** when a pass began and what it stored, for the stages of sends.
//! **Lives on** the data core of the shard.
//! **Invariants** the clock is read twice a pass that stores something, whatever the number of
//! messages, and twice or thrice a pull; not at all where the profile is off.
//! **Limits** none.
//! **Not here** the recorder (`gantry_runtime::metrics`), the device's share (`log_times`).

use std::rc::Rc;

use gantry_runtime::metrics::{Front, Kind, Stage, Timing};
use gantry_storage::units::{FilePosition, QueueKey};

use super::pulls::Waiter;
use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::append::{Ack, Pending};
use crate::data::queue::store::QueueStore;
use crate::data::words::ReplyTo;

/// The stamps of the pass at work.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassTimes {
    /// When it began, µs.
    begun_us: u64,
    /// Sends of clients that it has stored.
    sends: u64,
    /// When they were sealed, µs.
    stored_us: u64,
}

impl PassTimes {
    /// Tells an answer what it shares with its pass.
    pub fn mark(&self, ack: &mut Ack) {
        ack.times.append_us = short(self.stored_us.saturating_sub(self.begun_us));
        ack.times.stored_us = self.stored_us;
    }
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// What the store must call when the device has got on.
    pub fn progress_hook(&self) -> Box<dyn Fn()> {
        let (host, times) = (Rc::clone(&self.host), Rc::clone(&self.log_times));
        let (store, signal) = (Rc::downgrade(&self.store), Rc::clone(&self.signal));
        Box::new(move || {
            if host.profile().is_on()
                && let Some(store) = store.upgrade()
            {
                let now_us = host.mono_us_now();
                let (stable, committed) = (store.stable(), store.committed());
                times.progressed(host.profile(), now_us, stable, committed);
            }
            signal.set();
        })
    }

    /// A pass begins.
    pub(super) fn begin_times(&self, inner: &mut Inner) {
        inner.pass_times = PassTimes::default();
        if self.host.profile().is_on() && !inner.ready.is_empty() {
            inner.pass_times.begun_us = self.host.mono_us_now();
        }
    }

    /// The message of the last acknowledgement is stored, which came at `posted_us`.
    pub(super) fn time_front(&self, inner: &mut Inner, posted_us: u64) {
        let profile = self.host.profile();
        if profile.is_on()
            && let Some(ack) = inner.acks.last_mut()
            && let Some(to) = ack.asker.sender()
        {
            let begun_us = inner.pass_times.begun_us;
            inner.pass_times.sends += 1;
            ack.times.front = profile.taken(to.peer.core, to.read_us, posted_us, begun_us);
        }
    }

    /// The stages of a send that is refused while it waits to be stored.
    pub(super) fn time_refused(&self, key: QueueKey, pending: &Pending) -> Option<Timing> {
        let profile = self.host.profile();
        let to = pending.asker.sender().filter(|_| profile.is_on())?;
        let now_us = self.host.mono_us_now();
        let front = profile.front(to.peer.core, to.read_us, pending.arrived_us, now_us);
        profile.not_stored(front);
        Some(Timing {
            kind: Kind::Send,
            refused: Some(Stage::Mailbox),
            queue: key,
            bytes: short(pending.append.bytes() as u64),
            read_us: to.read_us,
            answered_us: now_us,
            front,
            work_us: 0,
            device_us: 0,
            wait_us: 0,
        })
    }

    /// What the pass has stored is sealed up to `end`.
    pub(super) fn time_stored(&self, inner: &mut Inner, end: FilePosition) {
        let times = &mut inner.pass_times;
        if times.sends > 0 {
            times.stored_us = self.host.mono_us_now();
            let profile = self.host.profile();
            profile.stored(times.begun_us, times.stored_us, times.sends);
            self.log_times.staged(end, times.stored_us, times.sends);
        }
    }
}

/// The stages of a send whose answer may leave at `now_us`.
pub(super) fn timing_of(to: ReplyTo, ack: &Ack, now_us: u64) -> Timing {
    let times = &ack.times;
    Timing {
        kind: Kind::Send,
        refused: None,
        queue: ack.key,
        bytes: short(ack.stored_bytes()),
        read_us: to.read_us,
        answered_us: now_us,
        front: times.front,
        work_us: times.append_us,
        device_us: short(now_us.saturating_sub(times.stored_us)),
        wait_us: 0,
    }
}

/// The stamps of a pull on its way.
#[derive(Debug, Clone, Copy, Default)]
pub struct PullTimes {
    /// Until its turn.
    front: Front,
    lookup_us: u32,
    device_us: u32,
    /// When what it does now began, µs.
    at_us: u64,
    /// When it was suspended, µs; 0 if it never was.
    parked_us: u64,
    wait_us: u64,
}

impl PullTimes {
    /// Nothing to read: it waits from now on.
    pub fn park(&mut self, now_us: u64) {
        self.lookup_us = self.lookup_until(now_us);
        self.at_us = now_us;
        self.parked_us = now_us;
    }

    /// It is looked at again; what such a look takes that finds nothing is part of its wait.
    pub fn wake(&mut self, now_us: u64) {
        if self.parked_us > 0 {
            self.wait_us = now_us.saturating_sub(self.parked_us);
            self.at_us = now_us;
        }
    }

    /// Its records must come from the device.
    pub fn ask_device(&mut self, now_us: u64) {
        self.lookup_us = self.lookup_until(now_us);
        self.at_us = now_us;
    }

    /// They have.
    pub fn device_gave(&mut self, now_us: u64) {
        self.device_us = short(now_us.saturating_sub(self.at_us)).max(1);
        self.at_us = now_us;
    }

    fn lookup_until(&self, now_us: u64) -> u32 {
        let more = short(now_us.saturating_sub(self.at_us));
        self.lookup_us.saturating_add(more)
    }
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Now, if somebody wants to know it.
    pub(super) fn stamp_us(&self) -> u64 {
        let is_on = self.host.profile().is_on();
        if is_on { self.host.mono_us_now() } else { 0 }
    }

    /// The turn of a pull begins that came to its inbox at `posted_us`.
    pub(super) fn begin_pull(&self, reply: ReplyTo, posted_us: u64) -> PullTimes {
        let now_us = self.stamp_us();
        let profile = self.host.profile();
        PullTimes {
            front: profile.front(reply.peer.core, reply.read_us, posted_us, now_us),
            at_us: now_us,
            ..PullTimes::default()
        }
    }

    /// A pull's answer with so many bytes is decided: what it took so far.
    pub(super) fn time_pull(&self, waiter: &Waiter, bytes: u64) -> Option<Timing> {
        self.time_end(waiter, bytes, None)
    }

    /// A pull is refused in this stage: what it took so far.
    pub(super) fn time_refused_pull(&self, waiter: &Waiter, stage: Stage) -> Option<Timing> {
        self.time_end(waiter, 0, Some(stage))
    }

    fn time_end(&self, waiter: &Waiter, bytes: u64, refused: Option<Stage>) -> Option<Timing> {
        let profile = self.host.profile();
        if !profile.is_on() {
            return None;
        }
        let (times, now_us) = (&waiter.times, self.host.mono_us_now());
        let timing = Timing {
            kind: Kind::Pull,
            refused,
            queue: waiter.key,
            bytes: short(bytes),
            read_us: waiter.reply.read_us,
            answered_us: now_us,
            front: times.front,
            work_us: times.lookup_until(now_us),
            device_us: times.device_us,
            wait_us: times.wait_us,
        };
        profile.pulled(&timing, times.parked_us > 0);
        Some(timing)
    }
}

/// As much as fits.
pub(super) fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
