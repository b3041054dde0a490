//! A broker core without sockets, disk or executor, for the tests of this folder.
//!
//! **Owns** the cores of a test and the frames it sends.
//! **Lives on** a test's thread.
//! **Invariants** time passes only when a test says so; nothing runs by itself.
//! **Limits** none.
//! **Not here** real sockets and disks (`seat_tests`).

pub mod fake_host;
pub mod memory_store;
mod simulation;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gantry_protocol::body::{SubscriptionGroupConfig, TopicConfig};
use gantry_protocol::command::{Command, ExtValue, writer};
use gantry_protocol::frame::{Frame, HeaderEncoding, take_frame};
use gantry_protocol::request::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullHeader};
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::system_topic;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{ShardId, TopicId};

use self::fake_host::{FakeHost, FakeWorld};
use self::memory_store::MemoryStore;
use super::core::{CorePlace, DataCore};
use super::requests::parked::Caller;
use crate::kept_settings::KeptSettings;
use crate::live::{KeyVerdict, StartCheck};
use crate::seam::owed::OwedRow;
use crate::seam::{CatalogChange, GroupEntry, ToControl, ToData, TopicEntry};
use crate::settings::{
    BrokerSettings, FlushDiskType, IndexSettings, RegistrationSettings, RetentionSettings,
};

/// A core of the tests.
pub type TestCore = DataCore<MemoryStore, FakeHost>;

/// Several cores in one thread.
pub struct TestBroker {
    pub world: Rc<FakeWorld>,
    pub cores: Vec<Rc<TestCore>>,
    pub stores: Vec<Rc<MemoryStore>>,
}

impl TestBroker {
    /// As many cores and shards; topic `T` has 4 queues and number 1, group `g` exists.
    pub fn new(cores: u16, shards: u8, change: impl FnOnce(&mut BrokerSettings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let sync = settings.flush_disk_type == FlushDiskType::Sync;
        let stores = (0..shards).map(|shard| MemoryStore::new(ShardId(shard), sync));
        Self::over(cores, Arc::new(settings), stores.collect(), 1_000_000)
    }

    /// The same broker after a crash that left these stores.
    pub fn restarted(&self, stores: Vec<Rc<MemoryStore>>) -> Self {
        let cores = u16::try_from(self.cores.len()).unwrap();
        let settings = Arc::clone(&self.cores[0].settings);
        Self::over(cores, settings, stores, self.world.now_us.get())
    }

    #[allow(clippy::needless_pass_by_value, reason = "made for the broker")]
    fn over(
        cores: u16,
        settings: Arc<BrokerSettings>,
        stores: Vec<Rc<MemoryStore>>,
        now_us: u64,
    ) -> Self {
        let world = FakeWorld::new(cores);
        world.now_us.set(now_us);
        let shards = u8::try_from(stores.len()).unwrap();
        let mut broker = Self {
            world: Rc::clone(&world),
            cores: Vec::new(),
            stores: stores.clone(),
        };
        for number in 0..cores {
            let place = CorePlace {
                number,
                cores,
                shards_count: shards,
                seed: u64::from(number) + 7,
            };
            let host = world.host(number);
            let core = DataCore::new(
                place,
                Arc::clone(&settings),
                host,
                Rc::new(|line| panic!("{line}")),
            );
            for shard in (0..shards).filter(|shard| u16::from(*shard) % cores == number) {
                let store = Rc::clone(&stores[usize::from(shard)]);
                store.on_progress(core.add_shard(ShardId(shard), Rc::clone(&store)));
            }
            broker.cores.push(core);
        }
        broker.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic("T", 1, 4))));
        broker.tell_all(|| ToData::Catalog(CatalogChange::GroupPut(group("g"))));
        broker
    }

    /// Knows the topics of transactions, and takes halves: 10 half, 11 op, 12 given up.
    pub fn with_transactions(self) -> Self {
        let queues = i32::try_from(self.stores.len()).unwrap();
        let names = [
            (system_topic::TRANS_HALF_TOPIC, 10),
            (system_topic::TRANS_OP_HALF_TOPIC, 11),
            (system_topic::TRANS_CHECK_MAX_TIME_TOPIC, 12),
        ];
        for (name, id) in names {
            self.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic(name, id, queues))));
        }
        for core in &self.cores {
            futures_lite::future::block_on(core.rebuild_transactions()).unwrap();
        }
        self
    }

    /// Halves that are open, of all shards.
    pub fn open_halves(&self) -> usize {
        let shards = self.cores.iter().flat_map(|core| core.shards());
        shards.map(|shard| shard.open_halves()).sum()
    }

    /// Knows the topics of parked messages: 20 of levels (two queues), 21 of timers.
    pub fn with_parking(self) -> Self {
        for (name, id, queues) in [
            (system_topic::SCHEDULE_TOPIC, 20, 2),
            (system_topic::TIMER_TOPIC, 21, 1),
        ] {
            self.tell_all(|| ToData::Catalog(CatalogChange::TopicPut(topic(name, id, queues))));
        }
        self
    }

    /// Rows of what is owed that the cores told the control plane; other words are dropped.
    pub fn owed(&self) -> Vec<OwedRow> {
        let told = self.world.take_control().into_iter();
        let rows = told.filter_map(|told| match told {
            ToControl::Owed(rows) => Some(rows),
            _ => None,
        });
        rows.flatten().collect()
    }

    pub fn tell_all(&self, message: impl Fn() -> ToData) {
        for core in &self.cores {
            core.on_control(&mut vec![message()]);
        }
    }

    /// Sends a request on a connection of core 0.
    pub fn request(&self, frame: &Frame) {
        self.request_at(0, 1, frame);
    }

    pub fn request_at(&self, core: u16, slot: u32, frame: &Frame) {
        let caller = Caller {
            peer: peer(core, slot),
            addr: client_addr(),
        };
        self.cores[usize::from(core)].handle(caller, frame).unwrap();
    }

    /// Records that the stores have read.
    pub fn record_reads(&self) -> usize {
        let stores = self.stores.iter();
        stores.map(|store| store.record_reads.get()).sum()
    }

    /// Lets everything run until nothing more happens.
    pub fn settle(&self) {
        for _ in 0..1000 {
            let mut busy = false;
            for core in &self.cores {
                let mut words = self.world.take_words(core.number);
                busy |= !words.is_empty();
                core.on_words(&mut words);
                busy |= core.pass();
            }
            busy |= self.world.run_tasks();
            if !busy && self.world.is_quiet() {
                return;
            }
        }
        panic!("the cores never come to rest");
    }

    /// Replies that have come to a connection of core 0.
    pub fn replies(&self) -> Vec<Command> {
        self.settle();
        self.world.take_replies(peer(0, 1))
    }

    /// The one reply that has come.
    pub fn reply(&self) -> Command {
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    /// Time passes and deadlines are looked at.
    pub fn pass_ms(&self, ms: u64) {
        self.settle();
        self.world.pass_ms(ms);
        for core in &self.cores {
            core.tick();
        }
        self.settle();
    }
}

pub fn peer(core: u16, slot: u32) -> PeerRef {
    PeerRef {
        core,
        slot,
        generation: 1,
    }
}

pub fn client_addr() -> SocketAddr {
    "10.1.2.3:4567".parse().unwrap()
}

pub fn topic(name: &str, id: u32, queues: i32) -> Arc<TopicEntry> {
    Arc::new(TopicEntry {
        id: TopicId(id),
        config: TopicConfig::new(name, queues),
    })
}

pub fn group(name: &str) -> Arc<GroupEntry> {
    let config = SubscriptionGroupConfig::new(name);
    Arc::new(GroupEntry {
        name: Arc::from(name),
        config,
        live: None,
        forbidden: Arc::default(),
    })
}

pub fn ext<'a>(reply: &'a Command, name: &str) -> &'a str {
    let fields: HashMap<&str, &str> = reply
        .ext
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    fields
        .get(name)
        .copied()
        .unwrap_or_else(|| panic!("no {name} in {reply:?}"))
}

pub fn send_header(topic: &str) -> SendHeader<'_> {
    SendHeader {
        producer_group: "p",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: 0,
        sys_flag: 0,
        born_timestamp: 1_000,
        flag: 0,
        properties: "",
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    }
}

pub fn send_frame(opaque: i32, header: &SendHeader<'_>, body: &[u8]) -> Frame {
    request_frame(310, opaque, &header.to_ext(310), body)
}

pub fn pull_header(topic: &str, queue_id: i32, offset: i64) -> PullHeader<'_> {
    PullHeader {
        consumer_group: "g",
        topic,
        queue_id,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: FLAG_SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_ms: 15_000,
        sub_version: 0,
        subscription: Some("*"),
        expression_type: Some("TAG"),
        max_msg_bytes: None,
    }
}

pub fn pull_frame(opaque: i32, header: &PullHeader<'_>) -> Frame {
    request_frame(11, opaque, &header.to_ext(), b"")
}

/// A pull that may be suspended.
pub fn long_pull(topic: &str, queue_id: i32, offset: i64) -> PullHeader<'_> {
    PullHeader {
        sys_flag: FLAG_SUBSCRIPTION | FLAG_SUSPEND,
        ..pull_header(topic, queue_id, offset)
    }
}

pub fn request_frame(code: i32, opaque: i32, ext: &[(&str, ExtValue<'_>)], body: &[u8]) -> Frame {
    let mut out = BytesMut::new();
    let encoding = HeaderEncoding::Json;
    writer::write_request(&mut out, encoding, opaque, code, false, Some(ext), &[body]).unwrap();
    take_frame(&mut out).unwrap().unwrap()
}

/// A record's queue offset and body, for every record of a pull reply.
pub fn records(body: &Bytes) -> Vec<(i64, String)> {
    gantry_protocol::message::RecordIter::new(body)
        .map(|record| {
            let record = record.unwrap();
            (
                record.queue_offset,
                String::from_utf8(record.body.to_vec()).unwrap(),
            )
        })
        .collect()
}

/// Where the broker of a test would listen.
fn addr() -> SocketAddr {
    "127.0.0.1:10911".parse().unwrap()
}

pub fn settings() -> BrokerSettings {
    BrokerSettings {
        cluster_name: "DefaultCluster".to_owned(),
        broker_name: "b".to_owned(),
        broker_id: 0,
        advertised: addr(),
        ha_advertised: addr(),
        listen: addr(),
        listen_vip: addr(),
        namesrv_addrs: Vec::new(),
        region_id: "DefaultRegion".to_owned(),
        trace_on: true,
        trace_topic_enable: false,
        trace_topic_name: "RMQ_SYS_TRACE_TOPIC".to_owned(),
        broker_permission: 6,
        auto_create_topic_enable: true.into(),
        auto_create_subscription_group: true.into(),
        default_topic_queue_nums: 8,
        cluster_topic_enable: true,
        broker_topic_enable: true,
        message_bytes_max: (4_u64 << 20).into(),
        enable_property_filter: false.into(),
        long_polling_enable: true.into(),
        short_polling_time_ms: 1000_u64.into(),
        notify_consumer_ids_changed_enable: true.into(),
        lite_pull_message_enable: true.into(),
        enable_mixed_message_type: false,
        reject_pull_consumer_enable: false,
        index: IndexSettings::STOCK,
        latency_profile_enable: true,
        coalesce_max_us: 0,
        use_server_side_reset_offset: true.into(),
        transfer_bytes_max_in_memory: (256_u64 << 10).into(),
        transfer_count_max_in_memory: 32_u64.into(),
        default_query_max_num: 32_u64.into(),
        wait_time_in_send_queue_ms: 200_u64.into(),
        send_queue_capacity: 10_000_u64.into(),
        flush_disk_type: FlushDiskType::Async,
        sync_flush_timeout_ms: 5_000_u64.into(),
        flush_interval_ms: 500,
        flush_consumer_offset_interval_ms: 1_000,
        registration: RegistrationSettings::stock(),
        channel_expired_timeout_ms: 120_000_u64.into(),
        channel_idle_max_seconds: 120,
        start_accept_send_request_ms: 0_u64.into(),
        reject_transaction_message: false.into(),
        transaction_timeout_ms: 6_000,
        transaction_check_interval_ms: 30_000,
        transaction_check_max: 15,
        transaction_age_ms_max: 72 * 3_600_000,
        delay_levels_ms: Vec::new(),
        timer_wheel_enable: true,
        timer_max_delay_sec: 259_200,
        recall_message_enable: true,
        store_reply_message_enable: true,
        data_dir: PathBuf::new(),
        tail_dir: None,
        retention: RetentionSettings::stock(256 << 20),
        tail_bytes: 16 << 20,
        segment_bytes: 256 << 20,
        shard_count: 1,
        memory_limit_bytes: 1 << 30,
        config_lines: Vec::new(),
        file_lines: Vec::new(),
        kept: KeptSettings::default(),
        key_check: |_, _| KeyVerdict::Unknown,
        start_check: StartCheck::default(),
    }
}
