//! Cores, rings, sockets, mailboxes: everything that touches the kernel, and no rule of `RocketMQ`.
//!
//! **Owns** the thread-per-core executors, the sockets, the disk behind `gantry_storage::Disk`, the
//! mesh between cores and the mailboxes to the control plane.
//! **Lives on** every thread of the process; each room says on which.
//! **Invariants** a data core never blocks on another thread; every queue in here has a bound.
//! **Limits** each room names its own constants.
//! **Not here** the meaning of a request (`actors`), the layout of the log (`storage`).
#![deny(unsafe_code)]

pub mod budget;
pub mod clock;
pub mod control;
pub mod error;
pub mod glommio_disk;
pub mod mailbox;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod probe;
mod raw_ring;
pub mod shard;
pub mod shutdown;
pub mod space;
pub mod topology;

pub use error::StartError;
