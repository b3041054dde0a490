//! The disk as storage sees it, and the clock and task spawner that live beside it.
//!
//! **Owns** the `Disk` and `DiskFile` traits and their durability contract.
//! **Lives on** one data core; nothing here is `Send`.
//! **Invariants** a finished `write_at` survives the death of the process; only a finished `sync`
//! survives a power cut; a finished `rename`, `remove` or creation survives a power cut only after
//! `sync_dir` of its folder; after a failed `sync` nothing un-synced may be trusted.
//! **Limits** positions and lengths of file operations are multiples of `BLOCK_BYTES`.
//! **Not here** a real disk (runtime) or the faulting one (`sim_disk`).
#![allow(
    async_fn_in_trait,
    reason = "storage is single-threaded: no caller needs these futures to be Send"
)]

use std::fmt;
use std::future::Future;

use thiserror::Error;

/// How a file is opened; every file is opened for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file is created (an old one is emptied) and given this many bytes, which read as zeros
    /// and for which space is reserved: `NoSpace` comes here, not at a later write.
    CreateLen(u64),
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name without its folder.
    pub name: String,
    /// Bytes of the file; 0 for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// What an operation ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskErrorKind {
    /// No such file or folder.
    NotFound,
    /// The device (or the quota) is full.
    NoSpace,
    /// The device says of a read that it has lost what was written there.
    Lost,
    /// No file can be opened now: the process, or the system, has as many open as it may. The
    /// device is well, and it passes.
    NoHandle,
    /// Any other fault of the device or the file system.
    Io,
}

/// A failed disk operation: what was tried, on which name, and what the system said.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{operation} {name}: {detail}")]
pub struct DiskError {
    /// What it ran into.
    pub kind: DiskErrorKind,
    /// The operation, such as `write` or `sync`.
    pub operation: &'static str,
    /// The file or folder, relative to the root.
    pub name: String,
    /// The system's words.
    pub detail: String,
}

impl DiskError {
    /// An error of `kind` from `operation` on `name`.
    pub fn new(
        kind: DiskErrorKind,
        operation: &'static str,
        name: impl Into<String>,
        detail: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            operation,
            name: name.into(),
            detail: detail.to_string(),
        }
    }

    /// Whether the device was full.
    pub fn is_no_space(&self) -> bool {
        self.kind == DiskErrorKind::NoSpace
    }

    /// Whether no file could be opened because too many are open.
    pub fn is_no_handle(&self) -> bool {
        self.kind == DiskErrorKind::NoHandle
    }

    /// Whether the name did not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == DiskErrorKind::NotFound
    }
}

/// One root folder on a device, the clock, and the task spawner of this core.
///
/// Names are relative to the root, `/` between folder and file, `""` for the root itself.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: DiskFile<Buf = Self::Buf>;
    /// An aligned buffer of an exact length, fit for direct writes.
    type Buf: AsRef<[u8]> + AsMut<[u8]> + 'static;

    /// An aligned buffer of exactly `len` bytes (a multiple of `BLOCK_BYTES`), content undefined.
    fn alloc(&self, len: usize) -> Self::Buf;

    /// An aligned buffer with the bytes of both pieces, one behind the other (together a multiple
    /// of `BLOCK_BYTES`): what is written to the device next and read by nobody else.
    fn alloc_filled(&self, pieces: [&[u8]; 2]) -> Self::Buf {
        let [first, rest] = pieces;
        let mut buf = self.alloc(first.len() + rest.len());
        let (into_first, into_rest) = buf.as_mut().split_at_mut(first.len());
        Self::copy_out(into_first, first);
        Self::copy_out(into_rest, rest);
        buf
    }

    /// Fills a part of such a buffer with as many bytes.
    fn copy_out(into: &mut [u8], from: &[u8]) {
        into.copy_from_slice(from);
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` for a missing file or folder, `NoSpace` when a new file cannot be given its
    /// length, `NoHandle` while too many files are open.
    async fn open(&self, name: &str, mode: OpenMode) -> Result<Self::File, DiskError>;

    /// What `folder` holds, in any order.
    ///
    /// # Errors
    /// `NotFound` for a missing folder.
    async fn list(&self, folder: &str) -> Result<Vec<DirEntry>, DiskError>;

    /// Renames a file within the root, replacing `to`.
    ///
    /// # Errors
    /// `NotFound` when `from` is missing.
    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file; open handles stay usable.
    ///
    /// # Errors
    /// `NotFound` when it is missing.
    async fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes a folder (and its parents); an existing one is fine.
    ///
    /// # Errors
    /// As the system says.
    async fn make_dir(&self, name: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals in `folder` survive a power cut.
    ///
    /// # Errors
    /// As the system says.
    async fn sync_dir(&self, folder: &str) -> Result<(), DiskError>;

    /// Bytes an ordinary process may still allocate on the device.
    ///
    /// # Errors
    /// As the system says.
    async fn free_bytes(&self) -> Result<u64, DiskError>;

    /// Waits at least `ms` milliseconds.
    async fn sleep_ms(&self, ms: u64);

    /// Lets the other tasks of this core run.
    async fn yield_now(&self);

    /// Milliseconds since the Unix epoch; may jump.
    fn now_ms(&self) -> u64;

    /// Microseconds on a clock that never goes back; origin undefined.
    fn now_mono_us(&self) -> u64;

    /// An unguessable number (a simulated disk draws it from its seed).
    fn random_u64(&self) -> u64;

    /// Many small blocks of memory have been freed: what the allocator keeps of them may go back to
    /// the system. Where nothing is known of the allocator, nothing is done.
    async fn give_memory_back(&self) {}

    /// Starts a background task on this core.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// An open file; clones are handles on the same file.
pub trait DiskFile: Clone + 'static {
    /// The buffer a write consumes.
    type Buf;
    /// The bytes a read gives.
    type Read: AsRef<[u8]> + 'static;

    /// Writes the whole buffer at `position`, bypassing any cache. Finished means: a killed process
    /// does not undo it. Several writes may be in flight; overlapping ones are the caller's fault.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. What part was written is then undefined.
    async fn write_at(&self, buf: Self::Buf, position: u64) -> Result<(), DiskError>;

    /// `write_at` whose own bytes survive a power cut once it is finished; it says nothing about
    /// writes before it. Where the system can join the two (a write straight through the device's
    /// cache), they cost one round trip.
    ///
    /// # Errors
    /// As of both.
    async fn write_at_and_sync(&self, buf: Self::Buf, position: u64) -> Result<(), DiskError> {
        self.write_at(buf, position).await?;
        self.sync().await
    }

    /// Reads `len` bytes at `position` (both multiples of `BLOCK_BYTES`); fewer come back only at
    /// the end of the file.
    ///
    /// # Errors
    /// `Io`.
    async fn read_at(&self, position: u64, len: usize) -> Result<Self::Read, DiskError>;

    /// Makes every write finished before this call survive a power cut (fdatasync).
    ///
    /// # Errors
    /// `Io`: nothing un-synced may be trusted any more, and a repeat proves nothing.
    async fn sync(&self) -> Result<(), DiskError>;

    /// Bytes of the file when it was opened.
    fn len(&self) -> u64;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the handle back; the file closes with its last handle.
    ///
    /// # Errors
    /// As the system says.
    async fn close(self) -> Result<(), DiskError>;
}
