//! Moving pending records forward, so that old log can go.
//!
//! **Owns** the re-append of parked records that lie where the log is to be cut.
//! **Lives on** the control plane's thread; called by whoever cleans the log.
//! **Invariants** the new record is acknowledged before the old one is done with, and the tables
//! know that the old one isn't to be delivered before this returns, so a restart delivers once.
//! **Limits** [`MOVE_ENTRIES_MAX`] records of [`MOVE_BYTES_MAX`] a call: call again while it says
//! so.
//! **Not here** cutting the log.

use std::rc::Rc;

use bytes::Bytes;
use gantry_protocol::message::RecordView;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::units::{FilePosition, PhysicalOffset, ShardId};

use super::marks;
use super::{Delay, Entry};
use crate::control::plane::Plane;
use crate::refusal::Refusal;
use crate::seam::errands::SupplyRecord;
use crate::seam::owed::OwedTime;

/// Records moved by one call.
const MOVE_ENTRIES_MAX: usize = 512;
/// Bytes of records after which a call takes no further one.
const MOVE_BYTES_MAX: u64 = 8 << 20;
/// Until an entry whose move failed may be delivered again.
const AGAIN_MS: u64 = 100;

impl Delay {
    /// Moves some of the pending records of a shard that lie before `below` to the log's end.
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
        let batch = self.take_before(shard, below);
        if batch.is_empty() {
            // What is away is delivered in a moment; its floor says so until then.
            return Ok(self.board().floor(shard).is_none_or(|floor| floor >= below));
        }
        let places = batch.iter().map(|entry| PhysicalOffset(entry.physical));
        let records = plane.errands.fetch(places.collect()).await;
        let (mut moving, mut supplies) = (Vec::new(), Vec::new());
        for (entry, record) in batch.into_iter().zip(records) {
            match record
                .ok()
                .and_then(|record| self.again(plane, &entry, &record))
            {
                Some(supply) => {
                    moving.push(entry);
                    supplies.push(supply);
                }
                // Unreadable: delivering it finds out why.
                None => self.board_mut().try_again(entry, wall_now_ms() + AGAIN_MS),
            }
        }
        let outcomes = plane.errands.supply(supplies).await;
        let mut moved = Vec::new();
        let mut failed = None;
        for (entry, outcome) in moving.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => moved.push(entry),
                Err(refusal) => {
                    failed = Some(refusal);
                    self.board_mut().try_again(entry, wall_now_ms() + AGAIN_MS);
                }
            }
        }
        self.forget_moved(plane, &moved)?;
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

    fn forget_moved(&self, plane: &Rc<Plane>, moved: &[Entry]) -> Result<(), Refusal> {
        let rows: Vec<(u64, u64)> = moved
            .iter()
            .map(|entry| (entry.physical, entry.due_ms))
            .collect();
        let stored = marks::store_recalled(plane.ledger.tables(), &rows);
        let mut board = self.board_mut();
        for entry in moved {
            board.note_recalled(entry.physical, entry.due_ms);
            board.finish(*entry, None);
        }
        stored.map_err(|error| {
            Refusal::new(
                gantry_protocol::code::response::SYSTEM_ERROR,
                error.to_string(),
            )
        })
    }
}
