//! Questions about the progress of groups.
//!
//! **Owns** codes 43 and 208, and the dispatch of this actor's codes.
//! **Lives on** the control plane's thread.
//! **Invariants** figures come from the queue actors, not from the tables.
//! **Limits** those of `ask`.
//! **Not here** resets (`reset`).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{ConsumeStats, ConsumerOffsets, MessageQueue, QueueConsumeStats};
use gantry_protocol::code::{request, response};
use gantry_storage::units::{QueueKey, TopicId};

use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::{as_wire, read_queues};
use crate::refusal::Refusal;
use crate::seam::{Answer, ControlRequest, GroupReport, Question, QueueReport, TopicEntry};

/// Answers one request of this actor's codes.
pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) {
    let outcome = match asked.command.code {
        request::GET_ALL_CONSUMER_OFFSET => {
            all_offsets(asked, plane);
            Ok(())
        }
        request::GET_CONSUME_STATS => consume_stats(asked, plane),
        request::INVOKE_BROKER_TO_RESET_OFFSET => super::reset::serve(asked, plane),
        request::QUERY_CONSUME_TIME_SPAN => super::time_span::serve(asked, plane),
        request::QUERY_CORRECTION_OFFSET => super::clone::correction(asked, plane),
        request::CLONE_GROUP_OFFSET => super::clone::serve(asked, plane),
        request::GET_BROKER_CONSUME_STATS => super::broker_stats::serve(asked, plane),
        request::QUERY_CONSUME_QUEUE => super::queue_rows::serve(asked, plane),
        other => Err(Refusal::new(
            response::REQUEST_CODE_NOT_SUPPORTED,
            format!("request code {other} is no offset request"),
        )),
    };
    if let Err(refusal) = outcome {
        plane.refuse(&ReplyTo::of(asked), &refusal);
    }
}

/// Asks the cores for positions.
pub(super) async fn reports(
    plane: &Plane,
    group: Option<Arc<str>>,
    topics: Option<Vec<TopicId>>,
) -> Result<Vec<GroupReport>, Refusal> {
    let question = Question::Offsets {
        group,
        topics,
        with_times: false,
    };
    ask_reports(plane, question).await
}

/// Asks the cores for positions with store times.
pub(super) async fn timed_reports(
    plane: &Plane,
    group: Option<Arc<str>>,
) -> Result<Vec<GroupReport>, Refusal> {
    let question = Question::Offsets {
        group,
        topics: None,
        with_times: true,
    };
    ask_reports(plane, question).await
}

async fn ask_reports(plane: &Plane, question: Question) -> Result<Vec<GroupReport>, Refusal> {
    let answers = plane.asker.ask(question).await?;
    let reports = answers.into_iter().flat_map(|answer| match answer {
        Answer::Offsets(reports) => reports,
        _ => Vec::new(),
    });
    Ok(reports.collect())
}

/// Asks the cores for the bounds of these queues.
pub(super) async fn bounds(
    plane: &Plane,
    queues: Vec<QueueKey>,
) -> Result<Vec<QueueReport>, Refusal> {
    let answers = plane.asker.ask(Question::Bounds(queues)).await?;
    let reports = answers.into_iter().flat_map(|answer| match answer {
        Answer::Bounds(reports) => reports,
        _ => Vec::new(),
    });
    Ok(reports.collect())
}

/// Code 43: every group's position in every queue.
fn all_offsets(asked: &ControlRequest, plane: &Rc<Plane>) {
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let reports = reports(&asking, None, None).await?;
        let table = asking.topics.borrow();
        let mut offsets: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut pulls: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for report in reports {
            let Some(topic) = table.name_of(report.queue.topic) else {
                continue;
            };
            let key = format!("{topic}@{}", report.group);
            let queue = i32::from(report.queue.queue.0);
            let committed = as_wire(report.consumer_offset.0);
            offsets
                .entry(key.clone())
                .or_default()
                .insert(queue, committed);
            pulls
                .entry(key)
                .or_default()
                .insert(queue, as_wire(report.pull_offset.0));
        }
        let body = ConsumerOffsets {
            data_version: *table.version(),
            offsets,
            pull_offsets: pulls,
        };
        Ok(Reply::json(&body.to_value()))
    });
}

/// Code 208: how far a group is behind, queue by queue (`getConsumeStats`, 5.5.0). A group without
/// a position anywhere has an empty table.
fn consume_stats(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let group: Arc<str> = Arc::from(reply::text(command, "consumerGroup")?);
    let list = reply::optional(command, "topicList").unwrap_or_default();
    let listed = list.split(';').filter(|topic| !topic.trim().is_empty());
    let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
    let topic = reply::optional(command, "topic").filter(|topic| !topic.trim().is_empty());
    let topic = topic.map(str::to_owned);
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let positions = timed_reports(&asking, Some(Arc::clone(&group))).await?;
        let topics = topics_to_show(&asking, &group, listed, topic, &positions);
        let queues = topics.iter().flat_map(|entry| read_queues(entry)).collect();
        let bounds = bounds(&asking, queues).await?;
        let mut stats = stats(&asking, &bounds, &positions);
        let (counted, now_ms) = (asking.stats.borrow(), asking.now_ms());
        let tps = topics
            .iter()
            .map(|entry| counted.get_tps(now_ms, &entry.config.name, &group));
        stats.consume_tps = tps.sum();
        Ok(Reply::json(&stats.to_value()))
    });
    Ok(())
}

/// The topics of a 208: those of `topicList` as they stand there; else the named one, or all in
/// which the group has a position, as far as it still reads them
/// (`getTopicsForCollectingConsumeStats`, 5.5.0). So a broadcasting group, whose positions its
/// members keep, shows no lag that isn't there.
fn topics_to_show(
    plane: &Plane,
    group: &str,
    listed: BTreeSet<String>,
    topic: Option<String>,
    positions: &[GroupReport],
) -> Vec<Arc<TopicEntry>> {
    let table = plane.topics.borrow();
    let names = if listed.is_empty() {
        let mut names: BTreeSet<String> = match topic {
            Some(topic) => BTreeSet::from([topic]),
            None => positions
                .iter()
                .filter_map(|row| table.name_of(row.queue.topic))
                .map(str::to_owned)
                .collect(),
        };
        let members = plane.members.borrow();
        names.retain(|topic| members.reads(group, topic));
        names
    } else {
        listed
    };
    let known = names.iter().filter_map(|topic| table.get(topic));
    known.cloned().collect()
}

pub(super) fn stats(
    plane: &Plane,
    bounds: &[QueueReport],
    positions: &[GroupReport],
) -> ConsumeStats {
    let table = plane.topics.borrow();
    let by_queue: BTreeMap<QueueKey, &GroupReport> =
        positions.iter().map(|row| (row.queue, row)).collect();
    let rows = bounds.iter().filter_map(|bounds| {
        let topic = table.name_of(bounds.queue.topic)?;
        let position = by_queue.get(&bounds.queue);
        let consumed = position.map_or(0, |row| row.consumer_offset.0);
        // Where the last pull began is forgotten by a restart; no pull is behind what was consumed.
        let pulled = position.map_or(0, |row| row.pull_offset.0.max(consumed));
        let queue = MessageQueue {
            topic: topic.to_owned(),
            broker_name: plane.settings.broker_name.clone(),
            queue_id: i32::from(bounds.queue.queue.0),
        };
        let progress = QueueConsumeStats {
            broker_offset: as_wire(bounds.max.0),
            consumer_offset: as_wire(consumed),
            pull_offset: as_wire(pulled),
            last_timestamp_ms: position.map_or(0, |row| as_wire(row.last_timestamp_ms)),
        };
        Some((queue, progress))
    });
    ConsumeStats {
        queues: rows.collect(),
        consume_tps: 0.0,
    }
}
