//! Random lives and deaths of a shard, checked against what was acknowledged.
//!
//! A seed decides everything. The whole shard, with every kind of fault, is simulated in actors.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;

use crate::disk::{Disk, DiskErrorKind};
use crate::error::AppendError;
use crate::key_index::key_hash;
use crate::shard_store::tests::{SharedTail, bodies, limits, options, record};
use crate::shard_store::{FlushMode, ShardStore};
use crate::sim_disk::{Random, SimDisk, SimOp};
use crate::units::{FilePosition, QueueKey, QueueOffset};

const SEEDS: std::ops::Range<u64> = 0..60;
const STEPS: u64 = 60;
const RING_BYTES: usize = 512 << 10;

type Store = Rc<ShardStore<SimDisk>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    Kill,
    Power,
    Clean,
}

/// One record given to the store.
struct Given {
    body: Vec<u8>,
    end: FilePosition,
}

#[derive(Default)]
struct Queue {
    given: Vec<Given>,
    /// So many survive the death of the process.
    sealed_count: usize,
    /// So many survive a power cut.
    committed_count: usize,
}

struct Life {
    disk: SimDisk,
    tail: SharedTail,
    mode: FlushMode,
    choices: Random,
    queues: BTreeMap<QueueKey, Queue>,
    store: Option<Store>,
    bodies_count: u64,
    deaths: Vec<Death>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let choices = Random::new(seed ^ 0x5EED);
        let mode = if choices.chance(50) {
            FlushMode::Async
        } else {
            FlushMode::Sync
        };
        Self {
            disk: SimDisk::new(seed),
            tail: SharedTail::new(RING_BYTES),
            mode,
            choices,
            queues: BTreeMap::new(),
            store: None,
            bodies_count: 0,
            deaths: Vec::new(),
        }
    }

    fn open(&mut self) {
        let mut options = options(self.mode);
        options.checkpoint_bytes = 2 << 20;
        options.read_cache_bytes = 1 << 20;
        // Sometimes the process dies while it recovers.
        while self.choices.chance(20) {
            let (disk, tail, options) = (self.disk.clone(), self.tail.lend(), options.clone());
            self.disk.spawn(async move {
                let _ = ShardStore::open(disk, tail, options).await;
            });
            self.disk
                .block_on(self.disk.sleep_us(self.choices.below(20_000)));
            self.disk.kill();
        }
        let opened = ShardStore::open(self.disk.clone(), self.tail.lend(), options);
        let (store, report) = self.disk.block_on(opened).unwrap();
        assert!(report.damage.is_empty(), "{report:?}");
        self.store = Some(store);
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn append_some(&mut self) {
        let store = Rc::clone(self.store());
        for _ in 0..=self.choices.below(30) {
            let queue = u16::try_from(self.choices.below(5)).unwrap();
            let key = QueueKey::new(1, queue);
            self.bodies_count += 1;
            let mut body = format!("{}:", self.bodies_count).into_bytes();
            let size = match self.choices.below(100) {
                0..80 => self.choices.below(2000),
                80..97 => self.choices.below(20_000),
                _ => self.choices.below(200_000),
            };
            body.resize(body.len() + usize::try_from(size).unwrap(), b'x');
            match store.append(&record(key, &body, &[key_hash(key.topic, b"key")])) {
                Ok(appended) => {
                    let given = &mut self.queues.entry(key).or_default().given;
                    assert_eq!(appended.queue_offset, QueueOffset(given.len() as u64));
                    given.push(Given {
                        body,
                        end: appended.end,
                    });
                }
                Err(AppendError::TailFull { .. } | AppendError::Poisoned { .. }) => break,
                Err(other) => panic!("{other}"),
            }
            if self.choices.chance(10) {
                store.seal();
            }
        }
        if self.choices.chance(90) {
            store.seal();
        }
        self.observe();
    }

    /// Notes what must survive what from now on.
    fn observe(&mut self) {
        let store = Rc::clone(self.store());
        let (staged, committed) = (store.staged(), store.committed());
        for (key, queue) in &mut self.queues {
            let upto = |mark| queue.given.partition_point(|given| given.end <= mark);
            queue.sealed_count = queue.sealed_count.max(upto(staged));
            queue.committed_count = queue.committed_count.max(upto(committed));
            if store.poisoned().is_none() {
                let visible = match self.mode {
                    FlushMode::Async => queue.sealed_count,
                    FlushMode::Sync => queue.committed_count,
                };
                let max = store.bounds(*key).max;
                // The writer may seal on its own between two calls of ours.
                assert!(max.0 >= visible as u64 || max.0 >= upto(store.acknowledged()) as u64);
                assert!(max.0 <= queue.given.len() as u64);
            }
        }
    }

    fn read_some(&self, key: QueueKey, from: u64) {
        let store = self.store();
        let mut out = BytesMut::new();
        let all = |_| true;
        let from = QueueOffset(from);
        let read = store.read(key, from, limits(50), &all, &mut out);
        let outcome = self.disk.block_on(read).unwrap();
        let found = bodies(&out);
        assert_eq!(found.len(), usize::try_from(outcome.found).unwrap());
        let given = &self.queues[&key].given;
        for (body, given) in found.iter().zip(&given[usize::try_from(from.0).unwrap()..]) {
            assert!(*body == given.body, "queue {key:?} from {from}");
        }
    }

    fn read_somewhere(&self) {
        for key in self.queues.keys() {
            let max = self.store().bounds(*key).max.0;
            self.read_some(*key, self.choices.below(max + 1));
        }
    }

    fn die(&mut self, death: Death) {
        self.observe();
        self.deaths.push(death);
        let poisoned = self.store().poisoned().is_some();
        if death == Death::Clean {
            self.disk.clear_faults();
            let closed = self.disk.block_on(self.store().shutdown());
            assert!(closed.is_ok() || poisoned, "{closed:?}");
        }
        self.observe();
        match death {
            Death::Clean | Death::Kill => self.disk.kill(),
            Death::Power => self.disk.cut_power(),
        }
        self.store = None;
        if death == Death::Power {
            self.tail = SharedTail::new(RING_BYTES);
        }
        self.disk.clear_faults();
        self.open();
        self.check_after(death);
    }

    fn check_after(&mut self, death: Death) {
        let store = Rc::clone(self.store());
        for (key, queue) in &mut self.queues {
            let max = usize::try_from(store.bounds(*key).max.0).unwrap();
            let least = match death {
                Death::Kill | Death::Clean => queue.sealed_count,
                Death::Power => queue.committed_count,
            };
            assert!(
                max >= least,
                "{key:?}: {max} left of {least} after {death:?}"
            );
            assert!(
                max <= queue.given.len(),
                "{key:?}: {max} are more than were given"
            );
            queue.given.truncate(max);
            queue.sealed_count = max;
            queue.committed_count = max;
        }
        for key in self.queues.keys() {
            let max = store.bounds(*key).max.0;
            for from in (0..max).step_by(50) {
                self.read_some(*key, from);
            }
        }
    }

    fn step(&mut self) {
        match self.choices.below(100) {
            0..60 => self.append_some(),
            60..80 => {
                let us = self.choices.one_of(&[50, 500, 5_000, 20_000, 700_000]);
                self.disk
                    .block_on(self.disk.sleep_us(self.choices.below(us)));
            }
            80..86 => self.read_somewhere(),
            86..88 => {
                // Not awaited: it goes on while other things happen.
                let store = Rc::clone(self.store());
                self.disk.spawn(async move {
                    let _ = store.checkpoint().await;
                });
            }
            88..90 => {
                let op = if self.choices.chance(50) {
                    SimOp::Write
                } else {
                    SimOp::Sync
                };
                self.disk
                    .fail_after(op, self.choices.below(10), DiskErrorKind::Io);
            }
            90..94 => self.die(Death::Kill),
            94..98 => self.die(Death::Power),
            _ => self.die(Death::Clean),
        }
        let poisoned = self.store().poisoned().is_some();
        if poisoned {
            self.die(if self.choices.chance(50) {
                Death::Kill
            } else {
                Death::Power
            });
        }
    }
}

fn run(seed: u64) -> (u64, usize, u64) {
    let mut life = Life::new(seed);
    life.open();
    for _ in 0..STEPS {
        life.step();
    }
    life.die(Death::Kill);
    life.die(Death::Power);
    life.disk.kill();
    (life.disk.trace(), life.deaths.len(), life.bodies_count)
}

#[test]
fn what_was_acknowledged_survives() {
    let mut deaths = 0;
    let mut records = 0;
    for seed in SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let (_, died, given) = outcome.unwrap_or_else(|fault| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(fault)
        });
        deaths += died;
        records += given;
    }
    println!("{deaths} deaths, {records} records");
}

#[test]
fn a_seed_gives_one_trace() {
    for seed in [1, 2, 3, 50_000] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
