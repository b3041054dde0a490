//! What a name server is sent.
//!
//! **Owns** headers and bodies of 103, 104, 217 and 322.
//! **Lives on** the control plane's thread; reads the tables.
//! **Invariants** permissions are cut by `brokerPermission` when it lacks reading or writing
//! (`BrokerController.doRegisterBrokerAll`, 5.5.0), so that a drained broker gets no clients (trap
//! 36); an incremental body holds only topics that exist (trap 33 makes it safe).
//! **Limits** the frame limit: a body that doesn't fit it as text goes in the compressed form,
//! which holds every topic that a broker may have, but not their unit flags.
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
use gantry_protocol::frame::FRAME_BYTES_MAX;
use gantry_protocol::system_topic::TOPIC_CHARS_MAX;

use crate::control::plane::Plane;
use crate::control::topics::table::{TOPICS_MAX, TopicTable};
use crate::seam::TopicEntry;

/// Largest body of a registration: the rest of a frame is for its header.
const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX as usize - (64 << 10);
/// A topic's members in a body of text, without its name, which is there twice: at least so much.
const PLAIN_TOPIC_BYTES_MIN: usize = 100;

// The longest names of as many topics as a broker may have fit without packing, and packing makes a
// third of the rest of a topic's line.
const _: () = assert!(TOPICS_MAX * (TOPIC_CHARS_MAX + 16) < BODY_BYTES_MAX);

/// A request that names this broker.
pub fn identified(plane: &Plane, code: i32, opaque: i32) -> Command {
    let settings = &plane.settings;
    Command::request(code, opaque)
        .with_ext("brokerAddr", settings.told_address().as_str())
        .with_ext("brokerId", settings.broker_id.to_string().as_str())
        .with_ext("brokerName", settings.broker_name.as_str())
        .with_ext("clusterName", settings.cluster_name.as_str())
}

/// A registration with all topics, or with those of `only` that exist.
pub fn register(plane: &Plane, only: Option<&BTreeSet<String>>, opaque: i32) -> Command {
    let is_compressed = plane.settings.registration.is_compressed.get();
    let (is_compressed, (bytes, crc)) = {
        let table = plane.topics.borrow();
        fitting(&table, only, plane.permission.get(), is_compressed)
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

/// The body, and whether it is compressed: where that is wished, and where it would not fit a frame
/// otherwise. Name servers read both forms since 4.3, whatever the broker's settings.
fn fitting(
    table: &TopicTable,
    only: Option<&BTreeSet<String>>,
    permission: i32,
    is_compressed: bool,
) -> (bool, (Bytes, u32)) {
    let mut entries: Vec<&Arc<TopicEntry>> = match only {
        None => table.iter().collect(),
        Some(names) => names.iter().filter_map(|name| table.get(name)).collect(),
    };
    entries.sort_unstable_by(|a, b| a.config.name.cmp(&b.config.name));
    let plain_bytes_min =
        |entry: &&Arc<TopicEntry>| entry.config.name.len() * 2 + PLAIN_TOPIC_BYTES_MIN;
    let plain_bytes_min: usize = entries.iter().map(plain_bytes_min).sum();
    if !is_compressed && plain_bytes_min <= BODY_BYTES_MAX {
        let plain = encode(table, &entries, permission, false);
        if plain.0.len() <= BODY_BYTES_MAX {
            return (false, plain);
        }
    }
    (true, encode(table, &entries, permission, true))
}

/// One topic at a time: all of them as values would take five times the memory of the whole table.
fn encode(
    table: &TopicTable,
    entries: &[&Arc<TopicEntry>],
    permission: i32,
    is_compressed: bool,
) -> (Bytes, u32) {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use gantry_storage::units::TopicId;

    use super::*;

    /// A table of so many topics with names of 60 characters.
    fn table(count: usize) -> TopicTable {
        let entries = (0..count).map(|n| TopicEntry {
            id: TopicId(u32::try_from(n + 1).unwrap()),
            config: TopicConfig::new(format!("{n:0>60}"), 8),
        });
        TopicTable::new(entries, gantry_protocol::body::DataVersion::default(), 1)
    }

    #[test]
    fn a_body_that_does_not_fit_a_frame_as_text_is_compressed() {
        let small = table(1000);
        assert!(!fitting(&small, None, 6, false).0);
        assert!(fitting(&small, None, 6, true).0);
        let begun = Instant::now();
        for count in [70_000, TOPICS_MAX] {
            let large = table(count);
            let (is_compressed, (bytes, crc)) = fitting(&large, None, 6, false);
            assert!(is_compressed && bytes.len() <= BODY_BYTES_MAX, "{count}");
            let read = RegisterBrokerBody::parse(&bytes, true, Some(crc.into()), 513).unwrap();
            assert_eq!(read.topics.topics.len(), count);
        }
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }
}
