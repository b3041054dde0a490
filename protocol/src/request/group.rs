//! Headers about clients, groups, retries and transactions.
//!
//! **Owns** their fields. **Lives on** the control plane, data cores and clients. **Invariants** as
//! `request`. **Limits** none of its own. **Not here** bodies of heartbeats and locks (`body`).

use super::fields::headers;

headers! {
    /// `UNREGISTER_CLIENT` (35).
    UnregisterClient<'a> {
        client_id: &'a str = "clientID",
        producer_group: Option<&'a str> = "producerGroup",
        consumer_group: Option<&'a str> = "consumerGroup",
    }

    /// `GET_CONSUMER_LIST_BY_GROUP` (38), `GET_CONSUMER_CONNECTION_LIST` (203), and the request to
    /// clients `NOTIFY_CONSUMER_IDS_CHANGED` (40).
    ConsumerGroupHeader<'a> {
        consumer_group: &'a str = "consumerGroup",
    }

    /// `GET_PRODUCER_CONNECTION_LIST` (204).
    ProducerGroupHeader<'a> {
        producer_group: &'a str = "producerGroup",
    }

    /// `CONSUMER_SEND_MSG_BACK` (36).
    SendBack<'a> {
        /// The record's physical offset (trap 79).
        physical_offset: i64 = "offset",
        group: &'a str = "group",
        delay_level: i32 = "delayLevel",
        origin_message_id: Option<&'a str> = "originMsgId",
        origin_topic: Option<&'a str> = "originTopic",
        unit_mode: bool = "unitMode",
        /// Wins over the group's own limit.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }

    /// `END_TRANSACTION` (37), one-way.
    EndTransaction<'a> {
        producer_group: &'a str = "producerGroup",
        transaction_table_offset: i64 = "tranStateTableOffset",
        physical_offset: i64 = "commitLogOffset",
        /// 0 unknown, 8 commit, 12 rollback.
        decision: i32 = "commitOrRollback",
        message_id: &'a str = "msgId",
        from_check: bool = "fromTransactionCheck",
        transaction_id: Option<&'a str> = "transactionId",
        topic: Option<&'a str> = "topic",
    }

    /// `CHECK_TRANSACTION_STATE` (39), to a client.
    CheckTransaction<'a> {
        topic: Option<&'a str> = "topic",
        transaction_table_offset: i64 = "tranStateTableOffset",
        physical_offset: i64 = "commitLogOffset",
        message_id: Option<&'a str> = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
        offset_message_id: Option<&'a str> = "offsetMsgId",
        broker_name: Option<&'a str> = "bname",
    }

    /// `GET_CONSUME_STATS` (208).
    ConsumeStatsHeader<'a> {
        consumer_group: &'a str = "consumerGroup",
        topic: Option<&'a str> = "topic",
        /// Topics joined by `;`.
        topic_list: Option<&'a str> = "topicList",
    }

    /// `GET_CONSUMER_RUNNING_INFO` (307), answered by the client.
    RunningInfoHeader<'a> {
        consumer_group: &'a str = "consumerGroup",
        client_id: &'a str = "clientId",
        with_stacks: bool = "jstackEnable",
    }

    /// `CONSUME_MESSAGE_DIRECTLY` (309), answered by the client.
    ConsumeDirectly<'a> {
        consumer_group: &'a str = "consumerGroup",
        client_id: Option<&'a str> = "clientId",
        message_id: Option<&'a str> = "msgId",
        broker_name: Option<&'a str> = "brokerName",
        topic: Option<&'a str> = "topic",
    }

    /// `INVOKE_BROKER_TO_RESET_OFFSET` (222), and to clients `RESET_CONSUMER_CLIENT_OFFSET` (220).
    ResetOffset<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        /// −1 means: to the end.
        timestamp_ms: i64 = "timestamp",
        force: bool = "isForce",
        /// −1 or absent means every queue.
        queue_id: Option<i32> = "queueId",
        /// −1 or absent means: by time.
        offset: Option<i64> = "offset",
    }

    /// `INVOKE_BROKER_TO_GET_CONSUMER_STATUS` (223), and to clients 221.
    ConsumerStatus<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        client_address: Option<&'a str> = "clientAddr",
    }

    /// `CLONE_GROUP_OFFSET` (314).
    CloneGroupOffset<'a> {
        source_group: &'a str = "srcGroup",
        target_group: &'a str = "destGroup",
        topic: Option<&'a str> = "topic",
        offline: bool = "offline",
    }

    /// `DELETE_SUBSCRIPTIONGROUP` (207).
    DeleteGroup<'a> {
        group: &'a str = "groupName",
        clean_offset: bool = "cleanOffset",
    }

    /// `GET_SUBSCRIPTIONGROUP_CONFIG` (352), `QUERY_TOPICS_BY_CONSUMER` (343),
    /// `QUERY_SUBSCRIPTION_BY_CONSUMER` (345).
    GroupHeader<'a> {
        group: &'a str = "group",
        topic: Option<&'a str> = "topic",
    }
}

/// Values of [`EndTransaction::decision`].
pub mod decision {
    /// The producer does not know.
    pub const UNKNOWN: i32 = 0;
    /// Deliver the message.
    pub const COMMIT: i32 = crate::sys_flag::TRANSACTION_COMMIT;
    /// Drop the message.
    pub const ROLLBACK: i32 = crate::sys_flag::TRANSACTION_ROLLBACK;
}
