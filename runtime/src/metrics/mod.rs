//! What a core counts, and where its requests' time goes.
//!
//! **Owns** the counters of one core, its latency profile, and the snapshot others may read.
//! **Lives on** each data core; the snapshot is `Send`.
//! **Invariants** counting and recording take no lock.
//! **Limits** those of the profile's rooms.
//! **Not here** the command that shows them (`server/profile`).

mod batches;
mod profile;
mod slowest;
mod stage;
mod stall_watch;
mod stalls;
mod windows;

use std::cell::Cell;
use std::rc::Rc;

pub use profile::{Front, Profile, Refused, Run, Snapshot, Timing};
pub use slowest::{SLOWEST_MAX, Slow};
pub use stage::{Kind, STAGES, Stage};
pub use stall_watch::StallWatch;
pub use stalls::{RECENT_MAX, STALL_US, Stall, StalledRoom, Stalls};
pub use windows::{Figures, Histories, SLICE_US, SLICES};

/// The counters of one core, summed over cores by [`Counts::add`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections open now.
    pub connections: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections refused because the limit was reached.
    pub refused: u64,
    /// Connections closed for a bad frame, silence or an overfull buffer.
    pub expelled: u64,
    /// Frames read.
    pub frames_in: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Read calls.
    pub reads: u64,
    /// Write calls.
    pub writes: u64,
    /// Batches sent to other cores.
    pub mesh_batches: u64,
    /// Messages in those batches.
    pub mesh_messages: u64,
    /// Beats of the core that came a whole beat late: something held the core up, or it slept with
    /// work to do.
    pub late_beats: u64,
    /// Times requests were left to gather before they were read.
    pub gatherings: u64,
}

impl Counts {
    /// Adds another core's numbers.
    pub fn add(&mut self, more: &Self) {
        self.connections += more.connections;
        self.accepted += more.accepted;
        self.refused += more.refused;
        self.expelled += more.expelled;
        self.frames_in += more.frames_in;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        self.reads += more.reads;
        self.writes += more.writes;
        self.mesh_batches += more.mesh_batches;
        self.mesh_messages += more.mesh_messages;
        self.late_beats += more.late_beats;
        self.gatherings += more.gatherings;
    }
}

/// One core's recorder.
#[derive(Debug)]
pub struct CoreMetrics {
    counts: Cell<Counts>,
    profile: Profile,
}

impl CoreMetrics {
    /// An empty recorder, its profile switched off.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            counts: Cell::new(Counts::default()),
            profile: Profile::off(),
        })
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Where the time of requests goes.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
}

#[cfg(test)]
mod tests;
