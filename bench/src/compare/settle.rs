//! When the peer is warm.
//!
//! **Owns** the judgement over the runs of its warm-up.
//! **Lives on** the calling thread.
//! **Invariants** a run that says nothing about CPU settles nothing.
//! **Limits** none of its own.
//! **Not here** the runs (`compare`).

/// A run whose CPU per message is not lower than the lowest before by more than this is settled;
/// two in a row end the warm-up.
const SETTLED: f64 = 0.05;
const SETTLED_RUNS: usize = 2;

/// The runs of a warm-up so far.
#[derive(Debug)]
pub struct Settling {
    lowest: f64,
    in_a_row: usize,
    runs: usize,
    without_cpu: usize,
}

impl Default for Settling {
    /// No run yet.
    fn default() -> Self {
        Self {
            lowest: f64::INFINITY,
            in_a_row: 0,
            runs: 0,
            without_cpu: 0,
        }
    }
}

impl Settling {
    /// One run's CPU seconds per million messages, if they could be read.
    pub fn add(&mut self, cpu: Option<f64>) {
        self.runs += 1;
        let Some(cpu) = cpu.filter(|cpu| *cpu > 0.0) else {
            self.without_cpu += 1;
            self.in_a_row = 0;
            return;
        };
        if cpu < self.lowest * (1.0 - SETTLED) {
            self.in_a_row = 0;
        } else {
            self.in_a_row += 1;
        }
        self.lowest = self.lowest.min(cpu);
    }

    /// Whether it no longer falls.
    pub fn is_settled(&self) -> bool {
        self.in_a_row >= SETTLED_RUNS
    }

    /// What must stand beside the figures of a peer that is measured now.
    pub fn complaint(&self) -> Option<String> {
        if self.is_settled() {
            return None;
        }
        let blind = match self.without_cpu {
            0 => String::new(),
            runs => format!(", {runs} of them without a CPU figure"),
        };
        let runs = self.runs;
        Some(format!(
            "its warm-up ended unsettled after {runs} runs{blind}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: &[Option<f64>]) -> Settling {
        let mut settling = Settling::default();
        for cpu in runs {
            settling.add(*cpu);
        }
        settling
    }

    #[test]
    fn two_runs_that_are_hardly_cheaper_are_settled() {
        let settling = after(&[Some(90.0), Some(50.0), Some(48.0), Some(52.0)]);
        assert!(settling.is_settled());
        assert_eq!(settling.complaint(), None);
        assert!(!after(&[Some(90.0), Some(50.0), Some(48.0)]).is_settled());
    }

    #[test]
    fn a_warm_up_that_ends_at_its_limit_says_so() {
        let settling = after(&[Some(90.0), Some(80.0), Some(70.0)]);
        let complaint = settling.complaint().unwrap();
        assert_eq!(complaint, "its warm-up ended unsettled after 3 runs");
    }

    #[test]
    fn runs_without_cpu_settle_nothing() {
        let settling = after(&[Some(50.0), Some(50.0), None, Some(50.0), Some(0.0)]);
        assert!(!settling.is_settled());
        let complaint = settling.complaint().unwrap();
        assert!(
            complaint.ends_with("5 runs, 2 of them without a CPU figure"),
            "{complaint}"
        );
        assert!(!after(&[None, None, None]).is_settled());
    }
}
