//! Consumer groups as the broker keeps them.
//!
//! **Owns** `SubscriptionGroupConfig` and its table. **Lives on** the control plane.
//! **Invariants** members and defaults of 5.5.0; the retry policy and the subscriptions that tools
//! note are carried through unread.
//! **Limits** those of `fastjson`. **Not here** members of a group (`connection`).

use std::collections::BTreeMap;

use super::DataVersion;
use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// Deliveries before a message goes to the dead letters.
pub const RETRY_MAX_TIMES_DEFAULT: i32 = 16;

/// The configuration of a consumer group.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // The members are the wire's own.
pub struct SubscriptionGroupConfig {
    /// Group name.
    pub group: String,
    /// False refuses every pull.
    pub consume_enable: bool,
    /// Whether a new group may start at the beginning.
    pub consume_from_min_enable: bool,
    /// False refuses broadcasting members.
    pub consume_broadcast_enable: bool,
    /// Hint that the group consumes in order.
    pub consume_message_orderly: bool,
    /// Queues of the retry topic.
    pub retry_queue_nums: i32,
    /// Deliveries before a message goes to the dead letters.
    pub retry_max_times: i32,
    /// As it came; `{"type":"CUSTOMIZED"}` by default.
    pub retry_policy: Value,
    /// Broker to pull from.
    pub broker_id: i64,
    /// Broker to pull from when far behind.
    pub which_broker_when_slow: i64,
    /// Whether members hear of each other.
    pub notify_ids_changed_enable: bool,
    /// Unit flags.
    pub group_sys_flag: i32,
    /// Minutes until the client gives up on a message.
    pub consume_timeout_minutes: i32,
    /// As it came: what a tool says that the group subscribes; `null`, and left out, by default.
    pub subscription_data_set: Value,
    /// Further attributes.
    pub attributes: BTreeMap<String, String>,
}

impl SubscriptionGroupConfig {
    /// A group with the class's defaults.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queue_nums: 1,
            retry_max_times: RETRY_MAX_TIMES_DEFAULT,
            retry_policy: Value::object([("type", "CUSTOMIZED".into())]),
            broker_id: 0,
            which_broker_when_slow: 1,
            notify_ids_changed_enable: true,
            group_sys_flag: 0,
            consume_timeout_minutes: 15,
            subscription_data_set: Value::Null,
            attributes: BTreeMap::new(),
        }
    }

    /// Reads one; missing members have the defaults.
    pub fn from_value(value: &Value) -> Self {
        let usual = Self::new(value.text_or_empty("groupName"));
        let attributes = value
            .get("attributes")
            .map(Value::entries)
            .unwrap_or_default();
        let pair =
            |(k, v): &(Value, Value)| Some((k.as_text()?.into_owned(), v.as_text()?.into_owned()));
        let flag = |name, default| value.bool_or(name, default);
        Self {
            consume_enable: flag("consumeEnable", true),
            consume_from_min_enable: flag("consumeFromMinEnable", true),
            consume_broadcast_enable: flag("consumeBroadcastEnable", true),
            consume_message_orderly: flag("consumeMessageOrderly", false),
            retry_queue_nums: value.i32_or("retryQueueNums", usual.retry_queue_nums),
            retry_max_times: value.i32_or("retryMaxTimes", usual.retry_max_times),
            retry_policy: value
                .get("groupRetryPolicy")
                .cloned()
                .unwrap_or(usual.retry_policy),
            broker_id: value.int_or("brokerId", usual.broker_id),
            which_broker_when_slow: value
                .int_or("whichBrokerWhenConsumeSlowly", usual.which_broker_when_slow),
            notify_ids_changed_enable: flag("notifyConsumerIdsChangedEnable", true),
            group_sys_flag: value.i32_or("groupSysFlag", usual.group_sys_flag),
            consume_timeout_minutes: value
                .i32_or("consumeTimeoutMinute", usual.consume_timeout_minutes),
            subscription_data_set: value
                .get("subscriptionDataSet")
                .cloned()
                .unwrap_or(usual.subscription_data_set),
            attributes: attributes.iter().filter_map(pair).collect(),
            group: usual.group,
        }
    }

    /// Reads the body of 200.
    ///
    /// # Errors
    /// No JSON, or no group name.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let read = Self::from_value(&fastjson::parse(body)?);
        if read.group.is_empty() {
            Err(BodyError::Member("groupName"))
        } else {
            Ok(read)
        }
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("attributes", Value::map(&self.attributes)),
            ("brokerId", self.broker_id.into()),
            (
                "consumeBroadcastEnable",
                self.consume_broadcast_enable.into(),
            ),
            ("consumeEnable", self.consume_enable.into()),
            ("consumeFromMinEnable", self.consume_from_min_enable.into()),
            ("consumeMessageOrderly", self.consume_message_orderly.into()),
            ("consumeTimeoutMinute", self.consume_timeout_minutes.into()),
            ("groupName", self.group.as_str().into()),
            ("groupRetryPolicy", self.retry_policy.clone()),
            ("groupSysFlag", self.group_sys_flag.into()),
            (
                "notifyConsumerIdsChangedEnable",
                self.notify_ids_changed_enable.into(),
            ),
            ("retryMaxTimes", self.retry_max_times.into()),
            ("retryQueueNums", self.retry_queue_nums.into()),
            ("subscriptionDataSet", self.subscription_data_set.clone()),
            (
                "whichBrokerWhenConsumeSlowly",
                self.which_broker_when_slow.into(),
            ),
        ])
    }
}

/// Reply of `GET_ALL_SUBSCRIPTIONGROUP_CONFIG` (201).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubscriptionGroupWrapper {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Forbidden topics by group, as they came.
    pub forbidden: Option<Value>,
    /// The groups, by name.
    pub groups: BTreeMap<String, SubscriptionGroupConfig>,
}

impl SubscriptionGroupWrapper {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let groups = value
            .get("subscriptionGroupTable")
            .map(Value::entries)
            .unwrap_or_default();
        let group = |(name, config): &(Value, Value)| {
            let name = name.as_text()?.into_owned();
            Some((name, SubscriptionGroupConfig::from_value(config)))
        };
        Ok(Self {
            data_version: value
                .get("dataVersion")
                .map(DataVersion::from_value)
                .unwrap_or_default(),
            forbidden: value.get("forbiddenTable").cloned(),
            groups: groups.iter().filter_map(group).collect(),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let empty = || Value::Map(Vec::new());
        let groups = self
            .groups
            .iter()
            .map(|(name, config)| (name, config.to_value()));
        Value::object([
            ("dataVersion", self.data_version.to_value()),
            (
                "forbiddenTable",
                self.forbidden.clone().unwrap_or_else(empty),
            ),
            ("subscriptionGroupTable", Value::map(groups)),
        ])
    }
}
