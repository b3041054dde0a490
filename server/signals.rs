//! Ctrl-C and SIGTERM.
//!
//! **Owns** the signal handlers.
//! **Lives on** a thread of its own.
//! **Invariants** the first signal asks for an ordered stop, the second ends the process at once:
//! the
//! logs are made to survive that.
//! **Limits** none of its own.
//! **Not here** the stop itself (`server/broker.rs`, `server/namesrv.rs`).

use gantry_runtime::shutdown::Shutdown;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{exit, signal_name};

use crate::log;

/// What a shell reports for a process ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Turns signals into a stop.
///
/// # Errors
/// The system refuses the handlers.
pub fn watch(shutdown: &Shutdown) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| format!("signal handlers refused: {error}"))?;
    let shutdown = shutdown.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                let name = signal_name(signal).unwrap_or("signal");
                if asked {
                    log::tell(&format!("gantry: {name} again: ending at once"));
                    log::flush();
                    exit(EXIT_INTERRUPTED);
                }
                asked = true;
                log::tell(&format!(
                    "gantry: {name}: stopping in order; once more ends at once"
                ));
                shutdown.ask(name);
            }
        })
        .map(drop)
        .map_err(|error| format!("no thread for signals: {error}"))
}
