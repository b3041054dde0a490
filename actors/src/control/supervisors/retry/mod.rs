//! The supervisor of retries: messages that consumers send back (36), dead letters.
//!
//! **Owns** the requests that wait, and the batches they are done in.
//! **Lives on** the control plane's thread.
//! **Invariants** a consumer is told success only when the next try, or the dead letter, is stored
//! as the flush mode promises; everything else is an answer upon which it sends the message itself.
//! A panic refuses what was at work.
//! **Limits** [`WAITING_MAX`] requests wait, [`BATCH_MAX`] are done at once: one write for all of
//! them, and reads of [`READ_RECORDS_MAX`] until they have [`BATCH_BYTES`].
//! **Not here** what a message becomes (`policy`), its delay (`delay`), sends to retry topics
//! (`data::requests::send`).

mod policy;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::message::RecordView;
use gantry_protocol::system_topic;
use gantry_storage::units::PhysicalOffset;
use tokio::sync::{Notify, oneshot};

use self::policy::{Goal, SendBack};
use crate::control::cleaning::refusing;
use crate::control::plane::Plane;
use crate::control::reply::{Reply, ReplyTo};
use crate::control::supervision::task;
use crate::control::supervision::tree::PartState;
use crate::control::topics;
use crate::refusal::Refusal;
use crate::seam::ControlRequest;
use crate::seam::errands::{FetchFault, SupplyRecord};

/// Its name in the tree.
pub const NAME: &str = "retry";
/// Requests that wait; their clients give up after 5 s.
const WAITING_MAX: usize = 16 * 1024;
/// Requests done at once.
const BATCH_MAX: usize = 128;
/// Bytes of records after which a batch takes no more.
const BATCH_BYTES: usize = 8 << 20;
/// Records read at once. How large they are is known afterwards: with the stock limit of 4 MiB a
/// batch holds 40 MiB at the worst.
const READ_RECORDS_MAX: usize = 8;

/// Requests on their way.
#[derive(Default)]
pub struct Retry {
    waiting: RefCell<VecDeque<ControlRequest>>,
    at_work: RefCell<Vec<ReplyTo>>,
    news: Notify,
    turn: Cell<u32>,
}

impl Retry {
    /// Takes a request.
    pub fn take(&self, request: ControlRequest, plane: &Plane) {
        // `AbstractSendMessageProcessor.consumerSendMsgBack` (5.5.0): what the store says to a full
        // disk, with code 1. The client then has the message consumed again by itself.
        if let Some(full) = refusing(plane) {
            let remark = format!("SERVICE_NOT_AVAILABLE: {full}");
            let refusal = Refusal::new(response::SYSTEM_ERROR, remark);
            return plane.refuse(&ReplyTo::of(&request), &refusal);
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            let busy = format!("[OVERLOAD]{WAITING_MAX} messages sent back wait already");
            let refusal = Refusal::new(response::SYSTEM_BUSY, busy);
            return plane.refuse(&ReplyTo::of(&request), &refusal);
        }
        waiting.push_back(request);
        self.news.notify_one();
    }

    /// Spreads retries over a retry topic's queues.
    fn next_queue(&self, queues: i32) -> i32 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        i32::try_from(i64::from(turn) % i64::from(queues.max(1))).unwrap_or(0)
    }
}

/// Starts the supervisor.
pub fn start(plane: &Rc<Plane>) {
    task::start(plane, NAME, run);
}

async fn run(plane: Rc<Plane>) {
    let left = plane.retry.at_work.take();
    let fault = "a fault in the broker's retry part, which restarts";
    let why = Refusal::new(response::SYSTEM_ERROR, fault);
    for to in &left {
        plane.refuse(to, &why);
    }
    plane.tree.set_state(NAME, PartState::Running);
    loop {
        let batch: Vec<ControlRequest> = {
            let mut waiting = plane.retry.waiting.borrow_mut();
            let count = waiting.len().min(BATCH_MAX);
            waiting.drain(..count).collect()
        };
        let backlog = plane.retry.waiting.borrow().len() + batch.len();
        plane
            .tree
            .set_backlog(NAME, u64::try_from(backlog).unwrap_or(u64::MAX));
        if batch.is_empty() {
            plane.retry.news.notified().await;
            continue;
        }
        *plane.retry.at_work.borrow_mut() = batch.iter().map(ReplyTo::of).collect();
        #[cfg(test)]
        plane.tree.panic_if_wanted(NAME);
        for (to, outcome) in send_back(&plane, batch).await {
            plane.reply(&to, Reply::from(outcome));
        }
        plane.retry.at_work.borrow_mut().clear();
    }
}

type Answers = Vec<(ReplyTo, Result<Reply, Refusal>)>;

/// Does a batch of requests.
async fn send_back(plane: &Rc<Plane>, batch: Vec<ControlRequest>) -> Answers {
    let mut answers = Answers::new();
    let read = read(plane, batch, &mut answers).await;
    let (mut decided, mut topics) = (Vec::new(), BTreeSet::new());
    for (to, back, record) in read {
        match decide(&back, record) {
            Ok((record, goal)) => {
                topics.insert(wanted_topic(&back, goal));
                decided.push((to, back, record, goal));
            }
            Err(refusal) => answers.push((to, Err(refusal))),
        }
    }
    ensure(plane, topics).await;
    let (mut supplies, mut asked) = (Vec::new(), Vec::new());
    for (to, back, record, goal) in decided {
        match next_try(plane, &back, &record, goal) {
            Ok(supply) => {
                supplies.push(supply);
                asked.push(to);
            }
            Err(refusal) => answers.push((to, Err(refusal))),
        }
    }
    let outcomes = plane.errands.supply(supplies).await;
    let stored = outcomes
        .into_iter()
        .map(|outcome| outcome.map(|_| Reply::ok()));
    answers.extend(asked.into_iter().zip(stored));
    answers
}

type Read = Vec<(ReplyTo, SendBack, Result<Bytes, FetchFault>)>;

/// Reads the records of a batch, as many as its bytes allow; the other requests wait on, in front.
async fn read(plane: &Rc<Plane>, batch: Vec<ControlRequest>, answers: &mut Answers) -> Read {
    let (mut read, mut bytes) = (Read::new(), 0);
    let mut left = VecDeque::from(batch);
    while !left.is_empty() && bytes < BATCH_BYTES {
        let mut accepted = Vec::new();
        while accepted.len() < READ_RECORDS_MAX
            && let Some(request) = left.pop_front()
        {
            let to = ReplyTo::of(&request);
            match SendBack::check(&request.command, plane) {
                Ok(Some(back)) => accepted.push((to, back)),
                Ok(None) => answers.push((to, Ok(Reply::ok()))),
                Err(refusal) => answers.push((to, Err(refusal))),
            }
        }
        let places = accepted.iter().map(|(_, back)| back.physical);
        let records = plane.errands.fetch(places.collect()).await;
        for ((to, back), record) in accepted.into_iter().zip(records) {
            match &record {
                Ok(record) => bytes += record.len(),
                // A core may be silent: the next read would wait for it as long again.
                Err(FetchFault::Failed(_)) => bytes = BATCH_BYTES,
                Err(_) => {}
            }
            read.push((to, back, record));
        }
    }
    let mut at_work = plane.retry.at_work.borrow_mut();
    let kept = at_work.len().saturating_sub(left.len());
    at_work.truncate(kept);
    let mut waiting = plane.retry.waiting.borrow_mut();
    left.append(&mut waiting);
    *waiting = left;
    read
}

fn decide(back: &SendBack, record: Result<Bytes, FetchFault>) -> Result<(Bytes, Goal), Refusal> {
    let not_found = || {
        let PhysicalOffset(offset) = back.physical;
        let remark = format!("look message by offset failed, {offset}");
        Refusal::new(response::SYSTEM_ERROR, remark)
    };
    let record = record.map_err(|fault| match fault {
        FetchFault::Gone => not_found(),
        FetchFault::Lost(why) | FetchFault::Failed(why) => {
            Refusal::new(response::SYSTEM_ERROR, why)
        }
    })?;
    let view = RecordView::parse(&record).map_err(|_| not_found())?;
    let goal = back.goal(view.reconsume_times);
    Ok((record, goal))
}

fn wanted_topic(back: &SendBack, goal: Goal) -> (String, i32) {
    match goal {
        Goal::DeadLetter => (system_topic::dlq_topic(&back.group), 1),
        Goal::Level(_) => (system_topic::retry_topic(&back.group), back.retry_queues),
    }
}

/// Makes the topics that are missing; one that can't be made refuses its messages later.
async fn ensure(plane: &Rc<Plane>, topics: BTreeSet<(String, i32)>) {
    let mut asked = Vec::new();
    for (topic, queues) in topics {
        if plane.topics.borrow().get(&topic).is_some() {
            continue;
        }
        let (done, made) = oneshot::channel();
        asked.push((topic.clone(), made));
        plane.book().topics.tell(topics::Msg::EnsureOwn {
            topic,
            queues,
            done,
        });
    }
    for (name, made) in asked {
        if !matches!(made.await, Ok(Ok(()))) {
            tracing::warn!(topic = name, "a topic for messages sent back can't be made");
        }
    }
}

fn next_try(
    plane: &Rc<Plane>,
    back: &SendBack,
    record: &Bytes,
    goal: Goal,
) -> Result<SupplyRecord, Refusal> {
    let topics = plane.topics.borrow();
    let (name, _) = wanted_topic(back, goal);
    let missing = |name: &str| {
        let remark = format!("topic[{name}] not exist");
        Refusal::new(response::SYSTEM_ERROR, remark)
    };
    let target = topics.get(&name).ok_or_else(|| missing(&name))?;
    let queue = plane.retry.next_queue(target.config.write_queue_nums);
    let parked = topics.get(system_topic::SCHEDULE_TOPIC);
    let parked = parked.ok_or_else(|| missing(system_topic::SCHEDULE_TOPIC))?;
    policy::next_try(plane, record, goal, (target, queue), parked)
}
