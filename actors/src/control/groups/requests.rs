//! The group requests that change something, and the table of this actor's codes.
//!
//! **Owns** codes 46, 200, 201, 207, 225, 352 and 353, and the dispatch to `beat`, `clients` and
//! `queries`.
//! **Lives on** the control plane's thread, as part of the groups actor.
//! **Invariants** a changed group is stored before its reply; 225 is all or nothing. A deleted
//! group's positions go with it or stay with it: one commit, and the cores hear afterwards.
//! **Limits** `GROUPS_PER_REQUEST_MAX` groups in one 225.
//! **Not here** heartbeats (`beat`), questions about members (`queries`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{
    DataVersion, SubscriptionData, SubscriptionGroupConfig, SubscriptionGroupWrapper,
};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, Value};
use gantry_protocol::subscription::{TYPE_SQL92, is_tag_type};

use crate::control::attributes;
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::rules;
use crate::refusal::{Refusal, no_property_filter, quoted};
use crate::seam::ControlRequest;
use crate::sql92::Expression;

use super::{Groups, table};

/// Most groups in one list request.
const GROUPS_PER_REQUEST_MAX: usize = 10_000;

impl Groups {
    /// Answers one request of this actor's codes.
    pub(super) fn serve(&mut self, request: &ControlRequest, plane: &Rc<Plane>) {
        let to = ReplyTo::of(request);
        let command = &request.command;
        let outcome = match command.code {
            request::HEART_BEAT => self.heartbeat(request, plane).map(Some),
            request::UNREGISTER_CLIENT => super::beat::unregister(request, plane).map(Some),
            request::CHECK_CLIENT_CONFIG => check_client(command, plane).map(Some),
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => self.update(command, to, plane),
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => {
                self.update_list(command, to, plane)
            }
            request::DELETE_SUBSCRIPTIONGROUP => self.delete(command, to, plane),
            request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => all_configs(command, plane).map(Some),
            request::GET_SUBSCRIPTIONGROUP_CONFIG => self.one_config(command, plane).map(Some),
            request::UPDATE_AND_GET_GROUP_FORBIDDEN => self.forbid(command, to, plane),
            request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS
            | request::GET_CONSUMER_RUNNING_INFO
            | request::CONSUME_MESSAGE_DIRECTLY => super::clients::serve(request, plane),
            _ => super::queries::serve(request, plane),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(reply)) => plane.reply(&to, reply),
            Err(refusal) => plane.refuse(&to, &refusal),
        }
    }

    fn update(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let config = SubscriptionGroupConfig::parse(&command.body).map_err(Refusal::malformed)?;
        self.change(vec![config], to, plane)
    }

    fn update_list(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let body = fastjson::parse(&command.body).map_err(Refusal::malformed)?;
        let list = body
            .get("groupConfigList")
            .map(Value::elements)
            .unwrap_or_default();
        self.change(
            list.iter()
                .map(SubscriptionGroupConfig::from_value)
                .collect(),
            to,
            plane,
        )
    }

    fn change(
        &mut self,
        mut configs: Vec<SubscriptionGroupConfig>,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        if configs.len() > GROUPS_PER_REQUEST_MAX {
            return Err(Refusal::new(
                response::INVALID_PARAMETER,
                format!(
                    "{} groups in one request, {GROUPS_PER_REQUEST_MAX} are allowed",
                    configs.len()
                ),
            ));
        }
        for config in &configs {
            table::check_group_name(&config.group)?;
            table::check_retry_queues(config)?;
        }
        {
            let table = plane.groups.borrow();
            let stored = |name: &str| table.get(name).map(|config| &config.attributes);
            let wishes = configs.iter_mut();
            let wishes = wishes.map(|config| (config.group.as_str(), &mut config.attributes));
            attributes::alter_all(attributes::OF_GROUPS, stored, wishes)?;
            table.check_room(&configs)?;
        }
        for config in configs {
            let now_ms = plane.now_ms();
            let stored = plane.groups.borrow_mut().put_checked(config, now_ms);
            self.changed.push(stored.group.clone());
            self.put.push(stored);
        }
        self.wait(to, plane);
        Ok(None)
    }

    fn delete(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let group = reply::text(command, "groupName")?;
        let name: Arc<str> = Arc::from(group);
        if reply::switch_or(command, "cleanOffset", false) {
            self.delete_later((name, to), plane)?;
        } else {
            self.remove(&name, plane);
            self.wait(to, plane);
        }
        Ok(None)
    }

    /// Takes a group out; that is stored with the next commit.
    pub(super) fn remove(&mut self, group: &Arc<str>, plane: &Rc<Plane>) {
        let gone = plane.groups.borrow_mut().remove(group, plane.now_ms());
        if gone.is_some() {
            self.put.retain(|config| config.group != **group);
            self.gone.push(Arc::clone(group));
        }
    }

    /// Code 353: may a group read a topic? With `readable` the answer is changed first.
    fn forbid(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let group = reply::text(command, "group")?;
        let topic = reply::text(command, "topic")?;
        let wanted = reply::optional(command, "readable");
        let wanted = wanted.map(|text| text.eq_ignore_ascii_case("true"));
        if let Some(readable) = wanted {
            if !readable {
                table::check_group_name(group)?;
                rules::check_topic_name(topic)?;
            }
            let now_ms = plane.now_ms();
            let mut groups = plane.groups.borrow_mut();
            groups.forbid(group, topic, !readable, now_ms)?;
            self.changed.push(group.to_owned());
        }
        let readable = !plane.groups.borrow().forbidden(group).contains(topic);
        let body = Value::object([
            ("group", group.into()),
            ("readable", readable.into()),
            ("topic", topic.into()),
        ]);
        if wanted.is_none() {
            return Ok(Some(Reply::json(&body)));
        }
        self.waiters.push((to, Reply::json(&body)));
        self.commit_soon(plane);
        Ok(None)
    }

    fn one_config(&mut self, command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
        let group = reply::text(command, "group")?;
        // Asking for a group makes it where that is allowed, as the Java broker's lookup does.
        let config = self.ensure(group, plane).map_err(|_| {
            Refusal::new(
                response::SUBSCRIPTION_GROUP_NOT_EXIST,
                format!("No group in this broker. group: {}", quoted(group)),
            )
        })?;
        Ok(Reply::json(&config.to_value()))
    }
}

fn all_configs(command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let table = plane.groups.borrow();
    let mut configs: Vec<_> = table.iter().map(|(_, config)| config).collect();
    configs.sort_by(|a, b| a.group.cmp(&b.group));
    let total = configs.len();
    let page: usize = reply::number_or(command, "maxGroupNum", 0)?;
    if page > 0 {
        let asked = reply::optional(command, "dataVersion")
            .and_then(|json| fastjson::parse(json.as_bytes()).ok())
            .map(|json| DataVersion::from_value(&json));
        let is_stale = asked.is_some_and(|version| version != *table.version());
        let from = if is_stale {
            0
        } else {
            reply::number_or(command, "groupSeq", 0)?
        };
        configs = configs.into_iter().skip(from).take(page).collect();
    }
    let groups = configs
        .into_iter()
        .map(|config| (config.group.clone(), config.as_ref().clone()));
    let body = SubscriptionGroupWrapper {
        data_version: *table.version(),
        forbidden: Some(forbidden_value(&table)),
        groups: groups.collect(),
    };
    Ok(Reply::json(&body.to_value()).with("totalGroupNum", total))
}

/// Bit of reading in RocketMQ's table of forbidden topics (`1 << INDEX_PERM_READ`, 5.5.0).
const READ_FORBIDDEN: i32 = 4;

fn forbidden_value(table: &table::GroupTable) -> Value {
    let groups = table.all_forbidden().iter().map(|(group, topics)| {
        let topics = topics.iter().map(|topic| (topic, READ_FORBIDDEN));
        (group, Value::map(topics))
    });
    Value::map(groups)
}

/// Code 46: may this client subscribe like that? Java clients ask for SQL92 subscriptions only.
fn check_client(command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let body = fastjson::parse(&command.body).map_err(Refusal::malformed)?;
    let Some(data) = body
        .get("subscriptionData")
        .map(SubscriptionData::from_value)
    else {
        return Ok(Reply::ok());
    };
    let kind = data.expression_type.as_str();
    if is_tag_type(Some(kind)) {
        return Ok(Reply::ok());
    }
    if !plane.settings.enable_property_filter.get() {
        return Err(no_property_filter(kind));
    }
    let failed = |why: String| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, why);
    if kind != TYPE_SQL92 {
        return Err(failed(format!("nothing filters by {}", quoted(kind))));
    }
    Expression::parse(&data.sub_string).map_err(|error| failed(error.to_string()))?;
    Ok(Reply::ok())
}
