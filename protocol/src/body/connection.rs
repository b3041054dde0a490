//! Who is connected to a group.
//!
//! **Owns** the bodies of 203, 204 and 328. **Lives on** the control plane and tools.
//! **Invariants** members as 5.5.0 writes them. **Limits** those of `fastjson`.
//! **Not here** the tables themselves (`actors`).

use std::collections::BTreeMap;

use super::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};
use crate::command::Language;
use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// One connected client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client's id.
    pub client_id: String,
    /// `ip:port` of its end.
    pub client_addr: String,
    /// Its library.
    pub language: Language,
    /// Its release ordinal.
    pub version: i32,
}

impl Connection {
    fn from_value(value: &Value) -> Self {
        Self {
            client_id: value.text_or_empty("clientId"),
            client_addr: value.text_or_empty("clientAddr"),
            language: Language::from_text(&value.text_or_empty("language")),
            version: value.i32_or("version", 0),
        }
    }

    fn to_value(&self) -> Value {
        Value::object([
            ("clientAddr", self.client_addr.as_str().into()),
            ("clientId", self.client_id.as_str().into()),
            ("language", self.language.name().into()),
            ("version", self.version.into()),
        ])
    }

    fn list(value: &Value) -> Vec<Self> {
        let elements = value
            .get("connectionSet")
            .map(Value::elements)
            .unwrap_or_default();
        elements.iter().map(Self::from_value).collect()
    }
}

fn connection_set(connections: &[Connection]) -> Value {
    Value::List(connections.iter().map(Connection::to_value).collect())
}

/// Reply of `GET_CONSUMER_CONNECTION_LIST` (203).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConnection {
    /// The members.
    pub connections: Vec<Connection>,
    /// The group's subscriptions by topic.
    pub subscriptions: BTreeMap<String, SubscriptionData>,
    /// How it gets messages.
    pub consume_type: ConsumeType,
    /// Whether members share them.
    pub message_model: MessageModel,
    /// Where it starts.
    pub consume_from: ConsumeFromWhere,
}

impl ConsumerConnection {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let table = value
            .get("subscriptionTable")
            .map(Value::entries)
            .unwrap_or_default();
        let subscription = |(topic, data): &(Value, Value)| {
            Some((
                topic.as_text()?.into_owned(),
                SubscriptionData::from_value(data),
            ))
        };
        Ok(Self {
            connections: Connection::list(&value),
            subscriptions: table.iter().filter_map(subscription).collect(),
            consume_type: ConsumeType::from_value(value.get("consumeType")),
            message_model: MessageModel::from_value(value.get("messageModel")),
            consume_from: ConsumeFromWhere::from_value(value.get("consumeFromWhere")),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let subscriptions = self
            .subscriptions
            .iter()
            .map(|(topic, s)| (topic, s.to_value()));
        Value::object([
            ("connectionSet", connection_set(&self.connections)),
            ("consumeFromWhere", self.consume_from.name().into()),
            ("consumeType", self.consume_type.name().into()),
            ("messageModel", self.message_model.name().into()),
            ("subscriptionTable", Value::map(subscriptions)),
        ])
    }
}

/// Reply of `GET_PRODUCER_CONNECTION_LIST` (204).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerConnection {
    /// The members.
    pub connections: Vec<Connection>,
}

impl ProducerConnection {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        Ok(Self {
            connections: Connection::list(&fastjson::parse(body)?),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([("connectionSet", connection_set(&self.connections))])
    }
}

/// One producer of the reply of `GET_ALL_PRODUCER_INFO` (328).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerInfo {
    /// The client's id.
    pub client_id: String,
    /// `ip:port` of its end.
    pub remote_ip: String,
    /// Its library.
    pub language: Language,
    /// Its release ordinal.
    pub version: i32,
    /// Milliseconds since the epoch of its last heartbeat.
    pub last_update_ms: i64,
}

impl ProducerInfo {
    fn to_value(&self) -> Value {
        Value::object([
            ("clientId", self.client_id.as_str().into()),
            ("language", self.language.name().into()),
            ("lastUpdateTimestamp", self.last_update_ms.into()),
            ("remoteIP", self.remote_ip.as_str().into()),
            ("version", self.version.into()),
        ])
    }

    /// The whole reply: producers by group.
    pub fn table_to_value(groups: &BTreeMap<String, Vec<Self>>) -> Value {
        let list = |list: &Vec<Self>| Value::List(list.iter().map(Self::to_value).collect());
        let data = groups
            .iter()
            .map(|(group, producers)| (group, list(producers)));
        Value::object([("data", Value::map(data))])
    }
}
