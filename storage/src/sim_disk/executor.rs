//! A deterministic single-thread executor on virtual time.
//!
//! **Owns** the simulated clock, the random numbers of a run, the tasks and who runs next.
//! **Lives on** the test's thread.
//! **Invariants** equal seeds and equal programs give equal schedules; time moves only when no task
//! is ready.
//! **Limits** `STEPS_MAX` polls per `run`, so that a livelock fails instead of hanging.
//! **Not here** files (`files`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls one `run` may take.
const STEPS_MAX: u64 = 50_000_000;

/// The task `run` itself runs.
const MAIN_TASK: u64 = 0;

/// Where the simulated wall clock starts: 2020-09-13, in milliseconds.
const WALL_START_MS: u64 = 1_600_000_000_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A small generator of pseudo-random numbers (splitmix64).
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// A generator that repeats itself for equal seeds.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound` (0 for a bound of 0).
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// One of `choices` (0 when there is none).
    pub fn one_of(&self, choices: &[u64]) -> u64 {
        let nth = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices.get(nth).copied().unwrap_or(0)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

type Ready = Arc<Mutex<BTreeSet<u64>>>;

struct TaskWaker {
    id: u64,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.id);
    }
}

/// Tasks, timers and the clock.
pub struct Executor {
    pub(super) random: Random,
    now_us: Cell<u64>,
    next_id: Cell<u64>,
    ready: Ready,
    tasks: RefCell<BTreeMap<u64, Task>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    trace: Cell<u64>,
    wall_offset_ms: Cell<i64>,
    polls: Cell<u64>,
    /// `run` ends before this poll.
    stop_at_poll: Cell<u64>,
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            now_us: Cell::new(0),
            next_id: Cell::new(MAIN_TASK + 1),
            ready: Ready::default(),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            trace: Cell::new(seed),
            wall_offset_ms: Cell::new(0),
            polls: Cell::new(0),
            stop_at_poll: Cell::new(u64::MAX),
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    pub(super) fn wall_ms(&self) -> u64 {
        let wall_ms = WALL_START_MS + self.now_us.get() / 1000;
        wall_ms.saturating_add_signed(self.wall_offset_ms.get())
    }

    pub(super) fn set_wall_offset_ms(&self, ms: i64) {
        self.wall_offset_ms.set(ms);
    }

    pub(super) fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Lets `count` more polls happen before `run` ends.
    pub(super) fn stop_after(&self, count: u64) {
        self.stop_at_poll
            .set(self.polls.get().saturating_add(count));
    }

    pub(super) fn never_stop(&self) {
        self.stop_at_poll.set(u64::MAX);
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Mixes one event into the trace.
    pub(super) fn note(&self, words: &[u64]) {
        let mut trace = self.trace.get();
        for word in words {
            trace = (trace.rotate_left(7) ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.trace.set(trace ^ self.now_us.get());
    }

    fn fresh_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    fn make_ready(&self, id: u64) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
    }

    pub(super) fn spawn(&self, task: Task) {
        let id = self.fresh_id();
        self.tasks.borrow_mut().insert(id, task);
        self.make_ready(id);
    }

    /// Drops every task and timer: the process is gone.
    pub(super) fn drop_tasks(&self) {
        // Taken out first: dropping a task may spawn or wake.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let late = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(late);
        self.timers.borrow_mut().clear();
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn pick_ready(&self) -> Option<u64> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u64::try_from(ready.len()).unwrap_or(0);
        let nth = usize::try_from(self.random.below(count)).unwrap_or(0);
        let id = *ready.iter().nth(nth)?;
        ready.remove(&id);
        Some(id)
    }

    /// Moves the clock to the next timer; false when there is none.
    fn advance(&self) -> bool {
        let Some(((due_us, _), waker)) = self.timers.borrow_mut().pop_first() else {
            return false;
        };
        self.now_us.set(self.now_us.get().max(due_us));
        waker.wake();
        true
    }

    /// Runs `main` and the spawned tasks until `main` is done; `None` when the stop came first.
    ///
    /// # Panics
    /// When nothing can make progress any more, or after `STEPS_MAX` polls.
    pub(super) fn run<T>(&self, main: impl Future<Output = T>) -> Option<T> {
        let mut main = pin!(main);
        self.make_ready(MAIN_TASK);
        for _ in 0..STEPS_MAX {
            if self.polls.get() >= self.stop_at_poll.get() {
                self.never_stop();
                return None;
            }
            let Some(id) = self.pick_ready() else {
                assert!(
                    self.advance(),
                    "simulated deadlock: no task ready and no timer set"
                );
                continue;
            };
            self.polls.set(self.polls.get() + 1);
            let waker = Waker::from(Arc::new(TaskWaker {
                id,
                ready: Arc::clone(&self.ready),
            }));
            let mut context = Context::from_waker(&waker);
            if id == MAIN_TASK {
                if let Poll::Ready(value) = main.as_mut().poll(&mut context) {
                    return Some(value);
                }
                continue;
            }
            let task = self.tasks.borrow_mut().remove(&id);
            if let Some(mut task) = task
                && task.as_mut().poll(&mut context).is_pending()
            {
                self.tasks.borrow_mut().insert(id, task);
            }
        }
        panic!("simulated livelock: {STEPS_MAX} polls without an end");
    }
}

/// Ready once the virtual clock has reached `due_us`.
pub(super) struct Sleep {
    executor: Rc<Executor>,
    due_us: u64,
    timer: Option<u64>,
}

impl Sleep {
    pub(super) fn new(executor: &Rc<Executor>, us: u64) -> Self {
        let due_us = executor.now_us().saturating_add(us);
        Self {
            executor: Rc::clone(executor),
            due_us,
            timer: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_some() && self.executor.now_us() >= self.due_us {
            return Poll::Ready(());
        }
        let id = self.timer.unwrap_or_else(|| self.executor.fresh_id());
        self.timer = Some(id);
        let key = (self.due_us, id);
        self.executor
            .timers
            .borrow_mut()
            .insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer
            && let Ok(mut timers) = self.executor.timers.try_borrow_mut()
        {
            timers.remove(&(self.due_us, id));
        }
    }
}
