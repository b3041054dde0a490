//! What a broker is and how it behaves, as plain values.
//!
//! **Owns** the settings that the rules read; `server/config` fills them from `broker.conf`.
//! **Lives on** both planes, shared as `Arc<BrokerSettings>`; what changes live is a cell
//! (`live`), `brokerPermission` excepted, which travels through the seam.
//! **Invariants** a value here has passed its range check.
//! **Limits** none of its own.
//! **Not here** parsing, key names, defaults by key (`server/config`).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::kept_settings::KeptSettings;
use crate::live::{KeyCheck, LiveCell, LiveNumber, LiveSwitch, StartCheck};
use crate::memory_plan::{MemoryPlan, Shape};
use gantry_storage::retention::{Rules, segments_per_run};

/// `flushDiskType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDiskType {
    /// `SEND_OK` once the record is in the shared-memory tail.
    Async,
    /// `SEND_OK` once the record is written and synced.
    Sync,
}

/// When old messages go.
#[derive(Debug, Clone)]
pub struct RetentionSettings {
    /// `deleteWhen`, `fileReservedTime` and the disk's watermarks.
    pub rules: Rules,
    /// `cleanResourceInterval`.
    pub interval_ms: u64,
}

/// How the indexes are run.
#[derive(Debug, Clone, Copy)]
pub struct IndexSettings {
    /// `messageIndexEnable`.
    pub keys_enable: bool,
    /// `queueSleepSeconds`: after so long without a new record a queue gives its memory back.
    pub sleep_ms: u64,
}

/// How name servers are told of this broker and its topics.
#[derive(Debug, Clone)]
pub struct RegistrationSettings {
    /// `registerNameServerPeriod`, 10,000–60,000.
    pub period_ms: u64,
    /// `forceRegister`.
    pub is_forced: LiveSwitch,
    /// `brokerIP1` where that is a name: registered as it is, so that clients resolve it, each
    /// where it is and whenever it connects.
    pub advertised_name: Option<String>,
    /// `compressedRegister`.
    pub is_compressed: LiveSwitch,
    /// `enableSingleTopicRegister`.
    pub is_single_topic: bool,
}

impl RegistrationSettings {
    /// What they are without a word of the operator.
    #[must_use]
    pub fn stock() -> Self {
        Self {
            period_ms: 30_000,
            is_forced: true.into(),
            is_compressed: false.into(),
            advertised_name: None,
            is_single_topic: false,
        }
    }
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
    /// `brokerIP1`:`listenPort` – put into every record and message id.
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
    pub auto_create_topic_enable: LiveSwitch,
    /// `autoCreateSubscriptionGroup`.
    pub auto_create_subscription_group: LiveSwitch,
    /// `defaultTopicQueueNums`.
    pub default_topic_queue_nums: i32,
    /// `clusterTopicEnable`.
    pub cluster_topic_enable: bool,
    /// `brokerTopicEnable`.
    pub broker_topic_enable: bool,
    /// `maxMessageSize`.
    pub message_bytes_max: LiveNumber,
    /// `enablePropertyFilter` (SQL92).
    pub enable_property_filter: LiveSwitch,
    /// `longPollingEnable`.
    pub long_polling_enable: LiveSwitch,
    /// `shortPollingTimeMills`.
    pub short_polling_time_ms: LiveNumber,
    /// `notifyConsumerIdsChangedEnable`.
    pub notify_consumer_ids_changed_enable: LiveSwitch,
    /// `litePullMessageEnable`.
    pub lite_pull_message_enable: LiveSwitch,
    /// `enableMixedMessageType`.
    pub enable_mixed_message_type: bool,
    /// `rejectPullConsumerEnable`.
    pub reject_pull_consumer_enable: bool,
    /// What is indexed, and for how long in memory.
    pub index: IndexSettings,
    /// `latencyProfileEnable`.
    pub latency_profile_enable: bool,
    /// `coalesceMaxUs`: how long requests that come steadily may gather before they are read.
    pub coalesce_max_us: u64,
    /// `useServerSideResetOffset`.
    pub use_server_side_reset_offset: LiveSwitch,
    /// `maxTransferBytesOnMessageInMemory`.
    pub transfer_bytes_max_in_memory: LiveNumber,
    /// `maxTransferCountOnMessageInMemory`.
    pub transfer_count_max_in_memory: LiveNumber,
    /// `defaultQueryMaxNum`.
    pub default_query_max_num: LiveNumber,
    /// `waitTimeMillsInSendQueue`.
    pub wait_time_in_send_queue_ms: LiveNumber,
    /// `sendThreadPoolQueueCapacity`: the bound of requests waiting for a shard.
    pub send_queue_capacity: LiveNumber,
    /// `flushDiskType`.
    pub flush_disk_type: FlushDiskType,
    /// `syncFlushTimeout`.
    pub sync_flush_timeout_ms: LiveNumber,
    /// `flushIntervalCommitLog`.
    pub flush_interval_ms: u64,
    /// `flushConsumerOffsetInterval`, at most 1,000 here.
    pub flush_consumer_offset_interval_ms: u64,
    /// How name servers are told.
    pub registration: RegistrationSettings,
    /// `channelExpiredTimeout`.
    pub channel_expired_timeout_ms: LiveNumber,
    /// `serverChannelMaxIdleTimeSeconds`.
    pub channel_idle_max_seconds: u64,
    /// `startAcceptSendRequestTimeStamp`.
    pub start_accept_send_request_ms: LiveNumber,
    /// `rejectTransactionMessage`.
    pub reject_transaction_message: LiveSwitch,
    /// `transactionTimeOut`: age of a half before its first check.
    pub transaction_timeout_ms: u64,
    /// `transactionCheckInterval`: time between two checks of a half.
    pub transaction_check_interval_ms: u64,
    /// `transactionCheckMax`: checks after which a half is given up.
    pub transaction_check_max: u32,
    /// `fileReservedTime`: age at which a half is given up.
    pub transaction_age_ms_max: u64,
    /// `messageDelayLevel`, in ms per level.
    pub delay_levels_ms: Vec<u64>,
    /// `timerWheelEnable`: messages may be timed.
    pub timer_wheel_enable: bool,
    /// `timerMaxDelaySec`.
    pub timer_max_delay_sec: u64,
    /// `recallMessageEnable`.
    pub recall_message_enable: bool,
    /// `storeReplyMessageEnable`: replies to requests are stored as well as pushed.
    pub store_reply_message_enable: bool,
    /// `storePathRootDir`: the data folder.
    pub data_dir: PathBuf,
    /// `tailDir`: where the shared-memory tail lies (None: probe decides).
    pub tail_dir: Option<PathBuf>,
    /// How long messages stay, and what a filling disk does.
    pub retention: RetentionSettings,
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
    /// What `broker.conf`, or the default, says of each key.
    pub file_lines: Vec<(String, String)>,
    /// What was changed while an earlier process ran, and holds.
    pub kept: KeptSettings,
    /// The table of keys (code 25).
    pub key_check: KeyCheck,
    /// The next start (code 25).
    pub start_check: StartCheck,
}

impl IndexSettings {
    /// The defaults.
    pub const STOCK: Self = Self {
        keys_enable: true,
        sleep_ms: 600_000,
    };
}

impl RetentionSettings {
    /// RocketMQ's defaults, for segments of this size.
    pub fn stock(segment_bytes: u64) -> Self {
        Self {
            rules: Rules {
                delete_hours: vec![4],
                reserved_ms: 72 * 3_600_000,
                max_used_percent: 75,
                forced_percent: 85,
                warning_percent: 90,
                is_forcing: true,
                segments_per_run: segments_per_run(segment_bytes),
            },
            interval_ms: 10_000,
        }
    }
}

impl BrokerSettings {
    /// Where clients are told to connect.
    pub fn told_address(&self) -> String {
        match &self.registration.advertised_name {
            Some(name) => format!("{name}:{}", self.advertised.port()),
            None => self.advertised.to_string(),
        }
    }

    /// The cell of a key that changes live, by RocketMQ's name. `brokerPermission` has none: its
    /// change travels to the cores and name servers in order.
    pub fn live_cell(&self, key: &str) -> Option<LiveCell<'_>> {
        Some(match key {
            "autoCreateTopicEnable" => LiveCell::Switch(&self.auto_create_topic_enable),
            "autoCreateSubscriptionGroup" => LiveCell::Switch(&self.auto_create_subscription_group),
            "enablePropertyFilter" => LiveCell::Switch(&self.enable_property_filter),
            "longPollingEnable" => LiveCell::Switch(&self.long_polling_enable),
            "notifyConsumerIdsChangedEnable" => {
                LiveCell::Switch(&self.notify_consumer_ids_changed_enable)
            }
            "litePullMessageEnable" => LiveCell::Switch(&self.lite_pull_message_enable),
            "useServerSideResetOffset" => LiveCell::Switch(&self.use_server_side_reset_offset),
            "forceRegister" => LiveCell::Switch(&self.registration.is_forced),
            "compressedRegister" => LiveCell::Switch(&self.registration.is_compressed),
            "rejectTransactionMessage" => LiveCell::Switch(&self.reject_transaction_message),
            "maxMessageSize" => LiveCell::Number(&self.message_bytes_max),
            "shortPollingTimeMills" => LiveCell::Number(&self.short_polling_time_ms),
            "maxTransferBytesOnMessageInMemory" => {
                LiveCell::Number(&self.transfer_bytes_max_in_memory)
            }
            "maxTransferCountOnMessageInMemory" => {
                LiveCell::Number(&self.transfer_count_max_in_memory)
            }
            "defaultQueryMaxNum" => LiveCell::Number(&self.default_query_max_num),
            "waitTimeMillsInSendQueue" => LiveCell::Number(&self.wait_time_in_send_queue_ms),
            "sendThreadPoolQueueCapacity" => LiveCell::Number(&self.send_queue_capacity),
            "syncFlushTimeout" => LiveCell::Number(&self.sync_flush_timeout_ms),
            "channelExpiredTimeout" => LiveCell::Number(&self.channel_expired_timeout_ms),
            "startAcceptSendRequestTimeStamp" => {
                LiveCell::Number(&self.start_accept_send_request_ms)
            }
            _ => return None,
        })
    }

    /// What follows from `memoryLimit` on so many cores.
    pub fn memory_plan(&self, cores: u16) -> MemoryPlan {
        MemoryPlan::new(self.memory_limit_bytes, self.memory_shape(cores))
    }

    /// What memory is needed for on so many cores.
    pub fn memory_shape(&self, cores: u16) -> Shape {
        Shape {
            cores: u64::from(cores),
            shards: u64::from(self.shard_count),
            tail_bytes: self.tail_bytes,
        }
    }

    /// Whether the broker may be written to at all by its permission.
    pub fn writable(&self) -> bool {
        self.broker_permission & 2 != 0
    }
}
