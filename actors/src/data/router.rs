//! From a queue to its core, and back.
//!
//! **Owns** the words data cores exchange, and the two mappings queue → shard → core.
//! **Lives on** each data core.
//! **Invariants** requests of one connection to one queue arrive in the order they were sent,
//! whichever core holds the queue: a core sends its words to another in order, and a core's own
//! queues take no detour. A shard's core never changes while the process lives.
//! **Limits** the mesh's, in words and in bytes of messages; a request that doesn't fit is refused
//! at once with `SYSTEM_BUSY`.
//! **Not here** how words travel (`gantry_runtime::mesh`).

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use gantry_runtime::budget::shared::Held;
use gantry_runtime::metrics::Timing;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{QueueKey, QueueOffset, ShardId, TopicId};

use super::catalog::Catalog;
use super::core::DataCore;
use super::gather::{GatherAnswer, GatherAsk};
use super::host::Host;
use super::queue::store::QueueStore;
use super::words::{Append, End, QueueRequest, ReplyTo};
use crate::refusal::{BusyCause, Refusal};
use crate::seam::{CoreNumber, Ticket};

/// What one data core tells another.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the frequent one: boxing it would allocate for each message"
)]
pub enum CoreWord {
    /// Store a message.
    Append(QueueKey, ReplyTo, Append),
    /// Any other request of one queue.
    Ask(QueueKey, ReplyTo, QueueRequest),
    /// An end of a transaction, for the shard of its half.
    End(ShardId, ReplyTo, End),
    /// The message of a half of this shard is stored on another one.
    HalfEnded(ShardId, QueueOffset),
    /// Frames for a connection of the receiver; timed if they answer one request. Counted until
    /// they are in its buffer.
    Frames(PeerRef, Bytes, Option<Timing>, Option<Held>),
    /// A read of another core, some of whose requests came before this word, is decoded.
    Decoded {
        /// That core.
        core: CoreNumber,
        /// When the read was done, µs.
        read_us: u64,
        /// When its frames were handled, µs.
        decoded_us: u64,
    },
    /// A connection is gone.
    PeerClosed(PeerRef),
    /// The sender stops, and nothing that anybody waits for comes behind this.
    Drained,
    /// A client answered a push of the receiver.
    PushAnswered {
        /// Who answered.
        peer: PeerRef,
        /// The push's number.
        opaque: i32,
        /// The answer.
        code: i32,
    },
    /// A question to every core; the answer goes back under the ticket.
    Gather {
        /// The asking core.
        core: CoreNumber,
        /// Names the question there.
        ticket: Ticket,
        /// The question.
        ask: GatherAsk,
    },
    /// One core's share of an answer.
    Gathered {
        /// The question's name.
        ticket: Ticket,
        /// The share.
        answer: GatherAnswer,
    },
}

impl CoreWord {
    /// What it holds beside itself until another core has taken it in, if nothing else counts it.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Append(_, _, append) => append.bytes(),
            _ => 0,
        }
    }
}

/// Which core holds a shard when `shards` are dealt out to `cores`.
pub fn core_of_shard(shard: ShardId, cores: CoreNumber) -> CoreNumber {
    CoreNumber::from(shard.0) % cores.max(1)
}

/// A topic's name for a remark, looked up only when one is written; its number if it is gone.
struct TopicName<'a> {
    catalog: &'a RefCell<Catalog>,
    topic: TopicId,
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.catalog.borrow().topic_by_id(self.topic) {
            Some(entry) => f.write_str(&entry.config.name),
            None => self.topic.fmt(f),
        }
    }
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Which core holds a queue.
    pub fn core_of(&self, key: QueueKey) -> CoreNumber {
        core_of_shard(key.shard(self.shards_count), self.cores)
    }

    /// Hands a message to its queue.
    ///
    /// # Errors
    /// The queue's inbox, or the road to its core, is full.
    #[allow(
        clippy::inline_always,
        reason = "a message is copied by each function that hands it on: 10 ns"
    )]
    #[inline(always)]
    pub fn route_append(
        &self,
        key: QueueKey,
        reply: ReplyTo,
        append: Append,
    ) -> Result<(), Refusal> {
        if let Some(shard) = self.shard_of(key) {
            return shard.post_append(key, reply, append);
        }
        self.route_away(key, CoreWord::Append(key, reply, append))
    }

    /// Hands any other request to its queue.
    ///
    /// # Errors
    /// As [`DataCore::route_append`].
    pub fn route_ask(
        &self,
        key: QueueKey,
        reply: ReplyTo,
        request: QueueRequest,
    ) -> Result<(), Refusal> {
        if let Some(shard) = self.shard_of(key) {
            return shard.post(key, &self.name_of(key), reply, request);
        }
        self.route_away(key, CoreWord::Ask(key, reply, request))
    }

    fn route_away(&self, key: QueueKey, word: CoreWord) -> Result<(), Refusal> {
        let core = self.core_of(key);
        self.reading.went_to(core);
        self.host.send_core(core, word).map_err(|_| {
            let remark = format!(
                "the road from core {} to core {core} is full, topic {} queue {}",
                self.number,
                self.name_of(key),
                key.queue
            );
            self.host.busy(BusyCause::Mesh, &remark)
        })
    }

    fn name_of(&self, key: QueueKey) -> TopicName<'_> {
        TopicName {
            catalog: &self.catalog,
            topic: key.topic,
        }
    }

    /// Hands a word to the core of a shard.
    ///
    /// # Errors
    /// The road is full.
    pub(super) fn route_to_shard(&self, shard: ShardId, word: CoreWord) -> Result<(), Refusal> {
        let core = core_of_shard(shard, self.cores);
        self.host.send_core(core, word).map_err(|_| {
            let remark = format!(
                "the road from core {} to core {core} is full, shard {shard}",
                self.number
            );
            self.host.busy(BusyCause::Mesh, &remark)
        })
    }

    /// Takes what another core sent.
    pub fn on_words(self: &Rc<Self>, words: &mut Vec<CoreWord>) {
        for word in words.drain(..) {
            match word {
                CoreWord::Append(key, reply, append) => {
                    let pushed = append.pushed().cloned();
                    if let Err(refusal) = self.route_append(key, reply, append) {
                        self.refuse_append(reply, pushed.as_deref(), &refusal);
                    }
                }
                CoreWord::Ask(key, reply, request) => {
                    if let Err(refusal) = self.route_ask(key, reply, request) {
                        self.host.refuse(reply, &refusal);
                    }
                }
                CoreWord::End(shard, reply, end) => {
                    if let Err(refusal) = self.route_end(shard, reply, end) {
                        self.host.refuse(reply, &refusal);
                    }
                }
                CoreWord::HalfEnded(shard, half) => {
                    if let Some(shard) = self.shard(shard) {
                        shard.half_ended(half);
                    }
                }
                CoreWord::Frames(peer, frames, timing, held) => {
                    self.host.write_made(peer, frames, timing);
                    drop(held);
                }
                CoreWord::Decoded {
                    core,
                    read_us,
                    decoded_us,
                } => {
                    let now_us = self.host.mono_us();
                    let profile = self.host.profile();
                    profile.decoded(core, read_us, decoded_us, now_us);
                }
                CoreWord::PeerClosed(peer) => self.forget_peer(peer),
                CoreWord::Drained => self.drained_others.set(self.drained_others.get() + 1),
                CoreWord::PushAnswered { peer, opaque, code } => {
                    self.push_answered(peer, opaque, code);
                }
                CoreWord::Gather { core, ticket, ask } => self.answer_gather(core, ticket, ask),
                CoreWord::Gathered { ticket, answer } => self.on_gathered(ticket, answer),
            }
        }
    }

    /// Tells every core that a connection is gone.
    pub fn peer_closed(&self, peer: PeerRef) {
        self.forget_peer(peer);
        for core in (0..self.cores).filter(|core| *core != self.number) {
            // A full road: its waiters there end by their deadlines, and their replies find nobody.
            drop(self.host.send_core(core, CoreWord::PeerClosed(peer)));
        }
    }

    fn forget_peer(&self, peer: PeerRef) {
        for shard in self.shards() {
            shard.peer_closed(peer);
        }
        self.requester_closed(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_dealt_out_evenly() {
        let cores: Vec<CoreNumber> = (0..5).map(|n| core_of_shard(ShardId(n), 2)).collect();
        assert_eq!(cores, [0, 1, 0, 1, 0]);
        assert_eq!(core_of_shard(ShardId(3), 0), 0);
    }
}
