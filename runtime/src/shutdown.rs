//! The ordered stop and its report.
//!
//! **Owns** the process-wide "stop now" signal with its reason, and the record of how stopping
//! went.
//! **Lives on** any thread; the handle is `Send + Sync` and cheap to clone.
//! **Invariants** the first reason wins; whoever waits is woken exactly once and late waiters
//! return at once.
//! **Limits** a step that overruns its limit is reported as late, not killed: killing a log writer
//! in its last sync would be worse than waiting.
//! **Not here** signal handlers (`server`): they call [`Shutdown::trigger`] from signal-hook's
//! thread.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why the process stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked: a signal, an admin command, the end of a test.
    Asked(String),
    /// A part failed beyond its budget; the process ends with an error code.
    Failed(String),
}

impl StopReason {
    /// Whether the process should end with an error code.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(why) => write!(f, "{why}"),
            Self::Failed(why) => write!(f, "failure: {why}"),
        }
    }
}

#[derive(Debug)]
struct Inner {
    reason: Mutex<Option<StopReason>>,
    /// Dropping the sender wakes every clone of `gate`: a broadcast for all kinds of executors.
    hold: Mutex<Option<flume::Sender<()>>>,
    gate: flume::Receiver<()>,
}

/// The "stop now" signal; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A signal that has not been given.
    pub fn new() -> Self {
        let (hold, gate) = flume::bounded(1);
        let inner = Inner {
            reason: Mutex::new(None),
            hold: Mutex::new(Some(hold)),
            gate,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Gives the signal. Returns false when it had been given before; that reason stays.
    pub fn trigger(&self, reason: StopReason) -> bool {
        let mut slot = held(&self.inner.reason);
        let first = slot.is_none();
        if first {
            *slot = Some(reason);
        }
        drop(slot);
        held(&self.inner.hold).take();
        first
    }

    /// Asks for a stop.
    pub fn ask(&self, why: &str) -> bool {
        self.trigger(StopReason::Asked(why.to_owned()))
    }

    /// Ends the process because a part failed.
    pub fn fail(&self, why: &str) -> bool {
        self.trigger(StopReason::Failed(why.to_owned()))
    }

    /// The reason, once the signal has been given.
    pub fn reason(&self) -> Option<StopReason> {
        held(&self.inner.reason).clone()
    }

    /// Whether the signal has been given.
    pub fn is_triggered(&self) -> bool {
        self.inner.gate.is_disconnected()
    }

    /// Waits for the signal, on any executor.
    pub async fn wait(&self) {
        // Nothing is ever sent, so this can only end by the sender being dropped.
        let _ = self.inner.gate.recv_async().await;
    }

    /// Waits for the signal, blocking this thread (the main thread).
    pub fn wait_blocking(&self) {
        let _ = self.inner.gate.recv();
    }

    /// Waits for the signal for at most `limit`; true when it came.
    pub fn wait_blocking_for(&self, limit: Duration) -> bool {
        matches!(
            self.inner.gate.recv_timeout(limit),
            Err(flume::RecvTimeoutError::Disconnected)
        )
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How one step of the stop went.
#[derive(Debug, Clone)]
pub struct StopStep {
    /// What was stopped.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// What it was allowed.
    pub limit: Duration,
    /// The failure, when it failed.
    pub failure: Option<String>,
}

/// The report of an ordered stop.
#[derive(Debug, Default)]
pub struct StopReport {
    steps: Vec<StopStep>,
}

impl StopReport {
    /// An empty report.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one step and notes how it went. A panic is a failure of that step; the next still runs.
    pub fn step(
        &mut self,
        name: &'static str,
        limit: Duration,
        act: impl FnOnce() -> Result<(), String>,
    ) {
        let begin = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        let failure = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(payload) => Some(panic_text(payload.as_ref())),
        };
        self.steps.push(StopStep {
            name,
            took: begin.elapsed(),
            limit,
            failure,
        });
    }

    /// The steps in the order they ran.
    pub fn steps(&self) -> &[StopStep] {
        &self.steps
    }

    /// Whether every step succeeded.
    pub fn is_clean(&self) -> bool {
        self.steps.iter().all(|step| step.failure.is_none())
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        for step in &self.steps {
            write!(f, "  {:<28} {:>7} ms", step.name, step.took.as_millis())?;
            if step.took > step.limit {
                write!(f, "  late: was given {} ms", step.limit.as_millis())?;
            }
            if let Some(failure) = &step.failure {
                write!(f, "  FAILED: {failure}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  stopped in {} ms", total.as_millis())
    }
}

/// The text of a panic's payload.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_wins_and_waiters_return() {
        let stop = Shutdown::new();
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait_blocking());
        assert!(!stop.is_triggered());
        assert!(!stop.wait_blocking_for(Duration::from_millis(1)));
        assert!(stop.ask("test"));
        assert!(!stop.fail("late"));
        waiter.join().unwrap();
        stop.wait_blocking();
        assert_eq!(stop.reason(), Some(StopReason::Asked("test".into())));
        assert!(stop.is_triggered());
    }

    #[test]
    fn report_names_failures_and_goes_on() {
        let mut report = StopReport::new();
        report.step("sessions", Duration::from_secs(1), || Ok(()));
        report.step("shards", Duration::from_secs(1), || panic!("disk on fire"));
        report.step("control", Duration::from_secs(1), || Err("stuck".into()));
        assert!(!report.is_clean());
        let text = report.to_string();
        assert!(text.contains("FAILED: disk on fire"), "{text}");
        assert!(text.contains("FAILED: stuck"), "{text}");
        assert!(text.contains("stopped in"), "{text}");
    }
}
