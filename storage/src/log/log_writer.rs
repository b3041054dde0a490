//! Group commit: takes what has piled up in the tail to the device, and syncs it.
//!
//! **Owns** the order of device writes and when they happen.
//! **Lives on** the shard's core: one writer task, under `FlushMode::Async` a task for each group
//! in flight and one that syncs.
//! **Invariants** groups are taken and end in log order; a watermark moves only after the device's
//! word for all before it; any failure poisons the shard,
//! except that no file handle is free: that passes.
//! **Limits** writes of at most `WRITE_BYTES_MAX`; `GROUPS_IN_FLIGHT_MAX`.
//! **Not here** what is in a group (`staging`).

use std::rc::Rc;

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::segment::Segment;
use crate::log::segment_pool::FULL_RETRY_MS;
use crate::log::shard_log::ShardLog;
use crate::log::staging::Group;
use crate::log::watermark::{Committed, Stable, Staged};
use crate::shard_store::FlushMode;
use crate::units::FilePosition;

/// Bytes of one write call.
const WRITE_BYTES_MAX: u64 = 1 << 20;
/// Groups the device has at a time under `FlushMode::Async`: while the core is busy with one's
/// end, the device has the next. Under `FlushMode::Sync` there is one (ADR 0003).
const GROUPS_IN_FLIGHT_MAX: usize = 2;

/// Starts the tasks that take `log` to the device.
pub fn start<D: Disk>(log: &Rc<ShardLog<D>>) {
    log.task_begins();
    let writer = Rc::clone(log);
    log.disk.spawn(async move {
        write_loop(&writer).await;
        writer.task_ends();
    });
    if log.options.flush_mode == FlushMode::Async {
        log.task_begins();
        let syncer = Rc::clone(log);
        log.disk.spawn(async move {
            sync_loop(&syncer).await;
            syncer.task_ends();
        });
    }
}

async fn write_loop<D: Disk>(log: &Rc<ShardLog<D>>) {
    while wait_for_work(log).await {
        let group = log.staging.borrow_mut().take_group(log.marks.committed().0);
        let Some(group) = group else { continue };
        // Taking a group may have sealed a run.
        if group.runs_end > log.marks.staged().0 {
            log.marks.stage(Staged(group.runs_end));
            log.progressed();
        }
        if log.options.flush_mode == FlushMode::Sync {
            take_to_device(log, group).await;
            continue;
        }
        log.task_begins();
        let writer = Rc::clone(log);
        log.disk.spawn(async move {
            take_to_device(&writer, group).await;
            writer.task_ends();
        });
    }
}

/// Waits for a group that should be written now; false when there will be none any more.
async fn wait_for_work<D: Disk>(log: &ShardLog<D>) -> bool {
    let go_on = log
        .work
        .wait(|| {
            if log.poison.is_set() {
                return Some(false);
            }
            let staging = log.staging.borrow();
            if staging.in_flight_count() >= GROUPS_IN_FLIGHT_MAX {
                return None;
            }
            if staging.sealed_bytes() > 0 {
                return Some(true);
            }
            log.closing.get().then_some(false)
        })
        .await;
    if go_on && log.options.flush_mode == FlushMode::Async {
        let enough = || {
            let staging = log.staging.borrow();
            staging.sealed_bytes() >= log.write_bytes_min.get()
                || staging.is_draining()
                || log.closing.get()
                || log.urgent.get() > log.marks.stable().0
        };
        log.work
            .wait_ms(&log.disk, log.options.write_delay_ms, enough)
            .await;
    }
    go_on
}

async fn take_to_device<D: Disk>(log: &ShardLog<D>, group: Group) {
    if let Err(error) = write_group(log, group).await {
        log.fail(&error);
    }
}

async fn write_group<D: Disk>(log: &ShardLog<D>, group: Group) -> Result<(), DiskError> {
    let segment = segment_for(log, group.start).await?;
    if segment.zeros_touch(group.start, group.end()) {
        log.progress
            .wait(|| (!segment.zeros_touch(group.start, group.end())).then_some(()))
            .await;
    }
    let sync = log.options.flush_mode == FlushMode::Sync;
    let mut at = group.start;
    while at < group.end() {
        let bytes = group.end().since(at).min(WRITE_BYTES_MAX);
        let buf = {
            let staging = log.staging.borrow();
            log.disk.alloc_filled(staging.pieces(at, bytes))
        };
        let offset = segment.offset_of(at);
        at = at.plus(bytes);
        // Under SYNC every write is synced by itself: the last one's sync covers no other.
        if sync {
            segment.file.write_at_and_sync(buf, offset).await?;
        } else {
            segment.file.write_at(buf, offset).await?;
        }
        log.writes_count.set(log.writes_count.get() + 1);
        log.written_bytes.set(log.written_bytes.get() + bytes);
    }
    // Those before it end first, and nothing does behind a failure.
    let is_next = || log.staging.borrow().is_next_written(group);
    log.progress
        .wait(|| (is_next() || log.poison.is_set()).then_some(()))
        .await;
    if log.poison.is_set() {
        return Ok(());
    }
    log.staging.borrow_mut().written(group);
    // Only now: a sync that began before this write was done does not cover it.
    log.unsynced.borrow_mut().insert(segment.start);
    log.marks.stabilize(Stable(group.runs_end));
    if sync {
        log.unsynced.borrow_mut().remove(&segment.start);
        log.syncs_count.set(log.syncs_count.get() + 1);
        log.marks.commit(Committed(group.runs_end));
    }
    // The syncing task and the pool look at it as well.
    log.work.notify();
    log.progressed();
    Ok(())
}

/// The segment that covers `position`. One that is first opened here waits for a free file handle:
/// what is staged stays so meanwhile.
async fn segment_for<D: Disk>(
    log: &ShardLog<D>,
    position: FilePosition,
) -> Result<Rc<Segment<D>>, DiskError> {
    loop {
        match log.segments.open(position).await {
            Err(error) if error.is_no_handle() && !log.closing.get() => {
                tracing::error!(%error, "records wait for a file handle");
                log.work
                    .wait_ms(&log.disk, FULL_RETRY_MS, || log.closing.get())
                    .await;
            }
            opened => return opened?.ok_or_else(|| missing_segment(position)),
        }
    }
}

fn missing_segment(position: FilePosition) -> DiskError {
    let name = crate::format::segment_name(position);
    DiskError::new(
        crate::disk::DiskErrorKind::NotFound,
        "write",
        name,
        "no segment here",
    )
}

async fn sync_loop<D: Disk>(log: &ShardLog<D>) {
    loop {
        let go_on = log
            .work
            .wait(|| {
                if log.poison.is_set() {
                    return Some(false);
                }
                if log.marks.committed().0 < log.marks.stable().0 {
                    return Some(true);
                }
                let all_written = log.marks.stable().0 >= log.marks.staged().0;
                (log.closing.get() && all_written).then_some(false)
            })
            .await;
        if !go_on {
            return;
        }
        let hurry = || log.closing.get() || log.urgent.get() > log.marks.committed().0;
        log.work
            .wait_ms(&log.disk, log.options.flush_interval_ms, hurry)
            .await;
        if let Err(error) = sync(log).await {
            log.fail(&error);
            return;
        }
    }
}

async fn sync<D: Disk>(log: &ShardLog<D>) -> Result<(), DiskError> {
    let stable = log.marks.stable().0;
    let starts = std::mem::take(&mut *log.unsynced.borrow_mut());
    for start in starts {
        segment_for(log, start).await?.file.sync().await?;
        log.syncs_count.set(log.syncs_count.get() + 1);
    }
    if !log.poison.is_set() {
        log.marks.commit(Committed(stable));
        log.work.notify();
        log.progressed();
    }
    Ok(())
}
