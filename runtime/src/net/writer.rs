//! The one write of a tick and connection.
//!
//! **Owns** the list of sessions with something to write, and the task that writes it.
//! **Lives on** each data core.
//! **Invariants** a session is in the list at most once; everything appended to it by tasks that
//! were ready before the writer's turn leaves in one system call. A socket that takes no more gets
//! a task of its own until it has been drained, so it holds up nobody.
//! **Limits** the list is bounded by the number of connections.
//! **Not here** the bound of the out buffer (`session`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use glommio::TaskQueueHandle;

use super::coalescing::Coalescing;
use super::session::{CloseReason, Session};
use crate::clock::Clock;
use crate::metrics::CoreMetrics;
use crate::shard::spawn_into;

/// This room's name in the profile.
const ROOM: &str = "net/writer";

/// The sessions of a core that have something to write.
pub(super) struct WriteLane {
    queue: TaskQueueHandle,
    clock: Rc<Clock>,
    metrics: Rc<CoreMetrics>,
    dirty: RefCell<Vec<Rc<Session>>>,
    waker: RefCell<Option<Waker>>,
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
            spawn_into(self.queue, drain(Rc::clone(self), Rc::clone(session)));
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

/// The writer task of a core; ends with its lane. `is_waited_for`: see [`Coalescing::after_round`].
pub(super) async fn run(
    lane: Weak<WriteLane>,
    mut coalescing: Coalescing,
    is_waited_for: impl Fn() -> bool,
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
        if lane.has_nothing_left() {
            coalescing.after_round(&is_waited_for);
        }
    }
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
