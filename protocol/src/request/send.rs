//! The send header, in both spellings.
//!
//! **Owns** names and defaults of the fields of 10, 310, 320, 324 and 325.
//! **Lives on** the session's core.
//! **Invariants** one pass over the ext fields; both spellings are understood under every code
//! (trap 102), the letters being what 310, 320 and 325 carry.
//! **Limits** none of its own.
//! **Not here** whether topic, queue and size are acceptable (`actors`).

use super::fields::{ALLOWED_I32, ALLOWED_I64, ALLOWED_TEXT, boolean, number};
use crate::code::request;
use crate::command::{ExtValue, HeaderView, VERSION_MAX_RECONSUME_TIMES};
use crate::error::FieldError;

/// Queue count a client asks for when it names none; `defaultTopicQueueNums` of every client. A
/// send without it is accepted by 5.5.0.
pub const DEFAULT_TOPIC_QUEUE_NUMS: i32 = 4;

/// The header of a send. Text borrows the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendHeader<'a> {
    /// `a`, the producer's group.
    pub producer_group: &'a str,
    /// `b`.
    pub topic: &'a str,
    /// `c`, the template for auto-creation, usually `TBW102`.
    pub default_topic: &'a str,
    /// `d`, queues wanted when the topic is created.
    pub default_topic_queue_nums: i32,
    /// `e`; negative means: the broker picks one.
    pub queue_id: i32,
    /// `f`, see [`crate::sys_flag`].
    pub sys_flag: i32,
    /// `g`, milliseconds since the epoch on the producer's clock.
    pub born_timestamp: i64,
    /// `h`, the user's flag, opaque to the broker.
    pub flag: i32,
    /// `i`, the property string; empty when absent.
    pub properties: &'a str,
    /// `j`, deliveries before this one.
    pub reconsume_times: i32,
    /// `k`.
    pub unit_mode: bool,
    /// `l`, only for retry topics; none of a client to whom it means nothing.
    pub max_reconsume_times: Option<i32>,
    /// `m`: the body holds several messages. This field decides, not code 320 (trap 39).
    pub batch: bool,
    /// `n`, the broker the client means (static topics).
    pub broker_name: Option<&'a str>,
}

/// The raw texts, found in one pass; index = letter − 'a'.
type Raw<'a> = [Option<&'a str>; FIELDS];
/// Letters `a` to `n`.
const FIELDS: usize = 14;

/// Long names by letter, `a` first.
const LONG_NAMES: [&str; FIELDS] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];

/// Letters as names, for errors and for writing.
const LETTERS: [&str; FIELDS] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n",
];

#[inline]
fn slot_of(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'n'] => Some(usize::from(letter - b'a')),
        [_] => None,
        _ => slot_of_long(name),
    }
}

// Apart, so that the letters' way is short enough to become part of the loop.
#[inline(never)]
fn slot_of_long(name: &str) -> Option<usize> {
    LONG_NAMES.iter().position(|long| *long == name)
}

/// Whether requests of this code spell their fields as letters.
pub fn uses_letters(code: i32) -> bool {
    matches!(
        code,
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE | request::SEND_REPLY_MESSAGE_V2
    )
}

/// One required or optional field out of the raw texts.
struct Reader<'a> {
    raw: Raw<'a>,
    names: &'static [&'static str; FIELDS],
}

impl<'a> Reader<'a> {
    fn name(&self, slot: usize) -> &'static str {
        self.names.get(slot).copied().unwrap_or("?")
    }

    fn text(&self, slot: usize) -> Option<&'a str> {
        self.raw
            .get(slot)
            .copied()
            .flatten()
            .filter(|text| !text.is_empty())
    }

    fn required(&self, slot: usize, allowed: &'static str) -> Result<&'a str, FieldError> {
        self.text(slot)
            .ok_or_else(|| FieldError::missing(self.name(slot), allowed))
    }

    fn int(&self, slot: usize) -> Result<i32, FieldError> {
        number(
            self.name(slot),
            self.required(slot, ALLOWED_I32)?,
            ALLOWED_I32,
        )
    }

    fn optional_int(&self, slot: usize) -> Result<Option<i32>, FieldError> {
        self.text(slot)
            .map(|text| number(self.name(slot), text, ALLOWED_I32))
            .transpose()
    }
}

impl<'a> SendHeader<'a> {
    /// Reads the header of a send request.
    ///
    /// # Errors
    /// A required field is missing, or a number is none; the error uses the spelling of the code.
    pub fn parse(view: &'a HeaderView<'_>) -> Result<Self, FieldError> {
        let mut raw: Raw<'a> = [None; FIELDS];
        view.ext.each(|name, value| {
            if let Some(slot) = slot_of(name)
                && let Some(entry) = raw.get_mut(slot)
            {
                *entry = Some(value);
            }
        });
        let names = if uses_letters(view.code) {
            &LETTERS
        } else {
            &LONG_NAMES
        };
        let reader = Reader { raw, names };
        let counts_tries = view.version >= VERSION_MAX_RECONSUME_TIMES;
        Ok(Self {
            producer_group: reader.required(0, ALLOWED_TEXT)?,
            topic: reader.required(1, ALLOWED_TEXT)?,
            default_topic: reader.text(2).unwrap_or_default(),
            default_topic_queue_nums: reader.optional_int(3)?.unwrap_or(DEFAULT_TOPIC_QUEUE_NUMS),
            queue_id: reader.int(4)?,
            sys_flag: reader.int(5)?,
            born_timestamp: number(
                reader.name(6),
                reader.required(6, ALLOWED_I64)?,
                ALLOWED_I64,
            )?,
            flag: reader.int(7)?,
            properties: reader.text(8).unwrap_or_default(),
            reconsume_times: reader.optional_int(9)?.unwrap_or(0),
            unit_mode: reader.text(10).is_some_and(boolean),
            max_reconsume_times: reader.optional_int(11)?.filter(|_| counts_tries),
            batch: reader.text(12).is_some_and(boolean),
            broker_name: reader.text(13),
        })
    }

    /// The ext fields of this header for a request of `code`, in the order a Java client's
    /// letters have; at most 14, for [`crate::command::writer::write_request`].
    pub fn to_ext(&self, code: i32) -> smallvec::SmallVec<[(&'static str, ExtValue<'a>); FIELDS]> {
        let names = if uses_letters(code) {
            &LETTERS
        } else {
            &LONG_NAMES
        };
        let values: [Option<ExtValue<'a>>; FIELDS] = [
            Some(self.producer_group.into()),
            Some(self.topic.into()),
            Some(self.default_topic.into()),
            Some(self.default_topic_queue_nums.into()),
            Some(self.queue_id.into()),
            Some(self.sys_flag.into()),
            Some(self.born_timestamp.into()),
            Some(self.flag.into()),
            Some(self.properties.into()),
            Some(self.reconsume_times.into()),
            Some(self.unit_mode.into()),
            self.max_reconsume_times.map(Into::into),
            Some(self.batch.into()),
            self.broker_name.map(Into::into),
        ];
        let pairs = names.iter().zip(values);
        pairs
            .filter_map(|(name, value)| value.map(|value| (*name, value)))
            .collect()
    }
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "send_timing_tests.rs"]
mod timing;
