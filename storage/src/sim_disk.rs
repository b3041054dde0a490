//! A disk that fails on command, with its own clock and executor (feature `sim`).
//!
//! **Owns** latency, what an operation with a fault does, what a killed process and a power cut
//! leave behind.
//! **Lives on** the test's thread; `block_on` runs everything.
//! **Invariants** one seed gives one run: `trace` hashes every operation and its time; what `Disk`
//! promises holds and nothing beyond it.
//! **Limits** files are kept in memory.
//! **Not here** the files' content (`files`), the tasks (`executor`), which faults (`faults`), the
//! tail's memory (`tail`).

mod executor;
mod faults;
mod file;
mod files;
mod tail;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use executor::Random;
use executor::{Executor, Sleep};
use faults::{Fate, Faults};
pub use faults::{FaultRates, RATE_SCALE, SimOp, Untold};
pub use file::SimFile;
use files::{Files, SECTOR, SIM_BLOCK, folder_of};
pub use tail::SimTail;

use crate::disk::{DirEntry, Disk, DiskError, DiskErrorKind, OpenMode};
use crate::units::BLOCK_BYTES;

/// A bit flipped at rest, and its block as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    inode: u64,
    position: u64,
    bit: u8,
    block: Vec<u8>,
}

/// A sector the device has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSector {
    inode: u64,
    sector: u64,
}

/// Inode, position and bytes of a write on its way.
type Write = (u64, u64, Vec<u8>);

struct World {
    executor: Rc<Executor>,
    files: RefCell<Files>,
    faults: RefCell<Faults>,
    in_flight: RefCell<BTreeMap<u64, Write>>,
    next_write: Cell<u64>,
    capacity_bytes: Cell<u64>,
    latency_us: Cell<(u64, u64)>,
    operations: RefCell<BTreeMap<SimOp, u64>>,
    /// Reads that met a lost sector.
    lost_reads: Cell<u64>,
    names_in_order: Cell<bool>,
    /// The process is dead, though its last poll still runs: nothing it does counts.
    is_dead: Cell<bool>,
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
                lost_reads: Cell::new(0),
                names_in_order: Cell::new(true),
                is_dead: Cell::new(false),
            }),
        }
    }

    /// Runs `main` and all spawned tasks until `main` is done, moving the clock when all wait.
    ///
    /// # Panics
    /// When nothing can make progress any more, or the process dies meanwhile.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.run(main).expect("the process died in between")
    }

    /// As `block_on`; `None` when the process dies before `main` is done.
    ///
    /// # Panics
    /// When nothing can make progress any more.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> Option<T> {
        let done = self.world.executor.run(main);
        // It may have died in the very poll in which it was done.
        done.filter(|_| !self.is_dead())
    }

    /// A death ordered by `die_after` does not come.
    pub fn live_on(&self) {
        self.world.executor.never_stop();
    }

    /// Polls of tasks so far: each ends at an await.
    pub fn polls(&self) -> u64 {
        self.world.executor.polls()
    }

    /// The process dies after `count` more polls: `run` then gives `None`.
    pub fn die_after(&self, count: u64) {
        self.world.executor.stop_after(count);
    }

    /// The process dies at once: what the poll under way still does has no effect here.
    pub fn die(&self) {
        self.world.is_dead.set(true);
        self.world.executor.stop_after(0);
    }

    /// Whether it died so.
    pub fn is_dead(&self) -> bool {
        self.world.is_dead.get()
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

    /// The wall clock is so many milliseconds off; the other one never jumps.
    pub fn set_wall_offset_ms(&self, ms: i64) {
        self.world.executor.set_wall_offset_ms(ms);
    }

    /// Whether a power cut keeps un-synced changes of names as a prefix of what was done (as a
    /// journal does), or any subset of them.
    pub fn keep_names_in_order(&self, in_order: bool) {
        self.world.names_in_order.set(in_order);
    }

    /// Sets how often which fault happens.
    pub fn set_rates(&self, rates: FaultRates) {
        self.world.faults.borrow_mut().rates = rates;
    }

    /// Lets `after` more operations `op` pass and fails the next one, once.
    pub fn fail_after(&self, op: SimOp, after: u64, kind: DiskErrorKind) {
        self.world.faults.borrow_mut().order(op, after, kind);
    }

    /// Forgets ordered faults not yet met, and sets all rates to 0.
    pub fn clear_faults(&self) {
        self.world.faults.borrow_mut().clear();
    }

    /// How many faults of which kind there were.
    pub fn fault_counts(&self) -> BTreeMap<&'static str, u64> {
        self.world.faults.borrow().counts().clone()
    }

    /// Writes and syncs of segments that were told to have failed.
    pub fn log_failures(&self) -> u64 {
        self.world.faults.borrow().log_failures()
    }

    /// What faults did to files without telling anybody.
    pub fn untold(&self) -> Vec<Untold> {
        self.world.faults.borrow().untold().to_vec()
    }

    /// Names of all files.
    pub fn file_names(&self) -> Vec<String> {
        let files = self.world.files.borrow();
        files.names().map(|(name, _)| name.to_owned()).collect()
    }

    /// Positions of a file's blocks that were ever written.
    pub fn written_blocks(&self, name: &str) -> Vec<u64> {
        let mut files = self.world.files.borrow_mut();
        let Some(inode) = files.inode_of(name) else {
            return Vec::new();
        };
        let blocks = files.inode(inode).written();
        blocks
            .iter()
            .map(|block| block * SIM_BLOCK as u64)
            .collect()
    }

    /// Flips one bit of a file for good; none when there is no such file.
    pub fn flip_bit(&self, name: &str, position: u64, bit: u8) -> Option<Flip> {
        let mut files = self.world.files.borrow_mut();
        let inode = files.inode_of(name)?;
        files.inode(inode).flip_bit(position, bit);
        self.world.faults.borrow_mut().count("bit flip at rest", 1);
        let start = position - position % BLOCK_BYTES;
        let block = files.inode(inode).read(start, SIM_BLOCK);
        Some(Flip {
            inode,
            position,
            bit,
            block,
        })
    }

    /// The device loses the sector of a file that has `position`: no read that touches it succeeds
    /// until it is written again, whatever dies in between. None when there is no such file.
    pub fn lose_sector(&self, name: &str, position: u64) -> Option<LostSector> {
        let mut files = self.world.files.borrow_mut();
        let inode = files.inode_of(name)?;
        let sector = position / SECTOR as u64;
        files.inode(inode).lose(sector);
        self.world.faults.borrow_mut().count("sector lost", 1);
        Some(LostSector { inode, sector })
    }

    /// The sector has again what was last written there.
    pub fn find_sector(&self, lost: LostSector) {
        let mut files = self.world.files.borrow_mut();
        if files.has_inode(lost.inode) {
            files.inode(lost.inode).find(lost.sector);
        }
    }

    /// Reads that failed because a sector is lost.
    pub fn lost_reads(&self) -> u64 {
        self.world.lost_reads.get()
    }

    /// From now on, until it is written again or the faults are cleared, no read of a file that
    /// touches `start..end` succeeds.
    pub fn spoil(&self, name: &str, (start, end): (u64, u64), kind: DiskErrorKind) {
        let mut faults = self.world.faults.borrow_mut();
        faults.spoil(name, (start, end), kind);
    }

    /// From now on, until the faults are cleared, no write of a file that touches `start..end`
    /// succeeds.
    pub fn spoil_writes(&self, name: &str, (start, end): (u64, u64), kind: DiskErrorKind) {
        let mut faults = self.world.faults.borrow_mut();
        faults.spoil_writes(name, (start, end), kind);
    }

    /// Flips it back, unless the block was written since; whether the flip is gone, as it also is
    /// when the file is.
    pub fn flip_back(&self, flip: &Flip) -> bool {
        let mut files = self.world.files.borrow_mut();
        if !files.has_inode(flip.inode) {
            return true;
        }
        let start = flip.position - flip.position % BLOCK_BYTES;
        let inode = files.inode(flip.inode);
        let same = inode.read(start, SIM_BLOCK) == flip.block;
        if same {
            inode.flip_bit(flip.position, flip.bit);
        }
        same
    }

    /// The process dies: tasks stop, writes in flight may be torn, finished ones stay.
    pub fn kill(&self) {
        self.world.executor.never_stop();
        let in_flight = std::mem::take(&mut *self.world.in_flight.borrow_mut());
        self.note("write torn by a death", in_flight.len() as u64);
        for (inode, position, bytes) in in_flight.into_values() {
            let mut files = self.world.files.borrow_mut();
            files
                .inode(inode)
                .write_torn(position, &bytes, self.random());
        }
        self.world.executor.drop_tasks();
        self.world.is_dead.set(false);
        self.world.files.borrow_mut().forget_process();
        self.world.executor.note(&[0xDEAD]);
    }

    /// The power fails: as `kill`, and un-synced content and names are kept or lost at random.
    /// What lives in memory (the tail) is the caller's to forget.
    pub fn cut_power(&self) {
        self.kill();
        let in_order = self.world.names_in_order.get();
        let mut files = self.world.files.borrow_mut();
        let lost = files.cut_power(self.random(), in_order);
        self.note("sector or name lost in a power cut", lost);
        self.world.executor.note(&[0xDEAD, 0xDEAD]);
    }

    fn note(&self, what: &'static str, number: u64) {
        self.world.faults.borrow_mut().count(what, number);
    }

    /// Waits `us` microseconds.
    pub async fn sleep_us(&self, us: u64) {
        Sleep::new(&self.world.executor, us).await;
    }

    /// Lets time pass for one operation and says what becomes of it.
    async fn fate(&self, op: SimOp, name: &str, words: &[u64]) -> Fate {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        *self.world.operations.borrow_mut().entry(op).or_insert(0) += 1;
        let (low, high) = self.world.latency_us.get();
        let us = low + self.random().below(high.saturating_sub(low) + 1);
        Sleep::new(&self.world.executor, us).await;
        self.world.executor.note(&[op as u64, name.len() as u64]);
        self.world.executor.note(words);
        let mut faults = self.world.faults.borrow_mut();
        faults.fate(op, name, self.random())
    }

    async fn operation(&self, op: SimOp, name: &str, words: &[u64]) -> Result<(), DiskError> {
        match self.fate(op, name, words).await {
            Fate::Fails(kind) => Err(Self::failed(op, name, kind)),
            _ => Ok(()),
        }
    }

    fn failed(op: SimOp, name: &str, kind: DiskErrorKind) -> DiskError {
        DiskError::new(kind, "simulated", name, format!("{op:?} fault"))
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

#[cfg(test)]
#[path = "sim_disk_tests.rs"]
mod tests;
