//! Moving a group's positions by hand (code 222).
//!
//! **Owns** what a reset request means, and telling the members when they have to move themselves.
//! **Lives on** the control plane's thread.
//! **Invariants** with `useServerSideResetOffset` the queue actors redirect the group (one-shot);
//! without, every member is told with code 220, and a group without members is 206.
//! **Limits** those of `ask`.
//! **Not here** the one-shot itself (the queue actors).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::Language;
use gantry_protocol::body::{MessageQueue, reset_offset_body};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_storage::units::{QueueId, QueueKey, QueueOffset};

use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo, encoded};
use crate::control::topics::{as_wire, queues_of};
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Question, ResetTo, TopicEntry};

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
    /// Reads a request: queue −1 is all queues; offset −1 or absent means by time; time −1 is the
    /// end.
    pub(super) fn read(command: &Command) -> Result<Self, Refusal> {
        let timestamp: i64 = reply::number(command, "timestamp")?;
        let offset: i64 = reply::number_or(command, "offset", -1)?;
        let queue: i32 = reply::number_or(command, "queueId", -1)?;
        let to = match (u64::try_from(offset), timestamp) {
            (Ok(offset), _) => ResetTo::Offset(QueueOffset(offset)),
            (Err(_), -1) => ResetTo::Max,
            (Err(_), timestamp) => ResetTo::Timestamp(timestamp),
        };
        let queue = match queue {
            ..=-1 => None,
            queue => Some(QueueId(u16::try_from(queue).map_err(|_| {
                Refusal::new(
                    response::SYSTEM_ERROR,
                    format!("queueId {queue} is out of range"),
                )
            })?)),
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

    fn queues(&self, entry: &TopicEntry) -> Result<Vec<QueueKey>, Refusal> {
        let all = queues_of(entry);
        let Some(wanted) = self.queue else {
            return Ok(all);
        };
        match all.iter().find(|key| key.queue == wanted) {
            Some(key) => Ok(vec![*key]),
            None => Err(Refusal::new(
                response::SYSTEM_ERROR,
                format!("topic[{}] has no queue {}", quoted(&self.topic), wanted.0),
            )),
        }
    }
}

/// Code 222.
pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let reset = Reset::read(&asked.command)?;
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
    let server_side = plane.settings.use_server_side_reset_offset.get();
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
    let rows = reset
        .queues(&entry)?
        .into_iter()
        .map(|key| (key, reset.to))
        .collect();
    let question = Question::ResetOffsets {
        group: Arc::clone(&reset.group),
        rows,
        server_side,
    };
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let table = moved(&asking, &reset, asking.asker.ask(question).await?);
        if !server_side {
            push(&asking, &reset, &table);
        }
        Ok(Reply::json(&reset_offset_body(&table, false)))
    });
    Ok(())
}

/// Where each queue was set to.
type Moved = BTreeMap<MessageQueue, i64>;

fn moved(plane: &Plane, reset: &Reset, answers: Vec<Answer>) -> Moved {
    let rows = answers.into_iter().flat_map(|answer| match answer {
        Answer::ResetOffsets(rows) => rows,
        _ => Vec::new(),
    });
    let rows = rows.map(|(key, offset)| {
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
fn push(plane: &Plane, reset: &Reset, table: &Moved) {
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
