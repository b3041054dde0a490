//! A shard: the queue actors of one log, and the pass that runs them.
//!
//! **Owns** the actors, their inboxes' bounds, the order of a pass: turns, one seal, answers,
//! wake-ups.
//! **Lives on** the data core the shard is dealt to.
//! **Invariants** one `seal` a pass, whatever the number of queues; an actor that panics is
//! replaced by one with the same offsets and locks, its callers get an error, nobody else notices.
//! A pass never awaits.
//! **Limits** `inbox_bytes_max` and `sendThreadPoolQueueCapacity` messages wait in all inboxes
//! together, and one other request for each [`ASK_BYTES`] of the former; one more is refused at
//! once, and neither kind takes the other's room. [`TURN_APPENDS_MAX`] and [`TURN_ASKS_MAX`]
//! requests a turn, [`TURN_PULLED_BYTES_MAX`] and [`PASS_PULLED_BYTES_MAX`] of answers to pulls,
//! [`PASS_WAKES_MAX`] suspended ones woken a pass.
//! **Not here** what a single request does (`queue`, `pulls`, `asks`), who calls the pass
//! (`data::core`).

pub mod acks;
pub mod asks;
pub mod log_times;
pub mod pulls;
pub mod questions;
pub mod signal;
pub mod supply;
pub mod ticks;
pub mod timing;
pub mod transactions;
pub mod turns;
mod waking;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::response;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{FilePosition, QueueKey, ShardId};
use hashbrown::HashMap;

use self::acks::{FlushQueue, SendReplyMarks};
use self::asks::Asked;
use self::log_times::LogTimes;
use self::pulls::{ColdPull, Waiter};
use self::signal::Signal;
use self::supply::OwedRows;
use self::timing::PassTimes;
use self::transactions::Transacting;
use super::host::Host;
use super::queue::actor::{Ask, Lanes, QueueActor};
use super::queue::append::{Ack, Pending};
use super::queue::asker::Asker;
use super::queue::cold_lane::ColdLane;
use super::queue::store::QueueStore;
use super::queue::waiters::{WaiterId, Waiters};
use super::retention::OwnWork;
use super::words::{Append, QueueRequest, ReplyTo, TransactionStep};
use crate::refusal::{BusyCause, Refusal};
use crate::seam::{CoreNumber, Totals};
use crate::settings::BrokerSettings;

/// Bytes of requests that may wait in all inboxes of a shard, at most (`memory_plan`): four times
/// the tail's default, so that a burst is taken while the device catches up.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of the inboxes' bytes, for each request that is not a message: four times what a pull takes.
pub const ASK_BYTES: usize = 1024;
/// Messages one queue stores in a turn, before the next queue has its turn.
pub const TURN_APPENDS_MAX: usize = 64;
/// Other requests one queue answers in a turn.
pub const TURN_ASKS_MAX: usize = 32;
/// Bytes that one queue gives to pulls in a turn: one full reply, 0.1 ms.
pub const TURN_PULLED_BYTES_MAX: u64 = 256 * 1024;
/// Bytes that all queues give to pulls in a pass: 1 ms, and about as much to write them out. The
/// others wait for the next pass, sends don't.
pub const PASS_PULLED_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Suspended pulls looked at in a pass because something came for them: 0.8 ms.
pub const PASS_WAKES_MAX: usize = 512;
/// Actors for which there is always room.
const ROSTER_MIN: usize = 1024;
/// Reads from the device for pulls that one shard has under way, at most (`memory_plan`).
pub const COLD_READS_MAX: usize = 128;
/// Pulls of one shard that may wait until the device is read for them: some 300 bytes each, and at
/// 40 µs of work for each the last one waits a third of a second.
pub const COLD_PULLS_MAX: usize = 8192;
/// Longest such wait, ms, and that of a question (RocketMQ's `waitTimeMillsInPullQueue`): on a slow
/// device clients would have given up long before their turn, and it would read for nobody.
pub const COLD_WAIT_MS_MAX: u64 = 5_000;

const _: () = assert!(INBOX_BYTES_MAX > 16 * 1024 * 1024);

/// What a shard needs to know of the broker's settings.
#[derive(Debug, Clone)]
pub struct ShardRules {
    /// SYNC_FLUSH.
    pub sync_flush: bool,
    /// For what changes live: `syncFlushTimeout`, `waitTimeMillsInSendQueue`,
    /// `sendThreadPoolQueueCapacity`.
    pub settings: Arc<BrokerSettings>,
    /// The advertised address.
    pub store_host: SocketAddr,
    /// `messageIndexEnable`.
    pub index_keys: bool,
    /// How many cores share the store.
    pub cores: CoreNumber,
    /// A queue whose first record lies within this many bytes of the log's end is young (behaviours
    /// §6).
    pub young_bytes: u64,
    /// Bytes of requests in the inboxes.
    pub inbox_bytes_max: usize,
    /// Reads from the device under way.
    pub cold_reads_max: usize,
    /// What send replies carry.
    pub marks: SendReplyMarks,
}

/// A bug that ends the process: called with a line that says which.
pub type OnBug = Rc<dyn Fn(&str)>;

/// One shard on its core.
pub struct Shard<S, H> {
    id: ShardId,
    store: Rc<S>,
    host: Rc<H>,
    rules: ShardRules,
    signal: Rc<Signal>,
    on_bug: OnBug,
    in_store: Cell<bool>,
    inner: RefCell<Inner>,
    log_times: Rc<LogTimes>,
    own_times: OwnWork,
    #[cfg(test)]
    panic_on: Cell<Option<QueueKey>>,
}

/// Queue, end of its bytes in the log: to be shown to waiting pulls once readable.
type Unread = VecDeque<(FilePosition, QueueKey)>;

#[derive(Default)]
struct Inner {
    actors: Vec<Option<Box<QueueActor>>>,
    free: Vec<u32>,
    by_key: HashMap<QueueKey, u32>,
    ready: Vec<u32>,
    spare: Vec<u32>,
    /// Had their turn in this pass and want another one.
    again: Vec<u32>,
    /// Bytes given to pulls, ever; and when this pass began.
    pulled_bytes: u64,
    pass_pulled_from: u64,
    lanes: Lanes,
    dirty: VecDeque<u32>,
    inbox_count: usize,
    inbox_bytes: usize,
    /// Requests in the inboxes that are not messages.
    asks_count: usize,
    /// The tail is full since this time, µs.
    stalled_us: Option<u64>,
    pass_times: PassTimes,
    acks: Vec<Ack>,
    flushing: FlushQueue,
    /// Queues that stored something in this pass.
    fresh: Vec<QueueKey>,
    unread: Unread,
    /// Pulls that wait on the queue that was taken from there last and are to be woken; a queue's.
    waking: VecDeque<WaiterId>,
    transacting: Transacting,
    owed: OwedRows,
    waiters: Waiters<QueueKey, PeerRef, Waiter>,
    /// Pulls that came to the end of their queue.
    pulls_at_end: u64,
    /// Pulls that the tail could not serve, and whether their task runs.
    cold: ColdLane<PeerRef, ColdPull>,
    cold_lane_runs: bool,
    /// When something was stored last, µs.
    fresh_us: u64,
    cold_under_way: usize,
    asks_under_way: usize,
    /// Questions that wait for one of those to be answered.
    asks_waiting: VecDeque<Asked>,
    panics_us: VecDeque<u64>,
    sweep_at: u32,
    totals: Totals,
    /// Queues whose tally isn't empty.
    tallied: Vec<u32>,
    is_closed: bool,
}

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// A shard over an opened store. `signal` wakes the task that calls [`Shard::pass`].
    pub fn new(
        id: ShardId,
        store: Rc<S>,
        host: Rc<H>,
        rules: ShardRules,
        signal: Rc<Signal>,
        on_bug: OnBug,
    ) -> Rc<Self> {
        let inner = RefCell::new(Inner::default());
        let in_store = Cell::new(false);
        Rc::new(Self {
            id,
            store,
            host,
            rules,
            signal,
            on_bug,
            in_store,
            inner,
            log_times: Rc::default(),
            own_times: OwnWork::default(),
            #[cfg(test)]
            panic_on: Cell::new(None),
        })
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Its store.
    pub fn store(&self) -> &Rc<S> {
        &self.store
    }

    /// What topics with a time of their own want of it.
    pub(in crate::data) fn own_times(&self) -> &OwnWork {
        &self.own_times
    }

    /// Takes a message to store. It is answered later; a refusal is for the caller to answer.
    ///
    /// # Errors
    /// The inboxes are full, or the shard is closed.
    #[allow(
        clippy::inline_always,
        reason = "a message is copied by each function that hands it on: 10 ns"
    )]
    #[inline(always)]
    pub fn post_append(
        &self,
        key: QueueKey,
        reply: ReplyTo,
        append: Append,
    ) -> Result<(), Refusal> {
        self.post_append_for(key, Asker::of(reply, &append), append)
    }

    /// As [`Shard::post_append`], for any asker.
    ///
    /// # Errors
    /// As there; also too much is owed already.
    #[allow(
        clippy::inline_always,
        reason = "a message is copied by each function that hands it on: 10 ns"
    )]
    #[inline(always)]
    pub fn post_append_for(
        &self,
        key: QueueKey,
        asker: Asker,
        append: Append,
    ) -> Result<(), Refusal> {
        let mut inner = self.inner.borrow_mut();
        let bytes = append.bytes();
        self.admit(&inner, key, &append.topic.config.name, bytes)?;
        if matches!(append.step(), Some(TransactionStep::Half { .. })) {
            self.admit_half(&inner, key, &append.topic.config.name)?;
        }
        if append.owed().is_some() {
            self.admit_owed(&inner, key, &append.topic.config.name)?;
        }
        inner.inbox_count += 1;
        inner.inbox_bytes += bytes;
        inner.push_append(key, Pending::new(asker, append, self.host.mono_us()));
        self.signal.set();
        Ok(())
    }

    /// Takes any other request; `topic` is the name for a remark.
    ///
    /// # Errors
    /// The inboxes are full, or the shard is closed.
    pub fn post(
        &self,
        key: QueueKey,
        topic: &dyn fmt::Display,
        reply: ReplyTo,
        request: QueueRequest,
    ) -> Result<(), Refusal> {
        let mut inner = self.inner.borrow_mut();
        self.admit_ask(&inner, key, topic)?;
        inner.asks_count += 1;
        let ask = Ask {
            reply,
            request,
            posted_us: self.host.mono_us(),
        };
        inner.push_ask(key, ask);
        self.signal.set();
        Ok(())
    }

    #[inline]
    fn admit(
        &self,
        inner: &Inner,
        key: QueueKey,
        topic: &dyn fmt::Display,
        bytes: usize,
    ) -> Result<(), Refusal> {
        Self::admit_any(inner)?;
        let fits =
            inner.inbox_bytes + bytes <= self.rules.inbox_bytes_max || inner.inbox_count == 0;
        if fits && inner.inbox_count < self.rules.settings.send_queue_capacity.count() {
            return Ok(());
        }
        Err(self.no_room(inner, key, topic))
    }

    #[cold]
    fn no_room(&self, inner: &Inner, key: QueueKey, topic: &dyn fmt::Display) -> Refusal {
        let now = self.host.mono_us();
        let waited_ms = inner
            .stalled_us
            .map_or(0, |since| now.saturating_sub(since) / 1000);
        let why = if inner.stalled_us.is_some() {
            "the disk is behind"
        } else {
            "too much at once"
        };
        let remark = format!(
            "shard {}, topic {} queue {}, {} requests of {} bytes wait ({why}, for {waited_ms} ms)",
            self.id, topic, key.queue, inner.inbox_count, inner.inbox_bytes,
        );
        let cause = if inner.inbox_count < self.rules.settings.send_queue_capacity.count() {
            BusyCause::InboxBytes
        } else {
            BusyCause::Inbox
        };
        self.host.busy(cause, &remark)
    }

    fn admit_any(inner: &Inner) -> Result<(), Refusal> {
        if inner.is_closed {
            let remark = "the broker is shutting down";
            return Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark));
        }
        Ok(())
    }

    fn admit_ask(
        &self,
        inner: &Inner,
        key: QueueKey,
        topic: &dyn fmt::Display,
    ) -> Result<(), Refusal> {
        Self::admit_any(inner)?;
        if inner.asks_count < self.rules.inbox_bytes_max / ASK_BYTES {
            return Ok(());
        }
        let remark = format!(
            "shard {}, topic {topic} queue {}, {} pulls and questions wait",
            self.id, key.queue, inner.asks_count,
        );
        Err(self.host.busy(BusyCause::InboxAsks, &remark))
    }

    /// Drops what a closed connection waits for.
    pub fn peer_closed(&self, peer: PeerRef) {
        let mut inner = self.inner.borrow_mut();
        inner.waiters.drop_peer(peer);
        inner.cold.drop_peer(peer);
        inner.asks_waiting.retain(|asked| !asked.is_of(peer));
    }

    /// Suspended pulls.
    pub fn waiters_count(&self) -> usize {
        self.inner.borrow().waiters.len()
    }

    /// Pulls since the start that came to the end of their queue.
    pub fn pulls_at_end(&self) -> u64 {
        self.inner.borrow().pulls_at_end
    }

    /// Whether the device is being read for a pull.
    pub fn reads_device(&self) -> bool {
        self.inner.borrow().cold_under_way > 0
    }

    /// Totals since start.
    pub fn totals(&self) -> Totals {
        self.inner.borrow().totals
    }

    /// Requests in the inboxes, and for how many ms the tail has been full.
    pub fn waiting(&self) -> (u64, u64) {
        let inner = self.inner.borrow();
        let now_us = self.host.mono_us();
        let since_us = inner.stalled_us.unwrap_or(now_us);
        (
            (inner.inbox_count + inner.asks_count) as u64,
            now_us.saturating_sub(since_us) / 1000,
        )
    }

    /// Whether nothing waits to be stored, answered or flushed.
    pub fn is_drained(&self) -> bool {
        let inner = self.inner.borrow();
        let waiting = inner.inbox_count + inner.asks_count + inner.cold.len();
        // What a pass could not report of ended halves because the tail was full.
        let has_ops = inner.stalled_us.is_some() && inner.transacting.owes();
        let reading = inner.cold_under_way + inner.asks_under_way;
        waiting == 0 && !has_ops && inner.flushing.is_empty() && reading == 0
    }

    /// The next turn of this queue's actor panics.
    #[cfg(test)]
    pub fn inject_panic(&self, key: QueueKey) {
        self.panic_on.set(Some(key));
    }

    /// Takes no further request; what is in the inboxes is still done.
    pub fn close_inboxes(&self) {
        self.inner.borrow_mut().is_closed = true;
        self.signal.set();
    }
}

impl Inner {
    fn slot_of(&mut self, key: QueueKey) -> u32 {
        if let Some(slot) = self.by_key.get(&key) {
            return *slot;
        }
        let actor = Box::new(QueueActor::new(key));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.actors.push(None);
            u32::try_from(self.actors.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.actors.get_mut(slot as usize) {
            *place = Some(actor);
        }
        self.by_key.insert(key, slot);
        slot
    }

    /// Gives back the tables of actors when they have room for many more than are awake.
    fn shrink(&mut self) {
        let wanted = ROSTER_MIN.max(2 * self.by_key.len());
        if self.by_key.capacity() <= 8 * wanted {
            return;
        }
        while matches!(self.actors.last(), Some(None)) {
            self.actors.pop();
        }
        let count = self.actors.len();
        self.free.retain(|slot| (*slot as usize) < count);
        self.actors.shrink_to(wanted);
        self.free.shrink_to(wanted);
        self.by_key.shrink_to(wanted);
    }

    fn actor_of(&mut self, key: QueueKey) -> &mut QueueActor {
        let slot = self.slot_of(key);
        let actor = self
            .actors
            .get_mut(slot as usize)
            .and_then(Option::as_deref_mut);
        actor.expect("a slot in by_key holds an actor between turns")
    }

    fn known(&mut self, key: QueueKey) -> Option<&mut QueueActor> {
        let slot = *self.by_key.get(&key)?;
        self.actors.get_mut(slot as usize)?.as_deref_mut()
    }

    #[allow(
        clippy::inline_always,
        reason = "a message is copied by each function that hands it on: 10 ns"
    )]
    #[inline(always)]
    fn push_append(&mut self, key: QueueKey, pending: Pending) {
        let slot = self.slot_of(key);
        if let Some(Some(actor)) = self.actors.get_mut(slot as usize) {
            self.lanes.for_appends(&mut actor.appends);
            actor.appends.push_back(pending);
            make_ready(actor, slot, &mut self.ready);
        }
    }

    fn push_ask(&mut self, key: QueueKey, ask: Ask) {
        let slot = self.slot_of(key);
        if let Some(Some(actor)) = self.actors.get_mut(slot as usize) {
            self.lanes.for_asks(&mut actor.asks);
            actor.asks.push_back(ask);
            make_ready(actor, slot, &mut self.ready);
        }
    }

    /// A queue has something to harvest.
    fn note_tallied(&mut self, actor: &mut QueueActor) {
        if !actor.is_tallied
            && let Some(slot) = self.by_key.get(&actor.key)
        {
            actor.is_tallied = true;
            self.tallied.push(*slot);
        }
    }

    fn note_dirty(&mut self, actor: &mut QueueActor) {
        if !actor.is_dirty
            && let Some(slot) = self.by_key.get(&actor.key)
        {
            actor.is_dirty = true;
            self.dirty.push_back(*slot);
        }
    }
}

/// A queue with something to do gets its turn in the next pass.
fn make_ready(actor: &mut QueueActor, slot: u32, ready: &mut Vec<u32>) {
    if !actor.is_ready {
        actor.is_ready = true;
        ready.push(slot);
    }
}

#[cfg(test)]
mod asks_tests;
#[cfg(test)]
mod pulls_tests;
#[cfg(test)]
mod reset_tests;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod sql_tests;
#[cfg(test)]
mod tests;
