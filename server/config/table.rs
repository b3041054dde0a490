//! The one table of configuration keys.
//!
//! **Owns** every key of `broker.conf` and `namesrv.conf` that Gantry knows: its default, its
//! range, the
//! field it fills, whether it changes live, or why it has no effect.
//! **Lives on** the main thread.
//! **Invariants** every default is accepted by its own kind (tested); names are RocketMQ 5.5.0's
//! where
//! RocketMQ has the key, because operators and admin tools use them.
//! **Limits** none of its own.
//! **Not here** pop, security and further keys without effect (`table_more`).

use gantry_storage::shard_store::RECORD_BYTES_MAX;

use super::value::Kind::{
    self, Addresses, Bool, Bytes, Delays, Host, Hours, Int, Ip, Name, OneOf, Path, Text,
};

/// Largest body. The store's records have room for it, properties and heads, and half of a tail of
/// the usual size has room for such a record.
const MESSAGE_BYTES_MAX: i64 = 4 << 20;
const _: () = assert!(MESSAGE_BYTES_MAX.unsigned_abs() + (96 << 10) <= RECORD_BYTES_MAX);

/// What setting a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Fills this field, and can be changed while running (code 25).
    Live(&'static str),
    /// Fills this field at start.
    Start(&'static str),
    /// Only the default is possible, for this reason; anything else is refused.
    DefaultOnly(&'static str),
    /// Accepted with a notice; this is why it does nothing.
    None(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As the operator writes it.
    pub name: &'static str,
    /// Its default, as text. `auto` is worked out at start.
    pub default: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it does.
    pub effect: Effect,
}

impl Key {
    /// Why a value, well formed by itself, is refused.
    pub fn refusal(&self, value: &str) -> Option<&'static str> {
        match self.effect {
            Effect::DefaultOnly(why) if !value.eq_ignore_ascii_case(self.default) => Some(why),
            _ => None,
        }
    }
}

/// Short form for the tables.
pub const fn key(name: &'static str, default: &'static str, kind: Kind, effect: Effect) -> Key {
    Key {
        name,
        default,
        kind,
        effect,
    }
}

use Effect::{DefaultOnly, Live, None as Nothing, Start};

/// Any count or time without a tighter bound of its own.
pub const ANY: Kind = Int(0, i32::MAX as i64);

const NO_REPLICATION: &str =
    "replication is not built yet, so a promise about other machines could not be kept";

/// Keys set by nearly everyone (a broker's identity, places and promises).
pub const BROKER: &[Key] = &[
    key(
        "brokerClusterName",
        "DefaultCluster",
        Name,
        Start("cluster_name"),
    ),
    key(
        "brokerName",
        "auto",
        Name,
        Start("broker_name (default: host name)"),
    ),
    key(
        "brokerId",
        "0",
        Int(0, i64::MAX),
        DefaultOnly("slaves need replication, not built yet; 0 is a master"),
    ),
    key("namesrvAddr", "", Addresses, Start("namesrv_addrs")),
    key(
        "brokerIP1",
        "auto",
        Host,
        Start("advertised (default: first non-loopback IPv4)"),
    ),
    key(
        "brokerIP2",
        "auto",
        Host,
        Start("ha_advertised (default: brokerIP1)"),
    ),
    key("bindAddress", "0.0.0.0", Ip, Start("listen")),
    key(
        "listenPort",
        "10911",
        Int(0, 65_535),
        Start("listen; the VIP port is 2 below"),
    ),
    key(
        "haListenPort",
        "auto",
        Int(0, 65_535),
        Start("ha_advertised (default: listenPort + 1)"),
    ),
    key(
        "brokerRole",
        "ASYNC_MASTER",
        OneOf(&["ASYNC_MASTER", "SYNC_MASTER", "SLAVE"]),
        Start("only checked: this broker can be a master and nothing else"),
    ),
    key(
        "flushDiskType",
        "ASYNC_FLUSH",
        OneOf(&["ASYNC_FLUSH", "SYNC_FLUSH"]),
        Start("flush_disk_type"),
    ),
    key(
        "deleteWhen",
        "04",
        Hours,
        Start("retention.delete_hours, local time"),
    ),
    key(
        "fileReservedTime",
        "72",
        ANY,
        Start(
            "retention.reserved_ms and transaction_age_ms_max, in hours; a topic's attribute \
             reserve.time overrides the former",
        ),
    ),
    key(
        "diskMaxUsedSpaceRatio",
        "75",
        Int(0, 100),
        Start(
            "retention.max_used_percent, bounded to 10-95: above it what is old goes at any hour",
        ),
    ),
    key(
        "diskSpaceCleanForciblyRatio",
        "85",
        Int(0, 100),
        Start(
            "retention.forced_percent, bounded to 30-85: above it the oldest go whatever their age",
        ),
    ),
    key(
        "diskSpaceWarningLevelRatio",
        "90",
        Int(0, 100),
        Start("retention.warning_percent, bounded to 35-90: above it sends get 14"),
    ),
    key(
        "cleanFileForciblyEnable",
        "true",
        Bool,
        Start("retention.is_forcing"),
    ),
    key(
        "cleanResourceInterval",
        "10000",
        Int(100, 3_600_000),
        Start("retention.interval_ms"),
    ),
    key("storePathRootDir", "~/store", Path, Start("data_dir")),
    key(
        "storePathCommitLog",
        "auto",
        Path,
        Start("checked against storePathRootDir"),
    ),
    key(
        "autoCreateTopicEnable",
        "true",
        Bool,
        Live("auto_create_topic_enable"),
    ),
    key(
        "autoCreateSubscriptionGroup",
        "true",
        Bool,
        Live("auto_create_subscription_group"),
    ),
    key(
        "defaultTopicQueueNums",
        "8",
        Int(1, 65_535),
        Start("default_topic_queue_nums"),
    ),
    key(
        "brokerPermission",
        "6",
        OneOf(&["0", "2", "4", "6"]),
        Live("broker_permission"),
    ),
    key(
        "clusterTopicEnable",
        "true",
        Bool,
        Start("cluster_topic_enable"),
    ),
    key(
        "brokerTopicEnable",
        "true",
        Bool,
        Start("broker_topic_enable"),
    ),
    key("regionId", "DefaultRegion", Name, Start("region_id")),
    key("traceOn", "true", Bool, Start("trace_on")),
    key(
        "traceTopicEnable",
        "false",
        Bool,
        Start("trace_topic_enable"),
    ),
    key(
        "msgTraceTopicName",
        "RMQ_SYS_TRACE_TOPIC",
        Name,
        Start("trace_topic_name"),
    ),
    key(
        "maxMessageSize",
        "4194304",
        Bytes(1, MESSAGE_BYTES_MAX),
        Live("message_bytes_max"),
    ),
    key(
        "enablePropertyFilter",
        "false",
        Bool,
        Live("enable_property_filter"),
    ),
    key(
        "longPollingEnable",
        "true",
        Bool,
        Live("long_polling_enable"),
    ),
    key(
        "shortPollingTimeMills",
        "1000",
        Int(0, 60_000),
        Live("short_polling_time_ms"),
    ),
    key(
        "notifyConsumerIdsChangedEnable",
        "true",
        Bool,
        Live("notify_consumer_ids_changed_enable"),
    ),
    key(
        "litePullMessageEnable",
        "true",
        Bool,
        Live("lite_pull_message_enable"),
    ),
    key(
        "enableMixedMessageType",
        "false",
        Bool,
        Start("enable_mixed_message_type"),
    ),
    key(
        "rejectPullConsumerEnable",
        "false",
        Bool,
        Start("reject_pull_consumer_enable"),
    ),
    key(
        "messageIndexEnable",
        "true",
        Bool,
        Start("index.keys_enable"),
    ),
    key(
        "latencyProfileEnable",
        "true",
        Bool,
        Start("latency_profile_enable"),
    ),
    key(
        "coalesceMaxUs",
        "1200",
        Int(0, 2_000),
        Start("coalesce_max_us; 0: requests never gather"),
    ),
    key(
        "queueSleepSeconds",
        "600",
        Int(1, 86_400),
        Start("index.sleep_ms"),
    ),
    key(
        "useServerSideResetOffset",
        "true",
        Bool,
        Live("use_server_side_reset_offset"),
    ),
    key(
        "maxTransferBytesOnMessageInMemory",
        "262144",
        Bytes(1, 8 << 20),
        Live("transfer_bytes_max_in_memory"),
    ),
    key(
        "maxTransferCountOnMessageInMemory",
        "32",
        Int(1, 4096),
        Live("transfer_count_max_in_memory"),
    ),
    key(
        "defaultQueryMaxNum",
        "32",
        Int(1, 4096),
        Live("default_query_max_num"),
    ),
    key(
        "waitTimeMillsInSendQueue",
        "200",
        Int(1, 3_600_000),
        Live("wait_time_in_send_queue_ms"),
    ),
    key(
        "sendThreadPoolQueueCapacity",
        "10000",
        Int(1, 10_000_000),
        Live("send_queue_capacity"),
    ),
    key(
        "syncFlushTimeout",
        "5000",
        Int(1, 3_600_000),
        Live("sync_flush_timeout_ms"),
    ),
    key(
        "flushIntervalCommitLog",
        "500",
        Int(1, 3_600_000),
        Start("flush_interval_ms"),
    ),
    key(
        "flushConsumerOffsetInterval",
        "5000",
        Int(1, 3_600_000),
        Start("flush_consumer_offset_interval_ms, at most 1000 here"),
    ),
    key(
        "registerNameServerPeriod",
        "30000",
        ANY,
        Start("registration.period_ms, held in 10000-60000"),
    ),
    key(
        "forceRegister",
        "true",
        Bool,
        Live("registration.is_forced"),
    ),
    key(
        "enableSingleTopicRegister",
        "false",
        Bool,
        Start("registration.is_single_topic"),
    ),
    key(
        "compressedRegister",
        "false",
        Bool,
        Live("registration.is_compressed"),
    ),
    key(
        "channelExpiredTimeout",
        "120000",
        Int(1_000, 86_400_000),
        Live("channel_expired_timeout_ms"),
    ),
    key(
        "serverChannelMaxIdleTimeSeconds",
        "120",
        Int(1, 86_400),
        Start("channel_idle_max_seconds"),
    ),
    key(
        "startAcceptSendRequestTimeStamp",
        "0",
        Int(0, i64::MAX),
        Live("start_accept_send_request_ms"),
    ),
    key(
        "rejectTransactionMessage",
        "false",
        Bool,
        Live("reject_transaction_message"),
    ),
    key(
        "transactionTimeOut",
        "6000",
        ANY,
        Start("transaction_timeout_ms"),
    ),
    key(
        "transactionCheckMax",
        "15",
        ANY,
        Start("transaction_check_max"),
    ),
    key(
        "transactionCheckInterval",
        "30000",
        Int(100, i32::MAX as i64),
        Start("transaction_check_interval_ms"),
    ),
    key(
        "timerWheelEnable",
        "true",
        Bool,
        Start("timer_wheel_enable"),
    ),
    key(
        "timerMaxDelaySec",
        "259200",
        Int(1, 3_155_760_000),
        Start("timer_max_delay_sec"),
    ),
    key(
        "recallMessageEnable",
        "false",
        Bool,
        Start("recall_message_enable"),
    ),
    key(
        "storeReplyMessageEnable",
        "true",
        Bool,
        Start("store_reply_message_enable"),
    ),
    key(
        "messageDelayLevel",
        "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
        Delays,
        Start("delay_levels_ms"),
    ),
    key(
        "inSyncReplicas",
        "1",
        Int(1, 64),
        Start("checked against brokerRole"),
    ),
    key(
        "minInSyncReplicas",
        "1",
        Int(1, 64),
        Nothing(NO_REPLICATION),
    ),
    key("totalReplicas", "1", Int(1, 64), Nothing(NO_REPLICATION)),
    key(
        "mappedFileSizeCommitLog",
        "256M",
        Bytes(8 << 20, 4 << 30),
        Start("segment_bytes, rounded up to 4096"),
    ),
];

/// Keys that only Gantry has.
pub const GANTRY: &[Key] = &[
    key(
        "tailDir",
        "auto",
        Path,
        Start("tail_dir: folder of the shared-memory tail (default: /dev/shm if it outlives us)"),
    ),
    key(
        "tailBytes",
        "16M",
        Bytes(1 << 20, 1 << 30),
        Start("tail_bytes: ring of one shard; an eighth is used until more is needed"),
    ),
    key(
        "shardCount",
        "auto",
        Int(1, 64),
        Start("shard_count of a new store (default: the data cores)"),
    ),
    key(
        "memoryLimit",
        "auto",
        Bytes(64 << 20, 1 << 40),
        Start("memory_limit_bytes (default: a quarter of the machine, at most 4G)"),
    ),
    key(
        "cores",
        "auto",
        Text,
        Start("data cores: a count like 2 or a list like 1,2,5 (default: all but one)"),
    ),
];

/// Why thread-pool keys do nothing.
pub const NO_POOLS: &str = "one thread per core serves everything; there are no pools to size";
