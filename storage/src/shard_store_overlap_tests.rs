//! Two synced groups in flight, finishing in any order.

use super::tests::{SharedTail, bodies, limits, options, record};
use super::*;
use crate::sim_disk::SimDisk;

const KEY: QueueKey = QueueKey {
    topic: crate::units::TopicId(1),
    queue: crate::units::QueueId(0),
};

type Store = Rc<ShardStore<SimDisk>>;

async fn open(disk: &SimDisk) -> Store {
    let tail = SharedTail::new(1 << 20).lend();
    let opened = ShardStore::open(disk.clone(), tail, options(FlushMode::Sync)).await;
    opened.unwrap().0
}

/// Appends records a little apart until about `count` are committed; how many are, and the most
/// groups seen in flight.
async fn produce(disk: &SimDisk, store: &Store, count: u64) -> (u64, usize) {
    let mut ends = Vec::new();
    let mut most = 0;
    loop {
        let committed = store.committed();
        let told = ends.iter().filter(|end| **end <= committed).count() as u64;
        if told >= count {
            return (told, most);
        }
        let body = (ends.len() as u64).to_be_bytes();
        ends.push(store.append(&record(KEY, &body, &[])).unwrap().end);
        store.seal();
        disk.sleep_us(disk.random().below(200)).await;
        most = most.max(store.log.in_flight.borrow().len());
    }
}

#[test]
fn what_was_told_durable_survives_whichever_write_finishes_first() {
    let mut most_in_flight = 0;
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        disk.set_latency_us(10, 3_000);
        let told = disk.block_on(async {
            let store = open(&disk).await;
            let (told, most) = produce(&disk, &store, 5 + seed / 2).await;
            most_in_flight = most_in_flight.max(most);
            told
        });
        disk.cut_power();
        let found = disk.block_on(async {
            let store = open(&disk).await;
            let mut out = bytes::BytesMut::new();
            let from = store.bounds(KEY).min;
            let read = store.read(KEY, from, limits(1 << 20), &|_| true, &mut out);
            read.await.unwrap();
            bodies(&out)
        });
        disk.kill();
        let expected = (0_u64..).map(|number| number.to_be_bytes().to_vec());
        assert!(found.len() as u64 >= told, "seed {seed}: {told} told");
        assert!(
            found.iter().cloned().eq(expected.take(found.len())),
            "seed {seed}"
        );
    }
    assert_eq!(most_in_flight, 2, "nothing overlapped");
}
