//! What a name server is sent.
//!
//! **Owns** headers and bodies of 103, 104, 217 and 322.
//! **Lives on** the control plane's thread; reads the tables.
//! **Invariants** permissions are cut by `brokerPermission` when it lacks reading or writing
//! (`BrokerController.doRegisterBrokerAll`, 5.5.0), so that a drained broker gets no clients (trap
//! 36); an incremental body holds only topics that exist (trap 33 makes it safe).
//! **Limits** the frame limit; about 90,000 topics fit a full body.
//! **Not here** sending (`link`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::body::{
    QueueData, RegisterBrokerBody, TopicConfig, TopicConfigWrapper, TopicRouteData, perm,
};
use gantry_protocol::code::request;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};

use crate::control::plane::Plane;
use crate::control::topics::table::TopicTable;
use crate::seam::TopicEntry;

/// A request that names this broker.
pub fn identified(plane: &Plane, code: i32, opaque: i32) -> Command {
    let settings = &plane.settings;
    Command::request(code, opaque)
        .with_ext("brokerAddr", settings.advertised.to_string().as_str())
        .with_ext("brokerId", settings.broker_id.to_string().as_str())
        .with_ext("brokerName", settings.broker_name.as_str())
        .with_ext("clusterName", settings.cluster_name.as_str())
}

/// A registration with all topics, or with those of `only` that exist.
pub fn register(plane: &Plane, only: Option<&BTreeSet<String>>, opaque: i32) -> Command {
    let is_compressed = plane.settings.registration.is_compressed.get();
    let (bytes, crc) = {
        let table = plane.topics.borrow();
        encode(&table, only, plane.permission.get(), is_compressed)
    };
    identified(plane, request::REGISTER_BROKER, opaque)
        .with_ext(
            "haServerAddr",
            plane.settings.ha_advertised.to_string().as_str(),
        )
        .with_ext("compressed", is_compressed)
        .with_ext("enableActingMaster", false)
        .with_ext("bodyCrc32", i64::from(crc))
        .with_body(bytes)
}

/// A topic alone (`BrokerOuterAPI.registerSingleTopicAll`, 5.5.0); none when it is gone.
pub fn one_topic(plane: &Plane, name: &str, opaque: i32) -> Option<Command> {
    let table = plane.topics.borrow();
    let config = cut(&table.get(name)?.config, plane.permission.get());
    let queues = QueueData {
        broker_name: plane.settings.broker_name.clone(),
        read_queue_nums: config.read_queue_nums,
        write_queue_nums: config.write_queue_nums,
        perm: config.perm,
        topic_sys_flag: config.topic_sys_flag,
    };
    let route = TopicRouteData {
        queues: vec![queues],
        ..TopicRouteData::default()
    };
    let command = Command::request(request::REGISTER_TOPIC_IN_NAMESRV, opaque)
        .with_ext("topic", name)
        .with_body(to_bytes(&route.to_value(), IntegerKeys::Quoted));
    Some(command)
}

/// One topic at a time: all of them as values would take five times the memory of the whole table.
fn encode(
    table: &TopicTable,
    only: Option<&BTreeSet<String>>,
    permission: i32,
    is_compressed: bool,
) -> (Bytes, u32) {
    let mut entries: Vec<&Arc<TopicEntry>> = match only {
        None => table.iter().collect(),
        Some(names) => names.iter().filter_map(|name| table.get(name)).collect(),
    };
    entries.sort_unstable_by(|a, b| a.config.name.cmp(&b.config.name));
    let body = RegisterBrokerBody {
        topics: TopicConfigWrapper {
            data_version: *table.version(),
            ..TopicConfigWrapper::default()
        },
        filter_servers: Vec::new(),
    };
    let configs = entries.iter().map(|entry| cut(&entry.config, permission));
    body.encode_with(configs, is_compressed)
}

fn cut(config: &TopicConfig, permission: i32) -> Cow<'_, TopicConfig> {
    let read_write = perm::READ | perm::WRITE;
    if permission & read_write == read_write {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    config.perm &= permission;
    Cow::Owned(config)
}
