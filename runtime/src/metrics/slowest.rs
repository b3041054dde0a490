//! The slowest requests of the window, with their stages.
//!
//! **Owns** which requests are kept.
//! **Lives on** each data core.
//! **Invariants** of a slice's requests the slowest are kept; requests that passed every stage
//! together are one entry with their number.
//! **Limits** [`SLOWEST_MAX`] entries a slice.
//! **Not here** the slices' length (`windows`).

use super::profile::Timing;
use super::windows::SLICES;

/// Entries kept of each slice, and told of the window.
pub const SLOWEST_MAX: usize = 32;

/// A slow request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    /// From the read that completed it to its reply given to the socket, without a pull's wait, µs.
    pub total_us: u64,
    /// Its share of it.
    pub reply_us: u64,
    /// The rest.
    pub timing: Timing,
    /// Requests that passed every stage together with it, itself included.
    pub alike: u64,
}

#[derive(Debug, Default)]
pub(super) struct Slowest {
    slices: [Vec<Slow>; SLICES],
    at: usize,
    /// Total of the fastest one kept in the slice at work, once that is full.
    least_us: u64,
}

impl Slowest {
    pub(super) fn offer(&mut self, slow: Slow) {
        if slow.total_us <= self.least_us {
            return;
        }
        let Some(slice) = self.slices.get_mut(self.at) else {
            return;
        };
        if slice.len() < SLOWEST_MAX {
            slice.push(slow);
        } else if let Some(least) = slice.iter_mut().min_by_key(|kept| kept.total_us) {
            *least = slow;
        }
        if slice.len() == SLOWEST_MAX {
            let totals = slice.iter().map(|kept| kept.total_us);
            self.least_us = totals.min().unwrap_or(0);
        }
    }

    pub(super) fn turn(&mut self) {
        self.at = (self.at + 1) % SLICES;
        if let Some(slice) = self.slices.get_mut(self.at) {
            slice.clear();
        }
        self.least_us = 0;
    }

    pub(super) fn window(&self) -> Vec<Slow> {
        slowest_of(self.slices.iter().flatten().copied().collect())
    }
}

/// The slowest ones first, no more than are told.
pub(super) fn slowest_of(mut all: Vec<Slow>) -> Vec<Slow> {
    all.sort_unstable_by_key(|slow| std::cmp::Reverse(slow.total_us));
    all.truncate(SLOWEST_MAX);
    all
}
