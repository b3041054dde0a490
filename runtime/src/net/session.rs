//! One connection as the handler sees it: a name, two addresses, an out buffer.
//!
//! **Owns** the socket, what waits to be written to it, and its end.
//! **Lives on** the data core that accepted it; not `Send`. Other cores know it by its [`PeerRef`].
//! **Invariants** bytes leave in the order they were appended; after the end nothing is appended;
//! the socket is closed when its reader task ends, however many `Rc`s still point here.
//! **Limits** `out_bytes_soft` stops reading, `out_bytes_max` closes ([`super::NetOptions`]); the
//! memory of all out buffers is counted in `replies`, and without room there a connection whose
//! socket takes next to nothing is closed. [`FINISHED_MS`] for the peer's side of an orderly end.
//! **Not here** reading (`connection`), the one write of a tick (`writer`).

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::net::SendFlags;

use super::assembly::Assembling;
use super::out_buffer::OutBuffer;
use super::peers::PeerRef;
use super::watched::MISSES_MAX;
use super::writer::WriteLane;
use crate::budget::shared::{Held, SharedBudget};
use crate::metrics::{Run, Timing};

/// Kinds of timed answers that may wait in one out buffer; further ones are not timed.
const RUNS_MAX: usize = 256;
/// Latest ones that another answer is compared with: answers of a pass come queue by queue.
const RUNS_COMPARED: usize = 8;
/// Memory for them that a connection keeps.
const RUNS_KEEP: usize = 16;

/// How long the peer of a finished connection may take to read the rest and end its side: a round
/// trip across the ocean, and time to read 1 MiB.
const FINISHED_MS: u64 = 500;

/// A connection that holds replies gets on when its socket has taken so much, ...
const TAKEN_BYTES_MIN: usize = 64 * 1024;
/// ... and this part of what it holds: in 8 s it is through at the least. A byte now and then keeps
/// no memory.
const TAKEN_PART: usize = 16;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it, or the network did.
    Peer,
    /// Nothing moved on it for too long.
    Idle,
    /// It sent something that is not a frame.
    BadFrame,
    /// It does not read what is written to it.
    SlowReader,
    /// Incomplete frames hold too much, and its own has not got on for longest.
    NoMemory,
    /// It began a frame that does not get on.
    SlowSender,
    /// The handler wanted it closed.
    Handler,
    /// The process stops.
    Stopping,
}

/// One connection.
pub struct Session {
    id: PeerRef,
    peer_addr: SocketAddr,
    local_addr: SocketAddr,
    stream: RefCell<Option<TcpStream>>,
    lane: Rc<WriteLane>,
    out: RefCell<OutBuffer>,
    /// The timed answers in it.
    runs: RefCell<Vec<Run>>,
    /// Memory of the out buffer, as counted.
    held: RefCell<Held>,
    stuck: Cell<Stuck>,
    /// Its frame whose end has not arrived.
    pub(super) assembling: RefCell<Assembling>,
    out_soft: usize,
    out_max: usize,
    /// In the lane's list, or the drain task is at work.
    pub(super) queued: Cell<bool>,
    drained: RefCell<Option<Waker>>,
    end_after_flush: Cell<bool>,
    reason: Cell<Option<CloseReason>>,
    last_read_ms: Cell<u64>,
    /// When its socket last took something.
    last_written_ms: Cell<u64>,
    /// Since when it has been finished and its peer may still read, ms; 0: it hasn't been.
    finished_ms: Cell<u64>,
    /// Looks at its socket in a row that found nothing.
    misses: Cell<u32>,
    /// The last look at which it was read.
    read_at_look: Cell<u64>,
}

/// What the accepting side knows of a new connection.
pub(super) struct Accepted {
    pub(super) id: PeerRef,
    pub(super) peer_addr: SocketAddr,
    pub(super) local_addr: SocketAddr,
    pub(super) stream: TcpStream,
    pub(super) lane: Rc<WriteLane>,
    pub(super) out_soft: usize,
    pub(super) out_max: usize,
    pub(super) replies: Arc<SharedBudget>,
    pub(super) now_ms: u64,
}

impl Session {
    pub(super) fn new(new: Accepted) -> Rc<Self> {
        Rc::new(Self {
            id: new.id,
            peer_addr: new.peer_addr,
            local_addr: new.local_addr,
            stream: RefCell::new(Some(new.stream)),
            lane: new.lane,
            out: RefCell::default(),
            runs: RefCell::default(),
            held: RefCell::new(new.replies.hold(0)),
            stuck: Cell::default(),
            assembling: RefCell::default(),
            out_soft: new.out_soft,
            out_max: new.out_max,
            queued: Cell::new(false),
            drained: RefCell::new(None),
            end_after_flush: Cell::new(false),
            reason: Cell::new(None),
            last_read_ms: Cell::new(new.now_ms),
            last_written_ms: Cell::new(new.now_ms),
            finished_ms: Cell::new(0),
            misses: Cell::new(0),
            read_at_look: Cell::new(0),
        })
    }

    /// The connection's name.
    pub fn id(&self) -> PeerRef {
        self.id
    }

    /// The client's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// The address the client connected to; its port tells the main port from the VIP port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether replies still make sense.
    pub fn is_open(&self) -> bool {
        self.reason.get().is_none()
    }

    /// The out buffer, to append whole frames to; follow with [`Session::flush_soon`]. The borrow
    /// must end before any other call on this session. Appending to an ended session is harmless.
    pub fn out(&self) -> RefMut<'_, BytesMut> {
        RefMut::map(self.out.borrow_mut(), OutBuffer::open)
    }

    /// Appends whole frames that were made elsewhere, without a copy if they are long and nobody
    /// else has them; follow with [`Session::flush_soon`].
    pub fn push_out(&self, frames: Bytes) {
        self.out.borrow_mut().push(frames);
    }

    /// Whether an answer that may be large should still be made for it: less than half of what
    /// closes it is waiting.
    pub fn takes_more(&self) -> bool {
        self.out_bytes() < self.out_max / 2
    }

    /// Writes what was appended, once, when the tasks that are ready now have run.
    pub fn flush_soon(self: &Rc<Self>) {
        if !self.is_open() {
            self.out.borrow_mut().clear();
            return;
        }
        let (len, capacity) = {
            let out = self.out.borrow();
            (out.len(), out.allocated())
        };
        let has_room = {
            let mut held = self.held.borrow_mut();
            if capacity > held.bytes() {
                held.resize(capacity);
            }
            held.budget().has_room()
        };
        if len > self.out_max || (!has_room && self.is_stuck()) {
            self.close(CloseReason::SlowReader);
        } else if !self.queued.replace(true) {
            self.lane.push(Rc::clone(self));
        }
    }

    /// An answer was appended that is to be timed.
    pub fn note_answer(&self, timing: &Timing) {
        let mut runs = self.runs.borrow_mut();
        let mut latest = runs.iter_mut().rev().take(RUNS_COMPARED);
        if let Some(run) = latest.find(|run| run.takes(timing)) {
            run.count += 1;
        } else if runs.len() < RUNS_MAX {
            runs.push(Run {
                timing: *timing,
                count: 1,
            });
        }
    }

    /// Gives `told` the timed answers of an out buffer that has been written.
    pub(super) fn take_answers(&self, told: impl FnOnce(&[Run])) {
        let mut runs = self.runs.borrow_mut();
        if !runs.is_empty() {
            told(&runs);
            runs.clear();
            runs.shrink_to(RUNS_KEEP);
        }
    }

    /// Appends one encoded frame and schedules its write.
    pub fn send(self: &Rc<Self>, frame: &[u8]) {
        if self.is_open() {
            self.out().extend_from_slice(frame);
            self.flush_soon();
        }
    }

    /// Bytes waiting to be written.
    pub fn out_bytes(&self) -> usize {
        self.out.borrow().len()
    }

    /// Ends the connection now; waiting output is dropped.
    pub fn close(&self, reason: CloseReason) {
        if self.end_with(reason, Shutdown::Both) {
            return;
        }
        if self.finished_ms.replace(0) > 0 {
            self.shut(Shutdown::Both);
        }
    }

    /// Ends the connection, all of whose output is written. Its socket stays until the peer has
    /// ended it as well, or [`FINISHED_MS`]: closed while something of the peer's is unread, or
    /// on its way, the kernel would reset it, and drop what the peer hasn't taken yet.
    fn finish(&self) {
        if self.end_with(CloseReason::Handler, Shutdown::Write) {
            self.finished_ms.set(self.lane.clock.mono_ms().max(1));
        }
    }

    /// False when it has ended before.
    fn end_with(&self, reason: CloseReason, how: Shutdown) -> bool {
        if self.reason.get().is_some() {
            return false;
        }
        self.reason.set(Some(reason));
        self.out.borrow_mut().clear();
        self.held.borrow_mut().resize(0);
        self.assembling.borrow_mut().end();
        *self.runs.borrow_mut() = Vec::new();
        self.shut(how);
        self.wake_drained();
        true
    }

    fn shut(&self, how: Shutdown) {
        if let Some(stream) = self.stream.borrow().as_ref() {
            // Completes at once; both ways it also completes the reader's pending poll.
            let done = poll_once(stream.shutdown(how));
            tracing::trace!(peer = %self.peer_addr, ?done, "socket shut down");
        }
    }

    /// Ends the connection once its waiting output is written. Frames that arrive meanwhile are not
    /// handled.
    pub fn close_after_flush(self: &Rc<Self>) {
        self.end_after_flush.set(true);
        if self.out_bytes() == 0 {
            self.finish();
        } else {
            self.flush_soon();
        }
    }

    /// Why the connection ended, once it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.reason.get()
    }

    /// When something was read from it, or its socket took something of what is written to it.
    pub(super) fn last_moved_ms(&self) -> u64 {
        self.last_read_ms.get().max(self.last_written_ms.get())
    }

    /// Whether it is finished, and what still comes is read and dropped.
    pub(super) fn is_finished(&self) -> bool {
        self.finished_ms.get() > 0
    }

    /// Whether its peer has had its time to read the rest.
    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        self.is_finished() && now_ms.saturating_sub(self.finished_ms.get()) >= FINISHED_MS
    }

    pub(super) fn note_read(&self, now_ms: u64) {
        self.last_read_ms.set(now_ms);
    }

    /// Whether frames that arrive now are still wanted.
    pub(super) fn is_listening(&self) -> bool {
        self.is_open() && !self.end_after_flush.get()
    }

    /// Whether nothing is read from it now: too much waits to be written, or anything at all while
    /// memory for replies is short.
    pub(super) fn is_clogged(&self) -> bool {
        let waiting = self.out_bytes();
        waiting > self.out_soft || (waiting > 0 && self.held.borrow().budget().is_pressed())
    }

    /// Whether it began a frame that has not got on for `limit_ms`.
    pub(super) fn is_slow_sender(&self, now_ms: u64, limit_ms: u64) -> bool {
        self.assembling.borrow().is_overdue(now_ms, limit_ms)
    }

    fn is_stuck(&self) -> bool {
        self.stuck.get().since_ms > 0
    }

    /// Since when its socket has taken too little of what waits, ms.
    pub(super) fn stuck_since_ms(&self) -> Option<u64> {
        Some(self.stuck.get().since_ms).filter(|since| *since > 0)
    }

    /// Notes what a flush did, at `now_ms`.
    pub(super) fn note_flush(&self, flushed: &Flushed, now_ms: u64) {
        if flushed.bytes > 0 {
            self.last_written_ms.set(now_ms);
        }
        let mut stuck = Stuck::default();
        if flushed.pending {
            stuck = self.stuck.get();
            stuck.note(flushed.bytes, self.held.borrow().bytes(), now_ms);
        }
        self.stuck.set(stuck);
    }

    /// Waits until the out buffer is below its soft bound, or the end.
    pub(super) async fn until_unclogged(&self) {
        poll_fn(|cx| {
            if !self.is_open() || !self.is_clogged() {
                return Poll::Ready(());
            }
            *self.drained.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Gives back buffers that a quiet connection does not need.
    pub(super) fn release_idle_memory(&self) {
        if let Ok(mut out) = self.out.try_borrow_mut()
            && out.is_empty()
            && out.allocated() > 0
        {
            out.clear();
            self.held.borrow_mut().resize(0);
        }
        if let Ok(mut runs) = self.runs.try_borrow_mut()
            && runs.is_empty()
        {
            *runs = Vec::new();
        }
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else {
            return Poll::Ready(Ok(0));
        };
        let watched = &self.lane.watched;
        if watched.is_on() && self.read_at_look.get() == watched.looks() {
            if watched.wait(cx) {
                return Poll::Pending;
            }
        } else if watched.is_on() {
            match (&*socket2::SockRef::from(&*stream)).read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.misses.set(self.misses.get() + 1);
                    if self.misses.get() < MISSES_MAX && watched.wait(cx) {
                        return Poll::Pending;
                    }
                }
                read => {
                    self.misses.set(0);
                    // After a full read the reader breathes, and goes on at once.
                    if !matches!(read, Ok(bytes) if bytes == into.len()) {
                        self.read_at_look.set(watched.looks());
                    }
                    return Poll::Ready(read);
                }
            }
        }
        Pin::new(stream).poll_read(cx, into)
    }

    /// Writes as much as the socket takes now.
    pub(super) fn try_flush(&self, cx: &mut Context<'_>) -> Flushed {
        let mut flushed = Flushed::default();
        let mut stream = self.stream.borrow_mut();
        let Some(stream) = stream.as_mut() else {
            return flushed;
        };
        let mut out = self.out.borrow_mut();
        while !out.is_empty() {
            flushed.calls += 1;
            let written = poll_write(stream, cx, &out.slices());
            match written {
                Poll::Ready(Ok(0) | Err(_)) => {
                    flushed.failed = true;
                    break;
                }
                Poll::Ready(Ok(n)) => {
                    flushed.bytes += n;
                    out.advance(n);
                }
                Poll::Pending => {
                    flushed.pending = true;
                    break;
                }
            }
        }
        out.fit();
        self.held.borrow_mut().resize(out.allocated());
        flushed
    }

    /// After a write: whoever waits for room goes on, and a connection that should end does.
    pub(super) fn after_flush(&self) {
        if !self.is_clogged() {
            self.wake_drained();
        }
        if self.end_after_flush.get() && self.out_bytes() == 0 {
            self.finish();
        }
    }

    /// Closes the socket; only the reader task calls this, at its end.
    pub(super) fn end(&self, reason: CloseReason) {
        self.close(reason);
        self.assembling.borrow_mut().end();
        drop(self.stream.borrow_mut().take());
    }

    fn wake_drained(&self) {
        if let Some(waker) = self.drained.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// How a socket that does not take all gets on.
#[derive(Debug, Default, Clone, Copy)]
struct Stuck {
    /// When it last got on, ms; 0 while it takes all.
    since_ms: u64,
    /// What it has taken after that.
    taken_bytes: usize,
}

impl Stuck {
    /// It took `bytes` more, and the connection still holds `held_bytes`.
    fn note(&mut self, bytes: usize, held_bytes: usize, now_ms: u64) {
        self.taken_bytes += bytes;
        let share_bytes = TAKEN_BYTES_MIN.max(held_bytes / TAKEN_PART);
        if self.since_ms == 0 || self.taken_bytes >= share_bytes {
            self.since_ms = now_ms.max(1);
            self.taken_bytes = 0;
        }
    }
}

/// What one flush did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flushed {
    pub(super) bytes: usize,
    pub(super) calls: u64,
    pub(super) failed: bool,
    /// The socket takes no more now; the waker is registered.
    pub(super) pending: bool,
}

/// Writes some of `slices`. glommio writes one of them at a time; several go to the socket itself,
/// as far as that takes them at once.
fn poll_write(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<std::io::Result<usize>> {
    if slices.len() > 1 {
        let flags = (SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            .bits()
            .cast_signed();
        match socket2::SockRef::from(&*stream).send_vectored_with_flags(slices, flags) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            written => return Poll::Ready(written),
        }
    }
    let first: &[u8] = slices.first().map_or(&[], |slice| slice);
    Pin::new(stream).poll_write(cx, first)
}

fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_gets_on_by_a_share_of_what_is_held() {
        const MIB: usize = 1024 * 1024;
        let mut stuck = Stuck::default();
        stuck.note(8 * MIB, 32 * MIB, 1_000);
        assert_eq!(stuck.since_ms, 1_000);
        stuck.note(MIB, 32 * MIB, 1_400);
        assert_eq!(stuck.since_ms, 1_000);
        stuck.note(MIB, 32 * MIB, 1_450);
        assert_eq!((stuck.since_ms, stuck.taken_bytes), (1_450, 0));
        stuck.note(TAKEN_BYTES_MIN - 1, 100, 1_500);
        assert_eq!(stuck.since_ms, 1_450);
        stuck.note(1, 100, 1_600);
        assert_eq!(stuck.since_ms, 1_600);
    }
}
