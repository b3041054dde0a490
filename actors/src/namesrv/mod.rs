//! The name server: which brokers hold which topics.
//!
//! **Owns** routes, liveness of brokers, key-value configuration, and the answers to their codes.
//! **Lives on** the control plane (actix), fed by a listener of its own through a mailbox.
//! **Invariants** all state is one actor's; it knows only what brokers told it, so a restart is
//! healed by
//! their next registration (≤ 30 s).
//! **Limits** see the rooms.
//! **Not here** listening (`server/namesrv`), the broker's side of registration (`control`).

pub mod bodies;
pub mod desk;
pub mod expected;
pub mod kv;
pub mod liveness;
pub mod lookup;
mod per_broker;
pub mod port;
pub mod routes;
pub mod settings;
pub mod shell;

#[cfg(test)]
mod routes_tests;
