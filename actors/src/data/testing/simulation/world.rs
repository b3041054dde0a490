//! One world: a disk, its shards' tails, the clients' knowledge; lives and deaths of a core on it.
//!
//! **Owns** starting a core (with recoveries that fail), ending it, and what must be left then.
//! **Lives on** a test's thread.
//! **Invariants** a death takes only what the flush mode lets it take: checked after each.
//! **Limits** `RECOVERIES_MAX` recoveries that fail by design, then one must succeed.
//! **Not here** what clients do meanwhile (`life`), reading everything back (`audit`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use gantry_storage::disk::Disk;
use gantry_storage::error::RecoverError;
use gantry_storage::shard_store::{FlushMode, RecoveryReport, ShardStore};
use gantry_storage::sim_disk::{Random, SimDisk, SimTail};
use gantry_storage::units::{FilePosition, QueueKey, ShardId};

use super::super::{group, settings, topic};
use super::damage::Damages;
use super::host::SimHost;
use super::life::Asked;
use super::mix::Mix;
use super::oracle::{Oracle, Outcome, position_of};
use super::starts::Start;
use crate::data::core::{CorePlace, DataCore};
use crate::seam::{CatalogChange, OffsetRow, ToData};
use crate::settings::FlushDiskType;

/// Recoveries of one start that may be made to fail.
const RECOVERIES_MAX: u64 = 4;
/// A run and one record more, which is what may come to lie in it (`storage::log::staging`).
const RUN_BYTES: u64 = (256 << 10) + (64 << 10);
/// The topic's number.
pub const TOPIC: u32 = 1;

pub type Store = ShardStore<SimDisk>;
pub type Core = DataCore<Store, SimHost>;

/// A core of its own for a store of one shard.
pub fn lone_core(host: &Rc<SimHost>, store: &Rc<Store>) -> Rc<Core> {
    let place = CorePlace {
        number: 0,
        cores: 1,
        shards_count: 1,
        seed: 7,
    };
    let on_bug = Rc::new(|line: &str| panic!("{line}"));
    let core = DataCore::new(place, Arc::new(settings()), Rc::clone(host), on_bug);
    store.on_progress(core.add_shard(ShardId(0), Rc::clone(store)));
    core
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Clean,
    Kill,
    Power,
}

/// A started core.
pub struct Running {
    pub core: Rc<Core>,
    pub host: Rc<SimHost>,
    pub stores: Vec<Rc<Store>>,
    /// Everything before this is cold, by shard.
    pub cold_until: Vec<u64>,
}

/// Totals of a run.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub requests: u64,
    pub messages: u64,
    pub acked: u64,
    pub refused: u64,
    pub records_read: u64,
    pub deaths: BTreeMap<&'static str, u64>,
    pub lost_in_bounds: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub read_errors: u64,
    /// Damage that a start refused to pass over.
    pub refused_starts: u64,
    /// Segments that retention gave up.
    pub given_up: u64,
    pub simulated_ms: u64,
}

/// A world.
pub struct World {
    pub mix: Mix,
    pub disk: SimDisk,
    pub tails: Vec<SimTail>,
    pub choices: Random,
    pub oracle: RefCell<Oracle>,
    pub running: RefCell<Option<Running>>,
    pub asked: RefCell<BTreeMap<i32, Asked>>,
    pub last_opaque: Cell<i32>,
    pub totals: RefCell<Totals>,
    /// Consumer offsets as the control plane keeps them, and as clients last heard.
    pub persisted: RefCell<BTreeMap<(QueueKey, Arc<str>), u64>>,
    pub committed: RefCell<BTreeMap<u16, u64>>,
    /// The newest moment at which no shard was poisoned.
    pub healthy_us: Cell<u64>,
    /// Faults counted, and failures of the log, when this life began.
    pub faults_before: Cell<u64>,
    pub log_failures_before: Cell<u64>,
    /// What was done to files at rest, to be undone.
    pub damages: RefCell<Damages>,
    /// Decides where sectors are lost: seeds without that keep their course.
    pub losses: Random,
    /// Decides what retention gives up: the same.
    pub drops: Random,
    /// What retention was ordered to give up, by shard; queues' first offsets seen in this life.
    pub ordered: RefCell<BTreeMap<u8, FilePosition>>,
    pub mins: RefCell<BTreeMap<u16, u64>>,
    pub given_up: Rc<Cell<u64>>,
    /// The last start of each shard.
    pub starts: RefCell<BTreeMap<u8, Start>>,
    /// Wrong reads may have made a checkpoint give its indexes up.
    pub gave_up: Cell<bool>,
    /// The key index has left out keys, as it may.
    pub skipped: Cell<bool>,
    pub trace: Cell<u64>,
    /// Damage nobody was told of ended this world: nothing can be asked of it any more.
    pub is_over: Cell<bool>,
}

impl World {
    pub fn new(seed: u64, mix: Mix) -> Self {
        let disk = SimDisk::new(seed);
        disk.set_latency_us(20, mix.latency_us);
        disk.keep_names_in_order(mix.names_in_order);
        let tails = (0..mix.shards)
            .map(|_| SimTail::new(&disk, mix.ring_bytes, mix.tail_in_folder))
            .collect();
        Self {
            choices: Random::new(seed ^ 0x5EED),
            oracle: RefCell::new(Oracle::new(mix.queues)),
            mix,
            disk,
            tails,
            running: RefCell::default(),
            asked: RefCell::default(),
            last_opaque: Cell::new(0),
            totals: RefCell::default(),
            persisted: RefCell::default(),
            committed: RefCell::default(),
            healthy_us: Cell::new(0),
            faults_before: Cell::new(0),
            log_failures_before: Cell::new(0),
            damages: RefCell::default(),
            losses: Random::new(seed ^ 0x1057_5EC7),
            drops: Random::new(seed ^ 0x0D20_9ED5),
            ordered: RefCell::default(),
            mins: RefCell::default(),
            given_up: Rc::default(),
            starts: RefCell::default(),
            gave_up: Cell::new(false),
            skipped: Cell::new(false),
            trace: Cell::new(seed),
            is_over: Cell::new(false),
        }
    }

    pub fn faults_count(&self) -> u64 {
        let counts = self.disk.fault_counts();
        let deaths = [
            "write torn by a death",
            "sector or name lost in a power cut",
        ];
        let faults = counts.iter().filter(|(what, _)| !deaths.contains(what));
        faults.map(|(_, count)| count).sum()
    }

    pub async fn open_stores(&self) -> Result<Vec<(Rc<Store>, RecoveryReport)>, RecoverError> {
        let mut opened = Vec::new();
        for (shard, tail) in (0..).zip(&self.tails) {
            let (disk, options) = (self.disk.clone(), self.mix.options(shard));
            opened.push(ShardStore::open(disk, tail.lend(), options).await?);
        }
        Ok(opened)
    }

    /// Starts the core; false when damage that nobody was told of keeps it from starting.
    pub fn start(&self) -> bool {
        for attempt in 0.. {
            self.disk.clear_faults();
            let may_die = attempt < RECOVERIES_MAX && self.mix.die_in_recovery;
            if may_die && self.choices.chance(40) {
                if self.choices.chance(20) {
                    let tail = self.choices.below(self.tails.len() as u64);
                    self.tails[usize::try_from(tail).unwrap()].die_after(self.choices.below(3));
                } else {
                    self.disk.die_after(1 + self.choices.below(300));
                }
            }
            let failing = attempt < RECOVERIES_MAX && self.mix.rates_in_recovery;
            if failing && self.choices.chance(40) {
                self.disk.set_rates(self.mix.rates);
            }
            // From here on: a shard that is open already works while the next one recovers.
            let faults = self.faults_count();
            self.faults_before.set(faults);
            self.log_failures_before.set(self.disk.log_failures());
            let opened = self.disk.run(self.open_stores());
            self.disk.clear_faults();
            let had_faults = self.faults_count() > faults;
            if !matches!(opened, Some(Ok(_))) && self.reads_may_fail() {
                self.forget_checkpoints(had_faults);
            }
            match opened {
                Some(Ok(opened)) => {
                    self.disk.live_on();
                    self.tails.iter().for_each(SimTail::live_on);
                    self.gave_up.set(false);
                    self.join(opened);
                    return true;
                }
                Some(Err(error)) => {
                    if !self.explain(&error, had_faults) {
                        return false;
                    }
                    self.died("failed start", false);
                }
                None => {
                    let power = self.mix.power_cuts && self.choices.chance(50);
                    self.died("death in recovery", power);
                }
            }
        }
        unreachable!("the last recovery has no faults")
    }

    /// A start failed: it must be for a reason. False when it can never succeed.
    fn explain(&self, error: &RecoverError, had_faults: bool) -> bool {
        if had_faults && matches!(error, RecoverError::Disk(_)) {
            return true;
        }
        let excused = had_faults || self.starts_may_fail();
        assert!(excused, "the shard does not open: {error}");
        self.totals.borrow_mut().refused_starts += 1;
        self.restore();
        had_faults || !self.is_damaged()
    }

    fn join(&self, opened: Vec<(Rc<Store>, RecoveryReport)>) {
        let mut settings = settings();
        settings.flush_disk_type = match self.mix.flush {
            FlushMode::Async => FlushDiskType::Async,
            FlushMode::Sync => FlushDiskType::Sync,
        };
        settings.default_query_max_num = 64_u64.into();
        settings.transfer_count_max_in_memory = 500_u64.into();
        settings.transfer_bytes_max_in_memory = (1_u64 << 20).into();
        let host = Rc::new(SimHost::new(&self.disk));
        let place = CorePlace {
            number: 0,
            cores: 1,
            shards_count: self.mix.shards,
            seed: 7,
        };
        let on_bug = Rc::new(|line: &str| panic!("{line}"));
        let core = DataCore::new(place, Arc::new(settings), Rc::clone(&host), on_bug);
        let (mut stores, mut cold_until) = (Vec::new(), Vec::new());
        for (shard, (store, report)) in (0..).zip(opened) {
            assert!(
                report.damage.is_empty() || self.is_damaged() || self.may_lack_mins(shard),
                "recovery found damage that nobody made: {report:?}"
            );
            self.check_start(shard, &report);
            store.on_progress(core.add_shard(ShardId(shard), Rc::clone(&store)));
            cold_until.push(report.end.0);
            stores.push(store);
        }
        let queues = i32::from(self.mix.queues);
        for ((queue, _), offset) in &mut *self.persisted.borrow_mut() {
            // A start takes positions back that the log has lost.
            let ends = stores.iter().map(|store| store.bounds(*queue).max.0);
            *offset = (*offset).min(ends.max().unwrap_or(0));
        }
        let rows = self.persisted.borrow();
        let rows = rows.iter().map(|((queue, group), offset)| OffsetRow {
            queue: *queue,
            group: Arc::clone(group),
            offset: gantry_storage::units::QueueOffset(*offset),
        });
        core.on_control(&mut vec![
            ToData::Catalog(CatalogChange::TopicPut(topic("T", TOPIC, queues))),
            ToData::Catalog(CatalogChange::GroupPut(group("g"))),
            ToData::OffsetsLoaded(rows.collect()),
        ]);
        self.disk.spawn(Rc::clone(&core).run_passes());
        self.disk.spawn(Rc::clone(&core).run_deadlines());
        self.disk.spawn(Rc::clone(&core).run_offsets());
        self.healthy_us.set(self.disk.now_mono_us());
        self.running.replace(Some(Running {
            core,
            host,
            stores,
            cold_until,
        }));
    }

    pub fn poisoned(&self) -> bool {
        let running = self.running.borrow();
        let stores = running.as_ref().map(|running| &running.stores);
        stores.is_some_and(|stores| stores.iter().any(|store| store.poisoned().is_some()))
    }

    fn poison_reasons(&self) -> Vec<Rc<str>> {
        let running = self.running.borrow();
        let stores = running.iter().flat_map(|running| &running.stores);
        stores.filter_map(|store| store.poisoned()).collect()
    }

    /// Ends the process and checks nothing yet; `start` and `settle_death` follow.
    pub fn die(&self, death: Death) {
        let what = match death {
            Death::Clean => "orderly end",
            Death::Kill => "kill",
            Death::Power => "power cut",
        };
        self.drain();
        self.keys_were_skipped();
        let poisoned = self.poisoned();
        assert!(
            !poisoned || self.faults_count() > self.faults_before.get(),
            "poisoned without a fault: {:?}",
            self.poison_reasons()
        );
        let now_us = self.disk.now_mono_us();
        let until_us = if poisoned {
            self.healthy_us.get()
        } else {
            now_us
        };
        if self.mix.flush == FlushMode::Async {
            let bound_us = until_us.saturating_sub(self.mix.sync_bound_us());
            let mut oracle = self.oracle.borrow_mut();
            for slot in oracle.queues.iter_mut().flatten().flatten() {
                slot.power_safe |= slot.acked_us.is_some_and(|at| at < bound_us);
            }
        }
        self.keep_offsets();
        self.died(what, death == Death::Power);
        if death == Death::Clean {
            self.tails.iter().for_each(SimTail::forget);
        }
    }

    pub fn keep_offsets(&self) {
        if let Some(running) = &*self.running.borrow() {
            for row in running.host.take_offsets() {
                let key = (row.queue, row.group);
                let mut persisted = self.persisted.borrow_mut();
                match row.offset {
                    Some(offset) => persisted.insert(key, offset.0),
                    None => persisted.remove(&key),
                };
            }
        }
    }

    pub fn died(&self, what: &'static str, power: bool) {
        *self.totals.borrow_mut().deaths.entry(what).or_insert(0) += 1;
        if power {
            self.disk.cut_power();
            if what != "power cut" {
                *self
                    .totals
                    .borrow_mut()
                    .deaths
                    .entry("power cut")
                    .or_insert(0) += 1;
            }
        } else {
            self.disk.kill();
        }
        if let Some(running) = self.running.take() {
            drop((running.core, running.host));
            self.index_was_damaged(&running.stores);
            for store in running.stores {
                assert_eq!(Rc::strong_count(&store), 1, "a store outlives its process");
            }
        }
        self.asked.borrow_mut().clear();
        self.mins.borrow_mut().clear();
        self.tails.iter().for_each(SimTail::live_on);
        if power {
            self.tails.iter().for_each(SimTail::cut_power);
            let mut oracle = self.oracle.borrow_mut();
            for slot in oracle.queues.iter_mut().flatten().flatten() {
                slot.kill_safe = slot.power_safe;
            }
        }
    }

    /// After a start: what had to survive is there, the rest is cut off behind it. To be called
    /// with the queues' new ends; `survived` has each shard's greatest physical offset read.
    pub fn settle_death(&self, ends: &[u64], survived: &mut BTreeMap<u8, u64>) {
        let mut lost: BTreeMap<u8, u64> = BTreeMap::new();
        let mut oracle = self.oracle.borrow_mut();
        let oracle = &mut *oracle;
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        for (queue, end) in (0u16..).zip(ends) {
            let shard = self.shard_of(queue);
            let slots = &mut oracle.queues[usize::from(queue)];
            let keep = usize::try_from(*end).unwrap().min(slots.len());
            for slot in slots.drain(keep..).flatten() {
                let excused = self.is_excused(shard, slot.physical);
                assert!(
                    !(slot.power_safe || slot.kill_safe) || excused,
                    "queue {queue} ends at {end}: {slot:?} is lost"
                );
                gone.insert(slot.id);
                if let Some(physical) = slot.physical {
                    let least = lost.entry(shard).or_insert(physical);
                    *least = physical.min(*least);
                }
            }
            for slot in slots.iter().flatten() {
                if let Some(physical) = slot.physical {
                    let most = survived.entry(shard).or_insert(physical);
                    *most = physical.max(*most);
                }
            }
        }
        self.totals.borrow_mut().lost_in_bounds += gone.len() as u64;
        for id in gone {
            oracle.message(id).outcome = Outcome::Lost;
        }
        for (shard, least) in &lost {
            let most = survived.get(shard).copied().unwrap_or(0);
            assert!(
                *least > most,
                "shard {shard}: a record at {least} is lost, one at {most} survived"
            );
        }
    }

    /// A recovered log is synced: all of it survives whatever comes.
    pub fn settle_recovery(&self) {
        let mut oracle = self.oracle.borrow_mut();
        for slot in oracle.queues.iter_mut().flatten().flatten() {
            (slot.kill_safe, slot.power_safe, slot.visible) = (true, true, true);
        }
    }

    pub fn shard_of(&self, queue: u16) -> u8 {
        QueueKey::new(TOPIC, queue).shard(self.mix.shards).0
    }

    /// Whether a fault nobody was told of lies at or before this place of the log, or behind it in
    /// the same run, which has one checksum.
    fn is_excused(&self, shard: u8, physical: Option<u64>) -> bool {
        let folder = format!("shard-{shard}/");
        let position = physical.map_or(u64::MAX, |physical| position_of(physical).0);
        self.disk.untold().iter().any(|untold| {
            let name = untold.name.strip_prefix(&folder);
            let start = name.and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
            start.is_some_and(|start| start + untold.start <= position + RUN_BYTES)
        })
    }

    pub fn fold(&self, word: u64) {
        let mixed = (self.trace.get() ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        self.trace.set(mixed.rotate_left(17));
    }
}
