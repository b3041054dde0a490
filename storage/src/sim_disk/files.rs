//! The simulated device: files with synced and un-synced content, names with and without a sync.
//!
//! **Owns** what a kill or a power cut leaves of files and names.
//! **Lives on** the test's thread.
//! **Invariants** synced sectors never change in a power cut; un-synced ones hold, sector by
//! sector, either the synced or the newest content; what a failed sync covered is not synced by a
//! later one of the same process; un-synced changes of names come back as a prefix of what was
//! done, or as any subset; a sector the device has lost stays lost until it is written again (and,
//! for a power cut, synced).
//! **Limits** sparse blocks of 4 KiB; a block never written reads as zeros and costs nothing.
//! **Not here** time and faults (`sim_disk`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::executor::Random;
use crate::disk::DirEntry;

pub(super) const SIM_BLOCK: usize = 4096;
pub(super) const SECTOR: usize = 512;

type Block = Box<[u8; SIM_BLOCK]>;

fn zero_block() -> Block {
    Box::new([0; SIM_BLOCK])
}

/// One file's content.
#[derive(Default)]
pub(super) struct Inode {
    pub(super) len: u64,
    newest: BTreeMap<u64, Block>,
    synced: BTreeMap<u64, Block>,
    dirty: BTreeSet<u64>,
    /// Covered by a sync that failed: only a new write can bring them to the device.
    doomed: BTreeSet<u64>,
    /// Sectors of `newest` and of `synced` that the device has lost.
    lost: BTreeSet<u64>,
    lost_synced: BTreeSet<u64>,
}

fn sectors_of(block: u64) -> Range<u64> {
    let count = (SIM_BLOCK / SECTOR) as u64;
    block * count..(block + 1) * count
}

impl Inode {
    fn touch(&mut self, block: u64) {
        self.doomed.remove(&block);
        self.dirty.insert(block);
    }

    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        let first = position / SIM_BLOCK as u64;
        for (block, chunk) in (first..).zip(bytes.chunks(SIM_BLOCK)) {
            let into = self.newest.entry(block).or_insert_with(zero_block);
            if let Some(into) = into.get_mut(..chunk.len()) {
                into.copy_from_slice(chunk);
            }
            for sector in sectors_of(block) {
                self.lost.remove(&sector);
            }
            self.touch(block);
        }
        self.len = self.len.max(position + bytes.len() as u64);
    }

    /// A write that the death of the process or the power caught half way.
    pub(super) fn write_torn(&mut self, position: u64, bytes: &[u8], random: &Random) {
        let percent = random.one_of(&[0, 50, 100]);
        for (at, sector) in (0u64..).zip(bytes.chunks(SECTOR)) {
            if random.chance(percent) {
                self.write_sectors(position + at * SECTOR as u64, sector);
            }
        }
    }

    /// Writes whole sectors, which may be less than blocks.
    pub(super) fn write_sectors(&mut self, position: u64, bytes: &[u8]) {
        for (at, sector) in (0u64..).zip(bytes.chunks(SECTOR)) {
            let position = position + at * SECTOR as u64;
            let block = position / SIM_BLOCK as u64;
            let within = usize::try_from(position % SIM_BLOCK as u64).unwrap_or(0);
            let into = self.newest.entry(block).or_insert_with(zero_block);
            if let Some(into) = into.get_mut(within..within + sector.len()) {
                into.copy_from_slice(sector);
            }
            self.lost.remove(&(position / SECTOR as u64));
            self.touch(block);
        }
    }

    pub(super) fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let len = (self.len.saturating_sub(position)).min(len as u64);
        let len = usize::try_from(len).unwrap_or(0);
        let mut out = vec![0; len];
        let first = position / SIM_BLOCK as u64;
        for (block, chunk) in (first..).zip(out.chunks_mut(SIM_BLOCK)) {
            if let Some(from) = self.newest.get(&block).and_then(|b| b.get(..chunk.len())) {
                chunk.copy_from_slice(from);
            }
        }
        out
    }

    pub(super) fn flip_bit(&mut self, position: u64, bit: u8) {
        let block = position / SIM_BLOCK as u64;
        let within = usize::try_from(position % SIM_BLOCK as u64).unwrap_or(0);
        for map in [&mut self.newest, &mut self.synced] {
            if let Some(byte) = map.get_mut(&block).and_then(|b| b.get_mut(within)) {
                *byte ^= 1 << (bit & 7);
            }
        }
    }

    /// The device loses a sector, whatever is in it.
    pub(super) fn lose(&mut self, sector: u64) {
        self.lost.insert(sector);
        self.lost_synced.insert(sector);
    }

    /// It has it again, as it was.
    pub(super) fn find(&mut self, sector: u64) {
        self.lost.remove(&sector);
        self.lost_synced.remove(&sector);
    }

    /// Whether a sector of these bytes is lost.
    pub(super) fn has_lost(&self, position: u64, len: usize) -> bool {
        let end = (position + len as u64).div_ceil(SECTOR as u64);
        let sectors = position / SECTOR as u64..end;
        self.lost.range(sectors).next().is_some()
    }

    pub(super) fn dirty(&self) -> BTreeSet<u64> {
        self.dirty.clone()
    }

    /// Blocks that were ever written.
    pub(super) fn written(&self) -> Vec<u64> {
        self.newest.keys().copied().collect()
    }

    /// A sync of these blocks failed: the system forgets that they were to be written.
    pub(super) fn fail_sync(&mut self, blocks: &BTreeSet<u64>) {
        for block in blocks {
            if self.dirty.remove(block) {
                self.doomed.insert(*block);
            }
        }
    }

    pub(super) fn sync(&mut self, blocks: &BTreeSet<u64>) {
        for block in blocks {
            if !self.dirty.remove(block) {
                continue;
            }
            if let Some(newest) = self.newest.get(block) {
                self.synced.insert(*block, newest.clone());
            }
            for sector in sectors_of(*block) {
                if !self.lost.contains(&sector) {
                    self.lost_synced.remove(&sector);
                }
            }
        }
    }

    /// Returns how many sectors were lost.
    fn cut_power(&mut self, random: &Random) -> u64 {
        // Each cut has its own mood, so that "all lost" and "all kept" happen as well.
        let percent = random.one_of(&[0, 10, 50, 90, 100]);
        let mut lost = 0;
        let mut blocks = std::mem::take(&mut self.dirty);
        blocks.append(&mut self.doomed);
        for block in blocks {
            let mut left = self.synced.get(&block).cloned().unwrap_or_else(zero_block);
            if let Some(newest) = self.newest.get(&block) {
                let parts = left.chunks_mut(SECTOR).zip(newest.chunks(SECTOR));
                for (sector, (into, from)) in sectors_of(block).zip(parts) {
                    if random.chance(percent) {
                        into.copy_from_slice(from);
                        if !self.lost.contains(&sector) {
                            self.lost_synced.remove(&sector);
                        }
                        continue;
                    }
                    lost += 1;
                    if self.lost_synced.contains(&sector) {
                        self.lost.insert(sector);
                    }
                }
            }
            self.newest.insert(block, left.clone());
            self.synced.insert(block, left);
        }
        lost
    }
}

enum NameChange {
    Bind(String, u64),
    Unbind(String),
    /// One step: whatever is lost, one of the two names is there.
    Rename(String, String, u64),
    Folder(String),
}

impl NameChange {
    fn name(&self) -> &str {
        match self {
            Self::Bind(name, _)
            | Self::Unbind(name)
            | Self::Rename(_, name, _)
            | Self::Folder(name) => name,
        }
    }
}

#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<String, u64>,
    folders: BTreeSet<String>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Bind(name, inode) => {
                self.files.insert(name.clone(), *inode);
            }
            NameChange::Unbind(name) => {
                self.files.remove(name);
            }
            NameChange::Rename(from, to, inode) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
            NameChange::Folder(name) => {
                self.folders.insert(name.clone());
            }
        }
    }
}

pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// All files and names of the device.
#[derive(Default)]
pub(super) struct Files {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    newest: Names,
    synced: Names,
    pending: Vec<NameChange>,
}

impl Files {
    pub(super) fn inode_of(&self, name: &str) -> Option<u64> {
        self.newest.files.get(name).copied()
    }

    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn has_inode(&self, inode: u64) -> bool {
        self.inodes.contains_key(&inode)
    }

    pub(super) fn has_folder(&self, folder: &str) -> bool {
        folder.is_empty() || self.newest.folders.contains(folder)
    }

    fn change(&mut self, change: NameChange) {
        self.newest.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn create(&mut self, name: &str, len: u64) -> u64 {
        self.next_inode += 1;
        let inode = self.next_inode;
        self.inodes.insert(
            inode,
            Inode {
                len,
                ..Inode::default()
            },
        );
        self.change(NameChange::Bind(name.to_owned(), inode));
        inode
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(NameChange::Unbind(name.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, inode: u64) {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.change(NameChange::Rename(from, to, inode));
    }

    pub(super) fn make_dir(&mut self, name: &str) {
        if !self.has_folder(name) {
            self.change(NameChange::Folder(name.to_owned()));
        }
    }

    pub(super) fn list(&self, folder: &str) -> Vec<DirEntry> {
        let names = &self.newest;
        let child = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let mut entries: Vec<DirEntry> = names
            .files
            .iter()
            .filter(|(name, _)| folder_of(name) == folder)
            .map(|(name, inode)| DirEntry {
                name: child(name),
                len: self.inodes.get(inode).map_or(0, |inode| inode.len),
                is_dir: false,
            })
            .collect();
        let folders = names
            .folders
            .iter()
            .filter(|name| folder_of(name) == folder);
        entries.extend(folders.map(|name| DirEntry {
            name: child(name),
            len: 0,
            is_dir: true,
        }));
        entries
    }

    pub(super) fn sync_dir(&mut self, folder: &str) {
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            if folder_of(change.name()) == folder {
                self.synced.apply(&change);
            } else {
                left.push(change);
            }
        }
        self.pending = left;
    }

    /// Bytes given to files that still have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let len = |inode| self.inodes.get(inode).map_or(0, |inode: &Inode| inode.len);
        self.newest.files.values().map(len).sum()
    }

    /// The process is gone: files without a name, now and after any power cut, lose their content.
    /// What a failed sync covered is left to the next process, whose own sync may save it.
    pub(super) fn forget_process(&mut self) {
        let mut named: BTreeSet<u64> = self.newest.files.values().copied().collect();
        named.extend(self.synced.files.values());
        named.extend(self.pending.iter().filter_map(|change| match change {
            NameChange::Bind(_, inode) | NameChange::Rename(_, _, inode) => Some(*inode),
            _ => None,
        }));
        self.inodes.retain(|inode, _| named.contains(inode));
        for inode in self.inodes.values_mut() {
            inode.dirty.append(&mut inode.doomed);
        }
    }

    /// Every file with its name.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        let files = self.newest.files.iter();
        files.map(|(name, inode)| (name.as_str(), *inode))
    }

    /// Returns how many sectors and changes of names were lost.
    pub(super) fn cut_power(&mut self, random: &Random, names_in_order: bool) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let kept = random.below(pending.len() as u64 + 1);
        let percent = random.one_of(&[0, 50, 100]);
        let mut lost = 0;
        for (at, change) in (0..).zip(&pending) {
            let keep = if names_in_order {
                at < kept
            } else {
                random.chance(percent)
            };
            if keep {
                self.synced.apply(change);
            } else {
                lost += 1;
            }
        }
        self.newest = self.synced.clone();
        let named: BTreeSet<u64> = self.newest.files.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
        for inode in self.inodes.values_mut() {
            lost += inode.cut_power(random);
        }
        lost
    }
}
