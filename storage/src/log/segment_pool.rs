//! Making segments before they are needed, and writing zeros ahead of the writer.
//!
//! **Owns** when the next segment is made, the distance zeros keep, the retry on a full device.
//! **Lives on** the shard's core, one task.
//! **Invariants** nothing is staged for a segment that does not durably exist, so a full device
//! refuses new records and loses none; zeros never touch a block given to a group.
//! **Limits** `ZEROS_AHEAD_BYTES`, `ZEROS_CHUNK_BYTES`, one chunk in flight.
//! **Not here** writing records (`log_writer`).

use std::rc::Rc;

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::segment::Segment;
use crate::log::shard_log::ShardLog;
use crate::shard_store::FlushMode;
use crate::units::{FilePosition, index};

/// Zeros are kept this far ahead of a busy writer: 0.1 s at 320 MB/s. While the writer is idle they
/// go on to the end of the last segment, so that a burst finds blocks that need no journal.
pub const ZEROS_AHEAD_BYTES: u64 = 32 << 20;
/// Bytes of one write of zeros: the writer waits at most for one of these.
pub const ZEROS_CHUNK_BYTES: u64 = 512 << 10;
/// Pause before a segment is tried again on a full device.
pub const FULL_RETRY_MS: u64 = 1000;

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
    Zero(Rc<Segment<D>>, (FilePosition, FilePosition)),
    End,
}

async fn pool_loop<D: Disk>(log: &ShardLog<D>) {
    loop {
        match log.work.wait(|| next_job(log)).await {
            Job::End => return,
            Job::Make(start) => make(log, start).await,
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

fn next_job<D: Disk>(log: &ShardLog<D>) -> Option<Job<D>> {
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
    let is_busy = log.staging.borrow().sealed_bytes() > 0;
    let until = if is_busy {
        head.plus(ZEROS_AHEAD_BYTES).min(end)
    } else {
        end
    };
    let mut at = head;
    while at < until {
        let segment_end = log.segments.next_start(at);
        if let Some(segment) = log.segments.opened(at)
            && let Some(chunk) = segment.begin_zeros(at, until.min(segment_end), ZEROS_CHUNK_BYTES)
        {
            return Some(Job::Zero(segment, chunk));
        }
        at = segment_end;
    }
    None
}

async fn make<D: Disk>(log: &ShardLog<D>, start: FilePosition) {
    match log.segments.create(start).await {
        Ok(()) => {
            log.segments_end.set(log.segments.end_after(start));
            if log.full.borrow_mut().take().is_some() {
                tracing::info!("the store has room again");
            }
            log.progressed();
        }
        Err(error) if error.is_no_space() => {
            if log.full.borrow().is_none() {
                tracing::error!(%error, "the store is full: new records are refused");
            }
            *log.full.borrow_mut() = Some(Rc::from(error.to_string()));
            log.work
                .wait_ms(&log.disk, FULL_RETRY_MS, || log.closing.get())
                .await;
        }
        Err(error) => log.fail(&error),
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
