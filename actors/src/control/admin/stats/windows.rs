//! Counts of one thing over the last minute, hour and day.
//!
//! **Owns** the slots of three windows, and what is read out of them.
//! **Lives on** the control plane; pure.
//! **Invariants** only slots in which something was counted take memory; a slot leaves when its
//! window has passed it. The windows are RocketMQ's: 10 s slots for a minute, 10 min slots for an
//! hour, 1 h slots for a day, one slot more than the window for the one that is being filled.
//! **Limits** 7 + 7 + 25 slots.
//! **Not here** what is counted (`super`).

use std::collections::VecDeque;

/// How wide a slot is and how many of them a window has, besides the one being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    slot_ms: i64,
    slots: i64,
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
    rings: [VecDeque<(i64, Count)>; SPANS.len()],
}

impl Windows {
    /// Nothing counted yet.
    pub fn new(now_ms: i64) -> Self {
        Self {
            first_ms: now_ms,
            rings: <[VecDeque<_>; SPANS.len()]>::default(),
        }
    }

    /// Counts.
    pub fn add(&mut self, now_ms: i64, count: &Count) {
        for (span, ring) in SPANS.iter().zip(&mut self.rings) {
            let slot = now_ms / span.slot_ms;
            match ring.back_mut() {
                // A clock that went back counts into the newest slot.
                Some((newest, sum)) if *newest >= slot => sum.add(count),
                _ => {
                    if ring.is_empty() {
                        // Most of many topics are used once in a while: one slot, not four.
                        ring.reserve_exact(1);
                    }
                    ring.push_back((slot, *count));
                }
            }
            while ring.front().is_some_and(|(at, _)| *at < slot - span.slots) {
                ring.pop_front();
            }
        }
    }

    /// What one of the windows holds.
    pub fn sum(&self, now_ms: i64, span: Span) -> Sum {
        let oldest = now_ms / span.slot_ms - span.slots;
        let begin_ms = (oldest * span.slot_ms).max(self.first_ms);
        let mut count = Count::default();
        let ring = SPANS.iter().zip(&self.rings).find(|(one, _)| **one == span);
        for (_, slot) in ring
            .into_iter()
            .flat_map(|(_, ring)| ring)
            .filter(|(at, _)| *at >= oldest)
        {
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
        let lens: Vec<usize> = windows.rings.iter().map(VecDeque::len).collect();
        assert_eq!(lens, [7, 7, 25]);
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
}
