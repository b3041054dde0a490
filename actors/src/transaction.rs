//! Half messages and op records, as both planes read them.
//!
//! **Owns** what a half record's properties say, when a half is first checked, when an end is late,
//! and the text of op records.
//! **Lives on** data cores (ends, checks, rebuild) and the control plane (check-backs); pure.
//! **Invariants** a half keeps the name ([`HalfId`]) its producer was told, also after its record
//! was moved forward. An op record is written behind what it reports, so a log cut anywhere repeats
//! a step and never loses one.
//! **Limits** [`OP_BODY_BYTES_MAX`] an op record.
//! **Not here** the table of open halves (`data::transactions`), headers (protocol).

use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{self, SendProperties, name};
use gantry_storage::units::{PhysicalOffset, QueueOffset};

/// Bytes of offsets one op record holds; as `transactionOpMsgMaxSize` of 5.5.0.
pub const OP_BODY_BYTES_MAX: usize = 4096;
/// Of a half record that was moved forward: the physical offset its producer was told.
const FIRST_PHYSICAL: &str = "GANTRY_TRAN_PREPARED_PHYSICAL";
/// Of an op record: no half below this queue offset is open any more.
const OP_FLOOR: &str = "GANTRY_FLOOR";

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;
/// Most bytes that the broker adds later to a half's properties: in a copy further on in the log,
/// and for its producer's check.
pub const LATER_BYTES_MAX: usize = {
    let names = name::TRANSACTION_CHECK_TIMES.len()
        + name::TRANSACTION_PREPARED_QUEUE_OFFSET.len()
        + FIRST_PHYSICAL.len();
    let wait = name::WAIT.len() + "false".len() + 2;
    names + 3 * (DIGITS_MAX + 2) + wait
};

/// What a producer calls its half by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfId {
    /// `tranStateTableOffset`.
    pub offset: QueueOffset,
    /// `commitLogOffset`.
    pub physical: PhysicalOffset,
}

/// A half record.
#[derive(Debug, Clone, Copy)]
pub struct Half<'a> {
    /// The record.
    pub record: RecordView<'a>,
    /// What the properties say.
    pub sent: SendProperties<'a>,
    /// Where it goes on commit.
    pub topic: &'a str,
    /// The queue there.
    pub queue: u16,
    /// Its name.
    pub id: HalfId,
    /// Checks it had before it was moved forward.
    pub checks: u32,
    immunity: Option<&'a str>,
}

impl<'a> Half<'a> {
    /// Reads a half record; none if it is no half.
    pub fn of(record: &'a [u8]) -> Option<Self> {
        let record = RecordView::parse(record).ok()?;
        let (mut topic, mut queue, mut immunity) = (None, None, None);
        let (mut first, mut physical, mut checks) = (None, None, 0);
        for (item, value) in properties::items(record.properties) {
            match item {
                name::REAL_TOPIC => topic = Some(value),
                name::REAL_QUEUE_ID => queue = value.parse().ok(),
                name::CHECK_IMMUNITY_TIME_IN_SECONDS => immunity = Some(value),
                name::TRANSACTION_PREPARED_QUEUE_OFFSET => first = value.parse().ok(),
                FIRST_PHYSICAL => physical = value.parse().ok(),
                name::TRANSACTION_CHECK_TIMES => checks = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        // Only both together make a moved half; one alone was the producer's own property.
        let told = first.zip(physical);
        let (offset, physical) = told.unwrap_or((
            record.queue_offset.cast_unsigned(),
            record.physical_offset.cast_unsigned(),
        ));
        Some(Self {
            sent: SendProperties::scan(record.properties),
            topic: topic?,
            queue: queue?,
            id: HalfId {
                offset: QueueOffset(offset),
                physical: PhysicalOffset(physical),
            },
            checks: if told.is_some() { checks } else { 0 },
            immunity,
            record,
        })
    }

    /// Whether an end that answers no check comes too late: the producer asked for a time of its
    /// own, and it is over (604, `EndTransactionProcessor.rejectCommitOrRollback` 5.5.0).
    pub fn end_is_late(&self, now_ms: u64, timeout_ms: u64) -> bool {
        let guarded_ms = first_check_after_ms(self.immunity, timeout_ms);
        self.immunity.is_some() && self.age_ms(now_ms) > guarded_ms
    }

    /// Ms since its birth.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.record.born_timestamp.max(0).cast_unsigned())
    }

    /// Its properties as the producer's check sees them (trap 113).
    pub fn properties_for_check(&self, checks: u32) -> Vec<u8> {
        let mut out = self.kept(&[name::TRANSACTION_CHECK_TIMES, name::WAIT]);
        properties::append(&mut out, name::WAIT, "false");
        let times = checks.to_string();
        properties::append(&mut out, name::TRANSACTION_CHECK_TIMES, &times);
        out
    }

    /// Its properties as a half that nobody was asked about, under no earlier name.
    pub fn properties_for_resume(&self) -> Vec<u8> {
        self.kept(&[
            name::TRANSACTION_CHECK_TIMES,
            name::TRANSACTION_PREPARED_QUEUE_OFFSET,
            FIRST_PHYSICAL,
        ])
    }

    /// Its properties in a copy further on in the log.
    pub fn properties_for_move(&self, checks: u32) -> Vec<u8> {
        let mut out = self.properties_for_resume();
        for (item, value) in [
            (name::TRANSACTION_CHECK_TIMES, u64::from(checks)),
            (name::TRANSACTION_PREPARED_QUEUE_OFFSET, self.id.offset.0),
            (FIRST_PHYSICAL, self.id.physical.0),
        ] {
            properties::append(&mut out, item, &value.to_string());
        }
        out
    }

    fn kept(&self, without: &[&str]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.record.properties.len() + 128);
        for (item, value) in properties::items(self.record.properties) {
            if !without.contains(&item) {
                properties::append(&mut out, item, value);
            }
        }
        out
    }
}

/// Appends to a send's properties what a half record says besides.
pub fn append_half_properties(
    out: &mut Vec<u8>,
    sent: &str,
    (topic, queue): (&str, u16),
    unique: Option<&str>,
) {
    if properties::get(sent, FIRST_PHYSICAL).is_some() {
        // Of two the last one counts, and this is no offset: a new half has no earlier name.
        properties::append(out, FIRST_PHYSICAL, "-");
    }
    properties::append(out, name::TRANSACTION_ID, unique.unwrap_or_default());
    properties::append(out, name::REAL_TOPIC, topic);
    properties::append(out, name::REAL_QUEUE_ID, &queue.to_string());
}

/// Ms from its birth until a half may be checked: the producer's own wish, in seconds, counts when
/// it is longer (`TransactionalMessageServiceImpl.getImmunityTime` 5.5.0).
pub fn first_check_after_ms(immunity: Option<&str>, timeout_ms: u64) -> u64 {
    let seconds = immunity.and_then(|text| text.parse::<i64>().ok());
    let asked = u64::try_from(seconds.unwrap_or(0)).unwrap_or(0);
    asked.saturating_mul(1000).max(timeout_ms)
}

/// When a half is first due. A birth in the future is no reason to wait longer (the peer checks
/// such a half at once).
pub fn first_check_ms(born_ms: i64, now_ms: u64, immunity: Option<&str>, timeout_ms: u64) -> u64 {
    let born_ms = u64::try_from(born_ms).unwrap_or(0).min(now_ms);
    born_ms.saturating_add(first_check_after_ms(immunity, timeout_ms))
}

/// What an op record reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// These halves have ended. RocketMQ's tag.
    Ended,
    /// These halves were checked once more. Gantry's own: the peer stores the half again instead.
    Checked,
}

impl OpKind {
    fn tag(self) -> &'static str {
        match self {
            Self::Ended => "d",
            Self::Checked => "c",
        }
    }
}

/// An op record's text.
#[derive(Debug, Default)]
pub struct OpText {
    /// The offsets.
    pub body: Vec<u8>,
    /// The rest.
    pub properties: Vec<u8>,
}

impl OpText {
    /// Writes as many of `offsets` as fit into one record, at least one; returns how many.
    pub fn fill(&mut self, offsets: &[QueueOffset]) -> usize {
        self.body.clear();
        let mut count = 0;
        for offset in offsets {
            let text = offset.0.to_string();
            if self.body.len() + text.len() + 1 > OP_BODY_BYTES_MAX {
                break;
            }
            if count > 0 {
                self.body.push(b',');
            }
            self.body.extend_from_slice(text.as_bytes());
            count += 1;
        }
        count
    }

    /// Says what was filled in.
    pub fn finish(&mut self, kind: OpKind, floor: QueueOffset) {
        self.properties.clear();
        properties::append(&mut self.properties, name::TAGS, kind.tag());
        properties::append(&mut self.properties, OP_FLOOR, &floor.0.to_string());
    }
}

/// An op record, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What it reports.
    pub kind: OpKind,
    /// Of which halves.
    pub offsets: Vec<QueueOffset>,
    /// No half below is open.
    pub floor: QueueOffset,
    /// When it was stored, ms.
    pub stored_ms: u64,
}

impl Op {
    /// Reads an op record; none if it is no such thing.
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        let kind = match properties::get(record.properties, name::TAGS)? {
            "d" => OpKind::Ended,
            "c" => OpKind::Checked,
            _ => return None,
        };
        let floor = properties::get(record.properties, OP_FLOOR)?.parse().ok()?;
        let offsets = std::str::from_utf8(record.body).ok()?.split(',');
        let offsets: Option<Vec<QueueOffset>> = offsets
            .map(|text| text.parse().ok().map(QueueOffset))
            .collect();
        Some(Self {
            kind,
            offsets: offsets?,
            floor: QueueOffset(floor),
            stored_ms: record.store_timestamp.max(0).cast_unsigned(),
        })
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
