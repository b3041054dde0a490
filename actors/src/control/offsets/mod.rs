//! The offsets actor: what the queue actors hand over goes to the tables; questions about progress.
//!
//! **Owns** the stored positions of all groups, written behind.
//! **Lives on** the control plane's thread.
//! **Invariants** the queue actors are the truth, the tables are at most one flush interval behind;
//! rows of a deleted topic are not written again after the deletion. Forgotten positions come from
//! the cores among the changed ones, so a group made again keeps what it committed since.
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
use crate::seam::{ControlRequest, OFFSET_ROWS_MAX, OffsetChange, ToData};

use super::ledger::{Ledger, OFFSET_GROUP_BYTES_MAX};
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
    Changed(Vec<OffsetChange>),
    /// Write out what waits.
    Commit,
    /// Write out what waits and say what came of it.
    Flush(oneshot::Sender<Result<(), Refusal>>),
    /// A topic was deleted.
    TopicGone(TopicId),
}

/// The newest position of each row that isn't stored yet, none for one that is forgotten.
#[derive(Debug, Default)]
pub struct Pending {
    rows: HashMap<(QueueKey, Arc<str>), Option<QueueOffset>>,
}

impl Pending {
    /// Adds rows; of one row the last one counts. What could never be stored is left out: among the
    /// others it would let every commit fail.
    pub fn add(&mut self, rows: Vec<OffsetChange>) {
        for row in rows {
            let bytes = row.group.len();
            if bytes > OFFSET_GROUP_BYTES_MAX {
                tracing::warn!(
                    topic = %row.queue.topic,
                    queue = %row.queue.queue,
                    "a position is not stored: its group's name has {bytes} bytes, \
                     {OFFSET_GROUP_BYTES_MAX} are allowed"
                );
                continue;
            }
            self.rows.insert((row.queue, row.group), row.offset);
        }
    }

    /// Forgets a topic's.
    pub fn forget(&mut self, topic: TopicId) {
        self.rows.retain(|(queue, _), _| queue.topic != topic);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn rows(&self) -> Vec<OffsetChange> {
        self.rows
            .iter()
            .map(|((queue, group), offset)| OffsetChange {
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
                    self.commit_and_retry(plane);
                } else {
                    self.commit_soon(plane);
                }
            }
            Msg::Commit => {
                self.is_commit_due = false;
                self.commit_and_retry(plane);
            }
            Msg::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(self.commit(&plane.ledger));
            }
            Msg::TopicGone(topic) => {
                self.pending.forget(topic);
                if let Err(refusal) = plane.ledger.drop_offsets_of_topic(topic) {
                    tracing::warn!(%topic, %refusal, "offsets of a deleted topic stay stored");
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
        if let Err(refusal) = self.commit(&plane.ledger) {
            tracing::error!(rows = self.pending.len(), %refusal, "offsets not stored, and lost");
        }
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

    /// Stores what waits; what can't be stored stays pending, and gets newer positions meanwhile.
    fn commit(&mut self, ledger: &Ledger) -> Result<(), Refusal> {
        if self.pending.is_empty() {
            return Ok(());
        }
        ledger.store_offsets(&self.pending.rows())?;
        self.pending = Pending::default();
        Ok(())
    }

    fn commit_and_retry(&mut self, plane: &Rc<Plane>) {
        if let Err(refusal) = self.commit(&plane.ledger) {
            tracing::error!(rows = self.pending.len(), %refusal, "offsets not stored");
            self.commit_in(RETRY_AFTER, plane);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, offset: Option<u64>) -> OffsetChange {
        OffsetChange {
            queue: QueueKey::new(1, 0),
            group: Arc::from(group),
            offset: offset.map(QueueOffset),
        }
    }

    #[test]
    fn a_commit_that_fails_says_so_and_its_rows_still_wait() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let mut offsets = Offsets {
            pending: Pending::default(),
            is_commit_due: false,
        };
        offsets.pending.add(vec![row("g", Some(7))]);
        let unstorable = (QueueKey::new(1, 0), Arc::from("g".repeat(5000)));
        offsets.pending.rows.insert(unstorable.clone(), None);
        assert!(offsets.commit(&ledger).is_err());
        assert_eq!(offsets.pending.len(), 2);
        offsets.pending.rows.remove(&unstorable);
        assert_eq!(offsets.commit(&ledger), Ok(()));
        assert!(offsets.pending.is_empty());
        assert_eq!(ledger.load_offsets().unwrap()[0].offset, QueueOffset(7));
    }

    #[test]
    fn what_can_never_be_stored_does_not_wait() {
        let mut pending = Pending::default();
        let longest = "g".repeat(OFFSET_GROUP_BYTES_MAX);
        let rows = [longest.clone(), format!("{longest}g")];
        pending.add(rows.iter().map(|group| row(group, Some(1))).collect());
        assert_eq!(pending.len(), 1);
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        assert_eq!(ledger.store_offsets(&pending.rows()), Ok(()));
    }
}
