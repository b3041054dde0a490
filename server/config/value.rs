//! The kinds of values a key takes.
//!
//! **Owns** reading one value of each kind, and the words for what is allowed.
//! **Lives on** the main thread.
//! **Invariants** a kind that accepts a text also reads it: `check` and the readers agree.
//! **Limits** counts and sizes carry their own range.
//! **Not here** which key has which kind (`table`).

use std::net::IpAddr;

/// Most delay levels; the schedule topic has one queue per level.
pub const DELAY_LEVELS_COUNT_MAX: usize = 64;

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, any case.
    Bool,
    /// A whole number in this range, both ends included.
    Int(i64, i64),
    /// Bytes in this range: a number, or one with K, M or G (binary); `auto` if that is the
    /// default.
    Bytes(i64, i64),
    /// One of these words, exactly.
    OneOf(&'static [&'static str]),
    /// Any text without control characters.
    Text,
    /// Text that names something: not empty, no spaces.
    Name,
    /// An IP address or a host name.
    Host,
    /// An IP address to listen on.
    Ip,
    /// Hours of the day, `;` between them.
    Hours,
    /// Delays like `1s 5m 2h 1d`, a space between them.
    Delays,
    /// A path, `~` and `$HOME` understood.
    Path,
    /// `host:port`, `;` between them.
    Addresses,
}

impl Kind {
    /// What is allowed, for people.
    pub fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Bytes(min, max) => {
                format!("bytes from {min} to {max}, also as 64K, 16M or 1G")
            }
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Text => "text".into(),
            Self::Name => "a name without spaces".into(),
            Self::Host => "an IP address or a host name".into(),
            Self::Ip => "an IP address of this machine, or 0.0.0.0".into(),
            Self::Hours => "hours from 0 to 23 with ; between them, like 04 or 04;16".into(),
            Self::Delays => {
                "delays with a space between them, each a number and s, m, h or d".into()
            }
            Self::Path => "a path".into(),
            Self::Addresses => {
                "host:port with ; between them, like 10.0.0.1:9876;10.0.0.2:9876".into()
            }
        }
    }

    /// Whether a value is well formed for this kind.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::Bool => read_bool(text).is_some(),
            Self::Int(min, max) => read_int(text).is_some_and(|n| (min..=max).contains(&n)),
            Self::Bytes(min, max) => read_bytes(text).is_some_and(|n| (min..=max).contains(&n)),
            Self::OneOf(words) => words.contains(&text),
            Self::Text | Self::Path => !text.chars().any(char::is_control),
            Self::Name => is_name(text),
            Self::Host => is_host(text),
            Self::Ip => text.parse::<IpAddr>().is_ok(),
            Self::Hours => read_hours(text).is_some(),
            Self::Delays => read_delays_ms(text).is_some(),
            Self::Addresses => read_addresses(text).is_some(),
        }
    }
}

/// `true` or `false`, any case.
pub fn read_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// A whole number.
pub fn read_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// A number of bytes, with an optional K, M or G.
pub fn read_bytes(text: &str) -> Option<i64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 1_i64 << 10),
        (at, 'm' | 'M') => (text.get(..at)?, 1 << 20),
        (at, 'g' | 'G') => (text.get(..at)?, 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

/// Hours of the day.
pub fn read_hours(text: &str) -> Option<Vec<u8>> {
    let hours: Option<Vec<u8>> = text
        .split(';')
        .map(str::trim)
        .filter(|hour| !hour.is_empty())
        .map(|hour| hour.parse::<u8>().ok().filter(|hour| *hour < 24))
        .collect();
    hours.filter(|hours| !hours.is_empty())
}

/// Delay levels in ms, the first one is level 1.
pub fn read_delays_ms(text: &str) -> Option<Vec<u64>> {
    let delays: Option<Vec<u64>> = text.split_whitespace().map(read_delay_ms).collect();
    delays.filter(|delays| !delays.is_empty() && delays.len() <= DELAY_LEVELS_COUNT_MAX)
}

fn read_delay_ms(text: &str) -> Option<u64> {
    let (at, unit) = text.char_indices().next_back()?;
    let unit_ms: u64 = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    text.get(..at)?.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// `host:port` entries; empty ones are skipped, as RocketMQ does.
pub fn read_addresses(text: &str) -> Option<Vec<String>> {
    text.split(';')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (host, port) = entry.rsplit_once(':')?;
            let port: u16 = port.parse().ok()?;
            (port != 0 && is_host(host.trim_matches(['[', ']']))).then(|| entry.to_owned())
        })
        .collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    // All digits and dots but no address: a mistyped IPv4 such as 10.0.0.300, never a name.
    let like_ipv4 = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let named = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    !text.is_empty() && named && !like_ipv4
}
