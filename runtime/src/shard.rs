//! The executors of the data plane: one per data core.
//!
//! **Owns** the threads, their glommio executors, their task queues and the news of their end.
//! **Lives on** the main thread (the handle) and on each data core (the context).
//! **Invariants** a panic anywhere on a core ends that core, is reported with its cause and asks
//! the process to stop: queues of a half-dead core must not look alive. All cores have started when
//! [`DataCores::start`] returns.
//! **Limits** [`IO_MEMORY_BYTES_MAX`] of registered memory a core; at most [`PREEMPT`] between two
//! looks at the rings; [`BEATS_AHEAD`] timers of our own a core.
//! **Not here** what runs on a core (`actors`), which CPU it is (`topology`).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glommio::timer::Timer;
use glommio::{
    GlommioError, Latency, LocalExecutor, LocalExecutorBuilder, Shares, TaskQueueHandle,
};

use crate::clock::Clock;
use crate::error::StartError;
use crate::metrics::{CoreMetrics, StallWatch};
use crate::raw_ring;
use crate::shutdown::{Shutdown, panic_text};
use crate::topology::Placement;

/// Memory of a data core for direct I/O, at most: cold log that is kept, reads and writes under way
/// (each takes a power of two). It is registered with the core's rings if the memlock limit allows
/// that, which saves looking up its pages each time. What has no room there comes from the heap,
/// where glibc finds no place for an aligned block among freed ones of the same size: 340 MiB for
/// 16 MiB of chunks after a backlog of 500 MB, almost all of them new pages.
pub const IO_MEMORY_BYTES_MAX: usize = 24 * 1024 * 1024;
/// As [`IO_MEMORY_BYTES_MAX`], of an executor that has no store.
const IO_MEMORY_BYTES_MIN: usize = 256 * 1024;
/// How long user code runs before the rings are looked at again if no socket asks for it: a task
/// that computes for longer than a few milliseconds has to [`breathe`].
///
/// Long for a reason. glommio 0.9 arms this timer, then begins its task queues only if no event
/// waits in the latency ring. If the thread loses its CPU between the two for longer than this, the
/// timer's own event waits there: no task runs, the event wakes nobody, and the executor parks with
/// runnable tasks, for good if nothing else happens. At 2 ms that took a busy machine some thousand
/// wake-ups. Longer than [`BEAT`], some beat is due by then, and a due timer keeps it from parking.
pub const PREEMPT: Duration = Duration::from_millis(250);
/// Distance of the timers that each core always has ahead, see [`PREEMPT`].
const BEAT: Duration = Duration::from_millis(100);
/// How many of them: when one is due there must be a next one even before the task that sets them
/// has run.
const BEATS_AHEAD: u32 = 10;
const _: () = assert!(2 * BEAT.as_millis() < PREEMPT.as_millis() && BEATS_AHEAD >= 2);
/// Shortest sleep there is.
const BREATH: Duration = Duration::from_micros(1);
/// Shares of sessions and queue actors.
const SERVE_SHARES: usize = 1000;
/// Shares of the log writer: it has little CPU work, which everybody waits for.
const FLUSH_SHARES: usize = 500;
/// Shares of zeroing, retention and other housekeeping.
const CLEAN_SHARES: usize = 50;
/// Longest spin before a core parks.
pub const SPIN_US_MAX: u64 = 10_000;

/// How the data cores are to be made.
#[derive(Debug, Clone)]
pub struct CorePlan {
    /// One entry a core.
    pub placements: Vec<Placement>,
    /// Microseconds to spin before parking: 0 saves power, 200 cuts the wake-up of a core from some
    /// 50 to 16 us. Pinned cores only; at most [`SPIN_US_MAX`].
    pub spin_us: u64,
    /// Prefix of the thread names; the core's number follows.
    pub name: String,
    /// Memory of each core for direct I/O; at most [`IO_MEMORY_BYTES_MAX`].
    pub io_memory_bytes: usize,
}

impl CorePlan {
    /// Cores as placed, without spinning and without a store.
    pub fn new(placements: Vec<Placement>) -> Self {
        Self {
            placements,
            spin_us: 0,
            name: "data".to_owned(),
            io_memory_bytes: IO_MEMORY_BYTES_MIN,
        }
    }
}

/// The task queues of a core, by falling share of the CPU.
#[derive(Debug, Clone, Copy)]
pub struct TaskQueues {
    /// Sessions and queue actors.
    pub serve: TaskQueueHandle,
    /// The log writer.
    pub flush: TaskQueueHandle,
    /// Housekeeping.
    pub clean: TaskQueueHandle,
}

/// What a core's main future gets.
#[derive(Debug, Clone)]
pub struct CoreContext {
    /// This core's number, 0-based.
    pub index: u16,
    /// How many data cores there are.
    pub count: u16,
    /// The task queues.
    pub queues: TaskQueues,
    /// The core's clock.
    pub clock: Rc<Clock>,
    /// The core's recorder.
    pub metrics: Rc<CoreMetrics>,
    /// The process-wide stop signal.
    pub shutdown: Shutdown,
}

impl CoreContext {
    /// Starts a task with the sessions' share.
    pub fn spawn_serve(&self, task: impl Future<Output = ()> + 'static) {
        spawn_into(self.queues.serve, task);
    }

    /// Starts a task with the housekeeping share.
    pub fn spawn_clean(&self, task: impl Future<Output = ()> + 'static) {
        spawn_into(self.queues.clean, task);
    }
}

impl CoreContext {
    /// Watches tasks of `room`: those that keep this core for too long show in its profile.
    pub fn watch(&self, room: &'static str) -> StallWatch {
        StallWatch::new(room, &self.clock, &self.metrics)
    }
}

pub(crate) fn spawn_into(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
    // The queue was made by this executor and is never removed.
    glommio::spawn_local_into(task, queue)
        .expect("the core's own task queue")
        .detach();
}

/// The running data cores.
#[derive(Debug)]
pub struct DataCores {
    threads: Vec<(u16, JoinHandle<Result<(), String>>)>,
}

impl DataCores {
    /// Starts one executor per placement and runs `make(context, seat)` on each; `seats` holds what
    /// each core takes with it (mesh seats, mailboxes), one entry a core. Returns when every
    /// executor exists; `make`'s future then runs until it ends by itself, usually after
    /// `context.shutdown`.
    ///
    /// # Errors
    /// An executor could not be made; the others are told to stop.
    ///
    /// # Panics
    /// When `seats` and `plan.placements` differ in length.
    pub fn start<S, F, Fut>(
        plan: &CorePlan,
        shutdown: &Shutdown,
        seats: Vec<S>,
        make: F,
    ) -> Result<Self, StartError>
    where
        S: Send + 'static,
        F: Fn(CoreContext, S) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        assert_eq!(
            seats.len(),
            plan.placements.len(),
            "one seat for each data core"
        );
        let count = core_number(plan.placements.len());
        crate::probe::require_ring()?;
        let (news, started) = flume::unbounded();
        let mut threads = Vec::with_capacity(seats.len());
        for (index, (seat, placement)) in seats.into_iter().zip(&plan.placements).enumerate() {
            let index = core_number(index);
            let news = news.clone();
            let (stop, make) = (shutdown.clone(), make.clone());
            let executor = executor_of(plan, *placement);
            let run = move || run_core(executor, index, count, &stop, seat, make, &news);
            let thread = std::thread::Builder::new()
                .name(format!("{}-{index}", plan.name))
                .spawn(run)
                .map_err(|error| StartError::Core {
                    core: index,
                    cause: error.to_string(),
                });
            match thread {
                Ok(thread) => threads.push((index, thread)),
                Err(error) => {
                    shutdown.fail(&error.to_string());
                    return Err(error);
                }
            }
        }
        for _ in 0..threads.len() {
            if let Ok(Err((core, cause))) = started.recv() {
                let error = StartError::Core { core, cause };
                shutdown.fail(&error.to_string());
                return Err(error);
            }
        }
        Ok(Self { threads })
    }

    /// Waits for every core to end. Each failed core's number and cause come back.
    pub fn join(self) -> Vec<(u16, String)> {
        let mut failures = Vec::new();
        for (index, thread) in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => failures.push((index, cause)),
                Err(payload) => failures.push((index, panic_text(payload.as_ref()))),
            }
        }
        failures
    }

    /// Whether every core has ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|(_, thread)| thread.is_finished())
    }
}

/// Runs one future on a core of its own, pinned nowhere, and blocks until it has ended: for what
/// needs the disk before or beside the data cores.
///
/// # Errors
/// The core could not be made, or it panicked before the future gave anything.
pub fn on_a_core<T, F, Fut>(make: F) -> Result<T, String>
where
    T: Send + 'static,
    F: Fn(CoreContext) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let (send, outcome) = flume::bounded(1);
    let plan = CorePlan::new(vec![Placement::Unbound]);
    let cores = DataCores::start(&plan, &Shutdown::new(), vec![send], move |context, send| {
        let work = make(context);
        // The caller waits for exactly this.
        async move { drop(send.send(work.await)) }
    });
    let failures = cores.map_err(|error| error.to_string())?.join();
    // Never waits: a core that panicked keeps its tasks for ever, and the sender with them.
    outcome.try_recv().map_err(|_| {
        let causes = failures.into_iter().map(|(_, cause)| cause);
        causes.collect::<Vec<_>>().join("; ")
    })
}

type StartNews = flume::Sender<Result<(), (u16, String)>>;

fn core_number(n: usize) -> u16 {
    u16::try_from(n).expect("at most 64 data cores")
}

type Made = Result<LocalExecutor, GlommioError<()>>;

/// What makes a core's executor, on the core's own thread.
fn executor_of(plan: &CorePlan, placement: Placement) -> impl FnOnce() -> Made + Send + use<> {
    let placement = match placement {
        Placement::Pinned(cpu) => glommio::Placement::Fixed(cpu),
        Placement::Unbound => glommio::Placement::Unbound,
    };
    let spin = Duration::from_micros(plan.spin_us.min(SPIN_US_MAX));
    let builder = LocalExecutorBuilder::new(placement)
        .name(&plan.name)
        .spin_before_park(spin)
        .io_memory(plan.io_memory_bytes.min(IO_MEMORY_BYTES_MAX))
        .preempt_timer(PREEMPT);
    move || {
        if spin.is_zero() {
            raw_ring::cooperatively(|| builder.make())
        } else {
            builder.make()
        }
    }
}

fn run_core<S, F, Fut>(
    make_executor: impl FnOnce() -> Made,
    index: u16,
    count: u16,
    shutdown: &Shutdown,
    seat: S,
    make: F,
    news: &StartNews,
) -> Result<(), String>
where
    F: Fn(CoreContext, S) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // With io_uring denied glommio panics instead of returning an error.
    let executor = match catch_unwind(AssertUnwindSafe(make_executor)) {
        Ok(Ok(executor)) => executor,
        Ok(Err(error)) => return refuse(news, index, error.to_string()),
        Err(payload) => return refuse(news, index, panic_text(payload.as_ref())),
    };
    drop(news.send(Ok(())));
    let context = (index, count, shutdown.clone());
    let run = || executor.run(main_future(context, seat, make));
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => Ok(()),
        Err(payload) => {
            let cause = panic_text(payload.as_ref());
            tracing::error!(core = index, %cause, "a data core ended by a panic");
            shutdown.fail(&format!("data core {index} panicked: {cause}"));
            // Its tasks are in an unknown state; dropping them could panic once more.
            std::mem::forget::<LocalExecutor>(executor);
            Err(cause)
        }
    }
}

fn refuse(news: &StartNews, index: u16, cause: String) -> Result<(), String> {
    drop(news.send(Err((index, cause.clone()))));
    Err(cause)
}

async fn main_future<S, F, Fut>((index, count, shutdown): (u16, u16, Shutdown), seat: S, make: F)
where
    F: Fn(CoreContext, S) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let executor = glommio::executor();
    let queue = |shares, name| {
        executor.create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
    };
    let queues = TaskQueues {
        serve: queue(SERVE_SHARES, "serve"),
        flush: queue(FLUSH_SHARES, "flush"),
        clean: queue(CLEAN_SHARES, "clean"),
    };
    let context = CoreContext {
        index,
        count,
        queues,
        clock: Clock::new(),
        metrics: CoreMetrics::new(),
        shutdown,
    };
    context.spawn_serve(beat(Rc::clone(&context.metrics)));
    let main = make(context, seat);
    glommio::spawn_local_into(main, queues.serve)
        .expect("the core's own task queue")
        .await;
}

/// Lets the core's other tasks run and the core look at its rings, channels and timers. Yielding
/// does only the first: a task that yields again and again keeps the rings waiting.
pub async fn breathe() {
    glommio::timer::sleep(BREATH).await;
}

/// Keeps [`BEATS_AHEAD`] timers set, one every [`BEAT`]. Counts those that came so late that the
/// core must have been held up, or asleep with work to do.
async fn beat(metrics: Rc<CoreMetrics>) {
    let mut ahead: VecDeque<(Instant, Timer)> = VecDeque::new();
    let mut last = Instant::now();
    poll_fn(|cx| -> Poll<()> {
        let now = Instant::now();
        let mut late = 0;
        while let Some((due, timer)) = ahead.front_mut() {
            if Pin::new(timer).poll(cx).is_pending() {
                break;
            }
            late += u64::from(now.saturating_duration_since(*due) >= BEAT);
            ahead.pop_front();
        }
        if late > 0 {
            metrics.count(|counts| counts.late_beats += late);
        }
        if ahead.is_empty() {
            last = now;
        }
        for _ in ahead.len()..BEATS_AHEAD as usize {
            last += BEAT;
            let mut timer = Timer::new(last.saturating_duration_since(now));
            // The first poll sets it.
            let _: Poll<Instant> = Pin::new(&mut timer).poll(cx);
            ahead.push_back((last, timer));
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::StopReason;
    use crate::topology::unbound;

    #[test]
    fn runs_a_future_on_each_core_until_shutdown() {
        let shutdown = Shutdown::new();
        let (news, seen) = flume::unbounded();
        let plan = CorePlan::new(unbound(2));
        let cores = DataCores::start(&plan, &shutdown, vec![news.clone(), news], {
            |context, news: flume::Sender<(u16, u16)>| async move {
                news.send((context.index, context.count)).unwrap();
                context.shutdown.wait().await;
            }
        })
        .unwrap();
        let mut both = vec![seen.recv().unwrap(), seen.recv().unwrap()];
        both.sort_unstable();
        assert_eq!(both, [(0, 2), (1, 2)]);
        assert!(!cores.is_finished());
        shutdown.ask("test");
        assert!(cores.join().is_empty());
    }

    type Seat = (crate::mailbox::MailReceiver<()>, flume::Sender<()>);

    /// Yielding alone would keep the mailbox unread until the preempt timer fires.
    #[test]
    fn a_task_that_breathes_lets_the_core_read_its_mailboxes() {
        let shutdown = Shutdown::new();
        let (ask, asked) = crate::mailbox::mailbox::<()>(1);
        let (answer, answered) = flume::unbounded();
        let seat = vec![(asked, answer)];
        let cores = DataCores::start(&CorePlan::new(unbound(1)), &shutdown, seat, {
            |context, (asked, answer): Seat| async move {
                let stop = context.shutdown.clone();
                context.spawn_clean(async move {
                    while stop.reason().is_none() {
                        breathe().await;
                    }
                });
                let mut batch = Vec::new();
                while asked.recv_batch(&mut batch).await {
                    answer.send(()).unwrap();
                }
                context.shutdown.wait().await;
            }
        })
        .unwrap();
        let round = || {
            let begin = Instant::now();
            ask.send_blocking(()).unwrap();
            answered.recv().unwrap();
            begin.elapsed()
        };
        let mut took: Vec<Duration> = (0..11).map(|_| round()).collect();
        took.sort_unstable();
        assert!(took[5] < PREEMPT / 5, "{took:?}");
        shutdown.ask("done");
        drop(ask);
        assert!(cores.join().is_empty());
    }

    #[test]
    fn a_future_on_a_core_of_its_own_gives_its_outcome_or_the_cause_of_the_end() {
        assert_eq!(on_a_core(|context| async move { context.count }), Ok(1));
        let ended = on_a_core(|context| async move {
            context.spawn_clean(async { panic!("injected") });
            std::future::pending::<()>().await;
        });
        assert_eq!(ended, Err("injected".to_owned()));
    }

    #[test]
    fn a_panic_in_a_detached_task_stops_the_process_with_its_cause() {
        let shutdown = Shutdown::new();
        let plan = CorePlan::new(unbound(1));
        let cores = DataCores::start(&plan, &shutdown, vec![()], |context, ()| async move {
            context.spawn_clean(async { panic!("injected") });
            context.shutdown.wait().await;
            std::future::pending::<()>().await;
        })
        .unwrap();
        shutdown.wait_blocking();
        let failures = cores.join();
        assert_eq!(failures, [(0, "injected".to_owned())]);
        let reason = shutdown.reason().unwrap();
        assert!(reason.is_failure());
        assert_eq!(
            reason,
            StopReason::Failed("data core 0 panicked: injected".into())
        );
    }
}
