//! When marks are taken and stored.
//!
//! **Owns** the marks that wait to become true of the device.
//! **Lives on** the control plane's thread; commits run on a blocking thread beside it.
//! **Invariants** marks are stored only once every shard has said that the device has all they
//! speak of, or has shut its log; where one can't say so, what is stored stays, and a start
//! delivers again what came since. Marks that could not be stored are followed by younger ones.
//! Nothing changed: nothing stored, no timer.
//! **Limits** one commit at a time, one every [`EVERY_MS`] while messages are delayed.
//! **Not here** what marks are (`marks`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use gantry_runtime::clock::wall_now_ms;
use tokio::sync::Mutex;

use super::marks::{self, Marks};
use crate::control::plane::Plane;

/// Between two commits: a crash repeats the deliveries of so long, and a commit is a device write.
const EVERY_MS: u64 = 1_000;

struct Taken {
    marks: Marks,
    forget: Vec<u64>,
}

/// See the room's head.
#[derive(Default)]
pub struct Keeper {
    /// When marks were taken last.
    taken: Cell<Option<Instant>>,
    is_at_work: Cell<bool>,
    /// The last ones could not be stored, which was said.
    is_behind: Cell<bool>,
    /// Held while marks are stored. True once the last ones were: none come behind them.
    closed: Mutex<bool>,
}

impl Keeper {
    /// Takes marks if it is time to, and has them stored.
    pub fn turn(&self, plane: &Rc<Plane>) {
        if self.is_at_work.get() || self.left_ms() > 0 || !has_news(plane) {
            return;
        }
        let taken = take(&mut plane.delay.board_mut());
        self.taken.set(Some(Instant::now()));
        self.is_at_work.set(true);
        let plane = Rc::clone(plane);
        actix::spawn(async move {
            plane.delay.keeper.store_when_durable(&plane, taken).await;
            plane.delay.keeper.is_at_work.set(false);
        });
    }

    /// How long until `turn` has something to do.
    pub fn wait_ms(&self, plane: &Plane) -> Option<u64> {
        if self.is_at_work.get() {
            // Its end wakes nobody, and may leave news.
            return Some(EVERY_MS);
        }
        has_news(plane).then(|| self.left_ms().max(1))
    }

    fn left_ms(&self) -> u64 {
        let since = self.taken.get().map(elapsed_ms);
        since.map_or(0, |since_ms| EVERY_MS.saturating_sub(since_ms))
    }

    async fn store_when_durable(&self, plane: &Rc<Plane>, taken: Taken) {
        if let Err(refusal) = plane.errands.durable().await {
            plane.delay.board_mut().is_dirty = true;
            if !self.is_behind.replace(true) {
                tracing::warn!(%refusal, "how far delayed messages are is not stored for now");
            }
            return;
        }
        self.is_behind.set(false);
        let closed = self.closed.lock().await;
        if !*closed {
            commit(plane, taken).await;
        }
    }

    /// Stores marks as of now, if all logs were shut: then they are true.
    pub async fn close(&self, plane: &Rc<Plane>, are_shut: bool) {
        let mut closed = self.closed.lock().await;
        *closed = true;
        if are_shut && plane.delay.board().is_complete {
            let taken = take(&mut plane.delay.board_mut());
            commit(plane, taken).await;
        }
    }
}

fn has_news(plane: &Plane) -> bool {
    let board = plane.delay.board();
    board.is_dirty && board.is_complete
}

fn take(board: &mut super::Board) -> Taken {
    let (marks, forget) = board.marks(wall_now_ms());
    board.done_ms = marks.done_ms;
    board.is_dirty = false;
    Taken { marks, forget }
}

async fn commit(plane: &Rc<Plane>, taken: Taken) {
    let tables = plane.ledger.tables().clone();
    let Taken { marks, forget } = taken;
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
