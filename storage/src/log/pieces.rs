//! Sparse cold reads: of a queue with little of the log, only the blocks its records lie in.
//!
//! **Owns** the choice between those blocks and whole chunks, and the blocks of one read.
//! **Lives on** the shard's core.
//! **Invariants** only blocks the device has for good; blocks live as long as the read that wanted
//! them; a piece never crosses a segment; readers that want the same part of the log together get
//! chunks, which they share.
//! **Limits** [`PIECES_MAX`] reads under way for one read; [`CROWD_MAX`] readers remembered.
//! **Not here** chunks (`read_ahead`), whether a record is what was stored
//! (`shard_store::reading`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::read_ahead::ReadOf;
use crate::log::segments::Segments;
use crate::units::{FilePosition, QueueKey, index};

/// Reads under way for one read: a pull's usual 32 records, each alone in its blocks.
pub const PIECES_MAX: usize = 32;
/// Blocks with less than this between them are read as one.
const GAP_BYTES: u64 = 16 << 10;
/// Bytes that the device and the kernel move in the time that one more read costs them.
const READ_COST_BYTES: u64 = 16 << 10;
/// Readers remembered: a pull of each queue of a large topic.
pub const CROWD_MAX: usize = 64;
/// A reader that has not read for so long is gone.
const CROWD_US: u64 = 1_000_000;

/// What one reader wants of a stretch of the log.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The queue it reads.
    pub key: QueueKey,
    /// Where it is in the log.
    pub at: FilePosition,
    /// Bytes it wants there.
    pub bytes: u64,
    /// Of so many.
    pub of_bytes: u64,
    /// When, µs.
    pub now_us: u64,
}

/// The readers of cold log, as they were seen last.
#[derive(Debug, Default)]
pub struct Crowd(RefCell<VecDeque<Wish>>);

impl Crowd {
    /// Notes a reader, and returns which part of the log, of a thousand, it wants together with
    /// those within `near_bytes` of it.
    pub fn join(&self, wish: Wish, near_bytes: u64) -> u64 {
        let mut all = self.0.borrow_mut();
        let is_here = |other: &Wish| wish.now_us.saturating_sub(other.now_us) <= CROWD_US;
        all.retain(|other| other.key != wish.key && is_here(other));
        if all.len() >= CROWD_MAX {
            all.pop_front();
        }
        let part = |wish: &Wish| (wish.bytes * 1000 / wish.of_bytes.max(1)).clamp(1, 1000);
        let near = all
            .iter()
            .filter(|other| other.at.0.abs_diff(wish.at.0) <= near_bytes);
        let together = part(&wish) + near.map(part).sum::<u64>();
        all.push_back(wish);
        together
    }
}

/// Blocks to read: start and end.
type Range = (FilePosition, FilePosition);

/// The blocks of some records, neighbours joined.
#[derive(Debug, Default)]
pub struct Plan {
    ranges: Vec<Range>,
    records_bytes: u64,
}

impl Plan {
    /// Adds the bytes of the next record, `start..end`, all of them in one segment that begins at
    /// `segment`. False, and nothing is added, when there are enough.
    pub fn add(&mut self, start: FilePosition, end: FilePosition, segment: FilePosition) -> bool {
        let (from, to) = (start.block_down(), end.block_up());
        let is_full = self.ranges.len() >= PIECES_MAX;
        match self.ranges.last_mut() {
            Some(last) if from <= last.1.plus(GAP_BYTES) && last.0 >= segment => last.1 = to,
            _ if is_full => return false,
            _ => self.ranges.push((from, to)),
        }
        self.records_bytes += end.since(start);
        true
    }

    /// Whether reading just these blocks costs less than half of what the chunks around them would
    /// cost this reader, when `together` of a thousand bytes in them are wanted by somebody.
    pub fn is_cheaper(&self, together: u64) -> bool {
        let bytes = |range: &Range| range.1.since(range.0) + READ_COST_BYTES;
        let pieces: u64 = self.ranges.iter().map(bytes).sum();
        let chunks = self.records_bytes.saturating_mul(1000) / together.max(1);
        pieces > 0 && pieces.saturating_mul(2) < chunks
    }
}

/// Blocks that were read for one reader, in the order of the log.
pub struct Pieces<D: Disk>(Vec<(FilePosition, ReadOf<D>)>);

impl<D: Disk> Default for Pieces<D> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<D: Disk> Pieces<D> {
    /// Reads and their bytes.
    pub fn counts(&self) -> (u64, u64) {
        let bytes = self.0.iter().map(|(_, data)| data.as_ref().len() as u64);
        (self.0.len() as u64, bytes.sum())
    }

    /// Reads the blocks of `plan` side by side.
    ///
    /// # Errors
    /// As the device says; also when a segment is gone.
    pub async fn read(segments: &Segments<D>, plan: &Plan) -> Result<Option<Self>, DiskError> {
        let mut reads = Vec::with_capacity(plan.ranges.len());
        for (start, end) in &plan.ranges {
            let Some(segment) = segments.open(*start).await? else {
                return Ok(None);
            };
            let (start, len) = (*start, index(end.since(*start)));
            reads.push(async move {
                let read = segment.file.read_at(segment.offset_of(start), len).await;
                Ok((start, read?))
            });
        }
        all_of(reads).await.map(|pieces| Some(Self(pieces)))
    }

    /// `start..start + len`, if one piece has all of it.
    pub fn get(&self, start: FilePosition, len: u64) -> Option<&[u8]> {
        let behind = self.0.partition_point(|(first, _)| *first <= start);
        let (first, data) = self.0.get(behind.checked_sub(1)?)?;
        let from = index(start.since(*first));
        data.as_ref().get(from..from + index(len))
    }
}

/// Runs all of `work` in this task; the first error ends it.
async fn all_of<T, E>(work: Vec<impl Future<Output = Result<T, E>>>) -> Result<Vec<T>, E> {
    type Open<F> = Option<Pin<Box<F>>>;
    let mut open: Vec<Open<_>> = work.into_iter().map(|one| Some(Box::pin(one))).collect();
    let mut done: Vec<Option<T>> = open.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut waits = false;
        for (one, slot) in open.iter_mut().zip(&mut done) {
            let Some(future) = one else { continue };
            match future.as_mut().poll(context) {
                Poll::Ready(Ok(value)) => {
                    *slot = Some(value);
                    *one = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => waits = true,
            }
        }
        if waits {
            return Poll::Pending;
        }
        Poll::Ready(Ok(done.drain(..).flatten().collect()))
    })
    .await
}
