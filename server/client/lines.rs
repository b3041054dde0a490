//! Lines of standard input, one a message.
//!
//! **Owns** reading them, away from the runtime: a pipe may be silent for hours, and replies come
//! meanwhile.
//! **Lives on** a thread of its own, which ends with the input or with the process.
//! **Invariants** a line is whole: one that is too long is refused, not cut.
//! **Limits** [`LINE_BYTES_MAX`] a line; [`LINES_AHEAD_MAX`] lines wait.
//! **Not here** what becomes of them (`send`).

use std::io::{self, BufRead, Read as _};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Longest line: RocketMQ's default limit of a body.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Lines read ahead: enough that the sender need not wait for the reader.
const LINES_AHEAD_MAX: usize = 8;

/// A line without its end, or why there are no more.
pub type Line = Result<Bytes, String>;

/// The lines of standard input.
pub struct Lines {
    come: mpsc::Receiver<Line>,
}

impl Lines {
    /// Begins to read.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> Result<Self, String> {
        let (out, come) = mpsc::channel(LINES_AHEAD_MAX);
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || read(io::stdin().lock(), |line| out.blocking_send(line).is_ok()))
            .map_err(|error| format!("standard input: no thread to read it: {error}"))?;
        Ok(Self { come })
    }

    /// The next one, `None` at the end.
    pub async fn next(&mut self) -> Option<Line> {
        self.come.recv().await
    }
}

/// Hands out lines until the end, a failure, or `out` has enough.
fn read(mut input: impl BufRead, mut out: impl FnMut(Line) -> bool) {
    for number in 1_u64.. {
        let mut line = Vec::new();
        // The line's end comes on top.
        let mut part = input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        if let Err(error) = part.read_until(b'\n', &mut line) {
            out(Err(format!("standard input: {error}")));
            return;
        }
        if line.is_empty() {
            return;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > LINE_BYTES_MAX {
            out(Err(format!(
                "standard input: line {number} is longer than {LINE_BYTES_MAX} bytes, a message \
                 takes no more"
            )));
            return;
        }
        if !out(Ok(line.into())) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        read(input, |line| {
            lines.push(line);
            true
        });
        lines
    }

    #[test]
    fn lines_come_whole_and_blank_ones_are_no_end() {
        let lines = all(b"one\n\ntwo\nlast");
        assert_eq!(
            lines,
            ["one", "", "two", "last"].map(|line| Ok(line.into()))
        );
        assert!(all(b"").is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_by_its_number() {
        let longest = vec![b'x'; LINE_BYTES_MAX];
        let fits = [b"a\n", &longest[..], b"\nb"].concat();
        assert!(all(&fits).iter().all(Result::is_ok) && all(&fits).len() == 3);
        let lines = all(&[b"a\n", &longest[..], b"x\nb"].concat());
        assert_eq!(lines.len(), 2);
        assert!(lines[1].as_ref().unwrap_err().contains("line 2 is longer"));
    }
}
