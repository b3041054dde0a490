//! Questions whose answer is spread over the cores.
//!
//! **Owns** the questions under way on this core and their shares that have come.
//! **Lives on** each data core.
//! **Invariants** an answer leaves when every core has given its share, or when time is up, with
//! what came.
//! **Limits** [`GATHERS_MAX`] under way, each at most [`GATHER_MS`].
//! **Not here** what is asked (`locks`, `query`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_runtime::budget::shared::Held;
use gantry_storage::units::{PhysicalOffset, QueueKey};

use super::core::DataCore;
use super::host::Host;
use super::queue::store::QueueStore;
use super::requests::orderly::Heard;
use super::router::CoreWord;
use super::words::ReplyTo;
use crate::refusal::{BusyCause, Refusal};
use crate::seam::{CoreNumber, Ticket};

/// Most questions under way on a core.
pub const GATHERS_MAX: usize = 4096;
/// Longest wait for a core's share.
pub const GATHER_MS: u64 = 3_000;

/// A question to every core.
#[derive(Debug, Clone)]
pub enum GatherAsk {
    /// Take (or give back) order locks on these queues.
    Lock {
        /// The queues, of any core.
        queues: Arc<[QueueKey]>,
        /// For this group.
        group: Arc<str>,
        /// For this client.
        client: Arc<str>,
        /// False: give back.
        take: bool,
    },
    /// Find records by key.
    QueryKey(Arc<KeyQuery>),
    /// Read one record, if its shard is the answering core's. The memory for it is the asker's,
    /// held until the read is over: the asker may have given up by then.
    Record(PhysicalOffset, Arc<Held>),
}

/// A search by key.
#[derive(Debug)]
pub struct KeyQuery {
    /// Number of the topic.
    pub topic: gantry_storage::units::TopicId,
    /// The key.
    pub key: String,
    /// Earliest store time, ms.
    pub begin_ms: u64,
    /// Latest store time, ms.
    pub end_ms: u64,
    /// Most records.
    pub records_max: usize,
}

/// One core's share.
#[derive(Debug)]
pub enum GatherAnswer {
    /// Queues locked now.
    Locked(Vec<QueueKey>),
    /// Records with their store times, newest first.
    Records(Vec<(u64, Bytes)>),
}

/// What to do with the complete answer.
#[derive(Debug)]
pub enum GatherGoal {
    /// 41: list the locked queues under the names the client used.
    LockReply(Vec<super::requests::locks::NamedQueue>),
    /// 42.
    UnlockReply,
    /// 12.
    QueryReply {
        /// What is looked for.
        query: Arc<KeyQuery>,
        /// Counts the records until the connection's buffer does.
        held: Held,
    },
    /// 33.
    RecordReply {
        /// The record's place.
        physical: PhysicalOffset,
        /// Counts the record until the connection's buffer does.
        held: Arc<Held>,
    },
    /// 323.
    Resume {
        /// The record's place.
        physical: PhysicalOffset,
        /// Counts the record until the new half is on its way.
        held: Arc<Held>,
    },
}

#[derive(Debug)]
struct Gather {
    to: ReplyTo,
    goal: GatherGoal,
    missing: CoreNumber,
    deadline_ms: u64,
    locked: Vec<QueueKey>,
    records: Vec<(u64, Bytes)>,
}

/// Questions under way.
#[derive(Debug, Default)]
pub struct Gathers {
    open: BTreeMap<Ticket, Gather>,
    last: u64,
}

impl Gathers {
    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Asks every core.
    ///
    /// # Errors
    /// Too many questions are under way.
    pub fn gather(
        self: &Rc<Self>,
        to: ReplyTo,
        ask: &GatherAsk,
        goal: GatherGoal,
    ) -> Result<(), Refusal> {
        let ticket = {
            let mut gathers = self.gathers.borrow_mut();
            if gathers.open.len() >= GATHERS_MAX {
                let remark = format!("core {}, {GATHERS_MAX} questions under way", self.number);
                return Err(self.host.busy(BusyCause::Gather, &remark));
            }
            gathers.last += 1;
            let ticket = Ticket(gathers.last);
            let gather = Gather {
                to,
                goal,
                missing: self.cores,
                deadline_ms: self.host.mono_ms() + GATHER_MS,
                locked: Vec::new(),
                records: Vec::new(),
            };
            gathers.open.insert(ticket, gather);
            ticket
        };
        self.timed.set();
        for core in 0..self.cores {
            if core == self.number {
                self.answer_gather(core, ticket, ask.clone());
                continue;
            }
            let word = CoreWord::Gather {
                core: self.number,
                ticket,
                ask: ask.clone(),
            };
            // A full road: the deadline ends the wait.
            drop(self.host.send_core(core, word));
        }
        Ok(())
    }

    /// Answers another core's question (or this core's own).
    pub(super) fn answer_gather(self: &Rc<Self>, core: CoreNumber, ticket: Ticket, ask: GatherAsk) {
        match ask {
            GatherAsk::Lock {
                queues,
                group,
                client,
                take,
            } => {
                let heard = Heard {
                    group: &group,
                    client: &client,
                    is_known: self.catalog.borrow().group(&group).is_some(),
                    queues: &queues,
                    take,
                };
                let locked = if self.desk.hear_lock(heard, self.host.mono_ms()) {
                    self.lock_own(&queues, &group, &client, take)
                } else {
                    Vec::new()
                };
                self.give_share(core, ticket, GatherAnswer::Locked(locked));
            }
            GatherAsk::QueryKey(query) => {
                let here = Rc::clone(self);
                self.host.spawn(async move {
                    let records = here.records_by_key(&query).await;
                    here.give_share(core, ticket, GatherAnswer::Records(records));
                });
            }
            GatherAsk::Record(physical, held) => {
                let here = Rc::clone(self);
                self.host.spawn(async move {
                    let record = here.record_at(physical).await;
                    let records = record.into_iter().map(|record| (0, record)).collect();
                    here.give_share(core, ticket, GatherAnswer::Records(records));
                    drop(held);
                });
            }
        }
    }

    fn give_share(self: &Rc<Self>, core: CoreNumber, ticket: Ticket, answer: GatherAnswer) {
        if core == self.number {
            return self.on_gathered(ticket, answer);
        }
        // A full road: the asker's deadline ends its wait.
        drop(
            self.host
                .send_core(core, CoreWord::Gathered { ticket, answer }),
        );
    }

    pub(super) fn on_gathered(self: &Rc<Self>, ticket: Ticket, answer: GatherAnswer) {
        let complete = {
            let mut gathers = self.gathers.borrow_mut();
            let Some(gather) = gathers.open.get_mut(&ticket) else {
                return;
            };
            match answer {
                GatherAnswer::Locked(queues) => gather.locked.extend(queues),
                GatherAnswer::Records(records) => gather.records.extend(records),
            }
            gather.missing = gather.missing.saturating_sub(1);
            if gather.missing > 0 {
                return;
            }
            gathers.open.remove(&ticket)
        };
        if let Some(gather) = complete {
            self.finish_gather(gather);
        }
    }

    /// Ends questions that have waited too long.
    pub(super) fn end_late_gathers(&self) {
        let now_ms = self.host.mono_ms();
        loop {
            let mut gathers = self.gathers.borrow_mut();
            // Tickets and deadlines grow together.
            let first = gathers.open.first_entry();
            let Some(late) = first.filter(|entry| entry.get().deadline_ms <= now_ms) else {
                return;
            };
            let gather = late.remove();
            drop(gathers);
            tracing::warn!(
                missing = gather.missing,
                "a question to all cores ran out of time"
            );
            self.finish_gather(gather);
        }
    }

    fn finish_gather(&self, gather: Gather) {
        let Gather {
            to,
            goal,
            locked,
            records,
            ..
        } = gather;
        match goal {
            GatherGoal::LockReply(queues) => self.finish_lock(to, &queues, &locked),
            GatherGoal::UnlockReply => {
                self.host.reply(to, response::SUCCESS, None, None, &[]);
            }
            GatherGoal::QueryReply { query, held } => {
                self.finish_query(to, &query, records);
                drop(held);
            }
            GatherGoal::RecordReply { physical, held } => {
                self.finish_record(to, physical, &records);
                drop((records, held));
            }
            GatherGoal::Resume { physical, held } => {
                self.finish_resume(to, physical, &records);
                drop((records, held));
            }
        }
    }
}
