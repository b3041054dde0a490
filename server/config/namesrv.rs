//! From keys to a name server's settings.
//!
//! **Owns** the rules of `namesrv.conf`.
//! **Lives on** the main thread.
//! **Invariants** the settings are complete.
//! **Limits** none of its own.
//! **Not here** what they mean (`gantry_actors::namesrv`).

use std::net::{IpAddr, SocketAddr};

use gantry_actors::live::KeyVerdict;
use gantry_actors::namesrv::settings::NamesrvSettings;

use super::values::{ConfigErrors, Values};
use super::{file, table_namesrv};

/// Everything a name server's start needs.
#[derive(Debug)]
pub struct NamesrvPlan {
    /// The settings.
    pub settings: NamesrvSettings,
    /// What the operator should know.
    pub notices: Vec<String>,
}

/// All name-server keys.
pub fn values() -> Values {
    Values::new(&[table_namesrv::NAMESRV])
}

/// What a change of a key while running comes to (code 318).
pub fn verdict(key: &str, value: &str) -> KeyVerdict {
    values().verdict(key, value)
}

/// Takes in what was changed while an earlier process ran: `configStorePath` holds the whole
/// configuration of then, as in RocketMQ.
pub fn give_kept(values: &mut Values) {
    let path = values.path("configStorePath");
    if path.is_file() {
        file::read(&path, values);
    }
}

/// Turns values into a plan.
///
/// # Errors
/// All complaints at once.
pub fn plan(values: &mut Values) -> Result<NamesrvPlan, ConfigErrors> {
    values.finish()?;
    let ip = values
        .text("bindAddress")
        .parse()
        .unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let port = u16::try_from(values.unsigned("listenPort")).unwrap_or(0);
    let settings = NamesrvSettings {
        listen: SocketAddr::new(ip, port),
        kv_config_path: values.path("kvConfigPath"),
        config_store_path: values.path("configStorePath"),
        order_message_enable: values.bool("orderMessageEnable"),
        return_order_topic_config_to_broker: values.bool("returnOrderTopicConfigToBroker"),
        enable_topic_list: values.bool("enableTopicList"),
        enable_all_topic_list: values.bool("enableAllTopicList"),
        support_acting_master: values.bool("supportActingMaster"),
        need_wait_for_service: values.bool("needWaitForService"),
        wait_for_service_ms: values.unsigned("waitSecondsForService") * 1_000,
        delete_topic_with_broker_registration: values.bool("deleteTopicWithBrokerRegistration"),
        scan_interval_ms: values.unsigned("scanNotActiveBrokerInterval"),
        channel_idle_max_seconds: values.unsigned("serverChannelMaxIdleTimeSeconds"),
        config_lines: values.lines(),
        key_check: verdict,
    };
    Ok(NamesrvPlan {
        settings,
        notices: values.take_notices(),
    })
}
