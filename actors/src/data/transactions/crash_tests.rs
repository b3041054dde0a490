//! Transactions under crashes: the real cores over a store that is cut off anywhere behind what was
//! acknowledged, again and again, from a seed.
//!
//! What must hold: a half whose producer says commit is delivered, exactly once when nothing
//! crashed, at most once more a crash; one whose producer says rollback is never delivered; one of
//! which nobody knows anything is given up; an ended one is not checked.

use std::collections::{BTreeMap, BTreeSet};

use futures_lite::future;
use gantry_protocol::message::RecordView;
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::request::transaction::EndTransaction;
use gantry_storage::sim_disk::Random;
use gantry_storage::units::FilePosition;

use super::ends_tests::{GIVEN_UP, HALF, half_header, half_properties};
use super::moves::open_halves;
use crate::data::queue::store::QueueStore;
use crate::data::testing::{TestBroker, ext, request_frame, send_frame};
use crate::seam::ToControl;
use crate::transaction::Half;

const SHARDS: u8 = 2;
const STEPS: u32 = 160;
/// Topic number of `TestBroker::with_parking`.
const PARKED: u32 = 20;

fn broker() -> TestBroker {
    let broker = TestBroker::new(2, SHARDS, |settings| {
        settings.delay_levels_ms = vec![1_000, 5_000];
    });
    knowing_topics(broker)
}

fn knowing_topics(broker: TestBroker) -> TestBroker {
    broker.with_transactions().with_parking()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Commit,
    Rollback,
    /// Its producer never knows.
    Unknown,
    /// Its producer knows when it is asked again.
    Slow,
}

struct Sent {
    truth: Truth,
    /// Offset and physical offset, as the producer was told.
    told: Option<(i64, i64)>,
}

struct Sim {
    broker: TestBroker,
    dice: Random,
    sent: Vec<Sent>,
    /// Halves whose producer was asked, and under which name.
    asked: Vec<(usize, (i64, i64))>,
    crashes: u64,
    trace: Vec<String>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            broker: broker(),
            dice: Random::new(seed),
            sent: Vec::new(),
            asked: Vec::new(),
            crashes: 0,
            trace: vec![format!("seed {seed}")],
        }
    }

    fn say(&mut self, line: String) {
        self.trace.push(line);
    }

    fn send(&mut self) {
        let number = self.sent.len();
        let truth = match self.dice.below(10) {
            0..=4 => Truth::Commit,
            5..=7 => Truth::Rollback,
            8 => Truth::Unknown,
            _ => Truth::Slow,
        };
        let queue = i32::try_from(self.dice.below(4)).unwrap();
        // Some wait after their commit, at the level whose queue lies on their shard.
        let delay = format!("DELAY\u{1}{}\u{2}", 1 + (1 + queue) % 2);
        let more = if self.dice.below(4) == 0 { &*delay } else { "" };
        let properties = half_properties("pg", more);
        let header = half_header("T", queue, &properties);
        let body = number.to_string();
        let opaque = i32::try_from(number).unwrap();
        self.broker
            .request(&send_frame(opaque, &header, body.as_bytes()));
        self.sent.push(Sent { truth, told: None });
        self.say(format!("send {number} {truth:?}"));
    }

    fn hear(&mut self) {
        for reply in self
            .broker
            .world
            .take_replies(crate::data::testing::peer(0, 1))
        {
            let opaque = usize::try_from(reply.opaque).unwrap();
            if opaque >= self.sent.len() || reply.code != 0 || self.sent[opaque].told.is_some() {
                continue;
            }
            let offset = ext(&reply, "queueOffset").parse().unwrap();
            let (_, physical) = parse_offset_id(ext(&reply, "msgId")).unwrap();
            self.sent[opaque].told = Some((offset, physical));
            self.say(format!("told {opaque} {offset} {physical}"));
        }
    }

    /// A producer's word; sometimes twice.
    fn end(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let count = self.sent.len() as u64;
        let number = usize::try_from(self.dice.below(count)).unwrap();
        let Sent { truth, told } = self.sent[number];
        let verdict = match truth {
            Truth::Commit => 8,
            Truth::Rollback => 12,
            Truth::Unknown | Truth::Slow => 0,
        };
        if let Some(told) = told {
            self.say(format!("end {number} {verdict}"));
            self.say_end(told, verdict, false);
        }
    }

    fn say_end(&self, (offset, physical): (i64, i64), verdict: i32, from_check: bool) {
        let header = EndTransaction {
            producer_group: "pg",
            half_offset: offset,
            half_physical: physical,
            commit_or_rollback: verdict,
            from_check,
            msg_id: None,
            transaction_id: None,
            topic: None,
            broker_name: None,
        };
        // Nobody listens for this opaque.
        self.broker
            .request(&request_frame(37, 1_000_000, &header.to_ext(), b""));
    }

    /// Checks leave the cores; each is judged by what is stored at that moment.
    fn collect_checks(&mut self) {
        for message in self.broker.world.take_control() {
            let ToControl::CheckHalves(checks) = message else {
                continue;
            };
            for check in checks {
                let half = Half::of(&check.record).unwrap();
                let number: usize = text(half.record.body).parse().unwrap();
                self.trace.push(format!("check {number} {}", check.checks));
                let delivered = self.delivered().get(&number).copied().unwrap_or(0);
                assert!(
                    delivered <= self.crashes,
                    "{number} is checked after its end: {:#?}",
                    self.trace
                );
                let id = half.id;
                let told = (id.offset.0.cast_signed(), id.physical.0.cast_signed());
                if let Some(first) = self.sent[number].told {
                    assert_eq!(first, told, "another name than its producer was told");
                }
                self.asked.push((number, told));
            }
        }
    }

    fn answer_checks(&mut self) {
        for (number, told) in std::mem::take(&mut self.asked) {
            let verdict = match self.sent[number].truth {
                Truth::Commit | Truth::Slow => 8,
                Truth::Rollback => 12,
                Truth::Unknown => 0,
            };
            // Sometimes the answer gets lost.
            if self.dice.below(5) > 0 {
                self.say(format!("answer {number}"));
                self.say_end(told, verdict, true);
            }
        }
    }

    fn work(&mut self) {
        let core = usize::try_from(self.dice.below(2)).unwrap();
        let core = &self.broker.cores[core];
        let mut words = self.broker.world.take_words(core.number);
        core.on_words(&mut words);
        core.pass();
        self.broker.world.run_tasks();
        self.collect_checks();
    }

    fn pass_time(&mut self) {
        let ms = self.dice.below(20_000);
        self.broker.world.pass_ms(ms);
        for core in &self.broker.cores {
            core.tick();
            core.check_halves();
        }
    }

    fn disturb(&mut self) {
        let kind = self.dice.below(4);
        let room = self.dice.below(3);
        for store in &self.broker.stores {
            match kind {
                0 => store.is_cold.set(true),
                1 => store.room.set(room),
                2 => store.is_cold.set(false),
                _ => store.room.set(u64::MAX),
            }
        }
        self.say(format!("disturb {kind} {room}"));
    }

    fn move_forward(&mut self) {
        for core in &self.broker.cores {
            for shard in core.shards() {
                let below = shard.store().staged();
                let below = FilePosition(below.0 / 2);
                let work = std::pin::pin!(open_halves(&shard, below));
                drop(future::block_on(future::poll_once(work)));
            }
        }
        self.say("move".to_owned());
    }

    /// The log is cut anywhere behind the last acknowledged half.
    fn crash(&mut self) {
        let told: BTreeSet<i64> = self
            .sent
            .iter()
            .filter_map(|one| Some(one.told?.1))
            .collect();
        let mut survivors = Vec::new();
        for store in &self.broker.stores {
            let ends = store.ends();
            let kept = ends
                .iter()
                .rposition(|(physical, _)| told.contains(physical));
            let from = kept.map_or(0, |at| at + 1);
            let choice = self.dice.below((ends.len() - from) as u64 + 1);
            let count = from + usize::try_from(choice).unwrap();
            survivors.push(store.survivor(count));
        }
        self.crashes += 1;
        // A check is sent seconds after its half was stored: no crash takes such a half.
        self.asked.clear();
        self.say(format!("crash {}", self.crashes));
        self.broker = knowing_topics(self.broker.restarted(survivors));
    }

    fn step(&mut self) {
        match self.dice.below(24) {
            0..=4 => self.send(),
            5..=9 => self.end(),
            10..=16 => self.work(),
            17..=18 => self.pass_time(),
            19 => self.disturb(),
            20 => self.crash(),
            21 => self.move_forward(),
            _ => self.answer_checks(),
        }
        self.hear();
    }

    /// Times each half's message is in the topic, or waits for its time.
    fn delivered(&self) -> BTreeMap<usize, u64> {
        let is_committed = |record: &RecordView<'_>| {
            assert_eq!(record.sys_flag & 0xC, 8, "a delivered message is committed");
        };
        let mut all = self.count(1, is_committed);
        for (number, times) in self.count(PARKED, is_committed) {
            *all.entry(number).or_default() += times;
        }
        all
    }

    fn count(&self, topic: u32, look: impl Fn(&RecordView<'_>)) -> BTreeMap<usize, u64> {
        let mut counts = BTreeMap::new();
        for store in &self.broker.stores {
            for bytes in store.records_of(topic) {
                let record = RecordView::parse(&bytes).unwrap();
                look(&record);
                let number: usize = text(record.body).parse().unwrap();
                *counts.entry(number).or_default() += 1;
            }
        }
        counts
    }

    /// Time passes until every producer was asked often enough.
    fn finish(&mut self) {
        for store in &self.broker.stores {
            store.is_cold.set(false);
            store.room.set(u64::MAX);
        }
        for _ in 0..200 {
            self.broker.settle();
            self.hear();
            self.collect_checks();
            self.answer_checks();
            self.broker.settle();
            if self.broker.open_halves() == 0 {
                break;
            }
            self.broker.pass_ms(10_000);
            for core in &self.broker.cores {
                core.check_halves();
            }
        }
        assert_eq!(self.broker.open_halves(), 0, "{:#?}", self.trace);
    }

    fn judge(&self) {
        let delivered = self.delivered();
        let given_up = self.count(GIVEN_UP, |_| {});
        let stored = self.count(HALF, |_| {});
        for (number, sent) in self.sent.iter().enumerate() {
            let times = delivered.get(&number).copied().unwrap_or(0);
            let why = || {
                format!(
                    "{number} {:?}, {times} times: {:#?}",
                    sent.truth, self.trace
                )
            };
            assert!(times <= 1 + self.crashes, "{}", why());
            if sent.told.is_some() {
                assert!(stored.contains_key(&number), "lost: {}", why());
            }
            let is_there = stored.contains_key(&number);
            match sent.truth {
                Truth::Commit | Truth::Slow => {
                    // Lost answers may use up all checks.
                    let known = times > 0 || given_up.contains_key(&number);
                    assert!(known || !is_there, "a lost commit: {}", why());
                }
                Truth::Rollback => assert_eq!(times, 0, "{}", why()),
                Truth::Unknown => {
                    assert_eq!(times, 0, "{}", why());
                    assert!(given_up.contains_key(&number) || !is_there, "{}", why());
                }
            }
        }
    }
}

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap()
}

fn run(seed: u64) -> (Vec<String>, u64) {
    let mut sim = Sim::new(seed);
    for _ in 0..STEPS {
        sim.step();
    }
    sim.finish();
    sim.judge();
    let delivered = sim.delivered().values().sum();
    (sim.trace, delivered)
}

/// `GANTRY_SEEDS` seeds from `GANTRY_SEED` on; each runs twice and must do the same.
#[test]
fn crashes_repeat_and_never_lose() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_SEEDS", 200));
    let mut delivered = 0;
    for seed in first..first + count {
        let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (trace, messages) = run(seed);
        delivered += messages;
        if seed % 8 == 0 {
            assert_eq!(run(seed).0, trace, "one seed, two stories");
        }
    }
    assert!(delivered > count, "{delivered} messages in {count} runs");
}
