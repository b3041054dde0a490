//! Small bodies that are one list or one table.
//!
//! **Owns** consumer id lists, topic lists, group lists and KV tables. **Lives on** the control
//! plane and clients. **Invariants** order is the caller's. **Limits** those of `fastjson`.
//! **Not here** bodies with structure of their own.

use std::collections::BTreeMap;

use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// Reply of `GET_CONSUMER_LIST_BY_GROUP` (38).
pub fn consumer_id_list<'a>(ids: impl IntoIterator<Item = &'a str>) -> Value {
    Value::object([("consumerIdList", Value::list(ids))])
}

/// Reads the reply of 38.
///
/// # Errors
/// No JSON.
pub fn parse_consumer_id_list(body: &[u8]) -> Result<Vec<String>, BodyError> {
    Ok(fastjson::parse(body)?.texts("consumerIdList"))
}

/// Topics, as in replies of 206, 224, 304, 305 and 343.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicList {
    /// Set in some replies only.
    pub broker_addr: Option<String>,
    /// The names.
    pub topics: Vec<String>,
}

impl TopicList {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        Ok(Self {
            broker_addr: value.text("brokerAddr"),
            topics: value.texts("topicList"),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("brokerAddr", self.broker_addr.as_deref().into()),
            ("topicList", Value::list(&self.topics)),
        ])
    }
}

/// Groups, the reply of 300.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupList {
    /// The names.
    pub groups: Vec<String>,
}

impl GroupList {
    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([("groupList", Value::list(&self.groups))])
    }
}

/// A table of texts: replies of 28, 219 and 103.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KvTable {
    /// The entries, by name.
    pub table: BTreeMap<String, String>,
}

impl KvTable {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let entries = value.get("table").map(Value::entries).unwrap_or_default();
        let pair =
            |(k, v): &(Value, Value)| Some((k.as_text()?.into_owned(), v.as_text()?.into_owned()));
        Ok(Self {
            table: entries.iter().filter_map(pair).collect(),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([("table", Value::map(&self.table))])
    }
}
