//! The point from which recovery replays, with the indexes as they were there.
//!
//! **Owns** writing and reading the checkpoint file.
//! **Lives on** the shard's core.
//! **Invariants** written aside, synced, renamed: the old one or the new one is there, whole.
//! **Limits** none of its own.
//! **Not here** when one is due (`shard_store`), what the parts mean (the index rooms).

use crate::disk::{Disk, DiskError};
use crate::format::{CHECKPOINT_FILE, CHECKPOINT_HEADER_BYTES, CheckpointHeader};
use crate::log::aside;
use crate::units::index;

/// A checkpoint read back.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// Its header.
    pub header: CheckpointHeader,
    /// The queue index's part.
    pub index: Vec<u8>,
    /// The key index's part.
    pub keys: Vec<u8>,
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
    let header = CheckpointHeader {
        index_bytes: checkpoint.index.len() as u64,
        keys_bytes: checkpoint.keys.len() as u64,
        ..checkpoint.header
    };
    let head = header.encode(store_id, parts_crc(&checkpoint.index, &checkpoint.keys));
    let parts = [head.as_slice(), &checkpoint.index, &checkpoint.keys];
    aside::write(disk, (folder, CHECKPOINT_FILE), &parts).await
}

/// Times a checkpoint that isn't whole is read.
const READS_MAX: usize = 2;

/// Reads the checkpoint; `None` when there is none or it is not whole.
///
/// # Errors
/// As the device says.
pub async fn read<D: Disk>(
    disk: &D,
    folder: &str,
    store_id: u64,
) -> Result<Option<Checkpoint>, DiskError> {
    // A read may be wrong once; without a checkpoint the whole log is replayed.
    for _ in 0..READS_MAX {
        let bytes = aside::read(disk, (folder, CHECKPOINT_FILE)).await?;
        let found = bytes.and_then(|bytes| decode(&bytes, store_id));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Makes sure there is no checkpoint any more: what it names is about to be removed.
///
/// # Errors
/// As the device says.
pub async fn forget<D: Disk>(disk: &D, folder: &str) -> Result<(), DiskError> {
    match disk.remove(&format!("{folder}/{CHECKPOINT_FILE}")).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => disk.sync_dir(folder).await,
    }
}

fn decode(bytes: &[u8], store_id: u64) -> Option<Checkpoint> {
    let (header, crc) = CheckpointHeader::decode(bytes, store_id)?;
    let rest = bytes.get(CHECKPOINT_HEADER_BYTES..)?;
    let (index_part, rest) = rest.split_at_checked(index(header.index_bytes))?;
    let keys_part = rest.get(..index(header.keys_bytes))?;
    (crc == parts_crc(index_part, keys_part)).then(|| Checkpoint {
        header,
        index: index_part.to_vec(),
        keys: keys_part.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;
    use crate::units::FilePosition;

    fn sample(byte: u8, len: usize) -> Checkpoint {
        let header = CheckpointHeader {
            epoch: u64::from(byte),
            position: FilePosition(8192),
            ..CheckpointHeader::default()
        };
        Checkpoint {
            header,
            index: vec![byte; len],
            keys: vec![byte + 1; 77],
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
            assert!(found.index.iter().all(|b| *b == byte) && found.keys == vec![byte + 1; 77]);
            assert!(
                disk.block_on(read(&disk, "s", 8)).unwrap().is_none(),
                "another store's"
            );
        }
    }

    use crate::disk::Disk;
}
