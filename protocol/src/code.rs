//! The one table of request and response codes.
//!
//! **Owns** every number a client, tool or broker of any RocketMQ release may send, and its name;
//! those of Gantry alone, from 31,001 on, whose names begin with it.
//! **Lives on** any core; constants only.
//! **Invariants** one row per code; a code without a handler still has a name, so that its refusal
//! (code 3, trap 15) can name it.
//! **Limits** codes are signed 32-bit; the binary header carries 16 bits of them.
//! **Not here** which codes Gantry answers (`actors::data::requests::dispatch`).

/// Who executes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// The broker.
    Broker,
    /// The name server.
    NameServer,
    /// A client, asked by the broker on the client's own connection.
    Client,
    /// The controller of a replicated group.
    Controller,
    /// Nobody in a 5.x release: the constant exists, the handler does not.
    Nobody,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCode {
    /// The number on the wire.
    pub code: i32,
    /// RocketMQ's constant.
    pub name: &'static str,
    /// Who executes it.
    pub receiver: Receiver,
}

macro_rules! request_codes {
    ($($code:literal $name:ident $receiver:ident)*) => {
        /// Request codes by RocketMQ's names.
        #[allow(missing_docs)] // The names are the documentation; the table gives the receiver.
        pub mod request {
            $(pub const $name: i32 = $code;)*
        }

        /// Every request code, ascending.
        pub const REQUEST_CODES: &[RequestCode] = &[
            $(RequestCode { code: $code, name: stringify!($name), receiver: Receiver::$receiver },)*
        ];
    };
}

request_codes! {
    10 SEND_MESSAGE Broker
    11 PULL_MESSAGE Broker
    12 QUERY_MESSAGE Broker
    13 QUERY_BROKER_OFFSET Nobody
    14 QUERY_CONSUMER_OFFSET Broker
    15 UPDATE_CONSUMER_OFFSET Broker
    17 UPDATE_AND_CREATE_TOPIC Broker
    18 UPDATE_AND_CREATE_TOPIC_LIST Broker
    21 GET_ALL_TOPIC_CONFIG Broker
    22 GET_TOPIC_CONFIG_LIST Nobody
    23 GET_TOPIC_NAME_LIST Nobody
    25 UPDATE_BROKER_CONFIG Broker
    26 GET_BROKER_CONFIG Broker
    27 TRIGGER_DELETE_FILES Nobody
    28 GET_BROKER_RUNTIME_INFO Broker
    29 SEARCH_OFFSET_BY_TIMESTAMP Broker
    30 GET_MAX_OFFSET Broker
    31 GET_MIN_OFFSET Broker
    32 GET_EARLIEST_MSG_STORETIME Broker
    33 VIEW_MESSAGE_BY_ID Broker
    34 HEART_BEAT Broker
    35 UNREGISTER_CLIENT Broker
    36 CONSUMER_SEND_MSG_BACK Broker
    37 END_TRANSACTION Broker
    38 GET_CONSUMER_LIST_BY_GROUP Broker
    39 CHECK_TRANSACTION_STATE Client
    40 NOTIFY_CONSUMER_IDS_CHANGED Client
    41 LOCK_BATCH_MQ Broker
    42 UNLOCK_BATCH_MQ Broker
    43 GET_ALL_CONSUMER_OFFSET Broker
    45 GET_ALL_DELAY_OFFSET Broker
    46 CHECK_CLIENT_CONFIG Broker
    47 GET_CLIENT_CONFIG Nobody
    50 UPDATE_AND_CREATE_ACL_CONFIG Broker
    51 DELETE_ACL_CONFIG Broker
    52 GET_BROKER_CLUSTER_ACL_INFO Broker
    53 UPDATE_GLOBAL_WHITE_ADDRS_CONFIG Broker
    54 GET_BROKER_CLUSTER_ACL_CONFIG Broker
    60 GET_TIMER_CHECK_POINT Broker
    61 GET_TIMER_METRICS Broker
    100 PUT_KV_CONFIG NameServer
    101 GET_KV_CONFIG NameServer
    102 DELETE_KV_CONFIG NameServer
    103 REGISTER_BROKER NameServer
    104 UNREGISTER_BROKER NameServer
    105 GET_ROUTEINFO_BY_TOPIC NameServer
    106 GET_BROKER_CLUSTER_INFO NameServer
    200 UPDATE_AND_CREATE_SUBSCRIPTIONGROUP Broker
    201 GET_ALL_SUBSCRIPTIONGROUP_CONFIG Broker
    202 GET_TOPIC_STATS_INFO Broker
    203 GET_CONSUMER_CONNECTION_LIST Broker
    204 GET_PRODUCER_CONNECTION_LIST Broker
    205 WIPE_WRITE_PERM_OF_BROKER NameServer
    206 GET_ALL_TOPIC_LIST_FROM_NAMESERVER NameServer
    207 DELETE_SUBSCRIPTIONGROUP Broker
    208 GET_CONSUME_STATS Broker
    209 SUSPEND_CONSUMER Nobody
    210 RESUME_CONSUMER Nobody
    211 RESET_CONSUMER_OFFSET_IN_CONSUMER Nobody
    212 RESET_CONSUMER_OFFSET_IN_BROKER Nobody
    213 ADJUST_CONSUMER_THREAD_POOL Nobody
    214 WHO_CONSUME_THE_MESSAGE Nobody
    215 DELETE_TOPIC_IN_BROKER Broker
    216 DELETE_TOPIC_IN_NAMESRV NameServer
    217 REGISTER_TOPIC_IN_NAMESRV NameServer
    219 GET_KVLIST_BY_NAMESPACE NameServer
    220 RESET_CONSUMER_CLIENT_OFFSET Client
    221 GET_CONSUMER_STATUS_FROM_CLIENT Client
    222 INVOKE_BROKER_TO_RESET_OFFSET Broker
    223 INVOKE_BROKER_TO_GET_CONSUMER_STATUS Broker
    224 GET_TOPICS_BY_CLUSTER NameServer
    225 UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST Broker
    300 QUERY_TOPIC_CONSUME_BY_WHO Broker
    301 REGISTER_FILTER_SERVER Nobody
    302 REGISTER_MESSAGE_FILTER_CLASS Nobody
    303 QUERY_CONSUME_TIME_SPAN Broker
    304 GET_SYSTEM_TOPIC_LIST_FROM_NS NameServer
    305 GET_SYSTEM_TOPIC_LIST_FROM_BROKER Broker
    306 CLEAN_EXPIRED_CONSUMEQUEUE Broker
    307 GET_CONSUMER_RUNNING_INFO Broker
    308 QUERY_CORRECTION_OFFSET Broker
    309 CONSUME_MESSAGE_DIRECTLY Broker
    310 SEND_MESSAGE_V2 Broker
    311 GET_UNIT_TOPIC_LIST NameServer
    312 GET_HAS_UNIT_SUB_TOPIC_LIST NameServer
    313 GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST NameServer
    314 CLONE_GROUP_OFFSET Broker
    315 VIEW_BROKER_STATS_DATA Broker
    316 CLEAN_UNUSED_TOPIC Broker
    317 GET_BROKER_CONSUME_STATS Broker
    318 UPDATE_NAMESRV_CONFIG NameServer
    319 GET_NAMESRV_CONFIG NameServer
    320 SEND_BATCH_MESSAGE Broker
    321 QUERY_CONSUME_QUEUE Broker
    322 QUERY_DATA_VERSION NameServer
    323 RESUME_CHECK_HALF_MESSAGE Broker
    324 SEND_REPLY_MESSAGE Broker
    325 SEND_REPLY_MESSAGE_V2 Broker
    326 PUSH_REPLY_MESSAGE_TO_CLIENT Client
    327 ADD_WRITE_PERM_OF_BROKER NameServer
    328 GET_ALL_PRODUCER_INFO Broker
    329 DELETE_EXPIRED_COMMITLOG Broker
    343 QUERY_TOPICS_BY_CONSUMER Broker
    345 QUERY_SUBSCRIPTION_BY_CONSUMER Broker
    351 GET_TOPIC_CONFIG Broker
    352 GET_SUBSCRIPTIONGROUP_CONFIG Broker
    353 UPDATE_AND_GET_GROUP_FORBIDDEN Broker
    354 CHECK_ROCKSDB_CQ_WRITE_PROGRESS Broker
    355 EXPORT_ROCKSDB_CONFIG_TO_JSON Broker
    361 LITE_PULL_MESSAGE Broker
    370 RECALL_MESSAGE Broker
    400 QUERY_ASSIGNMENT Broker
    401 SET_MESSAGE_REQUEST_MODE Broker
    402 GET_ALL_MESSAGE_REQUEST_MODE Broker
    513 UPDATE_AND_CREATE_STATIC_TOPIC Broker
    901 GET_BROKER_MEMBER_GROUP NameServer
    902 ADD_BROKER Broker
    903 REMOVE_BROKER Broker
    904 BROKER_HEARTBEAT NameServer
    905 NOTIFY_MIN_BROKER_ID_CHANGE Broker
    906 EXCHANGE_BROKER_HA_INFO Broker
    907 GET_BROKER_HA_STATUS Broker
    908 RESET_MASTER_FLUSH_OFFSET Broker
    1001 CONTROLLER_ALTER_SYNC_STATE_SET Controller
    1002 CONTROLLER_ELECT_MASTER Controller
    1003 CONTROLLER_REGISTER_BROKER Controller
    1004 CONTROLLER_GET_REPLICA_INFO Controller
    1005 CONTROLLER_GET_METADATA_INFO Controller
    1006 CONTROLLER_GET_SYNC_STATE_DATA Controller
    1007 GET_BROKER_EPOCH_CACHE Broker
    1008 NOTIFY_BROKER_ROLE_CHANGED Broker
    1009 UPDATE_CONTROLLER_CONFIG Controller
    1010 GET_CONTROLLER_CONFIG Controller
    1011 CLEAN_BROKER_DATA Controller
    1012 CONTROLLER_GET_NEXT_BROKER_ID Controller
    1013 CONTROLLER_APPLY_BROKER_ID Controller
    2001 UPDATE_COLD_DATA_FLOW_CTR_CONFIG Broker
    2002 REMOVE_COLD_DATA_FLOW_CTR_CONFIG Broker
    2003 GET_COLD_DATA_FLOW_CTR_INFO Broker
    2004 SET_COMMITLOG_READ_MODE Broker
    3001 AUTH_CREATE_USER Broker
    3002 AUTH_UPDATE_USER Broker
    3003 AUTH_DELETE_USER Broker
    3004 AUTH_GET_USER Broker
    3005 AUTH_LIST_USER Broker
    3006 AUTH_CREATE_ACL Broker
    3007 AUTH_UPDATE_ACL Broker
    3008 AUTH_DELETE_ACL Broker
    3009 AUTH_GET_ACL Broker
    3010 AUTH_LIST_ACL Broker
    5001 SWITCH_TIMER_ENGINE Broker
    31_001 GANTRY_LIST_HALVES Broker
    31_002 GANTRY_LIST_DELAYED Broker
    31_003 GANTRY_GET_PROFILE Broker
    200_050 POP_MESSAGE Broker
    200_051 ACK_MESSAGE Broker
    200_052 PEEK_MESSAGE Broker
    200_053 CHANGE_MESSAGE_INVISIBLETIME Broker
    200_054 NOTIFICATION Broker
    200_055 POLLING_INFO Broker
    200_056 POP_ROLLBACK Broker
    200_070 POP_LITE_MESSAGE Broker
    200_071 LITE_SUBSCRIPTION_CTL Broker
    200_072 ACK_LITE_MESSAGE Broker
    200_073 NOTIFY_UNSUBSCRIBE_LITE Client
    200_074 GET_BROKER_LITE_INFO Broker
    200_075 GET_PARENT_TOPIC_INFO Broker
    200_076 GET_LITE_TOPIC_INFO Broker
    200_077 GET_LITE_CLIENT_INFO Broker
    200_078 GET_LITE_GROUP_INFO Broker
    200_079 TRIGGER_LITE_DISPATCH Broker
    200_151 BATCH_ACK_MESSAGE Broker
}

/// The table's row of a code.
pub fn request_code(code: i32) -> Option<&'static RequestCode> {
    let at = REQUEST_CODES
        .binary_search_by_key(&code, |row| row.code)
        .ok()?;
    REQUEST_CODES.get(at)
}

/// RocketMQ's name of a request code.
pub fn request_name(code: i32) -> Option<&'static str> {
    request_code(code).map(|row| row.name)
}

macro_rules! response_codes {
    ($($code:literal $name:ident)*) => {
        /// Response codes by RocketMQ's names.
        #[allow(missing_docs)] // The names are the documentation.
        pub mod response {
            $(pub const $name: i32 = $code;)*
        }

        /// RocketMQ's name of a response code.
        pub fn response_name(code: i32) -> Option<&'static str> {
            match code {
                $($code => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

response_codes! {
    0 SUCCESS
    1 SYSTEM_ERROR
    2 SYSTEM_BUSY
    3 REQUEST_CODE_NOT_SUPPORTED
    4 TRANSACTION_FAILED
    10 FLUSH_DISK_TIMEOUT
    11 SLAVE_NOT_AVAILABLE
    12 FLUSH_SLAVE_TIMEOUT
    13 MESSAGE_ILLEGAL
    14 SERVICE_NOT_AVAILABLE
    15 VERSION_NOT_SUPPORTED
    16 NO_PERMISSION
    17 TOPIC_NOT_EXIST
    18 TOPIC_EXIST_ALREADY
    19 PULL_NOT_FOUND
    20 PULL_RETRY_IMMEDIATELY
    21 PULL_OFFSET_MOVED
    22 QUERY_NOT_FOUND
    23 SUBSCRIPTION_PARSE_FAILED
    24 SUBSCRIPTION_NOT_EXIST
    25 SUBSCRIPTION_NOT_LATEST
    26 SUBSCRIPTION_GROUP_NOT_EXIST
    27 FILTER_DATA_NOT_EXIST
    28 FILTER_DATA_NOT_LATEST
    29 INVALID_PARAMETER
    200 TRANSACTION_SHOULD_COMMIT
    201 TRANSACTION_SHOULD_ROLLBACK
    202 TRANSACTION_STATE_UNKNOW
    203 TRANSACTION_STATE_GROUP_WRONG
    204 NO_BUYER_ID
    205 NOT_IN_CURRENT_UNIT
    206 CONSUMER_NOT_ONLINE
    207 CONSUME_MSG_TIMEOUT
    208 NO_MESSAGE
    209 POLLING_FULL
    210 POLLING_TIMEOUT
    211 BROKER_NOT_EXIST
    212 BROKER_DISPATCH_NOT_COMPLETE
    213 BROADCAST_CONSUMPTION
    215 FLOW_CONTROL
    501 NOT_LEADER_FOR_QUEUE
    604 ILLEGAL_OPERATION
    1500 GO_AWAY
    2017 LMQ_QUOTA_EXCEEDED
    2018 LITE_SUBSCRIPTION_QUOTA_EXCEEDED
    3001 USER_NOT_EXIST
    3002 POLICY_NOT_EXIST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ascending_and_without_repeats() {
        assert!(
            REQUEST_CODES
                .windows(2)
                .all(|pair| pair[0].code < pair[1].code)
        );
    }

    #[test]
    fn names_are_found() {
        assert_eq!(
            request_name(request::SEND_MESSAGE_V2),
            Some("SEND_MESSAGE_V2")
        );
        assert_eq!(request_name(200_050), Some("POP_MESSAGE"));
        assert_eq!(request_name(999_999), None);
        assert_eq!(
            response_name(response::PULL_OFFSET_MOVED),
            Some("PULL_OFFSET_MOVED")
        );
        assert_eq!(
            request_code(13).map(|row| row.receiver),
            Some(Receiver::Nobody)
        );
    }
}
