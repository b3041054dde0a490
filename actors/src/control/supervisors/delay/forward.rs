//! Moving pending records forward, so that old log can go.
//!
//! **Owns** the re-append of parked records that lie where the log is to be cut.
//! **Lives on** the control plane's thread; called by whoever cleans the log.
//! **Invariants** the new record is acknowledged before the old one is done with. That the old one
//! isn't to be delivered is stored once every shard has said that the device has the new one (a
//! power cut between would lose both), and before the last call returns: until then a crash
//! delivers twice.
//! **Limits** [`MOVE_ENTRIES_MAX`] records of [`MOVE_BYTES_MAX`] a call: call again while it says
//! so. What waits for the device is what was moved within [`UNSETTLED_MAX`].
//! **Not here** cutting the log.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::message::RecordView;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::units::{FilePosition, PhysicalOffset, ShardId};

use super::deliver::{GONE, drop_entry, say_for_good};
use super::marks::{self, Recalled};
use super::{Delay, Entry};
use crate::control::plane::Plane;
use crate::refusal::Refusal;
use crate::seam::errands::{FetchFault, SupplyRecord};
use crate::seam::owed::OwedTime;

/// Records moved by one call.
const MOVE_ENTRIES_MAX: usize = 512;
/// Bytes of records after which a call takes no further one.
const MOVE_BYTES_MAX: u64 = 8 << 20;
/// So long records are moved before it is awaited that the device has them.
const UNSETTLED_MAX: Duration = Duration::from_secs(1);
/// Until an entry whose move failed may be delivered again.
const AGAIN_MS: u64 = 100;

/// Records that were parked again, and since when.
pub struct Moved {
    at: Instant,
    rows: Vec<MovedRow>,
}

#[derive(Clone, Copy)]
struct MovedRow {
    /// Where the record lay.
    old: u64,
    /// Where it lies now.
    new: u64,
    recalled: Recalled,
}

impl Delay {
    /// Moves some of the pending records of a shard that lie before `below` to the log's end, and
    /// drops those that the log has lost.
    /// True when none is left there.
    ///
    /// # Errors
    /// Why a record can't be moved; it stays pending where it is.
    pub async fn move_forward(
        &self,
        plane: &Rc<Plane>,
        shard: ShardId,
        below: FilePosition,
    ) -> Result<bool, Refusal> {
        if self.oldest_unsettled() >= UNSETTLED_MAX {
            self.settle(plane).await?;
        }
        let batch = self.take_before(shard, below);
        if batch.is_empty() {
            self.settle(plane).await?;
            // What is away is delivered in a moment; its floor says so until then.
            let is_clear = self.board().floor(shard).is_none_or(|floor| floor >= below);
            return Ok(is_clear && self.moved.borrow().is_empty());
        }
        let places = batch.iter().map(|entry| PhysicalOffset(entry.physical));
        let records = plane.errands.fetch(places.collect()).await;
        let (mut moving, mut supplies) = (Vec::new(), Vec::new());
        for (entry, record) in batch.into_iter().zip(records) {
            let record = match record {
                Ok(record) => Some(record),
                // Now, and not when it is due: that may be in days, and the disk is filling.
                Err(FetchFault::Gone) => {
                    drop_entry(plane, entry, GONE);
                    continue;
                }
                Err(FetchFault::Lost(why)) => {
                    drop_entry(plane, entry, &why);
                    continue;
                }
                Err(FetchFault::Failed(_)) => None,
            };
            match record.and_then(|record| self.again(plane, &entry, &record)) {
                Some(supply) => {
                    moving.push(entry);
                    supplies.push(supply);
                }
                // Unreadable for now: delivering it finds out why.
                None => self.board_mut().try_again(entry, wall_now_ms() + AGAIN_MS),
            }
        }
        let outcomes = plane.errands.supply(supplies).await;
        let mut moved = Vec::new();
        let mut failed = None;
        for (entry, outcome) in moving.into_iter().zip(outcomes) {
            match outcome {
                Ok(stored) => moved.push((entry, stored.physical.0)),
                Err(refusal) => {
                    say_for_good(plane, &entry, &refusal);
                    failed = Some(refusal);
                    self.board_mut().try_again(entry, wall_now_ms() + AGAIN_MS);
                }
            }
        }
        self.note_moved(&moved);
        failed.map_or(Ok(false), Err)
    }

    fn take_before(&self, shard: ShardId, below: FilePosition) -> Vec<Entry> {
        let mut board = self.board_mut();
        let mut bytes = 0;
        let mut batch = board.before(shard, below, MOVE_ENTRIES_MAX);
        batch.retain(|entry| {
            let fits = bytes < MOVE_BYTES_MAX;
            bytes += u64::from(entry.bytes);
            fits && board.take(*entry)
        });
        batch
    }

    /// The same record once more, for the same queue and time.
    fn again(&self, plane: &Rc<Plane>, entry: &Entry, record: &Bytes) -> Option<SupplyRecord> {
        let view = RecordView::parse(record).ok()?;
        let key = self.board().key_of(entry)?;
        let topic = plane.topics.borrow().get(view.topic)?.clone();
        Some(SupplyRecord {
            key,
            topic,
            flag: view.flag,
            sys_flag: view.sys_flag,
            born_ms: view.born_timestamp,
            born_host: view.born_host,
            reconsume_times: view.reconsume_times,
            prepared_offset: view.prepared_transaction_offset,
            body: record.slice_ref(view.body),
            properties: record.slice_ref(view.properties.as_bytes()),
            owed: Some(OwedTime::At(entry.due_ms)),
        })
    }

    /// The old records are done with, as far as the memory goes.
    fn note_moved(&self, moved: &[(Entry, u64)]) {
        let at_ms = wall_now_ms();
        let mut board = self.board_mut();
        let mut rows = Vec::with_capacity(moved.len());
        for (entry, new) in moved {
            let due_ms = entry.due_ms;
            let recalled = Recalled { due_ms, at_ms };
            board.set_recalled(*entry, recalled);
            rows.push(MovedRow {
                old: entry.physical,
                new: *new,
                recalled,
            });
        }
        let at = Instant::now();
        self.moved.borrow_mut().push(Moved { at, rows });
    }

    /// The old places of a record, as far as the tables don't know yet that it was moved: whoever
    /// recalls it recalls those as well.
    pub(super) fn old_places(&self, physical: u64) -> Vec<(u64, Recalled)> {
        let moved = self.moved.borrow();
        let (mut place, mut found) = (physical, Vec::new());
        // Newest first: each step goes back by one move.
        for row in moved.iter().rev().flat_map(|moved| &moved.rows) {
            if row.new == place {
                found.push((row.old, row.recalled));
                place = row.old;
            }
        }
        found
    }

    /// Whether a message due then may be at no place that is known: on its way to its queue, being
    /// moved, or moved when its new row hasn't come. `pending` are all that are known to be due
    /// then.
    pub(super) fn is_on_its_way(&self, due_ms: u64, pending: &[Entry]) -> bool {
        let (board, moved) = (self.board(), self.moved.borrow());
        if board.is_on_its_way(due_ms) {
            return true;
        }
        let rows = moved.iter().flat_map(|moved| &moved.rows);
        let mut rows = rows.filter(|row| row.recalled.due_ms == due_ms).peekable();
        if rows.peek().is_none() {
            return false;
        }
        let known: HashSet<u64> = pending.iter().map(|entry| entry.physical).collect();
        rows.any(|row| !known.contains(&row.new) && !board.is_recalled(row.new))
    }

    /// How long the device may not have had what was moved.
    fn oldest_unsettled(&self) -> Duration {
        let moved = self.moved.borrow();
        moved
            .first()
            .map_or(Duration::ZERO, |moved| moved.at.elapsed())
    }

    /// Stores what was moved until now, once the device has the new records.
    async fn settle(&self, plane: &Rc<Plane>) -> Result<(), Refusal> {
        if self.moved.borrow().is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        plane.errands.durable().await?;
        loop {
            let rows: Vec<(u64, Recalled)> = match self.moved.borrow().first() {
                Some(moved) if moved.at <= asked => {
                    // Those whose time has passed meanwhile are remembered by the marks.
                    let board = self.board();
                    let open = moved.rows.iter().filter(|row| board.is_recalled(row.old));
                    open.map(|row| (row.old, row.recalled)).collect()
                }
                _ => return Ok(()),
            };
            let stored = marks::store_recalled(plane.ledger.tables(), &rows);
            stored.map_err(|error| Refusal::new(response::SYSTEM_ERROR, error.to_string()))?;
            self.moved.borrow_mut().remove(0);
        }
    }
}
