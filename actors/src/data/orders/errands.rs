//! What the control plane's supervisors have done here.
//!
//! **Owns** the errands of `seam::errands` on the core that holds their queues.
//! **Lives on** each data core.
//! **Invariants** records go through their queue actor's inbox like a producer's, in order; the
//! answer is one message. An errand for a queue of another core refuses its records.
//! **Limits** the shards' inboxes; [`FETCHES_AT_ONCE`] device reads of one errand at a time;
//! [`DURABLE_MS_MAX`] and the interval between syncs until the device has what is stored.
//! **Not here** the waiting (`queue::asker`), the sending side (`control::cores::errands`).

use std::rc::Rc;

use bytes::Bytes;
use futures_lite::future;
use gantry_protocol::code::response;
use gantry_protocol::message::body_crc;
use gantry_protocol::properties::SendProperties;
use gantry_protocol::sys_flag;
use gantry_storage::address;
use gantry_storage::error::ReadError;
use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};

use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::asker::{Asker, SupplyBatch};
use crate::data::queue::store::QueueStore;
use crate::data::requests::send::marks;
use crate::data::words::{Append, Marks, Rare};
use crate::join::join_all;
use crate::refusal::Refusal;
use crate::seam::errands::{
    Errand, ErrandDone, FetchFault, SCAN_ROWS_MAX, Scan, Scanned, SupplyRecord,
};
use crate::seam::owed::OwedRow;
use crate::seam::{Ticket, ToControl};

/// Device reads that one errand has under way.
const FETCHES_AT_ONCE: usize = 32;
/// Records in the same stretch of the log, as wide as a read of the device that others profit from.
const NEAR_BYTES: u64 = 256 << 10;
/// So many of them are worth reading all of it.
const NEAR_COUNT_MIN: usize = 8;
/// How long the device may take for what was stored, beyond `flushIntervalCommitLog`; the control
/// plane waits a little longer.
pub const DURABLE_MS_MAX: u64 = 25_000;
/// How often it is looked whether the device has it.
const LOOK_MS: u64 = 10;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Does an errand; answers it when it is done.
    pub(super) fn run_errand(self: &Rc<Self>, ticket: Ticket, errand: Errand) {
        let here = Rc::clone(self);
        match errand {
            // Posted now, so that batches keep their order.
            Errand::Supply(records) => {
                let batch = self.post_supply(records);
                self.host.spawn(async move {
                    let outcomes = batch.outcomes().await;
                    here.errand_done(ticket, ErrandDone::Supplied(outcomes))
                        .await;
                });
            }
            Errand::Fetch(places) => self.host.spawn(async move {
                let records = here.fetch_all(&places).await;
                here.errand_done(ticket, ErrandDone::Fetched(records)).await;
            }),
            Errand::Locate(queue, physical) => self.host.spawn(async move {
                let found = here.locate(queue, physical).await;
                let found = found.map_err(|error| error.to_string());
                here.errand_done(ticket, ErrandDone::Located(found)).await;
            }),
            Errand::Scan(scan) => self.host.spawn(async move {
                let scanned = here.scan(&scan).await;
                here.errand_done(ticket, ErrandDone::Scanned(scanned)).await;
            }),
            Errand::Durable => self.host.spawn(async move {
                let durable = here.durable().await;
                here.errand_done(ticket, ErrandDone::Durable(durable)).await;
            }),
        }
    }

    async fn errand_done(&self, ticket: Ticket, done: ErrandDone) {
        self.send_patiently(ToControl::ErrandDone { ticket, done })
            .await;
    }

    fn is_elsewhere(&self, key: QueueKey) -> String {
        format!("core {} does not hold queue {key:?}", self.number)
    }

    fn post_supply(&self, records: Vec<SupplyRecord>) -> Rc<SupplyBatch> {
        let batch = SupplyBatch::new(records.len());
        for (number, record) in records.into_iter().enumerate() {
            let slot = batch.slot(number);
            let key = record.key;
            let Some(shard) = self.shard_of(key) else {
                let remark = self.is_elsewhere(key);
                slot.tell(Err(Refusal::new(response::SYSTEM_ERROR, remark)));
                continue;
            };
            let asker = Asker::Supervisor(slot.clone());
            if let Err(refusal) = shard.post_append_for(key, asker, append_of(record)) {
                slot.tell(Err(refusal));
            }
        }
        batch
    }

    /// Reads in the order of the log, whatever order was asked for: records close to each other
    /// share a read of the device, the others read no more than themselves.
    async fn fetch_all(
        self: &Rc<Self>,
        places: &[PhysicalOffset],
    ) -> Vec<Result<Bytes, FetchFault>> {
        let mut records = vec![Err(FetchFault::Gone); places.len()];
        let mut order: Vec<(usize, PhysicalOffset)> = places.iter().copied().enumerate().collect();
        order.sort_unstable_by_key(|(_, place)| *place);
        let is_near = |one: &(usize, PhysicalOffset), other: &(usize, PhysicalOffset)| {
            one.1.0 / NEAR_BYTES == other.1.0 / NEAR_BYTES
        };
        let order: Vec<(usize, PhysicalOffset, bool)> = order
            .chunk_by(is_near)
            .flat_map(|near| {
                let is_lone = near.len() < NEAR_COUNT_MIN;
                near.iter()
                    .map(move |(number, place)| (*number, *place, is_lone))
            })
            .collect();
        for some in order.chunks(FETCHES_AT_ONCE) {
            let read = |(_, place, is_lone): &(usize, PhysicalOffset, bool)| {
                Box::pin(self.fetch_one(*place, *is_lone))
            };
            let read = join_all(some.iter().map(read).collect()).await;
            for ((number, ..), record) in some.iter().zip(read) {
                if let Some(slot) = records.get_mut(*number) {
                    *slot = record;
                }
            }
        }
        records
    }

    async fn fetch_one(
        &self,
        physical: PhysicalOffset,
        is_lone: bool,
    ) -> Result<Bytes, FetchFault> {
        let found = address::locate(physical)
            .and_then(|(id, _)| self.shards().find(|shard| shard.id() == id));
        let Some(shard) = found else {
            return Err(FetchFault::Gone);
        };
        let store = shard.store();
        let mut read = if is_lone {
            store.lone_record_at(physical).await
        } else {
            store.record_at(physical).await
        };
        // Whoever is told gives the record up, so its own blocks are looked at once more.
        if matches!(read, Err(ReadError::Damaged { .. })) {
            read = store.lone_record_at(physical).await;
        }
        read.map_err(|error| match error {
            ReadError::Outside { .. } => FetchFault::Gone,
            ReadError::Damaged { .. } => FetchFault::Lost(error.to_string()),
            other => FetchFault::Failed(other.to_string()),
        })
    }

    /// Waits until the device has all that this core's shards have stored by now.
    async fn durable(&self) -> Result<(), String> {
        let limit_ms = self
            .settings
            .flush_interval_ms
            .saturating_add(DURABLE_MS_MAX);
        let until_ms = self.host.mono_ms().saturating_add(limit_ms);
        let staged = self.shards().map(|shard| {
            let end = shard.store().staged();
            (shard, end)
        });
        let staged: Vec<_> = staged.collect();
        for (shard, end) in staged {
            let (id, store) = (shard.id(), shard.store());
            loop {
                if let Some(why) = store.poisoned() {
                    return Err(format!("shard {id} takes nothing any more: {why}"));
                }
                if store.committed() >= end {
                    break;
                }
                if self.host.mono_ms() >= until_ms {
                    return Err(format!(
                        "the device has not the last records of shard {id} yet"
                    ));
                }
                self.host.sleep_ms(LOOK_MS).await;
            }
        }
        Ok(())
    }

    async fn locate(
        &self,
        queue: QueueKey,
        physical: PhysicalOffset,
    ) -> Result<QueueOffset, ReadError> {
        let place = address::locate(physical);
        match self.shard_of(queue).zip(place) {
            Some((shard, (id, at))) if shard.id() == id => {
                shard.store().search_by_position(queue, at).await
            }
            _ => Err(ReadError::Outside { physical }),
        }
    }

    async fn scan(&self, scan: &Scan) -> Result<Scanned, String> {
        let shard = self.shard_of(scan.queue);
        let shard = shard.ok_or_else(|| self.is_elsewhere(scan.queue))?;
        let store = shard.store();
        let bounds = store.bounds(scan.queue);
        let mut next = scan.from.max(bounds.min);
        let mut scanned = Scanned {
            bounds,
            ..Scanned::default()
        };
        while next < bounds.max && scanned.rows.len() < SCAN_ROWS_MAX {
            let entries = store.entries(scan.queue, next, SCAN_ROWS_MAX).await;
            let entries = entries.map_err(|error| error.to_string())?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let row = OwedRow {
                    queue: scan.queue,
                    offset: next,
                    physical: address::physical(shard.id(), entry.position),
                    bytes: entry.length,
                    time_ms: u64::try_from(entry.tags_code).unwrap_or(0),
                    store_ms: entry.store_time.0,
                };
                next = next.next();
                // Its place is the next record's, and its time is not known.
                if entry.is_lost() {
                    continue;
                }
                let is_done = scan.leaves_out(row.offset, row.time_ms);
                if !is_done && row.offset < bounds.max {
                    scanned.rows.push(row);
                }
            }
            if next < bounds.max {
                // A long scan of what is done must not hold the core.
                future::yield_now().await;
            }
        }
        // Also when `from` lies beyond the end: a row that comes there is a new one.
        scanned.next = next.min(bounds.max);
        Ok(scanned)
    }
}

fn append_of(record: SupplyRecord) -> Append {
    let stored = std::str::from_utf8(&record.properties).unwrap_or_default();
    let marks = marks::of_kept(&SendProperties::scan(stored), stored);
    Append {
        topic: record.topic,
        flag: record.flag,
        // Before they were refused, inner batches were stored.
        sys_flag: record.sys_flag & !sys_flag::INNER_BATCH_MASK,
        born_ms: record.born_ms,
        born_host: record.born_host,
        reconsume_times: record.reconsume_times,
        body_crc: body_crc(&record.body),
        body: record.body,
        properties: record.properties,
        marks: Marks {
            no_wait: false,
            ..marks
        },
        rare: Rare {
            owed: record.owed,
            prepared_offset: record.prepared_offset,
            ..Rare::default()
        }
        .kept(),
    }
}

#[cfg(test)]
#[path = "errand_tests.rs"]
mod tests;
