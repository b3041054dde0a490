//! Delayed and timed messages, at the moment they are sent.
//!
//! **Owns** when a message is parked, until when, and what its properties say meanwhile.
//! **Lives on** the session's data core; of a half, on the core of its shard, at its commit. Pure.
//! **Invariants** `DELAY` wins over the three timer properties and removes them; a level above the
//! last is the last (`HookUtils.handleScheduleMessage`, 5.5.0). A time that has passed makes an
//! ordinary message. The due time is exact: not rounded to `timerPrecisionMs`.
//! **Limits** `timerMaxDelaySec`.
//! **Not here** delivery (`control::supervisors`).

use gantry_protocol::code::response;
use gantry_protocol::properties::{self, SendProperties, items, name};
use gantry_protocol::sys_flag;

use crate::refusal::{Refusal, quoted};
use crate::seam::owed::OwedTime;
use crate::settings::BrokerSettings;

/// Most bytes that [`Delay::rewrite`] adds to a half record's properties: `TIMER_OUT_MS` and ms
/// since 1970.
pub const PARKED_BYTES_MAX: usize = 40;

/// What a send asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Store it now.
    None,
    /// Park it at this level, from 1.
    Level(u16),
    /// Park it until then, ms since 1970.
    Until(u64),
}

impl Delay {
    /// Reads it from a message's properties.
    ///
    /// # Errors
    /// What the producer is told.
    pub fn of(
        found: &SendProperties<'_>,
        sent: &str,
        flags: i32,
        settings: &BrokerSettings,
        now_ms: u64,
    ) -> Result<Self, Refusal> {
        let transaction = flags & sys_flag::TRANSACTION_MASK;
        if transaction != 0 && transaction != sys_flag::TRANSACTION_COMMIT {
            return Ok(Self::None);
        }
        if let Some(wanted) = wanted_level(found) {
            return Ok(Self::level(wanted, settings));
        }
        // A timed message that was delivered and is sent again by a consumer isn't timed again.
        if !found.is_timer() || properties::get(sent, name::TIMER_OUT_MS).is_some() {
            return Ok(Self::None);
        }
        if !settings.timer_wheel_enable {
            let remark = "accurate timer message is not enabled, timerWheelEnable is false";
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        let due_ms = due_ms(found, now_ms)?;
        // Also one whose time has passed: stored as a message, it would be read by consumers.
        if found.timer_delete.is_some() {
            let remark = "a timer message is deleted by a recall (370), not by a marker";
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        if due_ms <= now_ms {
            return Ok(Self::None);
        }
        // The ms that is begun doesn't count.
        if due_ms - now_ms > settings.timer_max_delay_sec.saturating_mul(1000) + 1 {
            return Err(illegal(&format!(
                "due in {} ms, timerMaxDelaySec is {}",
                due_ms - now_ms,
                settings.timer_max_delay_sec
            )));
        }
        Ok(Self::Until(due_ms))
    }

    /// A level, cut to the last one.
    pub fn level(wanted: i32, settings: &BrokerSettings) -> Self {
        let last = u16::try_from(settings.delay_levels_ms.len()).unwrap_or(u16::MAX);
        match u16::try_from(wanted.max(0)).unwrap_or(u16::MAX).min(last) {
            0 => Self::None,
            level => Self::Level(level),
        }
    }

    /// Most bytes that [`Delay::rewrite`] adds to a half record's properties.
    pub fn parked_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Level(_) | Self::Until(_) => PARKED_BYTES_MAX,
        }
    }

    /// When it is due.
    pub fn time(self, settings: &BrokerSettings) -> Option<OwedTime> {
        match self {
            Self::None => None,
            Self::Until(ms) => Some(OwedTime::At(ms)),
            Self::Level(level) => {
                let at = usize::from(level).checked_sub(1)?;
                let ms = settings.delay_levels_ms.get(at)?;
                Some(OwedTime::AfterStore(*ms))
            }
        }
    }

    /// Rewrites properties for the parked record: where it really goes, and no request that this
    /// one overrules. What the broker made last stays last.
    pub fn rewrite(self, stored: &str, topic: &str, queue: u16, out: &mut Vec<u8>) {
        properties::append(out, name::REAL_TOPIC, topic);
        properties::append(out, name::REAL_QUEUE_ID, &queue.to_string());
        match self {
            Self::Level(level) => properties::append(out, name::DELAY, &level.to_string()),
            Self::Until(ms) => properties::append(out, name::TIMER_OUT_MS, &ms.to_string()),
            Self::None => {}
        }
        for (key, value) in items(stored) {
            let ours = match key {
                name::REAL_TOPIC | name::REAL_QUEUE_ID => true,
                key if is_request(key) => matches!(self, Self::Level(_)),
                name::TIMER_OUT_MS => matches!(self, Self::Until(_)),
                _ => false,
            };
            if !ours {
                properties::append(out, key, value);
            }
        }
    }
}

/// The level that `DELAY` asks for, uncut.
pub fn wanted_level(found: &SendProperties<'_>) -> Option<i32> {
    let level = found.delay_level?.parse().ok()?;
    (level > 0).then_some(level)
}

/// Seconds win over milliseconds, both over a fixed time.
fn due_ms(found: &SendProperties<'_>, now_ms: u64) -> Result<u64, Refusal> {
    let number = |text: &str| -> Result<u64, Refusal> {
        let parsed: Result<i64, _> = text.parse();
        let value = parsed.map_err(|_| illegal(&format!("{} is no number", quoted(text))))?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    // A ms is begun, so a delay counts from its end: never early.
    let after = |ms: u64| match ms {
        0 => now_ms,
        ms => now_ms.saturating_add(1).saturating_add(ms),
    };
    if let Some(seconds) = found.timer_delay_sec {
        return Ok(after(number(seconds)?.saturating_mul(1000)));
    }
    if let Some(ms) = found.timer_delay_ms {
        return Ok(after(number(ms)?));
    }
    number(found.timer_deliver_ms.unwrap_or_default())
}

fn illegal(why: &str) -> Refusal {
    let remark = format!(
        "timer message illegal, the delay time should not be bigger than the max delay: {why}"
    );
    Refusal::new(response::MESSAGE_ILLEGAL, remark)
}

/// Takes the requests to be late out of a message's properties. False when there was none.
pub fn forget(found: &SendProperties<'_>, properties: &mut Vec<u8>) -> bool {
    let is_asked = found.delay_level.is_some() || found.is_timer();
    if is_asked {
        let sent = std::mem::take(properties);
        for (key, value) in items(std::str::from_utf8(&sent).unwrap_or_default()) {
            if !is_request(key) {
                properties::append(properties, key, value);
            }
        }
    }
    is_asked
}

/// Whether a property asks for a delay.
fn is_request(key: &str) -> bool {
    let timed = matches!(
        key,
        name::TIMER_DELAY_SEC | name::TIMER_DELAY_MS | name::TIMER_DELIVER_MS
    );
    timed || key == name::DELAY
}

#[cfg(test)]
#[path = "delay_tests.rs"]
mod tests;
