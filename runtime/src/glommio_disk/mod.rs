//! The real disk: direct I/O through the core's ring.
//!
//! **Owns** `gantry_storage::Disk` on glommio, the shared-memory tail's mapping, the store's lock,
//! and what a shard asks of its surroundings besides.
//! **Lives on** a data core; the lock and the tail's place are chosen on the main thread.
//! **Invariants** reads and writes bypass the page cache and never block the core; rare operations
//! on folders go to glommio's blocking thread. A file system without direct I/O is refused at the
//! start, not at the first write.
//! **Limits** one root folder; positions and lengths are multiples of 4096.
//! **Not here** what is written (`gantry_storage`).

mod file;
mod lock;
mod memory;
mod shared_tail;
mod streaming;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_storage::disk::{DirEntry, Disk, DiskError, DiskErrorKind, OpenMode};
use glommio::TaskQueueHandle;
use glommio::io::DmaBuffer;
use rustix::io::Errno;

pub use file::{GlommioFile, ReadBytes};
pub use lock::{LockError, StoreLock};
pub use memory::give_back as give_memory_back;
pub use shared_tail::{SharedTail, TailError, TailFile, TailHome, TailPlace};

use crate::clock::wall_now_ms;
use crate::metrics::StallWatch;
use crate::probe;
use crate::shard::{breathe, spawn_into};

/// Alignment of every position, length and buffer.
pub const BLOCK_BYTES: usize = 4096;

/// Why a folder cannot hold a store.
#[derive(Debug, thiserror::Error)]
pub enum DiskSetupError {
    /// The file system has no direct I/O.
    #[error("{}: {found}; {remedy}", folder.display())]
    NoDirectIo {
        /// The folder.
        folder: PathBuf,
        /// What was found.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// The folder cannot be made, written or read.
    #[error("{}: {cause}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's words.
        cause: String,
    },
}

/// One root folder on one core. Clones share it.
#[derive(Clone)]
pub struct GlommioDisk {
    inner: Rc<Inner>,
}

struct Inner {
    root: PathBuf,
    queue: TaskQueueHandle,
    origin: Instant,
    watch: Option<StallWatch>,
}

impl GlommioDisk {
    /// Opens `root`, making it if it is missing; background tasks run in `queue`. Must run on a
    /// data core.
    ///
    /// # Errors
    /// The folder cannot be used, or has no direct I/O.
    pub async fn open(root: &Path, queue: TaskQueueHandle) -> Result<Self, DiskSetupError> {
        let folder = root.to_owned();
        let refuse = |cause: String| DiskSetupError::Folder {
            folder: folder.clone(),
            cause,
        };
        let place = root.to_owned();
        let checked = blocking(move || {
            std::fs::create_dir_all(&place)?;
            let place = place.canonicalize()?;
            let direct = probe::direct_io(&place);
            Ok((place, direct))
        })
        .await;
        let (root, direct) = checked.map_err(|error| refuse(error.to_string()))?;
        if let Some(remedy) = direct
            .remedy
            .filter(|_| direct.status == probe::Status::Fail)
        {
            return Err(DiskSetupError::NoDirectIo {
                folder,
                found: direct.found,
                remedy,
            });
        }
        settle_polling(&root)
            .await
            .map_err(|error| refuse(error.to_string()))?;
        let inner = Inner {
            root,
            queue,
            origin: Instant::now(),
            watch: None,
        };
        Ok(Self {
            inner: Rc::new(inner),
        })
    }

    /// The root folder, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The same disk with its background tasks watched.
    #[must_use]
    pub fn watched(&self, watch: StallWatch) -> Self {
        let inner = Inner {
            root: self.inner.root.clone(),
            queue: self.inner.queue,
            origin: self.inner.origin,
            watch: Some(watch),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.inner.root.clone()
        } else {
            self.inner.root.join(name)
        }
    }
}

/// glommio 0.9 reads the first file that it opens on a device with a polled read, and takes any
/// success as "this device polls". An empty file or an unwritten extent never reaches the device,
/// so it guesses wrong, spins from then on, and later reads fail with EOPNOTSUPP. A file with one
/// written block gives the right answer.
async fn settle_polling(root: &Path) -> io::Result<()> {
    // Cores start at the same time: each uses a name of its own.
    let name = format!(".probe-{}-{}", std::process::id(), glommio::executor().id());
    let path = root.join(name);
    let place = path.clone();
    blocking(move || probe::write_one_block(&place)).await?;
    let opened = glommio::io::DmaFile::open(&path).await;
    let result = match opened {
        Ok(file) => {
            let read = file.read_at_aligned(0, BLOCK_BYTES).await.map(|_| ());
            let closed = file.close().await;
            read.and(closed).map_err(io::Error::from)
        }
        Err(error) => Err(io::Error::from(error)),
    };
    blocking(move || std::fs::remove_file(path)).await?;
    result
}

impl Disk for GlommioDisk {
    type File = GlommioFile;
    type Buf = DmaBuffer;

    fn alloc(&self, len: usize) -> DmaBuffer {
        glommio::allocate_dma_buffer(len)
    }

    fn copy_out(into: &mut [u8], from: &[u8]) {
        streaming::copy(into, from);
    }

    async fn open(&self, name: &str, mode: OpenMode) -> Result<GlommioFile, DiskError> {
        GlommioFile::open(&self.path(name), name, mode).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<DirEntry>, DiskError> {
        let path = self.path(folder);
        blocking(move || list(&path))
            .await
            .map_err(|error| fault("list", folder, &error))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (source, target) = (self.path(from), self.path(to));
        let done = blocking(move || std::fs::rename(source, target)).await;
        done.map_err(|error| fault("rename", from, &error))
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        let done = blocking(move || std::fs::remove_file(path)).await;
        done.map_err(|error| fault("remove", name, &error))
    }

    async fn make_dir(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        let done = blocking(move || std::fs::create_dir_all(path)).await;
        done.map_err(|error| fault("make folder", name, &error))
    }

    async fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        let path = self.path(folder);
        let done = blocking(move || std::fs::File::open(path)?.sync_all()).await;
        done.map_err(|error| fault("sync folder", folder, &error))
    }

    async fn free_bytes(&self) -> Result<u64, DiskError> {
        let path = self.inner.root.clone();
        let stat = blocking(move || Ok(rustix::fs::statvfs(path)?)).await;
        let stat = stat.map_err(|error| fault("free space", "", &error))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    async fn sleep_ms(&self, ms: u64) {
        glommio::timer::sleep(Duration::from_millis(ms)).await;
    }

    async fn give_memory_back(&self) {
        glommio::executor().spawn_blocking(memory::give_back).await;
    }

    async fn yield_now(&self) {
        breathe().await;
    }

    fn now_ms(&self) -> u64 {
        wall_now_ms()
    }

    fn now_mono_us(&self) -> u64 {
        u64::try_from(self.inner.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0_u8; 8];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        debug_assert_eq!(
            filled,
            Ok(bytes.len()),
            "the kernel's generator is ready after boot"
        );
        u64::from_ne_bytes(bytes)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match &self.inner.watch {
            Some(watch) => spawn_into(self.inner.queue, watch.over(task)),
            None => spawn_into(self.inner.queue, task),
        }
    }
}

fn list(folder: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A name that is not UTF-8 is not ours.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        match entry.metadata() {
            Ok(data) if data.is_dir() => entries.push(DirEntry {
                name,
                len: 0,
                is_dir: true,
            }),
            Ok(data) => entries.push(DirEntry {
                name,
                len: data.len(),
                is_dir: false,
            }),
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// Runs a rare, blocking call on the executor's own blocking thread.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    glommio::executor().spawn_blocking(act).await
}

/// What Linux makes of a medium error and of a failed integrity check (`blk_status_to_errno`);
/// other faults of a read may pass.
const LOST: [i32; 2] = [Errno::NODATA.raw_os_error(), Errno::ILSEQ.raw_os_error()];

/// The process, or the system, has as many files open as it may.
const NO_HANDLE: [i32; 2] = [Errno::MFILE.raw_os_error(), Errno::NFILE.raw_os_error()];

fn fault(operation: &'static str, name: &str, error: &io::Error) -> DiskError {
    let kind = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => DiskErrorKind::NotFound,
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => DiskErrorKind::NoSpace,
        (_, Some(code)) if LOST.contains(&code) => DiskErrorKind::Lost,
        (_, Some(code)) if NO_HANDLE.contains(&code) => DiskErrorKind::NoHandle,
        _ => DiskErrorKind::Io,
    };
    DiskError::new(kind, operation, name, error)
}

#[cfg(test)]
mod tests;
