//! What a client is told when its request can't be done.
//!
//! **Owns** the one type of a refused request: response code and the remark operators know.
//! **Lives on** both planes.
//! **Invariants** a refusal is about the peer's request; faults of disk or socket are typed per
//! room.
//! **Limits** a remark is a short line; foreign values in it are cut at `REMARK_VALUE_CHARS_MAX`.
//! **Not here** the codes themselves (`gantry_protocol::code`).

use std::collections::BTreeSet;
use std::fmt;

use gantry_protocol::code::response;

/// Longest foreign value quoted in a remark.
pub const REMARK_VALUE_CHARS_MAX: usize = 256;

/// Stage and cause, as the profile calls them, of messages refused because the disk is full.
pub const DISK_FULL: (&str, &str) = ("disk", "disk full");

/// Why a data core says `SYSTEM_BUSY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyCause {
    /// Too many messages wait in a shard's inboxes.
    Inbox,
    /// The messages that wait there hold all the memory they may.
    InboxBytes,
    /// Too many pulls and questions wait there.
    InboxAsks,
    /// A message has waited too long before a full tail.
    Tail,
    /// The road to another core is full.
    Mesh,
    /// The road to the control plane is full.
    Control,
    /// Too much waits for topics and groups to be made.
    Parked,
    /// A topic or group was not made in time.
    ParkedLate,
    /// Too many reads from the device are under way.
    DeviceRead,
    /// A pull has waited too long for its read from the device.
    DeviceReadLate,
    /// Too many pulls are suspended.
    Suspended,
    /// Too many half messages are open.
    Transactions,
    /// Too many questions to all cores are under way.
    Gather,
    /// Too many replies wait for their requesters.
    Push,
    /// Replies that wait to be read hold all the memory they may.
    Replies,
}

impl BusyCause {
    /// The stage as remarks and the profile call it.
    pub const fn stage(self) -> &'static str {
        match self {
            Self::Inbox | Self::InboxBytes | Self::InboxAsks => "inbox",
            Self::Tail => "tail",
            Self::Mesh => "mesh",
            Self::Control => "control",
            Self::Parked | Self::ParkedLate => "parked",
            Self::DeviceRead | Self::DeviceReadLate => "device read",
            Self::Suspended => "suspended",
            Self::Transactions => "transactions",
            Self::Gather => "gather",
            Self::Push => "push",
            Self::Replies => "replies",
        }
    }

    /// What of that stage, as the profile calls it.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Inbox => "too many messages",
            Self::InboxBytes => "memory for messages",
            Self::InboxAsks => "too many pulls and questions",
            Self::Tail => "waited too long for the disk",
            Self::Mesh => "the road to another core is full",
            Self::Control => "the control plane is behind",
            Self::Parked => "too many wait for a topic or group",
            Self::ParkedLate => "waited too long for a topic or group",
            Self::DeviceRead => "too many reads",
            Self::DeviceReadLate => "waited too long for the device",
            Self::Suspended => "too many pulls",
            Self::Transactions => "too many open halves",
            Self::Gather => "too many questions",
            Self::Push => "too many wait for an answer",
            Self::Replies => "memory for replies",
        }
    }

    /// What `RocketMQ` begins such a remark with, for operators' alerts (trap 42).
    const fn prefix(self) -> &'static str {
        match self {
            Self::Tail => "[PCBUSY_CLEAN_QUEUE]broker",
            Self::ParkedLate | Self::DeviceReadLate => "[TIMEOUT_CLEAN_QUEUE]broker",
            _ => "[OVERLOAD]system",
        }
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Response code on the wire.
    pub code: i32,
    /// Why, for people.
    pub remark: String,
}

impl Refusal {
    /// A refusal with this code and remark.
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Self {
            code,
            remark: remark.into(),
        }
    }

    /// A request with a missing or impossible field or body, as the Java broker answers it.
    pub fn malformed(error: impl fmt::Display) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }

    /// `SYSTEM_BUSY`, with `RocketMQ`'s prefix and the true cause.
    pub fn busy(cause: BusyCause, why: &str) -> Self {
        let (prefix, stage) = (cause.prefix(), cause.stage());
        let remark = format!("{prefix} busy, start flow control for a while: stage {stage}, {why}");
        Self::new(response::SYSTEM_BUSY, remark)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CODE: {} DESC: {}", self.code, self.remark)
    }
}

impl std::error::Error for Refusal {}

/// Most of what is refused for good that is spoken of: a line each.
pub const FOR_GOOD_MAX: usize = 1024;

/// What is tried again and again and refused for good, as far as that was said.
#[derive(Debug)]
pub struct ForGood<K>(BTreeSet<K>);

impl<K> Default for ForGood<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord> ForGood<K> {
    /// Whether the next try will be refused just so, and that of this one was not said before.
    pub fn is_news(&mut self, refusal: &Refusal, what: K) -> bool {
        // Too large for `tailBytes` as it is now: no try changes that.
        let stays = refusal.code == response::MESSAGE_ILLEGAL;
        stays && self.0.len() < FOR_GOOD_MAX && self.0.insert(what)
    }

    /// Of how many it was said.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Cuts a foreign value for a remark.
pub fn quoted(value: &str) -> String {
    value.chars().take(REMARK_VALUE_CHARS_MAX).collect()
}

/// Filtering by anything but tags is off, as it is by default.
pub fn no_property_filter(kind: &str) -> Refusal {
    let kind = quoted(kind);
    let remark = format!("The broker does not support consumer to filter message by {kind}");
    Refusal::new(response::SYSTEM_ERROR, remark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_good_is_said_once_and_not_without_end() {
        let mut said = ForGood::default();
        let large = Refusal::new(response::MESSAGE_ILLEGAL, "too large");
        let busy = Refusal::new(response::SYSTEM_BUSY, "full");
        assert!(!said.is_news(&busy, 1));
        assert!(said.is_news(&large, 1));
        assert!(!said.is_news(&large, 1));
        let count = (2..10_000).filter(|n| said.is_news(&large, *n)).count();
        assert_eq!(count, FOR_GOOD_MAX - 1);
    }
}
