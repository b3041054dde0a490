//! One immutable partition of the key index: sorted entries in 4 KiB pages.
//!
//! **Owns** the layout of partition files, writing one, searching one, walking one.
//! **Lives on** one data core, over a `Disk`.
//! **Invariants** entries are ordered by hash, newest first; a partition is named to the rest only
//! after it was synced; every page has a checksum; damage counts at a second look, and is reported
//! once for each partition.
//! **Limits** `WRITE_BYTES` per write, `PAGES_SCANNED_MAX` pages read per query for one much used
//! key.
//! **Not here** which partitions exist (`key_index`).
//!
//! Page 0, little-endian: magic u32, crc32 u32 of the rest, version u32, level u32, number u64,
//! count u64, times u64 × 2, last position u64. Further pages: crc32 u32 of the rest, count u16,
//! zero u16, first time u64; per entry hash u64, position << 8 | upper 8 bits of (time - first
//! time) u64, lower 32 bits u32.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf, BufMut};

use super::{KeyEntry, KeyIndexError, Wanted};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::units::{FilePosition, StoreTimestamp};

const MAGIC: u32 = 0x3150_4b47;
const VERSION: u32 = 1;
const PAGE_BYTES: usize = 4096;
const PAGE_BYTES_U64: u64 = PAGE_BYTES as u64;
const PAGE_HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 20;
/// Entries of a page.
const PAGE_ENTRIES: usize = (PAGE_BYTES - PAGE_HEAD_BYTES) / ENTRY_BYTES;
const PAGE_ENTRIES_U64: u64 = PAGE_ENTRIES as u64;
/// Bytes written or read ahead at once.
const WRITE_BYTES: usize = 64 << 10;
/// Pages one query reads in one partition after the first hit: 13,000 entries of one key.
const PAGES_SCANNED_MAX: u64 = 64;
/// Guesses by the hash's value before the search falls back to halving.
const GUESSES_MAX: u32 = 4;
const SUFFIX: &str = ".keys";

/// A partition on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(super) number: u64,
    pub(super) level: u32,
    pub(super) count: u64,
    pub(super) time_min: StoreTimestamp,
    pub(super) time_max: StoreTimestamp,
    pub(super) last_position: FilePosition,
    /// Whether it was met with something else in it than was written.
    pub(super) is_damaged: Cell<bool>,
}

pub(super) fn file_name(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}{SUFFIX}")
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

fn pages_of(count: u64) -> u64 {
    count.div_ceil(PAGE_ENTRIES_U64)
}

/// Length of the file of a partition with so many entries.
pub(super) fn file_bytes(count: u64) -> u64 {
    (pages_of(count) + 1) * PAGE_BYTES_U64
}

impl Partition {
    /// Notes that some of it is not what was written, and says so the first time.
    pub(super) fn damaged(&self, error: &KeyIndexError) {
        if !self.is_damaged.replace(true) {
            tracing::error!(
                %error,
                "the key index is damaged: a restart makes it anew from the log; until then some \
                 messages are not found by their keys"
            );
        }
    }

    /// The error of reading it, noted if it is damage.
    fn told(&self, error: KeyIndexError) -> KeyIndexError {
        if error.is_damage() {
            self.damaged(&error);
        }
        error
    }

    /// Adds positions of the wanted key, newest first. What was found before an error stays.
    pub(super) async fn find<D: Disk>(
        &self,
        disk: &D,
        folder: &str,
        wanted: &Wanted,
        out: &mut Vec<FilePosition>,
    ) -> Result<(), KeyIndexError> {
        if self.time_max < wanted.begin || self.time_min > wanted.end {
            return Ok(());
        }
        let before = out.len();
        let mut found = self.find_here(disk, folder, wanted, out).await;
        if found.as_ref().is_err_and(KeyIndexError::is_damage) {
            // A read may be wrong once.
            out.truncate(before);
            found = self.find_here(disk, folder, wanted, out).await;
        }
        found.map_err(|error| self.told(error))
    }

    async fn find_here<D: Disk>(
        &self,
        disk: &D,
        folder: &str,
        wanted: &Wanted,
        out: &mut Vec<FilePosition>,
    ) -> Result<(), KeyIndexError> {
        let name = file_name(folder, self.number);
        let file = disk.open(&name, OpenMode::Existing).await?;
        let (mut page, mut entries) = self.first_page(&file, &name, wanted.hash).await?;
        let stop = page.saturating_add(PAGES_SCANNED_MAX);
        loop {
            let skip = entries.partition_point(|entry| entry.hash < wanted.hash);
            for entry in entries.iter().skip(skip) {
                if entry.hash != wanted.hash || out.len() >= wanted.count_max {
                    return Ok(());
                }
                wanted.take(entry, out);
            }
            page += 1;
            if page >= pages_of(self.count).min(stop) {
                return Ok(());
            }
            entries = read_page(&file, &name, page).await?;
        }
    }

    /// The first page whose last hash is not below `hash` (the last page when there is none).
    /// Hashes are spread evenly, so the value tells where to look; halving bounds the search when
    /// they are not.
    async fn first_page<F: DiskFile>(
        &self,
        file: &F,
        name: &str,
        hash: u64,
    ) -> Result<(u64, Vec<KeyEntry>), KeyIndexError> {
        let (mut low, mut high) = (0, pages_of(self.count).saturating_sub(1));
        let (mut hash_low, mut hash_high) = (0u64, u64::MAX);
        let mut at_high = None;
        let mut guesses = 0;
        while low < high {
            let guess = if guesses < GUESSES_MAX {
                guesses += 1;
                interpolate(hash, hash_low, hash_high, low, high)
            } else {
                u64::midpoint(low, high)
            };
            let entries = read_page(file, name, guess).await?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
                return Err(damaged(name, guess, "an empty page"));
            };
            if last.hash < hash {
                hash_low = last.hash;
                low = guess + 1;
            } else if first.hash < hash {
                return Ok((guess, entries));
            } else {
                hash_high = first.hash;
                high = guess;
                at_high = Some((guess, entries));
            }
        }
        match at_high {
            Some((page, entries)) if page == low => Ok((page, entries)),
            _ => Ok((low, read_page(file, name, low).await?)),
        }
    }
}

/// The page in `low..=high` (never `high` itself while they differ) where `hash` should be.
fn interpolate(hash: u64, hash_low: u64, hash_high: u64, low: u64, high: u64) -> u64 {
    let span = u128::from(hash_high.saturating_sub(hash_low)).max(1);
    let part = u128::from(hash.saturating_sub(hash_low)) * u128::from(high - low + 1) / span;
    let guess = low.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
    guess.clamp(low, high - 1)
}

fn damaged(name: &str, page: u64, detail: &'static str) -> KeyIndexError {
    // Counted in the file: entry pages come after the head page.
    KeyIndexError::Damaged {
        file: name.to_owned(),
        page: page + 1,
        detail,
    }
}

async fn read_page<F: DiskFile>(
    file: &F,
    name: &str,
    page: u64,
) -> Result<Vec<KeyEntry>, KeyIndexError> {
    let read = file
        .read_at((page + 1) * PAGE_BYTES_U64, PAGE_BYTES)
        .await?;
    let mut entries = Vec::with_capacity(PAGE_ENTRIES);
    decode_page(read.as_ref(), name, page, &mut entries)?;
    Ok(entries)
}

/// Appends the entries of a page to `out`.
fn decode_page(
    bytes: &[u8],
    name: &str,
    page: u64,
    out: &mut Vec<KeyEntry>,
) -> Result<(), KeyIndexError> {
    let Some((mut head, body)) = bytes.split_at_checked(PAGE_HEAD_BYTES) else {
        return Err(damaged(name, page, "too short"));
    };
    let sum = head.get_u32_le();
    let summed = bytes.get(4..PAGE_BYTES).unwrap_or_default();
    if summed.is_empty() || crc32fast::hash(summed) != sum {
        return Err(damaged(name, page, "checksum differs"));
    }
    let count = usize::from(head.get_u16_le());
    head.advance(2);
    let first_time = head.get_u64_le();
    let entries = body
        .chunks_exact(ENTRY_BYTES)
        .take(count)
        .map(|mut packed| {
            let (hash, place) = (packed.get_u64_le(), packed.get_u64_le());
            let time = first_time + (((place & 0xff) << 32) | u64::from(packed.get_u32_le()));
            KeyEntry {
                hash,
                position: FilePosition(place >> 8),
                time: StoreTimestamp(time),
            }
        });
    out.extend(entries);
    Ok(())
}

fn encode_page(entries: &[KeyEntry], out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u32_le(0);
    let first_time = entries.iter().map(|entry| entry.time.0).min().unwrap_or(0);
    out.put_u16_le(u16::try_from(entries.len()).unwrap_or(0));
    out.put_u16_le(0);
    out.put_u64_le(first_time);
    for entry in entries {
        let delta = (entry.time.0 - first_time).min((1 << 40) - 1);
        let mut packed = [0; ENTRY_BYTES];
        let mut fields = packed.as_mut_slice();
        fields.put_u64_le(entry.hash);
        fields.put_u64_le((entry.position.0 << 8) | (delta >> 32));
        fields.put_u32_le(u32::try_from(delta & u64::from(u32::MAX)).unwrap_or(0));
        out.extend_from_slice(&packed);
    }
    out.resize(start + PAGE_BYTES, 0);
    if let Some((sum, page)) = out
        .get_mut(start..)
        .and_then(|page| page.split_first_chunk_mut::<4>())
    {
        *sum = crc32fast::hash(page).to_le_bytes();
    }
}

/// Writes a partition from entries given in order.
pub(super) struct PartitionWriter<'a, D: Disk> {
    disk: &'a D,
    folder: &'a str,
    file: D::File,
    partition: Partition,
    page: Vec<KeyEntry>,
    bytes: Vec<u8>,
    at: u64,
}

impl<'a, D: Disk> PartitionWriter<'a, D> {
    /// Begins partition `number`, which will get exactly `count` entries.
    pub(super) async fn create(
        disk: &'a D,
        folder: &'a str,
        number: u64,
        level: u32,
        count: u64,
    ) -> Result<Self, KeyIndexError> {
        let mode = OpenMode::CreateLen(file_bytes(count));
        let file = disk.open(&file_name(folder, number), mode).await?;
        let (time_min, time_max) = (StoreTimestamp(u64::MAX), StoreTimestamp(0));
        let last_position = FilePosition(0);
        let partition = Partition {
            number,
            level,
            count: 0,
            time_min,
            time_max,
            last_position,
            is_damaged: Cell::default(),
        };
        let (page, bytes) = (
            Vec::with_capacity(PAGE_ENTRIES),
            Vec::with_capacity(WRITE_BYTES),
        );
        Ok(Self {
            disk,
            folder,
            file,
            partition,
            page,
            bytes,
            at: PAGE_BYTES_U64,
        })
    }

    /// Adds entries that follow those before.
    pub(super) async fn push(&mut self, mut entries: &[KeyEntry]) -> Result<(), KeyIndexError> {
        while !entries.is_empty() {
            let room = PAGE_ENTRIES - self.page.len();
            let (now, later) = entries.split_at(room.min(entries.len()));
            entries = later;
            self.note(now);
            self.page.extend_from_slice(now);
            if self.page.len() == PAGE_ENTRIES {
                self.end_page();
                if self.bytes.len() >= WRITE_BYTES {
                    self.write().await?;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, entries: &[KeyEntry]) {
        let partition = &mut self.partition;
        partition.count += entries.len() as u64;
        for entry in entries {
            partition.time_min = partition.time_min.min(entry.time);
            partition.time_max = partition.time_max.max(entry.time);
            partition.last_position = partition.last_position.max(entry.position);
        }
    }

    fn end_page(&mut self) {
        encode_page(&self.page, &mut self.bytes);
        self.page.clear();
    }

    async fn write(&mut self) -> Result<(), KeyIndexError> {
        let mut buf = self.disk.alloc(self.bytes.len());
        buf.as_mut().copy_from_slice(&self.bytes);
        self.file.write_at(buf, self.at).await?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Writes what is left and the head, and makes the partition durable.
    pub(super) async fn finish(mut self) -> Result<Partition, KeyIndexError> {
        if !self.page.is_empty() {
            self.end_page();
        }
        if !self.bytes.is_empty() {
            self.write().await?;
        }
        let partition = self.partition;
        let mut head = Vec::with_capacity(PAGE_BYTES);
        head.put_u32_le(VERSION);
        head.put_u32_le(partition.level);
        head.put_u64_le(partition.number);
        head.put_u64_le(partition.count);
        head.put_u64_le(partition.time_min.0);
        head.put_u64_le(partition.time_max.0);
        head.put_u64_le(partition.last_position.0);
        head.resize(PAGE_BYTES - 8, 0);
        let mut buf = self.disk.alloc(PAGE_BYTES);
        let mut page = buf.as_mut();
        page.put_u32_le(MAGIC);
        page.put_u32_le(crc32fast::hash(&head));
        page.put_slice(&head);
        self.file.write_at(buf, 0).await?;
        // Not joined with the head's write: that would leave out the pages written before.
        self.file.sync().await?;
        self.disk.sync_dir(self.folder).await?;
        Ok(partition)
    }
}

/// Walks a partition in order, reading ahead.
pub(super) struct SourceReader<D: Disk> {
    partition: Rc<Partition>,
    file: D::File,
    name: String,
    pages: u64,
    next_page: u64,
    /// Read ahead.
    entries: Vec<KeyEntry>,
    /// How many of those are taken.
    taken: usize,
}

impl<D: Disk> SourceReader<D> {
    pub(super) async fn open(
        disk: &D,
        folder: &str,
        partition: Rc<Partition>,
    ) -> Result<Self, KeyIndexError> {
        let name = file_name(folder, partition.number);
        let opened = disk.open(&name, OpenMode::Existing).await;
        let file = opened.map_err(|error| partition.told(error.into()))?;
        let pages = pages_of(partition.count);
        let mut reader = Self {
            partition,
            file,
            name,
            pages,
            next_page: 0,
            entries: Vec::new(),
            taken: 0,
        };
        reader.fill().await?;
        Ok(reader)
    }

    async fn fill(&mut self) -> Result<(), KeyIndexError> {
        let pages = (self.pages - self.next_page).min((WRITE_BYTES / PAGE_BYTES) as u64);
        if pages == 0 {
            return Ok(());
        }
        let mut read = self.read(pages).await;
        if read.as_ref().is_err_and(KeyIndexError::is_damage) {
            // A read may be wrong once.
            read = self.read(pages).await;
        }
        read.map_err(|error| self.partition.told(error))?;
        self.next_page += pages;
        Ok(())
    }

    /// Loads the next `pages`.
    async fn read(&mut self, pages: u64) -> Result<(), KeyIndexError> {
        let length = usize::try_from(pages).unwrap_or(1) * PAGE_BYTES;
        let read = self
            .file
            .read_at((self.next_page + 1) * PAGE_BYTES_U64, length)
            .await?;
        let bytes = read.as_ref();
        if bytes.len() < length {
            return Err(damaged(&self.name, self.next_page, "too short"));
        }
        self.entries.clear();
        self.taken = 0;
        for (page, bytes) in (self.next_page..).zip(bytes.chunks(PAGE_BYTES)) {
            decode_page(bytes, &self.name, page, &mut self.entries)?;
        }
        Ok(())
    }

    /// The next entries; none only at the end.
    pub(super) fn loaded(&self) -> &[KeyEntry] {
        self.entries.get(self.taken..).unwrap_or_default()
    }

    /// Whether more comes after those loaded.
    pub(super) fn has_more(&self) -> bool {
        self.next_page < self.pages
    }

    /// Takes `count` of the loaded ones.
    pub(super) async fn advance(&mut self, count: usize) -> Result<(), KeyIndexError> {
        self.taken += count;
        if self.taken >= self.entries.len() && self.has_more() {
            self.fill().await?;
        }
        Ok(())
    }
}
