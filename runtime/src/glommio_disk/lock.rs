//! One process per store.
//!
//! **Owns** the lock file of a data folder.
//! **Lives on** the main thread, from before the cores start until the process ends.
//! **Invariants** the kernel drops the lock when the process dies, however it dies: no stale lock.
//! **Limits** processes that share the folder over a network file system see only what that offers.
//! **Not here** the store itself.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The name of the lock file in the data folder.
const LOCK_NAME: &str = "lock";
/// A process id and a newline fit easily.
const PID_BYTES_MAX: u64 = 32;

/// Why the store cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {pid}; stop it or choose another folder", folder.display())]
    Held {
        /// The data folder.
        folder: PathBuf,
        /// The process, as it wrote itself down; `?` when it has not yet.
        pid: String,
    },
    /// The lock file cannot be made.
    #[error("cannot lock {}: {cause}", folder.display())]
    Failed {
        /// The data folder.
        folder: PathBuf,
        /// The system's words.
        cause: String,
    },
}

/// The lock, held until dropped.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Locks `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// Another process holds it, or the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |error: std::io::Error| LockError::Failed {
            folder: folder.to_owned(),
            cause: error.to_string(),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let path = folder.join(LOCK_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let folder = folder.to_owned();
                return Err(LockError::Held {
                    folder,
                    pid: written_pid(&mut file),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let note = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        let mut note = note;
        note().map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn written_pid(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    let pid = text.trim();
    if read.is_err() || pid.is_empty() {
        "?".to_owned()
    } else {
        pid.to_owned()
    }
}
