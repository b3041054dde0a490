//! One queue: its actor, its rules, its memory.

pub mod actor;
pub mod append;
pub mod asker;
pub mod cold_lane;
pub mod offsets;
pub mod order_lock;
pub mod pull;
pub mod state;
pub mod store;
pub mod tally;
pub mod waiters;
