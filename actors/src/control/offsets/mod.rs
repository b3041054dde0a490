//! The offsets actor: what the queue actors hand over goes to the tables; questions about progress.
//!
//! **Owns** the stored positions of all groups, written behind.
//! **Lives on** the control plane's thread.
//! **Invariants** the queue actors are the truth, the tables are at most one flush interval behind;
//! rows of a deleted topic are not written again after the deletion. Forgotten positions come from
//! the cores among the changed ones, so a group made again keeps what it committed since.
//! **Limits** `PENDING_ROWS_MAX` rows wait for a commit; then it happens at once, or behind the one
//! that is under way.
//! **Not here** queries and updates by consumers (14, 15: the queue actors).

mod broker_stats;
mod clone;
mod queue_rows;
mod requests;
mod reset;
mod time_span;
mod write_behind;

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use gantry_protocol::code::response;
use gantry_storage::units::TopicId;
use tokio::sync::oneshot;

use crate::refusal::Refusal;
use crate::seam::{ControlRequest, OFFSET_ROWS_MAX, OffsetChange, ToData};

use super::plane::Plane;
use super::reply::ReplyTo;
use super::supervision::shell::Part;
use write_behind::WriteBehind;

/// Rows that wait at most; about 100 bytes each.
const PENDING_ROWS_MAX: usize = 64 * 1024;
/// How long handed-over rows wait for company: with the cores' own interval, at most about 1 s in
/// all.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// Pause after a commit that failed, on a full disk for example.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the offsets actor is told.
pub enum Msg {
    /// A client's request with a code of this actor.
    Serve(ControlRequest),
    /// Positions that changed.
    Changed(Vec<OffsetChange>),
    /// Write out what waits.
    Commit,
    /// A commit has ended.
    Committed(Result<(), Refusal>),
    /// Write out what waits and say what came of it.
    Flush(oneshot::Sender<Result<(), Refusal>>),
    /// A topic was deleted.
    TopicGone(TopicId),
}

/// The offsets actor; see the room's head.
#[derive(Default)]
pub struct Offsets {
    behind: WriteBehind,
    /// Ends when the commit under way does.
    ended: Option<mpsc::Receiver<()>>,
    /// Who waits until all is stored.
    flushes: Vec<oneshot::Sender<Result<(), Refusal>>>,
    is_commit_due: bool,
}

impl Part for Offsets {
    const NAME: &'static str = "offsets";
    type Msg = Msg;

    fn build(_plane: &Rc<Plane>) -> Result<Self, Refusal> {
        Ok(Self::default())
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => requests::serve(&request, plane),
            Msg::Changed(rows) => {
                self.behind.add(rows);
                if self.behind.waiting_count() >= PENDING_ROWS_MAX {
                    self.commit(plane);
                } else {
                    self.commit_in(COMMIT_EVERY, plane);
                }
            }
            Msg::Commit => {
                self.is_commit_due = false;
                self.commit(plane);
            }
            Msg::Committed(outcome) => self.committed(outcome, plane),
            Msg::Flush(done) => {
                self.flushes.push(done);
                self.commit(plane);
            }
            Msg::TopicGone(topic) => {
                if self.behind.forget(topic) {
                    drop_offsets(topic, plane);
                }
            }
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
            _ => None,
        }
    }

    fn abandon(&mut self, plane: &Rc<Plane>, _why: &Refusal) {
        if let Some(ended) = self.ended.take() {
            // Older positions must not come behind newer ones: it ends by being dropped.
            let _ = ended.recv();
        }
        // The rows themselves are sound: the map is changed by whole insertions only.
        let (rows, gone) = self.behind.take_all();
        if let Err(refusal) = plane.ledger.store_offsets(&rows) {
            tracing::error!(rows = rows.len(), %refusal, "offsets not stored, and lost");
        }
        for topic in gone {
            drop_offsets(topic, plane);
        }
    }
}

impl Offsets {
    fn commit_in(&mut self, wait: Duration, plane: &Rc<Plane>) {
        if self.is_commit_due {
            return;
        }
        self.is_commit_due = true;
        plane.tell_later(wait, |book| book.offsets.tell(Msg::Commit));
    }

    /// Begins to store what waits, beside this thread: the device may take long.
    fn commit(&mut self, plane: &Rc<Plane>) {
        let Some(rows) = self.behind.begin() else {
            if self.ended.is_none() {
                self.answer_flushes(&Ok(()));
            }
            return;
        };
        let (running, ended) = mpsc::channel();
        self.ended = Some(ended);
        let (plane, ledger) = (Rc::clone(plane), plane.ledger.clone());
        actix::spawn(async move {
            let stored = tokio::task::spawn_blocking(move || {
                let stored = ledger.store_offsets(&rows);
                drop(running);
                stored
            });
            let outcome = stored.await.unwrap_or_else(|error| {
                Err(Refusal::new(response::SYSTEM_ERROR, error.to_string()))
            });
            plane.book().offsets.tell(Msg::Committed(outcome));
        });
    }

    fn committed(&mut self, outcome: Result<(), Refusal>, plane: &Rc<Plane>) {
        if self.ended.take().is_none() {
            // Begun before a restart of this part, which took it for stored.
            if let Err(refusal) = outcome {
                tracing::error!(%refusal, "offsets not stored, and lost");
            }
            return;
        }
        let gone = self.behind.ended(outcome.is_ok());
        for topic in gone {
            drop_offsets(topic, plane);
        }
        let rows = self.behind.waiting_count();
        if let Err(refusal) = &outcome {
            tracing::error!(rows, %refusal, "offsets not stored");
            self.answer_flushes(&outcome);
            self.commit_in(RETRY_AFTER, plane);
        } else if !self.flushes.is_empty() || rows >= PENDING_ROWS_MAX {
            self.commit(plane);
        }
    }

    fn answer_flushes(&mut self, outcome: &Result<(), Refusal>) {
        for done in self.flushes.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = done.send(outcome.clone());
        }
    }
}

fn drop_offsets(topic: TopicId, plane: &Plane) {
    if let Err(refusal) = plane.ledger.drop_offsets_of_topic(topic) {
        tracing::warn!(%topic, %refusal, "offsets of a deleted topic stay stored");
    }
}

/// Gives every core the stored positions, and with them the word that it may serve: the last of
/// what it gets at start. Each core keeps those of its own queues.
///
/// # Errors
/// The tables can't be read.
pub fn hand_out(plane: &Plane) -> Result<usize, Refusal> {
    let rows = plane.ledger.load_offsets()?;
    for chunk in rows.chunks(OFFSET_ROWS_MAX) {
        plane
            .outbox
            .send_all(&ToData::OffsetsLoaded(chunk.to_vec()));
    }
    plane.outbox.send_all(&ToData::Loaded);
    Ok(rows.len())
}
