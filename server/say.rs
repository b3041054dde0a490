//! Lines for whoever started the process.
//!
//! **Owns** the writing to stdout and stderr beside the log.
//! **Lives on** every thread.
//! **Invariants** nobody has to read them: a process whose reader is gone (`gantry up | head`) goes
//! on serving and stops in order. `println!` would panic there.
//! **Limits** none of its own.
//! **Not here** the log (`log`), what the lines say.

use std::fmt::Arguments;

/// A line on stdout.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(std::io::stdout(), format_args!($($text)*)) };
}

/// Text on stdout that ends its own lines.
macro_rules! say_all {
    ($($text:tt)*) => { $crate::say::text(std::io::stdout(), format_args!($($text)*)) };
}

/// A line on stderr.
macro_rules! tell {
    ($($text:tt)*) => { $crate::say::line(std::io::stderr(), format_args!($($text)*)) };
}

/// See [`say!`] and [`tell!`].
pub fn line(mut out: impl std::io::Write, text: Arguments<'_>) {
    // One write, so that lines of several threads don't mix.
    drop(out.write_all(format!("{text}\n").as_bytes()));
}

/// See [`say_all!`].
pub fn text(mut out: impl std::io::Write, text: Arguments<'_>) {
    drop(out.write_fmt(text).and_then(|()| out.flush()));
}
