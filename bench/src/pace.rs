//! When the next frame is due.
//!
//! **Owns** the open-loop schedule: with a rate, frame n of a connection is due at
//! start + phase + n / rate, whatever the broker does, and its latency counts from there, so that
//! waits behind a stall are counted.
//! **Lives on** the generator's executor.
//! **Invariants** due times never go back; flat out (no rate) every frame is due at once.
//! **Limits** rate 1 to `RATE_MAX` messages a second; what was due and not issued is told in
//! `OVERDUE_GROUPS_MAX` groups at the most.
//! **Not here** how many may be in flight (`producer`).

/// Highest rate accepted, messages a second.
pub const RATE_MAX: u64 = 10_000_000;

/// Groups in which what is overdue is told: any rate, any stall, and still each wait to a part in
/// ten thousand.
const OVERDUE_GROUPS_MAX: u64 = 10_000;

/// The schedule of one connection.
#[derive(Debug, Clone)]
pub struct Pace {
    interval_ns: Option<f64>,
    phase_ns: u64,
    issued_count: u64,
}

impl Pace {
    /// `rate` in frames a second for this connection, `None` = flat out; the first is due at
    /// `phase_ns`, so that connections take turns.
    pub fn new(rate: Option<f64>, phase_ns: u64) -> Self {
        Self {
            interval_ns: rate.map(|r| 1e9 / r),
            phase_ns,
            issued_count: 0,
        }
    }

    /// The intended send time of the next frame, ns since start; `None` when flat out.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn due_ns(&self) -> Option<u64> {
        // Exact to the ns for 100 days at any rate accepted: f64 has 53 bits.
        self.interval_ns
            .map(|interval| self.phase_ns + (self.issued_count as f64 * interval) as u64)
    }

    /// Frames that were due before `end_ns` and have not been issued.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn overdue(&self, end_ns: u64) -> u64 {
        let (Some(interval), Some(due)) = (self.interval_ns, self.due_ns()) else {
            return 0;
        };
        // The one that is due counts as soon as its time has come.
        let late_ns = end_ns.saturating_sub(due) as f64;
        (late_ns / interval).ceil() as u64
    }

    /// The due times of those frames, in groups: how many, and when the last of them was due, so
    /// that none has waited for less than since then.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn overdue_groups(&self, end_ns: u64) -> impl Iterator<Item = (u64, u64)> {
        let (all, interval) = (self.overdue(end_ns), self.interval_ns.unwrap_or(0.0));
        let size = all.div_ceil(OVERDUE_GROUPS_MAX).max(1);
        let first = self.due_ns().unwrap_or(end_ns);
        (0..all.div_ceil(size)).map(move |group| {
            let count = size.min(all - group * size);
            let last = group * size + count - 1;
            (count, first + (last as f64 * interval) as u64)
        })
    }

    /// One frame was issued.
    pub fn issued(&mut self) {
        self.issued_count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loop_keeps_its_schedule() {
        let mut pace = Pace::new(Some(1000.0), 250);
        for n in 0..10 {
            assert_eq!(pace.due_ns(), Some(250 + n * 1_000_000));
            pace.issued();
        }
    }

    #[test]
    fn what_was_due_and_not_issued_is_known() {
        let mut pace = Pace::new(Some(1000.0), 0);
        pace.issued();
        assert_eq!(pace.overdue(1_000_000), 0);
        assert_eq!(pace.overdue(1_000_001), 1);
        assert_eq!(pace.overdue(10_000_000), 9);
    }

    #[test]
    fn what_is_overdue_is_told_with_its_due_times_in_few_groups() {
        let mut pace = Pace::new(Some(1000.0), 0);
        pace.issued();
        let few: Vec<_> = pace.overdue_groups(3_500_000).collect();
        assert_eq!(few, [(1, 1_000_000), (1, 2_000_000), (1, 3_000_000)]);
        let end_ns = 100_000 * 1_000_000;
        let many: Vec<_> = pace.overdue_groups(end_ns).collect();
        assert!(many.len() as u64 <= OVERDUE_GROUPS_MAX);
        let count: u64 = many.iter().map(|(count, _)| count).sum();
        assert_eq!(count, pace.overdue(end_ns));
        assert!(many.iter().all(|(_, due_ns)| *due_ns < end_ns));
    }

    #[test]
    fn flat_out_has_none() {
        assert_eq!(Pace::new(None, 0).due_ns(), None);
        assert_eq!(Pace::new(None, 0).overdue(1), 0);
    }
}
