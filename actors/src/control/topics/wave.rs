//! How topic changes travel: one commit, one word to the cores, one registration, then the answers.
//!
//! **Owns** the waves and who waits for them.
//! **Lives on** the control plane's thread, as part of the topics actor.
//! **Invariants** committed before told, told before announced, announced before answered; but a
//! supervisor is answered when the cores are told, as it asks no name server.
//! **Limits** `WAVE_WAITERS_MAX` answers, `ANNOUNCE_MAX` for the name servers.
//! **Not here** which changes there are (`super`, `requests`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_protocol::code::response;
use tokio::sync::oneshot;

use crate::control::admin;
use crate::control::offsets;
use crate::control::plane::Plane;
use crate::control::reply::{Reply, ReplyTo};
use crate::refusal::Refusal;
use crate::seam::{CatalogChange, CoreNumber, Question, Ticket, ToData, TopicEntry};

use super::{Msg, Topics, load};

/// How long a created topic's answer waits for the name servers. Clients read the route right
/// after; a name server that takes longer than this is one the client can't use now anyway.
const ANNOUNCE_MAX: Duration = Duration::from_secs(1);
/// Pause before the table is tried to be read again.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// Most answers waiting for a commit or a name server.
const WAVE_WAITERS_MAX: usize = 100_000;

/// Who waits for a wave.
pub(super) enum Waiter {
    Client(ReplyTo, Reply),
    Parked(CoreNumber, Ticket),
    Task(oneshot::Sender<Result<(), Refusal>>),
}

impl Waiter {
    /// Whether a part of the control plane waits, which needs the cores only.
    fn is_task(&self) -> bool {
        matches!(self, Self::Task(_))
    }
}

/// Changes that travel together: one commit, one registration.
#[derive(Default)]
pub(super) struct Wave {
    pub put: Vec<Arc<TopicEntry>>,
    pub gone: Vec<Arc<TopicEntry>>,
    /// Something beside single topics changed: everything is announced.
    pub in_full: bool,
    pub waiters: Vec<Waiter>,
}

impl Wave {
    fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty() && !self.in_full && self.waiters.is_empty()
    }

    fn has(&self, topic: &str) -> bool {
        self.put.iter().any(|entry| entry.config.name == topic)
    }
}

impl Topics {
    /// Waits with the wave that carries this topic, if one does.
    pub(super) fn join(&mut self, topic: &str, waiter: Waiter, plane: &Rc<Plane>) {
        let carrying = self
            .travelling
            .values_mut()
            .find(|(names, _)| !waiter.is_task() && names.iter().any(|name| name == topic));
        if let Some((_, waiters)) = carrying {
            waiters.push(waiter);
        } else if self.open.has(topic) {
            self.wait(waiter, plane);
        } else {
            answer(vec![waiter], plane);
        }
    }

    pub(super) fn wait(&mut self, waiter: Waiter, plane: &Rc<Plane>) {
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
    pub(super) fn commit_soon(&mut self, plane: &Rc<Plane>) {
        if !self.is_commit_due {
            self.is_commit_due = true;
            plane.book().topics.tell(Msg::Commit);
        }
    }

    pub(super) fn commit(&mut self, plane: &Rc<Plane>) {
        self.is_commit_due = false;
        let wave = std::mem::take(&mut self.open);
        if let Some(refusal) = self.astray.take() {
            self.undo(wave, &refusal, plane);
            return;
        }
        if wave.is_empty() {
            return;
        }
        let changes = !wave.put.is_empty() || !wave.gone.is_empty() || wave.in_full;
        if changes {
            plane.topics.borrow_mut().advance(plane.now_ms());
            let table = plane.topics.borrow();
            let stored = plane.ledger.store_topics(&wave.put, &wave.gone, &table);
            drop(table);
            if let Err(refusal) = stored {
                self.undo(wave, &refusal, plane);
                return;
            }
        }
        // A topic deleted and made again within one wave stands in both lists.
        for entry in &wave.gone {
            let name = entry.config.name.clone();
            let forgotten = admin::Msg::TopicGone(name.clone());
            plane.book().admin.tell(forgotten);
            plane.outbox.change(CatalogChange::TopicGone(name));
            forget_queues(entry, plane);
        }
        for entry in &wave.put {
            plane
                .outbox
                .change(CatalogChange::TopicPut(Arc::clone(entry)));
        }
        let (tasks, waiters) = wave.waiters.into_iter().partition(Waiter::is_task);
        answer(tasks, plane);
        if !changes {
            answer(waiters, plane);
            return;
        }
        let number = self.next_wave;
        self.next_wave += 1;
        let names = wave
            .put
            .iter()
            .map(|entry| entry.config.name.clone())
            .collect();
        self.travelling.insert(number, (names, waiters));
        let told = plane
            .book()
            .registration
            .announce(&wave.put, wave.in_full || !wave.gone.is_empty());
        let plane = Rc::clone(plane);
        actix::spawn(async move {
            if actix::clock::timeout(ANNOUNCE_MAX, told).await.is_err() {
                tracing::debug!("a name server is slow: a topic's creator is answered before it");
            }
            plane.book().topics.tell(Msg::Announced(number));
        });
    }

    /// The commit failed. What is stored is the truth: the table is read again, sooner or later. A
    /// disk that can't even be read is no reason to end the process: queues can still be served.
    fn undo(&mut self, wave: Wave, why: &Refusal, plane: &Rc<Plane>) {
        tracing::error!(%why, "topic changes can't be stored and are taken back");
        for waiter in wave.waiters {
            refuse(waiter, why, plane);
        }
        if let Err(refusal) = load(plane) {
            self.astray = Some(refusal);
            plane.tell_later(RELOAD_AFTER, |book| book.topics.tell(Msg::Commit));
        }
    }
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
        plane.book().offsets.tell(offsets::Msg::TopicGone(id));
    });
}

/// Answers success to all.
pub(super) fn answer(waiters: Vec<Waiter>, plane: &Rc<Plane>) {
    for waiter in waiters {
        match waiter {
            Waiter::Client(to, reply) => plane.reply(&to, reply),
            // A supervisor that panicked meanwhile no longer waits.
            Waiter::Task(done) => drop(done.send(Ok(()))),
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

/// Refuses one waiter.
#[allow(clippy::needless_pass_by_value, reason = "a refused waiter is gone")]
pub(super) fn refuse(waiter: Waiter, why: &Refusal, plane: &Rc<Plane>) {
    match waiter {
        Waiter::Client(to, _) => plane.refuse(&to, why),
        Waiter::Task(done) => drop(done.send(Err(why.clone()))),
        Waiter::Parked(core, ticket) => {
            let outcome = Err(why.clone());
            plane
                .outbox
                .send(core, ToData::Resolved { ticket, outcome });
        }
    }
}
