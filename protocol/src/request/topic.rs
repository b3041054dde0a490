//! Headers about topics and the broker itself, for the admin tools.
//!
//! **Owns** their fields. **Lives on** the control plane and tools. **Invariants** as `request`.
//! **Limits** none of its own. **Not here** rules of topic names (`system_topic`).

use super::fields::headers;

headers! {
    /// `UPDATE_AND_CREATE_TOPIC` (17).
    CreateTopic<'a> {
        topic: &'a str = "topic",
        default_topic: Option<&'a str> = "defaultTopic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        perm: i32 = "perm",
        filter_type: Option<&'a str> = "topicFilterType",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order",
        /// `+key=value,-key`.
        attributes: Option<&'a str> = "attributes",
        force: bool = "force",
    }

    /// A topic alone: `DELETE_TOPIC_IN_BROKER` (215), `GET_TOPIC_STATS_INFO` (202),
    /// `GET_TOPIC_CONFIG` (351), `QUERY_TOPIC_CONSUME_BY_WHO` (300) and others.
    TopicHeader<'a> {
        topic: &'a str = "topic",
    }

    /// `QUERY_CONSUME_TIME_SPAN` (303) and `UPDATE_AND_GET_GROUP_FORBIDDEN` (353).
    TopicGroupHeader<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        /// Only for 353.
        readable: Option<bool> = "readable",
    }

    /// Paging of `GET_ALL_TOPIC_CONFIG` (21).
    TopicPage<'a> {
        first: Option<i32> = "topicSeq",
        data_version: Option<&'a str> = "dataVersion",
        topics_max: Option<i32> = "maxTopicNum",
    }

    /// `VIEW_BROKER_STATS_DATA` (315).
    StatsHeader<'a> {
        name: &'a str = "statsName",
        key: &'a str = "statsKey",
    }

    /// `QUERY_CONSUME_QUEUE` (321).
    QueryConsumeQueue<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        index: i64 = "index",
        count: i32 = "count",
        consumer_group: Option<&'a str> = "consumerGroup",
    }
}
