//! One open file with direct I/O.
//!
//! **Owns** the handle; clones share it, the last one closes it.
//! **Lives on** the data core that opened it.
//! **Invariants** a write is whole or an error; a read is short only at the end of the file.
//! **Limits** buffers come from the ring's registered memory while it lasts, else from the heap.
//! **Not here** folders (`glommio_disk`).

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use gantry_storage::disk::{DiskError, DiskErrorKind, DiskFile, OpenMode};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use rustix::fs::OFlags;

use super::{blocking, fault};

/// `O_DSYNC` as the standard library's options take it.
const DSYNC: i32 = OFlags::DSYNC.bits().cast_signed();

/// An open file.
#[derive(Clone)]
pub struct GlommioFile {
    inner: Rc<Inner>,
}

struct Inner {
    file: DmaFile,
    /// The same file opened with `O_DSYNC`, from the first synced write on.
    synced: RefCell<Option<Rc<DmaFile>>>,
    name: String,
    len: u64,
}

/// The bytes of one read.
pub struct ReadBytes(ReadResult);

impl AsRef<[u8]> for ReadBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl GlommioFile {
    pub(super) async fn open(path: &Path, name: &str, mode: OpenMode) -> Result<Self, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o640);
        if matches!(mode, OpenMode::CreateLen(_)) {
            options.create(true).truncate(true);
        }
        let failed = |error: glommio::GlommioError<()>| fault("open", name, &io_error(error));
        let file = options.dma_open(path).await.map_err(failed)?;
        let len = match mode {
            OpenMode::Existing => file.file_size().await.map_err(failed)?,
            OpenMode::CreateLen(0) => 0,
            OpenMode::CreateLen(len) => {
                let reserved = file.pre_allocate(len, false).await;
                if let Err(error) = reserved {
                    let error = fault("reserve", name, &io_error(error));
                    // The open is what failed for the caller. The file goes: it may hold the last
                    // blocks of a full device, which others need.
                    let _ = file.close().await;
                    let path = path.to_owned();
                    let _ = blocking(move || std::fs::remove_file(path)).await;
                    return Err(error);
                }
                len
            }
        };
        Ok(Self {
            inner: Rc::new(Inner {
                file,
                synced: RefCell::new(None),
                name: name.to_owned(),
                len,
            }),
        })
    }

    /// The handle whose writes are durable when they finish.
    ///
    /// The kernel joins such a write with its flush; a write and an fdatasync of their own cost a
    /// second round trip through a worker thread. Opened through the first handle, as the file may
    /// have another name by now.
    async fn synced(&self) -> Result<Rc<DmaFile>, DiskError> {
        if let Some(file) = &*self.inner.synced.borrow() {
            return Ok(Rc::clone(file));
        }
        let path = format!("/proc/self/fd/{}", self.inner.file.as_raw_fd());
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(DSYNC);
        let opened = options.dma_open(&path).await;
        let file = Rc::new(opened.map_err(|error| self.failed("open", error))?);
        // Whoever was first while this one waited is used; the other closes itself.
        Ok(Rc::clone(
            self.inner.synced.borrow_mut().get_or_insert(file),
        ))
    }

    async fn write_to(
        &self,
        file: &DmaFile,
        buf: DmaBuffer,
        position: u64,
    ) -> Result<(), DiskError> {
        let wanted = buf.len();
        let written = file.write_at(buf, position).await;
        let written = written.map_err(|error| self.failed("write", error))?;
        if written != wanted {
            let detail = format!("{written} of {wanted} bytes written at {position}");
            let name = self.inner.name.clone();
            return Err(DiskError::new(
                DiskErrorKind::NoSpace,
                "write",
                name,
                detail,
            ));
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str, error: glommio::GlommioError<()>) -> DiskError {
        fault(operation, &self.inner.name, &io_error(error))
    }
}

impl DiskFile for GlommioFile {
    type Buf = DmaBuffer;
    type Read = ReadBytes;

    async fn write_at(&self, buf: DmaBuffer, position: u64) -> Result<(), DiskError> {
        self.write_to(&self.inner.file, buf, position).await
    }

    async fn write_at_and_sync(&self, buf: DmaBuffer, position: u64) -> Result<(), DiskError> {
        match self.synced().await {
            Ok(file) => self.write_to(&file, buf, position).await,
            // Too many files are open: what needs no second handle is as durable, only slower.
            Err(error) if error.is_no_handle() => {
                self.write_at(buf, position).await?;
                self.sync().await
            }
            Err(error) => Err(error),
        }
    }

    async fn read_at(&self, position: u64, len: usize) -> Result<ReadBytes, DiskError> {
        let read = self.inner.file.read_at_aligned(position, len).await;
        read.map(ReadBytes)
            .map_err(|error| self.failed("read", error))
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.inner
            .file
            .fdatasync()
            .await
            .map_err(|error| self.failed("sync", error))
    }

    fn len(&self) -> u64 {
        self.inner.len
    }

    async fn close(self) -> Result<(), DiskError> {
        match Rc::try_unwrap(self.inner) {
            Ok(last) => {
                if let Some(Ok(synced)) = last.synced.take().map(Rc::try_unwrap) {
                    let closed = synced.close().await;
                    closed.map_err(|error| fault("close", &last.name, &io_error(error)))?;
                }
                let closed = last.file.close().await;
                closed.map_err(|error| fault("close", &last.name, &io_error(error)))
            }
            Err(_shared) => Ok(()),
        }
    }
}

fn io_error(error: glommio::GlommioError<()>) -> io::Error {
    // glommio's conversion drops the system's error number of an enhanced error in places; keep it.
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::from(error),
    }
}
