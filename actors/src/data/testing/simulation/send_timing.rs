//! What a send costs its core, from the bytes of a read to the bytes of the answers, on a store
//! whose device is simulated. Not right or wrong: printed by
//! `cargo test --release -p gantry-actors --lib timing_of_sends -- --ignored --nocapture`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gantry_protocol::code::request;
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::frame::{HeaderEncoding, take_frame};
use gantry_storage::shard_store::{ShardStore, StoreOptions};
use gantry_storage::sim_disk::{SimDisk, SimTail};

use super::super::{client_addr, peer, send_header, topic};
use super::host::SimHost;
use super::world::{Core, lone_core};
use crate::data::host::Host;
use crate::data::requests::parked::Caller;
use crate::seam::{CatalogChange, ToData};

/// Sends of one read: what a connection with so many in flight brings at once.
const READ_SENDS: usize = 64;
/// Reads, and how often the device gets on.
const READS: usize = 2_000;
const READS_PER_WRITE: usize = 16;
/// Queues of a topic.
const QUEUES: i32 = 8;

/// What is sent.
struct Load {
    name: &'static str,
    encoding: HeaderEncoding,
    body_bytes: usize,
    topics: u32,
}

/// A core with one shard.
struct Rig {
    disk: SimDisk,
    core: Rc<Core>,
    host: Rc<SimHost>,
}

impl Rig {
    fn new(topics: u32) -> Self {
        let disk = SimDisk::new(1);
        disk.set_latency_us(20, 30);
        let tail = SimTail::new(&disk, 16 << 20, false);
        let opened = ShardStore::open(disk.clone(), tail.lend(), StoreOptions::default());
        let (store, _) = disk.block_on(opened).unwrap();
        let host = Rc::new(SimHost::new(&disk));
        host.profile().begin(0);
        let core = lone_core(&host, &store);
        for number in 0..topics {
            let entry = topic(&topic_name(number), number + 1, QUEUES);
            core.on_control(&mut vec![ToData::Catalog(CatalogChange::TopicPut(entry))]);
        }
        Self { disk, core, host }
    }

    /// One read and the pass behind it; what each took.
    fn round(&self, sends: &mut BytesMut) -> (Duration, Duration) {
        let caller = Caller {
            peer: peer(0, 1),
            addr: client_addr(),
        };
        let begun = Instant::now();
        let read_us = self.host.mono_us();
        while let Some(frame) = take_frame(sends).unwrap() {
            self.core.handle(caller, &frame).unwrap();
        }
        self.core.frames_done(read_us, read_us, read_us);
        let (handled, stored) = (begun.elapsed(), Instant::now());
        while self.core.pass() {}
        (handled, stored.elapsed())
    }
}

fn topic_name(number: u32) -> String {
    format!("BenchmarkTopic{number:03}")
}

/// The sends of a read, to one queue after the other.
fn read_of(load: &Load, first: usize) -> BytesMut {
    let mut out = BytesMut::new();
    let body = vec![7; load.body_bytes];
    for number in first..first + READ_SENDS {
        let number = u32::try_from(number).unwrap();
        let name = topic_name(number % load.topics);
        let properties =
            format!("UNIQ_KEY\u{1}7F0000010A2B18B4AAC2{number:012X}\u{2}WAIT\u{1}true\u{2}");
        let mut header = send_header(&name);
        header.queue_id = i32::try_from(number / load.topics).unwrap() % QUEUES;
        header.producer_group = "gantry_bench_producer";
        header.born_timestamp = 1_795_384_800_000;
        header.properties = &properties;
        let opaque = i32::try_from(number).unwrap();
        let (code, encoding) = (request::SEND_MESSAGE_V2, load.encoding);
        let ext: &[(&str, ExtValue<'_>)] = &header.to_ext(code);
        writer::write_request(&mut out, encoding, opaque, code, false, Some(ext), &[&body])
            .unwrap();
    }
    out
}

#[test]
#[ignore = "a measurement"]
fn timing_of_sends() {
    let (json, binary) = (HeaderEncoding::Json, HeaderEncoding::Binary);
    let loads = [
        ("128 B, binary", binary, 128, 1),
        ("1 KiB, binary", binary, 1024, 1),
        ("1 KiB, JSON", json, 1024, 1),
        ("1 KiB, JSON, 1,000 queues", json, 1024, 125),
    ];
    for (name, encoding, body_bytes, topics) in loads {
        let load = Load {
            name,
            encoding,
            body_bytes,
            topics,
        };
        let rig = Rig::new(topics);
        let mut times = Vec::new();
        for read in 0..READS {
            let mut sends = read_of(&load, read * READ_SENDS);
            times.push(rig.round(&mut sends));
            assert!(rig.host.drop_replies() > 0);
            if read % READS_PER_WRITE == 0 {
                rig.disk.block_on(rig.host.sleep_ms(20));
            }
        }
        let median = |of: fn(&(Duration, Duration)) -> Duration| {
            let mut sorted: Vec<_> = times.iter().map(of).collect();
            sorted.sort_unstable();
            sorted[READS / 2].as_nanos() / READ_SENDS as u128
        };
        let (frames, pass) = (median(|one| one.0), median(|one| one.1));
        println!(
            "{}: frames {frames} ns, pass {pass} ns a message",
            load.name
        );
    }
}
