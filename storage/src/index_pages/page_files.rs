//! The files that hold a shard's index pages.
//!
//! **Owns** one space of page places cut into files, and which files still matter.
//! **Lives on** one data core, over a `Disk`.
//! **Invariants** pages are only appended to the file being filled, synced before their place is
//! told to anyone; a file without a page in use is removed only once a checkpoint that does not
//! name it is durable; places go round, and a file's are used again only once it is gone.
//! **Limits** `file_bytes` per file; one write at a time; a batch fits one file; places below
//! `PLACES_END_BYTE`; `PLACE_TRIES_MAX` writes in a row that fail at one place.
//! **Not here** which queue owns which page (`queue_index`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use thiserror::Error;

use super::{PAGE_BYTES_MAX, Page, PageError};
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile, OpenMode};
use crate::queue_index::{PLACES_END_BYTE, PageId, PagePlace, PageWanted};
use crate::units::BLOCK_BYTES;

/// Default length of a page file: 3.3 million entries.
pub const PAGE_FILE_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest allowed length: a full write batch and a block.
pub const PAGE_FILE_BYTES_MIN: u64 = 512 << 10;
/// Writes that fail at a place before the next ones go behind it: a bad sector, or a file that
/// can't be made, would keep every page in memory.
pub const PLACE_TRIES_MAX: u32 = 3;
/// Suffix of page files; the name is the first byte's place, 20 digits.
const SUFFIX: &str = ".idx";

const _: () = assert!(PAGE_FILE_BYTES_MIN > crate::queue_index::UNWRITTEN_BYTES_FLUSH as u64);

/// Why index pages could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PageFileError {
    /// The device failed.
    #[error("index pages: {0}")]
    Disk(#[from] DiskError),
    /// The bytes at the place are not the page that was written there.
    #[error("{file} at byte {position}: {error}")]
    Damaged {
        /// The file.
        file: String,
        /// The byte in the file.
        position: u64,
        /// What is wrong.
        error: PageError,
    },
    /// The directory names a page that is neither in memory nor on the device.
    #[error(
        "the index page of topic {} queue {} at offset {} is nowhere",
        .0.key.topic, .0.key.queue, .0.first_offset
    )]
    Nowhere(PageId),
    /// Pages in use lie in a file that is not there, or not all of it.
    #[error("{file} is missing or too short")]
    Missing {
        /// The file.
        file: String,
    },
    /// Pages in use have all places there are.
    #[error("index pages: no file is free, {PLACES_END_BYTE} bytes are in use")]
    Full,
}

impl PageFileError {
    /// Whether pages are gone for good, whatever the device does next.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Nowhere(_) | Self::Missing { .. } => true,
            Self::Disk(error) => error.kind == DiskErrorKind::Lost,
            Self::Full => false,
        }
    }
}

/// One file: its handle once it was needed, and how many pages in it are in use.
struct PageFile<F> {
    file: Option<F>,
    live: u64,
}

/// The page files of one shard.
pub struct PageFiles<D: Disk> {
    disk: D,
    folder: String,
    file_bytes: u64,
    files: RefCell<BTreeMap<u64, PageFile<D::File>>>,
    /// Where the next page goes, if the file being filled has room for it.
    end: Cell<u64>,
    /// The file being filled, none where `end` does not say.
    current: Cell<Option<u64>>,
    /// Writes that failed at `end` since one succeeded.
    failures: Cell<u32>,
    retired: RefCell<Vec<u64>>,
    /// Files without a page in use that are not removed yet, or could not be.
    leaving: RefCell<BTreeSet<u64>>,
    /// The first file with pages in use that was not there when this was opened, or not all of it.
    missing: Option<u64>,
}

impl<D: Disk> PageFiles<D> {
    /// Opens `folder`, whose pages in use lie at `places` and end at byte `end`; every other file
    /// there is removed. Of those that are not there, see `damage`.
    ///
    /// # Errors
    /// As the device says.
    pub async fn open(
        disk: D,
        folder: &str,
        file_bytes: u64,
        end: u64,
        places: impl Iterator<Item = PagePlace>,
    ) -> Result<Self, PageFileError> {
        let file_bytes = file_bytes
            .max(PAGE_FILE_BYTES_MIN)
            .next_multiple_of(BLOCK_BYTES);
        let mut files = Self {
            disk,
            folder: folder.to_owned(),
            file_bytes,
            files: RefCell::default(),
            end: Cell::new(0),
            current: Cell::new(None),
            failures: Cell::new(0),
            retired: RefCell::default(),
            leaving: RefCell::default(),
            missing: None,
        };
        if end < PLACES_END_BYTE {
            let end = end.next_multiple_of(BLOCK_BYTES);
            files.end.set(end);
            let is_inside = !end.is_multiple_of(file_bytes);
            files.current.set(is_inside.then(|| files.start_of(end)));
        }
        for place in places {
            let start = files.start_of(place.byte_position());
            files
                .files
                .borrow_mut()
                .entry(start)
                .or_insert(PageFile {
                    file: None,
                    live: 0,
                })
                .live += 1;
        }
        files.disk.make_dir(folder).await?;
        let missing = files.tidy_folder().await?;
        if files
            .current
            .get()
            .is_some_and(|start| missing.contains(&start))
        {
            // The next page begins a file of its own.
            files.current.set(None);
        }
        files.missing = missing.first().copied();
        Ok(files)
    }

    /// What was lost before this was opened: reading it is an error, everything else goes on.
    pub fn damage(&self) -> Option<PageFileError> {
        let file = self.missing.map(|start| self.name_of(start));
        file.map(|file| PageFileError::Missing { file })
    }

    /// Removes the files that have no page in use; gives those that have and are not there. Files
    /// are removed only when no checkpoint names them any more: this is damage.
    async fn tidy_folder(&self) -> Result<BTreeSet<u64>, PageFileError> {
        let mut missing: BTreeSet<u64> = self.files.borrow().keys().copied().collect();
        for found in self.disk.list(&self.folder).await? {
            let name = found.name.strip_suffix(SUFFIX);
            let Some(start) = name.and_then(|name| name.parse::<u64>().ok()) else {
                continue;
            };
            if !self.files.borrow().contains_key(&start) {
                let name = format!("{}/{}", self.folder, found.name);
                self.disk.remove(&name).await?;
            } else if found.len >= self.file_bytes {
                missing.remove(&start);
            }
        }
        Ok(missing)
    }

    fn start_of(&self, position: u64) -> u64 {
        position - position % self.file_bytes
    }

    fn name_of(&self, start: u64) -> String {
        format!("{}/{start:020}{SUFFIX}", self.folder)
    }

    /// Byte after the last page written, or where the next one goes; part of the checkpoint.
    pub fn end(&self) -> u64 {
        self.end.get()
    }

    async fn file(&self, start: u64, create: bool) -> Result<D::File, PageFileError> {
        if let Some(PageFile {
            file: Some(file), ..
        }) = self.files.borrow().get(&start)
        {
            return Ok(file.clone());
        }
        let name = self.name_of(start);
        let known = self.files.borrow().contains_key(&start);
        let mode = if known || !create {
            OpenMode::Existing
        } else {
            OpenMode::CreateLen(self.file_bytes)
        };
        let file = match self.disk.open(&name, mode).await {
            Err(error) if error.is_not_found() && mode == OpenMode::Existing => {
                return Err(PageFileError::Missing { file: name });
            }
            opened => opened?,
        };
        if mode != OpenMode::Existing {
            self.disk.sync_dir(&self.folder).await?;
        }
        let mut files = self.files.borrow_mut();
        if create {
            let fresh = PageFile {
                file: None,
                live: 0,
            };
            files.entry(start).or_insert(fresh);
        }
        // Retention may have taken the file from under a reader: it does not come back.
        if let Some(entry) = files.get_mut(&start) {
            entry.file = Some(file.clone());
        }
        Ok(file)
    }

    /// Where a batch of so many bytes goes: behind the last one, or into the next file.
    fn place_for(&self, bytes: u64) -> Result<u64, PageFileError> {
        let end = self.end.get();
        let has_room = self.current.get().is_some_and(|start| {
            let room_end = (start + self.file_bytes).min(PLACES_END_BYTE);
            end + bytes <= room_end
        });
        if has_room {
            return Ok(end);
        }
        let start = self.free_start()?;
        // At once: a file that is being made has no page in use either, and must not be retired.
        self.current.set(Some(start));
        self.end.set(start);
        Ok(start)
    }

    /// The start of the next file: right behind the last page, from 0 again behind the last place;
    /// files that are still there are passed over.
    fn free_start(&self) -> Result<u64, PageFileError> {
        let (files, leaving) = (self.files.borrow(), self.leaving.borrow());
        let count = PLACES_END_BYTE / self.file_bytes;
        let first = self.end.get().div_ceil(self.file_bytes);
        let mut starts = (0..count).map(|n| (first + n) % count * self.file_bytes);
        let is_free = |start: &u64| !files.contains_key(start) && !leaving.contains(start);
        starts.find(is_free).ok_or(PageFileError::Full)
    }

    /// A write at `end` failed, and may for ever, up to `bad_end`: after some of these the next one
    /// goes behind. Not for want of room or of a handle, which says nothing of the place.
    fn failed(&self, bad_end: u64, error: &PageFileError) {
        if let PageFileError::Disk(error) = error
            && (error.is_no_space() || error.is_no_handle())
        {
            return;
        }
        let failures = self.failures.get() + 1;
        self.failures.set(failures % PLACE_TRIES_MAX);
        if failures == PLACE_TRIES_MAX {
            let file = self.name_of(self.start_of(self.end.get()));
            tracing::warn!(%file, %error, "a place for index pages is passed over");
            self.end.set(bad_end);
        }
    }

    /// Writes and syncs a batch; tells where each page lies. One call at a time.
    ///
    /// # Errors
    /// As the device says; nothing of the batch may be used then, and it can be tried again, after
    /// `PLACE_TRIES_MAX` failures at another place.
    pub async fn write(
        &self,
        batch: &[(PageId, Rc<Page>)],
    ) -> Result<Vec<(PageId, PagePlace)>, PageFileError> {
        let (mut bytes, mut starts) = (Vec::new(), Vec::with_capacity(batch.len()));
        for (id, page) in batch {
            starts.push((*id, bytes.len() as u64));
            page.encode(id.key, &mut bytes);
        }
        let padded = (bytes.len() as u64).next_multiple_of(BLOCK_BYTES);
        let begin = self.place_for(padded)?;
        let start = self.start_of(begin);
        let file = self.file(start, true).await;
        let file = file.inspect_err(|error| self.failed(start + self.file_bytes, error))?;
        bytes.resize(usize::try_from(padded).unwrap_or(bytes.len()), 0);
        let mut buf = self.disk.alloc(bytes.len());
        buf.as_mut().copy_from_slice(&bytes);
        let written = file.write_at_and_sync(buf, begin - start).await;
        let written = written.map_err(PageFileError::from);
        written.inspect_err(|error| self.failed(begin + padded, error))?;
        self.failures.set(0);
        self.end.set(begin + padded);
        if let Some(entry) = self.files.borrow_mut().get_mut(&start) {
            entry.live += starts.len() as u64;
        }
        Ok(starts
            .into_iter()
            .map(|(id, at)| (id, PagePlace::at_byte(begin + at)))
            .collect())
    }

    /// Reads one page and checks that it is the one wanted.
    ///
    /// # Errors
    /// `Damaged` naming file and byte when it is not; `Missing` when its file is not there;
    /// `Nowhere` when it has no place; `Disk` as the device says.
    pub async fn read(&self, wanted: PageWanted) -> Result<Page, PageFileError> {
        let Some(place) = wanted.place else {
            return Err(PageFileError::Nowhere(wanted.id));
        };
        let position = place.byte_position();
        let start = self.start_of(position);
        let file = self.file(start, false).await?;
        let inside = position - start;
        let from = inside - inside % BLOCK_BYTES;
        let end = (inside + PAGE_BYTES_MAX as u64)
            .next_multiple_of(BLOCK_BYTES)
            .min(self.file_bytes);
        let length = usize::try_from(end - from).unwrap_or(PAGE_BYTES_MAX);
        let (read, failed) = match file.read_at(from, length).await {
            // Behind a page that ends within its block may lie a place that was passed over.
            Err(error) if length > PAGE_BYTES_MAX => {
                (file.read_at(from, PAGE_BYTES_MAX).await?, Some(error))
            }
            read => (read?, None),
        };
        let skip = usize::try_from(inside - from).unwrap_or(0);
        let bytes = read.as_ref().get(skip..).unwrap_or_default();
        let decoded = Page::decode(wanted.id.key, bytes).and_then(|page| {
            if page.first_offset() == wanted.id.first_offset {
                return Ok(page);
            }
            let (topic, queue) = (wanted.id.key.topic.0, wanted.id.key.queue.0);
            Err(PageError::Misplaced {
                topic,
                queue,
                first_offset: page.first_offset().0,
            })
        });
        decoded.map_err(|error| match failed {
            Some(failed) => failed.into(),
            None => PageFileError::Damaged {
                file: self.name_of(start),
                position: inside,
                error,
            },
        })
    }

    /// Counts pages that no queue uses any more.
    pub fn freed(&self, places: &[PagePlace]) {
        let mut files = self.files.borrow_mut();
        for place in places {
            let start = self.start_of(place.byte_position());
            let Some(entry) = files.get_mut(&start) else {
                continue;
            };
            entry.live = entry.live.saturating_sub(1);
        }
        let dead: Vec<u64> = files
            .iter()
            .filter(|(start, file)| file.live == 0 && self.current.get() != Some(**start))
            .map(|(start, _)| *start)
            .collect();
        for start in dead {
            files.remove(&start);
            self.retired.borrow_mut().push(start);
            self.leaving.borrow_mut().insert(start);
        }
    }

    /// Files no longer in use, to be given to `remove` once the checkpoint begun now is durable.
    pub fn take_retired(&self) -> Vec<u64> {
        self.retired.take()
    }

    /// Takes back what `take_retired` gave: that checkpoint did not become durable.
    pub fn give_back(&self, retired: &[u64]) {
        self.retired.borrow_mut().extend_from_slice(retired);
    }

    /// Removes files that `take_retired` gave; those that are gone already are fine.
    ///
    /// # Errors
    /// As the device says; what is left goes with the next ones.
    pub async fn remove(&self, retired: &[u64]) -> Result<(), PageFileError> {
        for (n, start) in retired.iter().enumerate() {
            match self.disk.remove(&self.name_of(*start)).await {
                Err(error) if !error.is_not_found() => {
                    // Not those before: their places may be used again.
                    self.give_back(retired.get(n..).unwrap_or_default());
                    return Err(error.into());
                }
                _ => self.leaving.borrow_mut().remove(start),
            };
        }
        Ok(())
    }
}
