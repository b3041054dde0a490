//! Tables of offsets: what slaves copy, and what a reset tells clients.
//!
//! **Owns** the bodies of 43, 45, 220 and 222, and their files `consumerOffset.json` and
//! `delayOffset.json`.
//! **Lives on** the control plane and tools.
//! **Invariants** integer keys are read quoted or bare; queues are raw objects as keys, except for
//! C++ clients, which want a list (remoting notes, section 8).
//! **Limits** those of `fastjson`.
//! **Not here** who owns an offset (`actors`).

use std::collections::BTreeMap;

use super::{DataVersion, MessageQueue};
use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// Offsets by queue id.
type QueueOffsets = BTreeMap<i32, i64>;

/// Reply of `GET_ALL_CONSUMER_OFFSET` (43).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerOffsets {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Committed offsets by `topic@group`.
    pub offsets: BTreeMap<String, QueueOffsets>,
    /// Pulled-to offsets by `topic@group`.
    pub pull_offsets: BTreeMap<String, QueueOffsets>,
}

fn read_queue_offsets(value: &Value) -> QueueOffsets {
    let pair = |(k, v): &(Value, Value)| Some((k.as_i32()?, v.as_i64()?));
    value.entries().iter().filter_map(pair).collect()
}

fn read_offset_table(value: &Value, name: &str) -> BTreeMap<String, QueueOffsets> {
    let entries = value.get(name).map(Value::entries).unwrap_or_default();
    let pair = |(k, v): &(Value, Value)| Some((k.as_text()?.into_owned(), read_queue_offsets(v)));
    entries.iter().filter_map(pair).collect()
}

fn write_offset_table(table: &BTreeMap<String, QueueOffsets>) -> Value {
    let queues = |queues: &QueueOffsets| Value::map(queues.iter().map(|(q, o)| (*q, *o)));
    Value::map(table.iter().map(|(key, offsets)| (key, queues(offsets))))
}

impl ConsumerOffsets {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        Ok(Self {
            data_version: value
                .get("dataVersion")
                .map(DataVersion::from_value)
                .unwrap_or_default(),
            offsets: read_offset_table(&value, "offsetTable"),
            pull_offsets: read_offset_table(&value, "pullOffsetTable"),
        })
    }

    /// As Java writes it; `groupTopicMap` follows from the keys.
    pub fn to_value(&self) -> Value {
        let mut topics: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (topic, group) in self.offsets.keys().filter_map(|key| key.split_once('@')) {
            topics.entry(group).or_default().push(topic);
        }
        let topics = topics
            .into_iter()
            .map(|(group, topics)| (group, Value::list(topics)));
        Value::object([
            ("dataVersion", self.data_version.to_value()),
            ("groupTopicMap", Value::map(topics)),
            ("offsetTable", write_offset_table(&self.offsets)),
            ("pullOffsetTable", write_offset_table(&self.pull_offsets)),
        ])
    }
}

/// Reply of `GET_ALL_DELAY_OFFSET` (45).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DelayOffsets {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Offsets by delay level.
    pub offsets: QueueOffsets,
}

impl DelayOffsets {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        Ok(Self {
            data_version: value
                .get("dataVersion")
                .map(DataVersion::from_value)
                .unwrap_or_default(),
            offsets: value
                .get("offsetTable")
                .map(read_queue_offsets)
                .unwrap_or_default(),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let offsets = self.offsets.iter().map(|(level, offset)| (*level, *offset));
        Value::object([
            ("dataVersion", self.data_version.to_value()),
            ("offsetTable", Value::map(offsets)),
        ])
    }
}

/// Offsets by queue: the reply of 222 and the body of 220. `as_list` is what C++ clients read.
pub fn reset_offset_body(offsets: &BTreeMap<MessageQueue, i64>, as_list: bool) -> Value {
    let table = if as_list {
        let entry = |(queue, offset): (&MessageQueue, &i64)| {
            Value::object([
                ("brokerName", queue.broker_name.as_str().into()),
                ("offset", (*offset).into()),
                ("queueId", queue.queue_id.into()),
                ("topic", queue.topic.as_str().into()),
            ])
        };
        Value::List(offsets.iter().map(entry).collect())
    } else {
        Value::map(
            offsets
                .iter()
                .map(|(queue, offset)| (queue.to_value(), *offset)),
        )
    };
    Value::object([("offsetTable", table)])
}

/// Reads offsets by queue from the member `name` of a body: `offsetTable` of 222,
/// `messageQueueTable` of a client's answer to 221.
///
/// # Errors
/// No JSON.
pub fn parse_queue_offsets(
    body: &[u8],
    name: &str,
) -> Result<BTreeMap<MessageQueue, i64>, BodyError> {
    let value = fastjson::parse(body)?;
    let entries = value.get(name).map(Value::entries).unwrap_or_default();
    let pair = |(k, v): &(Value, Value)| Some((MessageQueue::from_value(k)?, v.as_i64()?));
    Ok(entries.iter().filter_map(pair).collect())
}
