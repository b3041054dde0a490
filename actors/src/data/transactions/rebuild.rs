//! The table of open halves, read from the log at start.
//!
//! **Owns** how far back the log must be read, and what its records mean.
//! **Lives on** each data core, before its ports are open.
//! **Invariants** the log alone decides: a half is open when no op record says otherwise. Nothing
//! is kept beside it. The newest op record names the lowest half that may be open; index entries of
//! halves carry their due time and those of op records the half queue's length, so that only op
//! records behind that place are read, and no half.
//! **Limits** [`STEP`] entries at a time.
//! **Not here** the log's own recovery (storage), writing op records (`shard::transactions`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use gantry_protocol::message::RecordIter;
use gantry_protocol::system_topic;
use gantry_storage::error::ReadError;
use gantry_storage::queue_index::IndexEntry;
use gantry_storage::shard_store::ReadLimits;
use gantry_storage::units::{QueueId, QueueKey, QueueOffset, ShardId};

use super::halves::Halves;
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::shard::transactions::TransactionQueues;
use crate::seam::TopicEntry;
use crate::transaction::{Half, Op, OpKind};

/// Index entries of halves, or op records, looked at in one read.
const STEP: u32 = 4096;
/// Bytes of op records in one read.
const STEP_BYTES: u64 = 1024 * 1024;

/// The queue of `topic` that lies on `shard`, as close to its first one as can be.
pub(in crate::data) fn queue_on(topic: &TopicEntry, shard: ShardId, shards: u8) -> QueueKey {
    let (shards, wanted) = (u32::from(shards.max(1)), u32::from(shard.0));
    let own = topic.id.0 % shards;
    let queue = (wanted + shards - own) % shards;
    QueueKey {
        topic: topic.id,
        queue: QueueId(u16::try_from(queue).unwrap_or(0)),
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Reads the tables of this core's shards; from then on they take halves and ends.
    ///
    /// # Errors
    /// The device failed.
    pub async fn rebuild_transactions(&self) -> Result<(), ReadError> {
        for shard in self.shards() {
            let Some(queues) = self.queues_of(shard.id()) else {
                tracing::error!("the topics of transactions are missing: none can be done");
                return Ok(());
            };
            let halves = rebuild(&shard, &queues, self.settings.transaction_check_interval_ms);
            let halves = halves.await?;
            if !halves.is_empty() {
                tracing::info!(shard = %shard.id(), open = halves.len(), "open half messages");
            }
            shard.begin_transactions(Rc::new(queues), halves);
        }
        Ok(())
    }

    fn queues_of(&self, shard: ShardId) -> Option<TransactionQueues> {
        let catalog = self.catalog.borrow();
        let find = |name| {
            let topic = catalog.topic(name)?;
            Some((queue_on(topic, shard, self.shards_count), Arc::clone(topic)))
        };
        let (half, half_topic) = find(system_topic::TRANS_HALF_TOPIC)?;
        let (op, op_topic) = find(system_topic::TRANS_OP_HALF_TOPIC)?;
        let (given_up, given_up_topic) = find(system_topic::TRANS_CHECK_MAX_TIME_TOPIC)?;
        Some(TransactionQueues {
            half,
            half_topic,
            op,
            op_topic,
            given_up,
            given_up_topic,
        })
    }
}

async fn rebuild<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    queues: &TransactionQueues,
    interval_ms: u64,
) -> Result<Halves, ReadError> {
    let mut halves = Halves::default();
    let bounds = shard.store().bounds(queues.half);
    let floor = floor_of(shard, queues).await?.max(bounds.min);
    halves.known_up_to(bounds.max);
    let mut copies = Vec::new();
    let mut at = floor;
    while at < bounds.max {
        let due = tags(shard, queues.half, at, STEP).await?;
        if due.is_empty() {
            break;
        }
        for due_ms in due {
            // Of a half that was lost nothing can be asked or ended.
            if let Some(due_ms) = due_ms {
                halves.opened(at, due_ms.unsigned_abs(), 0);
                if due_ms < 0 {
                    copies.push(at);
                }
            }
            at = at.next();
        }
    }
    // A copy has the checks of the record before it, and takes its place.
    for at in copies {
        let record = shard.half_record(queues.half, at).await?;
        let half = record.as_deref().and_then(Half::of);
        if let Some(half) = half {
            let due_ms = halves.due_of(at).unwrap_or(0);
            halves.restored(half.id.offset, at, half.checks, due_ms);
        }
    }
    apply_ops(shard, queues, floor, interval_ms, &mut halves).await?;
    Ok(halves)
}

/// No half below was open when the last op record was written.
async fn floor_of<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    queues: &TransactionQueues,
) -> Result<QueueOffset, ReadError> {
    let bounds = shard.store().bounds(queues.op);
    let Some(last) = bounds.max.0.checked_sub(1).map(QueueOffset) else {
        return Ok(QueueOffset(0));
    };
    if last < bounds.min {
        return Ok(QueueOffset(0));
    }
    let record = shard.half_record(queues.op, last).await?;
    let ops = record.iter().flat_map(|record| RecordIter::new(record));
    let op = ops.flatten().find_map(|record| Op::of(&record));
    Ok(op.map_or(QueueOffset(0), |op| op.floor))
}

/// Tags codes of the next index entries, nothing for a lost record.
async fn tags<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    key: QueueKey,
    from: QueueOffset,
    most: u32,
) -> Result<Vec<Option<i64>>, ReadError> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let entries = shard.store().entries(key, from, most).await?;
    let tag = |entry: &IndexEntry| (!entry.is_lost()).then_some(entry.tags_code);
    Ok(entries.iter().map(tag).collect())
}

async fn apply_ops<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    queues: &TransactionQueues,
    floor: QueueOffset,
    interval_ms: u64,
    halves: &mut Halves,
) -> Result<(), ReadError> {
    let bounds = shard.store().bounds(queues.op);
    let mut at = first_op(shard, queues.op, floor).await?;
    let limits = ReadLimits {
        messages: STEP,
        bytes: STEP_BYTES,
        entries_examined: STEP,
    };
    while at < bounds.max {
        let mut out = BytesMut::new();
        let read = shard
            .store()
            .read(queues.op, at, limits, &|_| true, &mut out);
        let read = read.await?;
        for op in RecordIter::new(&out)
            .flatten()
            .filter_map(|one| Op::of(&one))
        {
            for offset in op.offsets {
                match op.kind {
                    OpKind::Ended => {
                        halves.ended(offset);
                    }
                    OpKind::Checked => {
                        halves.checked(offset, op.stored_ms.saturating_add(interval_ms));
                    }
                }
            }
        }
        if read.next_offset <= at {
            break;
        }
        at = read.next_offset;
    }
    Ok(())
}

/// The first op record that may speak of a half at or above `floor`: op records know how long the
/// half queue was, and it only grows.
async fn first_op<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    op: QueueKey,
    floor: QueueOffset,
) -> Result<QueueOffset, ReadError> {
    let bounds = shard.store().bounds(op);
    let wanted = i64::try_from(floor.0).unwrap_or(i64::MAX);
    let (mut low, mut high) = (bounds.min, bounds.max);
    while low < high {
        let middle = QueueOffset(low.0 + (high.0 - low.0) / 2);
        let known = tags(shard, op, middle, 1).await?;
        let known = known.first().copied().flatten();
        if known.is_some_and(|known| known <= wanted) {
            low = middle.next();
        } else {
            high = middle;
        }
    }
    Ok(low)
}
