//! The tail's memory in the simulation: it outlives the process, and a process can die in a store.
//!
//! **Owns** the bytes of one tail between and during the lives of its shard.
//! **Lives on** the test's thread.
//! **Invariants** after a death in the n-th store the memory holds all stores before it and a
//! prefix of that one, whatever the process went on to do until its task was stopped.
//! **Limits** one user at a time.
//! **Not here** what a tail holds (`crate::tail`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::SimDisk;
use crate::tail::TailMemory;

/// What a power cut mixes for a tail that lies in the data folder.
const PAGE_BYTES: usize = 4096;
/// Stores between two states of the memory that the system may have written to the device.
const STORES_PER_WRITEBACK: u64 = 701;

struct Home {
    disk: SimDisk,
    bytes: RefCell<Vec<u8>>,
    /// What the device has of a tail in the data folder, while its pages are newer.
    older: RefCell<Vec<u8>>,
    stores: Cell<u64>,
    die_at: Cell<u64>,
    in_folder: bool,
}

/// One tail; clones are the same memory.
#[derive(Clone)]
pub struct SimTail(Rc<Home>);

/// Where a loan is on its way to the grave.
enum Course {
    Alive,
    /// The store that kills is under way: the memory as it was before.
    Dying(Vec<u8>),
    /// What is left.
    Dead(Vec<u8>),
}

struct Loan {
    home: SimTail,
    bytes: Vec<u8>,
    course: Course,
}

impl SimTail {
    /// A tail with a ring of `ring_bytes` on tmpfs, or in the data folder.
    pub fn new(disk: &SimDisk, ring_bytes: usize, in_folder: bool) -> Self {
        let bytes = vec![0; PAGE_BYTES + ring_bytes];
        Self(Rc::new(Home {
            disk: disk.clone(),
            older: RefCell::new(if in_folder { bytes.clone() } else { Vec::new() }),
            bytes: RefCell::new(bytes),
            stores: Cell::new(0),
            die_at: Cell::new(u64::MAX),
            in_folder,
        }))
    }

    /// Gives the memory to a process.
    ///
    /// # Panics
    /// When another one still has it.
    pub fn lend(&self) -> Box<dyn TailMemory> {
        let bytes = self.0.bytes.take();
        assert!(!bytes.is_empty(), "the tail is in use");
        Box::new(Loan {
            home: self.clone(),
            bytes,
            course: Course::Alive,
        })
    }

    /// Stores made so far.
    pub fn stores(&self) -> u64 {
        self.0.stores.get()
    }

    /// The process dies in the store after `count` more of them.
    pub fn die_after(&self, count: u64) {
        self.0.die_at.set(self.0.stores.get().saturating_add(count));
    }

    /// The process lives until something else kills it.
    pub fn live_on(&self) {
        self.0.die_at.set(u64::MAX);
    }

    /// An orderly end: the memory is given back to the system.
    pub fn forget(&self) {
        self.0.bytes.borrow_mut().fill(0);
        self.0.older.borrow_mut().fill(0);
    }

    /// The power fails: tmpfs is gone; in a folder each page is as it is or as it was.
    pub fn cut_power(&self) {
        let mut bytes = self.0.bytes.borrow_mut();
        if !self.0.in_folder {
            bytes.fill(0);
            return;
        }
        let random = self.0.disk.random();
        let percent = random.one_of(&[0, 30, 90, 100]);
        let older = self.0.older.borrow();
        for (new, old) in bytes.chunks_mut(PAGE_BYTES).zip(older.chunks(PAGE_BYTES)) {
            if !random.chance(percent) {
                new.copy_from_slice(old);
            }
        }
    }
}

/// `before` with a part of the one range in which `after` differs.
fn torn(mut before: Vec<u8>, after: &[u8], disk: &SimDisk) -> Vec<u8> {
    let differs = |at: &usize| before.get(*at) != after.get(*at);
    let first = (0..after.len()).find(differs);
    let last = (0..after.len()).rev().find(differs);
    if let (Some(first), Some(last)) = (first, last) {
        let done = disk.random().below((last - first) as u64 + 2);
        let until = first + usize::try_from(done).unwrap_or(0);
        if let (Some(into), Some(from)) = (before.get_mut(first..until), after.get(first..until)) {
            into.copy_from_slice(from);
        }
    }
    before
}

impl TailMemory for Loan {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let home = &self.home.0;
        match std::mem::replace(&mut self.course, Course::Alive) {
            Course::Alive => {
                let store = home.stores.get();
                home.stores.set(store + 1);
                if home.in_folder && store.is_multiple_of(STORES_PER_WRITEBACK) {
                    home.older.borrow_mut().copy_from_slice(&self.bytes);
                }
                if store == home.die_at.get() {
                    home.disk.die();
                    self.course = Course::Dying(self.bytes.clone());
                }
            }
            Course::Dying(before) => {
                self.course = Course::Dead(torn(before, &self.bytes, &home.disk));
            }
            Course::Dead(left) => self.course = Course::Dead(left),
        }
        &mut self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let left = match std::mem::replace(&mut self.course, Course::Alive) {
            Course::Alive => bytes,
            Course::Dying(before) => torn(before, &bytes, &self.home.0.disk),
            Course::Dead(left) => left,
        };
        self.home.0.bytes.replace(left);
    }
}
