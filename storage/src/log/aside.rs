//! Small files of a shard that are there wholly or not at all.
//!
//! **Owns** writing a file aside, syncing and renaming it; reading one back; a reserve of space, so
//! that a full device does not keep these files from being written: a start needs one of them, and
//! so does retention, which makes room.
//! **Lives on** the shard's core.
//! **Invariants** after any crash the old content or the new one is there, whole.
//! **Limits** chunks of `CHUNK_BYTES`, so that a large file does not hold up the core.
//! **Not here** what the bytes mean (`checkpoint`, `retention::floors`).

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::units::{BLOCK_BYTES, index};

/// Bytes copied between two awaits.
const CHUNK_BYTES: usize = 1 << 20;

/// The file that only takes up space.
const RESERVE_FILE: &str = "reserve";
/// Its length: a checkpoint takes 1 to 3 MiB, the first offsets of 10,000 queues 140 KiB.
const RESERVE_BYTES: u64 = 4 << 20;

/// Makes sure of the reserve of `folder`, if there is room for it. For whoever must not fail on a
/// full device: others would use it up before.
pub async fn keep_reserve<D: Disk>(disk: &D, folder: &str) {
    let path = format!("{folder}/{RESERVE_FILE}");
    let found = disk.open(&path, OpenMode::Existing).await;
    if found.is_ok_and(|file| file.len() >= RESERVE_BYTES) {
        return;
    }
    if let Err(error) = disk.open(&path, OpenMode::CreateLen(RESERVE_BYTES)).await {
        tracing::debug!(%error, "no space is kept for small files");
    }
}

/// Writes a small file, a second time with the reserve's space where the device is full.
///
/// # Errors
/// As the write's.
pub async fn with_reserve<D: Disk>(
    disk: &D,
    folder: &str,
    write: impl AsyncFn() -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let written = write().await;
    if !matches!(&written, Err(error) if error.is_no_space()) {
        return written;
    }
    let reserve = format!("{folder}/{RESERVE_FILE}");
    if disk.remove(&reserve).await.is_err() {
        return written;
    }
    tracing::warn!("the device is full: the space kept for small files is used");
    write().await
}

/// Puts `parts`, one behind the other and padded with zeros to a block, in the place of
/// `folder/name`.
///
/// # Errors
/// As the device says; the old file is then still there.
pub async fn write<D: Disk>(
    disk: &D,
    (folder, name): (&str, &str),
    parts: &[&[u8]],
) -> Result<(), DiskError> {
    let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let total = total.next_multiple_of(BLOCK_BYTES);
    let aside = format!("{folder}/{name}.new");
    let file = disk.open(&aside, OpenMode::CreateLen(total)).await?;
    let mut bytes = parts.iter().flat_map(|part| part.chunks(CHUNK_BYTES));
    let mut rest: &[u8] = &[];
    let mut at = 0;
    while at < total {
        let len = index(total - at).min(CHUNK_BYTES);
        let mut buf = disk.alloc(len);
        let mut room = buf.as_mut();
        while !room.is_empty() {
            if rest.is_empty() {
                let Some(next) = bytes.next() else { break };
                rest = next;
            }
            let count = rest.len().min(room.len());
            let (into, after) = room.split_at_mut(count);
            let (from, left) = rest.split_at(count);
            into.copy_from_slice(from);
            (room, rest) = (after, left);
        }
        room.fill(0);
        file.write_at(buf, at).await?;
        at += len as u64;
    }
    file.sync().await?;
    disk.rename(&aside, &format!("{folder}/{name}")).await?;
    disk.sync_dir(folder).await
}

/// All whole blocks of `folder/name`; `None` when there is no such file.
///
/// # Errors
/// As the device says.
pub async fn read<D: Disk>(disk: &D, place: (&str, &str)) -> Result<Option<Vec<u8>>, DiskError> {
    read_up_to(disk, place, u64::MAX).await
}

/// As `read`, `len_max` bytes at most.
///
/// # Errors
/// As the device says.
pub async fn read_up_to<D: Disk>(
    disk: &D,
    (folder, name): (&str, &str),
    len_max: u64,
) -> Result<Option<Vec<u8>>, DiskError> {
    let path = format!("{folder}/{name}");
    let file = match disk.open(&path, OpenMode::Existing).await {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len().min(len_max);
    let len = index(len - len % BLOCK_BYTES);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let count = (len - bytes.len()).min(CHUNK_BYTES);
        let read = file.read_at(bytes.len() as u64, count).await?;
        if read.as_ref().is_empty() {
            break;
        }
        bytes.extend_from_slice(read.as_ref());
    }
    Ok(Some(bytes))
}
