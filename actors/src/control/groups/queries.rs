//! Questions about who is connected and who subscribes what.
//!
//! **Owns** codes 38, 203, 204, 300, 328, 343 and 345.
//! **Lives on** the control plane's thread, as part of the groups actor.
//! **Invariants** 38 never answers an empty list (trap 31): code 1 instead.
//! **Limits** `PRODUCERS_LISTED_MAX` rows in a 328.
//! **Not here** positions of groups (`offsets`).

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{
    Connection, ConsumerConnection, GroupList, ProducerConnection, ProducerInfo, SubscriptionData,
    TopicList, consumer_id_list,
};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::Value;

use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Question};

use super::members::Client;

/// Most producers in one answer: about 200 bytes each, so some 13 MB, below the frame limit.
const PRODUCERS_LISTED_MAX: usize = 65_536;

/// Answers one of this room's codes; `None` when the answer comes later.
pub(super) fn serve(request: &ControlRequest, plane: &Rc<Plane>) -> Result<Option<Reply>, Refusal> {
    let command = &request.command;
    match command.code {
        request::GET_CONSUMER_LIST_BY_GROUP => consumer_list(command, plane).map(Some),
        request::GET_CONSUMER_CONNECTION_LIST => consumer_connection(command, plane).map(Some),
        request::GET_PRODUCER_CONNECTION_LIST => producer_connection(command, plane).map(Some),
        request::GET_ALL_PRODUCER_INFO => Ok(Some(all_producers(plane))),
        request::QUERY_SUBSCRIPTION_BY_CONSUMER => subscription(command, plane).map(Some),
        request::QUERY_TOPIC_CONSUME_BY_WHO => groups_of_topic(request, plane),
        request::QUERY_TOPICS_BY_CONSUMER => topics_of_group(request, plane),
        other => Err(Refusal::new(
            response::REQUEST_CODE_NOT_SUPPORTED,
            format!("request code {other} is no group request"),
        )),
    }
}

fn consumer_list(command: &Command, plane: &Plane) -> Result<Reply, Refusal> {
    let group = reply::text(command, "consumerGroup")?;
    let ids = plane
        .members
        .borrow()
        .consumers(group)
        .map(super::members::ConsumerGroup::client_ids);
    match ids {
        Some(ids) if !ids.is_empty() => {
            Ok(Reply::json(&consumer_id_list(ids.iter().map(|id| &**id))))
        }
        _ => Err(Refusal::new(
            response::SYSTEM_ERROR,
            format!("no consumer for this group, {}", quoted(group)),
        )),
    }
}

fn connection(client: &Client) -> Connection {
    Connection {
        client_id: client.id.to_string(),
        client_addr: client.addr.to_string(),
        language: client.language,
        version: client.version,
    }
}

fn consumer_connection(command: &Command, plane: &Plane) -> Result<Reply, Refusal> {
    let name = reply::text(command, "consumerGroup")?;
    let members = plane.members.borrow();
    let group = members.consumers(name).ok_or_else(|| {
        Refusal::new(
            response::CONSUMER_NOT_ONLINE,
            format!("the consumer group[{}] not online", quoted(name)),
        )
    })?;
    let body = ConsumerConnection {
        connections: group
            .members()
            .map(|(_, client)| connection(client))
            .collect(),
        consume_type: group.consume_type,
        message_model: group.message_model,
        consume_from: group.consume_from_where,
        subscriptions: group
            .subscriptions
            .iter()
            .map(|(topic, data)| (topic.clone(), data.as_ref().clone()))
            .collect(),
    };
    Ok(Reply::json(&body.to_value()))
}

fn producer_connection(command: &Command, plane: &Plane) -> Result<Reply, Refusal> {
    let name = reply::text(command, "producerGroup")?;
    let members = plane.members.borrow();
    let group = members.producers(name).ok_or_else(|| {
        Refusal::new(
            response::SYSTEM_ERROR,
            format!("the producer group[{}] not exist", quoted(name)),
        )
    })?;
    let body = ProducerConnection {
        connections: group.values().map(connection).collect(),
    };
    Ok(Reply::json(&body.to_value()))
}

fn all_producers(plane: &Plane) -> Reply {
    let members = plane.members.borrow();
    let mut left = PRODUCERS_LISTED_MAX;
    let mut data = std::collections::BTreeMap::new();
    for (name, clients) in members.producer_groups() {
        let rows: Vec<ProducerInfo> = clients
            .values()
            .take(left)
            .map(|client| ProducerInfo {
                client_id: client.id.to_string(),
                remote_ip: client.addr.to_string(),
                language: client.language,
                version: client.version,
                last_update_ms: client.last_update_ms,
            })
            .collect();
        left -= rows.len();
        if !rows.is_empty() {
            data.insert(name.to_string(), rows);
        }
    }
    Reply::json(&ProducerInfo::table_to_value(&data))
}

fn subscription(command: &Command, plane: &Plane) -> Result<Reply, Refusal> {
    let group = reply::text(command, "group")?;
    let topic = reply::optional(command, "topic").unwrap_or_default();
    let members = plane.members.borrow();
    let found = members
        .consumers(group)
        .and_then(|live| live.subscriptions.get(topic))
        .map(|data| SubscriptionData::to_value(data));
    let body = Value::object([
        ("group", group.into()),
        ("subscriptionData", found.unwrap_or(Value::Null)),
        ("topic", topic.into()),
    ]);
    Ok(Reply::json(&body))
}

/// Groups that subscribe the topic now, and those that left a position in it.
fn groups_of_topic(request: &ControlRequest, plane: &Rc<Plane>) -> Result<Option<Reply>, Refusal> {
    let topic = reply::text(&request.command, "topic")?;
    let mut groups: BTreeSet<Arc<str>> = plane
        .members
        .borrow()
        .groups_of_topic(topic)
        .into_iter()
        .collect();
    let id = plane.topics.borrow().get(topic).map(|entry| entry.id);
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(request), async move {
        if let Some(id) = id {
            let question = Question::Offsets {
                group: None,
                topics: Some(vec![id]),
                with_times: false,
            };
            for answer in asking.asker.ask(question).await? {
                if let Answer::Offsets(reports) = answer {
                    groups.extend(reports.into_iter().map(|report| report.group));
                }
            }
        }
        let groups = groups.iter().map(ToString::to_string).collect();
        Ok(Reply::json(&GroupList { groups }.to_value()))
    });
    Ok(None)
}

/// Topics that the group subscribes now, and those it left a position in.
fn topics_of_group(request: &ControlRequest, plane: &Rc<Plane>) -> Result<Option<Reply>, Refusal> {
    let group = reply::text(&request.command, "group")?;
    let group: Arc<str> = Arc::from(group);
    let mut topics: BTreeSet<String> = plane
        .members
        .borrow()
        .consumers(&group)
        .map(|live| live.subscriptions.keys().cloned().collect())
        .unwrap_or_default();
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(request), async move {
        let question = Question::Offsets {
            group: Some(group),
            topics: None,
            with_times: false,
        };
        for answer in asking.asker.ask(question).await? {
            let Answer::Offsets(reports) = answer else {
                continue;
            };
            let table = asking.topics.borrow();
            let ids = reports.iter().map(|report| report.queue.topic);
            topics.extend(ids.filter_map(|id| table.name_of(id)).map(str::to_owned));
        }
        let body = TopicList {
            broker_addr: Some(asking.settings.told_address()),
            topics: topics.into_iter().collect(),
        };
        Ok(Reply::json(&body.to_value()))
    });
    Ok(None)
}
