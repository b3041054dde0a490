//! How the parts of the control plane are kept alive: their shells, long-running tasks, and how
//! often each was restarted.

pub mod shell;
pub mod task;
pub mod tree;
