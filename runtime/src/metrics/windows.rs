//! Histograms of all stages, since the start and for the last seconds.
//!
//! **Owns** the histograms of one core and when they are turned over.
//! **Lives on** each data core; copies of [`Histories`] are `Send`.
//! **Invariants** a value is recorded once, into the slice at work; a slice that ends is added to
//! the sums since the start and stays in the window for [`SLICES`] - 1 more slices.
//! **Limits** a value above [`STAGE_US_MAX`] counts as that; two significant digits. A histogram
//! (20 KiB) is made when its stage is first seen.
//! **Not here** what is recorded (`profile`).

use hdrhistogram::Histogram;

use super::stage::{CELLS, Kind, Stage};

/// Longest time a histogram tells apart, in microseconds (one minute).
pub const STAGE_US_MAX: u64 = 60_000_000;
/// Significant digits: 1 % is enough to see a tail, and keeps a histogram at some 20 KiB.
const STAGE_DIGITS: u8 = 2;
/// How long one slice of the window is filled.
pub const SLICE_US: u64 = 5_000_000;
/// Slices of the window: two whole ones and the one at work are the last 10 to 15 s.
pub const SLICES: usize = 3;

/// The histograms of all stages.
#[derive(Debug, Clone)]
pub struct Histories {
    cells: Vec<Option<Histogram<u64>>>,
}

/// What is told of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 % of them took no longer.
    pub p99_us: u64,
    /// 99.9 % of them took no longer.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Default for Histories {
    fn default() -> Self {
        Self {
            cells: vec![None; CELLS],
        }
    }
}

impl Histories {
    /// Records one value for each of `times` requests.
    pub fn record(&mut self, kind: Kind, stage: Stage, us: u64, times: u64) {
        if let Some(cell) = self.cells.get_mut(stage.cell(kind)) {
            // Saturating: the highest value stands for all above it.
            cell.get_or_insert_with(histogram)
                .saturating_record_n(us.min(STAGE_US_MAX), times);
        }
    }

    /// Adds another's values.
    pub fn add(&mut self, other: &Self) {
        for (into, from) in self.cells.iter_mut().zip(&other.cells) {
            let Some(from) = from.as_ref().filter(|from| !from.is_empty()) else {
                continue;
            };
            // Same bounds on both sides, so adding cannot fail; if it did, a report would miss
            // values.
            if into.get_or_insert_with(histogram).add(from).is_err() {
                tracing::warn!("histograms of one stage differ in their bounds");
            }
        }
    }

    fn reset(&mut self) {
        for cell in self.cells.iter_mut().flatten() {
            if !cell.is_empty() {
                cell.reset();
            }
        }
    }

    /// What is known of a stage; none when nothing was recorded.
    pub fn figures(&self, kind: Kind, stage: Stage) -> Option<Figures> {
        let cell = self.cells.get(stage.cell(kind))?.as_ref()?;
        if cell.is_empty() {
            return None;
        }
        // No bucket's upper end may pass for a time that nothing took.
        let max_us = cell.max().min(STAGE_US_MAX);
        let at = |quantile| cell.value_at_quantile(quantile).min(max_us);
        Some(Figures {
            count: cell.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us,
        })
    }
}

/// The slices of the window, and the sums.
#[derive(Debug)]
pub(super) struct Windows {
    began_us: u64,
    slice_began_us: u64,
    /// Of whole slices.
    sums: Histories,
    slices: [Histories; SLICES],
    at: usize,
    /// Whole slices behind the one at work that belong to the window.
    behind: usize,
}

impl Windows {
    pub(super) fn new(now_us: u64) -> Self {
        Self {
            began_us: now_us,
            slice_began_us: now_us,
            sums: Histories::default(),
            slices: std::array::from_fn(|_| Histories::default()),
            at: 0,
            behind: 0,
        }
    }

    pub(super) fn record(&mut self, kind: Kind, stage: Stage, us: u64, times: u64) {
        if let Some(slice) = self.slices.get_mut(self.at) {
            slice.record(kind, stage, us, times);
        }
    }

    /// Ends slices whose time is over; says how many, at most as many as there are.
    pub(super) fn turn_to(&mut self, now_us: u64) -> usize {
        let past = now_us.saturating_sub(self.slice_began_us) / SLICE_US;
        // After a long rest all slices are empty, whatever their number was.
        let turns = usize::try_from(past).map_or(SLICES, |past| past.min(SLICES));
        for _ in 0..turns {
            if let Some(ended) = self.slices.get(self.at) {
                self.sums.add(ended);
            }
            self.at = (self.at + 1) % SLICES;
            if let Some(next) = self.slices.get_mut(self.at) {
                next.reset();
            }
            self.behind = (self.behind + 1).min(SLICES - 1);
        }
        self.slice_began_us += past * SLICE_US;
        turns
    }

    /// Since the start, with its length in µs.
    pub(super) fn since_start(&self, now_us: u64) -> (Histories, u64) {
        let mut all = self.sums.clone();
        if let Some(slice) = self.slices.get(self.at) {
            all.add(slice);
        }
        (all, now_us.saturating_sub(self.began_us))
    }

    /// The last seconds, with their length in µs.
    pub(super) fn window(&self, now_us: u64) -> (Histories, u64) {
        let mut all = Histories::default();
        for slice in &self.slices {
            all.add(slice);
        }
        let behind_us = self.behind as u64 * SLICE_US;
        let began_us = self.slice_began_us.saturating_sub(behind_us);
        (all, now_us.saturating_sub(began_us))
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, STAGE_US_MAX, STAGE_DIGITS)
        .expect("1, one minute and 2 digits are valid bounds")
}
