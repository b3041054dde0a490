//! Which faults the simulated device has, and which it has had.
//!
//! **Owns** fault rates, faults ordered for the n-th operation, the record of what was injected.
//! **Lives on** the test's thread.
//! **Invariants** a fault is drawn from the run's random numbers only, so a seed repeats it; with
//! all rates 0 nothing is drawn.
//! **Limits** `UNTOLD_MAX` untold faults are remembered one by one.
//! **Not here** what a fault does to the bytes (`files`, `sim_disk`).

use std::collections::BTreeMap;

use super::executor::Random;
use crate::disk::DiskErrorKind;

/// Faults nobody was told of that are remembered with file and place.
const UNTOLD_MAX: usize = 10_000;
/// Rates are given per so many operations.
pub const RATE_SCALE: u64 = 100_000;

/// An operation a fault can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimOp {
    /// `open` of an existing file.
    Open,
    /// `open` that creates.
    Create,
    /// `write_at`, and the writing of `write_at_and_sync`.
    Write,
    /// `read_at`.
    Read,
    /// `sync`, and the syncing of `write_at_and_sync`.
    Sync,
    /// `rename`.
    Rename,
    /// `remove`.
    Remove,
    /// `sync_dir`.
    SyncDir,
}

/// Faults in so many of `RATE_SCALE` operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Reads answered with an I/O error.
    pub read: u64,
    /// Reads that give one wrong bit; the device itself is right.
    pub read_flip: u64,
    /// Writes answered with an I/O error, any part of them done.
    pub write: u64,
    /// Writes answered with an error after a prefix.
    pub short_write: u64,
    /// Writes answered with success after a prefix.
    pub untold_short_write: u64,
    /// Writes that go elsewhere, answered with success.
    pub misdirected_write: u64,
    /// Syncs answered with an I/O error; what they covered stays un-synced for good.
    pub sync: u64,
    /// Opens, creations, renames, removals and folder syncs answered with an I/O error.
    pub names: u64,
    /// Creations answered with "no space left".
    pub no_space: u64,
}

/// What becomes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Well,
    Fails(DiskErrorKind),
    /// Writes only: a prefix of the bytes is done; told or not.
    Short {
        told: bool,
    },
    Misdirected,
    /// Reads only.
    Flipped,
}

/// Bytes of a file that a fault changed (or failed to change) without telling anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// The file.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

/// A stretch of a file that can't be read until it is healed, or written.
struct Bad {
    name: String,
    start: u64,
    end: u64,
    kind: DiskErrorKind,
}

impl Bad {
    fn new(name: &str, (start, end): (u64, u64), kind: DiskErrorKind) -> Self {
        Self {
            name: name.to_owned(),
            start,
            end,
            kind,
        }
    }

    fn meets(&self, name: &str, (start, end): (u64, u64)) -> bool {
        self.name == name && self.start < end && start < self.end
    }
}

struct Ordered {
    op: SimOp,
    /// How many more of these operations succeed first.
    after: u64,
    kind: DiskErrorKind,
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) rates: FaultRates,
    ordered: Vec<Ordered>,
    bad: Vec<Bad>,
    bad_writes: Vec<Bad>,
    counts: BTreeMap<&'static str, u64>,
    untold: Vec<Untold>,
    /// Writes and syncs of segments that were told to have failed.
    log_failures: u64,
}

impl Faults {
    pub(super) fn order(&mut self, op: SimOp, after: u64, kind: DiskErrorKind) {
        self.ordered.push(Ordered { op, after, kind });
    }

    pub(super) fn spoil(&mut self, name: &str, range: (u64, u64), kind: DiskErrorKind) {
        self.bad.push(Bad::new(name, range, kind));
    }

    pub(super) fn spoil_writes(&mut self, name: &str, range: (u64, u64), kind: DiskErrorKind) {
        self.bad_writes.push(Bad::new(name, range, kind));
    }

    /// Why `start..end` of a file can't be read.
    pub(super) fn bad_at(&self, name: &str, range: (u64, u64)) -> Option<DiskErrorKind> {
        let hit = self.bad.iter().find(|bad| bad.meets(name, range))?;
        Some(hit.kind)
    }

    /// Why `start..end` of a file can't be written.
    pub(super) fn bad_write_at(&self, name: &str, range: (u64, u64)) -> Option<DiskErrorKind> {
        let hit = self.bad_writes.iter().find(|bad| bad.meets(name, range))?;
        Some(hit.kind)
    }

    /// What is written again can be read again.
    pub(super) fn heal(&mut self, name: &str, (start, end): (u64, u64)) {
        let heals = |bad: &Bad| bad.name == name && start <= bad.start && bad.end <= end;
        self.bad.retain(|bad| !heals(bad));
    }

    pub(super) fn clear(&mut self) {
        self.ordered.clear();
        self.bad.clear();
        self.bad_writes.clear();
        self.rates = FaultRates::default();
    }

    pub(super) fn count(&mut self, what: &'static str, number: u64) {
        if number > 0 {
            *self.counts.entry(what).or_insert(0) += number;
        }
    }

    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    pub(super) fn note_untold(&mut self, untold: Untold) {
        if self.untold.len() < UNTOLD_MAX {
            self.untold.push(untold);
        }
    }

    pub(super) fn untold(&self) -> &[Untold] {
        &self.untold
    }

    pub(super) fn log_failures(&self) -> u64 {
        self.log_failures
    }

    fn ordered_fate(&mut self, op: SimOp) -> Option<DiskErrorKind> {
        let mut hit = None;
        let ordered = self.ordered.iter_mut().enumerate();
        for (at, fault) in ordered.filter(|(_, fault)| fault.op == op) {
            if fault.after == 0 {
                hit = hit.or(Some(at));
            } else {
                fault.after -= 1;
            }
        }
        hit.map(|at| self.ordered.remove(at).kind)
    }

    /// Draws what becomes of an operation on `name`.
    pub(super) fn fate(&mut self, op: SimOp, name: &str, random: &Random) -> Fate {
        let fate = match self.ordered_fate(op) {
            Some(kind) => Fate::Fails(kind),
            None => self.drawn_fate(op, random),
        };
        let is_log = std::path::Path::new(name)
            .extension()
            .is_some_and(|ext| ext == "log");
        let what = match (fate, op) {
            (Fate::Well, _) => return fate,
            (Fate::Fails(DiskErrorKind::NoSpace), _) => "no space",
            (Fate::Fails(_), SimOp::Read) => "read error",
            (Fate::Fails(_), SimOp::Write) => "write error",
            (Fate::Fails(_), SimOp::Sync) => "sync error",
            (Fate::Fails(_), _) => "open, create, rename, remove or folder sync error",
            (Fate::Short { told: true }, _) => "short write",
            (Fate::Short { told: false }, _) => "short write untold",
            (Fate::Misdirected, _) => "misdirected write",
            (Fate::Flipped, _) => "bit flip in a read",
        };
        self.count(what, 1);
        let told = matches!(fate, Fate::Fails(_) | Fate::Short { told: true });
        if told && is_log && matches!(op, SimOp::Write | SimOp::Sync) {
            self.log_failures += 1;
        }
        fate
    }

    fn drawn_fate(&self, op: SimOp, random: &Random) -> Fate {
        let rates = &self.rates;
        let io = Fate::Fails(DiskErrorKind::Io);
        let choices: &[(u64, Fate)] = match op {
            SimOp::Read => &[(rates.read, io), (rates.read_flip, Fate::Flipped)],
            SimOp::Write => &[
                (rates.write, io),
                (rates.short_write, Fate::Short { told: true }),
                (rates.untold_short_write, Fate::Short { told: false }),
                (rates.misdirected_write, Fate::Misdirected),
            ],
            SimOp::Sync => &[(rates.sync, io)],
            SimOp::Create => &[
                (rates.names, io),
                (rates.no_space, Fate::Fails(DiskErrorKind::NoSpace)),
            ],
            _ => &[(rates.names, io)],
        };
        if choices.iter().all(|(rate, _)| *rate == 0) {
            return Fate::Well;
        }
        let mut drawn = random.below(RATE_SCALE);
        for (rate, fate) in choices {
            if drawn < *rate {
                return *fate;
            }
            drawn -= rate;
        }
        Fate::Well
    }
}
