//! Gantry's storage: one log per shard, the indexes derived from it, and the way back after a
//! crash.
//!
//! Single-threaded and async over the [`disk::Disk`] trait; `shard_store` is the face.
#![forbid(unsafe_code)]

pub mod address;
pub mod disk;
pub mod error;
pub mod format;
pub mod identity;
pub mod index_pages;
pub mod key_index;
mod log;
pub mod queue_index;
pub mod retention;
pub mod shard_store;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod tables;
pub mod tail;
pub mod units;

pub use log::offline;

#[cfg(test)]
mod disaster_tests;
#[cfg(test)]
mod simulation_tests;
