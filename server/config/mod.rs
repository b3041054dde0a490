//! What an operator may set, and what comes of it.
//!
//! **Owns** the one table of keys, reading `broker.conf`, and turning values into settings.
//! **Lives on** the main thread, before anything starts.
//! **Invariants** every key a RocketMQ operator sets works, or is named with the reason why not; a
//! malformed value stops the start and names file, line, key, value and what is allowed.
//! **Limits** a configuration file is at most `file::CONFIG_BYTES_MAX`.
//! **Not here** what the settings mean (`gantry_actors::settings`).

pub mod address;
pub mod broker;
pub mod file;
pub mod namesrv;
pub mod port_holder;
pub mod table;
pub mod table_more;
pub mod table_namesrv;
pub mod value;
pub mod values;

pub use values::{Origin, Values};

#[cfg(test)]
mod config_tests;
