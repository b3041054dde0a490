//! The one write of a tick and connection.
//!
//! **Owns** the list of sessions with something to write, and the task that writes it.
//! **Lives on** each data core.
//! **Invariants** a session is in the list at most once; everything appended to it by tasks that
//! were ready before the writer's turn leaves in one system call. A socket that takes no more gets
//! a task of its own until it has been drained, so it holds up nobody.
//! **Limits** the list is bounded by the number of connections. While requests gather, the rings
//! are asked at every [`LOOKS_PER_RING`]th look.
//! **Not here** the bound of the out buffer (`session`), how long requests gather (`coalescing`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures_lite::future::yield_now;
use glommio::TaskQueueHandle;

use super::coalescing::{Coalescing, Listening, Pause};
use super::session::{CloseReason, Session};
use super::watched::Watched;
use crate::clock::Clock;
use crate::metrics::{CoreMetrics, StallWatch};
use crate::shard::{breathe, spawn_into};

/// This room's name in the profile.
const ROOM: &str = "net/writer";
/// The same of a session whose socket is full.
const DRAIN: &str = "net/writer (slow readers)";

/// While requests gather, a single core asks its rings at each second look only: idle sockets,
/// timers and the device wait for two gatherings at most. More seldom is hardly cheaper, and the
/// slowest requests get slower. With several cores they are asked at each look: requests come
/// through the mesh.
pub(super) const LOOKS_PER_RING: u32 = 2;
/// The first so many looks ask the rings, too: until the sockets that are busy are known.
const FIRST_LOOKS: u32 = 8;
/// Looks in a row that find nothing after which the sockets are left to the rings.
const EMPTY_LOOKS_MAX: u32 = 4;

/// The sessions of a core that have something to write.
pub(super) struct WriteLane {
    queue: TaskQueueHandle,
    pub(super) clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
    dirty: RefCell<Vec<Rc<Session>>>,
    waker: RefCell<Option<Waker>>,
    pub(super) watched: Watched,
}

impl WriteLane {
    pub(super) fn new(
        queue: TaskQueueHandle,
        clock: Rc<Clock>,
        metrics: Rc<CoreMetrics>,
    ) -> Rc<Self> {
        Rc::new(Self {
            queue,
            clock,
            metrics,
            dirty: RefCell::default(),
            waker: RefCell::default(),
            watched: Watched::default(),
        })
    }

    pub(super) fn push(&self, session: Rc<Session>) {
        self.dirty.borrow_mut().push(session);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll_dirty(&self, cx: &Context<'_>, batch: &mut Vec<Rc<Session>>) -> Poll<()> {
        let mut dirty = self.dirty.borrow_mut();
        if dirty.is_empty() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut *dirty, batch);
        Poll::Ready(())
    }

    /// Writes what there is to write; `batch` is empty before and after.
    fn write_dirty(self: &Rc<Self>, batch: &mut Vec<Rc<Session>>) {
        std::mem::swap(&mut *self.dirty.borrow_mut(), batch);
        self.write_all(batch);
    }

    fn has_nothing_left(&self) -> bool {
        self.dirty.borrow().is_empty()
    }

    fn write_all(self: &Rc<Self>, batch: &mut Vec<Rc<Session>>) {
        let profile = self.metrics.profile();
        if !profile.is_on() {
            batch.drain(..).for_each(|session| self.write(&session));
            return;
        }
        let began_us = self.clock.mono_us_now();
        batch.drain(..).for_each(|session| self.write(&session));
        profile.ran(ROOM, began_us, self.clock.mono_us_now());
    }

    fn write(self: &Rc<Self>, session: &Rc<Session>) {
        let mut cx = Context::from_waker(Waker::noop());
        if self.flush(session, &mut cx) {
            let watch = StallWatch::new(DRAIN, &self.clock, &self.metrics);
            let drained = drain(Rc::clone(self), Rc::clone(session));
            spawn_into(self.queue, watch.over(drained));
        }
    }

    /// Writes what the socket takes; true while something is left for later.
    fn flush(&self, session: &Session, cx: &mut Context<'_>) -> bool {
        let flushed = session.try_flush(cx);
        session.note_flush(&flushed, self.clock.mono_ms());
        self.metrics.count(|counts| {
            counts.writes += flushed.calls;
            counts.bytes_out += flushed.bytes as u64;
        });
        if flushed.pending {
            // Room again for a reader that waits, although not all is written.
            session.after_flush();
            return session.is_open();
        }
        session.queued.set(false);
        if flushed.failed {
            session.close(CloseReason::Peer);
        }
        session.take_answers(|runs| {
            let now_us = self.clock.mono_us_now();
            self.metrics.profile().replied(runs, now_us);
        });
        session.after_flush();
        false
    }
}

impl Drop for WriteLane {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The writer task of a core; ends with its lane. `looks_per_ring`: see [`look_on`].
pub(super) async fn run(
    lane: Weak<WriteLane>,
    mut coalescing: Coalescing,
    looks_per_ring: u32,
    listening: impl Fn() -> Listening,
) {
    let mut batch = Vec::new();
    loop {
        let ready = poll_fn(|cx| match lane.upgrade() {
            Some(lane) => lane.poll_dirty(cx, &mut batch).map(|()| true),
            None => Poll::Ready(false),
        });
        if !ready.await {
            return;
        }
        let Some(lane) = lane.upgrade() else { return };
        lane.write_all(&mut batch);
        if lane.has_nothing_left() && coalescing.after_round(&listening) != Pause::Free {
            look_on(&lane, &mut coalescing, looks_per_ring, &listening).await;
        }
    }
}

/// For as long as requests gather: reads the sockets that are busy without asking the rings, which
/// costs as much as three messages, and asks those at every `looks_per_ring`th look: other sockets,
/// timers, the device and other cores wait that long. Ends when nothing comes any more.
async fn look_on(
    lane: &Rc<WriteLane>,
    coalescing: &mut Coalescing,
    looks_per_ring: u32,
    listening: &impl Fn() -> Listening,
) {
    let mut batch = Vec::new();
    let mut empty_looks = 0;
    // At first the busy sessions still wait at the rings.
    let mut asks = FIRST_LOOKS;
    let mut looks = 0;
    lane.watched.begin();
    loop {
        let frames = coalescing.frames();
        lane.watched.look();
        settle().await;
        lane.write_dirty(&mut batch);
        looks += 1;
        if asks > 0 || looks >= looks_per_ring {
            asks = asks.saturating_sub(1);
            looks = 0;
            breathe().await;
            settle().await;
            lane.write_dirty(&mut batch);
        }
        if coalescing.frames() == frames {
            empty_looks += 1;
        } else {
            empty_looks = 0;
        }
        let is_over = empty_looks >= EMPTY_LOOKS_MAX || !lane.has_nothing_left();
        if is_over {
            break;
        }
        match coalescing.after_round(listening) {
            Pause::Free => break,
            // Whoever has that much to do needn't save looks.
            Pause::Late => asks = asks.max(1),
            Pause::Gathered => {}
        }
    }
    coalescing.forget_look();
    lane.watched.end();
}

/// Lets the readers that were woken run, then the passes that they woke.
async fn settle() {
    yield_now().await;
    yield_now().await;
}

/// Writes one session whose socket is full, until nothing waits or it ends.
async fn drain(lane: Rc<WriteLane>, session: Rc<Session>) {
    poll_fn(|cx| {
        if lane.flush(&session, cx) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    session.queued.set(false);
}
