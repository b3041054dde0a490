//! Damage at rest: bits that flip and sectors that the device loses in what is no longer written.
//!
//! **Owns** where they strike, bringing the files back, and what they excuse.
//! **Lives on** a test's thread.
//! **Invariants** while lost sectors are all that can be wrong, only records in their blocks may
//! be missing, and only index pages fail a question to the index; what the log can replace refuses
//! no start.
//! **Limits** a sector takes all of its block of 4 KiB: nothing smaller is read.
//! **Not here** what a lost sector does (`gantry_storage::sim_disk`).

use std::ops::Range;

use gantry_storage::sim_disk::{Flip, LostSector, Random, SimDisk};
use gantry_storage::units::BLOCK_BYTES;

use super::oracle::position_of;
use super::world::World;

/// What a record has beyond its body, and an entry before its record.
const AROUND_BYTES: u64 = 1024;
/// Reads of lost sectors in a time without requests: what goes on by itself tries every few
/// seconds, not all the time.
pub const LOST_READS_MAX: u64 = 100;

/// What happened to a file.
pub enum Harm {
    Flipped(Flip),
    Lost(LostSector),
}

/// A damaged place.
pub struct Damage {
    name: String,
    position: u64,
    harm: Harm,
}

/// The damage since the files were last brought back.
#[derive(Default)]
pub struct Damages {
    all: Vec<Damage>,
    /// Flipped bits that can't be flipped back.
    scars: bool,
}

fn segment_start(name: &str) -> Option<u64> {
    let file = name.rsplit('/').next()?;
    file.strip_suffix(".log")?.parse().ok()
}

impl Damages {
    pub fn is_none(&self) -> bool {
        self.all.is_empty() && !self.scars
    }

    fn restore(&mut self, disk: &SimDisk) {
        // The last one first: a block may have several.
        for damage in self.all.drain(..).rev() {
            match damage.harm {
                Harm::Flipped(flip) => self.scars |= !disk.flip_back(&flip),
                Harm::Lost(sector) => disk.find_sector(sector),
            }
        }
    }

    /// Whether a file of a shard whose path there begins with `part` is damaged.
    fn has(&self, part: impl Fn(&str) -> bool) -> bool {
        let names = self.all.iter().map(|damage| damage.name.as_str());
        names
            .filter_map(|name| name.split_once('/'))
            .any(|(_, name)| part(name))
    }

    /// Whether these bytes of a shard's log share a block with a lost sector.
    fn has_lost(&self, shard: u8, bytes: &Range<u64>) -> bool {
        let folder = format!("shard-{shard}/");
        let blocks = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
        self.all.iter().any(|damage| {
            let is_here = damage.name.starts_with(&folder) && matches!(damage.harm, Harm::Lost(_));
            let start = segment_start(&damage.name).filter(|_| is_here);
            start.is_some_and(|start| blocks.contains(&((start + damage.position) / BLOCK_BYTES)))
        })
    }
}

impl World {
    /// Whether files hold what nobody wrote there, or nothing any more.
    pub fn is_damaged(&self) -> bool {
        !self.damages.borrow().is_none() || !self.disk.untold().is_empty()
    }

    /// Whether a read may fail now without this being a bug.
    pub fn reads_may_fail(&self) -> bool {
        self.faults_count() > self.faults_before.get() || self.is_damaged()
    }

    /// Whether nothing but lost sectors can be wrong with a read in this world.
    pub fn only_sectors_are_lost(&self) -> bool {
        let (mix, rates) = (&self.mix, &self.mix.rates);
        let wrong = [
            rates.read,
            rates.read_flip,
            rates.names,
            rates.untold_short_write,
            rates.misdirected_write,
        ];
        !mix.rot && wrong.iter().all(|rate| *rate == 0)
    }

    /// Whether a record may be unreadable: a damaged block is one of its own.
    pub fn may_be_damaged(&self, queue: u16, physical: Option<u64>, body_bytes: u64) -> bool {
        let Some(physical) = physical.filter(|_| self.only_sectors_are_lost()) else {
            return self.reads_may_fail();
        };
        let position = position_of(physical).0;
        let end = position + body_bytes + AROUND_BYTES;
        let bytes = position.saturating_sub(AROUND_BYTES)..end;
        self.damages.borrow().has_lost(self.shard_of(queue), &bytes)
    }

    /// Whether a question to the queue index may fail.
    pub fn index_may_fail(&self) -> bool {
        if self.only_sectors_are_lost() {
            return self.damages.borrow().has(|name| name.starts_with("index/"));
        }
        self.reads_may_fail()
    }

    /// Whether a search by key may miss a record.
    pub fn keys_may_lack(&self) -> bool {
        if self.only_sectors_are_lost() {
            let takes_keys =
                |name: &str| name.starts_with("keys/") || segment_start(name).is_some();
            return self.damages.borrow().has(takes_keys);
        }
        self.reads_may_fail()
    }

    /// Whether damage may keep a shard from starting: of what the log can't replace, or of the log
    /// where it must replace something. Partitions of the key index can wait.
    pub fn starts_may_fail(&self) -> bool {
        let damages = self.damages.borrow();
        if damages.scars || !self.disk.untold().is_empty() {
            return true;
        }
        let is_log = |name: &str| segment_start(name).is_some();
        let is_replaced = |name: &str| name.starts_with("index/") || name.starts_with("checkpoint");
        let can_wait = |name: &str| name.starts_with("keys/");
        let is_other = damages.has(|name| !is_log(name) && !is_replaced(name) && !can_wait(name));
        let must_replace = self.gave_up.get() || damages.has(is_replaced);
        is_other || must_replace && damages.has(is_log)
    }

    /// The operator brings the damaged files back.
    pub fn restore(&self) {
        self.damages.borrow_mut().restore(&self.disk);
    }

    /// Flips bits in what is no longer written: log before the last start, index, checkpoint.
    pub fn rot_some(&self) {
        for _ in 0..=self.choices.below(3) {
            let Some((name, position)) = self.cold_place(&self.choices, |_| true) else {
                continue;
            };
            let bit = u8::try_from(self.choices.below(8)).unwrap();
            if let Some(flip) = self.disk.flip_bit(&name, position, bit) {
                self.harmed(name, position, Harm::Flipped(flip));
            }
        }
    }

    /// The device loses sectors of the same.
    pub fn lose_some(&self) {
        for _ in 0..=self.losses.below(3) {
            let ending = match self.losses.below(10) {
                0..4 => ".log",
                4..6 => ".idx",
                6..8 => ".keys",
                8 => "/checkpoint",
                _ => "",
            };
            let place = self.cold_place(&self.losses, |name| name.ends_with(ending));
            let Some((name, position)) = place else {
                continue;
            };
            if let Some(lost) = self.disk.lose_sector(&name, position) {
                self.harmed(name, position, Harm::Lost(lost));
            }
        }
    }

    fn harmed(&self, name: String, position: u64, harm: Harm) {
        let damage = Damage {
            name,
            position,
            harm,
        };
        self.damages.borrow_mut().all.push(damage);
    }

    /// A file that is `wanted`, and a byte of it that is no longer written.
    fn cold_place(&self, random: &Random, wanted: impl Fn(&str) -> bool) -> Option<(String, u64)> {
        let mut names = self.disk.file_names();
        names.retain(|name| name.starts_with("shard-") && wanted(name));
        let nth = usize::try_from(random.below(names.len() as u64)).unwrap();
        let name = names.into_iter().nth(nth)?;
        let cold_until = {
            let running = self.running.borrow();
            let shard = name["shard-".len()..].split('/').next().unwrap();
            running.as_ref().unwrap().cold_until[shard.parse::<usize>().unwrap()]
        };
        let start = segment_start(&name);
        let mut blocks = self.disk.written_blocks(&name);
        blocks.retain(|block| start.is_none_or(|start| start + block + BLOCK_BYTES <= cold_until));
        if blocks.is_empty() {
            return None;
        }
        let nth = usize::try_from(random.below(blocks.len() as u64)).unwrap();
        let position = blocks[nth] + random.below(BLOCK_BYTES);
        Some((name, position))
    }
}
