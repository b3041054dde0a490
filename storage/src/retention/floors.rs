//! The first offset of every queue that retention has shortened, in a file of its own.
//!
//! **Owns** the layout of the floors file.
//! **Lives on** the shard's core.
//! **Invariants** durable before a segment is dropped: a queue whose records are all gone goes on
//! where it was, even if the checkpoint is lost and the log is replayed from its start.
//! **Limits** 14 bytes a queue.
//! **Not here** what the offsets are (`shard_store::retaining`).
//!
//! Layout, little-endian: magic u32, format u32, number of queues u32, crc32 u32 over the secret
//! (u64) and all that follows; per queue: topic u32, queue u16, first offset u64.

use bytes::{Buf, BufMut};

use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::format::{FLOORS_FILE, FLOORS_MAGIC, FORMAT_VERSION};
use crate::log::aside;
use crate::units::{QueueId, QueueKey, QueueOffset, TopicId};

const HEADER_BYTES: usize = 16;
const ROW_BYTES: usize = 14;

/// A queue and its first offset.
pub type Floor = (QueueKey, QueueOffset);

fn sum(store_id: u64, rows: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store_id.to_le_bytes());
    hasher.update(rows);
    hasher.finalize()
}

fn encode(store_id: u64, floors: &[Floor]) -> Vec<u8> {
    let mut rows = Vec::with_capacity(floors.len() * ROW_BYTES);
    for (key, offset) in floors {
        rows.put_u32_le(key.topic.0);
        rows.put_u16_le(key.queue.0);
        rows.put_u64_le(offset.0);
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + rows.len());
    out.put_u32_le(FLOORS_MAGIC);
    out.put_u32_le(FORMAT_VERSION);
    out.put_u32_le(u32::try_from(floors.len()).unwrap_or(u32::MAX));
    out.put_u32_le(sum(store_id, &rows));
    out.extend_from_slice(&rows);
    out
}

fn decode(store_id: u64, bytes: &[u8]) -> Option<Vec<Floor>> {
    let (mut head, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    if head.get_u32_le() != FLOORS_MAGIC || head.get_u32_le() != FORMAT_VERSION {
        return None;
    }
    let count = usize::try_from(head.get_u32_le()).ok()?;
    let rows = rest.get(..count.checked_mul(ROW_BYTES)?)?;
    if head.get_u32_le() != sum(store_id, rows) {
        return None;
    }
    let row = |mut row: &[u8]| {
        let topic = TopicId(row.get_u32_le());
        let queue = QueueId(row.get_u16_le());
        (QueueKey { topic, queue }, QueueOffset(row.get_u64_le()))
    };
    Some(rows.chunks_exact(ROW_BYTES).map(row).collect())
}

/// Replaces the file.
///
/// # Errors
/// As the device says; the old one is then still there.
pub async fn write<D: Disk>(
    disk: &D,
    folder: &str,
    store_id: u64,
    floors: &[Floor],
) -> Result<(), DiskError> {
    let bytes = encode(store_id, floors);
    aside::write(disk, (folder, FLOORS_FILE), &[&bytes]).await
}

/// Reads it back; empty when there is none, or none that is whole.
///
/// # Errors
/// As the device says.
pub async fn read<D: Disk>(disk: &D, folder: &str, store_id: u64) -> Result<Vec<Floor>, DiskError> {
    let bytes = match aside::read(disk, (folder, FLOORS_FILE)).await {
        // As a damaged one: a start that failed for it would fail for ever.
        Err(error) if error.kind == DiskErrorKind::Lost => Vec::new(),
        read => match read? {
            Some(bytes) => bytes,
            None => return Ok(Vec::new()),
        },
    };
    Ok(decode(store_id, &bytes).unwrap_or_else(|| {
        tracing::warn!(folder, "the floors file is damaged and not used");
        Vec::new()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;

    #[test]
    fn both_ways_and_no_other_bytes() {
        let floors = [
            (QueueKey::new(7, 3), QueueOffset(1 << 40)),
            (QueueKey::new(8, 0), QueueOffset(1)),
        ];
        let mut bytes = encode(9, &floors);
        let golden = "47464c520100000002000000fe5824ab07000000030000000000000100000800000000000100\
                      000000000000";
        assert_eq!(crate::format::tests::hex(&bytes), golden);
        bytes.resize(4096, 0);
        assert_eq!(decode(9, &bytes).as_deref(), Some(floors.as_slice()));
        assert_eq!(decode(8, &bytes), None, "another store's");
        bytes[17] ^= 1;
        assert_eq!(decode(9, &bytes), None);
        assert_eq!(decode(9, &bytes[..20]), None);
    }
    /// A device that has lost the file keeps no shard from starting.
    #[test]
    fn a_lost_sector_is_damage() {
        let disk = SimDisk::new(1);
        disk.block_on(async {
            let floors = [(QueueKey::new(7, 3), QueueOffset(5))];
            disk.make_dir("s").await.unwrap();
            write(&disk, "s", 9, &floors).await.unwrap();
            assert_eq!(read(&disk, "s", 9).await.as_deref(), Ok(&floors[..]));
            disk.lose_sector("s/floors", 600).unwrap();
            assert_eq!(read(&disk, "s", 9).await.as_deref(), Ok(&[][..]));
        });
    }
}
