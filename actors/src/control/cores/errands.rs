//! Errands to the data cores: cut to fit, sent to the right core, awaited as a batch.
//!
//! **Owns** the tickets of open errands; which core holds a queue or a position.
//! **Lives on** the control plane's thread.
//! **Invariants** outcomes come in the order of what was asked, whatever cores did it. An errand
//! that isn't answered in time is refused; it may have been done all the same, so what is repeated
//! may be there twice, never missing. A silent core keeps no part of another one waiting.
//! **Limits** [`ERRAND_MAX`] a call, whatever its parts; [`OPEN_MAX`] errands at once; parts of one
//! call go out [`PARTS_MAX`] at a time to each core, so a large call holds at most that much memory
//! there.
//! **Not here** what errands are (`seam::errands`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_storage::address;
use gantry_storage::units::{PhysicalOffset, QueueKey, QueueOffset};
use tokio::sync::oneshot;

use crate::join::join_all;
use crate::refusal::Refusal;
use crate::seam::errands::{
    Errand, ErrandDone, FETCH_RECORDS_MAX, FetchFault, Placed, SUPPLY_BYTES_MAX,
    SUPPLY_RECORDS_MAX, Scan, Scanned, SupplyRecord,
};
use crate::seam::{CoreNumber, Ticket, ToData};
use crate::settings::BrokerSettings;

use super::outbox::Outbox;

/// How long a call may take: above `syncFlushTimeout` (5 s), below anybody's patience.
const ERRAND_MAX: Duration = Duration::from_secs(30);
/// Most open errands; the supervisors have a few each.
const OPEN_MAX: usize = 1024;
/// Parts of one call under way at once on a core.
const PARTS_MAX: usize = 8;

/// Open errands; see the room's head.
pub struct Errands {
    outbox: Rc<Outbox>,
    shards_count: u8,
    /// [`ERRAND_MAX`].
    limit: Duration,
    /// Between two syncs of the device.
    flush_interval: Duration,
    next: Cell<u64>,
    open: RefCell<HashMap<Ticket, oneshot::Sender<ErrandDone>>>,
}

/// A part of a call: the places of its items in the call, and what its core does.
struct Part {
    core: CoreNumber,
    places: Vec<usize>,
    errand: Errand,
}

/// The places of a part, and what became of it.
type PartDone = (Vec<usize>, Result<ErrandDone, Refusal>);

/// What the parts of a call are made from.
trait Item: Clone {
    /// Bytes it adds to its errand.
    fn bytes(&self) -> usize;
    fn errand(items: Vec<Self>) -> Errand;
}

impl Item for SupplyRecord {
    fn bytes(&self) -> usize {
        self.bytes()
    }
    fn errand(items: Vec<Self>) -> Errand {
        Errand::Supply(items)
    }
}

impl Item for PhysicalOffset {
    fn bytes(&self) -> usize {
        0
    }
    fn errand(items: Vec<Self>) -> Errand {
        Errand::Fetch(items)
    }
}

impl Errands {
    /// No open errands yet.
    pub fn new(outbox: Rc<Outbox>, settings: &BrokerSettings) -> Self {
        Self {
            outbox,
            shards_count: settings.shard_count.max(1),
            limit: ERRAND_MAX,
            flush_interval: Duration::from_millis(settings.flush_interval_ms),
            next: Cell::new(1),
            open: RefCell::default(),
        }
    }

    /// Shards of the store.
    pub fn shards_count(&self) -> u8 {
        self.shards_count
    }

    fn core_of(&self, shard: u8) -> CoreNumber {
        CoreNumber::from(shard) % self.outbox.cores().max(1)
    }

    /// The core of a queue.
    fn core_of_queue(&self, key: QueueKey) -> CoreNumber {
        self.core_of(key.shard(self.shards_count).0)
    }

    /// Stores records; each is placed once the flush mode's contract is met, or refused. Those of
    /// one queue keep their order, and of those none is stored twice by one call.
    pub async fn supply(&self, records: Vec<SupplyRecord>) -> Vec<Result<Placed, Refusal>> {
        let count = records.len();
        let core = |record: &SupplyRecord| self.core_of_queue(record.key);
        let parts = cut(records, SUPPLY_RECORDS_MAX, core);
        let mut all = vec![Err(late()); count];
        for (places, done) in self.run(parts, self.limit).await {
            let outcomes = match done {
                Ok(ErrandDone::Supplied(outcomes)) => outcomes,
                Ok(_) => vec![Err(late()); places.len()],
                Err(refusal) => vec![Err(refusal); places.len()],
            };
            put_back(&mut all, places, outcomes);
        }
        all
    }

    /// Reads records.
    pub async fn fetch(&self, records: Vec<PhysicalOffset>) -> Vec<Result<Bytes, FetchFault>> {
        let count = records.len();
        let core = |physical: &PhysicalOffset| {
            self.core_of(address::locate(*physical).map_or(0, |(shard, _)| shard.0))
        };
        let parts = cut(records, FETCH_RECORDS_MAX, core);
        let silent = Err(FetchFault::Failed(late().remark));
        let mut all = vec![silent.clone(); count];
        for (places, done) in self.run(parts, self.limit).await {
            let outcomes = match done {
                Ok(ErrandDone::Fetched(outcomes)) => outcomes,
                Ok(_) => vec![silent.clone(); places.len()],
                Err(refusal) => vec![Err(FetchFault::Failed(refusal.remark)); places.len()],
            };
            put_back(&mut all, places, outcomes);
        }
        all
    }

    /// Looks through a part of a queue's index; go on at `next` until it is `bounds.max`.
    ///
    /// # Errors
    /// The index can't be read, or the core is silent.
    pub async fn scan(&self, scan: Scan) -> Result<Scanned, Refusal> {
        let core = self.core_of_queue(scan.queue);
        match self.one(core, Errand::Scan(scan)).await? {
            ErrandDone::Scanned(Ok(scanned)) => Ok(scanned),
            ErrandDone::Scanned(Err(why)) => Err(Refusal::new(response::SYSTEM_ERROR, why)),
            _ => Err(late()),
        }
    }

    /// The offset of a queue's first record at or after a place in the log.
    ///
    /// # Errors
    /// As [`Errands::scan`].
    pub async fn locate(
        &self,
        queue: QueueKey,
        physical: PhysicalOffset,
    ) -> Result<QueueOffset, Refusal> {
        let core = self.core_of_queue(queue);
        match self.one(core, Errand::Locate(queue, physical)).await? {
            ErrandDone::Located(Ok(offset)) => Ok(offset),
            ErrandDone::Located(Err(why)) => Err(Refusal::new(response::SYSTEM_ERROR, why)),
            _ => Err(late()),
        }
    }

    /// Waits until the device has all that any shard has stored by now.
    ///
    /// # Errors
    /// A shard is poisoned, or a core silent: nobody knows what the device has.
    pub async fn durable(&self) -> Result<(), Refusal> {
        let cores = 0..self.outbox.cores();
        let parts = cores.map(|core| Part {
            core,
            places: Vec::new(),
            errand: Errand::Durable,
        });
        let limit = self.limit.saturating_add(self.flush_interval);
        for (_, done) in self.run(parts.collect(), limit).await {
            match done? {
                ErrandDone::Durable(Ok(())) => {}
                ErrandDone::Durable(Err(why)) => {
                    return Err(Refusal::new(response::SYSTEM_ERROR, why));
                }
                _ => return Err(late()),
            }
        }
        Ok(())
    }

    /// An errand is done.
    pub fn done(&self, ticket: Ticket, done: ErrandDone) {
        if let Some(waiting) = self.open.borrow_mut().remove(&ticket) {
            // The asker may have given up at this very moment.
            let _ = waiting.send(done);
        }
    }

    /// Runs parts, those of each core some at a time; the outcomes come in any order of parts. What
    /// isn't done within `limit` is refused, and what could not even be sent by then.
    async fn run(&self, parts: Vec<Part>, limit: Duration) -> Vec<PartDone> {
        let until = Instant::now() + limit;
        let mut lanes: BTreeMap<CoreNumber, Vec<Part>> = BTreeMap::new();
        for part in parts {
            lanes.entry(part.core).or_default().push(part);
        }
        let lanes = lanes.into_values();
        let lanes = lanes.map(|parts| Box::pin(self.run_lane(parts, until)));
        let done = join_all(lanes.collect()).await;
        done.into_iter().flatten().collect()
    }

    /// Runs the parts of one core.
    async fn run_lane(&self, parts: Vec<Part>, until: Instant) -> Vec<PartDone> {
        let mut outcomes = Vec::with_capacity(parts.len());
        let mut parts = parts.into_iter().peekable();
        while parts.peek().is_some() {
            let sent: Vec<_> = parts
                .by_ref()
                .take(PARTS_MAX)
                .map(|part| (part.places, self.send(part.core, part.errand, until)))
                .collect();
            for (places, sent) in sent {
                outcomes.push((places, wait(sent, until).await));
            }
        }
        outcomes
    }

    async fn one(&self, core: CoreNumber, errand: Errand) -> Result<ErrandDone, Refusal> {
        let until = Instant::now() + self.limit;
        wait(self.send(core, errand, until), until).await
    }

    fn send(&self, core: CoreNumber, errand: Errand, until: Instant) -> Result<Sent<'_>, Refusal> {
        if Instant::now() >= until {
            return Err(late());
        }
        if self.open.borrow().len() >= OPEN_MAX {
            let remark = format!("[OVERLOAD]{OPEN_MAX} errands wait for the data cores already");
            return Err(Refusal::new(response::SYSTEM_BUSY, remark));
        }
        let ticket = Ticket(self.next.get());
        self.next.set(ticket.0 + 1);
        let (done, outcome) = oneshot::channel();
        self.open.borrow_mut().insert(ticket, done);
        self.outbox.send(core, ToData::Errand { ticket, errand });
        Ok(Sent {
            outcome,
            _close: Close(self, ticket),
        })
    }
}

/// Waits for an outcome, as long as there is time.
async fn wait(sent: Result<Sent<'_>, Refusal>, until: Instant) -> Result<ErrandDone, Refusal> {
    let sent = sent?;
    let left = until.saturating_duration_since(Instant::now());
    match actix::clock::timeout(left, sent.outcome).await {
        Ok(Ok(done)) => Ok(done),
        _ => Err(late()),
    }
}

struct Sent<'a> {
    outcome: oneshot::Receiver<ErrandDone>,
    _close: Close<'a>,
}

/// Forgets a ticket, also when its asker is dropped by a panic.
struct Close<'a>(&'a Errands, Ticket);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.open.borrow_mut().remove(&self.1);
    }
}

fn late() -> Refusal {
    let limit = ERRAND_MAX.as_secs();
    Refusal::new(
        response::SYSTEM_ERROR,
        format!("a data core did not do an errand within {limit} s"),
    )
}

fn put_back<T>(all: &mut [T], places: Vec<usize>, outcomes: Vec<T>) {
    for (place, outcome) in places.into_iter().zip(outcomes) {
        if let Some(slot) = all.get_mut(place) {
            *slot = outcome;
        }
    }
}

/// Cuts a call into errands: one core each, so many items, so many bytes.
fn cut<T: Item>(items: Vec<T>, count_max: usize, core_of: impl Fn(&T) -> CoreNumber) -> Vec<Part> {
    let mut by_core: Vec<(CoreNumber, Vec<usize>, Vec<T>, usize)> = Vec::new();
    let mut parts = Vec::new();
    let close = |(core, places, items, _): (CoreNumber, Vec<usize>, Vec<T>, usize)| Part {
        core,
        places,
        errand: T::errand(items),
    };
    for (place, item) in items.into_iter().enumerate() {
        let (core, bytes) = (core_of(&item), item.bytes());
        let open = by_core.iter().position(|(number, ..)| *number == core);
        let at = open.unwrap_or_else(|| {
            by_core.push((core, Vec::new(), Vec::new(), 0));
            by_core.len() - 1
        });
        let Some(lane) = by_core.get_mut(at) else {
            continue;
        };
        let full = lane.1.len() >= count_max || lane.3.saturating_add(bytes) > SUPPLY_BYTES_MAX;
        if full && !lane.1.is_empty() {
            parts.push(close(std::mem::replace(
                lane,
                (core, Vec::new(), Vec::new(), 0),
            )));
        }
        lane.1.push(place);
        lane.2.push(item);
        lane.3 += bytes;
    }
    parts.extend(by_core.into_iter().map(close));
    parts
}

#[cfg(test)]
mod tests {
    use gantry_runtime::mailbox::mailbox;
    use gantry_storage::units::{FilePosition, ShardId};

    use super::*;
    use crate::control::tests::rig::settings;

    #[test]
    fn a_silent_core_costs_a_call_its_limit_once_and_no_part_of_another_core() {
        let limit = Duration::from_millis(300);
        let count = (PARTS_MAX + 1) * FETCH_RECORDS_MAX;
        let of = |shard| {
            let places = (0..count as u64).map(FilePosition);
            places.map(move |at| address::physical(ShardId(shard), at))
        };
        actix::System::new().block_on(async {
            let (silent, _unread) = mailbox(64);
            let (to_core, mail) = mailbox(64);
            let outbox = Rc::new(Outbox::new(vec![silent, to_core]));
            outbox.run();
            let mut errands = Errands::new(outbox, &settings());
            (errands.limit, errands.shards_count) = (limit, 2);
            let errands = Rc::new(errands);
            let core = Rc::clone(&errands);
            actix::spawn(async move {
                let mut batch = Vec::new();
                while mail.recv_batch(&mut batch).await {
                    for word in batch.drain(..) {
                        let ToData::Errand { ticket, errand } = word else {
                            continue;
                        };
                        let Errand::Fetch(places) = errand else {
                            continue;
                        };
                        let read = places.iter().map(|_| Ok(Bytes::new())).collect();
                        core.done(ticket, ErrandDone::Fetched(read));
                    }
                }
            });
            let began = Instant::now();
            let read = errands.fetch(of(0).chain(of(1)).collect()).await;
            let (unread, read) = read.split_at(count);
            assert!(unread.iter().all(Result::is_err));
            assert!(read.iter().all(Result::is_ok));
            assert!(began.elapsed() < 3 * limit, "{:?}", began.elapsed());
            assert!(errands.durable().await.is_err(), "nobody knows");
            assert!(errands.open.borrow().is_empty());
        });
    }

    #[test]
    fn a_call_is_cut_by_core_and_count_and_put_together_again() {
        let items: Vec<PhysicalOffset> = (0..700).map(PhysicalOffset).collect();
        let parts = cut(items, 256, |physical| CoreNumber::from(physical.0 % 3 == 0));
        assert!(parts.iter().all(|part| part.places.len() <= 256));
        let mut all = vec![u64::MAX; 700];
        for Part {
            core,
            places,
            errand,
        } in parts
        {
            let Errand::Fetch(items) = errand else {
                panic!()
            };
            assert!(items.iter().all(|one| (one.0 % 3 == 0) == (core == 1)));
            assert!(items.is_sorted());
            put_back(&mut all, places, items.iter().map(|one| one.0).collect());
        }
        assert!(all.iter().copied().eq(0..700));
    }
}
