//! A file of the simulated disk.
//!
//! **Owns** what an operation on a file does, with and without its fault.
//! **Lives on** the test's thread.
//! **Invariants** a write is in flight until its time is over: a death in between tears it.
//! **Limits** whole blocks, as `Disk` asks.
//! **Not here** the bytes (`files`), which fault comes (`faults`).

use std::collections::BTreeSet;
use std::rc::Rc;

use super::faults::{Fate, SimOp, Untold};
use super::files::SECTOR;
use super::{SimDisk, World};
use crate::disk::{DiskError, DiskErrorKind, DiskFile};
use crate::units::BLOCK_BYTES;

/// A file of the simulated disk.
#[derive(Clone)]
pub struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) name: Rc<str>,
    pub(super) inode: u64,
    pub(super) len: u64,
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

impl SimFile {
    fn check(&self, what: &str, position: u64, len: u64) {
        assert!(
            position.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES),
            "unaligned {what} of {len} bytes at {position} of {}",
            self.name
        );
    }

    /// A random number of whole sectors, less than `len` bytes.
    fn prefix(&self, len: usize) -> usize {
        let sectors = (len / SECTOR) as u64;
        usize::try_from(self.disk.random().below(sectors)).unwrap_or(0) * SECTOR
    }

    fn note_untold(&self, name: &str, start: u64, len: usize) {
        let untold = Untold {
            name: name.to_owned(),
            start,
            end: start + len as u64,
        };
        self.disk.world.faults.borrow_mut().note_untold(untold);
    }

    /// The bytes go to another place of this file or to another file.
    fn misdirect(&self, position: u64, bytes: &[u8]) {
        let random = self.disk.random();
        let mut files = self.disk.world.files.borrow_mut();
        let names = files.names();
        let others: Vec<(String, u64)> = names
            .filter(|(name, _)| name.starts_with("shard"))
            .map(|(name, inode)| (name.to_owned(), inode))
            .collect();
        let nth = usize::try_from(random.below(others.len() as u64)).unwrap_or(0);
        let (name, inode) = match others.get(nth) {
            Some((name, inode)) if random.chance(30) => (name.as_str(), *inode),
            _ => (&*self.name, self.inode),
        };
        let len = files.inode(inode).len;
        let room = (len.saturating_sub(bytes.len() as u64)) / BLOCK_BYTES;
        let victim = random.below(room + 1) * BLOCK_BYTES;
        if victim + bytes.len() as u64 <= len {
            files.inode(inode).write(victim, bytes);
            self.note_untold(name, victim, bytes.len());
        }
        self.note_untold(&self.name, position, bytes.len());
    }

    async fn write(&self, buf: Vec<u8>, position: u64) -> Result<(), DiskError> {
        self.check("write", position, buf.len() as u64);
        let world = &self.disk.world;
        let write = world.next_write.get();
        world.next_write.set(write + 1);
        let (len, hash) = (buf.len() as u64, crc32fast::hash(&buf));
        if !self.disk.is_dead() {
            let flight = (self.inode, position, buf);
            world.in_flight.borrow_mut().insert(write, flight);
        }
        let guard = InFlight { world, write };
        let words = [self.inode, position, len, u64::from(hash)];
        let fate = self.disk.fate(SimOp::Write, &self.name, &words).await;
        let range = (position, position + len);
        let bad = world.faults.borrow().bad_write_at(&self.name, range);
        let fate = bad.map_or(fate, Fate::Fails);
        if fate == Fate::Well {
            drop(guard);
            world.faults.borrow_mut().heal(&self.name, range);
            return Ok(());
        }
        let flight = world.in_flight.borrow_mut().remove(&write);
        let Some((inode, position, bytes)) = flight else {
            return Ok(());
        };
        match fate {
            Fate::Misdirected => self.misdirect(position, &bytes),
            Fate::Short { told } => {
                let (done, rest) = bytes.split_at(self.prefix(bytes.len()));
                let mut files = world.files.borrow_mut();
                files.inode(inode).write_sectors(position, done);
                if told {
                    let kind = DiskErrorKind::Io;
                    return Err(SimDisk::failed(SimOp::Write, &self.name, kind));
                }
                self.note_untold(&self.name, position + done.len() as u64, rest.len());
            }
            Fate::Fails(kind) => {
                let mut files = world.files.borrow_mut();
                files
                    .inode(inode)
                    .write_torn(position, &bytes, self.disk.random());
                return Err(SimDisk::failed(SimOp::Write, &self.name, kind));
            }
            Fate::Well | Fate::Flipped => {}
        }
        Ok(())
    }

    /// Syncs `blocks` and nothing else.
    async fn sync_blocks(&self, blocks: &BTreeSet<u64>) -> Result<(), DiskError> {
        let words = [self.inode, blocks.len() as u64];
        let synced = self.disk.operation(SimOp::Sync, &self.name, &words).await;
        let mut files = self.disk.world.files.borrow_mut();
        match &synced {
            Ok(()) => files.inode(self.inode).sync(blocks),
            Err(_) => files.inode(self.inode).fail_sync(blocks),
        }
        synced
    }
}

impl DiskFile for SimFile {
    type Buf = Vec<u8>;
    type Read = Vec<u8>;

    async fn write_at(&self, buf: Vec<u8>, position: u64) -> Result<(), DiskError> {
        self.write(buf, position).await
    }

    async fn write_at_and_sync(&self, buf: Vec<u8>, position: u64) -> Result<(), DiskError> {
        let first = position / BLOCK_BYTES;
        let blocks = (first..first + buf.len() as u64 / BLOCK_BYTES).collect();
        self.write(buf, position).await?;
        self.sync_blocks(&blocks).await
    }

    async fn read_at(&self, position: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        self.check("read", position, len as u64);
        let words = [self.inode, position, len as u64];
        let fate = self.disk.fate(SimOp::Read, &self.name, &words).await;
        let range = (position, position + len as u64);
        let bad = self.disk.world.faults.borrow().bad_at(&self.name, range);
        let has_lost = {
            let mut files = self.disk.world.files.borrow_mut();
            files.inode(self.inode).has_lost(position, len)
        };
        let told = match fate {
            Fate::Fails(kind) => Some(kind),
            _ if has_lost => {
                let reads = &self.disk.world.lost_reads;
                reads.set(reads.get() + 1);
                Some(DiskErrorKind::Lost)
            }
            _ => bad,
        };
        if let Some(kind) = told {
            return Err(SimDisk::failed(SimOp::Read, &self.name, kind));
        }
        let mut files = self.disk.world.files.borrow_mut();
        let mut bytes = files.inode(self.inode).read(position, len);
        if fate == Fate::Flipped {
            let at = self.disk.random().below(bytes.len() as u64);
            if let Some(byte) = bytes.get_mut(usize::try_from(at).unwrap_or(0)) {
                *byte ^= 1;
            }
        }
        Ok(bytes)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let dirty = self.disk.world.files.borrow_mut().inode(self.inode).dirty();
        self.sync_blocks(&dirty).await
    }

    fn len(&self) -> u64 {
        self.len
    }

    async fn close(self) -> Result<(), DiskError> {
        Ok(())
    }
}
