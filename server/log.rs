//! Logs to stderr.
//!
//! **Owns** the format and the filter, and the lines that wait to be written.
//! **Lives on** every thread, once started; a thread of its own writes.
//! **Invariants** stdout stays free for what commands print. Nobody waits for whoever reads stderr:
//! data cores log, and a terminal that is stopped or a full pipe would stop them. What doesn't fit
//! is dropped and counted. What waits is written before the process ends, if it can be.
//! **Limits** [`LINES_MAX`] lines wait; [`FLUSH_MAX`] at the end.
//! **Not here** what is logged.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use crate::print::line;

/// glommio warns in the kernel's words of what the start reports in ours (locked memory).
const QUIET: &str = "glommio::sys::uring=error";
/// Lines that wait: a burst of a second or so, some 200 KiB.
const LINES_MAX: usize = 1024;
/// Longest wait for them at the end: far more than a reader needs that reads.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Between two looks at whether all is written.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// The lines of this process, once it logs.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// Lines on their way to stderr.
struct Lines {
    out: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    taken: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Lines {
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (out, waiting) = sync_channel(LINES_MAX);
        let counts = Arc::default();
        (Self { out, counts }, waiting)
    }

    /// Waits until everything taken is written, or the time is over.
    fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let taken = self.counts.taken.load(Ordering::Acquire);
        while self.counts.written.load(Ordering::Acquire) < taken && Instant::now() < end {
            std::thread::sleep(FLUSH_POLL);
        }
    }
}

/// Each event is one write. Never waits, never fails.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Counted first: the writer may be faster.
        self.counts.taken.fetch_add(1, Ordering::AcqRel);
        if self.out.try_send(line.to_vec()).is_err() {
            self.counts.taken.fetch_sub(1, Ordering::AcqRel);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until the process ends. Nobody has to read them.
fn write_all(waiting: &Receiver<Vec<u8>>, counts: &Counts, mut to: impl Write) {
    while let Ok(line) = waiting.recv() {
        drop(to.write_all(&line));
        counts.written.fetch_add(1, Ordering::AcqRel);
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let told = format!("{dropped} log lines are missing here: nobody read stderr\n");
            drop(to.write_all(told.as_bytes()));
        }
    }
}

/// Starts logging. `filter` is a level, or a tracing filter such as `info,gantry_actors=debug`.
///
/// # Errors
/// The filter can't be read.
pub fn start(filter: &str) -> Result<(), String> {
    let given = filter;
    let filter = EnvFilter::try_new(format!("{QUIET},{given}")).map_err(|error| {
        format!("--log {given}: {error}; use error, warn, info, debug, trace or a tracing filter")
    })?;
    let (lines, waiting) = Lines::new();
    let counts = Arc::clone(&lines.counts);
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_all(&waiting, &counts, io::stderr()))
        .map_err(|error| format!("logging cannot start: no thread for it: {error}"))?;
    let lines = LINES.get_or_init(|| Arc::new(lines));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Arc::clone(lines))
        // It would be told on stderr, where nobody reads, and panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| format!("logging cannot start: {error}"))
}

/// A line among those of the log: a process that ends must not wait for whoever reads it, either.
pub fn tell(text: &str) {
    match LINES.get() {
        Some(lines) => line(lines.as_ref(), format_args!("{text}")),
        None => line(io::stderr(), format_args!("{text}")),
    }
}

/// Writes what waits, for as long as whoever reads takes it.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(FLUSH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_up_to_a_bound_and_missing_ones_are_counted() {
        let (lines, waiting) = Lines::new();
        for n in 0..LINES_MAX + 3 {
            (&lines).write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        lines.flush(Duration::ZERO);
        let counts = Arc::clone(&lines.counts);
        drop(lines);
        let mut written = Vec::new();
        write_all(&waiting, &counts, &mut written);
        let text = String::from_utf8(written).unwrap();
        let all: Vec<&str> = text.lines().collect();
        assert_eq!(all.len(), LINES_MAX + 1);
        assert_eq!(all[..1], ["0"]);
        assert!(all[1].starts_with("3 log lines are missing"), "{}", all[1]);
    }
}
