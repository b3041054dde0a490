//! A queue's actor: its inbox and its memory.
//!
//! **Owns** one queue's waiting requests, in two lanes, and its [`QueueState`].
//! **Lives on** the data core of the queue's shard; scheduled by the shard, not a task of its own.
//! **Invariants** appends are stored in the order they came; other requests are answered in the
//! order they came. A lane doesn't wait for the other: a full tail stops appends, not pulls.
//! **Limits** the shard bounds the sum of all its inboxes (`shard::INBOX_BYTES_MAX`).
//! **Not here** when it runs and what a turn does (`shard`).

use std::collections::VecDeque;

use gantry_storage::units::QueueKey;

use super::append::Pending;
use super::asker::Asker;
use super::state::QueueState;
use crate::data::words::{QueueRequest, ReplyTo};

/// A drained lane keeps at most this much capacity.
const LANE_KEEP: usize = 256;

/// One queue's actor.
#[derive(Debug)]
pub struct QueueActor {
    /// Which queue.
    pub key: QueueKey,
    /// Messages to store.
    pub appends: VecDeque<Pending>,
    /// Everything else.
    pub asks: VecDeque<(ReplyTo, QueueRequest)>,
    /// Offsets and locks.
    pub state: QueueState,
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
            is_ready: false,
            is_dirty: false,
            has_stored: false,
            at_work: None,
        }
    }

    /// Whether it can be put to sleep: nothing to do and nothing to remember.
    pub fn is_idle(&self) -> bool {
        let empty = self.appends.is_empty() && self.asks.is_empty() && self.state.is_empty();
        empty && !self.is_ready && !self.is_dirty
    }

    /// Gives back what a burst took.
    pub fn trim(&mut self) {
        if self.appends.is_empty() && self.appends.capacity() > LANE_KEEP {
            self.appends = VecDeque::new();
        }
        if self.asks.is_empty() && self.asks.capacity() > LANE_KEEP {
            self.asks = VecDeque::new();
        }
    }
}
