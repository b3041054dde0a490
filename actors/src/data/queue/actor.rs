//! A queue's actor: its inbox and its memory.
//!
//! **Owns** one queue's waiting requests, in two lanes, and its [`QueueState`].
//! **Lives on** the data core of the queue's shard; scheduled by the shard, not a task of its own.
//! **Invariants** appends are stored in the order they came; other requests are answered in the
//! order they came. A lane doesn't wait for the other: a full tail stops appends, not pulls.
//! **Limits** the shard bounds the sum of all its inboxes (`shard::INBOX_BYTES_MAX`); an idle actor
//! holds no lane.
//! **Not here** when it runs and what a turn does (`shard`).

use std::collections::VecDeque;

use gantry_storage::units::QueueKey;

use super::append::Pending;
use super::asker::Asker;
use super::state::QueueState;
use super::tally::Tally;
use crate::data::words::{QueueRequest, ReplyTo};

/// A drained lane of more capacity is not kept.
const LANE_KEEP: usize = 256;
/// Drained lanes kept: more queues than are ready in a usual pass.
const LANES_MAX: usize = 512;

/// A request that is no message.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub reply: ReplyTo,
    /// What.
    pub request: QueueRequest,
    /// When it came to the inbox, µs.
    pub posted_us: u64,
}

/// One queue's actor.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says that the actor stands in one of its shard's lists"
)]
pub struct QueueActor {
    /// Which queue.
    pub key: QueueKey,
    /// Messages to store.
    pub appends: VecDeque<Pending>,
    /// Everything else.
    pub asks: VecDeque<Ask>,
    /// Offsets and locks.
    pub state: QueueState,
    /// What it has stored and delivered since the last harvest.
    pub tally: Tally,
    /// In the shard's list of queues to harvest.
    pub is_tallied: bool,
    /// In the shard's ready list.
    pub is_ready: bool,
    /// In the shard's list of queues with changed offsets.
    pub is_dirty: bool,
    /// Has stored something in this pass.
    pub has_stored: bool,
    /// Whose request is being handled; told when the turn panics.
    pub at_work: Option<Asker>,
}

impl QueueActor {
    /// An actor that has nothing to do.
    pub fn new(key: QueueKey) -> Self {
        Self {
            key,
            appends: VecDeque::new(),
            asks: VecDeque::new(),
            state: QueueState::default(),
            tally: Tally::default(),
            is_tallied: false,
            is_ready: false,
            is_dirty: false,
            has_stored: false,
            at_work: None,
        }
    }

    /// Whether it can be put to sleep: nothing to do and nothing to remember.
    pub fn is_idle(&self) -> bool {
        let empty = self.appends.is_empty() && self.asks.is_empty() && self.state.is_empty();
        empty && !self.is_ready && !self.is_dirty && !self.is_tallied
    }
}

/// Memory of inbox lanes that are empty now, lent to whichever queue gets the next request: an idle
/// queue holds none, and among 10,000 queues written in turn the same few kilobytes stay in the
/// core's cache (each queue with its own lane: 10 MB, a quarter of the throughput).
#[derive(Debug, Default)]
pub struct Lanes {
    appends: Vec<VecDeque<Pending>>,
    asks: Vec<VecDeque<Ask>>,
}

impl Lanes {
    /// Gives an empty lane memory, if there is some to lend.
    pub fn for_appends(&mut self, lane: &mut VecDeque<Pending>) {
        lend(&mut self.appends, lane);
    }

    /// As [`Lanes::for_appends`].
    pub fn for_asks(&mut self, lane: &mut VecDeque<Ask>) {
        lend(&mut self.asks, lane);
    }

    /// Takes the memory of an actor that has nothing to do.
    pub fn take_back(&mut self, actor: &mut QueueActor) {
        keep(&mut self.appends, &mut actor.appends);
        keep(&mut self.asks, &mut actor.asks);
    }
}

fn lend<T>(lanes: &mut Vec<VecDeque<T>>, lane: &mut VecDeque<T>) {
    if lane.capacity() == 0 {
        *lane = lanes.pop().unwrap_or_default();
    }
}

fn keep<T>(lanes: &mut Vec<VecDeque<T>>, lane: &mut VecDeque<T>) {
    if lane.capacity() > 0 && lane.is_empty() {
        let lane = std::mem::take(lane);
        if lane.capacity() <= LANE_KEEP && lanes.len() < LANES_MAX {
            lanes.push(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_lent_and_come_back_within_their_bounds() {
        let mut lanes = Vec::new();
        let (mut first, mut second) = (VecDeque::from([1]), VecDeque::<u8>::new());
        keep(&mut lanes, &mut first);
        assert!(lanes.is_empty(), "a lane in use stays");
        first.clear();
        keep(&mut lanes, &mut first);
        assert_eq!((lanes.len(), first.capacity()), (1, 0));
        lend(&mut lanes, &mut second);
        assert!(lanes.is_empty() && second.capacity() > 0);
        let mut large = VecDeque::<u8>::with_capacity(LANE_KEEP + 1);
        keep(&mut lanes, &mut large);
        assert!(
            lanes.is_empty() && large.capacity() == 0,
            "a burst's memory goes"
        );
        for _ in 0..=LANES_MAX {
            keep(&mut lanes, &mut VecDeque::<u8>::with_capacity(4));
        }
        assert_eq!(lanes.len(), LANES_MAX);
    }
}
