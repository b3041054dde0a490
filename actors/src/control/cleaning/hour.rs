//! The hour of the day where the broker stands, for `deleteWhen`.
//!
//! **Owns** the time zone: `TZ`, else the machine's.
//! **Lives on** the control plane's thread.
//! **Invariants** an unknown zone is UTC.
//! **Limits** none.
//! **Not here** what happens in that hour.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The local hour at `now_ms`.
pub fn local(now_ms: u64) -> u8 {
    hour_in(TimeZone::system(), now_ms)
}

fn hour_in(zone: TimeZone, now_ms: u64) -> u8 {
    let ms = i64::try_from(now_ms).unwrap_or(0);
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    u8::try_from(at.to_zoned(zone).hour()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_moves_the_hour() {
        // 2026-01-31 02:30 UTC.
        let at = 1_769_826_600_000;
        assert_eq!(hour_in(TimeZone::UTC, at), 2);
        let east = TimeZone::fixed(jiff::tz::offset(8));
        assert_eq!(hour_in(east, at), 10);
        assert!(local(at) < 24);
    }
}
