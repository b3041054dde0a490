//! When the next message is due.
//!
//! **Owns** the open-loop schedule: with a rate, message n is due at start + n / rate, whatever the
//! broker does, and its latency counts from there, so that waits behind a stall are counted.
//! **Lives on** the generator's executor.
//! **Invariants** due times never go back; flat out (no rate) every message is due at once.
//! **Limits** rate 1 to `RATE_MAX` messages a second.
//! **Not here** how many may be in flight (`producer`).

/// Highest rate accepted, messages a second.
pub const RATE_MAX: u64 = 10_000_000;

/// The schedule of one connection.
#[derive(Debug, Clone)]
pub struct Pace {
    interval_ns: Option<f64>,
    issued_count: u64,
}

impl Pace {
    /// `rate` in messages a second for this connection, `None` = flat out.
    pub fn new(rate: Option<f64>) -> Self {
        Self {
            interval_ns: rate.map(|r| 1e9 / r),
            issued_count: 0,
        }
    }

    /// Whether there is a schedule at all.
    pub fn is_open_loop(&self) -> bool {
        self.interval_ns.is_some()
    }

    /// The intended send time of the next message, ns since start; `now_ns` when flat out.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn due_ns(&self, now_ns: u64) -> u64 {
        // Exact to the ns for 100 days at any rate accepted: f64 has 53 bits.
        self.interval_ns.map_or(now_ns, |interval| {
            (self.issued_count as f64 * interval) as u64
        })
    }

    /// One message was issued.
    pub fn issued(&mut self) {
        self.issued_count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loop_keeps_its_schedule_whatever_the_clock_says() {
        let mut pace = Pace::new(Some(1000.0));
        for n in 0..10 {
            assert_eq!(pace.due_ns(123_456_789), n * 1_000_000);
            pace.issued();
        }
    }

    #[test]
    fn flat_out_is_due_now() {
        assert_eq!(Pace::new(None).due_ns(77), 77);
    }
}
