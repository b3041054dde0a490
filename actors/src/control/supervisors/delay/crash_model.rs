//! What surrounds the board in the simulation of delayed messages: log, device.

use gantry_storage::units::QueueKey;

use crate::seam::owed::OwedRow;

/// Each record takes this much of the log: four fit a stretch that floors are exact to.
pub const RECORD_BYTES: u64 = 1 << 20;

/// What a broken broker would do; the oracle has to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    None,
    /// Marks are stored before the device has what they speak of.
    MarksTooSoon,
    /// A moved record is forgotten before the device has the new one.
    MoveTooSoon,
    /// A recall holds for whatever lies in the place, whenever it was stored.
    RecallByPlace,
    /// A recall leaves the old record of a moved one to be found by the next start.
    RecallForgetsMoves,
}

/// A parked record.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    pub id: u32,
    pub row: OwedRow,
}

/// The log and its device.
#[derive(Default)]
pub struct Log {
    pub queues: Vec<Vec<Parked>>,
    /// Delivered copies: message and place.
    pub copies: Vec<(u32, u64)>,
    pub end: u64,
    /// What a power cut leaves.
    pub device: u64,
    /// Segments before this are gone.
    pub start: u64,
}

impl Log {
    /// Takes room for a record; where it lies.
    pub fn append(&mut self, is_sync: bool) -> u64 {
        let at = self.end;
        self.end += RECORD_BYTES;
        if is_sync {
            self.device = self.end;
        }
        at
    }

    /// The parked record in this place, if it is still stored.
    pub fn parked_at(&self, physical: u64) -> Option<Parked> {
        let all = self.queues.iter().flatten();
        let mut found = all.filter(|one| one.row.physical.0 == physical);
        found.next().copied().filter(|_| physical >= self.start)
    }
}

/// A queue of parked records.
pub fn key_of(queue: u16) -> QueueKey {
    QueueKey::new(7, queue)
}
