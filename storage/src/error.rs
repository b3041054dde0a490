//! What can go wrong, one enum per operation.
//!
//! **Owns** the error types of the store's facade.
//! **Lives on** any core.
//! **Invariants** each enum has only variants its operation can give; nouns (file, position,
//! wanted, found) are inside, nobody matches on text.
//! **Limits** none.
//! **Not here** how a peer is told (refusal, in actors) or the disk's own error (`disk`).

use std::rc::Rc;

use thiserror::Error;

use crate::disk::DiskError;
use crate::units::{FilePosition, PhysicalOffset};

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The tail is full of bytes the device has not taken yet: flow control, try again soon.
    #[error("the tail is full: {unwritten_bytes} bytes wait for the device")]
    TailFull {
        /// Bytes staged and not yet written.
        unwritten_bytes: u64,
    },
    /// A write or sync failed; the shard takes nothing until restart.
    #[error("the shard refuses writes until restart: {reason}")]
    Poisoned {
        /// The first fault.
        reason: Rc<str>,
    },
    /// The next segment can't be made for now: the device is full, or too many files are open; or
    /// too much of the queue index waits for the device. Reads go on.
    #[error("{reason}")]
    StoreFull {
        /// What could not be created or written, and why.
        reason: Rc<str>,
    },
    /// The record is larger than any segment may hold.
    #[error("record of {bytes} bytes, at most {bytes_max} are taken")]
    TooLarge {
        /// Bytes of this record.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The shard is shutting down.
    #[error("the shard is closed")]
    Closed,
}

/// Why waiting for a commit ended without one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlushError {
    /// A write or sync failed; it will never be known to be on the device.
    #[error("the flush failed: {reason}")]
    Poisoned {
        /// The first fault.
        reason: Rc<str>,
    },
    /// The device failed at something that can be tried again.
    #[error("{detail}")]
    Device {
        /// What was tried and what the system said.
        detail: String,
    },
    /// The shard was closed before the position was committed.
    #[error("the shard is closed")]
    Closed,
}

/// Why records could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The device failed.
    #[error("read failed: {0}")]
    Disk(#[from] DiskError),
    /// What lies at the position is not a record.
    #[error("no record at position {position} of shard file {file}")]
    Damaged {
        /// The file.
        file: String,
        /// The position in the shard's log.
        position: FilePosition,
    },
    /// An index page is not what was written there.
    #[error("{detail}")]
    Index {
        /// The file and what is wrong with it.
        detail: String,
    },
    /// The position is not (or no longer) in the log.
    #[error("physical offset {physical} is outside the log")]
    Outside {
        /// What was asked for.
        physical: PhysicalOffset,
    },
}

/// Why a shard could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// The device failed.
    #[error("recovery failed: {0}")]
    Disk(#[from] DiskError),
    /// The store was written by a newer version of this program.
    #[error("{file} has format {found}, this program knows up to {known}: use a newer program")]
    NewerFormat {
        /// The file that says so.
        file: String,
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// A file of the store does not hold what it must.
    #[error("{file}: {detail}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An option contradicts the store or another option.
    #[error("{detail}")]
    Options {
        /// What contradicts what.
        detail: String,
    },
}
