//! How many connections a core may have, so that files can still be opened.
//!
//! **Owns** the count of the process's connections; how often a failing accept is told.
//! **Lives on** each data core; the count is the process's, a name server beside a broker included.
//! **Invariants** connections of all cores together leave [`HANDLES_RESERVED`] handles, or half of
//! a small limit, to everything else. No core has a share of these: the kernel deals connections
//! out evenly, but a core that got more than others needs no refusals for it.
//! **Limits** the limit on open files as it is when the core starts to listen; whatever that is,
//! [`super::CONNECTIONS_MAX`] a core.
//! **Not here** raising that limit (`probe`), accepting (`listener`).

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

/// Handles that connections leave to segments, indexes, rings and the control plane.
pub const HANDLES_RESERVED: u64 = 4_096;
/// Least time between two lines about accepts that fail.
const TOLD_EACH_MS: u64 = 1_000;

/// Connections of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// What a core goes by.
pub(super) struct Admission {
    /// Of this core, whatever handles there are.
    core_max: usize,
    /// Of the process.
    process_max: usize,
}

/// One connection's place; given back on drop.
pub(super) struct Place(());

impl Admission {
    /// For a core with at most `core_max` connections.
    pub(super) fn new(core_max: usize) -> Self {
        Self {
            core_max,
            process_max: connections(getrlimit(Resource::Nofile).current),
        }
    }

    /// A place for one more connection of a core that has `open`, if it may have one.
    pub(super) fn admit(&self, open: usize) -> Option<Place> {
        if open >= self.core_max {
            return None;
        }
        // Counted first: another core may admit one at the same moment.
        let place = Place(());
        (OPEN.fetch_add(1, Ordering::Relaxed) < self.process_max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections of a process that may have so many files open.
fn connections(files_max: Option<u64>) -> usize {
    let Some(files_max) = files_max else {
        return usize::MAX;
    };
    let connections = files_max - HANDLES_RESERVED.min(files_max / 2);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// Failed accepts that nobody was told of yet.
#[derive(Default)]
pub(super) struct Failures {
    untold: u64,
    /// The next line may come then.
    next_ms: u64,
}

impl Failures {
    /// One more; how many there were since the last line if it is time for one.
    pub(super) fn note(&mut self, now_ms: u64) -> Option<u64> {
        self.untold += 1;
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms + TOLD_EACH_MS;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_reserve_of_handles() {
        assert_eq!(connections(None), usize::MAX);
        assert_eq!(connections(Some(65_536)), 61_440);
        assert_eq!(connections(Some(8_192)), 4_096);
        assert_eq!(connections(Some(1_024)), 512);
        assert_eq!(connections(Some(0)), 0);
    }

    #[test]
    fn a_place_is_given_back() {
        let mut admission = Admission::new(3);
        assert!(admission.admit(3).is_none());
        // Other tests of this process have connections, too, but no such number.
        admission.process_max = OPEN.load(Ordering::Relaxed) + 1_000;
        let places: Vec<Place> = (0..2_000).map_while(|_| admission.admit(0)).collect();
        assert!(!places.is_empty() && places.len() < 2_000);
        drop(places);
        assert!(admission.admit(2).is_some());
    }

    #[test]
    fn failures_are_told_once_a_second() {
        let mut failures = Failures::default();
        assert_eq!(failures.note(5_000), Some(1));
        assert_eq!(failures.note(5_020), None);
        assert_eq!(failures.note(5_999), None);
        assert_eq!(failures.note(6_000), Some(3));
    }
}
