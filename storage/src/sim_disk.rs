//! A disk that fails on command, with its own clock and executor (feature `sim`).
//!
//! **Owns** latency, injected faults, what a killed process and a power cut leave behind.
//! **Lives on** the test's thread; `block_on` runs everything.
//! **Invariants** one seed gives one run: `trace` hashes every operation and its time; what `Disk`
//! promises holds and nothing beyond it.
//! **Limits** files are kept in memory.
//! **Not here** the files' content (`files`), the tasks (`executor`).

mod executor;
mod files;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use executor::Random;
use executor::{Executor, Sleep};
use files::{Files, folder_of};

use crate::disk::{DirEntry, Disk, DiskError, DiskErrorKind, DiskFile, OpenMode};
use crate::units::BLOCK_BYTES;

/// An operation a fault can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimOp {
    /// `open` of an existing file.
    Open,
    /// `open` that creates.
    Create,
    /// `write_at`.
    Write,
    /// `read_at`.
    Read,
    /// `sync`.
    Sync,
    /// `rename`.
    Rename,
    /// `remove`.
    Remove,
    /// `sync_dir`.
    SyncDir,
}

struct Fault {
    op: SimOp,
    /// How many more of these operations succeed first.
    after: u64,
    kind: DiskErrorKind,
}

/// Inode, position and bytes of a write on its way.
type Write = (u64, u64, Vec<u8>);

struct World {
    executor: Rc<Executor>,
    files: RefCell<Files>,
    faults: RefCell<Vec<Fault>>,
    in_flight: RefCell<BTreeMap<u64, Write>>,
    next_write: Cell<u64>,
    capacity_bytes: Cell<u64>,
    latency_us: Cell<(u64, u64)>,
    operations: RefCell<BTreeMap<SimOp, u64>>,
}

/// The simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    world: Rc<World>,
}

impl SimDisk {
    /// An empty disk whose every choice follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            world: Rc::new(World {
                executor: Rc::new(Executor::new(seed)),
                files: RefCell::default(),
                faults: RefCell::default(),
                in_flight: RefCell::default(),
                next_write: Cell::new(0),
                capacity_bytes: Cell::new(u64::MAX),
                latency_us: Cell::new((20, 400)),
                operations: RefCell::default(),
            }),
        }
    }

    /// Runs `main` and all spawned tasks until `main` is done, moving the clock when all wait.
    ///
    /// # Panics
    /// When nothing can make progress any more.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.world.executor.block_on(main)
    }

    /// The run's random numbers.
    pub fn random(&self) -> &Random {
        &self.world.executor.random
    }

    /// A hash of all operations so far and their times.
    pub fn trace(&self) -> u64 {
        self.world.executor.trace()
    }

    /// How often `op` was tried.
    pub fn count(&self, op: SimOp) -> u64 {
        self.world
            .operations
            .borrow()
            .get(&op)
            .copied()
            .unwrap_or(0)
    }

    /// Bytes the device has in all; less than what is used means full.
    pub fn set_capacity(&self, bytes: u64) {
        self.world.capacity_bytes.set(bytes);
    }

    /// Every operation takes between `low` and `high` microseconds.
    pub fn set_latency_us(&self, low: u64, high: u64) {
        self.world.latency_us.set((low, high));
    }

    /// Lets `after` more operations `op` pass and fails the next one, once.
    pub fn fail_after(&self, op: SimOp, after: u64, kind: DiskErrorKind) {
        self.world
            .faults
            .borrow_mut()
            .push(Fault { op, after, kind });
    }

    /// Forgets the faults not yet met.
    pub fn clear_faults(&self) {
        self.world.faults.borrow_mut().clear();
    }

    /// Flips one bit of a file for good.
    pub fn flip_bit(&self, name: &str, position: u64, bit: u8) {
        let mut files = self.world.files.borrow_mut();
        if let Some(inode) = files.inode_of(name) {
            files.inode(inode).flip_bit(position, bit);
        }
    }

    /// The process dies: tasks stop, writes in flight may be torn, finished ones stay.
    pub fn kill(&self) {
        let in_flight = std::mem::take(&mut *self.world.in_flight.borrow_mut());
        for (inode, position, bytes) in in_flight.into_values() {
            let mut files = self.world.files.borrow_mut();
            files
                .inode(inode)
                .write_torn(position, &bytes, self.random());
        }
        self.world.executor.drop_tasks();
        self.world.executor.note(&[0xDEAD]);
    }

    /// The power fails: as `kill`, and un-synced content and names are kept or lost at random.
    /// What lives in memory (the tail) is the caller's to forget.
    pub fn cut_power(&self) {
        self.kill();
        self.world.files.borrow_mut().cut_power(self.random());
        self.world.executor.note(&[0xDEAD, 0xDEAD]);
    }

    /// Waits `us` microseconds.
    pub async fn sleep_us(&self, us: u64) {
        Sleep::new(&self.world.executor, us).await;
    }

    async fn operation(&self, op: SimOp, name: &str, words: &[u64]) -> Result<(), DiskError> {
        *self.world.operations.borrow_mut().entry(op).or_insert(0) += 1;
        let (low, high) = self.world.latency_us.get();
        let us = low + self.random().below(high.saturating_sub(low) + 1);
        Sleep::new(&self.world.executor, us).await;
        self.world.executor.note(&[op as u64, name.len() as u64]);
        self.world.executor.note(words);
        let mut faults = self.world.faults.borrow_mut();
        let mut hit = None;
        for (at, fault) in faults
            .iter_mut()
            .enumerate()
            .filter(|(_, fault)| fault.op == op)
        {
            if fault.after == 0 {
                hit = hit.or(Some((at, fault.kind)));
            } else {
                fault.after -= 1;
            }
        }
        let Some((at, kind)) = hit else { return Ok(()) };
        faults.remove(at);
        Err(DiskError::new(
            kind,
            "simulated",
            name,
            format!("{op:?} fault"),
        ))
    }

    fn missing(operation: &'static str, name: &str) -> DiskError {
        DiskError::new(DiskErrorKind::NotFound, operation, name, "no such name")
    }

    fn file(&self, name: &str, inode: u64) -> SimFile {
        let len = self.world.files.borrow_mut().inode(inode).len;
        SimFile {
            disk: self.clone(),
            name: Rc::from(name),
            inode,
            len,
        }
    }
}

/// Pending once, so that others run.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buf = Vec<u8>;

    fn alloc(&self, len: usize) -> Vec<u8> {
        // Rubbish, as a real allocator gives it: nobody may rely on zeros.
        vec![0xA5; len]
    }

    async fn open(&self, name: &str, mode: OpenMode) -> Result<SimFile, DiskError> {
        match mode {
            OpenMode::Existing => {
                self.operation(SimOp::Open, name, &[]).await?;
                let inode = self.world.files.borrow().inode_of(name);
                Ok(self.file(name, inode.ok_or_else(|| Self::missing("open", name))?))
            }
            OpenMode::CreateLen(len) => {
                self.operation(SimOp::Create, name, &[len]).await?;
                if !self.world.files.borrow().has_folder(folder_of(name)) {
                    return Err(Self::missing("create", name));
                }
                if self.free_bytes().await? < len {
                    let kind = DiskErrorKind::NoSpace;
                    return Err(DiskError::new(kind, "create", name, "no space left"));
                }
                let inode = self.world.files.borrow_mut().create(name, len);
                Ok(self.file(name, inode))
            }
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<DirEntry>, DiskError> {
        let files = self.world.files.borrow();
        if !files.has_folder(folder) {
            return Err(Self::missing("list", folder));
        }
        Ok(files.list(folder))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.operation(SimOp::Rename, from, &[]).await?;
        let inode = self.world.files.borrow().inode_of(from);
        let inode = inode.ok_or_else(|| Self::missing("rename", from))?;
        self.world.files.borrow_mut().rename(from, to, inode);
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.operation(SimOp::Remove, name, &[]).await?;
        if self.world.files.borrow().inode_of(name).is_none() {
            return Err(Self::missing("remove", name));
        }
        self.world.files.borrow_mut().remove(name);
        Ok(())
    }

    async fn make_dir(&self, name: &str) -> Result<(), DiskError> {
        let mut files = self.world.files.borrow_mut();
        for (at, _) in name.match_indices('/') {
            files.make_dir(name.get(..at).unwrap_or(name));
        }
        files.make_dir(name);
        Ok(())
    }

    async fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        self.operation(SimOp::SyncDir, folder, &[]).await?;
        self.world.files.borrow_mut().sync_dir(folder);
        Ok(())
    }

    async fn free_bytes(&self) -> Result<u64, DiskError> {
        let used = self.world.files.borrow().used_bytes();
        Ok(self.world.capacity_bytes.get().saturating_sub(used))
    }

    async fn sleep_ms(&self, ms: u64) {
        Sleep::new(&self.world.executor, ms.saturating_mul(1000)).await;
    }

    async fn yield_now(&self) {
        Yield(false).await;
    }

    fn now_ms(&self) -> u64 {
        self.world.executor.wall_ms()
    }

    fn now_mono_us(&self) -> u64 {
        self.world.executor.now_us()
    }

    fn random_u64(&self) -> u64 {
        self.random().next()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.executor.spawn(Box::pin(task));
    }
}

/// A file of the simulated disk.
#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    name: Rc<str>,
    inode: u64,
    len: u64,
}

/// Puts a write that its task abandoned on the device all the same, as a kernel would.
struct InFlight<'a> {
    world: &'a World,
    write: u64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let write = self.world.in_flight.borrow_mut().remove(&self.write);
        if let Some((inode, position, bytes)) = write {
            self.world
                .files
                .borrow_mut()
                .inode(inode)
                .write(position, &bytes);
        }
    }
}

impl DiskFile for SimFile {
    type Buf = Vec<u8>;
    type Read = Vec<u8>;

    async fn write_at(&self, buf: Vec<u8>, position: u64) -> Result<(), DiskError> {
        let len = buf.len() as u64;
        assert!(
            position.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES),
            "unaligned write of {len} bytes at {position} of {}",
            self.name
        );
        let world = &self.disk.world;
        let write = world.next_write.get();
        world.next_write.set(write + 1);
        let hash = crc32fast::hash(&buf);
        world
            .in_flight
            .borrow_mut()
            .insert(write, (self.inode, position, buf));
        let guard = InFlight { world, write };
        let words = [self.inode, position, len, u64::from(hash)];
        if let Err(error) = self.disk.operation(SimOp::Write, &self.name, &words).await {
            let write = world.in_flight.borrow_mut().remove(&write);
            if let Some((inode, position, bytes)) = write {
                let mut files = world.files.borrow_mut();
                files
                    .inode(inode)
                    .write_torn(position, &bytes, self.disk.random());
            }
            return Err(error);
        }
        drop(guard);
        Ok(())
    }

    async fn read_at(&self, position: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        assert!(
            position.is_multiple_of(BLOCK_BYTES) && (len as u64).is_multiple_of(BLOCK_BYTES),
            "unaligned read of {len} bytes at {position} of {}",
            self.name
        );
        let words = [self.inode, position, len as u64];
        self.disk.operation(SimOp::Read, &self.name, &words).await?;
        Ok(self
            .disk
            .world
            .files
            .borrow_mut()
            .inode(self.inode)
            .read(position, len))
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let dirty = self.disk.world.files.borrow_mut().inode(self.inode).dirty();
        self.disk
            .operation(SimOp::Sync, &self.name, &[self.inode])
            .await?;
        self.disk
            .world
            .files
            .borrow_mut()
            .inode(self.inode)
            .sync(&dirty);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    async fn close(self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "sim_disk_tests.rs"]
mod tests;
