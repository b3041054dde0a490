//! Messages sent back (36) while their supervisor panics, the cores refuse or fail, and the plane
//! ends, from a seed.
//!
//! What must hold: a consumer that is told success has its message's next try (or its dead letter)
//! stored, once; one that is told anything else, or nothing, has it stored once at most and sends
//! the message itself; every request is answered while the plane lives; a message is a dead letter
//! when its tries are used up, not before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use gantry_protocol::code::{request as code, response};
use gantry_protocol::message::{EncodedRecord, RecordParts, body_crc};
use gantry_storage::sim_disk::Random;
use gantry_storage::units::{PhysicalOffset, QueueOffset};

use super::rig::{Rig, frame_of, peer, request, settings};
use crate::control::desk::INJECT_PANIC;
use crate::refusal::Refusal;
use crate::seam::errands::{Errand, ErrandDone, FetchFault, Placed, Scanned, SupplyRecord};

const SEEDS: u64 = 12;
const LIVES: u64 = 3;
const TRIES_MAX: i32 = 3;

/// What the cores hold, and what they do wrong.
struct Cores {
    dice: Random,
    /// Request number → what was stored for it, each with its topic.
    stored: BTreeMap<u64, Vec<(String, i32)>>,
}

/// A record with a request's number as its body, tried so often before.
fn record(number: u64) -> Bytes {
    let host = "127.0.0.1:9".parse().unwrap();
    let body = number.to_string();
    let parts = RecordParts {
        topic: "T",
        queue_id: 0,
        flag: 0,
        queue_offset: 0,
        physical_offset: number.cast_signed(),
        sys_flag: 0,
        born_timestamp: 5,
        born_host: host,
        store_timestamp: 6,
        store_host: host,
        reconsume_times: tries(number),
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        body_crc: body_crc(body.as_bytes()),
        properties: b"UNIQ_KEY\x01u\x02",
    };
    let mut out = BytesMut::new();
    EncodedRecord::new(&parts).unwrap().write(&mut out);
    out.freeze()
}

fn tries(number: u64) -> i32 {
    i32::try_from(number % 5).unwrap()
}

impl Cores {
    fn fetch(&mut self, place: PhysicalOffset) -> Result<Bytes, FetchFault> {
        match self.dice.below(12) {
            0 => Err(FetchFault::Gone),
            1 => Err(FetchFault::Failed("the device failed".into())),
            2 => Err(FetchFault::Lost("no record there".into())),
            _ => Ok(record(place.0)),
        }
    }

    fn supply(&mut self, record: &SupplyRecord) -> Result<Placed, Refusal> {
        let kind = self.dice.below(10);
        if kind == 0 {
            return Err(Refusal::new(response::SYSTEM_BUSY, "full"));
        }
        let number: u64 = std::str::from_utf8(&record.body).unwrap().parse().unwrap();
        assert_eq!(record.reconsume_times, tries(number) + 1);
        let topic = record.topic.config.name.clone();
        let level = i32::from(record.key.queue.0) + 1;
        self.stored.entry(number).or_default().push((topic, level));
        if kind == 1 {
            // Stored, but not as the flush mode promises.
            return Err(Refusal::new(response::FLUSH_DISK_TIMEOUT, "late"));
        }
        Ok(Placed {
            offset: QueueOffset(0),
            physical: PhysicalOffset(1),
        })
    }

    fn run(&mut self, errand: &Errand) -> ErrandDone {
        match errand {
            Errand::Scan(_) => ErrandDone::Scanned(Ok(Scanned::default())),
            Errand::Fetch(places) => {
                let read = places.iter().map(|place| self.fetch(*place));
                ErrandDone::Fetched(read.collect())
            }
            Errand::Supply(records) => {
                let done = records.iter().map(|record| self.supply(record));
                ErrandDone::Supplied(done.collect())
            }
            Errand::Locate(..) => ErrandDone::Located(Ok(QueueOffset(0))),
            Errand::Durable => ErrandDone::Durable(Ok(())),
        }
    }
}

fn tell(rig: &Rig, mut command: gantry_protocol::Command, opaque: i32) {
    command.opaque = opaque;
    rig.request(peer(1), command);
}

fn send_back(rig: &Rig, number: u64) {
    let offset = number.to_string();
    let tries_max = TRIES_MAX.to_string();
    let fields = [
        ("group", "g"),
        ("offset", &*offset),
        ("delayLevel", "0"),
        ("maxReconsumeTimes", &*tries_max),
    ];
    let opaque = i32::try_from(number).unwrap();
    tell(
        rig,
        request(code::CONSUMER_SEND_MSG_BACK, &fields, ""),
        opaque,
    );
}

/// Requests of one life; answers by number.
fn one_life(rig: &mut Rig, dice: &Random, next: &mut u64, answers: &mut BTreeMap<u64, i32>) {
    // One panic fewer than the budget.
    let mut panics = gantry_runtime::control::RESTARTS_MAX as u64;
    for _ in 0..10 {
        if panics > 0 && dice.below(3) == 0 {
            panics -= 1;
            tell(rig, request(INJECT_PANIC, &[("part", "retry")], ""), 0);
        }
        let first = *next;
        for _ in 0..=dice.below(6) {
            send_back(rig, *next);
            *next += 1;
        }
        while (first..*next).any(|number| !answers.contains_key(&number)) {
            let reply = rig.until(|message| frame_of(message).is_some());
            let reply = frame_of(&reply).unwrap();
            let number = u64::try_from(reply.opaque).unwrap();
            if reply.is_reply() {
                assert!(answers.insert(number, reply.code).is_none(), "twice");
            }
        }
    }
    // The plane ends with these under way.
    for _ in 0..=dice.below(4) {
        send_back(rig, *next);
        *next += 1;
    }
}

fn judge(seed: u64, next: u64, answers: &BTreeMap<u64, i32>, cores: &Cores) {
    for number in 1_000..next {
        let stored = cores.stored.get(&number).map_or(&[][..], Vec::as_slice);
        let answer = answers.get(&number);
        let why = || format!("seed {seed}, {number}: {answer:?}, {stored:?}");
        if answer == Some(&response::SUCCESS) {
            assert_eq!(stored.len(), 1, "{}", why());
        }
        assert!(stored.len() <= 1, "{}", why());
        if let Some((topic, level)) = stored.first() {
            if tries(number) >= TRIES_MAX {
                assert_eq!(topic, "%DLQ%g", "{}", why());
            } else {
                assert_eq!(topic, "SCHEDULE_TOPIC_XXXX", "{}", why());
                assert_eq!(*level, 3 + tries(number), "{}", why());
            }
        }
    }
}

/// `GANTRY_SEEDS` seeds from `GANTRY_SEED` on.
#[test]
fn what_a_consumer_was_told_of_its_message_is_true() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_SEEDS", SEEDS));
    for seed in first..first + count.min(200) {
        let dice = Random::new(seed);
        let cores = Rc::new(RefCell::new(Cores {
            dice: Random::new(dice.next()),
            stored: BTreeMap::new(),
        }));
        let folder = tempfile::tempdir().unwrap();
        let (mut next, mut answers) = (1_000, BTreeMap::new());
        for _ in 0..LIVES {
            let mut rig = Rig::start(folder.path(), settings());
            let here = Rc::clone(&cores);
            rig.errand = Box::new(move |errand| here.borrow_mut().run(errand));
            one_life(&mut rig, &dice, &mut next, &mut answers);
            rig.stop();
        }
        let told = answers.values().filter(|code| **code == 0).count();
        assert!(told > 10, "seed {seed}: only {told} were taken");
        judge(seed, next, &answers, &cores.borrow());
    }
}
