//! The tail's memory: a mapping that a killed process leaves behind.
//!
//! **Owns** the file behind a shard's tail, its place and its mapping.
//! **Lives on** the shard's core; the place is chosen on the main thread.
//! **Invariants** the file's whole length is reserved before it is mapped, so a full tmpfs is an
//! error here and not a SIGBUS at the first record. The file is locked while it is used: the lock
//! of the data folder says nothing of a process on a copy of that, which has the same tail.
//! **Limits** [`TAIL_BYTES_MAX`].
//! **Not here** what the bytes mean (`gantry_storage::tail`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use crate::probe;

/// Where tmpfs is on a usual Linux.
const SHM_FOLDER: &str = "/dev/shm";
/// Largest tail: it stays in memory.
pub const TAIL_BYTES_MAX: u64 = 1 << 30;
/// Tries to lock a file that is still in its place afterwards: an orderly stop removes it.
const TAKE_TRIES_MAX: u32 = 8;

/// Why the tail cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The file cannot be made, grown or mapped.
    #[error("tail {}: {operation}: {cause}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's words.
        cause: String,
    },
    /// Another process has it.
    #[error(
        "tail {}: in use by another process, perhaps with a copy of this data folder: stop that \
         one. A copy that is to run beside it needs a tail of its own: remove its tail-<k>.path \
         files and set tailDir",
        path.display()
    )]
    Used {
        /// The file.
        path: PathBuf,
    },
    /// A length of zero, above [`TAIL_BYTES_MAX`], or not a multiple of the block.
    #[error("a tail of {bytes} bytes is not possible")]
    Length {
        /// The wanted length.
        bytes: u64,
    },
}

/// What kind of memory holds the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailHome {
    /// tmpfs: no device behind it.
    SharedMemory,
    /// The data folder: survives a killed process as well, but a stall of the page cache is felt.
    DataFolder,
    /// The folder the operator named.
    Named,
}

/// The folder that holds the tails of a store.
#[derive(Debug, Clone)]
pub struct TailPlace {
    /// The folder.
    pub folder: PathBuf,
    /// Its kind.
    pub home: TailHome,
    /// Why it was chosen, for the start-up line.
    pub why: String,
}

impl TailPlace {
    /// Chooses the folder: `tail_dir` when the operator named one, else `/dev/shm` where it
    /// outlives the process, else the data folder.
    pub fn choose(tail_dir: Option<&Path>, data: &Path) -> Self {
        if let Some(folder) = tail_dir {
            let why = "tailDir".to_owned();
            return Self {
                folder: folder.to_owned(),
                home: TailHome::Named,
                why,
            };
        }
        let shm = probe::shared_memory(Path::new(SHM_FOLDER));
        if shm.status == probe::Status::Ok {
            let folder = PathBuf::from(SHM_FOLDER);
            return Self {
                folder,
                home: TailHome::SharedMemory,
                why: shm.found,
            };
        }
        Self {
            folder: data.to_owned(),
            home: TailHome::DataFolder,
            why: shm.found,
        }
    }

    /// The file of one shard's tail: where the last process left it, if it is still there, else in
    /// this folder. A choice that changes between two starts must not lose what a killed process
    /// left behind. What lies in the data folder itself came with it, wherever that was before.
    pub fn locate(&self, data: &Path, store_id: u64, shard: u8) -> PathBuf {
        let own = data.join(tail_name(store_id, shard));
        let recorded = std::fs::read_to_string(record_of(data, shard))
            .ok()
            .map(PathBuf::from)
            .filter(|path| !is_name(path));
        let found = [Some(own), recorded].into_iter().flatten();
        let mut found = found.filter(|path| path.is_file());
        found.next().unwrap_or_else(|| self.path(store_id, shard))
    }

    /// Notes in the data folder where the tail of a shard lies, before anything is answered from
    /// it. Of one in the data folder just the name: a copy of the folder has one of its own.
    ///
    /// # Errors
    /// The data folder can't be written.
    pub fn record(data: &Path, shard: u8, tail: &Path) -> Result<(), TailError> {
        let path = record_of(data, shard);
        let failed = |error: std::io::Error| TailError::Failed {
            path: path.clone(),
            operation: "record",
            cause: error.to_string(),
        };
        let text = match tail.file_name() {
            Some(name) if tail.parent() == Some(data) => name.to_string_lossy(),
            _ => tail.to_string_lossy(),
        };
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text.as_bytes()).map_err(failed)?;
        std::fs::rename(&fresh, &path).map_err(failed)
    }

    /// The file of one shard's tail in this folder. The store's id keeps two stores on one machine
    /// apart.
    pub fn path(&self, store_id: u64, shard: u8) -> PathBuf {
        self.folder.join(tail_name(store_id, shard))
    }
}

fn tail_name(store_id: u64, shard: u8) -> String {
    format!("gantry-{store_id:016x}-{shard}.tail")
}

/// Whether it names a file of the data folder.
fn is_name(path: &Path) -> bool {
    let mut parts = path.components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn record_of(data: &Path, shard: u8) -> PathBuf {
    data.join(format!("tail-{shard}.path"))
}

/// A tail's file, locked for this process until the last of its mappings has gone as well.
#[derive(Debug)]
pub struct TailFile {
    file: File,
    path: PathBuf,
    existed: bool,
}

impl TailFile {
    /// Locks the file at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// Another process has it, or it can't be made or locked.
    pub fn take(path: &Path) -> Result<Rc<Self>, TailError> {
        let failed = |operation, error: io::Error| failure(path, operation, &error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed("make folder", error))?;
        }
        for _ in 0..TAKE_TRIES_MAX {
            let existed = path.exists();
            let file = open_private(path).map_err(|error| failed("open", error))?;
            if !lock(&file).map_err(|error| failed("lock", error))? {
                break;
            }
            let path = path.to_owned();
            let taken = Self {
                file,
                path,
                existed,
            };
            if taken.is_in_place() {
                return Ok(Rc::new(taken));
            }
        }
        let path = path.to_owned();
        Err(TailError::Used { path })
    }

    /// Whether another process has the file at `path`.
    pub fn is_used(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| matches!(lock(&file), Ok(false)))
    }

    /// Maps `bytes` bytes of it. An existing file keeps its content; one of another length keeps
    /// its own length when that is longer (the last process used a larger tail, which must still be
    /// read), and is grown with zeros when it is shorter.
    ///
    /// # Errors
    /// It can't be reserved (tmpfs is full) or mapped.
    pub fn map(self: &Rc<Self>, bytes: u64) -> Result<SharedTail, TailError> {
        check_length(bytes)?;
        let failed = |operation, error: io::Error| failure(&self.path, operation, &error);
        let held = self.file.metadata();
        let held = held.map_err(|error| failed("stat", error))?.len();
        let whole = bytes.max(held.min(TAIL_BYTES_MAX));
        if let Err(errno) = fallocate(&self.file, FallocateFlags::empty(), 0, whole) {
            if !self.existed {
                // A half-made file would look like a tail to the next start.
                let _ = std::fs::remove_file(&self.path);
            }
            return Err(failed("reserve", errno.into()));
        }
        let map = map(&self.file).map_err(|error| failed("map", error))?;
        let file = Rc::clone(self);
        Ok(SharedTail { map, file })
    }

    /// Removes the file, unless another one is in its place by now.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self) -> Result<(), TailError> {
        if !self.is_in_place() {
            return Ok(());
        }
        let removed = std::fs::remove_file(&self.path);
        removed.map_err(|error| failure(&self.path, "remove", &error))
    }

    /// Whether this file is the one that its path leads to.
    fn is_in_place(&self) -> bool {
        let (there, mine) = (std::fs::symlink_metadata(&self.path), self.file.metadata());
        matches!((there, mine), (Ok(there), Ok(mine))
            if (there.dev(), there.ino()) == (mine.dev(), mine.ino()))
    }
}

/// A mapped tail.
#[derive(Debug)]
pub struct SharedTail {
    map: MmapMut,
    file: Rc<TailFile>,
}

impl SharedTail {
    /// Locks and maps `path`, see [`TailFile::take`] and [`TailFile::map`].
    ///
    /// # Errors
    /// As theirs.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, TailError> {
        check_length(bytes)?;
        TailFile::take(path)?.map(bytes)
    }

    /// Whether a file was there before.
    pub fn existed(&self) -> bool {
        self.file.existed
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never true: an empty tail is refused.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl AsRef<[u8]> for SharedTail {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl AsMut<[u8]> for SharedTail {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

fn check_length(bytes: u64) -> Result<(), TailError> {
    let block = super::BLOCK_BYTES as u64;
    if bytes == 0 || bytes > TAIL_BYTES_MAX || !bytes.is_multiple_of(block) {
        return Err(TailError::Length { bytes });
    }
    Ok(())
}

fn failure(path: &Path, operation: &'static str, error: &io::Error) -> TailError {
    TailError::Failed {
        path: path.to_owned(),
        operation,
        cause: error.to_string(),
    }
}

/// False when another process has it. The kernel drops the lock with the process.
fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // No link is followed: /dev/shm is writable by everybody.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: a shared mapping is only sound while nobody else changes or shortens the file. The
    // file is private to this user (mode 0600, no link followed), named by the store's id, and
    // locked (`TailFile`), which admits one process; this process uses one mapping of it at a time
    // and never truncates it. Its length was reserved just before, so no access faults.
    unsafe { MmapMut::map_mut(file) }
}
