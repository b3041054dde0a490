//! The time of a tick: read once, used by everything that happens in it.
//!
//! **Owns** the cached wall and monotonic time of one core.
//! **Lives on** each data core; not `Send`.
//! **Invariants** the monotonic time never goes back, and all cores of a process count it from the
//! same moment: a stamp of one can be compared on another. The wall time may go back, when the
//! host's does.
//! **Limits** the cached values are as old as the last `refresh`; sockets, mesh and mailboxes
//! refresh whenever they wake, so within a tick they differ from the truth by that tick's length.
//! **Not here** simulated time, which lives with the simulated disk of `storage`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike as _, Local};

/// Where the monotonic time of this process begins.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One core's clock. Cheap to clone by `Rc`.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    wall_ms: Cell<u64>,
    mono_us: Cell<u64>,
    /// What each reading takes in a test, µs.
    #[cfg(test)]
    pub step_us: Cell<u64>,
    #[cfg(test)]
    stepped_us: Cell<u64>,
}

impl Clock {
    /// A clock that has been read once.
    pub fn new() -> Rc<Self> {
        let clock = Self {
            origin: *ORIGIN,
            wall_ms: Cell::new(0),
            mono_us: Cell::new(0),
            #[cfg(test)]
            step_us: Cell::new(0),
            #[cfg(test)]
            stepped_us: Cell::new(0),
        };
        clock.refresh();
        Rc::new(clock)
    }

    /// Reads both clocks; called when a core wakes with work.
    pub fn refresh(&self) {
        self.wall_ms.set(wall_now_ms());
        self.mono_us.set(as_u64(self.origin.elapsed().as_micros()));
    }

    /// Milliseconds since the Unix epoch, as of the last refresh.
    pub fn wall_ms(&self) -> u64 {
        self.wall_ms.get()
    }

    /// Microseconds since the process's first clock was made, as of the last refresh.
    pub fn mono_us(&self) -> u64 {
        self.mono_us.get()
    }

    /// Milliseconds since the process's first clock was made, as of the last refresh.
    pub fn mono_ms(&self) -> u64 {
        self.mono_us.get() / 1000
    }

    /// Microseconds since the process's first clock was made, read now.
    pub fn mono_us_now(&self) -> u64 {
        #[cfg(test)]
        if self.step_us.get() > 0 {
            self.stepped_us
                .set(self.stepped_us.get() + self.step_us.get());
            return as_u64(self.origin.elapsed().as_micros()) + self.stepped_us.get();
        }
        as_u64(self.origin.elapsed().as_micros())
    }
}

/// A moment on the process's monotonic clock, for what must not depend on the host's idea of the
/// time: a wall clock that is set makes nobody silent for longer, or for less long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonoMs(pub u64);

impl MonoMs {
    /// Read now.
    pub fn now() -> Self {
        Self(as_u64(ORIGIN.elapsed().as_millis()))
    }

    /// Milliseconds since an earlier moment; 0 since a later one.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds since the Unix epoch, read now. A host set before 1970 reads as 0.
pub fn wall_now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    as_u64(since.as_millis())
}

/// The number of the local day that a wall time falls into; grows by one at the host's midnight.
pub fn local_day(wall_ms: i64) -> i64 {
    let utc = DateTime::from_timestamp_millis(wall_ms).unwrap_or_default();
    i64::from(utc.with_timezone(&Local).date_naive().num_days_from_ce())
}

fn as_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_days_follow_each_other() {
        let start = 1_763_000_000_000;
        let day_ms = 86_400_000;
        assert_eq!(local_day(start + 10 * day_ms) - local_day(start), 10);
        let quarters = (0..96).map(|n| local_day(start + n * day_ms / 96) - local_day(start));
        let turned = quarters.filter(|days| *days == 1).count();
        assert!((1..96).contains(&turned), "{turned}");
    }

    #[test]
    fn stands_still_until_refreshed() {
        let clock = Clock::new();
        let before = clock.mono_us();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.mono_us(), before);
        clock.refresh();
        assert!(clock.mono_us() >= before + 2000);
        assert!(clock.wall_ms() > 1_600_000_000_000);
    }
}
