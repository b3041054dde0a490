//! The table of code 28: what mqadmin and the dashboard show of a broker.
//!
//! **Owns** its keys and how each value is spelled.
//! **Lives on** the control plane's thread; pure apart from reading memory figures.
//! **Invariants** every key that clusterList, brokerStatus and the dashboard parse is there, with a
//! value of the form they parse (behaviours §20, trap 94).
//! **Limits** none of its own.
//! **Not here** counting (the cores), windows and mornings (`stats`).

use std::collections::BTreeMap;

use gantry_protocol::body::KvTable;
use gantry_protocol::command::VERSION;
use gantry_runtime::probe::disk_space;

use crate::control::admin::stats::rates::Triple;
use crate::control::plane::Plane;
use crate::control::reply::Reply;
use crate::control::supervision::tree::PartReport;
use crate::control::supervisors::delay::requests::pending_timers;
use crate::seam::StoreReport;

/// The release whose wire this broker speaks.
const VERSION_NAME: &str = "V5_5_0";

/// Figures of mechanisms that this broker doesn't have: requests wait in one inbox per shard, which
/// the send queue's figures stand for, and nothing is locked or dispatched later.
const ZEROS: [&str; 17] = [
    "pullThreadPoolQueueSize",
    "litePullThreadPoolQueueSize",
    "ackThreadPoolQueueSize",
    "queryThreadPoolQueueSize",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "pageCacheLockTimeMills",
    "dispatchBehindBytes",
    "dispatchMaxBuffer",
    "timerReadBehind",
    "timerOffsetBehind",
    "putMessageFailedTimes",
    "remainTransientStoreBufferNumbs",
];

/// Three rates, as RocketMQ gives them for 10 s, 1 min and 10 min.
fn triple(rates: Triple) -> String {
    rates.map(|rate| format!("{rate:.2}")).join(" ")
}

/// The whole answer.
pub(super) fn reply(plane: &Plane, report: &StoreReport) -> Reply {
    let table = table(plane, report);
    Reply::json(&KvTable { table }.to_value())
}

fn table(plane: &Plane, report: &StoreReport) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    set("brokerVersionDesc", VERSION_NAME.to_owned());
    set("brokerVersion", VERSION.to_string());
    for key in ZEROS {
        set(key, "0".to_owned());
    }
    // Timers that are pending: 5.5.0 counts what its wheel holds.
    set("timerCongestNum", pending_timers(plane).to_string());
    set("timerEnqueueTps", "0.0".to_owned());
    set("timerDequeueTps", "0.0".to_owned());
    let capacity = plane.settings.send_queue_capacity.get().to_string();
    for queue in ["send", "pull", "litePull", "query", "ack"] {
        set(&format!("{queue}ThreadPoolQueueCapacity"), capacity.clone());
    }
    set("sendThreadPoolQueueSize", report.waiting_count.to_string());
    set(
        "sendThreadPoolQueueHeadWaitTimeMills",
        report.waiting_ms.to_string(),
    );
    let earliest = if report.earliest_ms == 0 {
        "-1".to_owned()
    } else {
        report.earliest_ms.to_string()
    };
    set("earliestMessageTimeStamp", earliest);
    set("brokerActive", "true".to_owned());
    set("bootTimestamp", plane.boot_ms.to_string());
    let now_ms = plane.now_ms();
    set("runtime", runtime_text(now_ms - plane.boot_ms));
    set(
        "startAcceptSendRequestTimeStamp",
        plane
            .settings
            .start_accept_send_request_ms
            .get()
            .to_string(),
    );
    set(
        "producerAndConsumerConnections",
        plane.members.borrow().peers_count().to_string(),
    );
    set("commitLogMaxOffset", report.staged_bytes.to_string());
    set("commitLogMinOffset", "0".to_owned());
    counters(plane, report, now_ms, &mut table);
    supervisors(plane, &mut table);
    disk(plane, &mut table);
    table
}

/// Totals, rates, and the mornings' totals.
fn counters(
    plane: &Plane,
    report: &StoreReport,
    now_ms: i64,
    table: &mut BTreeMap<String, String>,
) {
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    let rates = plane.stats.borrow().rates(now_ms);
    set("putTps", triple(rates.put));
    set("getFoundTps", triple(rates.found));
    set("getMissTps", triple(rates.missed));
    set("getTransferredTps", triple(rates.transferred));
    let [found, missed] = [rates.found, rates.missed];
    let total = std::array::from_fn(|at| {
        let of = |triple: &Triple| triple.get(at).copied().unwrap_or_default();
        of(&found) + of(&missed)
    });
    set("getTotalTps", triple(total));
    let [now, today, yesterday] = plane.stats.borrow_mut().days(now_ms);
    set("msgPutTotalTodayNow", now.put.to_string());
    set("msgGetTotalTodayNow", now.got.to_string());
    set("msgPutTotalTodayMorning", today.put.to_string());
    set("msgGetTotalTodayMorning", today.got.to_string());
    set("msgPutTotalYesterdayMorning", yesterday.put.to_string());
    set("msgGetTotalYesterdayMorning", yesterday.got.to_string());
    let totals = &report.totals;
    set("putMessageTimesTotal", totals.put_count.to_string());
    set("putMessageSizeTotal", totals.put_bytes.to_string());
    let average = totals.put_bytes / totals.put_count.max(1);
    set("putMessageAverageSize", format!("{average}.0"));
    let pulls = totals.found_count + totals.missed_count;
    set("getTimesTotal", pulls.to_string());
    set(
        "getMessageTransferredMsgCount",
        totals.got_count.to_string(),
    );
}

/// Where the log ends and how full its disk is.
fn disk(plane: &Plane, table: &mut BTreeMap<String, String>) {
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    let space = disk_space(&plane.settings.data_dir);
    let ratio = space.map_or("-1".to_owned(), |space| {
        format!("{:.4}", space.used_ratio())
    });
    set("commitLogDiskRatio", ratio.clone());
    set("consumeQueueDiskRatio", ratio);
    if let Some(space) = space {
        let gib = |bytes: u64| format!("{}.0 GiB", bytes >> 30);
        let (total, free) = (gib(space.total_bytes), gib(space.free_bytes));
        set(
            "commitLogDirCapacity",
            format!("Total : {total}, Free : {free}."),
        );
    }
}

/// Spelled as RocketMQ's `BrokerStats`.
fn runtime_text(up_ms: i64) -> String {
    let seconds = up_ms.max(0) / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]")
}

/// The parts of the control plane: a sentence for people, and a key for each column of
/// `gantry admin supervisors`. A cause may hold any text, so each has a key of its own.
fn supervisors(plane: &Plane, table: &mut BTreeMap<String, String>) {
    let parts = plane.tree.report();
    let column = |cell: &dyn Fn(&PartReport) -> String| {
        let cells = parts
            .iter()
            .map(|part| format!("{}:{}", part.name, cell(part)));
        cells.collect::<Vec<_>>().join(" ")
    };
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    set(
        "controlPlaneStates",
        column(&|part| part.state.word().to_owned()),
    );
    set(
        "controlPlaneRestarts",
        column(&|part| part.restarts.to_string()),
    );
    set(
        "controlPlaneBacklogs",
        column(&|part| part.backlog.to_string()),
    );
    let sentences: Vec<String> = parts.iter().map(sentence).collect();
    set("controlPlaneParts", sentences.join("; "));
    for part in &parts {
        if let Some(cause) = &part.last_failure {
            set(&format!("controlPlaneFailure.{}", part.name), cause.clone());
        }
    }
}

/// What a part is doing, and why it was last made anew.
fn sentence(part: &PartReport) -> String {
    let (name, state) = (part.name, part.state.word());
    let mut text = format!("{name}: {state}, {} to do", part.backlog);
    if let Some(cause) = &part.last_failure {
        text.push_str(", last failed by ");
        text.push_str(cause);
    }
    text
}
