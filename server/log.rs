//! Logs to stderr.
//!
//! **Owns** the format and the filter.
//! **Lives on** every thread, once started.
//! **Invariants** stdout stays free for what commands print.
//! **Limits** none of its own.
//! **Not here** what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// glommio warns in the kernel's words of what the start reports in ours (locked memory).
const QUIET: &str = "glommio::sys::uring=error";

/// Starts logging. `filter` is a level, or a tracing filter such as `info,gantry_actors=debug`.
///
/// # Errors
/// The filter can't be read.
pub fn start(filter: &str) -> Result<(), String> {
    let given = filter;
    let filter = EnvFilter::try_new(format!("{QUIET},{given}")).map_err(|error| {
        format!("--log {given}: {error}; use error, warn, info, debug, trace or a tracing filter")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be told on stderr, where nobody reads, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| format!("logging cannot start: {error}"))
}
