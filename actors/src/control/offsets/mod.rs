//! The offsets actor: what the queue actors hand over goes to the tables; questions about progress.
//!
//! **Owns** the stored positions of all groups, written behind.
//! **Lives on** the control plane's thread.
//! **Invariants** the queue actors are the truth, the tables are at most one flush interval behind;
//! rows of a deleted topic or group are not written again after the deletion.
//! **Limits** `PENDING_ROWS_MAX` rows wait for a commit; then it happens at once.
//! **Not here** queries and updates by consumers (14, 15: the queue actors).

mod broker_stats;
mod clone;
mod queue_rows;
mod requests;
mod reset;
mod time_span;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_storage::units::{QueueKey, QueueOffset, TopicId};
use tokio::sync::oneshot;

use crate::refusal::Refusal;
use crate::seam::{ControlRequest, OFFSET_ROWS_MAX, OffsetRow, ToData};

use super::plane::Plane;
use super::reply::ReplyTo;
use super::supervision::shell::Part;

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
    Changed(Vec<OffsetRow>),
    /// Write out what waits.
    Commit,
    /// Write out what waits and say when that is done.
    Flush(oneshot::Sender<()>),
    /// A topic was deleted.
    TopicGone(TopicId),
    /// A group was deleted with its offsets.
    GroupGone(Arc<str>),
}

/// The newest position of each row that isn't stored yet.
#[derive(Debug, Default)]
pub struct Pending {
    rows: HashMap<(QueueKey, Arc<str>), QueueOffset>,
}

impl Pending {
    /// Adds rows; of one row the last one counts.
    pub fn add(&mut self, rows: Vec<OffsetRow>) {
        for row in rows {
            self.rows.insert((row.queue, row.group), row.offset);
        }
    }

    /// Forgets what a filter names.
    pub fn forget(&mut self, is_gone: impl Fn(QueueKey, &str) -> bool) {
        self.rows
            .retain(|(queue, group), _| !is_gone(*queue, group));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn rows(&self) -> Vec<OffsetRow> {
        self.rows
            .iter()
            .map(|((queue, group), offset)| OffsetRow {
                queue: *queue,
                group: Arc::clone(group),
                offset: *offset,
            })
            .collect()
    }
}

/// The offsets actor; see the room's head.
pub struct Offsets {
    pending: Pending,
    is_commit_due: bool,
}

impl Part for Offsets {
    const NAME: &'static str = "offsets";
    type Msg = Msg;

    fn build(_plane: &Rc<Plane>) -> Result<Self, Refusal> {
        Ok(Self {
            pending: Pending::default(),
            is_commit_due: false,
        })
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => requests::serve(&request, plane),
            Msg::Changed(rows) => {
                self.pending.add(rows);
                if self.pending.len() >= PENDING_ROWS_MAX {
                    self.commit(plane);
                } else {
                    self.commit_soon(plane);
                }
            }
            Msg::Commit => {
                self.is_commit_due = false;
                self.commit(plane);
            }
            Msg::Flush(done) => {
                self.commit(plane);
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            Msg::TopicGone(topic) => {
                self.pending.forget(|queue, _| queue.topic == topic);
                if let Err(refusal) = plane.ledger.drop_offsets_of_topic(topic) {
                    tracing::warn!(%topic, %refusal, "offsets of a deleted topic stay stored");
                }
            }
            Msg::GroupGone(group) => {
                self.pending.forget(|_, of| of == &*group);
                if let Err(refusal) = plane.ledger.drop_offsets_of_group(&group) {
                    tracing::warn!(%group, %refusal, "offsets of a deleted group stay stored");
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
        // The rows themselves are sound: the map is changed by whole insertions only.
        self.commit(plane);
    }
}

impl Offsets {
    fn commit_soon(&mut self, plane: &Rc<Plane>) {
        self.commit_in(COMMIT_EVERY, plane);
    }

    fn commit_in(&mut self, wait: Duration, plane: &Rc<Plane>) {
        if self.is_commit_due {
            return;
        }
        self.is_commit_due = true;
        plane.tell_later(wait, |book| book.offsets.tell(Msg::Commit));
    }

    fn commit(&mut self, plane: &Rc<Plane>) {
        if self.pending.is_empty() {
            return;
        }
        let rows = self.pending.rows();
        match plane.ledger.store_offsets(&rows) {
            Ok(()) => self.pending = Pending::default(),
            // They stay pending: the next commit tries again, with newer positions.
            Err(refusal) => {
                tracing::error!(rows = rows.len(), %refusal, "offsets not stored");
                self.commit_in(RETRY_AFTER, plane);
            }
        }
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
