//! The brokers of a cluster.
//!
//! **Owns** `ClusterInfo` and `BrokerMemberGroup`. **Lives on** the control plane and tools.
//! **Invariants** Java writes their integer keys bare (trap 111); readers take both.
//! **Limits** those of `fastjson`. **Not here** routes of topics (`route`).

use std::collections::BTreeMap;

use super::route::{BrokerData, read_addresses, write_addresses};
use crate::error::BodyError;
use crate::fastjson::{self, Value};

/// Reply of `GET_BROKER_CLUSTER_INFO` (106).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterInfo {
    /// Brokers by name.
    pub brokers: BTreeMap<String, BrokerData>,
    /// Broker names by cluster.
    pub clusters: BTreeMap<String, Vec<String>>,
}

impl ClusterInfo {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let entries = |name| value.get(name).map(Value::entries).unwrap_or_default();
        let mut read = Self::default();
        for (name, broker) in entries("brokerAddrTable") {
            if let Some(name) = name.as_text() {
                read.brokers
                    .insert(name.into_owned(), BrokerData::from_value(broker));
            }
        }
        for (name, brokers) in entries("clusterAddrTable") {
            if let Some(name) = name.as_text() {
                let names = brokers.elements().iter().filter_map(Value::as_text);
                read.clusters
                    .insert(name.into_owned(), names.map(Into::into).collect());
            }
        }
        Ok(read)
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let brokers = self
            .brokers
            .iter()
            .map(|(name, broker)| (name, broker.to_value()));
        let clusters = self
            .clusters
            .iter()
            .map(|(name, names)| (name, Value::list(names)));
        Value::object([
            ("brokerAddrTable", Value::map(brokers)),
            ("clusterAddrTable", Value::map(clusters)),
        ])
    }
}

/// Reply of `GET_BROKER_MEMBER_GROUP` (901), inside `brokerMemberGroup`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerMemberGroup {
    /// Cluster name.
    pub cluster: String,
    /// Broker name.
    pub broker_name: String,
    /// Addresses by id.
    pub addresses: BTreeMap<i64, String>,
}

impl BrokerMemberGroup {
    /// Reads the whole reply.
    ///
    /// # Errors
    /// No JSON, or no group in it.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let group = value.get("brokerMemberGroup");
        let group = group.ok_or(BodyError::Member("brokerMemberGroup"))?;
        Ok(Self {
            cluster: group.text_or_empty("cluster"),
            broker_name: group.text_or_empty("brokerName"),
            addresses: read_addresses(group.get("brokerAddrs")),
        })
    }

    /// The whole reply, as Java writes it.
    pub fn to_value(&self) -> Value {
        let group = Value::object([
            ("brokerAddrs", write_addresses(&self.addresses)),
            ("brokerName", self.broker_name.as_str().into()),
            ("cluster", self.cluster.as_str().into()),
        ]);
        Value::object([("brokerMemberGroup", group)])
    }
}
