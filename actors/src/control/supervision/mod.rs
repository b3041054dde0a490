//! How the parts of the control plane are kept alive: their shells, and how often each was
//! restarted.

pub mod shell;
pub mod tree;
