//! What becomes of a message that a consumer sends back.
//!
//! **Owns** the request's checks, the choice between another try and a dead letter, and the next
//! record's fields (`AbstractSendMessageProcessor.consumerSendMsgBack`, 5.5.0).
//! **Lives on** the control plane's thread; pure but for the tables it looks into.
//! **Invariants** the request's `maxReconsumeTimes` wins over the group's (trap 79) if its client
//! is `V3_4_9` or newer; the unique key, body, born time and host stay those of the message.
//! **Limits** none of its own.
//! **Not here** reading and storing (`super`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::body::{SubscriptionGroupConfig, perm};
use gantry_protocol::code::response;
use gantry_protocol::command::{Command, VERSION_MAX_RECONSUME_TIMES};
use gantry_protocol::message::RecordView;
use gantry_protocol::message_id::offset_id;
use gantry_protocol::properties::{self, items, name};
use gantry_protocol::system_topic;
use gantry_storage::units::{PhysicalOffset, QueueId, QueueKey};

use crate::control::plane::Plane;
use crate::control::reply::{number, number_or, optional, text};
use crate::refusal::{Refusal, quoted};
use crate::seam::TopicEntry;
use crate::seam::errands::SupplyRecord;
use crate::seam::owed::OwedTime;

/// The level of a first retry; each further one is a level later.
const FIRST_LEVEL: i32 = 3;

/// A request, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendBack {
    /// The consumer's group.
    pub group: String,
    /// Where the message lies.
    pub physical: PhysicalOffset,
    /// Queues of the group's retry topic.
    pub retry_queues: i32,
    level: i32,
    tries_max: i32,
}

/// Where the message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It was tried often enough, or the consumer gives it up.
    DeadLetter,
    /// Another try after this level's delay, uncut.
    Level(i32),
}

impl SendBack {
    /// Checks a request; nothing when the group wants no retries at all.
    ///
    /// # Errors
    /// What the consumer is told.
    pub fn check(command: &Command, plane: &Rc<Plane>) -> Result<Option<Self>, Refusal> {
        let group = text(command, "group")?;
        let offset: i64 = number(command, "offset")?;
        let level: i32 = number(command, "delayLevel")?;
        let known = plane.groups.borrow().get(group).map(Arc::clone);
        let config = match known {
            Some(config) => config,
            None if plane.settings.auto_create_subscription_group.get() => {
                Arc::new(SubscriptionGroupConfig::new(group))
            }
            None => {
                let remark = format!("subscription group not exist, {}", quoted(group));
                return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
            }
        };
        if plane.permission.get() & 2 == 0 {
            let ip = plane.settings.advertised.ip();
            let remark = format!("the broker[{ip}] sending message is forbidden");
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        if config.retry_queue_nums <= 0 {
            return Ok(None);
        }
        check_retry_topic(group, plane)?;
        let tries_max = match optional(command, "maxReconsumeTimes") {
            Some(_) if command.version >= VERSION_MAX_RECONSUME_TIMES => {
                number_or(command, "maxReconsumeTimes", config.retry_max_times)?
            }
            _ => config.retry_max_times,
        };
        Ok(Some(Self {
            group: group.to_owned(),
            physical: PhysicalOffset(offset.cast_unsigned()),
            retry_queues: config.retry_queue_nums,
            level,
            tries_max,
        }))
    }

    /// Where a message goes that was tried this often again.
    pub fn goal(&self, reconsume_times: i32) -> Goal {
        if reconsume_times >= self.tries_max || self.level < 0 {
            return Goal::DeadLetter;
        }
        match self.level {
            0 => Goal::Level(FIRST_LEVEL.saturating_add(reconsume_times)),
            level => Goal::Level(level),
        }
    }
}

/// The record of the next try, parked until its time, or of the dead letter.
///
/// # Errors
/// The record is none.
pub fn next_try(
    plane: &Rc<Plane>,
    record: &Bytes,
    goal: Goal,
    (target, queue): (&Arc<TopicEntry>, i32),
    parked: &Arc<TopicEntry>,
) -> Result<SupplyRecord, Refusal> {
    let view = RecordView::parse(record)
        .map_err(|error| Refusal::new(response::SYSTEM_ERROR, error.to_string()))?;
    let delay = match goal {
        Goal::DeadLetter => None,
        Goal::Level(level) => cut_level(level, &plane.settings.delay_levels_ms),
    };
    let mut out = Vec::with_capacity(view.properties.len() + 160);
    let (entry, key_queue) = match delay {
        Some((level, _)) => (parked, level - 1),
        None => (target, u16::try_from(queue).unwrap_or(0)),
    };
    if let Some((level, _)) = delay {
        properties::append(&mut out, name::REAL_TOPIC, &target.config.name);
        properties::append(&mut out, name::REAL_QUEUE_ID, &queue.to_string());
        properties::append(&mut out, name::DELAY, &level.to_string());
    }
    rewrite(&view, &mut out);
    check_room(&out)?;
    Ok(SupplyRecord {
        key: QueueKey {
            topic: entry.id,
            queue: QueueId(key_queue),
        },
        topic: Arc::clone(entry),
        flag: view.flag,
        sys_flag: view.sys_flag,
        born_ms: view.born_timestamp,
        born_host: view.born_host,
        reconsume_times: view.reconsume_times.saturating_add(1),
        prepared_offset: 0,
        body: record.slice_ref(view.body),
        properties: out.into(),
        owed: delay.map(|(_, ms)| OwedTime::AfterStore(ms)),
    })
}

fn cut_level(level: i32, levels_ms: &[u64]) -> Option<(u16, u64)> {
    let last = i32::try_from(levels_ms.len()).unwrap_or(i32::MAX);
    let level = usize::try_from(level.min(last)).ok()?;
    let ms = levels_ms.get(level.checked_sub(1)?)?;
    Some((u16::try_from(level).ok()?, *ms))
}

/// The message's properties, without what an earlier try left behind.
fn rewrite(view: &RecordView<'_>, out: &mut Vec<u8>) {
    let (mut has_topic, mut has_origin) = (false, false);
    for (key, value) in items(view.properties) {
        match key {
            name::REAL_TOPIC
            | name::REAL_QUEUE_ID
            | name::DELAY
            | name::WAIT
            | name::TIMER_DELAY_SEC
            | name::TIMER_DELAY_MS
            | name::TIMER_DELIVER_MS => continue,
            name::RETRY_TOPIC => has_topic = true,
            name::ORIGIN_MESSAGE_ID => has_origin = true,
            _ => {}
        }
        properties::append(out, key, value);
    }
    if !has_topic {
        properties::append(out, name::RETRY_TOPIC, view.topic);
    }
    if !has_origin {
        let id = offset_id(view.store_host, view.physical_offset);
        properties::append(out, name::ORIGIN_MESSAGE_ID, id.as_str());
    }
    properties::append(out, name::WAIT, "false");
}

/// One that takes no messages takes none sent back, not even those that become dead letters
/// (`AbstractSendMessageProcessor.consumerSendMsgBack`, 5.5.0). A missing one is made writable.
fn check_retry_topic(group: &str, plane: &Plane) -> Result<(), Refusal> {
    let name = system_topic::retry_topic(group);
    let topics = plane.topics.borrow();
    let entry = topics.get(&name);
    if entry.is_none_or(|entry| entry.config.perm & perm::WRITE != 0) {
        return Ok(());
    }
    let remark = format!("the topic[{}] sending message is forbidden", quoted(&name));
    Err(Refusal::new(response::NO_PERMISSION, remark))
}

fn check_room(properties: &[u8]) -> Result<(), Refusal> {
    if properties.len() > gantry_protocol::message::PROPERTIES_BYTES_MAX {
        let remark = "the message has no room for the properties of another try";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(level: i32, tries_max: i32) -> SendBack {
        SendBack {
            group: "g".to_owned(),
            physical: PhysicalOffset(0),
            retry_queues: 1,
            level,
            tries_max,
        }
    }

    #[test]
    fn tries_grow_longer_and_end() {
        assert_eq!(back(0, 16).goal(0), Goal::Level(3));
        assert_eq!(back(0, 16).goal(15), Goal::Level(18));
        assert_eq!(back(0, 16).goal(16), Goal::DeadLetter);
        assert_eq!(back(1, 16).goal(4), Goal::Level(1));
        assert_eq!(back(-1, 16).goal(0), Goal::DeadLetter);
        assert_eq!(back(0, 0).goal(0), Goal::DeadLetter);
    }

    #[test]
    fn a_level_above_the_last_is_the_last() {
        assert_eq!(cut_level(1, &[7, 8]), Some((1, 7)));
        assert_eq!(cut_level(99, &[7, 8]), Some((2, 8)));
        assert_eq!(cut_level(3, &[]), None);
    }
}
