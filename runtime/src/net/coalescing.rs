//! Letting requests gather while they come steadily, as network cards do with interrupts.
//!
//! **Owns** the decision when a core looks away from its sockets after it has served them, and for
//! how long.
//! **Lives on** each data core, in its writer task.
//! **Invariants** a core looks away only after everything read has been answered as far as it can
//! be, comes back at most [`NetOptions::coalesce_max_us`](super::NetOptions::coalesce_max_us) after
//! its last look, and does so only while that does not slow the senders down: senders that wait for
//! an answer before they send again are recognised by their rate, which falls when answers come
//! later. Pulls of consumers that have read everything follow answers, so they aren't in that rate.
//! While a backlog is read from the device it doesn't look away.
//! **Limits** the windows and shares named below; every [`GATHERING_WINDOWS_MAX`] windows the rate
//! without gathering is measured again.
//! **Not here** reading and writing (`connection`, `writer`).

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::metrics::CoreMetrics;

/// Longest time a core may look away, whatever the setting.
pub const COALESCE_US_MAX: u64 = 2_000;
/// At most this long between two looks while a consumer waits for the next message: it wants it
/// now.
pub const WAITED_FOR_US: u64 = 250;
/// A shorter rest of the time between two looks isn't slept: the kernel's timers are that coarse.
const AWAY_US_MIN: u64 = 50;
/// The rate is measured over this long.
const WINDOW_US: u64 = 100_000;
/// The first look at what gathering does to the rate: short, so that senders who wait for answers
/// hardly notice it.
const TRIAL_US: u64 = 20_000;
/// Gathering goes on for this many windows before the rate without it is measured again (4 s).
pub const GATHERING_WINDOWS_MAX: u32 = 40;
/// Fewer requests than this a gathering are not worth a delay.
const REQUESTS_PER_GATHERING_MIN: u64 = 2;
/// With a consumer waiting each one brings a delivery and the next pull, and counts twice.
const WAITED_FOR_COUNTS: u64 = 2;
/// A core that finds this many frames a round without gathering has enough.
const FRAMES_PER_ROUND_MAX: u64 = 8;
/// A rate below this share of the one without gathering: the senders wait for their answers.
const RATE_KEPT_PERCENT: u64 = 85;
/// A rate below this share leaves no doubt; what lies between is looked at twice: a sender that
/// stood still for some ms, and made up for it in the next window, looks the same once.
const RATE_LOST_PERCENT: u64 = 50;
/// Pause after senders were found to wait; doubled each time.
const REST_US_MIN: u64 = 2_000_000;
/// Longest such pause. A trial in this time costs a waiting sender 0.03 %.
const REST_US_MAX: u64 = 64_000_000;
const _: () = assert!(TRIAL_US < WINDOW_US && WAITED_FOR_US <= COALESCE_US_MAX);
const _: () = assert!(AWAY_US_MIN < WAITED_FOR_US);
const _: () = assert!(TRIAL_US * 50 < REST_US_MIN && REST_US_MIN < REST_US_MAX);

/// What a core has read, and for whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Frames since the start.
    pub(super) frames: u64,
    /// What its consumers wait for.
    pub(super) listening: Listening,
}

/// Consumers: those that have read everything, and those that read what is old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listening {
    /// Pulls that came to the end of their queue, since the start: their consumers ask again as
    /// soon as there is something.
    pub pulls: u64,
    /// Whether one of them waits now.
    pub waits: bool,
    /// Whether the device is being read for one: a core that looks away finds late what the device
    /// gave, and asks late for the next piece.
    pub reads_device: bool,
}

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

impl Phase {
    /// Nothing is known of the senders.
    const NEW: Self = Self::Watching {
        gathered_rate: None,
    };
}

/// Decides; knows nothing of clocks and threads.
#[derive(Debug)]
struct Pace {
    max_us: u64,
    phase: Phase,
    window_from_us: u64,
    sends_from: u64,
    rounds: u64,
    /// The rate in the window before, and how many windows in a row were doubtful.
    last_rate: u64,
    doubts: u32,
    pulls: u64,
    /// Until when a consumer counts as waiting although none of its pulls is here.
    waited_until_us: u64,
    /// Until when a backlog counts as being read although no read is under way.
    reading_until_us: u64,
    resting_until_us: u64,
    rest_us: u64,
}

impl Pace {
    fn new(max_us: u64) -> Self {
        Self {
            max_us: max_us.min(COALESCE_US_MAX),
            phase: Phase::NEW,
            window_from_us: 0,
            sends_from: 0,
            rounds: 0,
            last_rate: 0,
            doubts: 0,
            pulls: 0,
            waited_until_us: 0,
            reading_until_us: 0,
            resting_until_us: 0,
            rest_us: REST_US_MIN,
        }
    }

    /// After a round of reading and answering: how long to look away now, in microseconds; `None`
    /// while requests don't gather. `since_look_us`: since the last gathering's end, if this round
    /// followed it.
    fn after_round(&mut self, now_us: u64, seen: Seen, since_look_us: u64) -> Option<u64> {
        if self.max_us == 0 {
            return None;
        }
        self.rounds += 1;
        let pulls = seen.listening.pulls;
        if std::mem::replace(&mut self.pulls, pulls) != pulls {
            self.waited_until_us = now_us.saturating_add(WINDOW_US);
        }
        if seen.listening.reads_device {
            self.reading_until_us = now_us.saturating_add(WINDOW_US);
        }
        if now_us < self.reading_until_us {
            self.start_over(now_us, seen.frames.saturating_sub(pulls));
            return None;
        }
        let is_waited_for = seen.listening.waits || now_us < self.waited_until_us;
        let (every_us, counts) = if is_waited_for {
            (self.max_us.min(WAITED_FOR_US), WAITED_FOR_COUNTS)
        } else {
            (self.max_us, 1)
        };
        let window_us = match self.phase {
            Phase::Trial { .. } => TRIAL_US,
            Phase::Watching { .. } | Phase::Gathering { .. } => WINDOW_US,
        };
        let took_us = now_us.saturating_sub(self.window_from_us);
        if took_us >= window_us {
            let all_sends = seen.frames.saturating_sub(pulls);
            let sends = all_sends.saturating_sub(self.sends_from);
            let rate = sends.saturating_mul(1_000_000) / took_us.max(1);
            let is_worth =
                rate.saturating_mul(every_us * counts) >= REQUESTS_PER_GATHERING_MIN * 1_000_000;
            self.phase = self.next_phase(now_us, rate, sends, is_worth);
            self.window_from_us = now_us;
            self.sends_from = all_sends;
            self.rounds = 0;
        }
        let away_us = every_us.saturating_sub(since_look_us);
        match self.phase {
            Phase::Watching { .. } => None,
            Phase::Trial { .. } | Phase::Gathering { .. } if away_us < AWAY_US_MIN => Some(0),
            Phase::Trial { .. } | Phase::Gathering { .. } => Some(away_us),
        }
    }

    /// No gathering, and no rate is known.
    fn start_over(&mut self, now_us: u64, all_sends: u64) {
        self.phase = Phase::NEW;
        self.window_from_us = now_us;
        self.sends_from = all_sends;
        self.rounds = 0;
        self.last_rate = 0;
        self.doubts = 0;
    }

    /// `sends`: in this window; `rate`: of them, a second.
    fn next_phase(&mut self, now_us: u64, rate: u64, sends: u64, is_worth: bool) -> Phase {
        let before = std::mem::replace(&mut self.last_rate, rate);
        match self.phase {
            Phase::Watching { gathered_rate } => {
                if let Some(gathered) = gathered_rate {
                    match self.verdict(rate, gathered) {
                        Verdict::Slowed => return self.rest(now_us),
                        Verdict::Doubtful => return self.phase,
                        Verdict::Kept => self.rest_us = REST_US_MIN,
                    }
                }
                let has_enough = sends >= FRAMES_PER_ROUND_MAX.saturating_mul(self.rounds);
                let is_resting = now_us < self.resting_until_us;
                if before == 0 || is_resting || has_enough || !is_worth {
                    return Phase::NEW;
                }
                // Not the first burst of somebody who has just begun.
                let free_rate = rate.min(before);
                Phase::Trial { free_rate }
            }
            Phase::Trial { free_rate } => match self.verdict(free_rate, rate) {
                Verdict::Slowed => self.rest(now_us),
                Verdict::Doubtful => self.phase,
                Verdict::Kept => Phase::Gathering {
                    free_rate,
                    windows_left: GATHERING_WINDOWS_MAX,
                },
            },
            Phase::Gathering {
                free_rate,
                windows_left,
            } => match self.verdict(free_rate, rate) {
                Verdict::Kept if windows_left > 0 => Phase::Gathering {
                    free_rate,
                    windows_left: windows_left - 1,
                },
                Verdict::Doubtful => self.phase,
                // The senders may have become slower by themselves: the next windows tell.
                Verdict::Kept | Verdict::Slowed => Phase::Watching {
                    gathered_rate: Some(u64::midpoint(before, rate)),
                },
            },
        }
    }

    /// What gathering does to a rate. Only the second doubtful window in a row counts.
    fn verdict(&mut self, free_rate: u64, gathered_rate: u64) -> Verdict {
        let is_below =
            |percent| gathered_rate.saturating_mul(100) < free_rate.saturating_mul(percent);
        if !is_below(RATE_KEPT_PERCENT) {
            self.doubts = 0;
            return Verdict::Kept;
        }
        let in_trial = matches!(self.phase, Phase::Trial { .. });
        if self.doubts > 0 || in_trial && is_below(RATE_LOST_PERCENT) {
            self.doubts = 0;
            return Verdict::Slowed;
        }
        self.doubts += 1;
        Verdict::Doubtful
    }

    fn rest(&mut self, now_us: u64) -> Phase {
        self.resting_until_us = now_us.saturating_add(self.rest_us);
        self.rest_us = self.rest_us.saturating_mul(2).min(REST_US_MAX);
        Phase::NEW
    }
}

/// What gathering does to a rate.
enum Verdict {
    Kept,
    Doubtful,
    Slowed,
}

/// What happened between two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Nothing: requests don't gather now.
    Free,
    /// Nothing: it was time for the next look.
    Late,
    /// The core looked away.
    Gathered,
}

/// The gathering of one core.
pub(super) struct Coalescing {
    pace: Pace,
    clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
    /// When the last gathering ended, if the round since then followed it.
    looked_us: Option<u64>,
}

impl Coalescing {
    pub(super) fn new(max_us: u64, clock: Rc<Clock>, metrics: Rc<CoreMetrics>) -> Self {
        Self {
            pace: Pace::new(max_us),
            clock,
            metrics,
            looked_us: None,
        }
    }

    /// Called after a round; returns when the core should look at its sockets again.
    ///
    /// The whole thread sleeps: a core that parks instead is woken by every arrival, and a sleeping
    /// task would change nothing about that.
    pub(super) fn after_round(&mut self, listening: impl FnOnce() -> Listening) -> Pause {
        if self.pace.max_us == 0 {
            return Pause::Free;
        }
        let now_us = self.clock.mono_us_now();
        let seen = Seen {
            frames: self.frames(),
            listening: listening(),
        };
        let looked_us = self.looked_us.take().unwrap_or(now_us);
        let since_look_us = now_us.saturating_sub(looked_us);
        match self.pace.after_round(now_us, seen, since_look_us) {
            None => return Pause::Free,
            Some(0) => {
                self.looked_us = Some(now_us);
                return Pause::Late;
            }
            Some(away_us) => std::thread::sleep(Duration::from_micros(away_us)),
        }
        self.metrics.count(|counts| counts.gatherings += 1);
        self.looked_us = Some(self.clock.mono_us_now());
        Pause::Gathered
    }

    /// Nothing came: what comes next doesn't follow a gathering.
    pub(super) fn forget_look(&mut self) {
        self.looked_us = None;
    }

    /// Frames read since the start.
    pub(super) fn frames(&self) -> u64 {
        self.metrics.counts().frames_in
    }
}

#[cfg(test)]
#[path = "coalescing_tests.rs"]
mod tests;
