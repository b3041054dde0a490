//! What a core counts and how long its stages take.
//!
//! **Owns** the counters and stage histograms of one core, and the snapshot others may read.
//! **Lives on** each data core; the snapshot is `Send`.
//! **Invariants** recording takes no lock and allocates nothing after start.
//! **Limits** a stage longer than [`STAGE_US_MAX`] is counted as that; two significant digits.
//! **Not here** the endpoint that shows them (`server`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hdrhistogram::Histogram;

/// Longest time a stage histogram tells apart, in microseconds (one minute).
pub const STAGE_US_MAX: u64 = 60_000_000;
/// Significant digits of a stage histogram: 1 % is enough to see a tail, and keeps one at some 20
/// KiB.
const STAGE_DIGITS: u8 = 2;

/// The timed stages of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the frame being read to its handler being done with it on this core.
    Handle,
    /// From an append request being read to its reply being appended to the out buffer.
    Append,
    /// From a pull request being read to its reply, unless it was parked.
    Pull,
    /// One write or sync of the log.
    Disk,
    /// Waiting in a mesh or actor inbox.
    Inbox,
}

/// All stages in the order of their histograms.
pub const STAGES: [Stage; 5] = [
    Stage::Handle,
    Stage::Append,
    Stage::Pull,
    Stage::Disk,
    Stage::Inbox,
];

impl Stage {
    const fn index(self) -> usize {
        match self {
            Self::Handle => 0,
            Self::Append => 1,
            Self::Pull => 2,
            Self::Disk => 3,
            Self::Inbox => 4,
        }
    }

    /// The stage's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handle => "handle",
            Self::Append => "append",
            Self::Pull => "pull",
            Self::Disk => "disk",
            Self::Inbox => "inbox",
        }
    }
}

/// The counters of one core, summed over cores by [`Snapshot::merge`].
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
}

/// One core's recorder.
#[derive(Debug)]
pub struct CoreMetrics {
    counts: Cell<Counts>,
    stages: RefCell<Vec<Histogram<u64>>>,
}

impl CoreMetrics {
    /// An empty recorder.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            counts: Cell::new(Counts::default()),
            stages: RefCell::new(STAGES.iter().map(|_| stage_histogram()).collect()),
        })
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Records that `stage` took `us` microseconds.
    pub fn record(&self, stage: Stage, us: u64) {
        self.record_many(stage, us, 1);
    }

    /// Records that `stage` took `us` microseconds for each of `times` requests of a batch.
    pub fn record_many(&self, stage: Stage, us: u64, times: u64) {
        if let Some(histogram) = self.stages.borrow_mut().get_mut(stage.index()) {
            // Saturating: the highest value stands for all above it.
            histogram.saturating_record_n(us.min(STAGE_US_MAX), times);
        }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// A copy that can leave this core.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counts.get(),
            stages: self.stages.borrow().clone(),
        }
    }
}

/// A copy of one core's, or the sum of several cores' recorders.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The counters.
    pub counts: Counts,
    stages: Vec<Histogram<u64>>,
}

impl Snapshot {
    /// Adds another core's numbers.
    pub fn merge(&mut self, other: &Self) {
        let (mine, more) = (&mut self.counts, &other.counts);
        mine.connections += more.connections;
        mine.accepted += more.accepted;
        mine.refused += more.refused;
        mine.expelled += more.expelled;
        mine.frames_in += more.frames_in;
        mine.bytes_in += more.bytes_in;
        mine.bytes_out += more.bytes_out;
        mine.reads += more.reads;
        mine.writes += more.writes;
        mine.mesh_batches += more.mesh_batches;
        mine.mesh_messages += more.mesh_messages;
        mine.late_beats += more.late_beats;
        for (into, from) in self.stages.iter_mut().zip(&other.stages) {
            // Same bounds on both sides, so adding cannot fail; if it did, a report would miss a
            // core.
            if into.add(from).is_err() {
                tracing::warn!("histograms of two cores differ in their bounds");
            }
        }
    }

    /// The histogram of a stage, in microseconds.
    pub fn stage(&self, stage: Stage) -> Option<&Histogram<u64>> {
        self.stages.get(stage.index())
    }
}

fn stage_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, STAGE_US_MAX, STAGE_DIGITS)
        .expect("1, one minute and 2 digits are valid bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_merges() {
        let (one, two) = (CoreMetrics::new(), CoreMetrics::new());
        one.record(Stage::Append, 100);
        two.record_many(Stage::Append, 200, 3);
        two.record(Stage::Disk, u64::MAX);
        one.count(|c| c.frames_in += 5);
        two.count(|c| c.frames_in += 7);
        let mut sum = one.snapshot();
        sum.merge(&two.snapshot());
        assert_eq!(sum.counts.frames_in, 12);
        let append = sum.stage(Stage::Append).unwrap();
        assert_eq!(append.len(), 4);
        assert!(append.value_at_quantile(0.5) >= 198);
        assert_eq!(sum.stage(Stage::Disk).unwrap().len(), 1);
        assert_eq!(STAGES.map(Stage::name).len(), STAGES.len());
    }
}
