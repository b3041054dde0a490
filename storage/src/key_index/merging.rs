//! Merging partitions round by round.
//!
//! **Owns** the walk over the sources, and how much of each one round takes.
//! **Lives on** one data core, over a `Disk`.
//! **Invariants** entries come in a partition's order; of equal hashes the newest comes first.
//! **Limits** a round takes at most `ROUND_ENTRIES` of each source, but all entries of one hash.
//! **Not here** the new partition (`partition`), which partitions are merged (`key_index`).

use std::rc::Rc;

use super::partition::{Partition, PartitionWriter, SourceReader};
use super::sorting::Buckets;
use super::{KeyEntry, KeyIndexError};
use crate::disk::Disk;

/// Entries of one source in one round: with `MERGE_COUNT` sources 2,048, sorted in about 0.05 ms.
const ROUND_ENTRIES: usize = 128;

/// Writes the entries of `small`, which are ordered by log position, in order.
pub(super) async fn merge<D: Disk>(
    disk: &D,
    folder: &str,
    small: &[Rc<Partition>],
    writer: &mut PartitionWriter<'_, D>,
) -> Result<(), KeyIndexError> {
    let mut sources = Vec::with_capacity(small.len());
    // The newest first.
    for partition in small.iter().rev() {
        sources.push(SourceReader::open(disk, folder, Rc::clone(partition)).await?);
    }
    let (mut round, mut buckets) = (Vec::<KeyEntry>::new(), Buckets::default());
    while sources.iter().any(|source| !source.loaded().is_empty()) {
        let bound = sources.iter().filter_map(bound_of).min();
        for source in &mut sources {
            let part = below(source.loaded(), bound);
            round.extend_from_slice(part);
            let count = part.len();
            source.advance(count).await?;
        }
        if round.is_empty() {
            // One hash fills a whole part: its entries need no sorting, there may be many.
            let Some(hash) = bound else { break };
            for source in &mut sources {
                write_all_of(hash, source, disk, writer).await?;
            }
        } else {
            // The parts follow each other newest first, and the sort keeps the order of equal ones.
            writer.push(buckets.sort(&round)).await?;
            round.clear();
        }
        disk.yield_now().await;
    }
    Ok(())
}

/// What this source lets a round take: hashes below this one. None when all it has may go.
fn bound_of<D: Disk>(source: &SourceReader<D>) -> Option<u64> {
    let loaded = source.loaded();
    if let Some(entry) = loaded.get(ROUND_ENTRIES) {
        return Some(entry.hash);
    }
    let last = loaded.last().filter(|_| source.has_more());
    last.map(|entry| entry.hash)
}

fn below(entries: &[KeyEntry], bound: Option<u64>) -> &[KeyEntry] {
    let count = match bound {
        Some(bound) => entries.partition_point(|entry| entry.hash < bound),
        None => entries.len(),
    };
    entries.get(..count).unwrap_or_default()
}

async fn write_all_of<D: Disk>(
    hash: u64,
    source: &mut SourceReader<D>,
    disk: &D,
    writer: &mut PartitionWriter<'_, D>,
) -> Result<(), KeyIndexError> {
    loop {
        let loaded = source.loaded();
        let count = loaded.partition_point(|entry| entry.hash <= hash);
        writer.push(loaded.get(..count).unwrap_or_default()).await?;
        source.advance(count).await?;
        if count == 0 {
            return Ok(());
        }
        disk.yield_now().await;
    }
}
