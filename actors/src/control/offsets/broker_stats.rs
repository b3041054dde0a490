//! How far every group of this broker is behind (code 317).
//!
//! **Owns** the answer's shape (`ConsumeStatsList`, 5.5.0).
//! **Lives on** the control plane's thread.
//! **Invariants** one table a group and topic; topics that a live group subscribes no more are left
//! out, as by RocketMQ.
//! **Limits** those of `ask`.
//! **Not here** one group's progress (`requests`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::ConsumeStats;
use gantry_protocol::fastjson::Value;
use gantry_storage::units::TopicId;

use super::requests::{bounds, stats, timed_reports};
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::write_queues;
use crate::refusal::Refusal;
use crate::seam::{ControlRequest, GroupReport, QueueReport};

/// Positions by group and topic.
type ByTopic<'r> = BTreeMap<Arc<str>, BTreeMap<String, Vec<&'r GroupReport>>>;

pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    reply::text(&asked.command, "isOrder")?;
    let only_ordered = reply::switch_or(&asked.command, "isOrder", false);
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let positions = timed_reports(&asking, None).await?;
        let by_topic = sorted(&asking, &positions, only_ordered);
        let topics: BTreeSet<&String> = by_topic.values().flat_map(BTreeMap::keys).collect();
        let queues = {
            let table = asking.topics.borrow();
            let entries = topics.iter().filter_map(|topic| table.get(topic));
            entries.flat_map(|entry| write_queues(entry)).collect()
        };
        let bounds = bounds(&asking, queues).await?;
        Ok(Reply::json(&body(&asking, &by_topic, &bounds)))
    });
    Ok(())
}

fn sorted<'r>(plane: &Plane, positions: &'r [GroupReport], only_ordered: bool) -> ByTopic<'r> {
    let (table, members) = (plane.topics.borrow(), plane.members.borrow());
    let mut by_topic = ByTopic::new();
    for (group, _) in plane.groups.borrow().iter() {
        by_topic.insert(Arc::clone(group), BTreeMap::new());
    }
    for report in positions {
        let Some(topic) = table.name_of(report.queue.topic) else {
            continue;
        };
        let is_ordered = table.get(topic).is_some_and(|entry| entry.config.order);
        let is_read = members.reads(&report.group, topic);
        if is_read && (is_ordered || !only_ordered) {
            let group = by_topic.entry(Arc::clone(&report.group)).or_default();
            group.entry(topic.to_owned()).or_default().push(report);
        }
    }
    by_topic
}

fn body(plane: &Plane, by_topic: &ByTopic<'_>, bounds: &[QueueReport]) -> Value {
    let mut queues: HashMap<TopicId, Vec<QueueReport>> = HashMap::new();
    for row in bounds {
        queues.entry(row.queue.topic).or_default().push(*row);
    }
    let (counted, now_ms) = (plane.stats.borrow(), plane.now_ms());
    let mut behind = 0;
    let mut in_flight = 0;
    let mut list = Vec::new();
    for (group, topics) in by_topic {
        let mut tables = Vec::new();
        for (topic, rows) in topics {
            let Some(entry) = plane.topics.borrow().get(topic).cloned() else {
                continue;
            };
            let own = queues.get(&entry.id).map_or(&[][..], Vec::as_slice);
            let rows: Vec<GroupReport> = rows.iter().map(|row| (*row).clone()).collect();
            let mut table = stats(plane, own, &rows);
            table.consume_tps = counted.get_tps(now_ms, topic, group);
            let (lag, pulled) = differences(&table);
            behind += lag;
            in_flight += pulled;
            tables.push(table.to_value());
        }
        list.push(Value::map([(group.to_string(), Value::list(tables))]));
    }
    Value::object([
        ("brokerAddr", plane.settings.told_address().into()),
        ("consumeStatsList", Value::list(list)),
        ("totalDiff", behind.into()),
        ("totalInflightDiff", in_flight.into()),
    ])
}

/// Messages not yet consumed, and those pulled and not yet consumed.
fn differences(table: &ConsumeStats) -> (i64, i64) {
    let rows = table.queues.values();
    rows.fold((0, 0), |(lag, pulled), row| {
        (
            lag + row.broker_offset - row.consumer_offset,
            pulled + (row.pull_offset - row.consumer_offset).max(0),
        )
    })
}
