//! Where a group without a position starts: `--from`.
//!
//! **Owns** reading `first`, `last` and times.
//! **Lives on** the client; pure.
//! **Invariants** a time is UTC unless it is a plain number of ms.
//! **Limits** years 1970 to 9999.
//! **Not here** asking brokers for offsets (`receive`).

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest message.
    First,
    /// After the newest message.
    Last,
    /// At the first message stored at or after this time, in ms since 1970.
    Time(i64),
}

const MS_PER_DAY: i64 = 86_400_000;

impl StartAt {
    /// Reads the option.
    ///
    /// # Errors
    /// What is allowed.
    pub fn read(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            _ => time_ms(text).map(Self::Time).ok_or_else(|| {
                format!(
                    "--from {text}: takes first, last, ms since 1970, or a UTC time like \
                     2026-01-31 or 2026-01-31T12:00:00"
                )
            }),
        }
    }
}

fn time_ms(text: &str) -> Option<i64> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return text.parse().ok();
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let mut parts = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    let seconds = (hour * 60 + minute) * 60 + second;
    fits.then(|| days_since_1970(year, month, day) * MS_PER_DAY + seconds * 1_000)
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March so that the
/// leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days_to_march_1970 = 719_468;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - days_to_march_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_times() {
        assert_eq!(StartAt::read("first"), Ok(StartAt::First));
        assert_eq!(StartAt::read("last"), Ok(StartAt::Last));
        assert_eq!(
            StartAt::read("1700000000000"),
            Ok(StartAt::Time(1_700_000_000_000))
        );
        assert_eq!(StartAt::read("1970-01-01"), Ok(StartAt::Time(0)));
        assert_eq!(
            StartAt::read("2023-11-14T22:13:20Z"),
            Ok(StartAt::Time(1_700_000_000_000))
        );
        assert_eq!(
            StartAt::read("2024-02-29 00:00"),
            Ok(StartAt::Time(1_709_164_800_000))
        );
        assert_eq!(
            StartAt::read("2000-03-01"),
            Ok(StartAt::Time(951_868_800_000))
        );
    }

    #[test]
    fn anything_else_says_what_is_allowed() {
        for wrong in [
            "",
            "now",
            "2026-13-01",
            "2026-01-01T25:00",
            "yesterday",
            "-5",
        ] {
            assert!(
                StartAt::read(wrong)
                    .unwrap_err()
                    .contains("takes first, last"),
                "{wrong}"
            );
        }
    }
}
