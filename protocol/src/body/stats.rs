//! Offsets by queue, as the tools show them.
//!
//! **Owns** `TopicStatsTable` and `ConsumeStats`. **Lives on** the control plane and tools.
//! **Invariants** queues are raw objects as keys (trap 22). **Limits** those of `fastjson`.
//! **Not here** where the numbers come from (`actors`).

use std::collections::BTreeMap;

use super::MessageQueue;
use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// One queue in the reply of 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// First offset.
    pub min_offset: i64,
    /// Next offset to be written.
    pub max_offset: i64,
    /// Store time of the last message, ms; 0 when empty.
    pub last_update_ms: i64,
}

/// Reply of `GET_TOPIC_STATS_INFO` (202).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopicStats {
    /// The queues.
    pub queues: BTreeMap<MessageQueue, QueueStats>,
    /// Messages per second.
    pub put_tps: f64,
}

/// The queues of `offsetTable`.
fn offset_table<T>(value: &Value, read: impl Fn(&Value) -> T) -> BTreeMap<MessageQueue, T> {
    let entries = value
        .get("offsetTable")
        .map(Value::entries)
        .unwrap_or_default();
    let queue = |(k, v): &(Value, Value)| Some((MessageQueue::from_value(k)?, read(v)));
    entries.iter().filter_map(queue).collect()
}

impl TopicStats {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let queue = |v: &Value| QueueStats {
            min_offset: v.int_or("minOffset", 0),
            max_offset: v.int_or("maxOffset", 0),
            last_update_ms: v.int_or("lastUpdateTimestamp", 0),
        };
        let put_tps = value
            .get("topicPutTps")
            .and_then(Value::as_f64)
            .unwrap_or(0.0);
        Ok(Self {
            queues: offset_table(&value, queue),
            put_tps,
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let stats = |s: &QueueStats| {
            Value::object([
                ("lastUpdateTimestamp", s.last_update_ms.into()),
                ("maxOffset", s.max_offset.into()),
                ("minOffset", s.min_offset.into()),
            ])
        };
        let queues = self
            .queues
            .iter()
            .map(|(queue, s)| (queue.to_value(), stats(s)));
        let queues = Value::map(queues);
        Value::object([
            ("offsetTable", queues),
            ("topicPutTps", self.put_tps.into()),
        ])
    }
}

/// One queue in the reply of 208.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueConsumeStats {
    /// Next offset to be written.
    pub broker_offset: i64,
    /// The group's offset.
    pub consumer_offset: i64,
    /// The offset it has pulled to.
    pub pull_offset: i64,
    /// Store time of the last consumed message, ms.
    pub last_timestamp_ms: i64,
}

/// Reply of `GET_CONSUME_STATS` (208).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumeStats {
    /// The queues.
    pub queues: BTreeMap<MessageQueue, QueueConsumeStats>,
    /// Messages per second.
    pub consume_tps: f64,
}

impl ConsumeStats {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let queue = |v: &Value| QueueConsumeStats {
            broker_offset: v.int_or("brokerOffset", 0),
            consumer_offset: v.int_or("consumerOffset", 0),
            pull_offset: v.int_or("pullOffset", 0),
            last_timestamp_ms: v.int_or("lastTimestamp", 0),
        };
        let consume_tps = value
            .get("consumeTps")
            .and_then(Value::as_f64)
            .unwrap_or(0.0);
        Ok(Self {
            queues: offset_table(&value, queue),
            consume_tps,
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let stats = |s: &QueueConsumeStats| {
            Value::object([
                ("brokerOffset", s.broker_offset.into()),
                ("consumerOffset", s.consumer_offset.into()),
                ("lastTimestamp", s.last_timestamp_ms.into()),
                ("pullOffset", s.pull_offset.into()),
            ])
        };
        let queues = self
            .queues
            .iter()
            .map(|(queue, s)| (queue.to_value(), stats(s)));
        Value::object([
            ("consumeTps", self.consume_tps.into()),
            ("offsetTable", Value::map(queues)),
        ])
    }
}
