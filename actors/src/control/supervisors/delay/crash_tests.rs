//! The delayed messages of a simulated broker: parked, delivered, recalled, moved, while time
//! passes and the process is killed or the power cut at any step; then rebuilt from marks and log.
//!
//! The real board, due table and marks decide; the log, the device, the tables and the loop around
//! the board are the model. A seed decides everything. What must hold: nothing is delivered early,
//! what is due is delivered in due order, nothing acknowledged is lost but what a power cut may
//! take of the last moments, nothing recalled is delivered once that was acknowledged, marks never
//! speak of more than the device holds. At times a queue can't be read.
//!
//! Not modelled: a recall in the moment in which its record is being parked again and the new row
//! is on its way; it is refused.

use std::collections::{HashMap, HashSet, VecDeque};

use gantry_storage::sim_disk::Random;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueOffset, ShardId};

use super::board::Board;
use super::crash_model::{Log, Parked, RECORD_BYTES, Slip, key_of};
use super::due::Entry;
use super::marks::{Marks, Recalled, Stored};
use super::rebuild::Unread;
use crate::seam::errands::Scan;
use crate::seam::owed::OwedRow;

const QUEUES: u16 = 3;
const STEPS: u32 = 250;
const SHARD: ShardId = ShardId(0);

struct World {
    dice: Random,
    slip: Slip,
    is_sync: bool,
    now_ms: u64,
    log: Log,
    tables: Stored,
    board: Board,
    /// What of the queues can't be read for now.
    unread: Vec<Scan>,
    /// Rows on their way to the supervisor.
    rows: VecDeque<OwedRow>,
    /// A batch that is being delivered.
    flying: Vec<Entry>,
    /// Marks that wait until the device holds the log up to this place.
    staged: Option<(Marks, Vec<u64>, u64)>,
    /// Moved: what the device must hold, old place, new place.
    moved: Vec<(u64, u64, u64, Recalled)>,
    owed: HashSet<u32>,
    recalled: HashSet<u32>,
    next_id: u32,
}

impl World {
    fn new(seed: u64, slip: Slip) -> Self {
        let dice = Random::new(seed);
        let log = Log {
            queues: vec![Vec::new(); usize::from(QUEUES)],
            ..Log::default()
        };
        Self {
            is_sync: dice.chance(30),
            dice,
            slip,
            now_ms: 1_800_000_000_000,
            log,
            tables: Stored::default(),
            board: Board::default(),
            unread: Vec::new(),
            rows: VecDeque::new(),
            flying: Vec::new(),
            staged: None,
            moved: Vec::new(),
            owed: HashSet::new(),
            recalled: HashSet::new(),
            next_id: 0,
        }
    }

    /// Stores a parked record and tells the supervisor.
    fn store_parked(&mut self, id: u32, queue: u16, due_ms: u64) {
        let physical = self.log.append(self.is_sync);
        let records = &mut self.log.queues[usize::from(queue)];
        let row = OwedRow {
            queue: key_of(queue),
            offset: QueueOffset(records.len() as u64),
            physical: PhysicalOffset(physical),
            bytes: 100,
            time_ms: due_ms,
            store_ms: self.now_ms,
        };
        records.push(Parked { id, row });
        self.rows.push_back(row);
    }

    fn park(&mut self) {
        let queue = u16::try_from(self.dice.below(u64::from(QUEUES))).unwrap();
        // Few different times, so that a place and a time come together again.
        let due_ms = (self.now_ms / 1000 + self.dice.below(20)) * 1000 + 999;
        let id = self.next_id;
        self.next_id += 1;
        self.store_parked(id, queue, due_ms);
        self.owed.insert(id);
    }

    fn scan(&mut self, mut scan: Scan) {
        let records = &self.log.queues[usize::from(scan.queue.queue.0)];
        let in_log = |one: &&Parked| one.row.physical.0 >= self.log.start;
        let end = QueueOffset(records.len() as u64);
        let rows = records.iter().filter(in_log).map(|one| one.row);
        scan.from = scan.from.min(end);
        for row in rows.filter(|row| row.offset >= scan.from) {
            if !scan.leaves_out(row.offset, row.time_ms) {
                self.board.learn_scanned(&row);
            }
        }
        self.board.known_until(scan.queue, end);
    }

    /// Reads a queue, or finds that it can't be read now.
    fn try_to_read(&mut self, scan: Scan) {
        if self.dice.chance(8) {
            let unread = Unread::behind(scan.queue, scan.from);
            self.board.set_unread(scan.queue, unread);
            self.unread.push(scan);
        } else {
            self.scan(scan);
            self.board.set_read(scan.queue);
        }
    }

    fn read_left(&mut self) {
        for scan in std::mem::take(&mut self.unread) {
            self.scan(scan);
            self.board.set_read(scan.queue);
        }
    }

    fn learn(&mut self) {
        if self.dice.chance(5) {
            // The mailbox overflowed.
            self.rows.clear();
            (0..QUEUES).for_each(|queue| self.catch_up(queue));
        }
        for row in std::mem::take(&mut self.rows) {
            if !self.board.learn(&row) {
                self.catch_up(row.queue.queue.0);
            }
        }
    }

    fn catch_up(&mut self, queue: u16) {
        if self.board.is_unread(|key| key == key_of(queue)) {
            return;
        }
        let from = self.board.next_of(key_of(queue));
        self.try_to_read(Scan {
            queue: key_of(queue),
            from,
            done_below: QueueOffset(0),
            done_ms: 0,
        });
    }

    /// As `rebuild` does it.
    fn start(&mut self) -> Result<(), String> {
        self.board = Board::default();
        self.unread.clear();
        self.board.begin(&self.tables, (0..QUEUES).map(key_of));
        for queue in 0..QUEUES {
            let records = &self.log.queues[usize::from(queue)];
            let marks = &self.tables.marks;
            let mark = marks.queues.iter().find(|mark| mark.key == key_of(queue));
            let next = mark.map_or(QueueOffset(0), |mark| mark.next);
            if next.0 > records.len() as u64 {
                return Err(format!("the mark of queue {queue} is ahead of the log"));
            }
            let from = match mark.and_then(|mark| mark.floor) {
                None => next,
                Some(floor) => {
                    let before = |one: &Parked| one.row.physical < floor;
                    QueueOffset(records.partition_point(before) as u64).min(next)
                }
            };
            self.try_to_read(Scan {
                queue: key_of(queue),
                from,
                done_below: next,
                done_ms: self.tables.marks.done_ms,
            });
        }
        self.board.is_complete = true;
        Ok(())
    }

    fn take_off(&mut self) {
        if self.flying.is_empty() {
            let count = 1 + usize::try_from(self.dice.below(8)).unwrap();
            self.flying = self.board.take_due(self.now_ms, (count, u64::MAX));
        }
    }

    /// Stores the copy of one entry.
    fn store_copy(&mut self, entry: Entry) -> Result<(), String> {
        let Some(parked) = self.log.parked_at(entry.physical) else {
            return Err(format!("{entry:?}: its record is gone"));
        };
        if entry.due_ms > self.now_ms || parked.row.time_ms != entry.due_ms {
            return Err(format!("{entry:?} early at {}", self.now_ms));
        }
        if self.recalled.contains(&parked.id) {
            return Err(format!("message {} was recalled", parked.id));
        }
        let at = self.log.append(self.is_sync);
        self.log.copies.push((parked.id, at));
        Ok(())
    }

    fn land(&mut self) -> Result<(), String> {
        for entry in std::mem::take(&mut self.flying) {
            let is_refused = self.dice.chance(10);
            if !is_refused || self.dice.chance(50) {
                self.store_copy(entry)?;
            }
            if is_refused {
                // Refused, or stored and the answer was late.
                self.board.try_again(entry, self.now_ms + 20);
            } else {
                let parked = self.log.parked_at(entry.physical);
                let offset = parked.map(|one| one.row.offset);
                self.board.finish(entry, offset);
            }
        }
        Ok(())
    }

    fn recall(&mut self) {
        self.learn();
        if self.board.has_unread() {
            return;
        }
        let ids = u64::from(self.next_id);
        let id = u32::try_from(self.dice.below(ids)).unwrap();
        let all = self.log.queues.iter().flatten();
        // What is due is refused: it may be on its way.
        let is_wanted = |one: &&Parked| one.id == id && one.row.time_ms > self.now_ms;
        let places: Vec<OwedRow> = all.filter(is_wanted).map(|one| one.row).collect();
        for row in places {
            let candidates = self.board.due.due_at(row.time_ms);
            let found = candidates.iter().find(|one| one.physical == row.physical.0);
            let Some(entry) = found.copied().filter(|entry| self.board.take(*entry)) else {
                continue;
            };
            let recalled = Recalled {
                due_ms: entry.due_ms,
                at_ms: match self.slip {
                    Slip::RecallByPlace => u64::MAX,
                    _ => self.now_ms,
                },
            };
            let mut place = entry.physical;
            for (_, old, new, recalled) in self.moved.iter().rev() {
                if *new == place && self.slip != Slip::RecallForgetsMoves {
                    self.tables.recalled.insert(*old, *recalled);
                    place = *old;
                }
            }
            self.tables.recalled.insert(entry.physical, recalled);
            self.board.note_recalled(entry.physical, recalled);
            self.board.finish(entry, None);
            // A message that was moved and then delivered again from its old place isn't pending.
            if !self.log.copies.iter().any(|(copy, _)| *copy == id) {
                self.recalled.insert(id);
                self.owed.remove(&id);
            }
        }
    }

    /// As `forward` does it.
    fn move_some(&mut self) {
        if self.board.has_unread() {
            return;
        }
        let below = FilePosition(self.log.end.saturating_sub(8 * RECORD_BYTES));
        let batch = self.board.before(SHARD, below, 4);
        for entry in batch {
            let Some(parked) = self.log.parked_at(entry.physical) else {
                continue;
            };
            if !self.board.take(entry) {
                continue;
            }
            let new = self.log.end;
            self.store_parked(parked.id, parked.row.queue.queue.0, entry.due_ms);
            let recalled = Recalled {
                due_ms: entry.due_ms,
                at_ms: self.now_ms,
            };
            self.board.note_recalled(entry.physical, recalled);
            self.board.finish(entry, None);
            let wanted = match self.slip {
                Slip::MoveTooSoon => 0,
                _ => self.log.end,
            };
            self.moved.push((wanted, entry.physical, new, recalled));
        }
        self.store_settled();
    }

    fn store_settled(&mut self) {
        let device = self.log.device;
        let (ready, later) = std::mem::take(&mut self.moved)
            .into_iter()
            .partition(|(wanted, ..)| *wanted <= device);
        self.moved = later;
        let ready: Vec<(u64, u64, u64, Recalled)> = ready;
        for (_, physical, _, recalled) in ready {
            if self.board.is_recalled(physical) {
                self.tables.recalled.insert(physical, recalled);
            }
        }
    }

    /// Drops what nobody owes any more, once the device has what the floor no longer names.
    fn cut(&mut self) {
        self.learn();
        if !self.moved.is_empty() || !self.flying.is_empty() || self.board.has_unread() {
            return;
        }
        let floor = self.board.floor(SHARD);
        self.log.device = self.log.end;
        let start = floor.map_or(self.log.end, |floor| floor.0);
        self.log.start = self.log.start.max(start);
    }

    /// As `keeper` does it: marks wait for the device, then they are stored.
    fn keep(&mut self) {
        match self.staged.take() {
            None => {
                let (marks, forget) = self.board.marks(self.now_ms);
                self.board.done_ms = marks.done_ms;
                self.staged = Some((marks, forget, self.log.end));
            }
            Some((marks, forget, wanted)) => {
                if self.log.device < wanted && self.slip != Slip::MarksTooSoon {
                    self.staged = Some((marks, forget, wanted));
                    return;
                }
                let kept = &mut self.tables.marks;
                kept.done_ms = marks.done_ms;
                kept.queues
                    .retain(|old| marks.queues.iter().all(|new| new.key != old.key));
                kept.queues.extend(marks.queues);
                for physical in &forget {
                    self.tables.recalled.remove(physical);
                }
                self.board.forget_recalled(&forget);
            }
        }
    }

    fn die(&mut self, power: bool) -> Result<(), String> {
        for entry in std::mem::take(&mut self.flying) {
            if self.dice.chance(50) {
                self.store_copy(entry)?;
            }
        }
        self.rows.clear();
        self.staged = None;
        self.moved.clear();
        if power {
            let device = self.log.device.max(self.log.start);
            self.log.end = device;
            self.log.copies.retain(|(_, at)| *at < device);
            for records in &mut self.log.queues {
                records.retain(|one| one.row.physical.0 < device);
            }
            self.excuse_what_the_power_cut_took();
        }
        // No process starts within the millisecond in which another one ended.
        self.now_ms += 1 + self.dice.below(5_000);
        self.start()?;
        self.deliver_the_overdue()
    }

    /// Under `ASYNC_FLUSH` the last moments before a power cut are not promised.
    fn excuse_what_the_power_cut_took(&mut self) {
        let parked = self.log.queues.iter().flatten().map(|one| one.id);
        let there: HashSet<u32> = parked.collect();
        if !self.is_sync {
            // Delivered and cut off counts as delivered to be lost only with its parked record.
            self.owed.retain(|id| there.contains(id));
        }
        // A recall of a message that is gone says nothing of what comes later.
        self.recalled.retain(|id| there.contains(id));
    }

    fn deliver_the_overdue(&mut self) -> Result<(), String> {
        let mut last = (0, 0);
        loop {
            let batch = self.board.take_due(self.now_ms, (3, u64::MAX));
            if batch.is_empty() {
                return Ok(());
            }
            for entry in batch {
                if (entry.due_ms, entry.physical) < last {
                    return Err(format!("{entry:?} comes after {last:?}"));
                }
                last = (entry.due_ms, entry.physical);
                self.store_copy(entry)?;
                self.board.finish(entry, None);
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..30 => self.park(),
            30..40 => self.now_ms += self.dice.below(4_000),
            40..50 => self.learn(),
            50..60 => self.take_off(),
            60..70 => self.land()?,
            70..76 => self.recall(),
            76..80 => self.move_some(),
            80..82 => self.cut(),
            82..86 => self.log.device = self.log.end,
            86..94 => self.keep(),
            94..96 => self.read_left(),
            _ => {
                let power = self.dice.chance(50);
                self.die(power)?;
            }
        }
        Ok(())
    }

    fn run(seed: u64, slip: Slip) -> Result<(), String> {
        let mut world = Self::new(seed, slip);
        world.start()?;
        for _ in 0..STEPS {
            world.step()?;
        }
        let power = world.dice.chance(50);
        world.die(power)?;
        world.read_left();
        world.now_ms += 60_000;
        world.deliver_the_overdue()?;
        let mut times: HashMap<u32, u32> = HashMap::new();
        for (id, _) in &world.log.copies {
            *times.entry(*id).or_default() += 1;
        }
        match world.owed.iter().find(|id| !times.contains_key(id)) {
            Some(lost) => Err(format!("message {lost} is lost")),
            None => Ok(()),
        }
    }
}

#[test]
fn nothing_is_lost_early_or_back_from_its_recall_whenever_the_broker_dies() {
    for seed in 0..1_500 {
        if let Err(why) = World::run(seed, Slip::None) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn the_simulation_finds_a_broker_that_stores_too_soon_or_recalls_by_place() {
    for slip in [
        Slip::MarksTooSoon,
        Slip::MoveTooSoon,
        Slip::RecallByPlace,
        Slip::RecallForgetsMoves,
    ] {
        let found = (0..1_500).find_map(|seed| World::run(seed, slip).err());
        assert!(found.is_some(), "{slip:?} passes");
    }
}
