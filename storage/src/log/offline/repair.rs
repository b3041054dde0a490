//! Mending a log: runs without records take the place of damaged ones.
//!
//! **Owns** the layout of these fillers, and writing them.
//! **Lives on** a tool's core.
//! **Invariants** nothing outside of the damaged bytes is changed, but for blocks behind the log's
//! end that can't be read, which become zeros; afterwards every run follows its predecessor by
//! recovery's own rules. The same repair a second time finds nothing to do; one that failed or died
//! is finished by the next, and until then a start refuses or has all that is left.
//! **Limits** one segment's bytes in memory at a time.
//! **Not here** finding damage (`super`).

use thiserror::Error;

use super::{Damage, Survey, open, survey};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::error::RecoverError;
use crate::format::{CheckpointHeader, RUN_HEADER_BYTES, RunHeader, shard_folder};
use crate::log::aside;
use crate::log::checkpoint;
use crate::log::recovery::PAYLOAD_BYTES_MAX;
use crate::log::segments::Segments;
use crate::units::{BLOCK_BYTES, FilePosition, ShardId, index};

/// Bytes of one write.
const WRITE_BYTES: u64 = 1 << 20;

/// What a repair did, or would do.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// The log as it was.
    pub before: Survey,
    /// Whether the checkpoint must go, so that the next start replays the whole log: it lies in
    /// what is given up, or behind the log's end.
    pub drops_checkpoint: bool,
}

impl Repaired {
    /// Whether there is nothing to mend.
    pub fn is_nothing(&self) -> bool {
        let before = &self.before;
        before.damages.is_empty() && before.unreadable.is_empty() && !self.drops_checkpoint
    }
}

/// Why a log could not be mended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RepairError {
    /// The shard can't be opened.
    #[error(transparent)]
    Open(#[from] RecoverError),
    /// The device failed.
    #[error("repair: {0}")]
    Disk(#[from] DiskError),
    /// The runs lost are too few or too many for the place.
    #[error(
        "{file}: the damage from position {position} to {end} can't be bridged; restore the file, \
         or move the shard's folder away"
    )]
    Unbridgeable {
        /// The segment file.
        file: String,
        /// Where the damage begins.
        position: FilePosition,
        /// Where it ends.
        end: FilePosition,
    },
    /// It was mended and still is damaged.
    #[error("{file} is still damaged at position {position}")]
    Remains {
        /// The segment file.
        file: String,
        /// Where.
        position: FilePosition,
    },
}

/// Gives up what is damaged so that the rest can be opened again; with `is_dry` only says what that
/// would be.
///
/// # Errors
/// The shard can't be opened, or not be mended.
pub async fn repair<D: Disk>(
    disk: &D,
    shard: ShardId,
    is_dry: bool,
) -> Result<Repaired, RepairError> {
    let before = survey(disk, shard, &mut |_| {}).await?;
    let (segments, store_id) = open(disk, shard).await?;
    let folder = shard_folder(shard);
    let checkpoint = checkpoint::read(disk, &folder, store_id).await?;
    let replay_from = checkpoint.as_ref().map(|found| found.header.position);
    let is_inside = |damage: &Damage| {
        replay_from.is_some_and(|from| damage.position <= from && from < damage.end)
    };
    let done = Repaired {
        drops_checkpoint: before.damages.iter().any(is_inside) || before.unreached.is_some(),
        before,
    };
    let mut fillers = Vec::new();
    for damage in &done.before.damages {
        fillers.push(bridge(damage, &segments)?);
    }
    if is_dry || done.is_nothing() {
        return Ok(done);
    }
    let forget = async |header: Option<CheckpointHeader>| {
        let forget = async || checkpoint::forget_parts(disk, &folder, store_id, header).await;
        aside::with_reserve(disk, &folder, forget).await
    };
    if done.drops_checkpoint {
        // Fillers leave nothing for a second repair to find, so a start must read the whole log
        // before there is one. What the checkpoint proves stays, should not all of them come.
        let bare = checkpoint.as_ref().map(|found| CheckpointHeader {
            position: found.synced_until(),
            ..found.header
        });
        forget(bare).await?;
    }
    for piece in fillers.iter().flatten() {
        write(disk, &segments, store_id, piece).await?;
    }
    if done.before.unreached.is_some() {
        // Epochs stay taken: runs behind the log's end may have them.
        let epoch_only = checkpoint.as_ref().map(|found| CheckpointHeader {
            epoch: found.header.epoch,
            ..CheckpointHeader::default()
        });
        forget(epoch_only).await?;
    }
    if done.drops_checkpoint {
        aside::keep_reserve(disk, &folder).await;
    }
    for at in &done.before.unreadable {
        clear(disk, &segments, *at).await?;
    }
    let after = survey(disk, shard, &mut |_| {}).await?;
    match after.damages.first() {
        None => Ok(done),
        Some(left) => Err(RepairError::Remains {
            file: left.file.clone(),
            position: left.position,
        }),
    }
}

/// Runs without records, one behind the other, within one segment.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    start: FilePosition,
    runs: Vec<RunHeader>,
}

impl Piece {
    fn end(&self) -> FilePosition {
        self.runs.last().map_or(self.start, RunHeader::end)
    }
}

/// The fillers that lead from the last sound run to the next one.
fn bridge<D: Disk>(damage: &Damage, segments: &Segments<D>) -> Result<Vec<Piece>, RepairError> {
    let refused = || RepairError::Unbridgeable {
        file: damage.file.clone(),
        position: damage.position,
        end: damage.end,
    };
    let least_of = |(start, end): &(FilePosition, FilePosition)| {
        let bytes = end.since(*start);
        bytes.div_ceil(RUN_HEADER_BYTES + PAYLOAD_BYTES_MAX)
    };
    let mut places = places(damage, segments);
    let mut needed: u64 = places.iter().map(least_of).sum();
    let count = damage.runs_lost.unwrap_or(needed);
    if count < needed && places.len() > 1 {
        // Nothing was lost at the end of the first segment: the next run had no room there.
        needed -= least_of(&places.remove(0));
    }
    let least: Vec<u64> = places.iter().map(least_of).collect();
    let mut spare = count.checked_sub(needed).ok_or_else(refused)?;
    let mut sequence = damage
        .next
        .sequence
        .checked_sub(count)
        .ok_or_else(refused)?;
    let mut pieces = Vec::new();
    for ((start, end), least) in places.into_iter().zip(least) {
        let room = end.since(start) / RUN_HEADER_BYTES;
        let more = spare.min(room.saturating_sub(least));
        spare -= more;
        let runs = fill(damage, (start, end), sequence, least + more);
        sequence += least + more;
        pieces.push(Piece { start, runs });
    }
    if spare > 0 {
        return Err(refused());
    }
    Ok(pieces)
}

/// The damaged bytes, segment by segment; what is too short for a header is skipped, as the log
/// itself does.
fn places<D: Disk>(damage: &Damage, segments: &Segments<D>) -> Vec<(FilePosition, FilePosition)> {
    let mut places = Vec::new();
    let mut at = damage.position;
    while at < damage.end {
        let end = segments.next_start(at).min(damage.end);
        if end.since(at) >= RUN_HEADER_BYTES {
            places.push((at, end));
        }
        at = end;
    }
    places
}

fn fill(
    damage: &Damage,
    (start, end): (FilePosition, FilePosition),
    sequence: u64,
    count: u64,
) -> Vec<RunHeader> {
    let mut at = start;
    let runs = (0..count).map(|n| {
        let headers_left = RUN_HEADER_BYTES * (count - n);
        let payload = end
            .since(at)
            .saturating_sub(headers_left)
            .min(PAYLOAD_BYTES_MAX);
        let header = RunHeader {
            payload_bytes: u32::try_from(payload).unwrap_or(u32::MAX),
            records_count: 0,
            epoch: damage.scan.epoch.max(1).min(damage.next.epoch),
            sequence: sequence + n,
            position: at,
            committed: damage.scan.position,
        };
        at = header.end();
        header
    });
    runs.collect()
}

async fn write<D: Disk>(
    disk: &D,
    segments: &Segments<D>,
    store_id: u64,
    piece: &Piece,
) -> Result<(), RepairError> {
    if !segments.exists(piece.start) {
        segments.create(segments.start_of(piece.start)).await?;
    }
    let Some(segment) = segments.open(piece.start).await? else {
        return Ok(());
    };
    let (from, until) = (piece.start.block_down(), piece.end().block_up());
    let mut bytes = vec![0; index(until.since(from))];
    let mut put = |position: FilePosition, what: &[u8]| {
        let at = index(position.since(from));
        if let Some(into) = bytes.get_mut(at..at + what.len()) {
            into.copy_from_slice(what);
        }
    };
    // Sound runs share the first and the last block.
    if piece.start > from {
        let block = segment.file.read_at(segment.offset_of(from), 4096).await?;
        let kept = index(piece.start.since(from));
        put(from, block.as_ref().get(..kept).unwrap_or_default());
    }
    if piece.end() < until {
        let last = until.block_down().0.saturating_sub(4096);
        let block = segment
            .file
            .read_at(segment.offset_of(FilePosition(last)), 4096)
            .await?;
        let kept = index(piece.end().0 - last);
        put(piece.end(), block.as_ref().get(kept..).unwrap_or_default());
    }
    for run in &piece.runs {
        let zeros = vec![0; index(u64::from(run.payload_bytes))];
        put(run.position, &run.encode(store_id, &[&zeros]));
    }
    let mut at = from;
    for chunk in bytes.chunks(index(WRITE_BYTES)) {
        let mut buf = disk.alloc(chunk.len());
        buf.as_mut().copy_from_slice(chunk);
        segment.file.write_at(buf, segment.offset_of(at)).await?;
        at = at.plus(chunk.len() as u64);
    }
    Ok(segment.file.sync().await?)
}

/// Writes zeros over a block behind the log's end, if it can't be read even now: what is written
/// can be read again.
async fn clear<D: Disk>(
    disk: &D,
    segments: &Segments<D>,
    at: FilePosition,
) -> Result<(), RepairError> {
    let Some(segment) = segments.open(at).await? else {
        return Ok(());
    };
    let offset = segment.offset_of(at);
    if segment
        .file
        .read_at(offset, index(BLOCK_BYTES))
        .await
        .is_ok()
    {
        return Ok(());
    }
    let mut buf = disk.alloc(index(BLOCK_BYTES));
    buf.as_mut().fill(0);
    Ok(segment.file.write_at_and_sync(buf, offset).await?)
}
