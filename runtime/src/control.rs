//! The control plane's thread: an actix system, and the guard that actix's own supervisor lacks.
//!
//! **Owns** the thread, its start and stop, the restart budget of its actors.
//! **Lives on** one thread of its own, unpinned, with a single-threaded tokio under actix.
//! **Invariants** a panic in a guarded handler restarts that actor only: actix's `Supervisor`
//! restarts after `ctx.stop()` but not after a panic (0.13), so the guard catches the unwind and
//! stops the context. Over budget the process is asked to stop, with the actor's name and the
//! cause.
//! **Limits** [`RESTARTS_MAX`] restarts an actor within [`RESTART_WINDOW`].
//! **Not here** which actors there are (`actors`), the mailboxes to the data cores (`mailbox`).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, System, SystemRunner};

use crate::error::StartError;
use crate::shutdown::{Shutdown, panic_text};

/// Restarts that one actor may need within [`RESTART_WINDOW`] before the process gives up.
pub const RESTARTS_MAX: usize = 5;
/// The window of the restart budget.
pub const RESTART_WINDOW: Duration = Duration::from_mins(1);

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    thread: JoinHandle<Result<(), String>>,
    system: System,
}

impl ControlPlane {
    /// Starts the thread and, inside its actix system, the future that `make` gives; returns once
    /// the system runs. The future usually starts the actors and then waits for `shutdown`; when it
    /// ends, the system stops.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn start<F, Fut>(shutdown: &Shutdown, make: F) -> Result<Self, StartError>
    where
        F: FnOnce(Shutdown) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (news, started) = flume::bounded(1);
        let shutdown = shutdown.clone();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let runner = System::new();
                drop(news.send(System::current()));
                run_system(runner, &shutdown, make)
            })
            .map_err(|error| StartError::Control(error.to_string()))?;
        match started.recv() {
            Ok(system) => Ok(Self { thread, system }),
            Err(_) => Err(StartError::Control("its thread ended at once".to_owned())),
        }
    }

    /// Stops the system, whatever its actors do, and waits for the thread.
    ///
    /// # Errors
    /// The text of the panic that ended the thread.
    pub fn stop(self) -> Result<(), String> {
        self.system.stop();
        self.join()
    }

    /// Waits until the thread ends by itself.
    ///
    /// # Errors
    /// The text of the panic that ended the thread.
    pub fn join(self) -> Result<(), String> {
        match self.thread.join() {
            Ok(end) => end,
            Err(payload) => Err(panic_text(payload.as_ref())),
        }
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

fn run_system<F, Fut>(runner: SystemRunner, shutdown: &Shutdown, make: F) -> Result<(), String>
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let main = make(shutdown.clone());
    let end = Rc::new(RefCell::new(Ok(())));
    let told = Rc::clone(&end);
    let outer = shutdown.clone();
    // A plain task: `System::stop` from outside must be able to end the loop while it still waits.
    runner.runtime().spawn(async move {
        if let Err(cause) = caught(main).await {
            tracing::error!(%cause, "the control plane ended by a panic");
            outer.fail(&format!("the control plane panicked: {cause}"));
            *told.borrow_mut() = Err(cause);
        }
        System::current().stop();
    });
    let run = catch_unwind(AssertUnwindSafe(|| runner.run()));
    match run {
        Ok(Ok(())) => end.borrow().clone(),
        Ok(Err(error)) => Err(error.to_string()),
        Err(payload) => {
            let cause = panic_text(payload.as_ref());
            shutdown.fail(&format!("the control plane panicked: {cause}"));
            Err(cause)
        }
    }
}

/// How often one supervised actor may be restarted, and what happens beyond that.
///
/// Kept outside the actor (clone it into the actor): it must survive the restart.
#[derive(Clone)]
pub struct RestartBudget {
    inner: Rc<Inner>,
}

struct Inner {
    name: String,
    restarts: RefCell<VecDeque<Instant>>,
    restarts_count: Cell<u64>,
    last_failure: RefCell<Option<String>>,
    over: Box<dyn Fn(&str)>,
}

/// What a caught panic led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The actor is being restarted.
    Restart,
    /// The budget is spent; the process was asked to stop.
    GiveUp,
}

impl RestartBudget {
    /// A budget for the actor `name`; over budget the process stops through `shutdown`.
    pub fn new(name: &str, shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.clone();
        Self::with(name, move |why| {
            shutdown.fail(why);
        })
    }

    /// A budget for the actor `name` that calls `over` with the reason once it is spent.
    pub fn with(name: &str, over: impl Fn(&str) + 'static) -> Self {
        let inner = Inner {
            name: name.to_owned(),
            restarts: RefCell::default(),
            restarts_count: Cell::new(0),
            last_failure: RefCell::default(),
            over: Box::new(over),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// The actor's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Panics noted since the start.
    pub fn restarts(&self) -> u64 {
        self.inner.restarts_count.get()
    }

    /// The cause of the last one.
    pub fn last_failure(&self) -> Option<String> {
        self.inner.last_failure.borrow().clone()
    }

    /// Notes a panic with this cause, logs it and says what follows.
    pub fn note(&self, cause: &str) -> Verdict {
        let now = Instant::now();
        let mut restarts = self.inner.restarts.borrow_mut();
        while restarts
            .front()
            .is_some_and(|at| now.duration_since(*at) > RESTART_WINDOW)
        {
            restarts.pop_front();
        }
        restarts.push_back(now);
        self.inner.restarts_count.set(self.restarts() + 1);
        *self.inner.last_failure.borrow_mut() = Some(cause.to_owned());
        let count = restarts.len();
        drop(restarts);
        let actor = self.name();
        if count <= RESTARTS_MAX {
            tracing::error!(actor, cause, count, "actor panicked; restarting it");
            return Verdict::Restart;
        }
        tracing::error!(
            actor,
            cause,
            "actor panicked too often; stopping the process"
        );
        let seconds = RESTART_WINDOW.as_secs();
        (self.inner.over)(&format!(
            "actor {actor} panicked {count} times within {seconds} s, last: {cause}"
        ));
        Verdict::GiveUp
    }
}

/// Runs one handler's work. `None` means it panicked: the cause is logged, and the actor's context
/// stops so that its supervisor restarts it. Return whatever stands for "try again" to the caller
/// then.
pub fn guard<A, R>(
    budget: &RestartBudget,
    context: &mut A::Context,
    act: impl FnOnce(&mut A::Context) -> R,
) -> Option<R>
where
    A: Actor,
    A::Context: ActorContext,
{
    let outcome = catch_unwind(AssertUnwindSafe(|| act(context)));
    match outcome {
        Ok(value) => Some(value),
        Err(payload) => {
            budget.note(&panic_text(payload.as_ref()));
            context.stop();
            None
        }
    }
}

/// Runs a future to its end or its panic, whose text is the error. For the futures that a handler
/// spawns: call [`RestartBudget::note`] on an error, or use [`guard_task`].
///
/// # Errors
/// The panic's text.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(move |cx| {
        let step = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match step {
            Ok(poll) => poll.map(Ok),
            Err(payload) => std::task::Poll::Ready(Err(text(payload))),
        }
    })
    .await
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the payload's owner ends here"
)]
fn text(payload: Box<dyn Any + Send>) -> String {
    panic_text(payload.as_ref())
}

/// A background task of the control plane that is made anew after a panic, within `budget`; ends
/// when its future ends or the budget is spent.
pub async fn guard_task<F, Fut>(budget: RestartBudget, make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = ()>,
{
    loop {
        // `make` itself may panic as well.
        let outcome = caught(async { make().await }).await;
        match outcome {
            Ok(()) => return,
            Err(cause) => {
                if budget.note(&cause) == Verdict::GiveUp {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
