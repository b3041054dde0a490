//! The point from which recovery replays, with the indexes as they were there.
//!
//! **Owns** writing and reading the checkpoint file.
//! **Lives on** the shard's core.
//! **Invariants** written aside, synced, renamed: the old one or the new one is there, whole; what
//! its header says outlives its parts.
//! **Limits** none of its own.
//! **Not here** when one is due (`shard_store`), what the parts mean (the index rooms).

use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::format::{CHECKPOINT_FILE, CHECKPOINT_HEADER_BYTES, CheckpointHeader};
use crate::key_index;
use crate::log::aside;
use crate::units::{BLOCK_BYTES, FilePosition, index};

/// A checkpoint read back.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// Its header.
    pub header: CheckpointHeader,
    /// The indexes; none when they are broken, or were given up: the log fills them again.
    pub parts: Option<Parts>,
}

/// The indexes as they were.
#[derive(Debug, Default)]
pub struct Parts {
    /// The queue index's part.
    pub index: Vec<u8>,
    /// The key index's part.
    pub keys: Vec<u8>,
}

impl Checkpoint {
    /// Whether a log that ends at `end`, with `sequence` as the number of its next run, has all
    /// that was synced when this was written. The parts may know of more than the header, for
    /// records come while they are taken.
    pub fn is_reached(&self, end: FilePosition, sequence: Option<u64>) -> bool {
        // After a restart the log goes on at a block, whose runs only their numbers tell of then.
        let has_runs = sequence.is_none_or(|next| next >= self.header.sequence);
        has_runs && self.header.position <= end.block_up() && self.covered() <= end
    }

    /// Up to where the log was synced, at least.
    pub fn synced_until(&self) -> FilePosition {
        self.header.position.max(self.covered())
    }

    fn covered(&self) -> FilePosition {
        let parts = self.parts.as_ref();
        let covered = parts.and_then(|parts| key_index::covered(&parts.keys));
        covered.unwrap_or_default()
    }
}

fn parts_crc(index: &[u8], keys: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(index);
    hasher.update(keys);
    hasher.finalize()
}

/// Writes a checkpoint; lengths in `header` are filled in.
///
/// # Errors
/// As the device says; the old checkpoint is then still there.
pub async fn write<D: Disk>(
    disk: &D,
    folder: &str,
    store_id: u64,
    checkpoint: &Checkpoint,
) -> Result<(), DiskError> {
    let (index, keys) = match &checkpoint.parts {
        Some(parts) => (parts.index.as_slice(), parts.keys.as_slice()),
        None => Default::default(),
    };
    let header = CheckpointHeader {
        index_bytes: index.len() as u64,
        keys_bytes: keys.len() as u64,
        ..checkpoint.header
    };
    let head = header.encode(store_id, parts_crc(index, keys));
    let parts = [head.as_slice(), index, keys];
    aside::write(disk, (folder, CHECKPOINT_FILE), &parts).await
}

/// Times a checkpoint that isn't whole is read.
const READS_MAX: usize = 2;

/// Reads the checkpoint; `None` when there is none or its header is broken or lost.
///
/// # Errors
/// As the device says.
pub async fn read<D: Disk>(
    disk: &D,
    folder: &str,
    store_id: u64,
) -> Result<Option<Checkpoint>, DiskError> {
    // A read may be wrong once; without the parts the whole log is replayed.
    let mut broken = None;
    for _ in 0..READS_MAX {
        let bytes = read_left(disk, folder).await?;
        let found = bytes.and_then(|bytes| decode(&bytes, store_id));
        if found.as_ref().is_some_and(|found| found.parts.is_some()) {
            return Ok(found);
        }
        broken = found.or(broken);
    }
    Ok(broken)
}

/// What the device still has of the file: all, its header's block, or nothing. A sector lost is as
/// good as a broken one; a start that failed for it would fail for ever.
async fn read_left<D: Disk>(disk: &D, folder: &str) -> Result<Option<Vec<u8>>, DiskError> {
    let mut len = u64::MAX;
    loop {
        match aside::read_up_to(disk, (folder, CHECKPOINT_FILE), len).await {
            Err(error) if error.kind == DiskErrorKind::Lost => {
                tracing::warn!(%error, "the device has lost a part of the checkpoint");
                if len == BLOCK_BYTES {
                    return Ok(None);
                }
                len = BLOCK_BYTES;
            }
            read => return read,
        }
    }
}

/// Makes sure there is no checkpoint with parts any more: what they name is about to be removed.
/// What the header says stays.
///
/// # Errors
/// As the device says.
pub async fn forget_parts<D: Disk>(
    disk: &D,
    folder: &str,
    store_id: u64,
    header: Option<CheckpointHeader>,
) -> Result<(), DiskError> {
    if let Some(header) = header {
        let bare = Checkpoint {
            header,
            parts: None,
        };
        return write(disk, folder, store_id, &bare).await;
    }
    match disk.remove(&format!("{folder}/{CHECKPOINT_FILE}")).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => disk.sync_dir(folder).await,
    }
}

fn decode(bytes: &[u8], store_id: u64) -> Option<Checkpoint> {
    let (header, crc) = CheckpointHeader::decode(bytes, store_id)?;
    let parts = decode_parts(bytes, &header, crc);
    Some(Checkpoint { header, parts })
}

fn decode_parts(bytes: &[u8], header: &CheckpointHeader, crc: u32) -> Option<Parts> {
    let rest = bytes.get(CHECKPOINT_HEADER_BYTES..)?;
    let (index_part, rest) = rest.split_at_checked(index(header.index_bytes))?;
    let keys_part = rest.get(..index(header.keys_bytes))?;
    // A snapshot is never empty: such parts were given up.
    let is_whole = !index_part.is_empty() && crc == parts_crc(index_part, keys_part);
    is_whole.then(|| Parts {
        index: index_part.to_vec(),
        keys: keys_part.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;

    fn sample(byte: u8, len: usize) -> Checkpoint {
        let header = CheckpointHeader {
            epoch: u64::from(byte),
            position: FilePosition(8192),
            ..CheckpointHeader::default()
        };
        let parts = Parts {
            index: vec![byte; len],
            keys: vec![byte + 1; 77],
        };
        Checkpoint {
            header,
            parts: Some(parts),
        }
    }

    #[test]
    fn a_power_cut_leaves_the_old_or_the_new_one() {
        for seed in 0..40 {
            let disk = SimDisk::new(seed);
            disk.block_on(async {
                disk.make_dir("s").await.unwrap();
                disk.sync_dir("").await.unwrap();
                assert!(read(&disk, "s", 9).await.unwrap().is_none());
                write(&disk, "s", 9, &sample(1, 3 << 20)).await.unwrap();
            });
            let cut = disk.clone();
            disk.spawn(async move {
                write(&cut, "s", 9, &sample(2, 2 << 20)).await.unwrap();
            });
            disk.block_on(disk.sleep_ms(seed % 4));
            disk.cut_power();
            let found = disk.block_on(read(&disk, "s", 9)).unwrap().unwrap();
            let byte = u8::try_from(found.header.epoch).unwrap();
            let parts = found.parts.unwrap();
            assert!(parts.index.iter().all(|b| *b == byte) && parts.keys == vec![byte + 1; 77]);
            assert!(
                disk.block_on(read(&disk, "s", 8)).unwrap().is_none(),
                "another store's"
            );
        }
    }

    /// Broken parts, or given up ones, leave what the header knows.
    #[test]
    fn a_header_outlives_its_parts() {
        let disk = SimDisk::new(1);
        disk.block_on(async {
            disk.make_dir("s").await.unwrap();
            write(&disk, "s", 9, &sample(3, 9000)).await.unwrap();
            disk.flip_bit("s/checkpoint", 8000, 1);
            for _ in 0..2 {
                let found = read(&disk, "s", 9).await.unwrap().unwrap();
                assert_eq!(found.header.position, FilePosition(8192));
                assert_eq!(found.header.epoch, 3);
                assert!(found.parts.is_none());
                let header = Some(found.header);
                forget_parts(&disk, "s", 9, header).await.unwrap();
            }
            disk.flip_bit("s/checkpoint", 17, 1);
            assert!(read(&disk, "s", 9).await.unwrap().is_none());
            forget_parts(&disk, "s", 9, None).await.unwrap();
            assert!(disk.file_names().is_empty());
        });
    }

    /// What the device has lost is broken, and no reason not to start.
    #[test]
    fn a_lost_sector_takes_the_parts_or_the_header() {
        let disk = SimDisk::new(2);
        disk.block_on(async {
            disk.make_dir("s").await.unwrap();
            write(&disk, "s", 9, &sample(3, 9000)).await.unwrap();
            disk.lose_sector("s/checkpoint", 8000).unwrap();
            let found = read(&disk, "s", 9).await.unwrap().unwrap();
            assert_eq!((found.header.epoch, found.parts.is_none()), (3, true));
            disk.lose_sector("s/checkpoint", 512).unwrap();
            assert!(read(&disk, "s", 9).await.unwrap().is_none());
            forget_parts(&disk, "s", 9, Some(found.header))
                .await
                .unwrap();
            assert!(read(&disk, "s", 9).await.unwrap().is_some());
        });
    }

    use crate::disk::Disk;
}
