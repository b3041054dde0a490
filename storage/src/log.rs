//! One shard's log: from the tail to the segments and back.
//!
//! `staging` packs, `log_writer` writes and syncs, `segment_pool` keeps room ahead, `recovery`
//! finds the end again, `read_ahead` and `pieces` read what is no longer in the tail.

pub(crate) mod aside;
pub(crate) mod checkpoint;
pub(crate) mod log_writer;
pub mod offline;
pub(crate) mod pieces;
pub(crate) mod poison;
pub(crate) mod read_ahead;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod segment_pool;
pub(crate) mod segments;
pub(crate) mod shard_log;
pub(crate) mod signal;
pub(crate) mod staging;
pub(crate) mod watermark;
