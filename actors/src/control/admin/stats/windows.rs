//! Counts of one thing over the last minute, hour and day.
//!
//! **Owns** the slots that three windows share, and what is read out of them.
//! **Lives on** the control plane; pure.
//! **Invariants** only slots in which something was counted take memory, and each count is kept
//! once: a slot that the minute has passed is joined to its ten minutes, one that the hour has
//! passed to its hour. The windows are RocketMQ's: 10 s slots for a minute, 10 min slots for an
//! hour, 1 h slots for a day, one slot more than the window for the one that is being filled.
//! **Limits** 7 + 7 + 25 slots; a topic that was used once has one.
//! **Not here** what is counted (`super`).

/// How wide a slot is and how many of them a window has, besides the one being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    slot_ms: i64,
    slots: i64,
}

impl Span {
    /// When the slot of this time begins.
    fn begin_ms(self, at_ms: i64) -> i64 {
        at_ms - at_ms.rem_euclid(self.slot_ms)
    }

    /// When the oldest slot of the window begins.
    fn oldest_ms(self, now_ms: i64) -> i64 {
        self.begin_ms(now_ms) - self.slots * self.slot_ms
    }
}

/// `statsMinute`.
pub const MINUTE: Span = Span {
    slot_ms: 10_000,
    slots: 6,
};
/// `statsHour`.
pub const HOUR: Span = Span {
    slot_ms: 600_000,
    slots: 6,
};
/// `statsDay`.
pub const DAY: Span = Span {
    slot_ms: 3_600_000,
    slots: 24,
};
const SPANS: [Span; 3] = [MINUTE, HOUR, DAY];
// A slot of one window lies within one slot of the next.
const _: () = assert!(HOUR.slot_ms % MINUTE.slot_ms == 0 && DAY.slot_ms % HOUR.slot_ms == 0);

/// What is counted together: messages, their bytes, requests, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
    /// Time that these took, ms.
    pub took_ms: u64,
}

impl Count {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.took_ms += other.took_ms;
    }
}

/// A window's sum, and over how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// What was counted.
    pub count: Count,
    /// The time it covers, at least one slot's.
    pub elapsed_ms: i64,
}

/// The three windows; see the room's head.
#[derive(Debug)]
pub struct Windows {
    first_ms: i64,
    /// When a slot begins and what was counted in it, oldest first.
    slots: Vec<(i64, Count)>,
}

impl Windows {
    /// Nothing counted yet.
    pub fn new(now_ms: i64) -> Self {
        Self {
            first_ms: now_ms,
            slots: Vec::new(),
        }
    }

    /// Counts.
    pub fn add(&mut self, now_ms: i64, count: &Count) {
        let slot = MINUTE.begin_ms(now_ms);
        match self.slots.last_mut() {
            // A clock that went back counts into the newest slot.
            Some((newest, sum)) if *newest >= slot => sum.add(count),
            _ => {
                self.join_old(now_ms);
                // Most of many topics are used once in a while: one slot, not four.
                self.slots.reserve_exact(1);
                self.slots.push((slot, *count));
            }
        }
    }

    /// Joins slots as far as the windows allow, and forgets those that all of them have passed.
    fn join_old(&mut self, now_ms: i64) {
        let joined = |at: i64| {
            let span = SPANS.iter().find(|span| at >= span.oldest_ms(now_ms));
            span.map(|span| span.begin_ms(at))
        };
        self.slots.retain(|(at, _)| joined(*at).is_some());
        for (at, _) in &mut self.slots {
            *at = joined(*at).unwrap_or(*at);
        }
        self.slots.dedup_by(|(at, count), (before, sum)| {
            let is_same = at == before;
            if is_same {
                sum.add(count);
            }
            is_same
        });
    }

    /// What one of the windows holds.
    pub fn sum(&self, now_ms: i64, span: Span) -> Sum {
        let oldest_ms = span.oldest_ms(now_ms);
        let begin_ms = oldest_ms.max(self.first_ms);
        let mut count = Count::default();
        for (_, slot) in self.slots.iter().filter(|(at, _)| *at >= oldest_ms) {
            count.add(slot);
        }
        Sum {
            count,
            elapsed_ms: (now_ms - begin_ms).max(MINUTE.slot_ms),
        }
    }

    /// Whether nothing was counted for a day.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.sum(now_ms, DAY).count == Count::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Count {
        Count {
            messages: 1,
            bytes: 100,
            requests: 1,
            took_ms: 0,
        }
    }

    #[test]
    fn a_window_forgets_what_lies_before_it() {
        let start = 1_000_000_000;
        let mut windows = Windows::new(start);
        for second in 0..7200 {
            windows.add(start + second * 1000, &one());
        }
        let now = start + 7_199_000;
        let minute = windows.sum(now, MINUTE);
        assert!((60..=70).contains(&minute.count.messages), "{minute:?}");
        let rate = minute.count.messages * 1000 / minute.elapsed_ms.cast_unsigned();
        assert!(rate <= 1, "{minute:?}");
        let hour = windows.sum(now, HOUR);
        assert!((3600..=4200).contains(&hour.count.messages), "{hour:?}");
        assert_eq!(windows.sum(now, DAY).count.messages, 7200);
        // An hour of silence later only the day still knows.
        let later = now + 2 * 3_600_000;
        assert_eq!(windows.sum(later, MINUTE).count, Count::default());
        assert_eq!(windows.sum(later, HOUR).count, Count::default());
        assert_eq!(windows.sum(later, DAY).count.messages, 7200);
        assert!(!windows.is_over(later));
        assert!(windows.is_over(now + 26 * 3_600_000));
    }

    #[test]
    fn memory_is_bounded_by_the_slots() {
        let mut windows = Windows::new(0);
        for second in 0..200_000 {
            windows.add(second * 1000, &one());
        }
        assert!(windows.slots.len() <= 7 + 7 + 25, "{}", windows.slots.len());
        assert!(windows.slots.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn a_new_counter_is_a_rate_over_ten_seconds() {
        let mut windows = Windows::new(5_000);
        windows.add(5_000, &one());
        assert_eq!(windows.sum(6_000, MINUTE).elapsed_ms, 10_000);
        windows.add(4_000, &one());
        assert_eq!(
            windows.sum(6_000, MINUTE).count.messages,
            2,
            "a clock went back"
        );
    }

    /// Whatever is counted when: as with three rings of slots.
    #[test]
    fn joined_slots_say_what_separate_ones_would() {
        let mut windows = Windows::new(0);
        let mut all = Vec::new();
        let (mut now, mut step) = (0, 7_u64);
        for n in 0..3_000 {
            step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly seconds apart, at times hours.
            let shift = if n % 50 == 0 { 40 } else { 49 };
            now += i64::try_from(step >> shift).unwrap();
            windows.add(now, &one());
            all.push(now);
            for span in SPANS {
                let oldest = now / span.slot_ms - span.slots;
                let wanted = all.iter().filter(|at| *at / span.slot_ms >= oldest).count();
                let found = windows.sum(now, span).count.messages;
                assert_eq!(found, wanted as u64, "{span:?} at {now}");
            }
        }
    }
}
