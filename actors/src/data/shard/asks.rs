//! Requests of one queue that are neither appends nor pulls: offsets, bounds, times.
//!
//! **Owns** the answers of 14, 15, 29, 30, 31 and 32.
//! **Lives on** the data core of the shard.
//! **Invariants** what memory knows is answered in the turn; what needs the device is answered by a
//! task, in the order it came.
//! **Limits** [`ASK_READS_MAX`] tasks, which pulls don't take; [`ASKS_WAITING_MAX`] questions that
//! wait for one, [`COLD_WAIT_MS_MAX`] long.
//! **Not here** checks of names and rights (`requests::offsets`), locks over many queues
//! (`data::requests::locks`).

use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_protocol::command::ExtValue;
use gantry_runtime::net::PeerRef;
use gantry_storage::error::ReadError;
use gantry_storage::units::{Boundary, QueueKey, QueueOffset, StoreTimestamp};

use super::{COLD_WAIT_MS_MAX, Inner, Shard};
use crate::data::host::Host;
use crate::data::queue::actor::{Ask, QueueActor};
use crate::data::queue::offsets::{Commit, GROUPS_MAX};
use crate::data::queue::store::QueueStore;
use crate::data::words::{QueueRequest, ReplyTo};
use crate::refusal::{BusyCause, Refusal};

/// Answers under way that may need the device: half as many as pulls may have reads. Each holds a
/// page of an index and no record, so they have no part of the memory.
pub const ASK_READS_MAX: usize = 64;
/// Questions of one shard that wait until others are answered: some 80 bytes each. Whoever begins
/// to read many queues asks for the position in each at once, and a group does with all its
/// members; `RocketMQ` lets them wait, too.
pub const ASKS_WAITING_MAX: usize = 8192;

/// A question for which the device may be needed.
#[derive(Debug)]
enum Question {
    /// Whether the queue's first record is so new that a group without a position begins there.
    FirstIsRecent,
    /// 32.
    EarliestTime,
    /// 29.
    SearchTime(StoreTimestamp, Boundary),
}

/// A question and who asked it.
#[derive(Debug)]
pub struct Asked {
    key: QueueKey,
    reply: ReplyTo,
    question: Question,
    /// Since when, µs.
    since_us: u64,
}

impl Asked {
    /// Whether this connection asked it.
    pub fn is_of(&self, peer: PeerRef) -> bool {
        self.reply.peer == peer
    }
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    pub(super) fn ask(self: &Rc<Self>, inner: &mut Inner, actor: &mut QueueActor, ask: Ask) {
        let Ask {
            reply,
            request,
            posted_us,
        } = ask;
        let key = actor.key;
        match request {
            QueueRequest::Pull(pull) => self.pull(inner, actor, (reply, posted_us), pull),
            QueueRequest::QueryOffset {
                group,
                zero_if_young,
            } => {
                self.query_offset(inner, actor, reply, &group, zero_if_young);
            }
            QueueRequest::CommitOffset { group, offset } => {
                let offset = QueueOffset(u64::try_from(offset).unwrap_or(0));
                match actor.state.offsets.commit(&group, offset) {
                    Commit::Refused => {
                        let remark = format!("the queue has {GROUPS_MAX} groups already");
                        self.host
                            .refuse(reply, &Refusal::new(response::SYSTEM_ERROR, remark));
                        return;
                    }
                    Commit::FirstDirty => inner.note_dirty(actor),
                    Commit::Stored | Commit::Swallowed => {}
                }
                self.host
                    .reply(reply, response::SUCCESS, None, Some(&[]), &[]);
            }
            QueueRequest::MaxOffset => self.tell_offset(reply, self.store.bounds(key).max),
            QueueRequest::MinOffset => self.tell_offset(reply, self.store.bounds(key).min),
            QueueRequest::EarliestTime => {
                let bounds = self.store.bounds(key);
                if bounds.min == bounds.max {
                    return self.tell_number(reply, "timestamp", -1);
                }
                self.in_background(inner, key, reply, Question::EarliestTime);
            }
            QueueRequest::SearchTime { time, boundary } => {
                self.in_background(inner, key, reply, Question::SearchTime(time, boundary));
            }
        }
    }

    fn query_offset(
        self: &Rc<Self>,
        inner: &mut Inner,
        actor: &QueueActor,
        reply: ReplyTo,
        group: &str,
        zero_if_young: bool,
    ) {
        let (key, bounds) = (actor.key, self.store.bounds(actor.key));
        if let Some(offset) = actor
            .state
            .query_offset(group, bounds, false, zero_if_young)
        {
            return self.tell_offset(reply, offset);
        }
        let has_first = bounds.min.0 == 0 && bounds.max.0 > 0;
        if !zero_if_young || !has_first {
            return self.tell_not_found(reply);
        }
        self.in_background(inner, key, reply, Question::FirstIsRecent);
    }

    /// Whether the queue's first record lies near the end of the log.
    async fn first_is_recent(&self, key: QueueKey) -> Result<bool, ReadError> {
        let first = self.store.entries(key, QueueOffset(0), 1).await?;
        let behind = first.first();
        let behind = behind.map(|entry| self.store.staged().since(entry.position));
        Ok(behind.is_some_and(|bytes| bytes <= self.rules.young_bytes))
    }

    /// 29: before the first record → min, after the last → max.
    pub(super) async fn offset_at(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        let found = self.store.search_by_time(key, time, boundary).await?;
        let bounds = self.store.bounds(key);
        Ok(found.clamp(bounds.min, bounds.max.max(bounds.min)))
    }

    fn in_background(
        self: &Rc<Self>,
        inner: &mut Inner,
        key: QueueKey,
        reply: ReplyTo,
        question: Question,
    ) {
        let asked = Asked {
            key,
            reply,
            question,
            since_us: self.host.mono_us(),
        };
        if inner.asks_under_way < ASK_READS_MAX {
            inner.asks_under_way += 1;
            let shard = Rc::clone(self);
            self.host.spawn(async move {
                let mut next = Some(asked);
                while let Some(asked) = next {
                    shard.answer_asked(asked).await;
                    next = shard.next_asked();
                    if next.is_some() {
                        // What is in memory is found without a wait, for however many.
                        shard.host.breathe().await;
                    }
                }
            });
        } else if inner.asks_waiting.len() < ASKS_WAITING_MAX {
            inner.asks_waiting.push_back(asked);
        } else {
            let remark = format!("shard {}, {ASKS_WAITING_MAX} questions wait", self.id);
            let busy = self.host.busy(BusyCause::DeviceRead, &remark);
            self.host.refuse(reply, &busy);
        }
    }

    /// The question whose turn it is; without one its task ends.
    fn next_asked(&self) -> Option<Asked> {
        let mut inner = self.inner.borrow_mut();
        let next = inner.asks_waiting.pop_front();
        inner.asks_under_way -= usize::from(next.is_none());
        next
    }

    async fn answer_asked(&self, asked: Asked) {
        let Asked { key, reply, .. } = asked;
        let waited_ms = self.host.mono_us_now().saturating_sub(asked.since_us) / 1000;
        if waited_ms > COLD_WAIT_MS_MAX {
            let id = self.id;
            let remark = format!("shard {id}: waited {waited_ms} ms for the device");
            let busy = self.host.busy(BusyCause::DeviceReadLate, &remark);
            return self.host.refuse(reply, &busy);
        }
        match asked.question {
            Question::FirstIsRecent => match self.first_is_recent(key).await {
                Ok(true) => self.tell_offset(reply, QueueOffset(0)),
                Ok(false) => self.tell_not_found(reply),
                Err(error) => self.tell_fault(reply, &error),
            },
            Question::EarliestTime => {
                let time = self
                    .store
                    .store_time_at(key, self.store.bounds(key).min)
                    .await;
                let told = |time: Option<StoreTimestamp>| time.map_or(-1, |ms| as_i64(ms.0));
                self.tell_read(reply, "timestamp", time.map(told));
            }
            Question::SearchTime(time, boundary) => {
                let found = self.offset_at(key, time, boundary).await;
                self.tell_read(reply, "offset", found.map(|offset| as_i64(offset.0)));
            }
        }
    }

    fn tell_read(&self, reply: ReplyTo, name: &str, read: Result<i64, ReadError>) {
        match read {
            Ok(number) => self.tell_number(reply, name, number),
            Err(error) => self.tell_fault(reply, &error),
        }
    }

    fn tell_fault(&self, reply: ReplyTo, error: &ReadError) {
        tracing::warn!(shard = %self.id, %error, "a request failed");
        self.host.refuse(
            reply,
            &Refusal::new(response::SYSTEM_ERROR, error.to_string()),
        );
    }

    fn tell_not_found(&self, reply: ReplyTo) {
        let remark = "Not found, maybe this group consumer boot first";
        self.host.reply(
            reply,
            response::QUERY_NOT_FOUND,
            Some(remark),
            Some(&[]),
            &[],
        );
    }

    fn tell_offset(&self, reply: ReplyTo, offset: QueueOffset) {
        self.tell_number(reply, "offset", as_i64(offset.0));
    }

    fn tell_number(&self, reply: ReplyTo, name: &str, number: i64) {
        let ext = [(name, ExtValue::Int(number))];
        self.host
            .reply(reply, response::SUCCESS, None, Some(&ext), &[]);
    }
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
