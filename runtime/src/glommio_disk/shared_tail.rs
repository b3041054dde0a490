//! The tail's memory: a mapping that a killed process leaves behind.
//!
//! **Owns** the file behind a shard's tail, its place and its mapping.
//! **Lives on** the shard's core; the place is chosen on the main thread.
//! **Invariants** the file's whole length is reserved before it is mapped, so a full tmpfs is an
//! error here and not a SIGBUS at the first record. The store's lock keeps other processes from
//! mapping it.
//! **Limits** [`TAIL_BYTES_MAX`].
//! **Not here** what the bytes mean (`gantry_storage::tail`).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, fallocate};

use crate::probe;

/// Where tmpfs is on a usual Linux.
const SHM_FOLDER: &str = "/dev/shm";
/// Largest tail: it stays in memory.
pub const TAIL_BYTES_MAX: u64 = 1 << 30;

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
    /// left behind.
    pub fn locate(&self, data: &Path, store_id: u64, shard: u8) -> PathBuf {
        let chosen = self.path(store_id, shard);
        let recorded = std::fs::read_to_string(record_of(data, shard))
            .ok()
            .map(PathBuf::from);
        recorded.filter(|path| path.is_file()).unwrap_or(chosen)
    }

    /// Notes in the data folder where the tail of a shard lies, before anything is answered from
    /// it.
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
        let text = tail.to_string_lossy();
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
        self.folder
            .join(format!("gantry-{store_id:016x}-{shard}.tail"))
    }
}

fn record_of(data: &Path, shard: u8) -> PathBuf {
    data.join(format!("tail-{shard}.path"))
}

/// A mapped tail.
#[derive(Debug)]
pub struct SharedTail {
    map: MmapMut,
    path: PathBuf,
    existed: bool,
}

impl SharedTail {
    /// Maps `path` with `bytes` bytes. An existing file keeps its content; one of another length
    /// keeps its own length when that is longer (the last process used a larger tail, which must
    /// still be read), and is grown with zeros when it is shorter.
    ///
    /// # Errors
    /// The file cannot be made, reserved (tmpfs is full) or mapped.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, TailError> {
        let block = super::BLOCK_BYTES as u64;
        if bytes == 0 || bytes > TAIL_BYTES_MAX || !bytes.is_multiple_of(block) {
            return Err(TailError::Length { bytes });
        }
        let failed = |operation, error: io::Error| TailError::Failed {
            path: path.to_owned(),
            operation,
            cause: error.to_string(),
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed("make folder", error))?;
        }
        let existed = path.exists();
        let file = open_private(path).map_err(|error| failed("open", error))?;
        let held = file
            .metadata()
            .map_err(|error| failed("stat", error))?
            .len();
        let whole = bytes.max(held.min(TAIL_BYTES_MAX));
        if let Err(errno) = fallocate(&file, FallocateFlags::empty(), 0, whole) {
            let failure = failed("reserve", errno.into());
            if !existed {
                // A half-made file would look like a tail to the next start.
                let _ = std::fs::remove_file(path);
            }
            return Err(failure);
        }
        let map = map(&file).map_err(|error| failed("map", error))?;
        Ok(Self {
            map,
            path: path.to_owned(),
            existed,
        })
    }

    /// Whether a file was there before.
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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
    // file is private to this user (mode 0600, no link followed), named by the store's id, and the
    // store's lock (`StoreLock`) admits one process; this process maps each shard's tail once and
    // never truncates it. Its length was reserved just before, so no access faults.
    unsafe { MmapMut::map_mut(file) }
}
