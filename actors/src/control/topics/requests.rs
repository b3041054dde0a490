//! The topic requests of admin tools.
//!
//! **Owns** codes 17, 18, 21, 202, 215, 305, 306, 316 and 351.
//! **Lives on** the control plane's thread, as part of the topics actor.
//! **Invariants** a refused request changes nothing; 18 is all or nothing.
//! **Limits** `TOPICS_PER_REQUEST_MAX` topics in one 18.
//! **Not here** commits and waiting (`super`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{
    DataVersion, FilterType, MessageQueue, QueueStats, TopicConfig, TopicConfigWrapper, TopicList,
    TopicStats,
};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{self, Value};

use gantry_storage::units::TopicId;

use crate::control::attributes;
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Question, TopicEntry};

use super::wave::Waiter;
use super::{Topics, as_wire, built_in, queues_of, rules};

/// Most topics in one list request.
const TOPICS_PER_REQUEST_MAX: usize = 10_000;

impl Topics {
    /// Answers one request of this actor's codes.
    pub(super) fn serve(&mut self, request: &ControlRequest, plane: &Rc<Plane>) {
        let to = ReplyTo::of(request);
        let command = &request.command;
        let outcome = match command.code {
            request::UPDATE_AND_CREATE_TOPIC => self.update(command, to, plane),
            request::UPDATE_AND_CREATE_TOPIC_LIST => self.update_list(command, to, plane),
            request::DELETE_TOPIC_IN_BROKER => self.delete(command, to, plane),
            request::GET_TOPIC_STATS_INFO => topic_stats(command, to, plane),
            request::GET_ALL_TOPIC_CONFIG => all_configs(command, plane).map(Some),
            request::GET_TOPIC_CONFIG => one_config(command, plane).map(Some),
            request::CLEAN_EXPIRED_CONSUMEQUEUE | request::CLEAN_UNUSED_TOPIC => {
                self.drop_unused(to, plane)
            }
            request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => Ok(Some(system_topics(plane))),
            other => Err(Refusal::new(
                response::REQUEST_CODE_NOT_SUPPORTED,
                format!("request code {other} is no topic request"),
            )),
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
        let config = wanted_config(command)?;
        self.change(vec![config], to, plane)
    }

    fn update_list(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let body = fastjson::parse(&command.body)
            .map_err(|error| Refusal::new(response::INVALID_PARAMETER, error.to_string()))?;
        let list = body
            .get("topicConfigList")
            .map(Value::elements)
            .unwrap_or_default();
        let configs: Vec<TopicConfig> = list.iter().map(TopicConfig::from_value).collect();
        if configs.len() > TOPICS_PER_REQUEST_MAX {
            return Err(Refusal::new(
                response::INVALID_PARAMETER,
                format!(
                    "{} topics in one request, {TOPICS_PER_REQUEST_MAX} are allowed",
                    configs.len()
                ),
            ));
        }
        self.change(configs, to, plane)
    }

    fn change(
        &mut self,
        mut configs: Vec<TopicConfig>,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        for config in &configs {
            check_changeable(&config.name)?;
            rules::check_topic_numbers(config)?;
            let is_mixed = attributes::makes_mixed(&config.attributes);
            if is_mixed && !plane.settings.enable_mixed_message_type {
                let remark = "MIXED message type is not supported. (enableMixedMessageType=false)";
                return Err(Refusal::new(response::INVALID_PARAMETER, remark));
            }
        }
        {
            let table = plane.topics.borrow();
            table.check_room(&configs)?;
            let stored = |name: &str| table.get(name).map(|entry| &entry.config.attributes);
            let wishes = configs.iter_mut();
            let wishes = wishes.map(|config| (config.name.as_str(), &mut config.attributes));
            attributes::alter_all(attributes::OF_TOPICS, stored, wishes)?;
        }
        for config in configs {
            let made = plane.topics.borrow_mut().put(config)?;
            self.open.put.extend(made);
        }
        self.wait(Waiter::Client(to, Reply::ok()), plane);
        Ok(None)
    }

    fn delete(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        let topic = reply::optional(command, "topic").unwrap_or_default();
        check_changeable(topic)?;
        let gone = plane.topics.borrow_mut().remove(topic);
        self.open.put.retain(|entry| entry.config.name != topic);
        // Deleting what isn't there succeeds, as with the Java broker: scripts repeat it.
        self.open.gone.extend(gone);
        self.wait(Waiter::Client(to, Reply::ok()), plane);
        Ok(None)
    }
}

/// Names that clients may create, change and delete.
fn check_changeable(topic: &str) -> Result<(), Refusal> {
    rules::check_topic_name(topic)?;
    if built_in::is_system(topic) {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            format!(
                "The topic[{}] is conflict with system topic.",
                quoted(topic)
            ),
        ));
    }
    Ok(())
}

/// The configuration that a 17 asks for, its attributes with their signs, as in an 18.
fn wanted_config(command: &Command) -> Result<TopicConfig, Refusal> {
    let topic = reply::optional(command, "topic").unwrap_or_default();
    check_changeable(topic)?;
    let mut config = TopicConfig::new(topic, 0);
    config.read_queue_nums = reply::number(command, "readQueueNums")?;
    config.write_queue_nums = reply::number(command, "writeQueueNums")?;
    config.perm = reply::number(command, "perm")?;
    config.topic_sys_flag = reply::number_or(command, "topicSysFlag", 0)?;
    config.order = reply::switch_or(command, "order", false);
    let filter_type = reply::optional(command, "topicFilterType").unwrap_or_default();
    config.filter_type = FilterType::of(filter_type);
    let change = reply::optional(command, "attributes").unwrap_or_default();
    config.attributes = attributes::parse_change(change)?;
    Ok(config)
}

fn unknown(topic: &str) -> Refusal {
    Refusal::new(
        response::TOPIC_NOT_EXIST,
        format!("topic[{}] not exist", quoted(topic)),
    )
}

fn one_config(command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let topic = reply::text(command, "topic")?;
    let table = plane.topics.borrow();
    let entry = table.get(topic).ok_or_else(|| {
        Refusal::new(
            response::TOPIC_NOT_EXIST,
            format!("No topic in this broker. topic: {}", quoted(topic)),
        )
    })?;
    Ok(Reply::json(&entry.config.to_value()))
}

/// The whole table, or `maxTopicNum` topics from `topicSeq` on in name order. A page that was asked
/// for with another data version starts over, since positions have moved.
fn all_configs(command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let table = plane.topics.borrow();
    let mut entries: Vec<&Arc<TopicEntry>> = table.iter().collect();
    entries.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    let total = entries.len();
    let page: usize = reply::number_or(command, "maxTopicNum", 0)?;
    if page > 0 {
        let asked = reply::optional(command, "dataVersion")
            .and_then(|json| fastjson::parse(json.as_bytes()).ok())
            .map(|json| DataVersion::from_value(&json));
        let is_stale = asked.is_some_and(|version| version != *table.version());
        let from = if is_stale {
            0
        } else {
            reply::number_or(command, "topicSeq", 0)?
        };
        entries = entries.into_iter().skip(from).take(page).collect();
    }
    let topics = entries
        .into_iter()
        .map(|entry| (entry.config.name.clone(), entry.config.clone()));
    let body = TopicConfigWrapper {
        data_version: *table.version(),
        topics: topics.collect(),
        ..TopicConfigWrapper::default()
    };
    Ok(Reply::json(&body.to_value()).with("totalTopicNum", total))
}

fn system_topics(plane: &Rc<Plane>) -> Reply {
    let mut names: Vec<String> = plane
        .topics
        .borrow()
        .iter()
        .map(|entry| &entry.config.name)
        .filter(|name| built_in::is_system(name))
        .cloned()
        .collect();
    names.push(plane.settings.broker_name.clone());
    names.push(plane.settings.cluster_name.clone());
    names.sort();
    names.dedup();
    Reply::json(
        &TopicList {
            broker_addr: None,
            topics: names,
        }
        .to_value(),
    )
}

impl Topics {
    /// Codes 306 and 316: queues whose topic is gone are forgotten. (The index of a queue that
    /// exists ends where its log ends, so there is nothing else to clean.) A deletion that isn't
    /// stored may be taken back, so its topic isn't gone yet.
    fn drop_unused(&self, to: ReplyTo, plane: &Rc<Plane>) -> Result<Option<Reply>, Refusal> {
        if let Some(refusal) = &self.astray {
            return Err(refusal.clone());
        }
        let question = {
            let table = plane.topics.borrow();
            let known = table.iter().chain(&self.open.gone);
            Question::DropUnknownTopics {
                known: Arc::new(known.map(|entry| entry.id).collect()),
                below: TopicId(table.next_id()),
            }
        };
        let asking = Rc::clone(plane);
        plane.reply_later(to, async move {
            asking.asker.ask(question).await?;
            Ok(Reply::ok())
        });
        Ok(None)
    }
}

/// Bounds of every queue of a topic; queues that were never written have none and read 0.
fn topic_stats(
    command: &Command,
    to: ReplyTo,
    plane: &Rc<Plane>,
) -> Result<Option<Reply>, Refusal> {
    let topic = reply::text(command, "topic")?.to_owned();
    let entry = plane
        .topics
        .borrow()
        .get(&topic)
        .cloned()
        .ok_or_else(|| unknown(&topic))?;
    let asking = Rc::clone(plane);
    plane.reply_later(to, async move {
        let keys = queues_of(&entry);
        let answers = asking.asker.ask(Question::Bounds(keys)).await?;
        let mut stats = stats_body(&topic, &asking.settings.broker_name, answers);
        stats.put_tps = asking.stats.borrow().put_tps(asking.now_ms(), &topic);
        Ok(Reply::json(&stats.to_value()))
    });
    Ok(None)
}

fn stats_body(topic: &str, broker_name: &str, answers: Vec<Answer>) -> TopicStats {
    let reports = answers.into_iter().flat_map(|answer| match answer {
        Answer::Bounds(reports) => reports,
        _ => Vec::new(),
    });
    let rows = reports.map(|report| {
        let queue = MessageQueue {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            queue_id: i32::from(report.queue.queue.0),
        };
        let stats = QueueStats {
            min_offset: as_wire(report.min.0),
            max_offset: as_wire(report.max.0),
            last_update_ms: as_wire(report.last_update_ms),
        };
        (queue, stats)
    });
    TopicStats {
        queues: rows.collect(),
        put_tps: 0.0,
    }
}
