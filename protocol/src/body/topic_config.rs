//! One topic's configuration.
//!
//! **Owns** its members and defaults (`TopicConfig`, 5.5.0). **Lives on** the control plane.
//! **Invariants** attributes are kept in name order. **Limits** none of its own.
//! **Not here** which topics exist (`actors`).

use std::collections::BTreeMap;

use crate::fastjson::Value;

/// Bits of a topic's or broker's permission.
pub mod perm {
    /// New topics may be created from this one.
    pub const INHERIT: i32 = 1;
    /// Producers see it.
    pub const WRITE: i32 = 2;
    /// Consumers see it.
    pub const READ: i32 = 4;
    /// Served before others.
    pub const PRIORITY: i32 = 8;
}

/// Queues of a topic made without naming a count; the class's own default.
const QUEUE_NUMS_DEFAULT: i32 = 16;

/// `TopicFilterType`: whether a message may have several tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FilterType {
    /// One at most.
    #[default]
    SingleTag,
    /// Several.
    MultiTag,
}

impl FilterType {
    /// The one of this name; any other name stands for the default.
    pub fn of(name: &str) -> Self {
        match name {
            "MULTI_TAG" => Self::MultiTag,
            _ => Self::SingleTag,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleTag => "SINGLE_TAG",
            Self::MultiTag => "MULTI_TAG",
        }
    }
}

/// The configuration of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Topic name.
    pub name: String,
    /// Queues consumers see.
    pub read_queue_nums: i32,
    /// Queues producers see.
    pub write_queue_nums: i32,
    /// Bits of [`perm`].
    pub perm: i32,
    /// Whether its messages may have several tags.
    pub filter_type: FilterType,
    /// 1 unit topic, 2 unit subscription.
    pub topic_sys_flag: i32,
    /// Ordered across brokers.
    pub order: bool,
    /// `queue.type`, `cleanup.policy`, `message.type`.
    pub attributes: BTreeMap<String, String>,
}

impl TopicConfig {
    /// How many queues it has: the larger of what is read and what is written.
    pub fn queue_nums(&self) -> i32 {
        self.read_queue_nums.max(self.write_queue_nums)
    }

    /// A readable and writable topic.
    pub fn new(name: impl Into<String>, queue_nums: i32) -> Self {
        Self {
            name: name.into(),
            read_queue_nums: queue_nums,
            write_queue_nums: queue_nums,
            perm: perm::READ | perm::WRITE,
            filter_type: FilterType::SingleTag,
            topic_sys_flag: 0,
            order: false,
            attributes: BTreeMap::new(),
        }
    }

    /// Reads one; missing members have the class's defaults.
    pub fn from_value(value: &Value) -> Self {
        let attributes = value
            .get("attributes")
            .map(Value::entries)
            .unwrap_or_default();
        let pair =
            |(k, v): &(Value, Value)| Some((k.as_text()?.into_owned(), v.as_text()?.into_owned()));
        let filter_type = match value.get("topicFilterType") {
            // The enum's ordinal, as clients with integer enums write it.
            Some(Value::Int(1)) => FilterType::MultiTag,
            Some(Value::Text(name)) => FilterType::of(name),
            _ => FilterType::SingleTag,
        };
        Self {
            name: value.text_or_empty("topicName"),
            read_queue_nums: value.i32_or("readQueueNums", QUEUE_NUMS_DEFAULT),
            write_queue_nums: value.i32_or("writeQueueNums", QUEUE_NUMS_DEFAULT),
            perm: value.i32_or("perm", perm::READ | perm::WRITE),
            filter_type,
            topic_sys_flag: value.i32_or("topicSysFlag", 0),
            order: value.bool_or("order", false),
            attributes: attributes.iter().filter_map(pair).collect(),
        }
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("attributes", Value::map(&self.attributes)),
            ("order", self.order.into()),
            ("perm", self.perm.into()),
            ("readQueueNums", self.read_queue_nums.into()),
            ("topicFilterType", self.filter_type.name().into()),
            ("topicName", self.name.as_str().into()),
            ("topicSysFlag", self.topic_sys_flag.into()),
            ("writeQueueNums", self.write_queue_nums.into()),
        ])
    }
}
