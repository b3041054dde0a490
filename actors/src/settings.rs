//! What a broker is and how it behaves, as plain values.
//!
//! **Owns** the settings that the rules read; `server/config` fills them from `broker.conf`.
//! **Lives on** both planes, shared as `Arc<BrokerSettings>`; values that change live travel
//! through the seam instead.
//! **Invariants** a value here has passed its range check.
//! **Limits** none of its own.
//! **Not here** parsing, key names, defaults by key (`server/config`).

use std::net::SocketAddr;
use std::path::PathBuf;

/// `flushDiskType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDiskType {
    /// `SEND_OK` once the record is in the shared-memory tail.
    Async,
    /// `SEND_OK` once the record is written and synced.
    Sync,
}

/// `brokerRole`; replication itself comes later, the role is refused unless it is a master's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerRole {
    /// `ASYNC_MASTER`.
    AsyncMaster,
    /// `SYNC_MASTER`.
    SyncMaster,
    /// `SLAVE`.
    Slave,
}

/// A broker's settings. Units are in the names; RocketMQ's key in the comment.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // The switches are the operators' own.
pub struct BrokerSettings {
    /// `brokerClusterName`.
    pub cluster_name: String,
    /// `brokerName`.
    pub broker_name: String,
    /// `brokerId`, 0 = master.
    pub broker_id: u64,
    /// `brokerRole`.
    pub role: BrokerRole,
    /// `brokerIP1`:`listenPort` – registered, and put into every record and message id.
    pub advertised: SocketAddr,
    /// `brokerIP2`:`haListenPort`, registered only.
    pub ha_advertised: SocketAddr,
    /// Where the main port listens.
    pub listen: SocketAddr,
    /// Where the VIP port (listenPort − 2) listens.
    pub listen_vip: SocketAddr,
    /// `namesrvAddr`, each `host:port`.
    pub namesrv_addrs: Vec<String>,
    /// `regionId`.
    pub region_id: String,
    /// `traceOn`.
    pub trace_on: bool,
    /// `traceTopicEnable`.
    pub trace_topic_enable: bool,
    /// `msgTraceTopicName`.
    pub trace_topic_name: String,
    /// `brokerPermission`.
    pub broker_permission: i32,
    /// `autoCreateTopicEnable`.
    pub auto_create_topic_enable: bool,
    /// `autoCreateSubscriptionGroup`.
    pub auto_create_subscription_group: bool,
    /// `defaultTopicQueueNums`.
    pub default_topic_queue_nums: i32,
    /// `clusterTopicEnable`.
    pub cluster_topic_enable: bool,
    /// `brokerTopicEnable`.
    pub broker_topic_enable: bool,
    /// `maxMessageSize`.
    pub message_bytes_max: usize,
    /// `enablePropertyFilter` (SQL92; not yet built).
    pub enable_property_filter: bool,
    /// `longPollingEnable`.
    pub long_polling_enable: bool,
    /// `shortPollingTimeMills`.
    pub short_polling_time_ms: u64,
    /// `notifyConsumerIdsChangedEnable`.
    pub notify_consumer_ids_changed_enable: bool,
    /// `litePullMessageEnable`.
    pub lite_pull_message_enable: bool,
    /// `rejectPullConsumerEnable`.
    pub reject_pull_consumer_enable: bool,
    /// `messageIndexEnable`.
    pub message_index_enable: bool,
    /// `useServerSideResetOffset`.
    pub use_server_side_reset_offset: bool,
    /// `maxTransferBytesOnMessageInMemory`.
    pub transfer_bytes_max_in_memory: usize,
    /// `maxTransferCountOnMessageInMemory`.
    pub transfer_count_max_in_memory: usize,
    /// `maxTransferBytesOnMessageInDisk`.
    pub transfer_bytes_max_on_disk: usize,
    /// `maxTransferCountOnMessageInDisk`.
    pub transfer_count_max_on_disk: usize,
    /// `defaultQueryMaxNum`.
    pub default_query_max_num: usize,
    /// `waitTimeMillsInSendQueue`.
    pub wait_time_in_send_queue_ms: u64,
    /// `sendThreadPoolQueueCapacity`: the bound of requests waiting for a shard.
    pub send_queue_capacity: usize,
    /// `flushDiskType`.
    pub flush_disk_type: FlushDiskType,
    /// `syncFlushTimeout`.
    pub sync_flush_timeout_ms: u64,
    /// `flushIntervalCommitLog`.
    pub flush_interval_ms: u64,
    /// `flushConsumerOffsetInterval`, at most 1,000 here.
    pub flush_consumer_offset_interval_ms: u64,
    /// `registerNameServerPeriod`, 10,000–60,000.
    pub register_name_server_period_ms: u64,
    /// `forceRegister`.
    pub force_register: bool,
    /// `compressedRegister`.
    pub compressed_register: bool,
    /// `channelExpiredTimeout`.
    pub channel_expired_timeout_ms: u64,
    /// `serverChannelMaxIdleTimeSeconds`.
    pub channel_idle_max_seconds: u64,
    /// `startAcceptSendRequestTimeStamp`.
    pub start_accept_send_request_ms: i64,
    /// `rejectTransactionMessage` (transactions are not yet built and are refused either way).
    pub reject_transaction_message: bool,
    /// `messageDelayLevel`, in ms per level.
    pub delay_levels_ms: Vec<u64>,
    /// `timerWheelEnable`: messages may be timed.
    pub timer_wheel_enable: bool,
    /// `timerMaxDelaySec`.
    pub timer_max_delay_sec: u64,
    /// `recallMessageEnable`.
    pub recall_message_enable: bool,
    /// `storePathRootDir`: the data folder.
    pub data_dir: PathBuf,
    /// `tailDir`: where the shared-memory tail lies (None: probe decides).
    pub tail_dir: Option<PathBuf>,
    /// Bytes of the tail ring of a shard.
    pub tail_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Shards of the store; of a new one as configured.
    pub shard_count: u8,
    /// Bound of all memory the broker gives to caches and windows.
    pub memory_limit_bytes: u64,
    /// The effective configuration as `key=value` lines (code 26).
    pub config_lines: Vec<(String, String)>,
}

impl BrokerSettings {
    /// Whether the broker may be written to at all by its permission.
    pub fn writable(&self) -> bool {
        self.broker_permission & 2 != 0
    }
}
