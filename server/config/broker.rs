//! From keys to a broker's settings.
//!
//! **Owns** every rule that needs more than one key, or the machine: addresses, roles, folders,
//! memory.
//! **Lives on** the main thread.
//! **Invariants** a `BrokerPlan` is complete: nothing in it is 0 or empty that the start would
//! need,
//! ports 0 (tests) excepted.
//! **Limits** none of its own.
//! **Not here** single values (`values`), opening anything (`server/broker.rs`).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use gantry_actors::kept_settings::{FILE_NAME, KeptSettings};
use gantry_actors::live::{KeyVerdict, StartCheck};
use gantry_actors::settings::{
    BrokerSettings, FlushDiskType, IndexSettings, RegistrationSettings, RetentionSettings,
};
use gantry_runtime::topology::{self, Cpus, Placement};
use gantry_storage::retention::{Rules, segments_per_run};

use super::values::{ConfigError, ConfigErrors, Origin, Values};
use super::{address, table, table_more, value};

/// The VIP port lies this far below the main one (MixAll.brokerVIPChannel, 5.5.0).
const VIP_PORT_DISTANCE: u16 = 2;

/// Written offsets wait at most this long, whatever the key says: DESIGN §4.
const OFFSET_INTERVAL_MS_MAX: u64 = 1_000;

/// RocketMQ clamps the registration period to this range (`BrokerController`, 5.5.0).
const REGISTER_PERIOD_MS: (u64, u64) = (10_000, 60_000);

/// Default bound of the memory limit.
const MEMORY_LIMIT_DEFAULT_MAX: u64 = 4 << 30;

/// Direct I/O writes whole blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// Keys whose names a plan resolves.
const RESOLVED: [&str; 2] = ["brokerIP1", "brokerIP2"];

/// Everything a broker's start needs.
#[derive(Debug)]
pub struct BrokerPlan {
    /// The settings.
    pub settings: BrokerSettings,
    /// The data cores.
    pub placements: Vec<Placement>,
    /// Whether `memoryLimit` was given, and is not what the machine came to.
    pub is_memory_given: bool,
    /// What the operator should know.
    pub notices: Vec<String>,
}

/// All broker keys.
pub fn values() -> Values {
    Values::new(&[
        table::BROKER,
        table::GANTRY,
        table_more::COMMON,
        table_more::FAR,
    ])
}

/// What a change of a key while running comes to by itself (code 25).
pub fn verdict(key: &str, value: &str) -> KeyVerdict {
    values().verdict(key, value)
}

/// The plan of a start: what the file and the command line gave, and what was changed while an
/// earlier process ran.
///
/// # Errors
/// All complaints at once.
pub fn plan_with_kept(
    values: &mut Values,
    file_lines: Vec<(String, String)>,
    memory_bytes: u64,
) -> Result<BrokerPlan, ConfigErrors> {
    let given = values.clone();
    let kept = give_kept(values, &file_lines);
    let mut plan = plan(values, memory_bytes)?;
    plan.settings.file_lines = file_lines;
    plan.settings.kept = kept;
    plan.settings.start_check = StartCheck::new(move |kept, asked| {
        would_start(given.clone(), kept, asked, memory_bytes).map_err(|errors| errors.to_string())
    });
    Ok(plan)
}

/// A start with what was given then, what is kept now, and what a request asks for (code 25).
fn would_start(
    mut values: Values,
    kept: &KeptSettings,
    asked: &[(&str, &str)],
    memory_bytes: u64,
) -> Result<(), ConfigErrors> {
    for (key, value) in kept.iter() {
        values.give(key, value, Origin::Changed);
    }
    for (key, value) in asked {
        values.give(key, value, Origin::Asked);
    }
    // Names that the request doesn't speak of were resolved at the start, and decide nothing else:
    // a resolver that is down must neither hold up nor refuse other changes.
    for key in RESOLVED {
        if values.origin(key) != Origin::Asked {
            values.forget(key);
        }
    }
    plan(&mut values, memory_bytes).map(drop)
}

/// Takes in what was changed while an earlier process ran, after the file and before the command
/// line's other options. What `broker.conf` has overtaken is forgotten, and named.
fn give_kept(values: &mut Values, file_lines: &[(String, String)]) -> KeptSettings {
    let folder = values.path("storePathRootDir");
    let mut kept = match KeptSettings::load(&folder) {
        Ok(kept) => kept,
        Err(error) => {
            values.error(ConfigError::File {
                path: folder.join(FILE_NAME).display().to_string(),
                reason: error.to_string(),
            });
            return KeptSettings::default();
        }
    };
    let file_says = |key: &str| {
        let line = file_lines.iter().find(|(name, _)| name == key);
        line.map(|(_, value)| value.clone())
    };
    for key in kept.drop_overtaken(file_says) {
        values.notice(format!(
            "{key}: broker.conf has changed since updateBrokerConfig set it, and wins"
        ));
    }
    for (key, value) in kept.iter() {
        values.give(key, value, Origin::Changed);
    }
    kept
}

/// Turns values into a plan. `memory_bytes` is what the machine or its cgroup has.
///
/// # Errors
/// All complaints at once.
pub fn plan(values: &mut Values, memory_bytes: u64) -> Result<BrokerPlan, ConfigErrors> {
    let listen = listen(values);
    let advertised = advertised(values, "brokerIP1", listen.ip());
    check_role(values);
    check_commit_log_path(values);
    check_ratios(values);
    let placements = placements(values);
    values.finish()?;
    let ha_ip = match values.text("brokerIP2") {
        "auto" => advertised,
        _ => advertised_or_complain(values, "brokerIP2", advertised),
    };
    values.finish()?;
    if values.origin("namesrvAddr") == Origin::Default {
        let notice = "no namesrvAddr: the broker registers nowhere, and clients can't find it";
        values.notice(notice.into());
    }
    if !advertised.is_ipv4() {
        values.notice(format!(
            "brokerIP1={advertised}: some clients (Go, old C++) understand IPv4 addresses only"
        ));
    }
    let vip_port = listen.port().saturating_sub(VIP_PORT_DISTANCE);
    let places = Places {
        listen,
        listen_vip: SocketAddr::new(listen.ip(), vip_port),
        advertised: SocketAddr::new(advertised, listen.port()),
        ha_advertised: SocketAddr::new(ha_ip, ha_port(values, listen.port())),
        cores: placements.len(),
        memory_bytes,
    };
    let mut settings = settings(values, &places);
    let is_memory_given = values.unsigned("memoryLimit") > 0;
    if let Err(reason) = fit_memory(&mut settings, placements.len(), is_memory_given) {
        let limit = values.text("memoryLimit").to_owned();
        let origin = values.origin("memoryLimit");
        values.refuse("memoryLimit", &limit, origin, &reason);
    }
    values.finish()?;
    Ok(BrokerPlan {
        settings,
        placements,
        is_memory_given,
        notices: values.take_notices(),
    })
}

/// What several keys and the machine decide together.
struct Places {
    listen: SocketAddr,
    listen_vip: SocketAddr,
    advertised: SocketAddr,
    ha_advertised: SocketAddr,
    cores: usize,
    memory_bytes: u64,
}

/// One line per field: a table in the shape of a literal.
fn settings(values: &Values, places: &Places) -> BrokerSettings {
    BrokerSettings {
        cluster_name: values.text("brokerClusterName").to_owned(),
        broker_name: match values.text("brokerName") {
            "auto" => address::host_name(),
            name => name.to_owned(),
        },
        broker_id: values.unsigned("brokerId"),
        advertised: places.advertised,
        ha_advertised: places.ha_advertised,
        listen: places.listen,
        listen_vip: places.listen_vip,
        namesrv_addrs: value::read_addresses(values.text("namesrvAddr")).unwrap_or_default(),
        region_id: values.text("regionId").to_owned(),
        trace_on: values.bool("traceOn"),
        trace_topic_enable: values.bool("traceTopicEnable"),
        trace_topic_name: values.text("msgTraceTopicName").to_owned(),
        broker_permission: values.int32("brokerPermission"),
        auto_create_topic_enable: values.bool("autoCreateTopicEnable").into(),
        auto_create_subscription_group: values.bool("autoCreateSubscriptionGroup").into(),
        default_topic_queue_nums: values.int32("defaultTopicQueueNums"),
        cluster_topic_enable: values.bool("clusterTopicEnable"),
        broker_topic_enable: values.bool("brokerTopicEnable"),
        message_bytes_max: values.count("maxMessageSize").into(),
        enable_property_filter: values.bool("enablePropertyFilter").into(),
        long_polling_enable: values.bool("longPollingEnable").into(),
        short_polling_time_ms: values.unsigned("shortPollingTimeMills").into(),
        notify_consumer_ids_changed_enable: values.bool("notifyConsumerIdsChangedEnable").into(),
        lite_pull_message_enable: values.bool("litePullMessageEnable").into(),
        enable_mixed_message_type: values.bool("enableMixedMessageType"),
        reject_pull_consumer_enable: values.bool("rejectPullConsumerEnable"),
        index: IndexSettings {
            keys_enable: values.bool("messageIndexEnable"),
            sleep_ms: values.unsigned("queueSleepSeconds") * 1000,
        },
        latency_profile_enable: values.bool("latencyProfileEnable"),
        coalesce_max_us: values.unsigned("coalesceMaxUs"),
        use_server_side_reset_offset: values.bool("useServerSideResetOffset").into(),
        transfer_bytes_max_in_memory: values.count("maxTransferBytesOnMessageInMemory").into(),
        transfer_count_max_in_memory: values.count("maxTransferCountOnMessageInMemory").into(),
        default_query_max_num: values.count("defaultQueryMaxNum").into(),
        wait_time_in_send_queue_ms: values.unsigned("waitTimeMillsInSendQueue").into(),
        send_queue_capacity: values.count("sendThreadPoolQueueCapacity").into(),
        flush_disk_type: match values.text("flushDiskType") {
            "SYNC_FLUSH" => FlushDiskType::Sync,
            _ => FlushDiskType::Async,
        },
        sync_flush_timeout_ms: values.unsigned("syncFlushTimeout").into(),
        flush_interval_ms: values.unsigned("flushIntervalCommitLog"),
        flush_consumer_offset_interval_ms: values
            .unsigned("flushConsumerOffsetInterval")
            .min(OFFSET_INTERVAL_MS_MAX),
        registration: RegistrationSettings {
            period_ms: values
                .unsigned("registerNameServerPeriod")
                .clamp(REGISTER_PERIOD_MS.0, REGISTER_PERIOD_MS.1),
            is_forced: values.bool("forceRegister").into(),
            is_compressed: values.bool("compressedRegister").into(),
            advertised_name: name_of(values, "brokerIP1"),
            is_single_topic: values.bool("enableSingleTopicRegister"),
        },
        channel_expired_timeout_ms: values.unsigned("channelExpiredTimeout").into(),
        channel_idle_max_seconds: values.unsigned("serverChannelMaxIdleTimeSeconds"),
        start_accept_send_request_ms: values.unsigned("startAcceptSendRequestTimeStamp").into(),
        reject_transaction_message: values.bool("rejectTransactionMessage").into(),
        transaction_timeout_ms: values.unsigned("transactionTimeOut"),
        transaction_check_interval_ms: values.unsigned("transactionCheckInterval"),
        transaction_check_max: u32::try_from(values.unsigned("transactionCheckMax"))
            .unwrap_or(u32::MAX),
        transaction_age_ms_max: values.unsigned("fileReservedTime").saturating_mul(HOUR_MS),
        delay_levels_ms: value::read_delays_ms(values.text("messageDelayLevel"))
            .unwrap_or_default(),
        timer_wheel_enable: values.bool("timerWheelEnable"),
        timer_max_delay_sec: values.unsigned("timerMaxDelaySec"),
        recall_message_enable: values.bool("recallMessageEnable"),
        store_reply_message_enable: values.bool("storeReplyMessageEnable"),
        data_dir: values.path("storePathRootDir"),
        retention: retention(values),
        tail_dir: path_or_auto(values, "tailDir"),
        tail_bytes: values.unsigned("tailBytes").next_multiple_of(BLOCK_BYTES),
        segment_bytes: values
            .unsigned("mappedFileSizeCommitLog")
            .next_multiple_of(BLOCK_BYTES),
        shard_count: match values.unsigned("shardCount") {
            0 => u8::try_from(places.cores).unwrap_or(u8::MAX),
            count => u8::try_from(count).unwrap_or(u8::MAX),
        },
        memory_limit_bytes: match values.unsigned("memoryLimit") {
            0 => (places.memory_bytes / 4).min(MEMORY_LIMIT_DEFAULT_MAX),
            bytes => bytes,
        },
        config_lines: shown(values, places),
        file_lines: Vec::new(),
        kept: KeptSettings::default(),
        key_check: verdict,
        start_check: StartCheck::default(),
    }
}

/// Sees to it that `memoryLimit` leaves room for everything on so many cores: where none is given,
/// it is never less than what they need, for they would use it all the same.
///
/// # Errors
/// It was given, and what is needed.
pub fn fit_memory(
    settings: &mut BrokerSettings,
    cores: usize,
    is_given: bool,
) -> Result<(), String> {
    let shape = settings.memory_shape(u16::try_from(cores).unwrap_or(u16::MAX));
    let least = shape.limit_bytes_min();
    if settings.memory_limit_bytes >= least {
        return Ok(());
    }
    if !is_given {
        settings.memory_limit_bytes = least;
        return Ok(());
    }
    Err(format!(
        "{cores} data cores and {} shards with tails of {}M need at least {}M; give that, or fewer \
         cores, or a new store a smaller shardCount",
        shape.shards,
        shape.tail_bytes >> 20,
        least >> 20
    ))
}

/// The ratios within RocketMQ's own bounds (`CleanCommitLogService`, 5.5.0).
const MAX_USED_PERCENT: (u64, u64) = (10, 95);
const FORCED_PERCENT: (u64, u64) = (30, 85);
const WARNING_PERCENT: (u64, u64) = (35, 90);
const HOUR_MS: u64 = 3_600_000;

fn retention(values: &Values) -> RetentionSettings {
    let percent = |key, (low, high)| values.unsigned(key).clamp(low, high);
    RetentionSettings {
        rules: Rules {
            delete_hours: value::read_hours(values.text("deleteWhen")).unwrap_or_default(),
            reserved_ms: values.unsigned("fileReservedTime").saturating_mul(HOUR_MS),
            max_used_percent: percent("diskMaxUsedSpaceRatio", MAX_USED_PERCENT),
            forced_percent: percent("diskSpaceCleanForciblyRatio", FORCED_PERCENT),
            warning_percent: percent("diskSpaceWarningLevelRatio", WARNING_PERCENT),
            is_forcing: values.bool("cleanFileForciblyEnable"),
            segments_per_run: segments_per_run(values.unsigned("mappedFileSizeCommitLog")),
        },
        interval_ms: values.unsigned("cleanResourceInterval"),
    }
}

/// Says so when a ratio is not what the file says.
fn check_ratios(values: &mut Values) {
    let bounds = [
        ("diskMaxUsedSpaceRatio", MAX_USED_PERCENT),
        ("diskSpaceCleanForciblyRatio", FORCED_PERCENT),
        ("diskSpaceWarningLevelRatio", WARNING_PERCENT),
    ];
    for (key, (low, high)) in bounds {
        let given = values.unsigned(key);
        let used = given.clamp(low, high);
        if used != given {
            values.notice(format!(
                "{key}={given}: {used} is used, RocketMQ bounds it to {low}-{high} as well"
            ));
        }
    }
}

/// What code 26 shows: tools read the broker's name and addresses there, so what `auto` came to.
fn shown(values: &Values, places: &Places) -> Vec<(String, String)> {
    let mut lines = values.lines();
    for (key, value) in lines.iter_mut().filter(|(_, value)| value == "auto") {
        *value = match key.as_str() {
            "brokerName" => address::host_name(),
            "brokerIP1" => places.advertised.ip().to_string(),
            "brokerIP2" => places.ha_advertised.ip().to_string(),
            "haListenPort" => places.ha_advertised.port().to_string(),
            _ => continue,
        };
    }
    lines
}

fn listen(values: &Values) -> SocketAddr {
    let ip = values
        .text("bindAddress")
        .parse()
        .unwrap_or(IpAddr::from([0, 0, 0, 0]));
    SocketAddr::new(
        ip,
        u16::try_from(values.unsigned("listenPort")).unwrap_or(0),
    )
}

fn ha_port(values: &Values, listen_port: u16) -> u16 {
    match values.text("haListenPort") {
        "auto" => listen_port.saturating_add(1),
        _ => u16::try_from(values.unsigned("haListenPort")).unwrap_or(0),
    }
}

/// What clients are told: the key, else the one address we listen on, else the first of the
/// machine.
fn advertised(values: &mut Values, key: &str, listen: IpAddr) -> IpAddr {
    if values.text(key) != "auto" {
        return advertised_or_complain(values, key, listen);
    }
    if listen.is_unspecified() {
        return address::first_ipv4().into();
    }
    listen
}

/// What is given for an address, where that is a name.
fn name_of(values: &Values, key: &str) -> Option<String> {
    let host = values.text(key);
    let is_name = host != "auto" && host.parse::<IpAddr>().is_err();
    is_name.then(|| host.to_owned())
}

fn advertised_or_complain(values: &mut Values, key: &str, otherwise: IpAddr) -> IpAddr {
    let host = values.text(key).to_owned();
    let problem = match address::resolve(&host) {
        Ok(ip) if ip.is_unspecified() => "clients cannot connect to it".to_owned(),
        Ok(ip) => return ip,
        Err(error) => format!("it does not resolve ({error})"),
    };
    let origin = values.origin(key);
    let reason = format!("{problem}; give an address that clients reach this broker by");
    values.refuse(key, &host, origin, &reason);
    otherwise
}

fn check_role(values: &mut Values) {
    let origin = values.origin("brokerRole");
    match values.text("brokerRole") {
        "SLAVE" => values.refuse(
            "brokerRole",
            "SLAVE",
            origin,
            "replication is not built yet; run a master, or leave this slave to Apache",
        ),
        "SYNC_MASTER" if values.int("inSyncReplicas") > 1 => {
            let wanted = values.text("inSyncReplicas").to_owned();
            let origin = values.origin("inSyncReplicas");
            values.refuse(
                "inSyncReplicas",
                &wanted,
                origin,
                "SYNC_MASTER would wait for slaves, and replication is not built yet; set 1",
            );
        }
        "SYNC_MASTER" => values.notice(format!(
            "{origin}: SYNC_MASTER with inSyncReplicas=1 waits for no slave, as in RocketMQ"
        )),
        _ => {}
    }
}

/// The log of a shard lies below the root; a path of its own can't be honoured, and silently
/// writing to another disk than the operator named would be worse than refusing.
fn check_commit_log_path(values: &mut Values) {
    let path = values.text("storePathCommitLog").to_owned();
    let root = values.path("storePathRootDir");
    if path == "auto" || super::values::expand_home(&path) == root.join("commitlog") {
        return;
    }
    let origin = values.origin("storePathCommitLog");
    let reason = format!(
        "Gantry keeps its logs below storePathRootDir ({}); remove this key and point \
         storePathRootDir at the disk you mean",
        root.display()
    );
    values.refuse("storePathCommitLog", &path, origin, &reason);
}

fn placements(values: &mut Values) -> Vec<Placement> {
    let text = values.text("cores").to_owned();
    let wish = (text != "auto").then_some(text.as_str());
    topology::plan_cores(wish, &Cpus::of_process()).unwrap_or_else(|error| {
        let origin = values.origin("cores");
        values.refuse("cores", &text, origin, &error.to_string());
        topology::unbound(1)
    })
}

fn path_or_auto(values: &Values, key: &str) -> Option<PathBuf> {
    (values.text(key) != "auto").then(|| values.path(key))
}

/// A line for the operator when the folder holds an Apache store, which Gantry leaves alone.
pub fn apache_store_notice(data_dir: &Path) -> Option<String> {
    data_dir.join("commitlog").is_dir().then(|| {
        format!(
            "{} holds an Apache RocketMQ store; Gantry neither reads nor changes it and starts its \
             own beside",
            data_dir.display()
        )
    })
}
