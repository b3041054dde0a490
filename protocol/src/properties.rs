//! The property string of a message.
//!
//! **Owns** both separators, the names RocketMQ reserves and the rewrite a single send needs.
//! **Lives on** the session's core (rewrite), everywhere else for lookups.
//! **Invariants** items are read as Java's `string2messageProperties` reads them: shorter than
//! three bytes, without a name or without a value means no item (trap 45); of duplicates the last
//! one counts; a missing last separator is no error.
//! **Limits** the string's length is the record's (`message::PROPERTIES_BYTES_MAX`).
//! **Not here** when a property has an effect (`actors`).

use crate::message_id::UniqueId;

/// Between name and value.
pub const NAME_VALUE_SEPARATOR: char = '\u{1}';
/// After each value.
pub const PROPERTY_SEPARATOR: char = '\u{2}';
const NAME_VALUE_BYTE: u8 = 1;
const PROPERTY_BYTE: u8 = 2;

/// Shortest item that counts: one byte of name, the separator, one byte of value.
const ITEM_BYTES_MIN: usize = 3;

/// Names RocketMQ reserves (`MessageConst`, 5.5.0).
#[allow(missing_docs)] // The constant is the meaning.
pub mod name {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QUEUE_ID: &str = "REAL_QID";
    pub const TRANSACTION_PREPARED: &str = "TRAN_MSG";
    pub const PRODUCER_GROUP: &str = "PGROUP";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const TRANSACTION_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    pub const CLUSTER: &str = "CLUSTER";
    pub const MIN_OFFSET: &str = "MIN_OFFSET";
    pub const MAX_OFFSET: &str = "MAX_OFFSET";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
    pub const INNER_NUM: &str = "INNER_NUM";
    pub const INNER_BASE: &str = "INNER_BASE";
    pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
    pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
    pub const POP_CK: &str = "POP_CK";
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    pub const TTL: &str = "TTL";
    pub const MSG_TYPE: &str = "MSG_TYPE";
    pub const ARRIVE_TIME: &str = "ARRIVE_TIME";
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    pub const TIMER_DEQUEUE_MS: &str = "TIMER_DEQUEUE_MS";
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
    pub const INSTANCE_ID: &str = "INSTANCE_ID";
    pub const EXTEND_UNIQ_INFO: &str = "EXTEND_UNIQ_INFO";
    pub const BUYER_ID: &str = "BUYER_ID";
    pub const TRANSFER_FLAG: &str = "TRANSFER_FLAG";
    pub const CORRECTION_FLAG: &str = "CORRECTION_FLAG";
    pub const MQ2_FLAG: &str = "MQ2_FLAG";
    pub const REDIRECT: &str = "REDIRECT";
    pub const DUP_INFO: &str = "DUP_INFO";
    pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
    pub const FORWARD_QUEUE_ID: &str = "PROPERTY_FORWARD_QUEUE_ID";
    pub const BORN_HOST: &str = "__BORNHOST";
    pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
    pub const CRC32: &str = "__CRC32#";
    /// Names with this prefix are not stored.
    pub const TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";
}

/// The items of a property string: name and value, both non-empty.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a str,
}

/// Walks a property string.
pub fn items(properties: &str) -> Items<'_> {
    Items { rest: properties }
}

impl<'a> Iterator for Items<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let end = memchr::memchr(PROPERTY_BYTE, self.rest.as_bytes());
            let item = end.map_or(self.rest, |end| self.rest.get(..end).unwrap_or_default());
            self.rest = end
                .and_then(|end| self.rest.get(end + 1..))
                .unwrap_or_default();
            if let Some(pair) = split_item(item) {
                return Some(pair);
            }
        }
        None
    }
}

/// Name and value of one item, or nothing if Java would drop it.
fn split_item(item: &str) -> Option<(&str, &str)> {
    if item.len() < ITEM_BYTES_MIN {
        return None;
    }
    let at = memchr::memchr(NAME_VALUE_BYTE, item.as_bytes())?;
    let (name, value) = (item.get(..at)?, item.get(at + 1..)?);
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
}

/// The value of a property; of duplicates the last.
pub fn get<'a>(properties: &'a str, wanted: &str) -> Option<&'a str> {
    items(properties)
        .filter(|(name, _)| *name == wanted)
        .last()
        .map(|(_, value)| value)
}

/// The single keys of a `KEYS` value.
pub fn split_keys(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(' ').filter(|key| !key.is_empty())
}

/// Appends one property, with the trailing separator Java writes; an empty value is no property.
pub fn append(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    out.push(NAME_VALUE_BYTE);
    out.extend_from_slice(value.as_bytes());
    out.push(PROPERTY_BYTE);
}

/// What the broker's own configuration puts on every single send: `MSG_REGION`, `TRACE_ON` and
/// `CLUSTER`, as they are stored.
#[derive(Debug, Clone)]
pub struct BrokerProperties {
    stored: Vec<u8>,
}

impl BrokerProperties {
    /// The properties of one broker.
    pub fn new(region: &str, trace_on: bool, cluster: &str) -> Self {
        let mut stored = Vec::new();
        append(&mut stored, name::MSG_REGION, region);
        let trace_on = if trace_on { "true" } else { "false" };
        append(&mut stored, name::TRACE_ON, trace_on);
        append(&mut stored, name::CLUSTER, cluster);
        Self { stored }
    }
}

/// What a property string holds that decides what happens to its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendProperties<'a> {
    /// `TAGS`.
    pub tags: Option<&'a str>,
    /// `KEYS`, see [`split_keys`].
    pub keys: Option<&'a str>,
    /// `UNIQ_KEY` as the client sent it.
    pub unique_key: Option<&'a str>,
    /// The `UNIQ_KEY` made for a message without one (trap 47).
    pub made_unique_key: Option<UniqueId>,
    /// `WAIT` is "false": do not wait for disk or slave.
    pub no_wait: bool,
    /// `DELAY`.
    pub delay_level: Option<&'a str>,
    /// `TRAN_MSG` is "true": a half message.
    pub transaction_prepared: bool,
    /// `TIMER_DELAY_SEC`.
    pub timer_delay_sec: Option<&'a str>,
    /// `TIMER_DELAY_MS`.
    pub timer_delay_ms: Option<&'a str>,
    /// `TIMER_DELIVER_MS`.
    pub timer_deliver_ms: Option<&'a str>,
    /// `TIMER_DEL_UNIQKEY`.
    pub timer_delete: Option<&'a str>,
    /// `RETRY_TOPIC`.
    pub retry_topic: Option<&'a str>,
    /// `PGROUP`.
    pub producer_group: Option<&'a str>,
    /// `MSG_TYPE`.
    pub message_type: Option<&'a str>,
    /// `__SHARDINGKEY`.
    pub sharding_key: Option<&'a str>,
    /// `INNER_MULTI_DISPATCH`.
    pub multi_dispatch: Option<&'a str>,
    /// `INNER_NUM`.
    pub inner_count: Option<&'a str>,
    /// Rewritten, they begin with what was sent, whole.
    pub is_kept: bool,
}

impl<'a> SendProperties<'a> {
    /// Reads them without rewriting anything, as for a batch element.
    pub fn scan(properties: &'a str) -> Self {
        let mut found = Self::default();
        for (name, value) in items(properties) {
            found.note(name, value);
        }
        found
    }

    /// The message's unique key, the client's or the one made for it.
    pub fn unique_key(&self) -> Option<&str> {
        self.unique_key
            .or_else(|| self.made_unique_key.as_ref().map(UniqueId::as_str))
    }

    /// Whether one of the three timer requests is there.
    pub fn is_timer(&self) -> bool {
        let any = self
            .timer_delay_sec
            .or(self.timer_delay_ms)
            .or(self.timer_deliver_ms);
        any.is_some()
    }

    fn note(&mut self, name: &str, value: &'a str) {
        match name {
            name::TAGS => self.tags = Some(value),
            name::KEYS => self.keys = Some(value),
            name::UNIQ_KEY => self.unique_key = Some(value),
            name::WAIT => self.no_wait = value.eq_ignore_ascii_case("false"),
            name::DELAY => self.delay_level = Some(value),
            name::TRANSACTION_PREPARED => {
                self.transaction_prepared = value.eq_ignore_ascii_case("true");
            }
            name::TIMER_DELAY_SEC => self.timer_delay_sec = Some(value),
            name::TIMER_DELAY_MS => self.timer_delay_ms = Some(value),
            name::TIMER_DELIVER_MS => self.timer_deliver_ms = Some(value),
            name::TIMER_DEL_UNIQKEY => self.timer_delete = Some(value),
            name::RETRY_TOPIC => self.retry_topic = Some(value),
            name::PRODUCER_GROUP => self.producer_group = Some(value),
            name::MSG_TYPE => self.message_type = Some(value),
            name::SHARDING_KEY => self.sharding_key = Some(value),
            name::INNER_NUM => self.inner_count = Some(value),
            name::INNER_MULTI_DISPATCH => self.multi_dispatch = Some(value),
            _ => {}
        }
    }
}

/// Rewrites the properties of a single send into `out` (appended) and reports what it saw.
///
/// Dropped: empty items (trap 45), `POP_CK` (trap 48), and whatever the client put under the three
/// names the broker sets itself. Set: `MSG_REGION`, `TRACE_ON`, `CLUSTER` (trap 49), and
/// `UNIQ_KEY` from `make_unique_key` when the client sent none (trap 47).
pub fn rewrite_for_send<'a>(
    properties: &'a str,
    broker: &BrokerProperties,
    make_unique_key: impl FnOnce() -> UniqueId,
    out: &mut Vec<u8>,
) -> SendProperties<'a> {
    let mut found = SendProperties::default();
    let (mut kept_bytes, mut has_ours) = (0, false);
    for (name, value) in items(properties) {
        found.note(name, value);
        kept_bytes += name.len() + value.len() + 2;
        has_ours |= is_ours(name);
    }
    // The last separator may be missing; every item that was dropped takes at least a byte.
    let unended = !properties.is_empty() && !properties.as_bytes().ends_with(&[PROPERTY_BYTE]);
    found.is_kept = !has_ours && kept_bytes == properties.len() + usize::from(unended);
    if found.is_kept {
        out.extend_from_slice(properties.as_bytes());
        if unended {
            out.push(PROPERTY_BYTE);
        }
    } else {
        for (name, value) in items(properties).filter(|(name, _)| !is_ours(name)) {
            append(out, name, value);
        }
    }
    out.extend_from_slice(&broker.stored);
    if found.unique_key.is_none() {
        let made = make_unique_key();
        append(out, name::UNIQ_KEY, made.as_str());
        found.made_unique_key = Some(made);
    }
    found
}

/// A property that no client sets.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        name::POP_CK | name::MSG_REGION | name::TRACE_ON | name::CLUSTER
    )
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
