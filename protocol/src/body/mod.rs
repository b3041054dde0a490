//! JSON bodies, by family.
//!
//! **Owns** the members of every body Gantry reads or writes.
//! **Lives on** the control plane, clients and tools.
//! **Invariants** read tolerantly through `fastjson`, written with members in alphabetical order
//! and without whitespace, as the Java classes of 5.5.0 write them.
//! **Limits** those of `fastjson`.
//! **Not here** what the values mean (`actors`).

mod cluster;
mod connection;
mod group_config;
mod heartbeat;
mod lists;
mod lock;
mod offsets;
mod register;
mod route;
mod stats;
mod topic_config;
mod version;

pub use cluster::{BrokerMemberGroup, ClusterInfo};
pub use connection::{Connection, ConsumerConnection, ProducerConnection, ProducerInfo};
pub use group_config::{SubscriptionGroupConfig, SubscriptionGroupWrapper};
pub use heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel, SubscriptionData,
};
pub use lists::{GroupList, KvTable, TopicList, consumer_id_list, parse_consumer_id_list};
pub use lock::{LockRequest, MessageQueue, lock_reply, parse_lock_reply};
pub use offsets::{ConsumerOffsets, DelayOffsets, parse_queue_offsets, reset_offset_body};
pub use register::{RegisterBrokerBody, TopicConfigWrapper};
pub use route::{BrokerData, QueueData, TopicRouteData};
pub use stats::{ConsumeStats, QueueConsumeStats, QueueStats, TopicStats};
pub use topic_config::{FilterType, TopicConfig, perm};
pub use version::DataVersion;

#[cfg(test)]
mod body_tests;
