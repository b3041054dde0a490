//! The name server's tables as bodies of the wire, and back.
//!
//! **Owns** the conversion between the tables' types and the protocol's.
//! **Lives on** the control plane; pure.
//! **Invariants** integer keys are plain where every reader is used to that (106, 901), and as the
//! client wants them in routes.
//! **Limits** those of the protocol's bodies; [`TOPIC_BYTES_MAX`] a name.
//! **Not here** the bodies' members (`gantry_protocol::body`).

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_protocol::body::{
    BrokerData, BrokerMemberGroup, ClusterInfo, DataVersion, KvTable, QueueData,
    RegisterBrokerBody, TopicConfig, TopicConfigWrapper, TopicList, TopicRouteData,
};
use gantry_protocol::error::BodyError;
use gantry_protocol::fastjson::{self, IntegerKeys, to_bytes};

use super::lookup::Route;
use super::routes::{Broker, Queues};

/// `V3_0_11_SNAPSHOT`: older brokers send the topic table without its wrapper.
const WRAPPED_BODY_VERSION: i32 = 36;

/// Longest name of a topic: the longest of RocketMQ is a retry topic with a group of 255 characters
/// and a topic of 127 in it.
pub const TOPIC_BYTES_MAX: usize = 512;

/// Whether a topic can have this name. Apache brokers register their own names and their clusters'
/// as topics, unchecked, so more is legal here than clients may make.
pub fn is_topic_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= TOPIC_BYTES_MAX && !name.chars().any(char::is_control)
}

/// What a registration's body says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RegisterBody {
    /// The version of the topics.
    pub version: DataVersion,
    /// The topics.
    pub topics: Vec<(String, Queues)>,
    /// Topics left out, because no topic has such a name.
    pub left_out: usize,
}

/// Reads a registration's body.
///
/// # Errors
/// Why not, for the remark.
pub fn read_register(
    body: &[u8],
    compressed: bool,
    crc: Option<i64>,
    version: i32,
) -> Result<RegisterBody, BodyError> {
    if body.is_empty() {
        return Ok(RegisterBody::default());
    }
    let (mut topics, mut left_out) = (Vec::new(), 0);
    let mut take = |config: TopicConfig| {
        if !is_topic_name(&config.name) {
            left_out += 1;
            return;
        }
        let queues = Queues {
            read: config.read_queue_nums,
            write: config.write_queue_nums,
            perm: config.perm,
            sys_flag: config.topic_sys_flag,
        };
        topics.push((config.name, queues));
    };
    let version = if version >= WRAPPED_BODY_VERSION {
        let read = RegisterBrokerBody::parse_with(body, compressed, crc, version, &mut take)?;
        read.topics.data_version
    } else {
        let wrapper = TopicConfigWrapper::parse(body)?;
        wrapper.topics.into_values().for_each(take);
        wrapper.data_version
    };
    Ok(RegisterBody {
        version,
        topics,
        left_out,
    })
}

/// Reads a `DataVersion`.
///
/// # Errors
/// Why not, for the remark.
pub fn read_data_version(body: &[u8]) -> Result<DataVersion, BodyError> {
    Ok(DataVersion::from_value(&fastjson::parse(body)?))
}

/// Writes a `DataVersion`.
pub fn data_version(version: DataVersion) -> Bytes {
    to_bytes(&version.to_value(), IntegerKeys::Quoted)
}

/// A route, for clients that want standard JSON or for older ones.
pub fn route(route: &Route, order: Option<&str>, standard: bool) -> Bytes {
    let data = TopicRouteData {
        order_topic_conf: order.map(str::to_owned),
        brokers: route
            .brokers
            .iter()
            .map(|(name, broker)| broker_data(name, broker))
            .collect(),
        queues: route
            .queues
            .iter()
            .map(|(name, queues)| QueueData {
                broker_name: name.clone(),
                read_queue_nums: queues.read,
                write_queue_nums: queues.write,
                perm: queues.perm,
                topic_sys_flag: queues.sys_flag,
            })
            .collect(),
        filter_servers: BTreeMap::new(),
    };
    let keys = if standard {
        IntegerKeys::Quoted
    } else {
        IntegerKeys::Bare
    };
    to_bytes(&data.to_value(), keys)
}

fn broker_data(name: &str, broker: &Broker) -> BrokerData {
    BrokerData {
        cluster: broker.cluster.clone(),
        broker_name: name.to_owned(),
        addresses: broker.addresses.clone(),
        acting_master: broker.acting_master,
        zone: broker.zone.clone(),
    }
}

/// Reads the queues of a route that a tool registers by hand.
///
/// # Errors
/// Why not, for the remark.
pub fn read_route_queues(body: &[u8]) -> Result<Vec<(String, Queues)>, BodyError> {
    let route = TopicRouteData::parse(body)?;
    let queues = route.queues.into_iter().map(|queue| {
        let queues = Queues {
            read: queue.read_queue_nums,
            write: queue.write_queue_nums,
            perm: queue.perm,
            sys_flag: queue.topic_sys_flag,
        };
        (queue.broker_name, queues)
    });
    Ok(queues.collect())
}

/// All brokers and clusters (106).
pub fn clusters(brokers: &BTreeMap<String, Broker>, clusters: &BTreeMap<&str, Vec<&str>>) -> Bytes {
    let info = ClusterInfo {
        brokers: brokers
            .iter()
            .map(|(name, broker)| (name.clone(), broker_data(name, broker)))
            .collect(),
        clusters: clusters
            .iter()
            .map(|(cluster, names)| {
                let names = names.iter().map(|name| (*name).to_owned()).collect();
                ((*cluster).to_owned(), names)
            })
            .collect(),
    };
    to_bytes(&info.to_value(), IntegerKeys::Bare)
}

/// A broker's addresses (901), empty when it isn't known.
pub fn member_group(cluster: &str, name: &str, broker: Option<&Broker>) -> Bytes {
    let group = BrokerMemberGroup {
        cluster: cluster.to_owned(),
        broker_name: name.to_owned(),
        addresses: broker
            .map(|held| held.addresses.clone())
            .unwrap_or_default(),
    };
    to_bytes(&group.to_value(), IntegerKeys::Bare)
}

/// A list of topics.
pub fn topic_list(topics: &[&str], broker_address: Option<&str>) -> Bytes {
    let list = TopicList {
        broker_addr: broker_address.map(str::to_owned),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
    };
    to_bytes(&list.to_value(), IntegerKeys::Quoted)
}

/// A namespace's values.
pub fn key_values(values: &BTreeMap<String, String>) -> Bytes {
    let table = KvTable {
        table: values.clone(),
    };
    to_bytes(&table.to_value(), IntegerKeys::Quoted)
}
