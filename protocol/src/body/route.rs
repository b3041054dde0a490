//! Where a topic's queues are.
//!
//! **Owns** `TopicRouteData` and its parts. **Lives on** the control plane and clients.
//! **Invariants** no whitespace inside `brokerAddrs`: Go cuts the raw text (trap 19); integer keys
//! quoted or bare as the asker needs (trap 17), see `fastjson::IntegerKeys`.
//! **Limits** those of `fastjson`. **Not here** which brokers live (`actors::namesrv`).

use std::collections::BTreeMap;

use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// One broker name with its addresses by broker id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerData {
    /// Cluster name.
    pub cluster: String,
    /// Broker name.
    pub broker_name: String,
    /// Addresses by id; 0 is the master.
    pub addresses: BTreeMap<i64, String>,
    /// A slave may show itself as master.
    pub acting_master: bool,
    /// Zone, if the broker names one.
    pub zone: Option<String>,
}

/// Reads a map of addresses by broker id, quoted or bare.
pub(super) fn read_addresses(value: Option<&Value>) -> BTreeMap<i64, String> {
    let entries = value.map(Value::entries).unwrap_or_default();
    entries
        .iter()
        .filter_map(|(k, v)| Some((k.as_i64()?, v.as_text()?.into_owned())))
        .collect()
}

/// Writes a map of addresses by broker id.
pub(super) fn write_addresses(addresses: &BTreeMap<i64, String>) -> Value {
    Value::map(addresses.iter().map(|(id, address)| (*id, address)))
}

impl BrokerData {
    /// Reads one.
    pub fn from_value(value: &Value) -> Self {
        Self {
            cluster: value.text_or_empty("cluster"),
            broker_name: value.text_or_empty("brokerName"),
            addresses: read_addresses(value.get("brokerAddrs")),
            acting_master: value.bool_or("enableActingMaster", false),
            zone: value.text("zoneName"),
        }
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("brokerAddrs", write_addresses(&self.addresses)),
            ("brokerName", self.broker_name.as_str().into()),
            ("cluster", self.cluster.as_str().into()),
            ("enableActingMaster", self.acting_master.into()),
            ("zoneName", self.zone.as_deref().into()),
        ])
    }
}

/// A topic's queues on one broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueData {
    /// Broker name.
    pub broker_name: String,
    /// Queues consumers see.
    pub read_queue_nums: i32,
    /// Queues producers see.
    pub write_queue_nums: i32,
    /// Bits of [`super::perm`].
    pub perm: i32,
    /// 1 unit topic, 2 unit subscription.
    pub topic_sys_flag: i32,
}

impl QueueData {
    fn from_value(value: &Value) -> Self {
        Self {
            broker_name: value.text_or_empty("brokerName"),
            read_queue_nums: value.i32_or("readQueueNums", 0),
            write_queue_nums: value.i32_or("writeQueueNums", 0),
            perm: value.i32_or("perm", 0),
            topic_sys_flag: value.i32_or("topicSysFlag", 0),
        }
    }

    fn to_value(&self) -> Value {
        Value::object([
            ("brokerName", self.broker_name.as_str().into()),
            ("perm", self.perm.into()),
            ("readQueueNums", self.read_queue_nums.into()),
            ("topicSysFlag", self.topic_sys_flag.into()),
            ("writeQueueNums", self.write_queue_nums.into()),
        ])
    }
}

/// Reply of `GET_ROUTEINFO_BY_TOPIC` (105).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicRouteData {
    /// `broker:queues;broker:queues`, when configured.
    pub order_topic_conf: Option<String>,
    /// The brokers.
    pub brokers: Vec<BrokerData>,
    /// The queues.
    pub queues: Vec<QueueData>,
    /// Filter servers by broker address.
    pub filter_servers: BTreeMap<String, Vec<String>>,
}

impl TopicRouteData {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let elements = |name| value.get(name).map(Value::elements).unwrap_or_default();
        let filters = value
            .get("filterServerTable")
            .map(Value::entries)
            .unwrap_or_default();
        let texts = |v: &Value| -> Vec<String> {
            v.elements()
                .iter()
                .filter_map(Value::as_text)
                .map(Into::into)
                .collect()
        };
        Ok(Self {
            order_topic_conf: value.text("orderTopicConf"),
            brokers: elements("brokerDatas")
                .iter()
                .map(BrokerData::from_value)
                .collect(),
            queues: elements("queueDatas")
                .iter()
                .map(QueueData::from_value)
                .collect(),
            filter_servers: filters
                .iter()
                .filter_map(|(k, v)| Some((k.as_text()?.into_owned(), texts(v))))
                .collect(),
        })
    }

    /// As Java writes it; choose the integer keys when making bytes of it.
    pub fn to_value(&self) -> Value {
        let filters = self.filter_servers.iter().map(|(k, v)| (k, Value::list(v)));
        Value::object([
            (
                "brokerDatas",
                Value::List(self.brokers.iter().map(BrokerData::to_value).collect()),
            ),
            ("filterServerTable", Value::map(filters)),
            ("orderTopicConf", self.order_topic_conf.as_deref().into()),
            (
                "queueDatas",
                Value::List(self.queues.iter().map(QueueData::to_value).collect()),
            ),
        ])
    }
}
