use std::rc::Rc;

use bytes::BytesMut;

use super::*;
use crate::shard_store::FlushMode;
use crate::shard_store::tests::{SharedTail, bodies, limits, options, record};
use crate::sim_disk::SimDisk;
use crate::units::QueueOffset;

const QUEUES: u16 = 64;
const ROUNDS: u16 = 100;

type Store = ShardStore<SimDisk>;

async fn open(disk: &SimDisk, tail: &SharedTail) -> Rc<Store> {
    let opened = Store::open(disk.clone(), tail.lend(), options(FlushMode::Sync));
    opened.await.unwrap().0
}

/// 64 queues in turn, to be read from the device.
async fn cold_store(disk: &SimDisk, tail: &SharedTail) -> Rc<Store> {
    let store = open(disk, tail).await;
    for round in 0..ROUNDS {
        for queue in 0..QUEUES {
            let mut body = format!("{queue}/{round}/").into_bytes();
            body.resize(1024, b'.');
            let key = QueueKey::new(1, queue);
            store.append(&record(key, &body, &[])).unwrap();
        }
        store.until_committed(store.seal()).await.unwrap();
    }
    store.shutdown().await.unwrap();
    drop(store);
    // Another tail: nothing of the log is in memory.
    open(disk, &SharedTail::new(1 << 20)).await
}

/// Reads `queue` as pulls do; bytes of its records.
async fn drain(store: &Store, queue: u16) -> u64 {
    let key = QueueKey::new(1, queue);
    let (mut next, mut out, mut bytes) = (QueueOffset(0), BytesMut::new(), 0);
    while next < store.bounds(key).max {
        out.clear();
        let read = store.read(key, next, limits(32), &|_| true, &mut out);
        let read = read.await.unwrap();
        assert_eq!(
            read.found,
            u32::try_from(read.next_offset.0 - next.0).unwrap()
        );
        for (round, body) in (next.0..).zip(bodies(&out)) {
            assert!(body.starts_with(format!("{queue}/{round}/").as_bytes()));
        }
        bytes += out.len() as u64;
        next = read.next_offset;
    }
    assert_eq!(next.0, u64::from(ROUNDS));
    bytes
}

#[test]
fn a_reader_of_one_queue_in_64_reads_few_bytes_beside_its_own() {
    let (disk, tail) = (SimDisk::new(3), SharedTail::new(1 << 20));
    disk.block_on(async {
        let store = cold_store(&disk, &tail).await;
        let wanted = drain(&store, 7).await;
        let (chunks, _) = store.cold_reads_counts();
        let (pieces, read) = store.sparse_reads_counts();
        assert_eq!(chunks, 0, "{pieces} pieces");
        assert!(read <= 9 * wanted, "{read} bytes read for {wanted}");
    });
}

#[test]
fn readers_of_all_queues_together_share_chunks() {
    let (disk, tail) = (SimDisk::new(4), SharedTail::new(1 << 20));
    let store = disk.block_on(cold_store(&disk, &tail));
    let left = Rc::new(std::cell::Cell::new(QUEUES));
    for queue in 0..QUEUES {
        let (store, left) = (Rc::clone(&store), Rc::clone(&left));
        disk.spawn(async move {
            drain(&store, queue).await;
            left.set(left.get() - 1);
        });
    }
    disk.block_on(async {
        while left.get() > 0 {
            disk.sleep_ms(1).await;
        }
    });
    let chunks = store.staged().0.div_ceil(CHUNK_BYTES);
    let (loads, _) = store.cold_reads_counts();
    let (_, pieces_bytes) = store.sparse_reads_counts();
    let read = loads * CHUNK_BYTES + pieces_bytes;
    assert!(loads <= chunks + 2, "{loads} reads of {chunks} chunks");
    // The first readers don't know yet of those that come behind them.
    assert!(read <= 2 * store.staged().0, "{read} bytes read");
}

#[test]
fn a_rotten_piece_is_read_again_and_told() {
    let (disk, tail) = (SimDisk::new(5), SharedTail::new(1 << 20));
    disk.block_on(async {
        let store = cold_store(&disk, &tail).await;
        let key = QueueKey::new(1, 9);
        let entry = store.entries(key, QueueOffset(3), 1).await.unwrap()[0];
        let name = format!("shard-0/{}", crate::format::segment_name(FilePosition(0)));
        disk.flip_bit(&name, entry.position.0 + 200, 1).unwrap();
        let mut out = BytesMut::new();
        let read = store.read(key, QueueOffset(0), limits(8), &|_| true, &mut out);
        let read = read.await.unwrap();
        assert_eq!((read.found, read.next_offset), (8, QueueOffset(9)));
        assert_eq!(store.damage_met(), [entry.position]);
        assert!(store.sparse_reads_counts().0 > 0);
    });
}
