//! Queue locks of orderly consumers, and the queue as a value.
//!
//! **Owns** `MessageQueue` and the bodies of 41 and 42. **Lives on** data cores and clients.
//! **Invariants** a queue as a map key is a raw object (trap 22). **Limits** those of `fastjson`.
//! **Not here** who holds a lock (`actors`).

use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// A queue as clients name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageQueue {
    /// Topic name.
    pub topic: String,
    /// Broker name.
    pub broker_name: String,
    /// Queue id.
    pub queue_id: i32,
}

impl MessageQueue {
    /// Reads one, also from an object used as a key.
    pub fn from_value(value: &Value) -> Option<Self> {
        Some(Self {
            topic: value.text("topic")?,
            broker_name: value.text_or_empty("brokerName"),
            queue_id: value.get("queueId")?.as_i32()?,
        })
    }

    /// As Java writes it, also as a key.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("brokerName", self.broker_name.as_str().into()),
            ("queueId", self.queue_id.into()),
            ("topic", self.topic.as_str().into()),
        ])
    }

    fn list(value: &Value, name: &str) -> Vec<Self> {
        let elements = value.get(name).map(Value::elements).unwrap_or_default();
        elements.iter().filter_map(Self::from_value).collect()
    }
}

/// Body of `LOCK_BATCH_MQ` (41) and `UNLOCK_BATCH_MQ` (42).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// The group that consumes in order.
    pub consumer_group: String,
    /// Who wants or held the locks.
    pub client_id: String,
    /// Do not ask other brokers; absent from C++ clients.
    pub only_this_broker: bool,
    /// The queues.
    pub queues: Vec<MessageQueue>,
}

impl LockRequest {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON, or no group or client id.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let group = value.text("consumerGroup").filter(|text| !text.is_empty());
        let client = value.text("clientId").filter(|text| !text.is_empty());
        Ok(Self {
            consumer_group: group.ok_or(BodyError::Member("consumerGroup"))?,
            client_id: client.ok_or(BodyError::Member("clientId"))?,
            only_this_broker: value.bool_or("onlyThisBroker", false),
            queues: MessageQueue::list(&value, "mqSet"),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let queues = self.queues.iter().map(MessageQueue::to_value);
        Value::object([
            ("clientId", self.client_id.as_str().into()),
            ("consumerGroup", self.consumer_group.as_str().into()),
            ("mqSet", Value::List(queues.collect())),
            ("onlyThisBroker", self.only_this_broker.into()),
        ])
    }
}

/// Reply of 41: exactly the requested queues that are owned now (trap 75).
pub fn lock_reply<'a>(owned: impl IntoIterator<Item = &'a MessageQueue>) -> Value {
    let queues = owned.into_iter().map(MessageQueue::to_value);
    Value::object([("lockOKMQSet", Value::List(queues.collect()))])
}

/// Reads the reply of 41.
///
/// # Errors
/// No JSON.
pub fn parse_lock_reply(body: &[u8]) -> Result<Vec<MessageQueue>, BodyError> {
    Ok(MessageQueue::list(&fastjson::parse(body)?, "lockOKMQSet"))
}
