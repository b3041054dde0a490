//! The table of code 28: what mqadmin and the dashboard show of a broker.
//!
//! **Owns** its keys and how each value is spelled.
//! **Lives on** the control plane's thread; pure apart from reading memory figures.
//! **Invariants** every key that clusterList, brokerStatus and the dashboard parse is there, with a
//! value of the form they parse (behaviours §20, trap 94).
//! **Limits** rates are averages since the previous request.
//! **Not here** counting (the cores).

use std::collections::BTreeMap;

use gantry_protocol::body::KvTable;
use gantry_protocol::command::VERSION;

use crate::control::plane::Plane;
use crate::control::reply::Reply;
use crate::seam::StoreReport;

/// The release whose wire this broker speaks.
const VERSION_NAME: &str = "V5_5_0";

/// Figures of mechanisms that this broker doesn't have or doesn't count yet.
const ZEROS: [&str; 25] = [
    "msgPutTotalTodayMorning",
    "msgPutTotalYesterdayMorning",
    "msgGetTotalTodayMorning",
    "msgGetTotalYesterdayMorning",
    "sendThreadPoolQueueSize",
    "pullThreadPoolQueueSize",
    "litePullThreadPoolQueueSize",
    "ackThreadPoolQueueSize",
    "queryThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "pageCacheLockTimeMills",
    "dispatchBehindBytes",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "getTimesTotal",
    "putMessageFailedTimes",
    "remainHowManyDataToFlush",
    "remainTransientStoreBufferNumbs",
];

/// Totals at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, ms.
    pub at_ms: i64,
    /// Totals of all cores.
    pub total: StoreReport,
}

/// Events a second between two samples.
fn rate(before: u64, after: u64, elapsed_ms: i64) -> f64 {
    let events = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
    let elapsed = u32::try_from(elapsed_ms.max(1)).unwrap_or(u32::MAX);
    f64::from(events) * 1000.0 / f64::from(elapsed)
}

/// Three rates, as RocketMQ gives them for 10 s, 1 min and 10 min; here one average for all.
fn triple(rate: f64) -> String {
    format!("{rate:.2} {rate:.2} {rate:.2}")
}

/// The whole answer.
pub(super) fn reply(plane: &Plane, last: Option<Sample>, now: Sample) -> Reply {
    Reply::json(
        &KvTable {
            table: table(plane, last, now),
        }
        .to_value(),
    )
}

pub(super) fn table(plane: &Plane, last: Option<Sample>, now: Sample) -> BTreeMap<String, String> {
    let base = last.unwrap_or(Sample {
        at_ms: plane.boot_ms,
        total: StoreReport::default(),
    });
    let elapsed = now.at_ms - base.at_ms;
    let put = rate(base.total.put_count, now.total.put_count, elapsed);
    let get = rate(base.total.get_count, now.total.get_count, elapsed);
    let mut table = BTreeMap::new();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    set("brokerVersionDesc", VERSION_NAME.to_owned());
    set("brokerVersion", VERSION.to_string());
    set("putTps", triple(put));
    for key in ["getTransferredTps", "getFoundTps", "getTotalTps"] {
        set(key, triple(get));
    }
    set("getMissTps", triple(0.0));
    for key in ZEROS {
        set(key, "0".to_owned());
    }
    for key in [
        "timerEnqueueTps",
        "timerDequeueTps",
        "commitLogDiskRatio",
        "consumeQueueDiskRatio",
    ] {
        set(key, "0.0".to_owned());
    }
    let capacity = plane.settings.send_queue_capacity.to_string();
    set("sendThreadPoolQueueCapacity", capacity.clone());
    set("pullThreadPoolQueueCapacity", capacity.clone());
    set("ackThreadPoolQueueCapacity", capacity);
    set("msgPutTotalTodayNow", now.total.put_count.to_string());
    set("msgGetTotalTodayNow", now.total.get_count.to_string());
    set("putMessageTimesTotal", now.total.put_count.to_string());
    set(
        "getMessageTransferredMsgCount",
        now.total.get_count.to_string(),
    );
    set("commitLogMaxOffset", now.total.staged_bytes.to_string());
    set("commitLogMinOffset", "0".to_owned());
    let earliest = if now.total.earliest_ms == 0 {
        "-1".to_owned()
    } else {
        now.total.earliest_ms.to_string()
    };
    set("earliestMessageTimeStamp", earliest);
    set("brokerActive", "true".to_owned());
    set("bootTimestamp", plane.boot_ms.to_string());
    set("runtime", runtime_text(now.at_ms - plane.boot_ms));
    set(
        "startAcceptSendRequestTimeStamp",
        plane.settings.start_accept_send_request_ms.to_string(),
    );
    set(
        "producerAndConsumerConnections",
        plane.members.borrow().peers_count().to_string(),
    );
    set("controlPlaneRestarts", restarts(plane));
    table
}

/// Spelled as RocketMQ's `BrokerStats`.
fn runtime_text(up_ms: i64) -> String {
    let seconds = up_ms.max(0) / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]")
}

fn restarts(plane: &Plane) -> String {
    let parts: Vec<String> = plane
        .tree
        .report()
        .iter()
        .map(|part| format!("{}:{}", part.name, part.restarts))
        .collect();
    parts.join(" ")
}
