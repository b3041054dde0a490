//! What is pending, read from the log.
//!
//! **Owns** the way from marks and queue indexes to a complete board.
//! **Lives on** the control plane's thread.
//! **Invariants** nothing is delivered before the board is complete, so that what became due
//! meanwhile goes out in due order. No record is read: an index entry says when it is due.
//! **Limits** a scan gives `SCAN_ROWS_MAX` rows at a time; a core that can't answer yet is asked
//! again every [`RETRY_MS`].
//! **Not here** when marks are stored (`keeper`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_storage::units::{QueueKey, QueueOffset};

use super::marks::{self, Marks, QueueMark, Stored};
use super::{NAME, queues};
use crate::control::plane::Plane;
use crate::control::supervision::tree::PartState;
use crate::refusal::Refusal;
use crate::seam::errands::Scan;

/// Between two tries.
const RETRY_MS: u64 = 1000;

/// Makes the board complete.
pub async fn rebuild(plane: &Rc<Plane>) {
    let begun = Instant::now();
    let stored = load(plane).await;
    let keys = queues(plane);
    plane.delay.board_mut().begin(&stored, keys.iter().copied());
    for key in keys {
        let mark = stored.marks.queues.iter().find(|mark| mark.key == key);
        read_queue(plane, key, &stored.marks, mark).await;
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

async fn pause(plane: &Rc<Plane>) {
    plane.tree.set_state(NAME, PartState::Waiting);
    actix::clock::sleep(Duration::from_millis(RETRY_MS)).await;
}

/// Reads a queue from its mark on.
async fn read_queue(plane: &Rc<Plane>, key: QueueKey, marks: &Marks, mark: Option<&QueueMark>) {
    let from = loop {
        match start_of(plane, key, mark).await {
            Ok(from) => break from,
            Err(why) => {
                tracing::warn!(%why, "a queue of delayed messages can't be read yet");
                pause(plane).await;
            }
        }
    };
    let scan = Scan {
        queue: key,
        from,
        done_below: mark.map_or(QueueOffset(0), |mark| mark.next),
        done_ms: marks.done_ms,
    };
    scan_all(plane, scan).await;
}

/// The first offset that may be pending.
async fn start_of(
    plane: &Rc<Plane>,
    key: QueueKey,
    mark: Option<&QueueMark>,
) -> Result<QueueOffset, Refusal> {
    match mark {
        None => Ok(QueueOffset(0)),
        Some(QueueMark {
            floor: Some(floor),
            next,
            ..
        }) => Ok(plane.errands.locate(key, *floor).await?.min(*next)),
        Some(mark) => Ok(mark.next),
    }
}

/// Reads what of a queue isn't known, when rows of it were lost.
pub async fn catch_up(plane: &Rc<Plane>, key: QueueKey) {
    let from = plane.delay.board().next_of(key);
    let scan = Scan {
        queue: key,
        from,
        done_below: QueueOffset(0),
        done_ms: 0,
    };
    scan_all(plane, scan).await;
}

async fn scan_all(plane: &Rc<Plane>, mut scan: Scan) {
    loop {
        let scanned = match plane.errands.scan(scan).await {
            Ok(scanned) => scanned,
            Err(why) => {
                tracing::warn!(%why, "a queue of delayed messages can't be read yet");
                pause(plane).await;
                continue;
            }
        };
        let mut board = plane.delay.board_mut();
        for row in &scanned.rows {
            board.learn_scanned(row);
        }
        board.known_until(scan.queue, scanned.next);
        drop(board);
        if scanned.next >= scanned.bounds.max || scanned.next <= scan.from {
            return;
        }
        scan.from = scanned.next;
    }
}
