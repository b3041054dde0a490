//! The broker's own rates over 10 s, 1 min and 10 min, and its totals at the last two midnights.
//!
//! **Owns** samples of the totals, at most one a second.
//! **Lives on** the control plane; pure.
//! **Invariants** samples are taken when something was counted, so an idle broker takes none; a
//! rate's base is the newest sample that is as old as its window. Totals never go back.
//! **Limits** [`SAMPLES_MAX`] samples.
//! **Not here** counts by topic and group (`windows`).

use std::collections::{HashMap, VecDeque};

use crate::seam::{CoreNumber, Totals};

/// The longest window, s.
const LONGEST_S: i64 = 600;
/// One a second over the longest window, and its base.
pub const SAMPLES_MAX: usize = 602;
/// The windows of code 28, s.
pub const WINDOWS_S: [i64; 3] = [10, 60, LONGEST_S];

/// Rates of three windows.
pub type Triple = [f64; 3];

/// What code 28 shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Report {
    /// Messages stored a second.
    pub put: Triple,
    /// Pulls that found something a second.
    pub found: Triple,
    /// Pulls that found nothing a second.
    pub missed: Triple,
    /// Messages delivered a second.
    pub transferred: Triple,
}

/// Messages of topics that aren't the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Stored.
    pub put: u64,
    /// Delivered.
    pub got: u64,
}

/// Samples and days; see the room's head.
#[derive(Debug)]
pub struct Rates {
    boot_ms: i64,
    cores: HashMap<CoreNumber, Totals>,
    samples: VecDeque<(i64, Totals)>,
    day: i64,
    now: Traffic,
    this_morning: Traffic,
    yesterday_morning: Traffic,
}

impl Rates {
    /// Nothing counted yet. `day` numbers the local days.
    pub fn new(boot_ms: i64, day: i64) -> Self {
        Self {
            boot_ms,
            cores: HashMap::new(),
            samples: VecDeque::new(),
            day,
            now: Traffic::default(),
            this_morning: Traffic::default(),
            yesterday_morning: Traffic::default(),
        }
    }

    /// A core's totals.
    pub fn take_in(&mut self, now_ms: i64, core: CoreNumber, totals: &Totals) {
        self.cores.insert(core, *totals);
        let mut sum = Totals::default();
        self.cores.values().for_each(|one| sum.add(one));
        match self.samples.back_mut() {
            Some((at, newest)) if now_ms / 1000 <= *at / 1000 => *newest = sum,
            _ => self.samples.push_back((now_ms, sum)),
        }
        let old = now_ms - LONGEST_S * 1000;
        // The newest of those beyond the window stays: it is the window's base.
        while self.samples.get(1).is_some_and(|(at, _)| *at <= old) {
            self.samples.pop_front();
        }
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// More messages of ordinary topics.
    pub fn add_traffic(&mut self, day: i64, more: Traffic) {
        self.turn_day(day);
        self.now.put += more.put;
        self.now.got += more.got;
    }

    /// Totals now, this morning, and yesterday morning, as 28 names them.
    pub fn days(&mut self, day: i64) -> [Traffic; 3] {
        self.turn_day(day);
        [self.now, self.this_morning, self.yesterday_morning]
    }

    fn turn_day(&mut self, day: i64) {
        if day <= self.day {
            return;
        }
        let was = std::mem::replace(&mut self.day, day);
        self.yesterday_morning = if day == was + 1 {
            self.this_morning
        } else {
            self.now
        };
        self.this_morning = self.now;
    }

    /// The rates now.
    pub fn report(&self, now_ms: i64) -> Report {
        let mut report = Report::default();
        let newest = self.samples.back().map_or(Totals::default(), |(_, t)| *t);
        for (window, seconds) in WINDOWS_S.into_iter().enumerate() {
            let since_ms = now_ms - seconds * 1000;
            let older = self.samples.iter().rev().find(|(at, _)| *at <= since_ms);
            let base = older.map_or(Totals::default(), |(_, totals)| *totals);
            // A broker younger than the window counts from its start.
            let elapsed_ms = (now_ms - self.boot_ms).clamp(1000, seconds * 1000);
            let rate =
                |pick: fn(&Totals) -> u64| per_second(pick(&newest) - pick(&base), elapsed_ms);
            let all = [
                (&mut report.put, rate(|t| t.put_count)),
                (&mut report.found, rate(|t| t.found_count)),
                (&mut report.missed, rate(|t| t.missed_count)),
                (&mut report.transferred, rate(|t| t.got_count)),
            ];
            for (triple, rate) in all {
                if let Some(place) = triple.get_mut(window) {
                    *place = rate;
                }
            }
        }
        report
    }
}

/// Events a second.
#[allow(
    clippy::cast_precision_loss,
    reason = "a rate is shown: what a float rounds, above 2^53, is nothing"
)]
pub fn per_second(events: u64, elapsed_ms: i64) -> f64 {
    events as f64 * 1000.0 / elapsed_ms.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(put: u64) -> Totals {
        Totals {
            put_count: put,
            ..Totals::default()
        }
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 0.01
    }

    #[test]
    fn a_day_of_bytes_is_no_less_than_it_is() {
        let day_ms = 86_400_000;
        assert!(near(per_second(86_400 * 1_000_000, day_ms), 1e6));
        assert!(near(per_second(1 << 40, 1 << 40), 1000.0));
        assert!(near(per_second(7, 0), 7000.0));
    }

    #[test]
    fn each_window_has_its_own_base() {
        let mut rates = Rates::new(0, 1);
        // 10 a second for 20 minutes, then 100 a second for 10 s.
        for second in 1..=1200 {
            rates.take_in(second * 1000, 0, &totals(second.cast_unsigned() * 10));
        }
        for second in 1..=10_u64 {
            let put = 12_000 + second * 100;
            rates.take_in((1200 + second.cast_signed()) * 1000, 0, &totals(put));
        }
        let put = rates.report(1_210_000).put;
        assert!(near(put[0], 100.0), "{put:?}");
        assert!(near(put[1], (50.0 * 10.0 + 1000.0) / 60.0), "{put:?}");
        assert!(near(put[2], (590.0 * 10.0 + 1000.0) / 600.0), "{put:?}");
        assert!(rates.samples.len() <= SAMPLES_MAX);
        // Silence: nothing is sampled, and the short windows are empty.
        let put = rates.report(1_300_000).put;
        assert!(
            near(put[0], 0.0) && near(put[1], 0.0) && put[2] > 1.0,
            "{put:?}"
        );
    }

    #[test]
    fn cores_add_up_and_a_young_broker_counts_from_its_start() {
        let mut rates = Rates::new(1_000, 1);
        rates.take_in(2_000, 0, &totals(50));
        rates.take_in(2_100, 1, &totals(50));
        let put = rates.report(6_000).put;
        assert!(put.iter().all(|rate| near(*rate, 20.0)), "{put:?}");
    }

    #[test]
    fn mornings_come_with_the_days() {
        let mut rates = Rates::new(0, 10);
        let more = |put| Traffic { put, got: 0 };
        rates.add_traffic(10, more(5));
        rates.add_traffic(11, more(7));
        let puts = |days: [Traffic; 3]| days.map(|day| day.put);
        assert_eq!(puts(rates.days(11)), [12, 5, 0]);
        assert_eq!(puts(rates.days(12)), [12, 12, 5]);
        assert_eq!(puts(rates.days(20)), [12, 12, 12], "days of silence");
        assert_eq!(puts(rates.days(19)), [12, 12, 12], "a clock went back");
    }
}
