//! What the read at work has brought, for the latency profile.
//!
//! **Owns** the count of a read's sends and pulls, and the cores they went to.
//! **Lives on** the session's data core.
//! **Invariants** counted while the read's frames are handled, told once behind them: one look at
//! the clock a read. Requests that wait for a topic or group to be made are told when they go on.
//! **Limits** none.
//! **Not here** the recorder (`gantry_runtime::metrics`).

use std::cell::Cell;

use gantry_runtime::metrics::{Kind, Stage};

use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::router::CoreWord;
use crate::seam::CoreNumber;

/// This room's name in the profile: what a stall of it is called.
const FRAMES: &str = "requests (frames of one read)";

/// See the module.
#[derive(Debug, Default)]
pub struct Reading {
    now: Cell<Brought>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Brought {
    frames: u64,
    sends: u64,
    pulls: u64,
    /// What the first frame was: the only one that may have come in pieces.
    first: Option<Kind>,
    /// What the last frame was.
    last: Option<Kind>,
    /// Bit by bit, the other cores that got some of it.
    cores: u64,
}

impl Brought {
    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Send => &mut self.sends,
            Kind::Pull => &mut self.pulls,
        }
    }
}

impl Reading {
    fn change(&self, change: impl FnOnce(&mut Brought)) {
        let mut now = self.now.get();
        change(&mut now);
        self.now.set(now);
    }

    /// A frame is being handled; `kind` if it is of one that is timed.
    pub fn note(&self, kind: Option<Kind>) {
        self.change(|now| {
            now.frames += 1;
            now.last = kind;
            if now.frames == 1 {
                now.first = kind;
            }
            if let Some(kind) = kind {
                *now.of(kind) += 1;
            }
        });
    }

    /// The frame being handled waits: its time comes later.
    pub fn put_off(&self) {
        self.change(|now| {
            if let Some(kind) = now.last.take() {
                let count = now.of(kind);
                *count = count.saturating_sub(1);
            }
        });
    }

    /// Some of it went to another core.
    pub fn went_to(&self, core: CoreNumber) {
        self.change(|now| now.cores |= 1_u64.checked_shl(u32::from(core)).unwrap_or(0));
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// All frames of a read are handled. `first_us`: when the first byte of the first one came.
    pub fn frames_done(&self, first_us: u64, read_us: u64, now_us: u64) {
        let profile = self.host.profile();
        profile.ran(FRAMES, read_us, now_us);
        let mut brought = self.reading.now.take();
        if brought.sends + brought.pulls == 0 {
            return;
        }
        for kind in [Kind::Send, Kind::Pull] {
            let count = *brought.of(kind);
            profile.record(kind, Stage::Decode, now_us.saturating_sub(read_us), count);
            let in_pieces = u64::from(count > 0 && brought.first == Some(kind));
            let took_us = read_us.saturating_sub(first_us);
            profile.record(kind, Stage::Read, took_us, in_pieces);
            profile.record(kind, Stage::Read, 0, count - in_pieces);
        }
        profile.decoded(self.number, read_us, now_us, now_us);
        for core in (0..self.cores).filter(|core| brought.cores >> core & 1 == 1) {
            let word = CoreWord::Decoded {
                core: self.number,
                read_us,
                decoded_us: now_us,
            };
            // A full road: the other core counts this batch's way as waiting.
            drop(self.host.send_core(core, word));
        }
    }

    /// A request that had to wait for its topic or group goes on.
    pub(in crate::data) fn resumed(&self, read_us: u64) {
        let mut brought = self.reading.now.take();
        let took_us = self.host.mono_us().saturating_sub(read_us);
        for kind in [Kind::Send, Kind::Pull] {
            let count = *brought.of(kind);
            let profile = self.host.profile();
            profile.record(kind, Stage::Decode, took_us, count);
        }
    }
}
