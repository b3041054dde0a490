//! What is pending, read from the log.
//!
//! **Owns** the way from marks and queue indexes to a complete board.
//! **Lives on** the control plane's thread.
//! **Invariants** nothing is delivered before every queue was tried, so that what became due
//! meanwhile goes out in due order. A queue that can't be read keeps no other one waiting: it stays
//! unread, which holds its marks and its shard's segments, and is tried again. No record is read:
//! an index entry says when it is due. A mark beyond its queue's end is taken back to it before
//! anything else is read: the log has lost its end, and what is parked there next is new.
//! **Limits** a scan gives `SCAN_ROWS_MAX` rows at a time; at start a core that can't answer yet is
//! asked [`TRIES_MAX`] times before what is known is delivered, and again every [`RETRY_MS`].
//! **Not here** when marks are stored (`keeper`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

use super::marks::{self, Marks, Stored};
use super::{NAME, queues};
use crate::control::plane::Plane;
use crate::control::supervision::tree::PartState;
use crate::refusal::Refusal;
use crate::seam::errands::Scan;

/// Between two tries.
pub(super) const RETRY_MS: u64 = 1000;
/// Tries at start that all queues wait for: what hinders a core for a moment is over by then, and a
/// page that is damaged stays so until the next start.
const TRIES_MAX: u32 = 3;

/// A queue that isn't known to its end.
#[derive(Debug, Clone, Copy)]
pub struct Unread {
    /// What is left to be read.
    scan: Scan,
    /// That begins already where this record lies.
    floor: Option<PhysicalOffset>,
    /// The log was told that it can't be read.
    is_told: bool,
}

impl Unread {
    /// A queue at a start.
    pub(super) fn at_start(key: QueueKey, marks: &Marks) -> Self {
        let mark = marks.queues.iter().find(|mark| mark.key == key);
        let next = mark.map_or(QueueOffset(0), |mark| mark.next);
        Self {
            scan: Scan {
                queue: key,
                from: next,
                done_below: next,
                done_ms: marks.done_ms,
            },
            floor: mark.and_then(|mark| mark.floor),
            is_told: false,
        }
    }

    /// A queue of which rows were lost.
    pub(super) fn behind(key: QueueKey, next: QueueOffset) -> Self {
        Self {
            scan: Scan {
                queue: key,
                from: next,
                done_below: QueueOffset(0),
                done_ms: 0,
            },
            floor: None,
            is_told: false,
        }
    }
}

/// Makes the board complete, but for what can't be read.
pub async fn rebuild(plane: &Rc<Plane>) {
    let begun = Instant::now();
    let mut stored = load(plane).await;
    take_marks_back(plane, &mut stored.marks).await;
    let keys = queues(plane, &stored.marks);
    plane.delay.board_mut().begin(&stored, keys);
    for _ in 0..TRIES_MAX {
        read_left(plane).await;
        if !plane.delay.board().has_unread() {
            break;
        }
        pause(plane).await;
    }
    let mut board = plane.delay.board_mut();
    board.is_complete = true;
    let (pending, ms) = (board.pending(), begun.elapsed().as_millis());
    drop(board);
    if pending > 0 {
        tracing::info!(pending, ms, "delayed messages were read from the log");
    }
}

async fn load(plane: &Rc<Plane>) -> Stored {
    loop {
        match marks::load(plane.ledger.tables()) {
            Ok(stored) => return stored,
            Err(error) => {
                tracing::error!(%error, "the marks of delayed messages can't be read now");
                pause(plane).await;
            }
        }
    }
}

/// A repaired log, or one copied before its tables, may end before what the marks speak of. That is
/// stored at once: after a kill, rows that came meanwhile would look as if the marks knew them.
async fn take_marks_back(plane: &Rc<Plane>, marks: &mut Marks) {
    let mut changed = Vec::new();
    for mark in marks.queues.iter_mut().filter(|mark| mark.next.0 > 0) {
        let past_all = Scan {
            queue: mark.key,
            from: QueueOffset(u64::MAX),
            done_below: QueueOffset(0),
            done_ms: 0,
        };
        // A silent core: each queue of it would wait as long again, and reads end no later.
        let Ok(scanned) = plane.errands.scan(past_all).await else {
            break;
        };
        let (end, queue) = (scanned.bounds.max, mark.key.queue);
        if mark.next > end {
            let known = mark.next;
            tracing::warn!(%queue, %known, %end, "a queue of delayed messages lost its last rows");
            mark.next = end;
            changed.push(*mark);
        }
    }
    if let Err(error) = marks::store_queues(plane.ledger.tables(), &changed) {
        tracing::error!(%error, "marks of delayed messages can't be taken back in the tables now");
    }
}

async fn pause(plane: &Rc<Plane>) {
    plane.tree.set_state(NAME, PartState::Waiting);
    actix::clock::sleep(Duration::from_millis(RETRY_MS)).await;
}

/// Reads the queues that could not be read so far.
pub async fn read_left(plane: &Rc<Plane>) {
    let left = plane.delay.board().unread();
    for unread in left {
        try_to_read(plane, unread).await;
    }
}

/// Reads what of a queue isn't known, when rows of it were lost.
pub async fn catch_up(plane: &Rc<Plane>, key: QueueKey) {
    let next = plane.delay.board().next_of(key);
    try_to_read(plane, Unread::behind(key, next)).await;
}

async fn try_to_read(plane: &Rc<Plane>, mut unread: Unread) {
    let key = unread.scan.queue;
    match read(plane, unread).await {
        Ok(()) => {
            plane.delay.board_mut().set_read(key);
            if unread.is_told {
                tracing::info!(queue = %key.queue, "a queue of delayed messages was read");
            }
        }
        Err(why) => {
            if !unread.is_told {
                let queue = key.queue;
                tracing::error!(%queue, %why, "a queue of delayed messages can't be read now");
            }
            unread.is_told = true;
            plane.delay.board_mut().set_unread(key, unread);
        }
    }
}

/// Reads a queue to its end. What it learns stays learnt whatever comes then.
async fn read(plane: &Rc<Plane>, unread: Unread) -> Result<(), Refusal> {
    let mut scan = unread.scan;
    if let Some(floor) = unread.floor {
        let from = plane.errands.locate(scan.queue, floor).await?;
        scan.from = from.min(scan.from);
    }
    loop {
        let scanned = plane.errands.scan(scan).await?;
        let mut board = plane.delay.board_mut();
        for row in &scanned.rows {
            board.learn_scanned(row);
        }
        board.known_until(scan.queue, scanned.next);
        drop(board);
        if scanned.next >= scanned.bounds.max || scanned.next <= scan.from {
            return Ok(());
        }
        scan.from = scanned.next;
    }
}
