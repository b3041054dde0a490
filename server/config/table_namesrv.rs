//! Keys of `namesrv.conf`.
//!
//! **Owns** each key of the name server: default, range, field or why it has no effect.
//! **Lives on** the main thread.
//! **Invariants** as in `table`.
//! **Limits** none of its own.
//! **Not here** what a key is (`table`), the broker's keys (`table`, `table_more`).

use super::table::Effect::{DefaultOnly, Live, None as Nothing, Start};
use super::table::{ANY, Key, NO_POOLS, key};
use super::value::Kind::{Bool, Int, Ip, Path, Text};

/// All of them.
pub const NAMESRV: &[Key] = &[
    key("listenPort", "9876", Int(0, 65_535), Start("listen")),
    key("bindAddress", "0.0.0.0", Ip, Start("listen")),
    key(
        "kvConfigPath",
        "~/namesrv/kvConfig.json",
        Path,
        Start("kv_config_path"),
    ),
    key(
        "configStorePath",
        "~/namesrv/namesrv.properties",
        Path,
        Start("config_store_path"),
    ),
    key(
        "orderMessageEnable",
        "false",
        Bool,
        Live("order_message_enable"),
    ),
    key(
        "returnOrderTopicConfigToBroker",
        "true",
        Bool,
        Live("return_order_topic_config_to_broker"),
    ),
    key("enableTopicList", "true", Bool, Live("enable_topic_list")),
    key(
        "enableAllTopicList",
        "true",
        Bool,
        Live("enable_all_topic_list"),
    ),
    key(
        "supportActingMaster",
        "false",
        Bool,
        Live("support_acting_master"),
    ),
    key(
        "notifyMinBrokerIdChanged",
        "false",
        Bool,
        Nothing("slaves that act as masters are not built yet"),
    ),
    key(
        "needWaitForService",
        "false",
        Bool,
        Start("need_wait_for_service"),
    ),
    key(
        "waitSecondsForService",
        "45",
        Int(0, 3_600),
        Start("wait_for_service_ms"),
    ),
    key(
        "deleteTopicWithBrokerRegistration",
        "false",
        Bool,
        Live("delete_topic_with_broker_registration"),
    ),
    key(
        "scanNotActiveBrokerInterval",
        "5000",
        Int(100, 3_600_000),
        Start("scan_interval_ms"),
    ),
    key(
        "enableControllerInNamesrv",
        "false",
        Bool,
        DefaultOnly("the controller (automatic master election) is not built yet"),
    ),
    key(
        "clusterTest",
        "false",
        Bool,
        DefaultOnly("answers from another environment's name server are not built"),
    ),
    key(
        "productEnvName",
        "center",
        Text,
        Nothing("it belongs to clusterTest, which is not built"),
    ),
    key(
        "serverChannelMaxIdleTimeSeconds",
        "120",
        Int(1, 86_400),
        Start("channel_idle_max_seconds"),
    ),
    key("clientRequestThreadPoolNums", "8", ANY, Nothing(NO_POOLS)),
    key("defaultThreadPoolNums", "16", ANY, Nothing(NO_POOLS)),
    key(
        "clientRequestThreadPoolQueueCapacity",
        "50000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "defaultThreadPoolQueueCapacity",
        "10000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "unRegisterBrokerQueueCapacity",
        "3000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "configBlackList",
        "configBlackList;configStorePath;kvConfigPath",
        Text,
        Nothing("the list is fixed: keys read at start can't be changed live"),
    ),
    key(
        "rocketmqHome",
        "",
        Path,
        Nothing("Gantry is one binary; it has no home folder"),
    ),
    key("serverWorkerThreads", "8", ANY, Nothing(NO_POOLS)),
    key("serverSelectorThreads", "3", ANY, Nothing(NO_POOLS)),
    key(
        "useEpollNativeSelector",
        "false",
        Bool,
        Nothing("sockets are always served by io_uring"),
    ),
];
