//! Open halves on a real store whose device has damaged or lost a record.

use std::rc::Rc;

use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::system_topic;
use gantry_storage::disk::{Disk, DiskErrorKind};
use gantry_storage::shard_store::{ShardStore, StoreOptions};
use gantry_storage::sim_disk::{SimDisk, SimTail};
use gantry_storage::units::FilePosition;

use super::super::{client_addr, ext, peer, send_frame, topic};
use super::host::SimHost;
use super::world::{Core, Store, lone_core};
use crate::data::requests::parked::Caller;
use crate::data::transactions::ends_tests::{half_header, half_properties};
use crate::data::transactions::moves::open_halves;
use crate::refusal::Refusal;
use crate::seam::{CatalogChange, ToData};

const LOG: &str = "shard-0/00000000000000000000.log";

/// A core with one shard that takes halves.
struct Life {
    disk: SimDisk,
    core: Rc<Core>,
    host: Rc<SimHost>,
    store: Rc<Store>,
}

impl Life {
    async fn begin(disk: &SimDisk) -> Self {
        let tail = SimTail::new(disk, 1 << 20, false);
        let options = StoreOptions {
            segment_bytes: 8 << 20,
            ..StoreOptions::default()
        };
        let opened = ShardStore::open(disk.clone(), tail.lend(), options).await;
        let (store, report) = opened.unwrap();
        assert!(report.damage.is_empty(), "{report:?}");
        let host = Rc::new(SimHost::new(disk));
        let core = lone_core(&host, &store);
        let topics = [
            ("T", 1),
            (system_topic::TRANS_HALF_TOPIC, 10),
            (system_topic::TRANS_OP_HALF_TOPIC, 11),
            (system_topic::TRANS_CHECK_MAX_TIME_TOPIC, 12),
        ];
        let put = |(name, id)| ToData::Catalog(CatalogChange::TopicPut(topic(name, id, 1)));
        core.on_control(&mut topics.map(put).into());
        core.rebuild_transactions().await.unwrap();
        Self {
            disk: disk.clone(),
            core,
            host,
            store,
        }
    }

    /// Sends a half; where it lies.
    async fn send(&self) -> FilePosition {
        let caller = Caller {
            peer: peer(0, 1),
            addr: client_addr(),
        };
        let properties = half_properties("pg", "");
        // No two records in one block.
        let frame = send_frame(1, &half_header("T", 0, &properties), &[7; 9_000]);
        self.core.handle(caller, &frame).unwrap();
        self.work().await;
        let replies = self.host.take_replies();
        let (_, physical) = parse_offset_id(ext(&replies[0], "msgId")).unwrap();
        FilePosition(physical.cast_unsigned())
    }

    /// What there is to do is done, and the device has it.
    async fn work(&self) {
        while self.core.pass() {}
        self.disk.sleep_ms(2_000).await;
    }

    /// What retention is told.
    async fn floor(&self) -> Result<Option<FilePosition>, Refusal> {
        let shard = self.core.shards().next().unwrap();
        let floor = open_halves(&shard, FilePosition(0)).await;
        self.work().await;
        floor
    }

    fn open_halves(&self) -> usize {
        self.core.shards().next().unwrap().open_halves()
    }
}

/// Two halves that only the device has.
fn two_cold() -> (SimDisk, [FilePosition; 2]) {
    let disk = SimDisk::new(1);
    let places = disk.block_on(async {
        let life = Life::begin(&disk).await;
        let places = [life.send().await, life.send().await];
        life.store.shutdown().await.unwrap();
        places
    });
    disk.kill();
    (disk, places)
}

#[test]
fn a_half_with_a_flipped_bit_is_given_up_for_good() {
    let (disk, [first, second]) = two_cold();
    disk.flip_bit(LOG, first.0 + 500, 3).unwrap();
    for _ in 0..2 {
        let life = disk.block_on(Life::begin(&disk));
        disk.block_on(async {
            assert_eq!(life.floor().await, Ok(Some(second)));
            assert_eq!(life.open_halves(), 1);
            life.store.shutdown().await.unwrap();
        });
        disk.kill();
    }
    let life = disk.block_on(Life::begin(&disk));
    assert_eq!(life.open_halves(), 1, "as the log says");
}

#[test]
fn a_half_that_can_not_be_read_for_now_stays_open() {
    let (disk, [first, _]) = two_cold();
    let life = disk.block_on(Life::begin(&disk));
    disk.block_on(async {
        disk.spoil(LOG, (first.0, first.0 + 1), DiskErrorKind::Io);
        for _ in 0..4 {
            assert!(life.floor().await.is_err());
            disk.sleep_ms(8_000).await;
        }
        disk.clear_faults();
        assert_eq!(life.floor().await, Ok(Some(first)));
        assert_eq!(life.open_halves(), 2);
    });
}

#[test]
fn a_half_that_can_not_be_read_again_and_again_is_given_up() {
    let (disk, [first, second]) = two_cold();
    let life = disk.block_on(Life::begin(&disk));
    disk.block_on(async {
        disk.spoil(LOG, (first.0, first.0 + 1), DiskErrorKind::Io);
        // As often as retention comes to it.
        let mut failed = 0;
        while life.floor().await.is_err() {
            failed += 1;
            assert!(failed < 12);
            disk.sleep_ms(8_000).await;
        }
        assert!(failed >= 5, "{failed}");
        assert_eq!(life.floor().await, Ok(Some(second)));
        assert_eq!(life.open_halves(), 1);
    });
}
