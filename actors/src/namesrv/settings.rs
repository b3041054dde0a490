//! What a name server is and how it behaves, as plain values.
//!
//! **Owns** the settings that the name server's rules read, and which of them change live.
//! **Lives on** the control plane.
//! **Invariants** a value here has passed its range check.
//! **Limits** none of its own.
//! **Not here** parsing files, defaults by key (`server/config`).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::live::KeyCheck;

/// A name server's settings; the key of `RocketMQ` in the comment.
#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own")]
#[derive(Debug, Clone)]
pub struct NamesrvSettings {
    /// `bindAddress`:`listenPort`.
    pub listen: SocketAddr,
    /// `kvConfigPath`.
    pub kv_config_path: PathBuf,
    /// `configStorePath`: where changes by code 318 are kept.
    pub config_store_path: PathBuf,
    /// `orderMessageEnable`: routes carry `orderTopicConf`.
    pub order_message_enable: bool,
    /// `returnOrderTopicConfigToBroker`: a registration's reply carries the table
    /// `ORDER_TOPIC_CONFIG`.
    pub return_order_topic_config_to_broker: bool,
    /// `enableTopicList`: 224, 304, 311–313 are answered.
    pub enable_topic_list: bool,
    /// `enableAllTopicList`: 206 is answered.
    pub enable_all_topic_list: bool,
    /// `supportActingMaster`: the smallest slave is shown as master when none lives.
    pub support_acting_master: bool,
    /// `needWaitForService`: routes are refused for `wait_for_service_ms` after the start.
    pub need_wait_for_service: bool,
    /// `waitSecondsForService`, in ms.
    pub wait_for_service_ms: u64,
    /// `deleteTopicWithBrokerRegistration`: a full registration removes topics it doesn't name.
    pub delete_topic_with_broker_registration: bool,
    /// `scanNotActiveBrokerInterval`.
    pub scan_interval_ms: u64,
    /// `serverChannelMaxIdleTimeSeconds`.
    pub channel_idle_max_seconds: u64,
    /// The effective configuration as `key=value` lines (code 319).
    pub config_lines: Vec<(String, String)>,
    /// The table of keys (code 318).
    pub key_check: KeyCheck,
}

impl NamesrvSettings {
    /// The switches that code 318 may change, by RocketMQ's key.
    pub fn switch_mut(&mut self, key: &str) -> Option<&mut bool> {
        Some(match key {
            "orderMessageEnable" => &mut self.order_message_enable,
            "returnOrderTopicConfigToBroker" => &mut self.return_order_topic_config_to_broker,
            "enableTopicList" => &mut self.enable_topic_list,
            "enableAllTopicList" => &mut self.enable_all_topic_list,
            "supportActingMaster" => &mut self.support_acting_master,
            "deleteTopicWithBrokerRegistration" => &mut self.delete_topic_with_broker_registration,
            _ => return None,
        })
    }
}
