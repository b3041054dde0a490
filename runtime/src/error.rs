//! What can go wrong while the runtime starts.
//!
//! **Owns** the errors of starting: rings, cores, the control plane's thread, listening.
//! **Lives on** whichever thread starts things.
//! **Invariants** each text names what was wanted and what to change.
//! **Limits** none.
//! **Not here** errors of a room's own operations (mailbox, client, disk), which stay beside it.

use std::net::SocketAddr;

/// Why the runtime could not start. Each text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel or a container policy refuses `io_uring`.
    #[error("io_uring is not available ({cause}); {remedy}")]
    RingDenied {
        /// What the kernel answered.
        cause: String,
        /// What the operator can change.
        remedy: String,
    },
    /// `--cores` could not be understood or names a CPU this process may not use.
    #[error("cores `{value}`: {cause}")]
    Cores {
        /// The value as given.
        value: String,
        /// What is wrong with it.
        cause: String,
    },
    /// An executor could not be made.
    #[error("data core {core} did not start: {cause}")]
    Core {
        /// The data core's number.
        core: u16,
        /// What the executor said.
        cause: String,
    },
    /// The control plane's thread could not be made.
    #[error("the control plane did not start: {0}")]
    Control(String),
}

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another socket listens there already. Shared ports would hide a second broker, so this is
    /// checked before binding.
    #[error("{addr} is in use: another process listens there; stop it or choose another port")]
    InUse {
        /// The wanted address.
        addr: SocketAddr,
    },
    /// The operating system refused.
    #[error("cannot listen on {addr}: {cause}")]
    Refused {
        /// The wanted address.
        addr: SocketAddr,
        /// The system's words.
        cause: String,
    },
}
