//! Requests about delayed messages: recall (370), progress for tools (45, 61), and the
//! road to the list for operators (31002).
//!
//! **Owns** their headers and answers, with the refusals of `RecallMessageProcessor` (5.5.0).
//! **Lives on** the control plane's thread.
//! **Invariants** a recall is answered when the tables know that the message isn't to be delivered.
//! A message that isn't pending any more is recalled already as far as the client can tell: 5.5.0
//! answers success as well. Whether it is pending must be certain for that: a message that may be
//! on its way, or can't be read now, is refused with `SERVICE_NOT_AVAILABLE`.
//! **Limits** [`CANDIDATES_MAX`] records are compared for one recall, [`STEP_COUNT_MAX`] of
//! [`STEP_BYTES_MAX`] at once; [`RECALLS_AT_WORK_MAX`] recalls do so, [`RECALLS_MAX`] wait,
//! [`RECALL_WAIT_MAX`] each.
//! **Not here** the supervisor (`super`), the list itself (`listing`).

use std::rc::Rc;
use std::time::Duration;

use gantry_protocol::body::DelayOffsets;
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::Value;
use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{self, name};
use gantry_protocol::recall_handle::RecallHandle;
use gantry_protocol::system_topic;
use gantry_runtime::clock::wall_now_ms;
use gantry_storage::units::PhysicalOffset;
use tokio::sync::Semaphore;

use super::Entry;
use super::listing::count_that_fits;
use super::marks::{self, Recalled};
use crate::control::plane::Plane;
use crate::control::reply::{Reply, ReplyTo, text};
use crate::refusal::Refusal;
use crate::seam::ControlRequest;
use crate::seam::errands::FetchFault;

/// Messages due in the same millisecond that one recall looks at.
const CANDIDATES_MAX: usize = 4096;
/// Records compared at once.
const STEP_COUNT_MAX: usize = 64;
/// Bytes of them after which a step takes no further one (one always fits).
const STEP_BYTES_MAX: u64 = 4 << 20;
/// Recalls that read records at once: with a record more each, 32 MiB where records have up to 4.
const RECALLS_AT_WORK_MAX: usize = 4;
/// Recalls that wait or are at work: a second of short ones.
const RECALLS_MAX: usize = 4096;
/// How long one waits for others: its client gives up after 3 s.
const RECALL_WAIT_MAX: Duration = Duration::from_secs(3);

/// Room for recalls.
#[derive(Debug)]
pub(super) struct Recalls {
    admitted: Semaphore,
    at_work: Semaphore,
}

impl Default for Recalls {
    fn default() -> Self {
        Self {
            admitted: Semaphore::new(RECALLS_MAX),
            at_work: Semaphore::new(RECALLS_AT_WORK_MAX),
        }
    }
}

/// Answers a request.
pub fn serve(command: ControlRequest, plane: &Rc<Plane>) {
    let to = ReplyTo::of(&command);
    let here = Rc::clone(plane);
    plane.reply_later(to, async move {
        match command.command.code {
            request::RECALL_MESSAGE => recall(&command, &here).await,
            request::GANTRY_LIST_DELAYED => super::listing::list(&command.command, &here).await,
            request::GET_ALL_DELAY_OFFSET => Ok(delay_offsets(&here)),
            request::GET_TIMER_METRICS => Ok(timer_metrics(&here)),
            other => Err(crate::control::desk::unbuilt(other)),
        }
    });
}

fn refused(code: i32, remark: &str) -> Refusal {
    Refusal::new(code, remark)
}

fn unavailable() -> Refusal {
    let remark = "recall failed, broker service not available";
    refused(response::SERVICE_NOT_AVAILABLE, remark)
}

fn illegal(why: &str) -> Refusal {
    refused(response::ILLEGAL_OPERATION, why)
}

async fn recall(command: &ControlRequest, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let handle = checked_handle(command, plane)?;
    let room = &plane.delay.recalls;
    let busy = || {
        let remark = "[OVERLOAD]too many recalls wait already";
        refused(response::SYSTEM_BUSY, remark)
    };
    let _admitted = room.admitted.try_acquire().map_err(|_| busy())?;
    let at_work = actix::clock::timeout(RECALL_WAIT_MAX, room.at_work.acquire()).await;
    let _at_work = at_work.map_err(|_| busy())?;
    // A row may have come while the supervisor waits for a core.
    super::learn(plane).await;
    let due_ms = u64::try_from(handle.due_ms).unwrap_or(0);
    let left_ms = due_ms.saturating_sub(wall_now_ms());
    if left_ms == 0 || left_ms >= plane.settings.timer_max_delay_sec.saturating_mul(1000) {
        return Err(illegal("recall failed, timestamp invalid"));
    }
    for entry in find(plane, due_ms, &handle).await? {
        if !cancel(plane, entry).await? {
            // While its record was read it was moved, or has become due.
            return Err(unavailable());
        }
    }
    Ok(Reply::ok()
        .with("MSG_REGION", &plane.settings.region_id)
        .with("msgId", &handle.unique_key))
}

/// What can be refused before anything is looked for.
fn checked_handle(command: &ControlRequest, plane: &Plane) -> Result<RecallHandle, Refusal> {
    let settings = &plane.settings;
    if !settings.recall_message_enable {
        let remark = "recall failed, operation is forbidden";
        return Err(refused(response::NO_PERMISSION, remark));
    }
    if wall_now_ms() < settings.start_accept_send_request_ms.get() {
        return Err(unavailable());
    }
    if plane.permission.get() & 2 == 0 || !knows_timers(plane) {
        return Err(unavailable());
    }
    let topic = text(&command.command, "topic")?;
    if plane.topics.borrow().get(topic).is_none() {
        let remark = format!("recall failed, the topic[{topic}] not exist");
        return Err(refused(response::TOPIC_NOT_EXIST, &remark));
    }
    let handle = RecallHandle::decode(text(&command.command, "recallHandle")?)
        .ok_or_else(|| illegal("recall handle is invalid"))?;
    if handle.topic != topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if handle.broker_name != settings.broker_name {
        return Err(illegal("recall failed, broker service not available"));
    }
    Ok(handle)
}

/// Whether all pending timed messages are known: one that isn't would be recalled in vain.
fn knows_timers(plane: &Plane) -> bool {
    let topics = plane.topics.borrow();
    let timer = topics.get(system_topic::TIMER_TOPIC).map(|entry| entry.id);
    let board = plane.delay.board();
    board.is_complete && !board.is_unread(|key| Some(key.topic) == timer)
}

/// The pending records of the message that a handle names: one, or two when a crash came while it
/// was being parked again.
///
/// # Errors
/// It may be pending, where it can't be taken out now.
async fn find(
    plane: &Rc<Plane>,
    due_ms: u64,
    handle: &RecallHandle,
) -> Result<Vec<Entry>, Refusal> {
    let mut candidates = plane.delay.board().due.due_at(due_ms);
    if !knows_timers(plane) || plane.delay.is_on_its_way(due_ms, &candidates) {
        return Err(unavailable());
    }
    let is_cut = candidates.len() > CANDIDATES_MAX;
    candidates.truncate(CANDIDATES_MAX);
    let (mut found, mut left) = (Vec::new(), candidates.as_slice());
    while !left.is_empty() {
        let count = count_that_fits(left, STEP_BYTES_MAX).min(STEP_COUNT_MAX);
        let (some, rest) = left.split_at(count);
        left = rest;
        let places = some.iter().map(|entry| PhysicalOffset(entry.physical));
        let records = plane.errands.fetch(places.collect()).await;
        for (entry, record) in some.iter().zip(records) {
            let record = match record {
                Ok(record) => record,
                // It will never be delivered.
                Err(FetchFault::Gone | FetchFault::Lost(_)) => continue,
                Err(FetchFault::Failed(_)) => return Err(unavailable()),
            };
            let Ok(view) = RecordView::parse(&record) else {
                continue;
            };
            let has = |wanted, value: &str| properties::get(view.properties, wanted) == Some(value);
            if has(name::UNIQ_KEY, &handle.unique_key) && has(name::REAL_TOPIC, &handle.topic) {
                found.push(*entry);
            }
        }
    }
    if is_cut && found.is_empty() {
        return Err(unavailable());
    }
    Ok(found)
}

/// Takes a pending message out. False when it is on its way or was delivered.
///
/// # Errors
/// The tables can't be written: it stays pending.
async fn cancel(plane: &Rc<Plane>, entry: Entry) -> Result<bool, Refusal> {
    if !plane.delay.board_mut().take(entry) {
        return Ok(false);
    }
    let recalled = Recalled {
        due_ms: entry.due_ms,
        at_ms: wall_now_ms(),
    };
    let mut rows = plane.delay.old_places(entry.physical);
    rows.push((entry.physical, recalled));
    let tables = plane.ledger.tables().clone();
    let stored = move || marks::store_recalled(&tables, &rows).map_err(|error| error.to_string());
    let stored = tokio::task::spawn_blocking(stored).await;
    let mut board = plane.delay.board_mut();
    if let Err(why) = stored.unwrap_or_else(|error| Err(error.to_string())) {
        board.try_again(entry, 0);
        return Err(refused(response::SYSTEM_ERROR, &why));
    }
    board.totals.recalled += 1;
    board.set_recalled(entry, recalled);
    Ok(true)
}

/// 45: for each level, the offset of the next record to deliver.
fn delay_offsets(plane: &Rc<Plane>) -> Reply {
    let topics = plane.topics.borrow();
    let schedule = topics
        .get(system_topic::SCHEDULE_TOPIC)
        .map(|entry| entry.id);
    let board = plane.delay.board();
    let levels = board
        .queues()
        .iter()
        .filter(|queue| Some(queue.key.topic) == schedule);
    let offsets = levels
        .filter(|queue| queue.next.0 > 0)
        .map(|queue| {
            let all_done = queue.pending() == 0;
            let offset = if all_done {
                queue.next
            } else {
                queue.delivered
            };
            let level = i32::from(queue.key.queue.0) + 1;
            (level, i64::try_from(offset.0).unwrap_or(i64::MAX))
        })
        .collect();
    let body = DelayOffsets {
        data_version: *topics.version(),
        offsets,
    };
    Reply::json(&body.to_value())
}

/// How many timed messages are pending.
pub fn pending_timers(plane: &Plane) -> u64 {
    let topics = plane.topics.borrow();
    let timer = topics.get(system_topic::TIMER_TOPIC).map(|entry| entry.id);
    let board = plane.delay.board();
    let queues = board.queues().iter();
    let timers = queues.filter(|queue| Some(queue.key.topic) == timer);
    timers.map(super::book::ParkedQueue::pending).sum()
}

/// 61: how many timed messages are pending, by topic. The topics are in the records, which nobody
/// reads for this: one sum stands for all. In 5.5.0 only slaves ask.
fn timer_metrics(plane: &Rc<Plane>) -> Reply {
    let pending = i64::try_from(pending_timers(plane)).unwrap_or(i64::MAX);
    let count = Value::object([
        ("count", Value::from(pending)),
        ("timeStamp", Value::from(plane.now_ms())),
    ]);
    let body = Value::object([
        ("dataVersion", plane.topics.borrow().version().to_value()),
        (
            "timingCount",
            Value::object([(system_topic::TIMER_TOPIC, count)]),
        ),
    ]);
    Reply::json(&body)
}
