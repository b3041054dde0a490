//! The topics that exist after start.
//!
//! **Owns** the list of built-in topics and which names a client may not create, change or delete.
//! **Lives on** the control plane; pure.
//! **Invariants** a stored configuration of the same name wins over the built-in one, as in
//! RocketMQ's `TopicConfigManager` 5.5.0 (init first, then load).
//! **Limits** none of its own.
//! **Not here** the table (`table`), the reserved names themselves
//! (`gantry_protocol::system_topic`).

use gantry_protocol::body::{TopicConfig, perm};
use gantry_protocol::system_topic;

use crate::settings::BrokerSettings;

/// Queues of the benchmark topic.
const BENCHMARK_QUEUES: i32 = 1024;
/// Queues of the topic named after the cluster.
const CLUSTER_QUEUES: i32 = 16;
/// `reviveQueueNum`: queues of the pop revive topic.
const REVIVE_QUEUES: i32 = 8;

/// A topic configuration with as many read as write queues.
pub fn topic(name: &str, queues: i32, perm: i32) -> TopicConfig {
    TopicConfig {
        perm,
        ..TopicConfig::new(name, queues)
    }
}

/// The built-in topics of a broker with these settings (behaviours §1.2).
pub fn built_in_topics(settings: &BrokerSettings) -> Vec<TopicConfig> {
    let read_write = perm::READ | perm::WRITE;
    let gated = |on: bool| {
        if on {
            perm::INHERIT | read_write
        } else {
            perm::INHERIT
        }
    };
    let levels = i32::try_from(settings.delay_levels_ms.len()).unwrap_or(i32::MAX);
    // One queue a shard (`data::transactions`); a store of one shard has them as RocketMQ does.
    let shards = i32::from(settings.shard_count.max(1));
    let cluster = &settings.cluster_name;
    let broker = &settings.broker_name;
    let mut topics = vec![
        topic(system_topic::SELF_TEST_TOPIC, 1, read_write),
        topic(system_topic::BENCHMARK_TOPIC, BENCHMARK_QUEUES, read_write),
        topic(
            cluster,
            CLUSTER_QUEUES,
            gated(settings.cluster_topic_enable),
        ),
        topic(broker, 1, gated(settings.broker_topic_enable)),
        topic(system_topic::OFFSET_MOVED_EVENT_TOPIC, 1, read_write),
        topic(system_topic::SCHEDULE_TOPIC, levels.max(1), read_write),
        topic(&system_topic::reply_topic(cluster), 1, read_write),
        topic(
            &format!("{}{cluster}", system_topic::REVIVE_LOG_PREFIX),
            REVIVE_QUEUES,
            read_write,
        ),
        topic(
            &format!("{}{broker}", system_topic::SYNC_BROKER_MEMBER_PREFIX),
            1,
            perm::INHERIT,
        ),
        topic(system_topic::TRANS_HALF_TOPIC, shards, read_write),
        topic(system_topic::TRANS_OP_HALF_TOPIC, shards, read_write),
        topic(system_topic::TRANS_CHECK_MAX_TIME_TOPIC, shards, read_write),
        topic(system_topic::TIMER_TOPIC, 1, read_write),
    ];
    if settings.auto_create_topic_enable.get() {
        topics.push(topic(
            system_topic::AUTO_CREATE_TOPIC,
            settings.default_topic_queue_nums,
            gated(true),
        ));
    }
    if settings.trace_topic_enable {
        topics.push(topic(&settings.trace_topic_name, 1, read_write));
    }
    topics
}

/// Whether a client may not create, change or delete this topic. The topics named after the
/// cluster and the broker are RocketMQ's own as well, but operators may change those.
pub fn is_system(name: &str) -> bool {
    system_topic::is_system_topic(name)
}
