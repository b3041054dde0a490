//! One shard's log: what its tasks share, and how they are told to go on.
//!
//! **Owns** staging, segments, watermarks, poison, and who waits for what.
//! **Lives on** the shard's core; its tasks are `log_writer` and `segment_pool`.
//! **Invariants** no borrow of staging lives across an await; after poison nothing advances.
//! **Limits** the ring bounds what waits for the device.
//! **Not here** queues (`shard_store`), device writes (`log_writer`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::BytesMut;

use crate::disk::{Disk, DiskError};
use crate::error::{AppendError, FlushError};
use crate::log::poison::Poison;
use crate::log::segments::Segments;
use crate::log::signal::Signal;
use crate::log::staging::{NoRoom, Staging};
use crate::log::watermark::{Staged, Watermarks};
use crate::shard_store::{FlushMode, StoreOptions};
use crate::units::FilePosition;

/// Staged bytes that end the wait for more under `FlushMode::Async`: each write costs the kernel
/// about 10 µs whatever its size. Of a small ring a quarter is enough.
pub const WRITE_BYTES_MIN: u64 = 512 << 10;

/// What the tasks of one log share.
pub struct ShardLog<D: Disk> {
    /// The disk.
    pub disk: D,
    /// How the shard is run.
    pub options: StoreOptions,
    /// The segments.
    pub segments: Segments<D>,
    /// How far the log is.
    pub marks: Watermarks,
    /// Why it goes no further.
    pub poison: Poison,
    pub(crate) staging: RefCell<Staging>,
    /// Something may be written, made or ended.
    pub(crate) work: Signal,
    /// A watermark moved, or never will again.
    pub(crate) progress: Signal,
    hooks: RefCell<Vec<Box<dyn Fn()>>>,
    /// Bytes the largest entry may have.
    pub(crate) entry_bytes_max: Cell<u64>,
    /// `WRITE_BYTES_MIN`, or less.
    pub(crate) write_bytes_min: Cell<u64>,
    pub(crate) segments_end: Cell<FilePosition>,
    /// Why the next segment could not be made.
    pub(crate) full: RefCell<Option<NoSegment>>,
    /// Segments with writes no sync has covered.
    pub(crate) unsynced: RefCell<BTreeSet<FilePosition>>,
    /// Somebody waits for a commit up to here: no timers before it.
    pub(crate) urgent: Cell<FilePosition>,
    pub(crate) closing: Cell<bool>,
    pub(crate) tasks_count: Cell<u32>,
    /// Device writes made.
    pub writes_count: Cell<u64>,
    /// Syncs made.
    pub syncs_count: Cell<u64>,
    /// Bytes written to the device, padding included, zeros not.
    pub written_bytes: Cell<u64>,
}

/// Why the next segment can't be made for now: nothing that a retry may not cure.
#[derive(Clone, Debug)]
pub(crate) struct NoSegment {
    /// What refused records say.
    pub(crate) reason: Rc<str>,
    /// The device is full; else too many files are open.
    pub(crate) is_full: bool,
}

impl NoSegment {
    /// What `error` says, unless it is a fault.
    pub(crate) fn of(error: &DiskError) -> Option<Self> {
        let is_full = error.is_no_space();
        if !is_full && !error.is_no_handle() {
            return None;
        }
        let what = if is_full {
            "the store is full"
        } else {
            "too many files are open"
        };
        Some(Self {
            reason: Rc::from(format!("{what}: {error}")),
            is_full,
        })
    }

    /// Says so in the log.
    pub(crate) fn warn(&self) {
        tracing::error!("new records are refused: {}", self.reason);
    }
}

impl<D: Disk> ShardLog<D> {
    /// A log that continues where staging starts; everything before is committed.
    pub fn new(disk: D, options: StoreOptions, segments: Segments<D>, staging: Staging) -> Self {
        let head = staging.head();
        let segments_end = Cell::new(segments.end_after(head));
        Self {
            disk,
            options,
            segments,
            marks: Watermarks::at(head),
            poison: Poison::default(),
            staging: RefCell::new(staging),
            work: Signal::default(),
            progress: Signal::default(),
            hooks: RefCell::default(),
            entry_bytes_max: Cell::new(0),
            write_bytes_min: Cell::new(WRITE_BYTES_MIN),
            segments_end,
            full: RefCell::default(),
            unsynced: RefCell::default(),
            urgent: Cell::default(),
            closing: Cell::new(false),
            tasks_count: Cell::new(0),
            writes_count: Cell::new(0),
            syncs_count: Cell::new(0),
            written_bytes: Cell::new(0),
        }
    }

    /// Starts this process's life of the ring; from here on it may be written.
    pub(crate) fn begin_tail(&self) {
        let (smallest, largest) = self.staging.borrow_mut().begin_tail();
        let segment_bytes = self.segments.segment_bytes();
        self.entry_bytes_max
            .set(Staging::entry_bytes_max(largest, segment_bytes));
        self.write_bytes_min.set(WRITE_BYTES_MIN.min(smallest / 4));
    }

    /// Whether new bytes are refused for good.
    ///
    /// # Errors
    /// `Poisoned` or `Closed`.
    pub fn check_open(&self) -> Result<(), AppendError> {
        if let Some(reason) = self.poison.reason() {
            return Err(AppendError::Poisoned { reason });
        }
        if self.closing.get() {
            Err(AppendError::Closed)
        } else {
            Ok(())
        }
    }

    /// Finds the place for an entry of `bytes`; what `put` puts next goes there.
    ///
    /// # Errors
    /// `TailFull` or `StoreFull`.
    pub(crate) fn reserve(
        &self,
        staging: &mut Staging,
        bytes: u64,
    ) -> Result<FilePosition, AppendError> {
        let committed = self.marks.committed().0;
        match staging.reserve(bytes, committed, self.segments_end.get()) {
            Ok(position) => Ok(position),
            Err(no_room) => {
                self.work.notify();
                Err(self.refusal(staging, no_room))
            }
        }
    }

    #[cold]
    fn refusal(&self, staging: &Staging, no_room: NoRoom) -> AppendError {
        match (no_room, self.full.borrow().as_ref()) {
            (NoRoom::Tail { unwritten_bytes }, _) => AppendError::TailFull { unwritten_bytes },
            (NoRoom::Segment, Some(why)) => AppendError::StoreFull {
                reason: Rc::clone(&why.reason),
            },
            // The next segment is being made: wait as for the device.
            (NoRoom::Segment, None) => AppendError::TailFull {
                unwritten_bytes: staging.sealed_bytes(),
            },
        }
    }

    /// Completes the open run and wakes the writer if that gives it something to do.
    pub fn seal(&self) -> FilePosition {
        let mut staging = self.staging.borrow_mut();
        let before = staging.runs_end();
        // `reserve` may have sealed without a word: what counts is what the writer was told.
        let was_idle = self.marks.staged().0 <= staging.untaken();
        let staged = staging.seal(self.marks.committed().0);
        if staged == before && staged <= self.marks.staged().0 {
            return staged;
        }
        let wake = was_idle || staging.sealed_bytes() >= self.write_bytes_min.get();
        drop(staging);
        self.marks.stage(Staged(staged));
        if wake {
            self.work.notify();
        }
        staged
    }

    /// Copies a range out of the ring if it is still there.
    pub fn read_hot(&self, position: FilePosition, len: u64, out: &mut BytesMut) -> bool {
        let staging = self.staging.borrow();
        let holds = staging.holds(position, len);
        if holds {
            staging.get(position, len, out);
        }
        holds
    }

    /// Whether the ring still has a range.
    pub fn holds(&self, position: FilePosition, len: u64) -> bool {
        self.staging.borrow().holds(position, len)
    }

    /// Up to where an acknowledgement may be given and a reader may see.
    pub fn acknowledged(&self) -> FilePosition {
        match self.options.flush_mode {
            FlushMode::Async => self.marks.staged().0,
            FlushMode::Sync => self.marks.committed().0,
        }
    }

    /// Adds a hook for every advance.
    pub fn on_progress(&self, hook: Box<dyn Fn()>) {
        self.hooks.borrow_mut().push(hook);
    }

    /// Tells everyone that a watermark moved.
    pub(crate) fn progressed(&self) {
        self.progress.notify();
        for hook in self.hooks.borrow().iter() {
            hook();
        }
    }

    /// Takes nothing any more.
    pub(crate) fn fail(&self, fault: &dyn std::fmt::Display) {
        self.poison.set(fault);
        self.work.notify();
        self.progressed();
    }

    /// Waits until `position` is committed, hurrying the writer on.
    ///
    /// # Errors
    /// When that will never be.
    pub async fn until_committed(&self, position: FilePosition) -> Result<(), FlushError> {
        if self.urgent.get() < position {
            self.urgent.set(position);
            self.work.notify();
        }
        self.progress
            .wait(|| {
                if self.marks.committed().0 >= position {
                    return Some(Ok(()));
                }
                if let Some(reason) = self.poison.reason() {
                    return Some(Err(FlushError::Poisoned { reason }));
                }
                let gone = self.closing.get() && self.tasks_count.get() == 0;
                gone.then_some(Err(FlushError::Closed))
            })
            .await
    }

    /// Ends the tasks once everything staged is committed, and waits for them.
    ///
    /// # Errors
    /// When the last bytes could not be made durable.
    pub async fn close(&self) -> Result<(), FlushError> {
        let staged = self.seal();
        let result = self.until_committed(staged).await;
        self.closing.set(true);
        self.work.notify();
        self.progress
            .wait(|| (self.tasks_count.get() == 0).then_some(()))
            .await;
        self.progressed();
        result
    }

    pub(crate) fn task_begins(&self) {
        self.tasks_count.set(self.tasks_count.get() + 1);
    }

    pub(crate) fn task_ends(&self) {
        self.tasks_count
            .set(self.tasks_count.get().saturating_sub(1));
        self.progress.notify();
    }
}
