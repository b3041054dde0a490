//! The receiving side: a connection that pulls a set of queues and checks what comes.
//!
//! **Owns** where each queue has been read to, and the pull under way on each.
//! **Lives on** the generator's executor; per connection one task that reads and one that writes.
//! **Invariants** one pull is under way for each queue, as Java's clients do it; the opaque number
//! is the queue's place in the connection's list. Every record is decoded, its checksum and its
//! place in the queue checked.
//! **Limits** a queue that moved on (21) is followed and counted as an error.
//! **Not here** the verdict (`ledger`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use gantry_protocol::code::{request as codes, response};
use gantry_protocol::command::{HeaderView, writer};
use gantry_protocol::frame::{HeaderEncoding, frame_bytes_wanted};
use gantry_protocol::message::{RecordIter, RecordView};
use gantry_protocol::request::pull::{FLAG_SUBSCRIPTION, FLAG_SUSPEND, PullHeader};

use crate::connection::{Inbox, Link};
use crate::error::BenchError;
use crate::ledger::Ledger;
use crate::recorder::{Latency, Recorder};
use crate::wire::payload::{self, BodyFault, Stamp};
use crate::wire::reply::FRAME_HEAD_BYTES;

/// How long the broker may hold a pull, as Java's clients ask for.
const SUSPEND_MS: i64 = 15_000;
/// Brokers count a delay from the millisecond of the store time, which may begin so much before the
/// moment of sending: what comes early by less is not early.
const DUE_GRAIN_NS: u64 = 1_000_000;
/// Wait before a queue is asked again that answered with an error.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// One queue as one group reads it.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// Index of the group.
    pub group: usize,
    /// Its name.
    pub group_name: Rc<str>,
    /// The topic.
    pub topic: Rc<str>,
    /// The queue in the topic.
    pub queue_id: i32,
    /// Its index among all queues of the run.
    pub queue: usize,
    /// Next offset.
    pub offset: i64,
    /// Where to stop; `None` = follow the queue.
    pub end: Option<i64>,
}

/// How a connection reads.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The broker.
    pub addr: SocketAddr,
    /// Header encoding of the pulls.
    pub encoding: HeaderEncoding,
    /// Messages of a pull.
    pub pull_max: i32,
    /// When messages are due: a delivery is measured from there.
    pub due: Due,
}

/// When a message is due.
#[derive(Debug, Clone, Copy, Default)]
pub struct Due {
    /// So long after its stamp's time.
    pub delay: Duration,
    /// The stamps of these first streams are due times themselves, ns since 1970.
    pub timed_streams: u32,
    /// The start of the run by that clock, for those.
    pub started_ns: u64,
}

impl Due {
    /// The stamp's due time, ns since the start of the run; overdue at the start is 0.
    fn of(&self, stamp: &Stamp) -> u64 {
        if self.is_timed(stamp) {
            return stamp.intended_ns.saturating_sub(self.started_ns);
        }
        let delay_ns = u64::try_from(self.delay.as_nanos()).unwrap_or(u64::MAX);
        stamp.intended_ns.saturating_add(delay_ns)
    }

    fn is_timed(&self, stamp: &Stamp) -> bool {
        stamp.stream < self.timed_streams
    }

    /// Whether a message that is due at `due_ns` came too early.
    fn is_early(&self, due_ns: u64, now_ns: u64) -> bool {
        !self.delay.is_zero() && due_ns.saturating_sub(now_ns) >= DUE_GRAIN_NS
    }
}

/// Nanoseconds since 1970.
pub fn wall_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// A connection and its queues.
pub struct Reader {
    reading: Reading,
    link: Rc<Link>,
    cursors: RefCell<Vec<Cursor>>,
    asked_ns: RefCell<Vec<u64>>,
    unfinished: Cell<usize>,
    recorder: Rc<Recorder>,
    ledger: Rc<RefCell<Ledger>>,
}

/// Connects and asks for all queues; they are read by [`Reader::run`].
///
/// # Errors
/// The broker does not take the connection.
pub async fn open(
    reading: Reading,
    cursors: Vec<Cursor>,
    recorder: Rc<Recorder>,
    ledger: Rc<RefCell<Ledger>>,
) -> Result<Rc<Reader>, BenchError> {
    let unfinished = cursors.iter().filter(|c| c.end != Some(c.offset)).count();
    let reader = Rc::new(Reader {
        link: Link::open(reading.addr).await?,
        asked_ns: RefCell::new(vec![0; cursors.len()]),
        unfinished: Cell::new(unfinished),
        cursors: RefCell::new(cursors),
        reading,
        recorder,
        ledger,
    });
    let now_ns = reader.recorder.now_ns();
    for at in 0..reader.cursors.borrow().len() {
        reader.ask(at, now_ns);
    }
    Ok(reader)
}

impl Reader {
    /// Reads until every queue with an end has reached it; for ever if one has none.
    ///
    /// # Errors
    /// The connection breaks or something else than records comes.
    pub async fn run(self: Rc<Self>) -> Result<(), BenchError> {
        let read = async {
            let mut inbox = Inbox::default();
            while self.unfinished.get() > 0 {
                inbox.fill(&self.link).await?;
                let mut taken = 0;
                let now_ns = self.recorder.now_ns();
                while let Some(frame) = whole_frame(inbox.bytes().get(taken..).unwrap_or_default())?
                {
                    taken += frame.len();
                    self.answered(frame, now_ns)?;
                }
                inbox.take(taken);
            }
            Ok(())
        };
        let done = futures_lite::future::or(read, self.link.write_posted()).await;
        self.link.close().await;
        done
    }

    /// Posts the pull of one queue, unless it is read to its end.
    fn ask(&self, at: usize, now_ns: u64) {
        let cursors = self.cursors.borrow();
        let Some(cursor) = cursors.get(at).filter(|c| c.end != Some(c.offset)) else {
            return;
        };
        // A backlog is read without waiting; a queue that is followed waits at its end.
        let suspend = if cursor.end.is_none() {
            FLAG_SUSPEND
        } else {
            0
        };
        let header = PullHeader {
            consumer_group: &cursor.group_name,
            topic: &cursor.topic,
            queue_id: cursor.queue_id,
            queue_offset: cursor.offset,
            max_msg_nums: self.reading.pull_max,
            sys_flag: FLAG_SUBSCRIPTION | suspend,
            commit_offset: 0,
            suspend_timeout_ms: SUSPEND_MS,
            sub_version: 0,
            subscription: Some("*"),
            expression_type: Some("TAG"),
            max_msg_bytes: None,
        };
        let mut frame = BytesMut::new();
        // A list of queues is far shorter than i32 can count; a pull's header fits any frame.
        let opaque = i32::try_from(at).unwrap_or(i32::MAX);
        let written = writer::write_request(
            &mut frame,
            self.reading.encoding,
            opaque,
            codes::PULL_MESSAGE,
            false,
            Some(&header.to_ext()),
            &[],
        );
        debug_assert!(written.is_ok(), "a pull's header fits any frame");
        if let Some(asked) = self.asked_ns.borrow_mut().get_mut(at) {
            *asked = now_ns;
        }
        self.link.post(|out| out.extend_from_slice(&frame));
    }

    fn answered(self: &Rc<Self>, frame: &[u8], now_ns: u64) -> Result<(), BenchError> {
        let (view, body) = split(frame)?;
        if !view.is_reply() {
            // A notification of the broker.
            return Ok(());
        }
        let at = usize::try_from(view.opaque).unwrap_or(usize::MAX);
        match view.code {
            response::SUCCESS => {
                self.take_records(at, body, now_ns)?;
                self.ask(at, now_ns);
            }
            response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY => {
                self.ask_again(at, now_ns, Duration::ZERO);
            }
            code => {
                let recorder = &self.recorder;
                recorder.count(now_ns, |c| *c.errors.entry(code).or_default() += 1);
                if code == response::PULL_OFFSET_MOVED {
                    self.follow(at, view.ext("nextBeginOffset"));
                }
                self.ask_again(at, now_ns, ERROR_PAUSE);
            }
        }
        Ok(())
    }

    /// Asks again, after a pause if the queue has an end it should have given by now.
    fn ask_again(self: &Rc<Self>, at: usize, now_ns: u64, pause: Duration) {
        let follows = self
            .cursors
            .borrow()
            .get(at)
            .is_some_and(|c| c.end.is_none());
        if pause.is_zero() && follows {
            self.ask(at, now_ns);
            return;
        }
        let reader = Rc::clone(self);
        glommio::spawn_local(async move {
            glommio::timer::sleep(ERROR_PAUSE).await;
            reader.ask(at, reader.recorder.now_ns());
        })
        .detach();
    }

    fn follow(&self, at: usize, next: Option<&str>) {
        let next = next.and_then(|text| text.parse().ok());
        if let (Some(cursor), Some(next)) = (self.cursors.borrow_mut().get_mut(at), next) {
            self.ledger.borrow_mut().offset_gap();
            cursor.offset = next;
        }
    }

    fn take_records(&self, at: usize, body: &[u8], now_ns: u64) -> Result<(), BenchError> {
        let mut cursors = self.cursors.borrow_mut();
        let Some(cursor) = cursors.get_mut(at) else {
            return Err(answer("a reply to a pull that was never sent".to_owned()));
        };
        let mut ledger = self.ledger.borrow_mut();
        let due = &self.reading.due;
        let wall_ns = wall_now_ns();
        let mut count: u64 = 0;
        let mut bad = None;
        let mut timed = Vec::new();
        self.recorder.record_due(Latency::Deliver, now_ns, |each| {
            for record in RecordIter::new(body) {
                let Ok(record) = record.map_err(|error| bad = Some(answer(error.to_string())))
                else {
                    return;
                };
                if record.queue_offset != cursor.offset {
                    ledger.offset_gap();
                }
                cursor.offset = record.queue_offset + 1;
                match payload::open(record.body) {
                    Err(BodyFault::Corrupt) => ledger.corrupt(),
                    Err(BodyFault::Foreign) => ledger.foreign(),
                    Ok(stamp) => {
                        if !ledger.received(cursor.group, cursor.queue, &stamp) {
                            continue;
                        }
                        count += 1;
                        let due_ns = due.of(&stamp);
                        if due.is_timed(&stamp) {
                            let at = (cursor.group, cursor.queue, stamp.intended_ns);
                            ledger.due(at, wall_ns, is_stamped_before(&record, at.2));
                            if due_ns == 0 {
                                ledger.was_overdue(now_ns);
                            }
                            timed.push(due_ns);
                            continue;
                        }
                        if due.is_early(due_ns, now_ns) {
                            ledger.early();
                        }
                        if cursor.end.is_none() {
                            each(stamp.intended_ns, due_ns);
                        }
                    }
                }
            }
        });
        if let Some(error) = bad {
            return Err(error);
        }
        if !timed.is_empty() {
            self.recorder.record(Latency::Late, now_ns, |each| {
                timed.into_iter().for_each(each);
            });
        }
        self.recorder.count(now_ns, |c| c.delivered += count);
        if let Some(end) = cursor.end {
            let asked = self.asked_ns.borrow().get(at).copied().unwrap_or(now_ns);
            self.recorder
                .record(Latency::Pull, now_ns, |each| each(asked));
            if cursor.offset >= end {
                cursor.end = Some(cursor.offset);
                self.unfinished.set(self.unfinished.get() - 1);
            }
        }
        Ok(())
    }
}

/// Whether the broker says itself that it stored a record before this time.
fn is_stamped_before(record: &RecordView<'_>, due_ns: u64) -> bool {
    let stored_ms = u64::try_from(record.store_timestamp).unwrap_or(0);
    stored_ms < due_ns / 1_000_000
}

fn answer(what: String) -> BenchError {
    BenchError::Answer {
        doing: "reading pulled records",
        what,
    }
}

/// The whole frame at the front of `input`, if it is all there.
fn whole_frame(input: &[u8]) -> Result<Option<&[u8]>, BenchError> {
    let wanted = frame_bytes_wanted(input).map_err(|e| answer(e.to_string()))?;
    Ok(wanted.and_then(|len| input.get(..len)))
}

/// Header and body of a whole frame.
fn split(frame: &[u8]) -> Result<(HeaderView<'_>, &[u8]), BenchError> {
    let (&head, rest) = frame
        .split_first_chunk::<FRAME_HEAD_BYTES>()
        .ok_or_else(|| answer("an empty frame".to_owned()))?;
    let [_, _, _, _, encoding, a, b, c] = head;
    let encoding = match encoding {
        0 => HeaderEncoding::Json,
        _ => HeaderEncoding::Binary,
    };
    let header_len = u32::from_be_bytes([0, a, b, c]) as usize;
    let (header, body) = rest
        .split_at_checked(header_len)
        .ok_or_else(|| answer("a header longer than its frame".to_owned()))?;
    let view = HeaderView::parse(encoding, header).map_err(|e| answer(e.to_string()))?;
    Ok((view, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_is_a_whole_millisecond_before_the_due_time() {
        let due = Due {
            delay: Duration::from_secs(1),
            ..Due::default()
        };
        let due_ns = 7_000_900_000;
        // Stored in the millisecond that began 0.9 ms before it was sent: that one is not early.
        assert!(!due.is_early(due_ns, due_ns - 900_000));
        assert!(!due.is_early(due_ns, due_ns + 5));
        assert!(due.is_early(due_ns, due_ns - 1_000_000));
        assert!(!Due::default().is_early(due_ns, 0));
    }
}
