//! `gantry import`: topics, groups and positions of an existing RocketMQ, into a running broker.
//!
//! **Owns** what is taken, in which order, and the report.
//! **Lives on** the command's runtime.
//! **Invariants** what the broker has is only changed with `--overwrite`; a dry run changes nothing
//! and reports the same. No messages are brought along, so a position means none of those that a
//! queue has here: a group without one here gets everything that is stored here; one that has its
//! own is moved only with `--overwrite`, and then not beyond the queue's end.
//! **Limits** those of `crate::admin::session`; one request an entry.
//! **Not here** the files (`files`), messages: they stay where they are.

mod files;
mod positions;
mod tally;

use std::collections::BTreeMap;

use gantry_protocol::body::{SubscriptionGroupConfig, TopicConfig, perm};
use gantry_protocol::code::request;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_protocol::request::topic::{CreateTopic, TopicGroupHeader};
use gantry_protocol::system_topic;

use self::tally::{Fate, Tally};
use crate::admin::session::{Session, added_attributes, pages};
use crate::cli::Import;
use crate::client::block_on;

/// Topics of RocketMQ's own.
const SYSTEM_PREFIX: &str = "RMQ_SYS_";

/// Runs the command.
///
/// # Errors
/// What could not be read or reached, or that not everything could be taken.
pub fn run(command: &Import) -> Result<(), String> {
    let found = files::read(&command.from)?;
    block_on(import(command, found))
}

/// Into which broker, and how.
struct Work<'a> {
    session: Session,
    address: String,
    command: &'a Import,
    topics: BTreeMap<String, TopicConfig>,
    groups: BTreeMap<String, SubscriptionGroupConfig>,
}

async fn import(command: &Import, found: files::Found) -> Result<(), String> {
    let mut session = Session::new(&command.at)?;
    let masters = session.masters_to_change().await?;
    let [broker] = masters.as_slice() else {
        let names: Vec<&str> = masters.iter().map(|broker| broker.name.as_str()).collect();
        let names = names.join(", ");
        return Err(format!(
            "there are several masters ({names}): name one with --broker"
        ));
    };
    let address = broker.address.clone();
    let topics = pages::topics(&mut session, &address).await?;
    let groups = pages::groups(&mut session, &address).await?;
    let mut work = Work {
        session,
        address,
        command,
        topics,
        groups,
    };
    let mut tally = Tally::new(&broker.name, command.dry_run);
    for topic in &found.topics {
        let fate = work.topic(topic).await?;
        tally.note(tally::TOPICS, &topic.name, fate);
    }
    for group in &found.groups {
        let fate = work.group(group).await?;
        tally.note(tally::GROUPS, &group.group, fate);
    }
    for (group, topic) in &found.forbidden {
        let fate = work.forbid(group, topic).await?;
        tally.note(tally::FORBIDDEN, &format!("{topic}@{group}"), fate);
    }
    work.positions(&found.positions, &mut tally).await?;
    for (what, why) in found.left {
        tally.leave(what, why);
    }
    tally.report().print(command.at.json)?;
    match tally.missed() {
        0 => Ok(()),
        missed => Err(format!("{missed} entries were not taken, see above")),
    }
}

/// Topics that every broker makes for itself; those named after cluster and broker pass their
/// permission on.
fn is_system(topic: &TopicConfig) -> bool {
    system_topic::is_system_topic(&topic.name)
        || topic.name.starts_with(SYSTEM_PREFIX)
        || topic
            .name
            .ends_with(&format!("_{}", system_topic::REPLY_TOPIC_SUFFIX))
        || topic.perm & perm::INHERIT != 0
}

impl Work<'_> {
    /// What becomes of an entry that is, or is not, there already.
    fn decide(&self, known: Option<bool>) -> Option<Fate> {
        match known {
            Some(true) => Some(Fate::There),
            Some(false) if !self.command.overwrite => Some(Fate::Differs),
            _ if self.command.dry_run => Some(Fate::Taken),
            _ => None,
        }
    }

    /// A change that the broker may refuse: that is the entry's fate, not the end.
    fn settle(outcome: Result<gantry_protocol::Command, String>) -> Fate {
        match outcome {
            Ok(_) => Fate::Taken,
            Err(why) => Fate::Failed(why),
        }
    }

    async fn topic(&mut self, topic: &TopicConfig) -> Result<Fate, String> {
        if is_system(topic) {
            return Ok(Fate::System);
        }
        let known = self.topics.get(&topic.name).map(|known| known == topic);
        let decided = self.decide(known);
        if matches!(decided, None | Some(Fate::Taken)) {
            self.topics.insert(topic.name.clone(), topic.clone());
        }
        if let Some(fate) = decided {
            return Ok(fate);
        }
        let attributes = added_attributes(topic.attributes.iter());
        let header = CreateTopic {
            topic: &topic.name,
            default_topic: Some(system_topic::AUTO_CREATE_TOPIC),
            read_queue_nums: topic.read_queue_nums,
            write_queue_nums: topic.write_queue_nums,
            perm: topic.perm,
            filter_type: Some(topic.filter_type.name()),
            topic_sys_flag: Some(topic.topic_sys_flag),
            order: topic.order,
            attributes: Some(attributes.as_str()).filter(|text| !text.is_empty()),
            force: false,
        };
        let code = request::UPDATE_AND_CREATE_TOPIC;
        let done = self.session.call(&self.address, code, header.to_ext());
        Ok(Self::settle(done.await))
    }

    async fn group(&mut self, group: &SubscriptionGroupConfig) -> Result<Fate, String> {
        if system_topic::is_system_group(&group.group) {
            return Ok(Fate::System);
        }
        let known = self.groups.get(&group.group).map(|known| known == group);
        let decided = self.decide(known);
        if matches!(decided, None | Some(Fate::Taken)) {
            self.groups.insert(group.group.clone(), group.clone());
        }
        if let Some(fate) = decided {
            return Ok(fate);
        }
        let mut wish = group.clone();
        // A file has attributes as they are stored; a request says what to do with each.
        let stored = std::mem::take(&mut wish.attributes).into_iter();
        wish.attributes = stored
            .map(|(key, value)| (format!("+{key}"), value))
            .collect();
        let body = to_bytes(&wish.to_value(), IntegerKeys::Quoted);
        let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        let done = self.session.call_with_body(&self.address, code, [], body);
        Ok(Self::settle(done.await))
    }

    async fn forbid(&mut self, group: &str, topic: &str) -> Result<Fate, String> {
        if self.command.dry_run {
            return Ok(Fate::Taken);
        }
        let header = TopicGroupHeader {
            topic,
            group,
            readable: Some(false),
        };
        let code = request::UPDATE_AND_GET_GROUP_FORBIDDEN;
        let done = self.session.call(&self.address, code, header.to_ext());
        Ok(Self::settle(done.await))
    }
}
