//! Letting requests gather while they come steadily, as network cards do with interrupts.
//!
//! **Owns** the decision when a core looks away from its sockets after it has served them, and for
//! how long.
//! **Lives on** each data core, in its writer task.
//! **Invariants** a core looks away only after everything read has been answered as far as it can
//! be, at most [`NetOptions::coalesce_max_us`](super::NetOptions::coalesce_max_us) at a time, and
//! only while that does not slow the senders down: senders that wait for an answer before they send
//! again are recognised by their rate, which falls when answers come later.
//! **Limits** the windows and shares named below; every [`GATHERING_WINDOWS_MAX`] windows the rate
//! without gathering is measured again.
//! **Not here** reading and writing (`connection`, `writer`).

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::metrics::CoreMetrics;

/// Longest time a core may look away, whatever the setting: what timers, accepts and other cores
/// may have to wait.
pub const COALESCE_US_MAX: u64 = 2_000;
/// At most this long while a consumer waits for the next message: it wants it now.
pub const WAITED_FOR_US: u64 = 200;
/// The rate is measured over this long.
const WINDOW_US: u64 = 100_000;
/// The first look at what gathering does to the rate: short, so that senders who wait for answers
/// hardly notice it.
const TRIAL_US: u64 = 20_000;
/// Gathering goes on for this many windows before the rate without it is measured again (4 s).
pub const GATHERING_WINDOWS_MAX: u32 = 40;
/// Fewer frames than this a gathering are not worth a delay.
const FRAMES_PER_GATHERING_MIN: u64 = 2;
/// A core that finds this many frames a round without gathering has enough.
const FRAMES_PER_ROUND_MAX: u64 = 8;
/// A rate below this share of the one without gathering: the senders wait for their answers.
const RATE_KEPT_PERCENT: u64 = 85;
/// Pause after senders were found to wait; doubled each time.
const REST_US_MIN: u64 = 2_000_000;
/// Longest such pause. A trial in this time costs a waiting sender 0.03 %.
const REST_US_MAX: u64 = 64_000_000;
const _: () = assert!(TRIAL_US < WINDOW_US && WAITED_FOR_US <= COALESCE_US_MAX);
const _: () = assert!(TRIAL_US * 50 < REST_US_MIN && REST_US_MIN < REST_US_MAX);

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No gathering; the rate is measured. With the rate while gathering, after it.
    Watching { gathered_rate: Option<u64> },
    /// Gathering for the first time since the rate without it was measured.
    Trial { free_rate: u64 },
    /// Gathering, with windows left until it is checked again.
    Gathering { free_rate: u64, windows_left: u32 },
}

/// Decides; knows nothing of clocks and threads.
#[derive(Debug)]
struct Pace {
    max_us: u64,
    phase: Phase,
    window_from_us: u64,
    frames_from: u64,
    rounds: u64,
    resting_until_us: u64,
    rest_us: u64,
}

impl Pace {
    fn new(max_us: u64) -> Self {
        Self {
            max_us: max_us.min(COALESCE_US_MAX),
            phase: Phase::Watching {
                gathered_rate: None,
            },
            window_from_us: 0,
            frames_from: 0,
            rounds: 0,
            resting_until_us: 0,
            rest_us: REST_US_MIN,
        }
    }

    /// After a round of reading and answering: how long to look away now, in microseconds.
    /// `frames`: read since the start.
    fn after_round(&mut self, now_us: u64, frames: u64, is_waited_for: bool) -> u64 {
        if self.max_us == 0 {
            return 0;
        }
        self.rounds += 1;
        let away_us = if is_waited_for {
            self.max_us.min(WAITED_FOR_US)
        } else {
            self.max_us
        };
        let window_us = match self.phase {
            Phase::Trial { .. } => TRIAL_US,
            Phase::Watching { .. } | Phase::Gathering { .. } => WINDOW_US,
        };
        let took_us = now_us.saturating_sub(self.window_from_us);
        if took_us >= window_us {
            let seen = frames.saturating_sub(self.frames_from);
            let rate = seen.saturating_mul(1_000_000) / took_us.max(1);
            self.phase = self.next_phase(now_us, rate, seen, away_us);
            self.window_from_us = now_us;
            self.frames_from = frames;
            self.rounds = 0;
        }
        match self.phase {
            Phase::Watching { .. } => 0,
            Phase::Trial { .. } | Phase::Gathering { .. } => away_us,
        }
    }

    fn next_phase(&mut self, now_us: u64, rate: u64, seen: u64, away_us: u64) -> Phase {
        let watching = Phase::Watching {
            gathered_rate: None,
        };
        match self.phase {
            Phase::Watching { gathered_rate } => {
                if gathered_rate.is_some_and(|gathered| is_slowed(rate, gathered)) {
                    return self.rest(now_us);
                }
                if gathered_rate.is_some() {
                    self.rest_us = REST_US_MIN;
                }
                let has_enough = seen >= FRAMES_PER_ROUND_MAX.saturating_mul(self.rounds);
                if now_us < self.resting_until_us || has_enough || !is_worth(rate, away_us) {
                    return watching;
                }
                Phase::Trial { free_rate: rate }
            }
            Phase::Trial { free_rate } if is_slowed(free_rate, rate) => self.rest(now_us),
            Phase::Trial { free_rate } => Phase::Gathering {
                free_rate,
                windows_left: GATHERING_WINDOWS_MAX,
            },
            Phase::Gathering { .. } if !is_worth(rate, away_us) => watching,
            Phase::Gathering {
                free_rate,
                windows_left,
            } => {
                if windows_left == 0 || is_slowed(free_rate, rate) {
                    // The senders may have become slower by themselves: the next window tells.
                    return Phase::Watching {
                        gathered_rate: Some(rate),
                    };
                }
                Phase::Gathering {
                    free_rate,
                    windows_left: windows_left - 1,
                }
            }
        }
    }

    fn rest(&mut self, now_us: u64) -> Phase {
        self.resting_until_us = now_us.saturating_add(self.rest_us);
        self.rest_us = self.rest_us.saturating_mul(2).min(REST_US_MAX);
        Phase::Watching {
            gathered_rate: None,
        }
    }
}

fn is_slowed(free_rate: u64, gathered_rate: u64) -> bool {
    gathered_rate.saturating_mul(100) < free_rate.saturating_mul(RATE_KEPT_PERCENT)
}

fn is_worth(rate: u64, away_us: u64) -> bool {
    rate.saturating_mul(away_us) >= FRAMES_PER_GATHERING_MIN * 1_000_000
}

/// The gathering of one core.
pub(super) struct Coalescing {
    pace: Pace,
    clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
}

impl Coalescing {
    pub(super) fn new(max_us: u64, clock: Rc<Clock>, metrics: Rc<CoreMetrics>) -> Self {
        Self {
            pace: Pace::new(max_us),
            clock,
            metrics,
        }
    }

    /// Called after a round; returns when the core should look at its sockets again.
    ///
    /// The whole thread sleeps: a core that parks instead is woken by every arrival, and a sleeping
    /// task would change nothing about that. What arrives meanwhile is found at once afterwards,
    /// without parking. `is_waited_for`: whether a consumer waits for the next message.
    pub(super) fn after_round(&mut self, is_waited_for: impl FnOnce() -> bool) {
        if self.pace.max_us == 0 {
            return;
        }
        let frames = self.metrics.counts().frames_in;
        let now_us = self.clock.mono_us_now();
        let away_us = self.pace.after_round(now_us, frames, is_waited_for());
        if away_us > 0 {
            std::thread::sleep(Duration::from_micros(away_us));
            self.metrics.count(|counts| counts.gatherings += 1);
        }
    }
}

#[cfg(test)]
#[path = "coalescing_tests.rs"]
mod tests;
