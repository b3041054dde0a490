//! The topics actor: makes, changes and deletes topics.
//!
//! **Owns** the only write access to the topic table; the waves that carry changes out.
//! **Lives on** the control plane's thread.
//! **Invariants** a change is committed to the tables before any core or client hears of it; cores
//! hear before the client; the client's answer waits for the name servers that are alive (trap 27),
//! at most `ANNOUNCE_MAX`. Requests for the same topic at once share one wave.
//! **Limits** `WAVE_WAITERS_MAX` answers wait at once; more are refused with 2.
//! **Not here** talking to name servers (`registration`), what a topic may look like (`rules`).

pub mod built_in;
mod requests;
pub mod rules;
pub mod table;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_protocol::body::{TopicConfig, perm};
use gantry_protocol::code::response;
use gantry_protocol::system_topic;
use gantry_storage::units::{QueueId, QueueKey};

use crate::refusal::Refusal;
use crate::seam::{
    CatalogChange, ControlRequest, CoreNumber, Question, Ticket, ToData, TopicEntry,
};

use super::plane::Plane;
use super::reply::{Reply, ReplyTo};
use super::shell::Part;
use table::TopicTable;

/// How long a created topic's answer waits for the name servers. Clients read the route right after;
/// a name server that takes longer than this is one the client can't use now anyway.
const ANNOUNCE_MAX: Duration = Duration::from_millis(1000);
/// Most answers waiting for a commit or a name server.
const WAVE_WAITERS_MAX: usize = 100_000;

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
    /// Write out what has changed; the actor sends it to itself behind a burst.
    Commit,
    /// A wave's topics are at the name servers, or the wait is over.
    Announced(u64),
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
    /// The template.
    pub default_topic: String,
    /// The client's wish.
    pub default_topic_queue_nums: i32,
    /// The unit flag of the request.
    pub unit_mode: bool,
}

/// Who waits for a wave.
enum Waiter {
    Client(ReplyTo, Reply),
    Parked(CoreNumber, Ticket),
}

/// Changes that travel together: one commit, one registration.
#[derive(Default)]
struct Wave {
    put: Vec<Arc<TopicEntry>>,
    gone: Vec<Arc<TopicEntry>>,
    waiters: Vec<Waiter>,
}

impl Wave {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty() && self.waiters.is_empty()
    }

    fn has(&self, topic: &str) -> bool {
        self.put.iter().any(|entry| entry.config.name == topic)
    }
}

/// The topics actor; see the room's head.
pub struct Topics {
    /// Collects until the next `Commit`.
    open: Wave,
    is_commit_due: bool,
    /// On their way to the name servers: the topics' names and who waits.
    travelling: HashMap<u64, (Vec<String>, Vec<Waiter>)>,
    next_wave: u64,
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
            Msg::Commit => self.commit(plane),
            Msg::Announced(wave) => {
                if let Some((_, waiters)) = self.travelling.remove(&wave) {
                    answer(waiters, plane);
                }
            }
            Msg::OrderTopics(names) => self.order_topics(&names, plane),
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
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
    let mut table = TopicTable::new(stored.entries, stored.version, stored.next_id);
    let now_ms = plane.now_ms();
    let mut missing = Vec::new();
    for config in built_in::built_in_topics(&plane.settings) {
        if table.get(&config.name).is_none() {
            missing.extend(table.put(config, now_ms)?);
        }
    }
    if !missing.is_empty() {
        plane.ledger.store_topics(&missing, &[], &table)?;
    }
    *plane.topics.borrow_mut() = table;
    Ok(())
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
            rules::from_template(
                &wish.topic,
                &wish.default_topic,
                table.get(&wish.default_topic).map(|entry| &entry.config),
                plane.settings.auto_create_topic_enable,
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
        let mut config = built_in::topic(topic, queues, perm::READ | perm::WRITE);
        config.topic_sys_flag = sys_flag;
        let made = plane.topics.borrow_mut().put(config, plane.now_ms());
        match made {
            Ok(entry) => self.open.put.extend(entry),
            Err(refusal) => tracing::warn!(topic, %refusal, "a retry topic can't be created"),
        }
        self.commit_soon(plane);
    }

    fn order_topics(&mut self, names: &[String], plane: &Rc<Plane>) {
        let names = names.iter().map(String::as_str);
        let changed = plane
            .topics
            .borrow_mut()
            .apply_order_topics(names, plane.now_ms());
        if !changed.is_empty() {
            self.open.put.extend(changed);
            self.commit_soon(plane);
        }
    }

    /// Puts a topic into the table and the open wave.
    fn put(&mut self, config: TopicConfig, waiter: Waiter, plane: &Rc<Plane>) {
        let made = plane.topics.borrow_mut().put(config, plane.now_ms());
        match made {
            Ok(entry) => {
                self.open.put.extend(entry);
                self.wait(waiter, plane);
            }
            Err(refusal) => refuse(waiter, &refusal, plane),
        }
    }

    /// Waits with the wave that carries this topic, if one does.
    fn join(&mut self, topic: &str, waiter: Waiter, plane: &Rc<Plane>) {
        let carrying = self
            .travelling
            .values_mut()
            .find(|(names, _)| names.iter().any(|name| name == topic));
        if let Some((_, waiters)) = carrying {
            waiters.push(waiter);
        } else if self.open.has(topic) {
            self.wait(waiter, plane);
        } else {
            answer(vec![waiter], plane);
        }
    }

    fn wait(&mut self, waiter: Waiter, plane: &Rc<Plane>) {
        if self.open.waiters.len() >= WAVE_WAITERS_MAX {
            let busy = Refusal::new(
                response::SYSTEM_BUSY,
                format!("[OVERLOAD]{WAVE_WAITERS_MAX} requests wait for topic changes already"),
            );
            refuse(waiter, &busy, plane);
            return;
        }
        self.open.waiters.push(waiter);
        self.commit_soon(plane);
    }

    /// One commit for everything that is in the mailbox now.
    fn commit_soon(&mut self, plane: &Rc<Plane>) {
        if !self.is_commit_due {
            self.is_commit_due = true;
            plane.book().topics.tell(Msg::Commit);
        }
    }

    fn commit(&mut self, plane: &Rc<Plane>) {
        self.is_commit_due = false;
        let wave = std::mem::take(&mut self.open);
        if wave.is_empty() {
            return;
        }
        let stored = plane
            .ledger
            .store_topics(&wave.put, &wave.gone, &plane.topics.borrow());
        if let Err(refusal) = stored {
            self.undo(wave, &refusal, plane);
            return;
        }
        for entry in &wave.put {
            plane
                .outbox
                .change(CatalogChange::TopicPut(Arc::clone(entry)));
        }
        for entry in &wave.gone {
            plane
                .outbox
                .change(CatalogChange::TopicGone(entry.config.name.clone()));
            forget_queues(entry, plane);
        }
        if wave.put.is_empty() && wave.gone.is_empty() {
            answer(wave.waiters, plane);
            return;
        }
        let number = self.next_wave;
        self.next_wave += 1;
        let names = wave
            .put
            .iter()
            .map(|entry| entry.config.name.clone())
            .collect();
        self.travelling.insert(number, (names, wave.waiters));
        let told = plane
            .book()
            .registration
            .announce(&wave.put, !wave.gone.is_empty());
        let plane = Rc::clone(plane);
        actix::spawn(async move {
            if actix::clock::timeout(ANNOUNCE_MAX, told).await.is_err() {
                tracing::debug!("a name server is slow: a topic's creator is answered before it");
            }
            plane.book().topics.tell(Msg::Announced(number));
        });
    }

    /// The commit failed: the tables are the truth, so the table is read from them again.
    fn undo(&mut self, wave: Wave, why: &Refusal, plane: &Rc<Plane>) {
        tracing::error!(%why, "topic changes can't be stored and are taken back");
        for waiter in wave.waiters {
            refuse(waiter, why, plane);
        }
        if let Err(refusal) = load(plane) {
            plane.give_up(Self::NAME, &refusal.remark);
        }
    }
}

/// Every queue of a topic, as many as its larger count.
pub fn queues_of(entry: &TopicEntry) -> Vec<QueueKey> {
    let count = entry
        .config
        .read_queue_nums
        .max(entry.config.write_queue_nums)
        .max(0);
    (0..count)
        .filter_map(|queue| u16::try_from(queue).ok())
        .map(|queue| QueueKey {
            topic: entry.id,
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
    if !is_retry || rules::check_topic_name(&wish.topic).is_err() {
        return Err(refusal);
    }
    let mut config = built_in::topic(&wish.topic, 1, perm::READ | perm::WRITE);
    config.topic_sys_flag = rules::sys_flag(wish.unit_mode, &wish.topic);
    Ok(config)
}

/// Queues and offsets of a deleted topic go, after the cores have dropped the topic itself.
fn forget_queues(entry: &Arc<TopicEntry>, plane: &Rc<Plane>) {
    let id = entry.id;
    let topic = entry.config.name.clone();
    let plane = Rc::clone(plane);
    actix::spawn(async move {
        if let Err(refusal) = plane.asker.ask(Question::DropTopic(id)).await {
            tracing::warn!(topic, %refusal, "queues of a deleted topic may still take space");
        }
        plane
            .book()
            .offsets
            .tell(super::offsets::Msg::TopicGone(id));
    });
}

fn answer(waiters: Vec<Waiter>, plane: &Rc<Plane>) {
    for waiter in waiters {
        match waiter {
            Waiter::Client(to, reply) => plane.reply(&to, reply),
            Waiter::Parked(core, ticket) => {
                plane.outbox.send(
                    core,
                    ToData::Resolved {
                        ticket,
                        outcome: Ok(()),
                    },
                );
            }
        }
    }
}

fn refuse(waiter: Waiter, why: &Refusal, plane: &Rc<Plane>) {
    match waiter {
        Waiter::Client(to, _) => plane.refuse(&to, why),
        Waiter::Parked(core, ticket) => {
            let outcome = Err(why.clone());
            plane
                .outbox
                .send(core, ToData::Resolved { ticket, outcome });
        }
    }
}
