//! The topics actor: makes, changes and deletes topics.
//!
//! **Owns** the only write access to the topic table; the waves that carry changes out.
//! **Lives on** the control plane's thread.
//! **Invariants** a change is committed to the tables before any core or client hears of it; cores
//! hear before the client; the client's answer waits for the name servers that are alive (trap 27),
//! at most a second. Requests for the same topic at once share one wave.
//! **Limits** see `wave`.
//! **Not here** talking to name servers (`registration`), what a topic may look like (`rules`).

pub mod built_in;
mod requests;
pub mod rules;
pub mod table;
mod wave;

use std::collections::HashMap;
use std::fs::DirEntry;
use std::path::Path;
use std::rc::Rc;

use gantry_protocol::body::{TopicConfig, perm};
use gantry_protocol::system_topic;
use gantry_storage::units::{QueueId, QueueKey, TopicId};
use tokio::sync::oneshot;

use crate::refusal::Refusal;
use crate::seam::{ControlRequest, CoreNumber, Ticket, TopicEntry};

use super::plane::Plane;
use super::reply::{Reply, ReplyTo};
use super::supervision::shell::Part;
use table::TopicTable;
use wave::{Waiter, Wave, answer, refuse};

/// Topic ids that follow a lost table lie between these: above all that counting from 1 gives, with
/// a quarter of all ids left.
const ID_AFTER_LOSS_MIN: u32 = 1 << 30;
const ID_AFTER_LOSS_MAX: u32 = 3 << 30;

/// What the topics actor is told.
pub enum Msg {
    /// A client's request with a code of this actor.
    Serve(ControlRequest),
    /// A send wants a topic, see `ToControl::EnsureTopic`.
    Ensure(Ensure),
    /// A consumer group needs its retry topic.
    EnsureRetry {
        /// `%RETRY%group`.
        topic: String,
        /// Its queues.
        queues: i32,
        /// 0, or the unit-subscription flag.
        sys_flag: i32,
    },
    /// A supervisor needs a topic with so many queues; told when the cores have it.
    EnsureOwn {
        /// The topic.
        topic: String,
        /// Its queues.
        queues: i32,
        /// Who waits.
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Write out what has changed; the actor sends it to itself behind a burst.
    Commit,
    /// A wave's topics are at the name servers, or the wait is over.
    Announced(u64),
    /// `brokerPermission` changed: the name servers hear, then this client.
    PermissionChanged(ReplyTo, Reply),
    /// The name servers' `ORDER_TOPIC_CONFIG`.
    OrderTopics(Vec<String>),
}

/// A parked send's wish.
#[derive(Debug)]
pub struct Ensure {
    /// The asking core.
    pub core: CoreNumber,
    /// Its name for the parked request.
    pub ticket: Ticket,
    /// The wanted topic.
    pub topic: String,
    /// The template; none for a core's own wish.
    pub default_topic: Option<String>,
    /// The client's wish.
    pub default_topic_queue_nums: i32,
    /// The unit flag of the request.
    pub unit_mode: bool,
}

/// The topics actor; see the room's head.
pub struct Topics {
    /// Collects until the next `Commit`.
    open: Wave,
    is_commit_due: bool,
    /// On their way to the name servers: the topics' names and who waits.
    travelling: HashMap<u64, (Vec<String>, Vec<Waiter>)>,
    next_wave: u64,
    /// Why the table in memory is not the stored one, and changes must not be stored from it.
    astray: Option<Refusal>,
}

impl Part for Topics {
    const NAME: &'static str = "topics";
    type Msg = Msg;

    fn build(plane: &Rc<Plane>) -> Result<Self, Refusal> {
        load(plane)?;
        Ok(Self {
            open: Wave::default(),
            is_commit_due: false,
            travelling: HashMap::new(),
            next_wave: 1,
            astray: None,
        })
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => self.serve(&request, plane),
            Msg::Ensure(wish) => self.ensure(&wish, plane),
            Msg::EnsureRetry {
                topic,
                queues,
                sys_flag,
            } => {
                self.ensure_retry(&topic, queues, sys_flag, plane);
            }
            Msg::EnsureOwn {
                topic,
                queues,
                done,
            } => {
                self.ensure_own(&topic, queues, Waiter::Task(done), plane);
            }
            Msg::Commit => self.commit(plane),
            Msg::Announced(wave) => {
                if let Some((_, waiters)) = self.travelling.remove(&wave) {
                    answer(waiters, plane);
                }
            }
            Msg::PermissionChanged(to, reply) => {
                self.open.in_full = true;
                self.wait(Waiter::Client(to, reply), plane);
            }
            Msg::OrderTopics(names) => self.order_topics(&names, plane),
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
            Msg::PermissionChanged(to, _) => Some(*to),
            _ => None,
        }
    }

    fn abandon(&mut self, plane: &Rc<Plane>, why: &Refusal) {
        let open = std::mem::take(&mut self.open).waiters;
        let travelling = std::mem::take(&mut self.travelling);
        let waiters = open
            .into_iter()
            .chain(travelling.into_values().flat_map(|(_, all)| all));
        for waiter in waiters {
            refuse(waiter, why, plane);
        }
    }
}

/// Reads the table, adds the built-in topics that are missing, and stores them.
fn load(plane: &Rc<Plane>) -> Result<(), Refusal> {
    let stored = plane.ledger.load_topics()?;
    let is_lost = stored.next_id.is_none() && has_shards(&plane.settings.data_dir);
    let next_id = stored.next_id.unwrap_or(1);
    let mut table = TopicTable::new(stored.entries, stored.version, next_id);
    let mut missing = Vec::new();
    for config in built_in::built_in_topics(&plane.settings) {
        if table.get(&config.name).is_none() {
            missing.extend(table.put(config)?);
        }
    }
    if is_lost {
        // The built-in ones have the ids that they always get: open half messages are found again.
        let id = id_after_loss(plane.now_ms());
        tracing::warn!(
            id,
            "the table of topics is lost: new ones share no message with old ones"
        );
        table.skip_ids_below(id);
    }
    if !missing.is_empty() {
        table.advance(plane.now_ms());
        plane.ledger.store_topics(&missing, &[], &table)?;
    }
    *plane.topics.borrow_mut() = table;
    Ok(())
}

/// Whether the data folder has messages already.
fn has_shards(data: &Path) -> bool {
    let is_shard = |entry: DirEntry| entry.file_name().to_string_lossy().starts_with("shard-");
    std::fs::read_dir(data).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_shard)))
}

/// An id above all that the lost table has given: it counted from 1, or from an earlier loss, and
/// gave less than one a second. A clock that is wrong is still above the former.
fn id_after_loss(now_ms: i64) -> u32 {
    let seconds = u32::try_from(now_ms / 1000).unwrap_or_default();
    seconds.clamp(ID_AFTER_LOSS_MIN, ID_AFTER_LOSS_MAX)
}

impl Topics {
    fn ensure(&mut self, wish: &Ensure, plane: &Rc<Plane>) {
        let waiter = Waiter::Parked(wish.core, wish.ticket);
        if plane.topics.borrow().get(&wish.topic).is_some() {
            self.join(&wish.topic, waiter, plane);
            return;
        }
        let made = {
            let table = plane.topics.borrow();
            let template = wish.default_topic.as_deref().unwrap_or_default();
            rules::from_template(
                &wish.topic,
                template,
                table.get(template).map(|entry| &entry.config),
                plane.settings.auto_create_topic_enable.get(),
                wish.default_topic_queue_nums,
                wish.unit_mode,
            )
        };
        match made.or_else(|refusal| retry_fall_back(wish, refusal)) {
            Ok(config) => self.put(config, waiter, plane),
            Err(refusal) => refuse(waiter, &refusal, plane),
        }
    }

    fn ensure_retry(&mut self, topic: &str, queues: i32, sys_flag: i32, plane: &Rc<Plane>) {
        if plane.topics.borrow().get(topic).is_some() || rules::check_topic_name(topic).is_err() {
            return;
        }
        let mut config = of_a_group(topic, queues);
        config.topic_sys_flag = sys_flag;
        let made = plane.topics.borrow_mut().put(config);
        match made {
            Ok(entry) => self.open.put.extend(entry),
            Err(refusal) => tracing::warn!(topic, %refusal, "a retry topic can't be created"),
        }
        self.commit_soon(plane);
    }

    fn ensure_own(&mut self, topic: &str, queues: i32, waiter: Waiter, plane: &Rc<Plane>) {
        if plane.topics.borrow().get(topic).is_some() {
            return self.join(topic, waiter, plane);
        }
        match rules::check_topic_name(topic) {
            Ok(()) => {
                self.put(of_a_group(topic, queues), waiter, plane);
            }
            Err(refusal) => refuse(waiter, &refusal, plane),
        }
    }

    fn order_topics(&mut self, names: &[String], plane: &Rc<Plane>) {
        let names = names.iter().map(String::as_str);
        let changed = plane.topics.borrow_mut().apply_order_topics(names);
        if !changed.is_empty() {
            self.open.put.extend(changed);
            self.commit_soon(plane);
        }
    }

    /// Puts a topic into the table and the open wave.
    fn put(&mut self, config: TopicConfig, waiter: Waiter, plane: &Rc<Plane>) {
        let made = plane.topics.borrow_mut().put(config);
        match made {
            Ok(entry) => {
                self.open.put.extend(entry);
                self.wait(waiter, plane);
            }
            Err(refusal) => refuse(waiter, &refusal, plane),
        }
    }
}

/// A topic with the queues that a group's configuration names: one that was stored before their
/// number was checked, or comes from an import, may name any.
fn of_a_group(topic: &str, queues: i32) -> TopicConfig {
    let queues = queues.clamp(0, rules::TOPIC_QUEUES_MAX);
    built_in::topic(topic, queues, perm::READ | perm::WRITE)
}

/// Every queue of a topic, as many as its larger count.
pub fn queues_of(entry: &TopicEntry) -> Vec<QueueKey> {
    first_queues(entry.id, entry.config.queue_nums())
}

/// Those that consumers read.
pub fn read_queues(entry: &TopicEntry) -> Vec<QueueKey> {
    first_queues(entry.id, entry.config.read_queue_nums)
}

/// Those that producers send to.
pub fn write_queues(entry: &TopicEntry) -> Vec<QueueKey> {
    first_queues(entry.id, entry.config.write_queue_nums)
}

fn first_queues(topic: TopicId, count: i32) -> Vec<QueueKey> {
    let count = count.min(rules::TOPIC_QUEUES_MAX);
    let ids = (0..count).filter_map(|queue| u16::try_from(queue).ok());
    ids.map(|queue| QueueKey {
        topic,
        queue: QueueId(queue),
    })
    .collect()
}

/// An unsigned figure as the wire's signed one.
pub fn as_wire(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A send to `%RETRY%group` that the template can't make still gets its topic, with one queue
/// (`AbstractSendMessageProcessor.msgCheck`, 5.5.0; trap 105 is the case with a template).
fn retry_fall_back(wish: &Ensure, refusal: Refusal) -> Result<TopicConfig, Refusal> {
    let is_retry = system_topic::group_of_retry_topic(&wish.topic).is_some();
    // A core asks without a template for a message that has become a dead letter.
    let is_dead_letters =
        wish.default_topic.is_none() && system_topic::group_of_dlq_topic(&wish.topic).is_some();
    if !(is_retry || is_dead_letters) || rules::check_topic_name(&wish.topic).is_err() {
        return Err(refusal);
    }
    let mut config = built_in::topic(&wish.topic, 1, perm::READ | perm::WRITE);
    config.topic_sys_flag = rules::sys_flag(wish.unit_mode, &wish.topic);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration of another origin is not checked, and its queues are walked.
    #[test]
    fn no_count_of_queues_is_beyond_a_topics() {
        let made = |queues| of_a_group("%RETRY%g", queues).write_queue_nums;
        assert_eq!(made(i32::MAX), rules::TOPIC_QUEUES_MAX);
        assert_eq!((made(-1), made(3)), (0, 3));
        let walked = first_queues(TopicId(1), i32::MAX);
        assert_eq!(walked.len(), 65_535);
        assert!(first_queues(TopicId(1), -1).is_empty());
    }
}
