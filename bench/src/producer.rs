//! The sending side: a connection that keeps a window of sends in flight, or sends to a schedule.
//!
//! **Owns** the in-flight slots and how replies free them; the second phase of transactions.
//! **Lives on** the generator's executor; per connection one task that reads, one that writes and
//! one that keeps the schedule.
//! **Invariants** a request's opaque number is `OPAQUE_BASE` + its slot, so a reply finds its send
//! time without a table look-up; a slot is reused only after its reply. Nothing is allocated and
//! no clock is read for a single message.
//! **Limits** `IN_FLIGHT_MAX` slots a connection; a broker that answers nothing for `DRAIN_LIMIT`
//! while something is in flight is given up, and so are the replies that are missing then.
//! **Not here** what a frame looks like (`wire::templates`), when it is due (`pace`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::{ExtValue, HeaderView, writer};
use gantry_protocol::frame::HeaderEncoding;

use crate::connection::{Bell, Inbox, Link};
use crate::error::BenchError;
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::recorder::{Latency, Recorder};
use crate::wire::reply::{FRAME_HEAD_BYTES, ReplyHead, ReplyScanner};
use crate::wire::templates::{OPAQUE_BASE, PRODUCER_GROUP, SendTemplate, Written};

/// Most sends one connection may have in flight.
pub const IN_FLIGHT_MAX: usize = 65_536;
/// Code under which missing replies are counted.
pub const NO_REPLY: i32 = -1;
/// Shortest wait of a schedule: what falls due meanwhile leaves in one write.
const NAP_MIN: Duration = Duration::from_micros(20);
/// Longest wait before the end of the run is looked at again.
const NAP_MAX: Duration = Duration::from_millis(20);
/// How long a broker may answer nothing while something is in flight, before the end and after it.
/// Less in the tests of this room, which wait for it.
const DRAIN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Bytes of one-way sends joined into one write.
const ONE_WAY_WRITE_BYTES: usize = 64 * 1024;
/// `commitOrRollback` of a commit.
const COMMIT: i64 = 8;

/// How one connection is driven.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The broker.
    pub addr: SocketAddr,
    /// Number of the connection.
    pub stream: u32,
    /// Sends in flight.
    pub in_flight: usize,
    /// Frames a second for this connection, `None` = flat out.
    pub rate: Option<f64>,
    /// First due time.
    pub phase_ns: u64,
    /// No answers.
    pub one_way: bool,
    /// Consumer groups of this run that receive each message.
    pub groups: u64,
    /// The delay that its messages have.
    pub delay: Duration,
    /// Commit each message once its half is stored.
    pub commit_to: Option<(Vec<String>, HeaderEncoding)>,
}

/// What the connections of a run share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Clock and histograms.
    pub recorder: Rc<Recorder>,
    /// What was issued.
    pub ledger: Rc<RefCell<Ledger>>,
    /// Frames still to be sent; `u64::MAX` = until the window closes.
    pub frames_left: Rc<Cell<u64>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    intended_ns: u64,
    written: Written,
    half_done: bool,
}

struct Sender {
    drive: Drive,
    shared: Shared,
    link: Rc<Link>,
    template: RefCell<SendTemplate>,
    pace: RefCell<Pace>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    attention: Bell,
    stopped: Cell<bool>,
    /// When answers came last.
    heard_ns: Cell<u64>,
    failure: RefCell<Option<BenchError>>,
    messages: u64,
}

/// Drives one connection to the end of the window, or of the frames to send, and until its replies
/// are there. Must run inside a glommio executor.
///
/// # Errors
/// A connection that can't be made or breaks.
pub async fn produce(
    drive: Drive,
    template: SendTemplate,
    shared: Shared,
) -> Result<(), BenchError> {
    let link = Link::open(drive.addr).await?;
    let slots = u32::try_from(drive.in_flight).unwrap_or(u32::MAX);
    let empty = Slot {
        intended_ns: 0,
        written: Written {
            queue: 0,
            first: 0,
            counter: 0,
        },
        half_done: false,
    };
    let sender = Rc::new(Sender {
        pace: RefCell::new(Pace::new(drive.rate, drive.phase_ns)),
        slots: RefCell::new(vec![empty; drive.in_flight]),
        free: RefCell::new((0..slots).rev().collect()),
        messages: template.messages_count(),
        template: RefCell::new(template),
        attention: Bell::default(),
        stopped: Cell::new(false),
        heard_ns: Cell::new(0),
        failure: RefCell::default(),
        link,
        drive,
        shared,
    });
    let reader = {
        let sender = Rc::clone(&sender);
        glommio::spawn_local(async move { sender.fail(sender.read().await) })
    };
    let writer = {
        let sender = Rc::clone(&sender);
        glommio::spawn_local(async move { sender.fail(sender.link.write_posted().await) })
    };
    let driven = if sender.drive.one_way {
        sender.send_one_way().await
    } else {
        sender.keep_sending().await;
        sender.drain().await;
        Ok(())
    };
    sender.count_unsent();
    sender.settle();
    sender.link.close().await;
    reader.cancel().await;
    writer.cancel().await;
    let failure = sender.failure.take();
    driven.and(failure.map_or(Ok(()), Err))
}

impl Sender {
    fn fail(&self, ended: Result<(), BenchError>) {
        if let Err(error) = ended {
            self.failure.borrow_mut().get_or_insert(error);
            self.attention.ring();
        }
    }

    fn is_over(&self) -> bool {
        let recorder = &self.shared.recorder;
        self.shared.frames_left.get() == 0
            || recorder.now_ns() >= recorder.to_ns()
            || self.failure.borrow().is_some()
    }

    /// Whether something is in flight to a broker that answers nothing.
    fn is_unheard(&self) -> bool {
        let now_ns = self.shared.recorder.now_ns();
        let silent_ns = u128::from(now_ns.saturating_sub(self.heard_ns.get()));
        self.free.borrow().len() < self.drive.in_flight && silent_ns > DRAIN_LIMIT.as_nanos()
    }

    /// Until when what is due leaves: now, but nothing that is due at the end of the window or
    /// later. What was due before it leaves even if this task woke only after it.
    fn due_until_ns(&self, now_ns: u64) -> u64 {
        now_ns.min(self.shared.recorder.to_ns().saturating_sub(1))
    }

    /// Fills the window or keeps the schedule until the run is over.
    async fn keep_sending(&self) {
        while !self.is_over() {
            self.fill();
            if self.is_unheard() {
                let silence = BenchError::Silent(DRAIN_LIMIT.as_secs());
                self.fail(Err(silence));
                break;
            }
            let due_ns = self.pace.borrow().due_ns();
            // With no slot free or no schedule there is nothing to do but wait for replies; the
            // reader fills the window of a closed loop itself.
            let wait = due_ns
                .filter(|_| !self.free.borrow().is_empty())
                .map_or(NAP_MAX, |due| {
                    let now_ns = self.shared.recorder.now_ns();
                    Duration::from_nanos(due.saturating_sub(now_ns)).clamp(NAP_MIN, NAP_MAX)
                });
            let nap = async {
                glommio::timer::sleep(wait).await;
            };
            if due_ns.is_some() && wait < NAP_MAX {
                nap.await;
            } else {
                futures_lite::future::or(nap, self.attention.heard()).await;
            }
        }
        if self.failure.borrow().is_none() {
            self.fill();
        }
        self.stopped.set(true);
    }

    /// Counts what was due and could not leave; with the wait that it had at the end, which is less
    /// than its latency would have been, it is part of the percentiles.
    fn count_unsent(&self) {
        let recorder = &self.shared.recorder;
        let now_ns = recorder.now_ns();
        // A run that broke off ends before its window.
        let end_ns = recorder.to_ns().min(now_ns);
        let pace = self.pace.borrow();
        let overdue = pace.overdue(end_ns) * self.messages;
        if self.shared.frames_left.get() == 0 || overdue == 0 {
            return;
        }
        recorder.count(now_ns, |c| c.overdue += overdue);
        if self.drive.one_way {
            return;
        }
        for (frames, intended_ns) in pace.overdue_groups(end_ns) {
            self.waited(end_ns, intended_ns, frames, false);
        }
    }

    /// `frames` that were due at `intended_ns` had no answer until `end_ns`, but perhaps one to
    /// their half.
    fn waited(&self, end_ns: u64, intended_ns: u64, frames: u64, half_done: bool) {
        let recorder = &self.shared.recorder;
        let sent_at = (intended_ns, 0);
        recorder.record_waits(Latency::Send, end_ns, sent_at, frames);
        if self.drive.commit_to.is_some() && !half_done {
            recorder.record_waits(Latency::Half, end_ns, sent_at, frames);
        }
        let deliveries = self.messages * self.drive.groups;
        if deliveries > 0 {
            let delay_ns = u64::try_from(self.drive.delay.as_nanos()).unwrap_or(u64::MAX);
            let due_at = (intended_ns, delay_ns);
            recorder.record_waits(Latency::Deliver, end_ns, due_at, frames * deliveries);
        }
    }

    /// Queues every frame that is due and has a free slot.
    fn fill(&self) {
        let shared = &self.shared;
        let now_ns = shared.recorder.now_ns();
        let until_ns = self.due_until_ns(now_ns);
        if self.stopped.get() {
            return;
        }
        let mut template = self.template.borrow_mut();
        let mut pace = self.pace.borrow_mut();
        let mut free = self.free.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        let mut frames_left = shared.frames_left.get();
        let mut count = 0;
        let may_write = |frames_left, pace: &Pace, free: &[u32]| {
            let due_ns = pace.due_ns().unwrap_or(now_ns);
            frames_left > 0 && !free.is_empty() && due_ns <= until_ns
        };
        if !may_write(frames_left, &pace, &free) {
            return;
        }
        if free.len() == self.drive.in_flight {
            // Nothing was waited for until now.
            self.heard_ns.set(now_ns);
        }
        self.link.post(|out| {
            while may_write(frames_left, &pace, &free) {
                let Some(slot) = free.pop() else { break };
                let intended_ns = pace.due_ns().unwrap_or(now_ns);
                pace.issued();
                let written = template.write(slot, intended_ns, out);
                if let Some(place) = slots.get_mut(slot as usize) {
                    *place = Slot {
                        intended_ns,
                        written,
                        half_done: false,
                    };
                }
                if frames_left != u64::MAX {
                    frames_left -= 1;
                }
                count += 1;
            }
        });
        shared.frames_left.set(frames_left);
        let messages = count * self.messages;
        shared.recorder.count(now_ns, |c| c.sent += messages);
    }

    async fn read(&self) -> Result<(), BenchError> {
        let scanner = ReplyScanner::default();
        let mut inbox = Inbox::default();
        let mut answered = Vec::with_capacity(self.drive.in_flight);
        loop {
            inbox.fill(&self.link).await?;
            self.heard_ns.set(self.shared.recorder.now_ns());
            let mut taken = 0;
            while let Some((reply, len)) =
                scanner.take(inbox.bytes().get(taken..).unwrap_or_default())?
            {
                let frame = inbox.bytes().get(taken..taken + len).unwrap_or_default();
                self.answered(reply, frame, &mut answered)?;
                taken += len;
            }
            inbox.take(taken);
            self.settle_answered(&mut answered);
            if self.drive.rate.is_none() {
                self.fill();
            }
            if self.stopped.get() || self.drive.rate.is_some() {
                self.attention.ring();
            }
        }
    }

    /// Sorts one reply: refused, to be committed, or done.
    fn answered(
        &self,
        reply: ReplyHead,
        frame: &[u8],
        done: &mut Vec<u32>,
    ) -> Result<(), BenchError> {
        let number = reply.opaque.wrapping_sub(OPAQUE_BASE);
        let mut slots = self.slots.borrow_mut();
        let slot = usize::try_from(number).ok().and_then(|n| slots.get_mut(n));
        let (Ok(number), Some(slot)) = (u32::try_from(number), slot) else {
            // A question of the broker, such as the check of a transaction: not ours to answer.
            return Ok(());
        };
        if reply.code != 0 {
            self.refused(reply.code, &slot.written);
            self.free.borrow_mut().push(number);
        } else if let (Some((topics, encoding)), false) = (&self.drive.commit_to, slot.half_done) {
            slot.half_done = true;
            let recorder = &self.shared.recorder;
            recorder.record(Latency::Half, recorder.now_ns(), |each| {
                each(slot.intended_ns);
            });
            let topic = topics.get(slot.written.queue as usize % topics.len().max(1));
            let key = self.template.borrow().key(slot.written.counter);
            let topic = topic.map_or("", String::as_str);
            let commit = commit_frame(frame, *encoding, reply.opaque, topic, &key)?;
            self.link.post(|out| out.extend_from_slice(&commit));
        } else {
            done.push(number);
        }
        Ok(())
    }

    fn refused(&self, code: i32, written: &Written) {
        let shared = &self.shared;
        let messages = self.messages;
        let mut ledger = shared.ledger.borrow_mut();
        ledger.not_acknowledged(self.drive.stream, written, messages);
        let now_ns = shared.recorder.now_ns();
        shared.recorder.count(now_ns, |c| {
            *c.errors.entry(code).or_default() += messages;
        });
    }

    fn settle_answered(&self, answered: &mut Vec<u32>) {
        if answered.is_empty() {
            return;
        }
        let recorder = &self.shared.recorder;
        let now_ns = recorder.now_ns();
        let slots = self.slots.borrow();
        recorder.record(Latency::Send, now_ns, |each| {
            for slot in answered.iter().filter_map(|n| slots.get(*n as usize)) {
                each(slot.intended_ns);
            }
        });
        let messages = answered.len() as u64 * self.messages;
        recorder.count(now_ns, |c| c.acknowledged += messages);
        self.free.borrow_mut().append(answered);
    }

    /// Sends without answers, as fast as the socket takes them or to the schedule.
    async fn send_one_way(&self) -> Result<(), BenchError> {
        let recorder = &self.shared.recorder;
        let mut out = Vec::new();
        loop {
            let is_last = self.is_over();
            if self.failure.borrow().is_some() {
                break;
            }
            let frames = self.write_due(&mut out);
            let written = self.link.write_all(&out);
            futures_lite::future::or(written, stuck()).await?;
            let empty = out.is_empty();
            out.clear();
            let messages = frames * self.messages;
            // Written to the socket is all that is known of a one-way send.
            recorder.count(recorder.now_ns(), |c| {
                c.sent += messages;
                c.acknowledged += messages;
            });
            if is_last {
                break;
            }
            if empty {
                glommio::timer::sleep(NAP_MIN).await;
            } else {
                glommio::executor().yield_if_needed().await;
            }
        }
        Ok(())
    }

    /// Frames that are due, up to one write of them; how many.
    fn write_due(&self, out: &mut Vec<u8>) -> u64 {
        let now_ns = self.shared.recorder.now_ns();
        let until_ns = self.due_until_ns(now_ns);
        let frames_left = &self.shared.frames_left;
        let mut pace = self.pace.borrow_mut();
        let mut frames = 0;
        while out.len() < ONE_WAY_WRITE_BYTES && frames_left.get() > 0 {
            let due_ns = pace.due_ns().unwrap_or(now_ns);
            if due_ns > until_ns {
                break;
            }
            pace.issued();
            self.template.borrow_mut().write(0, due_ns, out);
            if frames_left.get() != u64::MAX {
                frames_left.set(frames_left.get() - 1);
            }
            frames += 1;
        }
        frames
    }

    /// Waits for what is still in flight, as long as answers come.
    async fn drain(&self) {
        while self.free.borrow().len() < self.drive.in_flight
            && self.failure.borrow().is_none()
            && !self.is_unheard()
        {
            let nap = async {
                glommio::timer::sleep(NAP_MAX).await;
            };
            futures_lite::future::or(nap, self.attention.heard()).await;
        }
    }

    /// Writes the connection's part into the ledger; replies that never came count as errors, and
    /// with their wait until now.
    fn settle(&self) {
        let now_ns = self.shared.recorder.now_ns();
        let free: std::collections::HashSet<u32> = self.free.borrow().iter().copied().collect();
        for (number, slot) in (0_u32..).zip(self.slots.borrow().iter()) {
            if !free.contains(&number) {
                self.refused(NO_REPLY, &slot.written);
                self.waited(now_ns, slot.intended_ns, 1, slot.half_done);
            }
        }
        let mut ledger = self.shared.ledger.borrow_mut();
        ledger.issued(self.drive.stream, self.template.borrow().sequences());
    }
}

/// Ends when a write takes too long: the broker reads no more.
async fn stuck() -> Result<(), BenchError> {
    glommio::timer::sleep(DRAIN_LIMIT).await;
    Err(BenchError::Stuck(DRAIN_LIMIT.as_secs()))
}

/// The request that commits a stored half message.
fn commit_frame(
    reply: &[u8],
    encoding: HeaderEncoding,
    opaque: i32,
    topic: &str,
    key: &str,
) -> Result<BytesMut, BenchError> {
    let answer = |what: String| BenchError::Answer {
        doing: "reading the reply to a half message",
        what,
    };
    let header_len = reply.get(5..8).and_then(|word| {
        let [a, b, c] = *word.first_chunk()?;
        Some(u32::from_be_bytes([0, a, b, c]) as usize)
    });
    let header = reply
        .get(FRAME_HEAD_BYTES..)
        .zip(header_len)
        .and_then(|(rest, len)| rest.get(..len))
        .unwrap_or_default();
    let view = HeaderView::parse(encoding, header).map_err(|e| answer(e.to_string()))?;
    let field = |name| {
        let missing = || answer(format!("no {name}"));
        view.ext(name).ok_or_else(missing)
    };
    let msg_id = field("msgId")?;
    let queue_offset = field("queueOffset")?;
    let transaction_id = view.ext("transactionId").unwrap_or_default();
    // The last sixteen digits of a message id are the record's place in the log.
    let place = msg_id.len().checked_sub(16).and_then(|at| msg_id.get(at..));
    let place = place.and_then(|digits| i64::from_str_radix(digits, 16).ok());
    let place = place.ok_or_else(|| answer(format!("msgId {msg_id}")))?;
    let ext = [
        ("producerGroup", ExtValue::Str(PRODUCER_GROUP)),
        ("tranStateTableOffset", ExtValue::Str(queue_offset)),
        ("commitLogOffset", ExtValue::Int(place)),
        ("commitOrRollback", ExtValue::Int(COMMIT)),
        ("fromTransactionCheck", ExtValue::Str("false")),
        ("msgId", ExtValue::Str(key)),
        ("transactionId", ExtValue::Str(transaction_id)),
        ("topic", ExtValue::Str(topic)),
    ];
    let mut out = BytesMut::new();
    let code = codes::END_TRANSACTION;
    writer::write_request(&mut out, encoding, opaque, code, false, Some(&ext), &[])
        .map_err(|e| answer(e.to_string()))?;
    Ok(out)
}

#[cfg(test)]
#[path = "producer_tests.rs"]
mod tests;
