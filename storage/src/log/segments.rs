//! The segments of a shard, in order.
//!
//! **Owns** which segment files exist and their open handles.
//! **Lives on** the shard's core.
//! **Invariants** a segment covers `start..start + segment_bytes`; creation is durable (file and
//! folder synced) before anything is staged for it.
//! **Limits** handles are opened when first needed.
//! **Not here** when segments are made (`segment_pool`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::format::{segment_name, segment_start, spare_name, spare_number};
use crate::log::segment::Segment;
use crate::units::FilePosition;

/// Spare segments kept for use again; more are removed.
pub const SPARES_MAX: usize = 4;

/// All segments of one shard.
pub struct Segments<D: Disk> {
    disk: D,
    folder: String,
    bytes: u64,
    /// Known starts; a handle once opened.
    known: RefCell<BTreeMap<FilePosition, Option<Rc<Segment<D>>>>>,
    spares: RefCell<Vec<String>>,
    next_spare: Cell<u64>,
}

impl<D: Disk> Segments<D> {
    /// The disk they lie on.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Lists what is in `folder`.
    ///
    /// # Errors
    /// As the device says.
    pub async fn load(disk: D, folder: String, bytes: u64) -> Result<Self, DiskError> {
        let mut known = BTreeMap::new();
        let mut spares = Vec::new();
        let mut next_spare = 0;
        for entry in disk.list(&folder).await? {
            if let Some(start) = segment_start(&entry.name)
                && start.0.is_multiple_of(bytes)
                && entry.len >= bytes
            {
                known.insert(start, None);
            } else if let Some(number) = spare_number(&entry.name) {
                next_spare = next_spare.max(number + 1);
                if entry.len >= bytes {
                    spares.push(entry.name);
                }
            }
        }
        Ok(Self {
            disk,
            folder,
            bytes,
            known: RefCell::new(known),
            spares: RefCell::new(spares),
            next_spare: Cell::new(next_spare),
        })
    }

    /// Bytes of each segment.
    pub fn segment_bytes(&self) -> u64 {
        self.bytes
    }

    /// The segment that covers `position`.
    pub fn start_of(&self, position: FilePosition) -> FilePosition {
        FilePosition(position.0 - position.0 % self.bytes)
    }

    /// The start of the one after the segment that covers `position`.
    pub fn next_start(&self, position: FilePosition) -> FilePosition {
        self.start_of(position).plus(self.bytes)
    }

    /// Whether the segment covering `position` exists.
    pub fn exists(&self, position: FilePosition) -> bool {
        self.known.borrow().contains_key(&self.start_of(position))
    }

    /// The start of the oldest segment.
    pub fn first(&self) -> Option<FilePosition> {
        self.known
            .borrow()
            .first_key_value()
            .map(|(start, _)| *start)
    }

    /// The start of the newest segment.
    pub fn last(&self) -> Option<FilePosition> {
        self.known
            .borrow()
            .last_key_value()
            .map(|(start, _)| *start)
    }

    /// The end of the unbroken row of segments from the one covering `position`.
    pub fn end_after(&self, position: FilePosition) -> FilePosition {
        let known = self.known.borrow();
        let mut end = self.start_of(position);
        while known.contains_key(&end) {
            end = end.plus(self.bytes);
        }
        end
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// The open segment that covers `position`; `None` when there is none.
    ///
    /// # Errors
    /// As the device says.
    pub async fn open(&self, position: FilePosition) -> Result<Option<Rc<Segment<D>>>, DiskError> {
        let start = self.start_of(position);
        match self.known.borrow().get(&start) {
            None => return Ok(None),
            Some(Some(segment)) => return Ok(Some(Rc::clone(segment))),
            Some(None) => {}
        }
        let name = self.path(&segment_name(start));
        let file = self.disk.open(&name, OpenMode::Existing).await?;
        // Nobody knows any more which blocks have zeros: those after the log's end get them again.
        let segment = Rc::new(Segment::new(file, start, start));
        let mut known = self.known.borrow_mut();
        if let Some(slot) = known.get_mut(&start) {
            // Another task may have opened it meanwhile: one handle, one record of zeros.
            return Ok(Some(Rc::clone(slot.get_or_insert(segment))));
        }
        Ok(None)
    }

    /// The handle of the segment that covers `position`, if it is open already.
    pub fn opened(&self, position: FilePosition) -> Option<Rc<Segment<D>>> {
        self.known
            .borrow()
            .get(&self.start_of(position))
            .cloned()
            .flatten()
    }

    /// Makes the segment at `start` durably exist: from a spare, else new.
    ///
    /// # Errors
    /// `NoSpace` when the device has no room for it, `NoHandle` while too many files are open.
    pub async fn create(&self, start: FilePosition) -> Result<(), DiskError> {
        let name = self.path(&segment_name(start));
        let spare = self.spares.borrow_mut().pop();
        let (file, zeroed) = match spare {
            Some(spare) => {
                let path = self.path(&spare);
                if let Err(error) = self.disk.rename(&path, &name).await {
                    self.spares.borrow_mut().push(spare);
                    return Err(error);
                }
                let opened = self.disk.open(&name, OpenMode::Existing).await;
                if opened.is_err() && self.disk.rename(&name, &path).await.is_ok() {
                    self.spares.borrow_mut().push(spare);
                }
                (opened?, start.plus(self.bytes))
            }
            None => (
                self.disk
                    .open(&name, OpenMode::CreateLen(self.bytes))
                    .await?,
                start,
            ),
        };
        file.sync().await?;
        self.disk.sync_dir(&self.folder).await?;
        let segment = Rc::new(Segment::new(file, start, zeroed));
        self.known.borrow_mut().insert(start, Some(segment));
        Ok(())
    }

    /// Gives up the segments that end at or before `position`, oldest first; up to `spares_max` are
    /// kept to be used again, the rest removed. Returns how many went.
    ///
    /// # Errors
    /// As the device says; what was given up before stays so.
    pub async fn truncate_before(
        &self,
        position: FilePosition,
        spares_max: usize,
    ) -> Result<u64, DiskError> {
        let mut dropped = 0;
        while let Some(start) = self.first() {
            if start.plus(self.bytes) > position {
                break;
            }
            let handle = self.known.borrow_mut().remove(&start);
            if let Err(error) = self.give_up(start, spares_max).await {
                // Still there: the next run tries again.
                self.known.borrow_mut().insert(start, handle.flatten());
                return Err(error);
            }
            dropped += 1;
        }
        if dropped > 0 {
            self.disk.sync_dir(&self.folder).await?;
        }
        Ok(dropped)
    }

    async fn give_up(&self, start: FilePosition, spares_max: usize) -> Result<(), DiskError> {
        let path = self.path(&segment_name(start));
        if self.spares.borrow().len() >= spares_max.min(SPARES_MAX) {
            return self.disk.remove(&path).await;
        }
        let spare = spare_name(self.next_spare.get());
        self.next_spare.set(self.next_spare.get() + 1);
        self.disk.rename(&path, &self.path(&spare)).await?;
        self.spares.borrow_mut().push(spare);
        Ok(())
    }

    /// Removes the segments kept to be used again. Returns how many.
    ///
    /// # Errors
    /// As the device says.
    pub async fn release_spares(&self) -> Result<u64, DiskError> {
        let mut released = 0;
        loop {
            let Some(spare) = self.spares.borrow_mut().pop() else {
                return Ok(released);
            };
            if let Err(error) = self.disk.remove(&self.path(&spare)).await {
                self.spares.borrow_mut().push(spare);
                return Err(error);
            }
            released += 1;
        }
    }

    /// Segments kept to be used again.
    pub fn spares_count(&self) -> usize {
        self.spares.borrow().len()
    }
}
