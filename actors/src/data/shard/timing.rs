//! A shard's share of the latency profile: the stamps of its passes.
//!
//! **Owns** when a pass began and what it stored, for the stages of sends.
//! **Lives on** the data core of the shard.
//! **Invariants** the clock is read twice a pass that stores something, whatever the number of
//! messages; not at all where the profile is off.
//! **Limits** none.
//! **Not here** the recorder (`gantry_runtime::metrics`), the device's share (`log_times`).

use std::rc::Rc;

use gantry_runtime::metrics::{Kind, Timing};
use gantry_storage::units::FilePosition;

use super::{Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::append::Ack;
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

    /// A message is stored, which came at `posted_us`.
    pub(super) fn time_front(&self, inner: &mut Inner, ack: &mut Ack, posted_us: u64) {
        let profile = self.host.profile();
        if profile.is_on()
            && let Some(to) = ack.asker.sender()
        {
            let begun_us = inner.pass_times.begun_us;
            inner.pass_times.sends += 1;
            ack.times.front = profile.taken(to.peer.core, to.read_us, posted_us, begun_us);
        }
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

/// As much as fits.
pub(super) fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
