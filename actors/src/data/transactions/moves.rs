//! Open halves out of the way of retention: stored again at the log's end.
//!
//! **Owns** the answer to `Question::OpenHalves`.
//! **Lives on** the core of the half's shard, in tasks of their own.
//! **Invariants** a half keeps the name its producer knows. What became of a half that the answer
//! names no longer (a copy, or an end, maybe in another shard) may not be on the device yet: that
//! is for the asker to await.
//! A half is moved by one copy at a time.
//! **Limits** [`MOVES_MAX`] halves a question, [`LOST_MAX`] lost ones.
//! **Not here** when segments go (`control::cleaning`), the table (`halves`), halves whose records
//! are lost (`lost`).

use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_protocol::message::RecordView;
use gantry_storage::address;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueOffset};

use super::ends::copied;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::shard::transactions::TransactionQueues;
use crate::data::words::{Append, Marks, TransactionStep};
use crate::refusal::Refusal;
use crate::transaction::Half;

/// Halves moved by one question: a question's answer is awaited for 2.5 s, reads included.
pub const MOVES_MAX: usize = 1024;
/// Halves whose records turn out lost before one answer; the next question goes on.
const LOST_MAX: usize = 1024;

fn cannot(why: impl Into<String>) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, why.into())
}

/// Where the first open half of a shard lies. Open halves below `move_below` begin to move then.
pub(in crate::data) async fn open_halves<S: QueueStore, H: Host>(
    shard: &Rc<Shard<S, H>>,
    move_below: FilePosition,
) -> Result<Option<FilePosition>, Refusal> {
    let queues = shard
        .transaction_queues()
        .ok_or_else(|| cannot("the table of open halves is not read yet"))?;
    let floor = floor(shard, &queues).await?;
    if floor.is_some_and(|floor| floor < move_below) {
        move_some(shard, &queues, move_below).await?;
    }
    Ok(floor)
}

async fn floor<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    queues: &TransactionQueues,
) -> Result<Option<FilePosition>, Refusal> {
    let first = || shard.with_halves(|halves| halves.open_from(QueueOffset(0)).next());
    for _ in 0..LOST_MAX {
        let Some((offset, ..)) = first() else {
            return Ok(None);
        };
        let read = shard.open_half(queues.half, offset).await;
        let read = read.map_err(|error| cannot(format!("the first open half message: {error}")))?;
        if let Some(record) = read {
            let place = position(&record);
            let damaged = || cannot("the first open half message is damaged");
            return place.map(Some).ok_or_else(damaged);
        }
        // Ended while it was read, or lost and given up: another one is the first now.
        if first().is_some_and(|(now, ..)| now == offset) {
            // Under SYNC_FLUSH it may not be readable yet.
            return Err(cannot("the first open half message is not readable now"));
        }
    }
    Err(cannot(
        "many open half messages are lost: there may be more",
    ))
}

/// Posts copies of open halves below `below`, unless the last ones are still under way.
async fn move_some<S: QueueStore, H: Host>(
    shard: &Shard<S, H>,
    queues: &TransactionQueues,
    below: FilePosition,
) -> Result<(), Refusal> {
    if shard.moves_under_way() > 0 {
        return Ok(());
    }
    let first: Vec<QueueOffset> = shard.with_halves(|halves| {
        let open = halves.open_from(QueueOffset(0)).take(MOVES_MAX);
        open.map(|(offset, ..)| offset).collect()
    });
    for offset in first {
        let read = shard.open_half(queues.half, offset).await;
        let read = read.map_err(|error| cannot(format!("an open half message: {error}")))?;
        let Some(record) = read else { continue };
        if position(&record).is_some_and(|at| at >= below) {
            return Ok(());
        }
        let Some(half) = Half::of(&record) else {
            continue;
        };
        // One that was decided while it was read needs no copy; one being decided has its end.
        let now = shard.with_halves(|halves| {
            let mut open = halves.open_from(offset);
            let found = open.next().filter(|(found, ..)| *found == offset);
            found.filter(|_| halves.is_undecided(offset))
        });
        if let Some((_, checks, due_ms)) = now {
            shard.post_move(queues.half, moved(&half, &record, queues, checks, due_ms));
        }
    }
    Ok(())
}

fn position(record: &[u8]) -> Option<FilePosition> {
    let view = RecordView::parse(record).ok()?;
    let physical = PhysicalOffset(view.physical_offset.cast_unsigned());
    address::locate(physical).map(|(_, position)| position)
}

fn moved(
    half: &Half<'_>,
    record: &bytes::Bytes,
    queues: &TransactionQueues,
    checks: u32,
    due_ms: u64,
) -> Append {
    let step = TransactionStep::Moved {
        first: half.id.offset,
    };
    let mut append = copied(half, record, &queues.half_topic, step);
    append.properties = half.properties_for_move(checks).into();
    append.marks = Marks {
        // Negative: a rebuild reads the record to learn its first name.
        tags_code: -i64::try_from(due_ms).unwrap_or(i64::MAX),
        ..Marks::default()
    };
    append
}
