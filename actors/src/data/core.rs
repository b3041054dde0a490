//! One data core: its shards, its catalog, the tasks that drive them.
//!
//! **Owns** everything of the rules that lives on one core, and the loops: passes, deadlines,
//! offsets written behind, the order of the end.
//! **Lives on** its data core; not `Send`.
//! **Invariants** the pass loop lets every other task run between two passes. At the end: no new
//! requests, inboxes finished, flush awaited, the other cores as far as that and their last words
//! taken in, offsets handed over, in that order. Of a queue's offsets the newest arrive last.
//! **Limits** [`TICK_MS`] is how late a deadline may be noticed; [`DRAIN_MS`] how long the end may
//! take, and [`OTHERS_MS`] with the others'.
//! **Not here** sockets, disk, mailboxes (runtime; joined in `data::seat`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use gantry_runtime::budget::shared::SharedBudget;
use gantry_storage::units::{QueueKey, ShardId};

use super::catalog::Catalog;
use super::gather::Gathers;
use super::host::Host;
use super::queue::store::QueueStore;
use super::requests::parked::Parked;
use super::requests::pushes::Pushes;
use super::requests::reading::Reading;
use super::requests::send::SendDesk;
use super::router::CoreWord;
use super::shard::acks::SendReplyMarks;
use super::shard::signal::Signal;
use super::shard::{OnBug, Shard, ShardRules};
use crate::seam::{CoreNumber, Counted, OFFSET_ROWS_MAX, ToControl, Totals};
use crate::settings::{BrokerSettings, FlushDiskType};

/// How often deadlines are looked at while there are any.
pub const TICK_MS: u64 = 10;
/// Longest wait for inboxes and flushes at the end.
pub const DRAIN_MS: u64 = 10_000;
/// Longest wait, from the beginning of the end, for the other cores to have come as far: who is
/// ready as late as may be still gets its last words across.
pub const OTHERS_MS: u64 = DRAIN_MS + 500;
/// Changed offsets are handed over at least this often.
pub const OFFSETS_BEHIND_MS_MAX: u64 = 1_000;

/// What stalls of these tasks are called in the profile.
const PASS: &str = "shard (pass)";
/// As [`PASS`].
const DEADLINES: &str = "shard (deadlines)";
/// As [`PASS`].
const OFFSETS: &str = "offsets (positions)";
/// As [`PASS`].
const COUNTS: &str = "offsets (counts)";
/// As [`PASS`].
const SWEEP: &str = "offsets (idle queues, open halves)";

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
    /// What searches by key, and views by offset id, may find before they are answered.
    pub(super) searches: Arc<SharedBudget>,
    /// Something waits for time to pass.
    pub(super) timed: Signal,
    ready: Rc<Signal>,
    shards: RefCell<Shards<S, H>>,
    on_bug: OnBug,
    is_stopping: Cell<bool>,
    /// Other cores from which nothing more comes that anybody waits for.
    pub(super) drained_others: Cell<CoreNumber>,
    /// Changed offsets are being handed over.
    hands_over: Cell<bool>,
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
            parked: RefCell::new(Parked::new(plan.parked_bytes)),
            gathers: RefCell::default(),
            reading: Reading::default(),
            pushes: RefCell::new(Pushes::new(plan.push_bytes)),
            timed: Signal::default(),
            ready: Rc::default(),
            shards: RefCell::new((0..place.shards_count.max(1)).map(|_| None).collect()),
            on_bug,
            is_stopping: Cell::new(false),
            drained_others: Cell::new(0),
            hands_over: Cell::new(false),
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
            self.watched(SWEEP, || {
                self.shards().for_each(|shard| shard.sweep());
                self.check_halves();
            });
        }
    }

    /// Hands all changed offsets over.
    pub async fn hand_over_offsets(&self) {
        // Those that wait for room in the mailbox are older: they must not arrive behind these.
        while self.hands_over.replace(true) {
            self.host.sleep_ms(1).await;
        }
        for shard in self.shards() {
            loop {
                let mut rows = Vec::new();
                let take = || shard.take_changed_offsets(OFFSET_ROWS_MAX, &mut rows);
                let clean = self.watched(OFFSETS, take);
                if !rows.is_empty() {
                    self.send_patiently(ToControl::OffsetsChanged(rows)).await;
                }
                if clean {
                    break;
                }
            }
        }
        self.hands_over.set(false);
    }

    /// Hands over what was counted since the last time, if anything was.
    async fn hand_over_counts(&self) {
        let mut counted = Counted {
            core: self.number,
            ..Counted::default()
        };
        self.watched(COUNTS, || {
            self.shards().for_each(|shard| shard.harvest(&mut counted));
        });
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

    /// Ends the core's work: what is in the inboxes is done, what waits is answered, what the other
    /// cores have for this one's clients and halves has come, offsets are handed over. The other
    /// cores are waited for until `others_ms` from now. The caller then closes the connections,
    /// shuts the stores and says `CoreStopped`.
    pub async fn stop(self: &Rc<Self>, others_ms: u64) {
        self.is_stopping.set(true);
        let began_ms = self.host.mono_ms();
        self.end_all_pushes();
        for shard in self.shards() {
            shard.close_inboxes();
            shard.answer_waiting();
        }
        let deadline_ms = began_ms + DRAIN_MS;
        self.drain(deadline_ms).await;
        self.tell_drained(deadline_ms).await;
        let others = self.cores.saturating_sub(1);
        while self.drained_others.get() < others && self.host.mono_ms() < began_ms + others_ms {
            self.host.sleep_ms(1).await;
        }
        // Ends of halves that they told are reported in the log.
        self.watched(PASS, || self.pass());
        self.drain(deadline_ms).await;
        self.hand_over_offsets().await;
    }

    async fn drain(self: &Rc<Self>, deadline_ms: u64) {
        while self.shards().any(|shard| !shard.is_drained()) && self.host.mono_ms() < deadline_ms {
            self.host.sleep_ms(1).await;
            self.watched(DEADLINES, || self.tick());
        }
    }

    /// Tells the other cores that all they wait for from this one is on its way to them.
    async fn tell_drained(&self, deadline_ms: u64) {
        while self.host.has_late_replies() && self.host.mono_ms() < deadline_ms {
            self.host.sleep_ms(1).await;
        }
        for core in (0..self.cores).filter(|core| *core != self.number) {
            // Behind everything else on that road.
            while self.host.send_core(core, CoreWord::Drained).is_err()
                && self.host.mono_ms() < deadline_ms
            {
                self.host.sleep_ms(1).await;
            }
        }
    }
}

/// RocketMQ calls a record "in memory" within 40 % of the machine's memory from the log's end; the
/// memory limit is by default a quarter of the machine's.
fn young_bytes(memory_limit_bytes: u64) -> u64 {
    memory_limit_bytes.saturating_mul(8) / 5
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
