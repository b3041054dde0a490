//! When marks are taken and stored.
//!
//! **Owns** the marks that wait to become true of the device.
//! **Lives on** the control plane's thread; commits run on a blocking thread beside it.
//! **Invariants** marks are stored only after the log has had time to reach the device with all
//! they speak of: `flushIntervalCommitLog` and [`SETTLE_MS`]. A commit that fails is tried again
//! with younger marks. Nothing changed: nothing stored, no timer.
//! **Limits** one commit at a time, one every second or so while messages are delayed.
//! **Not here** what marks are (`marks`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use gantry_runtime::clock::wall_now_ms;

use super::marks::{self, Marks};
use crate::control::plane::Plane;

/// Time for a device write and its sync, beside the interval between syncs.
const SETTLE_MS: u64 = 500;

struct Staged {
    at: Instant,
    marks: Marks,
    forget: Vec<u64>,
}

/// See the room's head.
#[derive(Default)]
pub struct Keeper {
    staged: RefCell<Option<Staged>>,
    is_committing: Cell<bool>,
}

/// Until what is stored now has reached the device, by all that is promised of it.
pub fn settle_ms(plane: &Plane) -> u64 {
    plane.settings.flush_interval_ms.saturating_add(SETTLE_MS)
}

impl Keeper {
    /// Takes marks, or stores those that are old enough.
    pub fn turn(&self, plane: &Rc<Plane>) {
        if self.is_committing.get() {
            return;
        }
        let is_ripe = |staged: &Staged| elapsed_ms(staged.at) >= settle_ms(plane);
        if self.staged.borrow().as_ref().is_some_and(is_ripe)
            && let Some(staged) = self.staged.take()
        {
            self.is_committing.set(true);
            let plane = Rc::clone(plane);
            actix::spawn(async move {
                commit(&plane, staged).await;
                plane.delay.keeper.is_committing.set(false);
            });
            return;
        }
        let mut board = plane.delay.board_mut();
        if board.is_dirty && board.is_complete && self.staged.borrow().is_none() {
            board.is_dirty = false;
            *self.staged.borrow_mut() = Some(take(&mut board));
        }
    }

    /// How long until `turn` has something to do.
    pub fn wait_ms(&self, plane: &Plane) -> Option<u64> {
        if let Some(staged) = &*self.staged.borrow() {
            // A commit under way ends before the next marks are ripe, or they wait for it.
            return Some(
                settle_ms(plane)
                    .saturating_sub(elapsed_ms(staged.at))
                    .max(1),
            );
        }
        plane.delay.board().is_dirty.then(|| settle_ms(plane))
    }

    /// Stores marks as of now; the logs are shut, so they are true.
    pub async fn close(&self, plane: &Rc<Plane>) {
        if plane.delay.board().is_complete {
            let staged = take(&mut plane.delay.board_mut());
            commit(plane, staged).await;
        }
    }
}

fn take(board: &mut super::Board) -> Staged {
    let (marks, forget) = board.marks(wall_now_ms());
    board.done_ms = marks.done_ms;
    Staged {
        at: Instant::now(),
        marks,
        forget,
    }
}

async fn commit(plane: &Rc<Plane>, staged: Staged) {
    let tables = plane.ledger.tables().clone();
    let Staged { marks, forget, .. } = staged;
    let stored = tokio::task::spawn_blocking(move || {
        marks::store(&tables, &marks, &forget).map(|()| forget)
    });
    match stored.await {
        Ok(Ok(forgotten)) => plane.delay.board_mut().forget_recalled(&forgotten),
        Ok(Err(error)) => tracing::error!(%error, "how far delayed messages are can't be stored"),
        Err(error) => tracing::error!(%error, "how far delayed messages are can't be stored"),
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
