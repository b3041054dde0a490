//! One dead letter: where it came from, whether a filter means it, and what is sent again of it.
//!
//! **Owns** the filter's meaning, the choice of the topic, the properties that a resend keeps.
//! **Lives on** the command's runtime; pure.
//! **Invariants** body, tags, keys, the unique key and everything an application has set stay; what
//! brokers wrote on the way to the dead letters doesn't.
//! **Limits** none of its own.
//! **Not here** reading and sending (`super`).

use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{self, get, items, name};
use gantry_protocol::sys_flag;
use gantry_protocol::system_topic::{group_of_dlq_topic, group_of_retry_topic};

/// Written by brokers and clients for a delivery that is over. A delay asked for then has passed,
/// and a transaction has been committed.
const OF_THE_PAST: [&str; 29] = [
    name::RETRY_TOPIC,
    name::REAL_TOPIC,
    name::REAL_QUEUE_ID,
    name::DLQ_ORIGIN_TOPIC,
    name::DLQ_ORIGIN_MESSAGE_ID,
    name::ORIGIN_MESSAGE_ID,
    name::RECONSUME_TIME,
    name::MAX_RECONSUME_TIMES,
    name::CONSUME_START_TIME,
    name::DELAY,
    name::TIMER_DELAY_SEC,
    name::TIMER_DELAY_MS,
    name::TIMER_DELIVER_MS,
    name::TIMER_OUT_MS,
    name::TIMER_ENQUEUE_MS,
    name::TIMER_DEQUEUE_MS,
    name::TIMER_ROLL_TIMES,
    name::TIMER_DEL_UNIQKEY,
    name::TRANSACTION_PREPARED,
    name::TRANSACTION_ID,
    name::TRANSACTION_PREPARED_QUEUE_OFFSET,
    name::TRANSACTION_CHECK_TIMES,
    name::CHECK_IMMUNITY_TIME_IN_SECONDS,
    name::PRODUCER_GROUP,
    name::POP_CK,
    name::FIRST_POP_TIME,
    name::MIN_OFFSET,
    name::MAX_OFFSET,
    name::WAIT,
];

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those with this tag.
    Tag(String),
    /// Those with this property; of KEYS, one of its words.
    Property(String, String),
}

impl Filter {
    /// `KEY=VALUE`, else a tag.
    pub fn read(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self::Property(key.to_owned(), value.to_owned()),
            None => Self::Tag(text.to_owned()),
        }
    }

    /// Whether it means this message.
    pub fn takes(&self, properties: &str) -> bool {
        match self {
            Self::Tag(tag) => get(properties, name::TAGS) == Some(tag),
            Self::Property(key, value) if key == name::KEYS => {
                let keys = get(properties, key).unwrap_or_default();
                properties::split_keys(keys).any(|word| word == value)
            }
            Self::Property(key, value) => get(properties, key) == Some(value),
        }
    }
}

/// Whether all of them mean this message.
pub fn is_taken(filters: &[Filter], properties: &str) -> bool {
    filters.iter().all(|filter| filter.takes(properties))
}

/// Where the message was sent to at first, as far as it says.
pub fn origin(properties: &str) -> Option<&str> {
    let told = [name::RETRY_TOPIC, name::DLQ_ORIGIN_TOPIC, name::REAL_TOPIC];
    let told = told.into_iter().filter_map(|key| get(properties, key));
    let mut told = told.filter(|topic| {
        let is_of_group = group_of_retry_topic(topic).or(group_of_dlq_topic(topic));
        !topic.is_empty() && is_of_group.is_none()
    });
    told.next()
}

/// The properties that it is sent with.
pub fn kept(properties: &str) -> String {
    let mut out = Vec::with_capacity(properties.len());
    for (key, value) in items(properties) {
        if !OF_THE_PAST.contains(&key) && !key.starts_with(name::CRC32) {
            properties::append(&mut out, key, value);
        }
    }
    properties::append(&mut out, name::WAIT, "true");
    // Appended texts only, so it is UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// The flags that it is sent with: those of its body and tags.
pub fn flags(record: &RecordView<'_>) -> i32 {
    let of_body = sys_flag::COMPRESSED | sys_flag::COMPRESSION_MASK;
    record.sys_flag & (of_body | sys_flag::MULTI_TAGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: &str = "TAGS\u{1}red\u{2}KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}shop\u{1}7\u{2}\
        RETRY_TOPIC\u{1}T\u{2}ORIGIN_MESSAGE_ID\u{1}0A\u{2}DELAY\u{1}3\u{2}WAIT\u{1}false\u{2}\
        REAL_TOPIC\u{1}%RETRY%g\u{2}TRAN_MSG\u{1}true\u{2}";

    #[test]
    fn what_an_application_set_stays() {
        let kept = kept(DEAD);
        let all: Vec<_> = items(&kept).collect();
        let wanted = [
            ("TAGS", "red"),
            ("KEYS", "a b"),
            ("UNIQ_KEY", "U"),
            ("shop", "7"),
            ("WAIT", "true"),
        ];
        assert_eq!(all, wanted);
    }

    #[test]
    fn the_topic_it_came_from_is_never_a_groups_own() {
        assert_eq!(origin(DEAD), Some("T"));
        assert_eq!(origin("REAL_TOPIC\u{1}%RETRY%g\u{2}"), None);
        assert_eq!(origin("REAL_TOPIC\u{1}T\u{2}"), Some("T"));
        assert_eq!(origin(""), None);
    }

    #[test]
    fn filters_by_tag_key_and_property() {
        for (filter, takes) in [
            ("red", true),
            ("re", false),
            ("KEYS=b", true),
            ("KEYS=a b", false),
            ("shop=7", true),
            ("shop=", false),
        ] {
            assert_eq!(Filter::read(filter).takes(DEAD), takes, "{filter}");
        }
        let both = ["red", "shop=8"].map(Filter::read);
        assert!(!is_taken(&both, DEAD) && is_taken(&[], DEAD));
    }
}
