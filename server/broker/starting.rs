//! Waiting for the parts of a start.
//!
//! **Owns** what ends a start before it serves, and the waiting that notices it.
//! **Lives on** the main thread.
//! **Invariants** a start waits for nothing that can't come any more: a part that panicked does not
//! say so itself, for its executor keeps the sender for ever (`gantry_runtime::shard`).
//! **Limits** `LOOK_EVERY` until a failure or a signal is noticed.
//! **Not here** the parts and how they end (`cores`, `server/namesrv.rs`).

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use gantry_runtime::shutdown::{Shutdown, StopReason};

/// Time between two looks at what may end a start.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a start came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The process was asked to stop first.
    Asked,
    /// One line for the operator.
    Failed(String),
}

impl From<String> for NotStarted {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl NotStarted {
    /// How the command ends.
    ///
    /// # Errors
    /// The start failed.
    pub fn end(self) -> Result<(), String> {
        match self {
            Self::Asked => {
                say!("stopped before it was up");
                Ok(())
            }
            Self::Failed(why) => Err(why),
        }
    }
}

/// Whether a start may go on.
///
/// # Errors
/// The signal has been given.
pub fn look(stop: &Shutdown) -> Result<(), NotStarted> {
    match stop.reason() {
        None => Ok(()),
        Some(StopReason::Asked(_)) => Err(NotStarted::Asked),
        Some(StopReason::Failed(why)) => Err(NotStarted::Failed(why)),
    }
}

/// Waits for the word of a part with this signal; `ended` is told if it ended without one.
///
/// # Errors
/// The part's, or its cause of death; the process was asked to stop.
pub fn await_word<T>(
    word: &Receiver<Result<T, String>>,
    part: &Shutdown,
    process: &Shutdown,
    ended: &str,
) -> Result<T, NotStarted> {
    loop {
        let nothing = match word.recv_timeout(LOOK_EVERY) {
            Ok(word) => return word.map_err(NotStarted::Failed),
            Err(nothing) => nothing,
        };
        look(part)?;
        look(process)?;
        if nothing == RecvTimeoutError::Disconnected {
            return Err(NotStarted::Failed(ended.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use gantry_runtime::shard::{CorePlan, DataCores};
    use gantry_runtime::topology::unbound;

    use super::*;

    /// What a start may take to notice, on a busy machine.
    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_panic_of_a_part_ends_the_wait_with_its_cause() {
        let (part, process) = (Shutdown::new(), Shutdown::new());
        let (send, word) = mpsc::channel::<Result<(), String>>();
        let plan = CorePlan::new(unbound(1));
        let cores = DataCores::start(&plan, &part, vec![send], |context, send| async move {
            context.spawn_clean(async { panic!("injected") });
            // Held by a task that never ends, as recovery would be.
            std::future::pending::<()>().await;
            drop(send);
        })
        .unwrap();
        let begun = Instant::now();
        let heard = await_word(&word, &part, &process, "ended");
        let cause = "data core 0 panicked: injected".to_owned();
        assert_eq!(heard, Err(NotStarted::Failed(cause)));
        assert!(begun.elapsed() < SOON);
        assert_eq!(cores.join().len(), 1);
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let (part, process) = (Shutdown::new(), Shutdown::new());
        let (_send, word) = mpsc::channel::<Result<(), String>>();
        process.ask("SIGTERM");
        let heard = await_word(&word, &part, &process, "ended");
        assert_eq!(heard, Err(NotStarted::Asked));
        assert_eq!(NotStarted::Asked.end(), Ok(()));
    }

    #[test]
    fn a_word_is_passed_on_and_an_end_without_one_is_told() {
        let (part, process) = (Shutdown::new(), Shutdown::new());
        let (send, word) = mpsc::channel();
        send.send(Ok(7)).unwrap();
        send.send(Err("no disk".to_owned())).unwrap();
        drop(send);
        let next = || await_word(&word, &part, &process, "ended");
        assert_eq!(next(), Ok(7));
        assert_eq!(next(), Err(NotStarted::Failed("no disk".into())));
        assert_eq!(next(), Err(NotStarted::Failed("ended".into())));
    }
}
