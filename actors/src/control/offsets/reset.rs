//! Moving a group's positions by hand (code 222).
//!
//! **Owns** what a reset request means, and telling the members when they have to move themselves.
//! **Lives on** the control plane's thread.
//! **Invariants** where every queue goes is known before one is moved; with
//! `useServerSideResetOffset` the queue actors redirect the group (one-shot); without, every member
//! is told with code 220 and the broker moves nothing, and a group without members is 206.
//! **Limits** those of `ask`; `OFFSET_ROWS_MAX` queues a word to the cores.
//! **Not here** the one-shot itself (the queue actors).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::Language;
use gantry_protocol::body::{MessageQueue, reset_offset_body};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_storage::units::{QueueId, QueueKey, QueueOffset, TopicId};

use super::requests::reports;
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo, encoded};
use crate::control::topics::{as_wire, queues_of, read_queues, write_queues};
use crate::refusal::{Refusal, quoted};
use crate::seam::{
    Answer, ControlRequest, OFFSET_ROWS_MAX, OffsetRow, Question, ResetTo, TopicEntry,
};

/// A reset request, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reset {
    pub topic: String,
    pub group: Arc<str>,
    pub timestamp: i64,
    pub is_force: bool,
    pub to: ResetTo,
    /// `None`: all queues.
    pub queue: Option<QueueId>,
}

impl Reset {
    /// Reads a request: queue −1 is all queues; offset −1 or absent, or all queues, means by time;
    /// time −1 is the end, and so is any negative one for a reset by the broker itself
    /// (`AdminBrokerProcessor.resetOffsetInner`, `Broker2Client.resetOffset`, 5.5.0).
    pub(super) fn read(command: &Command, server_side: bool) -> Result<Self, Refusal> {
        let timestamp: i64 = reply::number(command, "timestamp")?;
        let offset: i64 = reply::number_or(command, "offset", -1)?;
        let queue: i32 = reply::number_or(command, "queueId", -1)?;
        let queue = match queue {
            ..=-1 => None,
            queue => Some(QueueId(u16::try_from(queue).map_err(|_| {
                Refusal::new(
                    response::SYSTEM_ERROR,
                    format!("queueId {queue} is not allowed; it takes 0 to {}", u16::MAX),
                )
            })?)),
        };
        if server_side && queue.is_some() && offset < -1 {
            let remark = format!("Target offset {offset} not in consume queue range");
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        let to = match u64::try_from(offset) {
            Ok(offset) if queue.is_some() => ResetTo::Offset(QueueOffset(offset)),
            _ if timestamp == -1 || (server_side && timestamp < 0) => ResetTo::Max,
            _ => ResetTo::Timestamp(timestamp),
        };
        Ok(Self {
            topic: reply::text(command, "topic")?.to_owned(),
            group: Arc::from(reply::text(command, "group")?),
            timestamp,
            is_force: reply::switch_or(command, "isForce", false),
            to,
            queue,
        })
    }

    fn queues(&self, entry: &TopicEntry, server_side: bool) -> Result<Vec<QueueKey>, Refusal> {
        let failed = |remark| Err(Refusal::new(response::SYSTEM_ERROR, remark));
        let Some(wanted) = self.queue else {
            let all = if server_side {
                read_queues(entry)
            } else {
                write_queues(entry)
            };
            if all.is_empty() {
                return failed("No queues to reset.".to_owned());
            }
            return Ok(all);
        };
        match queues_of(entry).iter().find(|key| key.queue == wanted) {
            Some(key) => Ok(vec![*key]),
            None => failed(format!(
                "topic[{}] has no queue {}",
                quoted(&self.topic),
                wanted.0
            )),
        }
    }
}

/// Code 222.
pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let server_side = plane.settings.use_server_side_reset_offset.get();
    let reset = Reset::read(&asked.command, server_side)?;
    let entry = plane
        .topics
        .borrow()
        .get(&reset.topic)
        .cloned()
        .ok_or_else(|| {
            Refusal::new(
                response::TOPIC_NOT_EXIST,
                format!("topic[{}] not exist", quoted(&reset.topic)),
            )
        })?;
    if server_side && plane.groups.borrow().get(&reset.group).is_none() {
        return Err(Refusal::new(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("subscription group not exist, {}", quoted(&reset.group)),
        ));
    }
    if !server_side && plane.members.borrow().consumers(&reset.group).is_none() {
        return Err(Refusal::new(
            response::CONSUMER_NOT_ONLINE,
            format!(
                "Consumer not online, so can not reset offset, Group: {}",
                quoted(&reset.group)
            ),
        ));
    }
    let queues = reset.queues(&entry, server_side)?;
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let found = found(&asking, &reset, &queues).await?;
        let table = if server_side {
            redirect(&asking, &reset, &found).await?;
            table(&asking, &reset, found)
        } else {
            let positions = positions(&asking, &reset, entry.id).await?;
            let table = table(&asking, &reset, held_back(&reset, found, &positions)?);
            push(&asking, &reset, &table);
            table
        };
        Ok(Reply::json(&reset_offset_body(&table, false)))
    });
    Ok(())
}

/// Offsets by queue.
type Places = BTreeMap<QueueKey, QueueOffset>;

/// Where each queue would go, or why there is one that can't be said of.
async fn found(plane: &Plane, reset: &Reset, queues: &[QueueKey]) -> Result<Places, Refusal> {
    let rows = queues.iter().map(|key| (*key, reset.to)).collect();
    let mut found = Places::new();
    for answer in plane.asker.ask(Question::FindOffsets(rows)).await? {
        if let Answer::FoundOffsets(rows) = answer {
            found.extend(rows?);
        }
    }
    Ok(found)
}

async fn redirect(plane: &Plane, reset: &Reset, found: &Places) -> Result<(), Refusal> {
    let rows: Vec<OffsetRow> = found
        .iter()
        .map(|(key, offset)| OffsetRow {
            queue: *key,
            group: Arc::clone(&reset.group),
            offset: *offset,
        })
        .collect();
    for chunk in rows.chunks(OFFSET_ROWS_MAX) {
        plane
            .asker
            .ask(Question::ResetOffsets(chunk.to_vec()))
            .await?;
    }
    Ok(())
}

async fn positions(plane: &Plane, reset: &Reset, topic: TopicId) -> Result<Places, Refusal> {
    let group = Some(Arc::clone(&reset.group));
    let reports = reports(plane, group, Some(vec![topic])).await?;
    let rows = reports.iter();
    Ok(rows.map(|row| (row.queue, row.consumer_offset)).collect())
}

/// What the members are told: without `isForce` a queue goes back, never forward; each must have a
/// position (`Broker2Client.resetOffset`, 5.5.0).
fn held_back(reset: &Reset, mut found: Places, positions: &Places) -> Result<Places, Refusal> {
    for (key, target) in &mut found {
        let Some(current) = positions.get(key) else {
            return Err(Refusal::new(
                response::SYSTEM_ERROR,
                format!("THe consumer group <{}> not exist", quoted(&reset.group)),
            ));
        };
        if !reset.is_force {
            *target = *current.min(target);
        }
    }
    Ok(found)
}

/// Offsets as clients read them.
type Table = BTreeMap<MessageQueue, i64>;

fn table(plane: &Plane, reset: &Reset, places: Places) -> Table {
    let rows = places.into_iter().map(|(key, offset)| {
        let queue = MessageQueue {
            topic: reset.topic.clone(),
            broker_name: plane.settings.broker_name.clone(),
            queue_id: i32::from(key.queue.0),
        };
        (queue, as_wire(offset.0))
    });
    rows.collect()
}

/// Tells every member to move itself; the C++ client reads a list where the others read a map.
fn push(plane: &Plane, reset: &Reset, table: &Table) {
    let members = plane.members.borrow();
    let Some(group) = members.consumers(&reset.group) else {
        return;
    };
    for (peer, client) in group.members() {
        let body = reset_offset_body(table, client.language == Language::Cpp);
        let command = Command::request(request::RESET_CONSUMER_CLIENT_OFFSET, plane.take_opaque())
            .with_ext("topic", reset.topic.as_str())
            .with_ext("group", &*reset.group)
            .with_ext("timestamp", reset.timestamp)
            .with_ext("isForce", reset.is_force)
            .with_body(to_bytes(&body, IntegerKeys::Quoted))
            .one_way();
        match encoded(&command) {
            Ok(frame) => plane.outbox.write(*peer, frame),
            Err(error) => tracing::error!(%error, "a reset can't be told to a member"),
        }
    }
}
