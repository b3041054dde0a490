//! The supervisor of delayed messages: both the levels and any time.
//!
//! **Owns** the loop: learn what was parked, wait until something is due, have it delivered.
//! **Lives on** the control plane's thread.
//! **Invariants** nothing is delivered early, nothing is done with before its record is stored
//! where it belongs. What is pending is always rebuildable from the log: a restart or a panic reads
//! the queues of parked records from their marks on. A crash may deliver again what was delivered
//! in the last seconds, and loses nothing.
//! **Limits** [`BATCH_ENTRIES_MAX`] records of [`BATCH_BYTES_MAX`] a batch; with nothing due it
//! sleeps until something is, at most [`SLEEP_MS_MAX`] (the wall clock may be set).
//! **Not here** who is parked and until when (`data::requests::send::delay`, `retry`).

mod board;
mod book;
#[cfg(test)]
mod crash_model;
#[cfg(test)]
mod crash_tests;
mod deliver;
mod due;
mod forward;
mod holding;
mod keeper;
mod listing;
mod marks;
mod rebuild;
pub mod requests;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::units::{FilePosition, QueueId, QueueKey, ShardId};

pub use board::Board;
pub use due::Entry;

use self::keeper::Keeper;
use self::marks::Marks;
use crate::control::plane::Plane;
use crate::control::supervision::task;
use crate::control::supervision::tree::PartState;
use crate::refusal::ForGood;

/// Its name in the tree.
pub const NAME: &str = "delay";
/// Records delivered at once: what 10,000 due a second bring in 100 ms.
const BATCH_ENTRIES_MAX: usize = 1024;
/// Bytes of records delivered at once; one record more may come on top.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Longest sleep while something is pending.
const SLEEP_MS_MAX: u64 = 10_000;

/// The supervisor's memory, which requests look into.
#[derive(Default)]
pub struct Delay {
    board: RefCell<Board>,
    keeper: Keeper,
    faults: deliver::Faults,
    /// When the unread queues were tried last.
    tried: Cell<Option<Instant>>,
    moved: RefCell<Vec<forward::Moved>>,
    recalls: requests::Recalls,
    /// Records that no queue will take, by their places.
    for_good: RefCell<ForGood<u64>>,
}

impl Delay {
    /// What is pending.
    pub fn board(&self) -> Ref<'_, Board> {
        self.board.borrow()
    }

    fn board_mut(&self) -> RefMut<'_, Board> {
        self.board.borrow_mut()
    }

    /// Nothing pending of this shard lies before this position; none when nothing is pending there,
    /// an error while that isn't known yet.
    ///
    /// # Errors
    /// The supervisor is still reading the log, or can't read a queue of the shard.
    pub fn floor(
        &self,
        shard: ShardId,
        shards_count: u8,
    ) -> Result<Option<FilePosition>, &'static str> {
        let board = self.board();
        if !board.is_complete {
            return Err("delayed messages are still being read from the log");
        }
        if board.is_unread(|key| key.shard(shards_count) == shard) {
            return Err("a queue of delayed messages can't be read");
        }
        Ok(board.floor(shard))
    }
}

/// Starts the supervisor.
pub fn start(plane: &Rc<Plane>) {
    holding::DelayedMessages::register(plane);
    task::start(plane, NAME, run);
}

async fn run(plane: Rc<Plane>) {
    rebuild::rebuild(&plane).await;
    loop {
        plane.tree.set_state(NAME, state(&plane));
        #[cfg(test)]
        plane.tree.panic_if_wanted(NAME);
        if unread_wait_ms(&plane) == Some(0) {
            rebuild::read_left(&plane).await;
            plane.delay.tried.set(Some(Instant::now()));
        }
        learn(&plane).await;
        let now_ms = wall_now_ms();
        let limits = (BATCH_ENTRIES_MAX, BATCH_BYTES_MAX);
        let batch = plane.delay.board_mut().take_due(now_ms, limits);
        if !batch.is_empty() {
            deliver::deliver(&plane, batch).await;
        }
        let pending = plane.delay.board().pending();
        plane
            .tree
            .set_backlog(NAME, u64::try_from(pending).unwrap_or(u64::MAX));
        plane.delay.keeper.turn(&plane);
        wait(&plane).await;
    }
}

fn state(plane: &Plane) -> PartState {
    if plane.delay.board().has_unread() {
        PartState::Waiting
    } else {
        PartState::Running
    }
}

/// How long until the unread queues are tried again, if there are any.
fn unread_wait_ms(plane: &Plane) -> Option<u64> {
    let since = plane
        .delay
        .tried
        .get()
        .map_or(Duration::MAX, |at| at.elapsed());
    let wait = Duration::from_millis(rebuild::RETRY_MS).saturating_sub(since);
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    plane.delay.board().has_unread().then_some(wait_ms)
}

/// Takes in the rows that have come; those of an unread queue are found when it is read.
async fn learn(plane: &Rc<Plane>) {
    let (rows, has_lost) = plane.owed.take();
    let mut gaps: Vec<QueueKey> = Vec::new();
    {
        let mut board = plane.delay.board_mut();
        for row in &rows {
            if !board.learn(row) && !gaps.contains(&row.queue) {
                gaps.push(row.queue);
            }
        }
        if has_lost {
            gaps = board.queues().iter().map(|queue| queue.key).collect();
        }
        gaps.retain(|gap| !board.is_unread(|key| key == *gap));
    }
    for key in gaps {
        rebuild::catch_up(plane, key).await;
    }
}

/// Sleeps until something is due, rows come, or marks are to be stored.
async fn wait(plane: &Rc<Plane>) {
    let next_ms = plane.delay.board().next_ms();
    let now_ms = wall_now_ms();
    let until_due = next_ms.map(|next| next.saturating_sub(now_ms).min(SLEEP_MS_MAX));
    if until_due == Some(0) {
        // More is due: let the others of this thread run first.
        return tokio::task::yield_now().await;
    }
    let until_marks = plane.delay.keeper.wait_ms(plane);
    let news = plane.owed.wait();
    let until_read = unread_wait_ms(plane).map(|ms| ms.max(1));
    let next_ms = until_due.into_iter().chain(until_marks).chain(until_read);
    match next_ms.min() {
        None => news.await,
        Some(ms) => {
            let sleep = actix::clock::sleep(Duration::from_millis(ms));
            future::or(news, sleep).await;
        }
    }
}

/// Every queue that may hold parked records. Those of levels that there are no longer have marks.
fn queues(plane: &Plane, marks: &Marks) -> Vec<QueueKey> {
    use gantry_protocol::system_topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
    let topics = plane.topics.borrow();
    let levels = plane.settings.delay_levels_ms.len();
    let mut keys = Vec::new();
    for (name, at_least) in [(SCHEDULE_TOPIC, levels), (TIMER_TOPIC, 1)] {
        let Some(entry) = topics.get(name) else {
            continue;
        };
        let stored = usize::try_from(entry.config.write_queue_nums).unwrap_or(0);
        let count = u16::try_from(stored.max(at_least)).unwrap_or(u16::MAX);
        keys.extend((0..count).map(|queue| QueueKey {
            topic: entry.id,
            queue: QueueId(queue),
        }));
    }
    let marked = marks.queues.iter().map(|mark| mark.key);
    let gone: Vec<QueueKey> = marked.filter(|key| !keys.contains(key)).collect();
    keys.extend(gone);
    keys
}

/// Ends the marks, and stores the last ones if all logs were shut.
pub async fn close(plane: &Rc<Plane>, are_shut: bool) {
    plane.delay.keeper.close(plane, are_shut).await;
}
