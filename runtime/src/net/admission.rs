//! How many connections a core may have, so that files can still be opened.
//!
//! **Owns** the cores' shares of the process's file handles; how often a failing accept is told.
//! **Lives on** each data core; the number of cores that share is the process's.
//! **Invariants** connections of all cores together leave [`HANDLES_RESERVED`] handles, or half of
//! a small limit, to everything else.
//! **Limits** the limit on open files as it is when the core starts to listen.
//! **Not here** raising that limit (`probe`), accepting (`listener`).

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

/// Handles that connections leave to segments, indexes, rings and the control plane.
pub const HANDLES_RESERVED: u64 = 4_096;
/// Least time between two lines about accepts that fail.
const TOLD_EACH_MS: u64 = 1_000;

/// Cores of this process that accept connections; a name server beside a broker is one as well.
static CORES: AtomicUsize = AtomicUsize::new(0);

/// A core's part in the process's connections.
pub(super) struct Admission {
    connections_max: usize,
    /// Open files that the process may have; `None`: any number.
    files_max: Option<u64>,
}

impl Admission {
    /// For a core with at most `connections_max`, whatever handles there are.
    pub(super) fn new(connections_max: usize) -> Self {
        CORES.fetch_add(1, Ordering::Relaxed);
        Self {
            connections_max,
            files_max: getrlimit(Resource::Nofile).current,
        }
    }

    /// Whether one more may come to a core that has `open`.
    pub(super) fn takes_one_more(&self, open: usize) -> bool {
        open < share(self.files_max, CORES.load(Ordering::Relaxed)).min(self.connections_max)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        CORES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections of one of so many cores.
fn share(files_max: Option<u64>, cores: usize) -> usize {
    let Some(files_max) = files_max else {
        return usize::MAX;
    };
    let connections = files_max - HANDLES_RESERVED.min(files_max / 2);
    usize::try_from(connections).unwrap_or(usize::MAX) / cores.max(1)
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
        assert_eq!(share(None, 4), usize::MAX);
        assert_eq!(share(Some(65_536), 1), 61_440);
        assert_eq!(share(Some(65_536), 4), 15_360);
        for (files_max, cores) in [(1_024, 1), (1_024, 3), (8_192, 2), (9_000, 4), (0, 1)] {
            let connections = share(Some(files_max), cores) * cores;
            let left = files_max - connections as u64;
            assert!(left >= HANDLES_RESERVED.min(files_max / 2), "{files_max}");
        }
        // A core that stops gives its part back to the others.
        let admission = Admission::new(3);
        assert!(admission.takes_one_more(2) && !admission.takes_one_more(3));
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
