//! What frames whose end has not arrived may hold together, and which of them goes when that is
//! short.
//!
//! **Owns** the charge of a connection's incomplete frame, and since when that does not get on.
//! **Lives on** the data core that accepted the connection.
//! **Invariants** only bytes that have arrived are charged: what a length word claims costs nobody
//! anything. Without room the frame goes that has not got on for longest, whoever asks. A closed
//! connection holds no charge.
//! **Limits** `assembly_bytes_max`; a frame that does not get on for `partial_ms` is given up.
//! **Not here** the bytes themselves (`connection`), the look at the time (`net::sweep`).

use std::rc::Rc;

use super::Net;
use super::session::{CloseReason, Session};
use crate::budget::{Budget, Charge};

/// A connection whose frame does not get on for so long is closed: clients wait 3 to 15 s for an
/// answer, and a network that loses packets is over them by then.
pub const PARTIAL_MS: u64 = 30_000;
/// A frame that has stood still for less is not closed for want of room.
const STILL_MS_MIN: u64 = 500;
/// A frame gets on when so much of it has come: a byte now and then keeps nothing open.
const PROGRESS_BYTES: usize = 16 * 1024;

/// A connection's part in it.
#[derive(Default)]
pub(super) struct Assembling {
    /// `Some` while a frame is incomplete.
    charge: Option<Charge>,
    /// When it last got on.
    since_ms: u64,
    /// What has come after that.
    fresh_bytes: usize,
    /// The connection is not read now.
    is_paused: bool,
}

impl Assembling {
    /// Since when a frame that is not whole has not got on.
    pub(super) fn still_since_ms(&self) -> Option<u64> {
        self.charge.as_ref().map(|_| self.since_ms)
    }

    /// The frame is whole, or the connection over.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Nothing is read for a while: that is no fault of the sender.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// It is read again, and its time begins anew.
    pub(super) fn resume(&mut self, now_ms: u64) {
        self.is_paused = false;
        self.since_ms = now_ms;
    }

    /// Whether a frame was begun that has not got on for `limit_ms` although it is read.
    pub(super) fn is_overdue(&self, now_ms: u64, limit_ms: u64) -> bool {
        let still = self.still_since_ms();
        !self.is_paused && still.is_some_and(|since| now_ms.saturating_sub(since) >= limit_ms)
    }

    fn note(&mut self, bytes: usize, now_ms: u64) {
        self.fresh_bytes += bytes;
        if self.charge.is_none() || self.fresh_bytes >= PROGRESS_BYTES {
            self.since_ms = now_ms;
            self.fresh_bytes = 0;
        }
    }

    fn draw(&mut self, budget: &Rc<Budget>, bytes: usize) -> bool {
        if let Some(charge) = &mut self.charge {
            return charge.grow(bytes);
        }
        self.charge = budget.try_charge(bytes);
        self.charge.is_some()
    }
}

/// `bytes` have come of a frame of `session` that is still not whole; they may be kept if this is
/// well.
pub(super) fn keep<H>(net: &Net<H>, session: &Session, bytes: usize) -> Result<(), CloseReason> {
    // What a connection had sent before it was closed is read once more.
    if !session.is_open() {
        return Err(CloseReason::Peer);
    }
    let now_ms = net.clock.mono_ms();
    let mut mine = session.assembling.borrow_mut();
    mine.note(bytes, now_ms);
    if mine.draw(&net.assembly, bytes) {
        return Ok(());
    }
    let since_ms = mine.still_since_ms().unwrap_or(now_ms);
    drop(mine);
    make_room(net, session, (bytes, since_ms))
}

/// Closes those whose frames have not got on for longest, until there is room or it is the turn of
/// `session` itself, whose frame has not got on since `since_ms`.
#[cold]
fn make_room<H>(
    net: &Net<H>,
    session: &Session,
    (bytes, since_ms): (usize, u64),
) -> Result<(), CloseReason> {
    let now_ms = net.clock.mono_ms();
    let waits = |other: Rc<Session>| {
        // One that has only just come, or is not read now, is not to blame.
        let is_still = other.assembling.borrow().is_overdue(now_ms, STILL_MS_MIN);
        let still_ms = other.assembling.borrow().still_since_ms()?;
        let is_older = other.id() != session.id() && still_ms <= since_ms;
        (is_still && is_older).then_some((still_ms, other))
    };
    let mut others: Vec<_> = net.peers.all().into_iter().filter_map(waits).collect();
    others.sort_unstable_by_key(|(still_ms, _)| *still_ms);
    for (_, other) in others {
        other.close(CloseReason::NoMemory);
        let mut mine = session.assembling.borrow_mut();
        if mine.draw(&net.assembly, bytes) {
            return Ok(());
        }
    }
    Err(CloseReason::NoMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_bytes_are_no_progress_and_a_pause_is_no_fault() {
        let budget = Budget::new("test", 1 << 20);
        let mut frame = Assembling::default();
        let come = |frame: &mut Assembling, bytes, now_ms| {
            frame.note(bytes, now_ms);
            assert!(frame.draw(&budget, bytes));
        };
        come(&mut frame, 100, 1_000);
        come(&mut frame, 1, 5_000);
        assert_eq!(frame.still_since_ms(), Some(1_000));
        assert!(frame.is_overdue(6_000, 5_000) && !frame.is_overdue(5_999, 5_000));
        come(&mut frame, PROGRESS_BYTES, 6_000);
        assert_eq!(frame.still_since_ms(), Some(6_000));
        frame.pause();
        assert!(!frame.is_overdue(60_000, 5_000));
        frame.resume(60_000);
        assert!(!frame.is_overdue(60_001, 5_000) && frame.is_overdue(65_000, 5_000));
        frame.end();
        assert_eq!((frame.still_since_ms(), budget.used()), (None, 0));
    }
}
