//! Headers about offsets (14, 15, 29 to 32) and about finding messages (12, 33).
//!
//! **Owns** their fields. **Lives on** data cores and clients. **Invariants** as `request`.
//! **Limits** none of its own. **Not here** answers (`actors`).

use super::fields::headers;

headers! {
    /// `QUERY_CONSUMER_OFFSET` (14).
    QueryConsumerOffset<'a> {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        /// Absent means true in the broker's rule about young queues.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }

    /// `UPDATE_CONSUMER_OFFSET` (15), often one-way.
    UpdateConsumerOffset<'a> {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        commit_offset: i64 = "commitOffset",
    }

    /// `SEARCH_OFFSET_BY_TIMESTAMP` (29).
    SearchOffset<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        timestamp_ms: i64 = "timestamp",
        /// `lower` (also when absent) or `upper`, in any case.
        boundary: Option<&'a str> = "boundaryType",
    }

    /// `GET_MAX_OFFSET` (30), `GET_MIN_OFFSET` (31), `GET_EARLIEST_MSG_STORETIME` (32).
    QueueHeader<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        /// Only for 30: what consumers can see (also when absent), or what is staged.
        committed: Option<bool> = "committed",
    }

    /// `QUERY_MESSAGE` (12).
    QueryMessage<'a> {
        topic: &'a str = "topic",
        key: &'a str = "key",
        max_num: i32 = "maxNum",
        begin_timestamp_ms: i64 = "beginTimestamp",
        end_timestamp_ms: i64 = "endTimestamp",
        /// The key is a unique key; `maxNum` then means the broker's own limit.
        by_unique_key: bool = "_UNIQUE_KEY_QUERY",
        /// `K`, `U` or `T`: what the key is (5.5.0).
        index_type: Option<&'a str> = "indexType",
    }

    /// `VIEW_MESSAGE_BY_ID` (33).
    ViewMessage<'a> {
        physical_offset: i64 = "offset",
        topic: Option<&'a str> = "topic",
    }
}

impl QueryMessage<'_> {
    /// Whether the key is a tag (`MessageConst.INDEX_TAG_TYPE`, 5.5.0).
    pub fn is_by_tag(&self) -> bool {
        self.index_type == Some("T")
    }
}

impl SearchOffset<'_> {
    /// Whether the largest offset at or before the time is wanted.
    pub fn is_upper(&self) -> bool {
        self.boundary
            .is_some_and(|kind| kind.eq_ignore_ascii_case("upper"))
    }
}
