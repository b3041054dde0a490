//! The control plane: few messages, much policy, on actix actors of its own thread.
//!
//! **Owns** topics, groups and their members, stored offsets, the name-server links, admin
//! requests.
//! **Lives on** the control plane's thread; [`ControlPlane`] is its handle for the main thread.
//! **Invariants** never between a client and its bytes: no send or pull of a known topic and group
//! crosses the seam. Each part is plain state inside an actor that a panic restarts
//! (`supervision`).
//! **Limits** each room names its own.
//! **Not here** queues, pulls, positions of consumers (`data`), the name server (`namesrv`).

mod admin;
mod attributes;
pub mod cleaning;
mod cores;
mod desk;
mod groups;
mod ledger;
mod offsets;
mod plane;
mod registration;
mod reply;
mod start;
mod supervision;
mod supervisors;
#[cfg(test)]
mod tests;
mod topics;

pub use desk::{Counter, counter};
pub use registration::LinkReport;
pub use start::{ControlPlane, Loaded};
