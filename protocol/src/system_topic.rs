//! Reserved topic and group names, and what a name may look like.
//!
//! **Owns** every spelling of a name with a meaning, and the checks of `TopicValidator` (5.5.0).
//! **Lives on** any core.
//! **Invariants** names with `%` and `|` are legal (trap 35).
//! **Limits** [`TOPIC_CHARS_MAX`], [`RETRY_OR_DLQ_TOPIC_CHARS_MAX`], [`GROUP_CHARS_MAX`].
//! **Not here** which topics exist (`actors`).

use crate::error::FieldError;

/// Longest ordinary topic name.
pub const TOPIC_CHARS_MAX: usize = 127;
/// Longest name of a retry or dead-letter topic.
pub const RETRY_OR_DLQ_TOPIC_CHARS_MAX: usize = 255;
/// Longest group name.
pub const GROUP_CHARS_MAX: usize = 120;

/// Template of auto-created topics.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Self test.
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
/// Benchmarks of the tools.
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
/// One queue per delay level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Events of a moved offset.
pub const OFFSET_MOVED_EVENT_TOPIC: &str = "OFFSET_MOVED_EVENT";
/// Message traces.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
/// Half messages.
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Ends of half messages.
pub const TRANS_OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Half messages nobody decided.
pub const TRANS_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Timed messages.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// Prefix of internal topics.
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
/// Prefix of the pop revive log; the cluster's name follows.
pub const REVIVE_LOG_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
/// Prefix of the broker members' topic; the broker's name follows.
pub const SYNC_BROKER_MEMBER_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";
/// Suffix of the reply topic; the cluster's name precedes.
pub const REPLY_TOPIC_SUFFIX: &str = "REPLY_TOPIC";
/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Name-server namespace of the order configuration.
pub const ORDER_TOPIC_CONFIG_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

/// Topics no producer may send to: refused with `NO_PERMISSION`. RocketMQ 5.5.0 takes messages for
/// its timer topic, whose properties then say where they go, whoever may send there.
const NOT_SENDABLE: [&str; 7] = [
    SCHEDULE_TOPIC,
    TIMER_TOPIC,
    TRANS_HALF_TOPIC,
    TRANS_OP_HALF_TOPIC,
    TRANS_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_EVENT_TOPIC,
];

/// Names of system topics without the common prefix.
const SYSTEM_TOPICS: [&str; 8] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    TRANS_HALF_TOPIC,
    TRACE_TOPIC,
    TRANS_OP_HALF_TOPIC,
    TRANS_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
];

/// Groups that exist in every broker.
pub const SYSTEM_GROUPS: [&str; 8] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
];

/// Groups of tools that only pull: no broker has a configuration of theirs from the start.
const PULLING_SYSTEM_GROUPS: [&str; 3] = [
    "DEFAULT_CONSUMER",
    "SCHEDULE_CONSUMER",
    "__MONITOR_CONSUMER",
];

/// Prefix of system groups.
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";

/// A group's retry topic.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// A group's dead-letter topic.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// A cluster's reply topic.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_{REPLY_TOPIC_SUFFIX}")
}

/// The group of a retry topic.
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// The group of a dead-letter topic.
pub fn group_of_dlq_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(DLQ_PREFIX)
}

/// Whether a topic belongs to the system: it cannot be created or changed by a request.
pub fn is_system_topic(topic: &str) -> bool {
    topic.starts_with(SYSTEM_TOPIC_PREFIX)
        || topic == OFFSET_MOVED_EVENT_TOPIC
        || SYSTEM_TOPICS.contains(&topic)
}

/// Whether producers may not send to a topic.
pub fn is_not_sendable(topic: &str) -> bool {
    NOT_SENDABLE.contains(&topic)
}

/// Whether a group belongs to the system.
pub fn is_system_group(group: &str) -> bool {
    group.starts_with(SYSTEM_GROUP_PREFIX) || SYSTEM_GROUPS.contains(&group)
}

/// Whether a group may pull where pull consumers are rejected
/// (`MixAll.isSysConsumerGroupPullMessage`, 5.5.0).
pub fn is_pulling_system_group(group: &str) -> bool {
    is_system_group(group) || PULLING_SYSTEM_GROUPS.contains(&group)
}

/// What a name's characters may be, for errors.
const ALLOWED_TOPIC: &str =
    "1 to 127 characters (255 for %RETRY% and %DLQ%) of %, |, a-z, A-Z, 0-9, _ and -";
const ALLOWED_GROUP: &str = "1 to 120 characters of %, |, a-z, A-Z, 0-9, _ and -";

fn is_name_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-')
}

fn check(
    field: &'static str,
    name: &str,
    chars_max: usize,
    allowed: &'static str,
) -> Result<(), FieldError> {
    if name.is_empty() {
        return Err(FieldError::missing(field, allowed));
    }
    if name.len() > chars_max || !name.bytes().all(is_name_char) {
        return Err(FieldError::bad(field, name, allowed));
    }
    Ok(())
}

/// Checks a topic's name.
///
/// # Errors
/// Empty, too long, or a character outside the set.
pub fn check_topic_name(topic: &str) -> Result<(), FieldError> {
    let longer = topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX);
    let max = if longer {
        RETRY_OR_DLQ_TOPIC_CHARS_MAX
    } else {
        TOPIC_CHARS_MAX
    };
    check("topic", topic, max, ALLOWED_TOPIC)
}

/// Checks a group's name.
///
/// # Errors
/// Empty, too long, or a character outside the set.
pub fn check_group_name(group: &str) -> Result<(), FieldError> {
    check("group", group, GROUP_CHARS_MAX, ALLOWED_GROUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap 35: percent and bar are legal.
    #[test]
    fn names() {
        for good in [
            "T",
            "%RETRY%g",
            "ns%topic",
            "a|b",
            "A-b_9",
            &"x".repeat(127),
        ] {
            assert!(check_topic_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a.b", "ä", &"x".repeat(128)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
        assert!(check_topic_name(&retry_topic(&"g".repeat(120))).is_ok());
        assert!(check_group_name(&"g".repeat(121)).is_err());
        let text = check_topic_name("a b").unwrap_err().to_string();
        assert!(
            text.contains("\"a b\"") && text.contains("1 to 127"),
            "{text}"
        );
    }

    #[test]
    fn reserved_names() {
        assert!(is_system_topic("rmq_sys_wheel_timer"));
        assert!(is_system_topic("TBW102") && !is_not_sendable("TBW102"));
        assert!(is_not_sendable("SELF_TEST_TOPIC"));
        assert!(is_not_sendable(TIMER_TOPIC));
        assert!(!is_system_topic("%RETRY%g"));
        assert_eq!(group_of_retry_topic("%RETRY%g"), Some("g"));
        assert!(is_system_group("CID_RMQ_SYS_TRANS") && is_system_group("TOOLS_CONSUMER"));
    }
}
