//! One data core: its shards, its catalog, the tasks that drive them.
//!
//! **Owns** everything of the rules that lives on one core, and the loops: passes, deadlines,
//! offsets written behind, the order of the end.
//! **Lives on** its data core; not `Send`.
//! **Invariants** the pass loop lets every other task run between two passes. At the end: no new
//! requests, inboxes finished, flush awaited, offsets handed over, in that order.
//! **Limits** [`TICK_MS`] is how late a deadline may be noticed; [`DRAIN_MS`] how long the end may
//! take.
//! **Not here** sockets, disk, mailboxes (runtime; joined in `data::seat`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use gantry_runtime::shared_budget::SharedBudget;
use gantry_storage::units::{QueueKey, ShardId};

use super::catalog::Catalog;
use super::gather::Gathers;
use super::host::Host;
use super::queue::store::QueueStore;
use super::requests::parked::Parked;
use super::requests::pushes::Pushes;
use super::requests::reading::Reading;
use super::requests::send::SendDesk;
use super::shard::acks::SendReplyMarks;
use super::shard::signal::Signal;
use super::shard::{OnBug, Shard, ShardRules};
use crate::seam::{CoreNumber, Counted, OFFSET_ROWS_MAX, ToControl, Totals};
use crate::settings::{BrokerSettings, FlushDiskType};

/// How often deadlines are looked at while there are any.
pub const TICK_MS: u64 = 10;
/// Longest wait for inboxes and flushes at the end.
pub const DRAIN_MS: u64 = 10_000;
/// Changed offsets are handed over at least this often.
pub const OFFSETS_BEHIND_MS_MAX: u64 = 1_000;

/// What stalls of these tasks are called in the profile.
const PASS: &str = "shard (pass)";
/// As [`PASS`].
const DEADLINES: &str = "shard (deadlines)";

/// By shard number; none where another core holds it.
type Shards<S, H> = Vec<Option<Rc<Shard<S, H>>>>;

/// One data core.
pub struct DataCore<S, H> {
    pub(super) number: CoreNumber,
    pub(super) cores: CoreNumber,
    pub(super) shards_count: u8,
    pub(super) settings: Arc<BrokerSettings>,
    pub(super) host: Rc<H>,
    pub(super) catalog: RefCell<Catalog>,
    pub(super) desk: SendDesk,
    pub(super) parked: RefCell<Parked>,
    pub(super) gathers: RefCell<Gathers>,
    pub(super) reading: Reading,
    pub(super) pushes: RefCell<Pushes>,
    pub(super) marks: SendReplyMarks,
    /// Bodies of requests that the control plane has not looked at yet.
    pub(super) to_control: Arc<SharedBudget>,
    /// What searches by key may find before they are answered.
    pub(super) searches: Arc<SharedBudget>,
    /// Something waits for time to pass.
    pub(super) timed: Signal,
    ready: Rc<Signal>,
    shards: RefCell<Shards<S, H>>,
    on_bug: OnBug,
    is_stopping: Cell<bool>,
    /// The totals that the control plane has heard of.
    told: Cell<Totals>,
}

/// Which core this is.
#[derive(Debug, Clone, Copy)]
pub struct CorePlace {
    /// Its number.
    pub number: CoreNumber,
    /// How many there are.
    pub cores: CoreNumber,
    /// Shards of the store.
    pub shards_count: u8,
    /// Differs between cores and between starts.
    pub seed: u64,
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// A core without shards yet.
    pub fn new(
        place: CorePlace,
        settings: Arc<BrokerSettings>,
        host: Rc<H>,
        on_bug: OnBug,
    ) -> Rc<Self> {
        let plan = settings.memory_plan(place.cores);
        let inbox_bytes = plan.inbox_bytes;
        Rc::new(Self {
            number: place.number,
            cores: place.cores.max(1),
            shards_count: place.shards_count.max(1),
            catalog: RefCell::new(Catalog::new(settings.broker_permission)),
            marks: SendReplyMarks::of(&settings),
            to_control: SharedBudget::new(plan.control_bytes),
            searches: SharedBudget::new(plan.search_bytes),
            desk: SendDesk::new(Arc::clone(&settings), place.shards_count.max(1), place.seed),
            settings,
            host,
            parked: RefCell::new(Parked::new(inbox_bytes / 2)),
            gathers: RefCell::default(),
            reading: Reading::default(),
            pushes: RefCell::default(),
            timed: Signal::default(),
            ready: Rc::default(),
            shards: RefCell::new((0..place.shards_count.max(1)).map(|_| None).collect()),
            on_bug,
            is_stopping: Cell::new(false),
            told: Cell::default(),
        })
    }

    /// Adds an opened shard; returns what the store must call on progress.
    pub fn add_shard(
        &self,
        id: gantry_storage::units::ShardId,
        store: Rc<S>,
    ) -> Box<dyn Fn() + 'static> {
        let settings = &self.settings;
        let memory = settings.memory_plan(self.cores);
        let rules = ShardRules {
            sync_flush: settings.flush_disk_type == FlushDiskType::Sync,
            settings: Arc::clone(settings),
            store_host: settings.advertised,
            index_keys: settings.index.keys_enable,
            cores: self.cores,
            young_bytes: young_bytes(settings.memory_limit_bytes),
            inbox_bytes_max: memory.inbox_bytes,
            cold_reads_max: memory.cold_reads,
            marks: self.marks.clone(),
        };
        let shard = Shard::new(
            id,
            store,
            Rc::clone(&self.host),
            rules,
            Rc::clone(&self.ready),
            Rc::clone(&self.on_bug),
        );
        let hook = shard.progress_hook();
        if let Some(place) = self.shards.borrow_mut().get_mut(usize::from(id.0)) {
            *place = Some(shard);
        }
        hook
    }

    /// The shard of a queue, if this core holds it.
    pub(super) fn shard_of(&self, key: QueueKey) -> Option<Rc<Shard<S, H>>> {
        self.shard(key.shard(self.shards_count))
    }

    /// A shard, if this core holds it.
    pub(super) fn shard(&self, id: ShardId) -> Option<Rc<Shard<S, H>>> {
        self.shards
            .borrow()
            .get(usize::from(id.0))
            .and_then(Clone::clone)
    }

    /// This core's shards.
    pub(super) fn shards(&self) -> impl Iterator<Item = Rc<Shard<S, H>>> + '_ {
        let numbers = 0..usize::from(self.shards_count);
        numbers.filter_map(|number| self.shards.borrow().get(number).and_then(Clone::clone))
    }

    /// One pass over every shard. True when there is more to do now.
    pub fn pass(self: &Rc<Self>) -> bool {
        let mut more = false;
        for shard in self.shards() {
            self.end_some(&shard);
            more |= shard.pass();
            more |= shard.has_ends_to_do();
            if shard.has_deadlines() {
                self.timed.set();
            }
        }
        more
    }

    /// The pass loop; runs as long as the core.
    pub async fn run_passes(self: Rc<Self>) {
        loop {
            self.ready.wait().await;
            while self.watched(PASS, || self.pass()) {
                futures_lite::future::yield_now().await;
            }
        }
    }

    /// The loop of deadlines; runs as long as the core.
    pub async fn run_deadlines(self: Rc<Self>) {
        loop {
            self.timed.wait().await;
            while self.has_deadlines() {
                self.host.sleep_ms(TICK_MS).await;
                self.watched(DEADLINES, || self.tick());
            }
        }
    }

    /// Runs a task of this core, and notes it if it took too long.
    pub(super) fn watched<R>(&self, room: &'static str, task: impl FnOnce() -> R) -> R {
        let profile = self.host.profile();
        if !profile.is_on() {
            return task();
        }
        let began_us = self.host.mono_us_now();
        let done = task();
        profile.ran(room, began_us, self.host.mono_us_now());
        done
    }

    fn has_deadlines(&self) -> bool {
        let own = !self.parked.borrow().is_empty()
            || !self.gathers.borrow().is_empty()
            || !self.pushes.borrow().is_empty();
        own || self.shards().any(|shard| shard.has_deadlines())
    }

    /// Does what is due.
    pub fn tick(self: &Rc<Self>) {
        for shard in self.shards() {
            shard.tick();
        }
        self.end_late_parked();
        self.end_late_gathers();
        self.end_late_pushes();
    }

    /// The loop that hands changed offsets to the control plane.
    pub async fn run_offsets(self: Rc<Self>) {
        let every = self.settings.flush_consumer_offset_interval_ms;
        let every = every.clamp(1, OFFSETS_BEHIND_MS_MAX);
        loop {
            self.host.sleep_ms(every).await;
            if self.is_stopping.get() {
                return;
            }
            self.hand_over_offsets().await;
            self.hand_over_counts().await;
            self.shards().for_each(|shard| shard.sweep());
            self.check_halves();
        }
    }

    /// Hands all changed offsets over.
    pub async fn hand_over_offsets(&self) {
        for shard in self.shards() {
            loop {
                let mut rows = Vec::new();
                let clean = shard.take_changed_offsets(OFFSET_ROWS_MAX, &mut rows);
                if !rows.is_empty() {
                    self.send_patiently(ToControl::OffsetsChanged(rows)).await;
                }
                if clean {
                    break;
                }
            }
        }
    }

    /// Hands over what was counted since the last time, if anything was.
    async fn hand_over_counts(&self) {
        let mut counted = Counted {
            core: self.number,
            ..Counted::default()
        };
        self.shards().for_each(|shard| shard.harvest(&mut counted));
        if counted.totals != self.told.replace(counted.totals) {
            self.send_patiently(ToControl::Counted(Box::new(counted)))
                .await;
        }
    }

    /// Sends to the control plane, waiting while its mailbox is full.
    pub async fn send_patiently(&self, mut message: ToControl) {
        while let Err(back) = self.host.offer_control(message) {
            message = *back;
            self.host.sleep_ms(1).await;
        }
    }

    /// Ends the core's work: what is in the inboxes is done, what waits is answered, offsets are
    /// handed over. The caller then shuts the stores and says `CoreStopped`.
    pub async fn stop(self: &Rc<Self>) {
        self.is_stopping.set(true);
        self.end_all_pushes();
        for shard in self.shards() {
            shard.close_inboxes();
            shard.answer_waiting();
        }
        let deadline = self.host.mono_ms() + DRAIN_MS;
        while self.shards().any(|shard| !shard.is_drained()) && self.host.mono_ms() < deadline {
            self.host.sleep_ms(1).await;
            self.tick();
        }
        self.hand_over_offsets().await;
    }
}

/// RocketMQ calls a record "in memory" within 40 % of the machine's memory from the log's end; the
/// memory limit is by default a quarter of the machine's.
fn young_bytes(memory_limit_bytes: u64) -> u64 {
    memory_limit_bytes.saturating_mul(8) / 5
}
