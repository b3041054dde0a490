//! What a run cost and what else went on: the broker's process, the machine, the watch over both.

pub mod course;
pub mod machine;
pub mod process;
pub mod watch;
