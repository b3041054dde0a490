//! One group's positions seen from another's: copied (314), compared (308).
//!
//! **Owns** both codes.
//! **Lives on** the control plane's thread.
//! **Invariants** copied positions are stored by the queue actors before the answer leaves; topics
//! that the source subscribes no more are left out unless it is said to be offline.
//! **Limits** those of `ask`.
//! **Not here** resets (`reset`).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::fastjson::Value;

use super::requests::reports;
use crate::control::groups::table::check_group_name;
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::as_wire;
use crate::refusal::Refusal;
use crate::seam::{ControlRequest, GroupReport, OFFSET_ROWS_MAX, OffsetRow, Question};

/// Whether a report's topic may be copied: it exists and, for a group that is online, is still
/// subscribed.
fn is_wanted(plane: &Plane, report: &GroupReport, offline: bool) -> bool {
    let topics = plane.topics.borrow();
    let Some(topic) = topics.name_of(report.queue.topic) else {
        return false;
    };
    offline || plane.members.borrow().reads(&report.group, topic)
}

/// Code 314.
pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let from: Arc<str> = Arc::from(reply::text(command, "srcGroup")?);
    let to = reply::text(command, "destGroup")?;
    check_group_name(to)?;
    let to: Arc<str> = Arc::from(to);
    let offline = reply::switch_or(command, "offline", false);
    let only = reply::optional(command, "topic").filter(|topic| !topic.trim().is_empty());
    let topics = match only {
        None => None,
        Some(topic) => match plane.topics.borrow().get(topic) {
            Some(entry) => Some(vec![entry.id]),
            // As in RocketMQ: nothing to copy, and no error.
            None => Some(Vec::new()),
        },
    };
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let rows: Vec<OffsetRow> = reports(&asking, Some(from), topics)
            .await?
            .into_iter()
            .filter(|report| is_wanted(&asking, report, offline))
            .map(|report| OffsetRow {
                queue: report.queue,
                group: Arc::clone(&to),
                offset: report.consumer_offset,
            })
            .collect();
        for chunk in rows.chunks(OFFSET_ROWS_MAX) {
            asking
                .asker
                .ask(Question::PutOffsets(chunk.to_vec()))
                .await?;
        }
        Ok(Reply::ok())
    });
    Ok(())
}

/// Code 308: by queue, the smallest position of any group in a topic, and the largest number there
/// is where the compared group is behind even that.
pub(super) fn correction(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let topic = reply::text(command, "topic")?;
    let compare = reply::text(command, "compareGroup")?.to_owned();
    let filtered: BTreeSet<String> = reply::optional(command, "filterGroups")
        .unwrap_or_default()
        .split(',')
        .filter(|group| !group.is_empty())
        .map(str::to_owned)
        .collect();
    let id = plane.topics.borrow().get(topic).map(|entry| entry.id);
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let reports = match id {
            Some(id) => reports(&asking, None, Some(vec![id])).await?,
            None => Vec::new(),
        };
        let mut smallest: BTreeMap<i64, i64> = BTreeMap::new();
        for report in reports.iter().filter(|row| !filtered.contains(&*row.group)) {
            let queue = i64::from(report.queue.queue.0);
            let offset = as_wire(report.consumer_offset.0);
            let least = smallest.entry(queue).or_insert(offset);
            *least = offset.min(*least);
        }
        for report in reports.iter().filter(|row| *row.group == *compare) {
            let queue = i64::from(report.queue.queue.0);
            let is_behind = |least: &i64| *least > as_wire(report.consumer_offset.0);
            if let Some(least) = smallest.get_mut(&queue).filter(|least| is_behind(least)) {
                *least = i64::MAX;
            }
        }
        let body = Value::object([("correctionOffsets", Value::map(smallest))]);
        Ok(Reply::json(&body))
    });
    Ok(())
}
