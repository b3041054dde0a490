//! Questions of an operator that a consumer answers, passed on through its connection.
//!
//! **Owns** codes 223, 307 and 309.
//! **Lives on** the control plane's thread, as part of the groups actor.
//! **Invariants** a client's body goes back as it came: its JSON is Java's own dialect. A client
//! that is silent, gone or too old is an answer with the reason, never silence.
//! **Limits** [`ANSWER_MAX`] a client, [`STATUS_MAX`] for 223, as RocketMQ's `Broker2Client`.
//! **Not here** the waiting itself (`calls`).

use std::rc::Rc;
use std::time::Duration;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, Value};
use gantry_protocol::message_id::parse_offset_id;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::PhysicalOffset;

use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Question};

/// How long a client may take for its running state, or to consume a message.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a client may take for its positions.
const STATUS_MAX: Duration = Duration::from_secs(5);
/// `V3_1_8_SNAPSHOT`: older clients know neither 307 nor 309.
const VERSION_MIN: i32 = 62;
/// `V3_0_7_SNAPSHOT`: older clients don't know 221.
const STATUS_VERSION_MIN: i32 = 28;

/// What the broker itself says in a 309.
const OWN_FIELDS: [&str; 3] = ["brokerName", "topicSysFlag", "groupSysFlag"];

/// Codes of this room; the answer always comes later.
pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<Option<Reply>, Refusal> {
    match asked.command.code {
        request::GET_CONSUMER_RUNNING_INFO => running_info(asked, plane)?,
        request::CONSUME_MESSAGE_DIRECTLY => consume_directly(asked, plane)?,
        _ => consumer_status(asked, plane)?,
    }
    Ok(None)
}

/// The connection of a member, if its library is new enough.
fn member(command: &Command, plane: &Plane) -> Result<PeerRef, Refusal> {
    let group = reply::text(command, "consumerGroup")?;
    let id = reply::optional(command, "clientId").unwrap_or_default();
    let members = plane.members.borrow();
    let found = members.consumers(group).and_then(|live| live.newest(id));
    let failed = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
    match found {
        None => Err(failed(format!(
            "The Consumer <{}> <{}> not online",
            quoted(group),
            quoted(id)
        ))),
        Some((_, client)) if client.version < VERSION_MIN => Err(failed(format!(
            "The Consumer <{}> Version <{}> too low to finish, please upgrade it to \
             V3_1_8_SNAPSHOT",
            quoted(id),
            client.version
        ))),
        Some((peer, _)) => Ok(*peer),
    }
}

/// A request like the operator's, for the client.
fn passed_on(command: &Command) -> Command {
    let mut own = Command::request(command.code, 0).with_ext_fields();
    let fields = command.ext.iter().flatten();
    let kept = fields.filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
    own.ext = Some(kept.cloned().collect());
    own
}

/// The client's answer, for the operator.
fn passed_back(answer: Command) -> Reply {
    Reply::passed_on(answer.code, answer.remark, answer.body)
}

/// Code 307.
fn running_info(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let peer = member(&asked.command, plane)?;
    let question = passed_on(&asked.command);
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let answer = asking.call(peer, question, ANSWER_MAX).await?;
        Ok(passed_back(answer))
    });
    Ok(())
}

/// Code 309: one member consumes one message now, whatever its offset.
fn consume_directly(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let peer = member(command, plane)?;
    let id = reply::text(command, "msgId")?;
    let (_, physical) = parse_offset_id(id).ok_or_else(|| {
        let remark = format!("msgId={}: not the offset id of a message", quoted(id));
        Refusal::new(response::SYSTEM_ERROR, remark)
    })?;
    let physical = PhysicalOffset(physical.cast_unsigned());
    let mut question = passed_on(command).with_ext("brokerName", &*plane.settings.broker_name);
    if let Some(topic) = reply::optional(command, "topic")
        && let Some(entry) = plane.topics.borrow().get(topic)
    {
        question = question.with_ext("topicSysFlag", entry.config.topic_sys_flag);
    }
    if let Some(group) = reply::optional(command, "consumerGroup")
        && let Some(config) = plane.groups.borrow().get(group)
    {
        question = question.with_ext("groupSysFlag", config.group_sys_flag);
    }
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let answers = asking.asker.ask(Question::Record(physical)).await?;
        let record = answers.into_iter().find_map(|answer| match answer {
            Answer::Record(record) => record,
            _ => None,
        });
        let record = record.ok_or_else(|| {
            let remark = format!("can not find message by the offset, {physical}");
            Refusal::new(response::SYSTEM_ERROR, remark)
        })?;
        let question = question.with_body(record);
        let answer = asking.call(peer, question, ANSWER_MAX).await?;
        Ok(passed_back(answer))
    });
    Ok(())
}

/// Code 223: where the members of a group are in a topic, by their own word (code 221).
fn consumer_status(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let topic = reply::text(command, "topic")?;
    let group = reply::text(command, "group")?;
    let only = reply::optional(command, "clientAddr").filter(|id| !id.trim().is_empty());
    let members: Vec<(PeerRef, String, i32)> = plane
        .members
        .borrow()
        .consumers(group)
        .into_iter()
        .flat_map(super::members::ConsumerGroup::members)
        .map(|(peer, client)| (*peer, client.id.to_string(), client.version))
        .collect();
    let failed = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
    if members.is_empty() {
        return Err(failed(format!(
            "No Any Consumer online in the consumer group: [{}]",
            quoted(group)
        )));
    }
    if let Some((_, _, old)) = members.iter().find(|member| member.2 < STATUS_VERSION_MIN) {
        return Err(failed(format!(
            "the client does not support this feature. version={old}"
        )));
    }
    let wanted = members
        .into_iter()
        .filter(|(_, id, _)| only.is_none_or(|only| only == id));
    let questions: Vec<_> = wanted
        .map(|(peer, id, _)| {
            let question = Command::request(request::GET_CONSUMER_STATUS_FROM_CLIENT, 0)
                .with_ext("group", group)
                .with_ext("topic", topic);
            let asking = Rc::clone(plane);
            // All are asked at once: one silent member doesn't hide the others.
            actix::spawn(async move { (id, asking.call(peer, question, STATUS_MAX).await) })
        })
        .collect();
    plane.reply_later(ReplyTo::of(asked), async move {
        let mut table = Vec::new();
        for question in questions {
            let Ok((id, Ok(answer))) = question.await else {
                continue;
            };
            let body = fastjson::parse(&answer.body).ok();
            let positions = body.as_ref().and_then(|body| body.get("messageQueueTable"));
            if let (response::SUCCESS, Some(positions)) = (answer.code, positions) {
                table.push((Value::from(id), positions.clone()));
            }
        }
        let nothing: [(Value, Value); 0] = [];
        let body = Value::object([
            ("consumerTable", Value::map(table)),
            ("messageQueueTable", Value::map(nothing)),
        ]);
        Ok(Reply::json(&body))
    });
    Ok(())
}
