//! Making segments before they are needed, and writing zeros into them while nothing else is to do.
//!
//! **Owns** when the next segment is made, when zeros are written, the retry on a full device or
//! without a free file handle.
//! **Lives on** the shard's core, one task.
//! **Invariants** nothing is staged for a segment that does not durably exist, so a full device, or
//! too many open files, refuses new records and loses none; zeros never touch a block given to a
//! group.
//! **Limits** `ZEROS_QUIET_MS`, `ZEROS_CHUNK_BYTES`, one chunk in flight.
//! **Not here** writing records (`log_writer`).

use std::rc::Rc;

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::segment::Segment;
use crate::log::shard_log::{NoSegment, ShardLog};
use crate::shard_store::FlushMode;
use crate::units::{FilePosition, index};

/// Zeros are written once nothing was staged for this long. They spare a later sync its journal
/// commit (about a quarter of its time), but beside a busy writer they cost the device more than
/// that: docs/adr/0003.
pub const ZEROS_QUIET_MS: u64 = 100;
/// Bytes of one write of zeros: the writer waits at most for one of these.
pub const ZEROS_CHUNK_BYTES: u64 = 512 << 10;
/// Segments are made ahead of their time only while the device has room for this many of it.
pub const AHEAD_ROOM_FACTOR: u64 = 8;
/// Pause before a segment is tried again on a full device, or with too many files open.
pub const FULL_RETRY_MS: u64 = 1000;
/// Segments that must fit before a device that was full takes records again: with room for one
/// only it would be full again at once.
pub const FULL_RESUME_SEGMENTS: u64 = 2;

/// Starts the task.
pub fn start<D: Disk>(log: &Rc<ShardLog<D>>) {
    log.task_begins();
    let log = Rc::clone(log);
    log.disk.clone().spawn(async move {
        pool_loop(&log).await;
        log.task_ends();
    });
}

enum Job<D: Disk> {
    Make(FilePosition),
    /// A segment that will be needed, while nobody waits for anything.
    MakeAhead(FilePosition),
    /// Zeros are wanted, but first nothing may be staged for a while.
    Quiet,
    Zero(Rc<Segment<D>>, (FilePosition, FilePosition)),
    End,
}

async fn pool_loop<D: Disk>(log: &ShardLog<D>) {
    // Nothing was staged for `ZEROS_QUIET_MS` before this position was seen.
    let mut quiet_at = None;
    // The device had no room to spare when the log's segments ended here.
    let mut tight_at = None;
    loop {
        match log.work.wait(|| next_job(log, quiet_at, tight_at)).await {
            Job::End => return,
            Job::Make(start) => make(log, start).await,
            Job::MakeAhead(start) if has_plenty(log).await => make(log, start).await,
            Job::MakeAhead(start) => tight_at = Some(start),
            Job::Quiet => {
                let staged = log.marks.staged().0;
                let disturbed = || log.marks.staged().0 != staged || log.closing.get();
                log.work.wait_ms(&log.disk, ZEROS_QUIET_MS, disturbed).await;
                quiet_at = (!disturbed()).then_some(staged);
            }
            Job::Zero(segment, chunk) => {
                let result = write_zeros(log, &segment, chunk).await;
                segment.end_zeros();
                log.progress.notify();
                if let Err(error) = result {
                    // The device fails writes here: the writer's would fare no better.
                    log.fail(&error);
                }
            }
        }
    }
}

fn next_job<D: Disk>(
    log: &ShardLog<D>,
    quiet_at: Option<FilePosition>,
    tight_at: Option<FilePosition>,
) -> Option<Job<D>> {
    if log.closing.get() || log.poison.is_set() {
        return Some(Job::End);
    }
    let head = log.staging.borrow().next_group_start();
    let end = log.segments_end.get();
    let half = log.segments.segment_bytes() / 2;
    if head.plus(half) >= end {
        return Some(Job::Make(end));
    }
    if log.options.flush_mode == FlushMode::Async {
        // Zeros make a sync cheap. Where nobody waits for one they would only halve the device's
        // speed.
        return None;
    }
    let is_quiet = quiet_at == Some(log.marks.staged().0);
    let mut at = head;
    while at < end {
        let segment_end = log.segments.next_start(at);
        if let Some(segment) = log.segments.opened(at)
            && let Some(chunk) = segment.next_zeros(at, segment_end, ZEROS_CHUNK_BYTES)
        {
            if !is_quiet {
                return Some(Job::Quiet);
            }
            segment.begin_zeros(chunk);
            return Some(Job::Zero(segment, chunk));
        }
        at = segment_end;
    }
    let wants_more =
        end.since(head) + log.segments.segment_bytes() <= log.options.zeros_ahead_bytes;
    if wants_more && tight_at != Some(end) {
        return Some(if is_quiet {
            Job::MakeAhead(end)
        } else {
            Job::Quiet
        });
    }
    None
}

/// Whether the device has room for segments that nobody needs yet.
async fn has_plenty<D: Disk>(log: &ShardLog<D>) -> bool {
    let wanted = AHEAD_ROOM_FACTOR * log.options.zeros_ahead_bytes;
    log.disk.free_bytes().await.is_ok_and(|free| free >= wanted)
}

/// Whether a device that was full has room to go on with.
async fn has_room<D: Disk>(log: &ShardLog<D>) -> bool {
    if log.segments.spares_count() > 0 {
        return true;
    }
    let wanted = FULL_RESUME_SEGMENTS * log.segments.segment_bytes();
    // A device that can't say is asked for the segment itself.
    !log.disk.free_bytes().await.is_ok_and(|free| free < wanted)
}

async fn make<D: Disk>(log: &ShardLog<D>, start: FilePosition) {
    let was_full = log.full.borrow().as_ref().is_some_and(|why| why.is_full);
    if was_full && !has_room(log).await {
        log.work
            .wait_ms(&log.disk, FULL_RETRY_MS, || log.closing.get())
            .await;
        return;
    }
    match log.segments.create(start).await {
        Ok(()) => {
            log.segments_end.set(log.segments.end_after(start));
            if log.full.borrow_mut().take().is_some() {
                tracing::info!("segments can be made again");
            }
            log.progressed();
        }
        Err(error) => {
            let Some(why) = NoSegment::of(&error) else {
                log.fail(&error);
                return;
            };
            if log.full.borrow().is_none() {
                why.warn();
            }
            *log.full.borrow_mut() = Some(why);
            log.work
                .wait_ms(&log.disk, FULL_RETRY_MS, || log.closing.get())
                .await;
        }
    }
}

async fn write_zeros<D: Disk>(
    log: &ShardLog<D>,
    segment: &Segment<D>,
    (start, end): (FilePosition, FilePosition),
) -> Result<(), DiskError> {
    let mut buf = log.disk.alloc(index(end.since(start)));
    buf.as_mut().fill(0);
    segment.file.write_at(buf, segment.offset_of(start)).await
}

#[cfg(test)]
#[path = "segment_pool_tests.rs"]
mod tests;
