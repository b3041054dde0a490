//! Answers to producers, and when they may leave.
//!
//! **Owns** the acknowledgements of a pass and those that wait for the flush.
//! **Lives on** the data core of the shard.
//! **Invariants** no answer leaves before its record is sealed; under SYNC_FLUSH, unless the
//! producer said `WAIT=false`, none before it is committed. Answers wait in the order of the log,
//! so the first one is the first to be committed and the first to be late. An answer that is late
//! says 10 with all ext fields, for the message is stored (trap 41).
//! **Limits** at most the shard's inbox bound wait.
//! **Not here** the storing (`queue::append`).

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::BytesMut;
use gantry_protocol::code::response;
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::message_id::{HexId, offset_id};
use gantry_runtime::metrics::Timing;
use gantry_storage::units::{FilePosition, PhysicalOffset};

use crate::data::host::Host;
use crate::data::queue::append::Ack;
use crate::data::words::ReplyTo;

/// What every send reply carries.
#[derive(Debug, Clone)]
pub struct SendReplyMarks {
    /// `regionId`.
    pub region: String,
    /// `traceOn`.
    pub trace_on: bool,
    /// The advertised address, in message ids.
    pub advertised: SocketAddr,
}

impl SendReplyMarks {
    /// Writes the answer to a send.
    pub fn write(
        &self,
        host: &impl Host,
        (to, timing): (ReplyTo, &Timing),
        ack: &Ack,
        code: i32,
        remark: Option<&str>,
    ) {
        if to.one_way {
            return;
        }
        let single = self.message_id(ack.physical);
        let joined = if ack.further.is_empty() {
            None
        } else {
            Some(self.message_ids(ack))
        };
        let id = joined.as_deref().unwrap_or(single.as_str());
        let unique = ack
            .unique_key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok());
        let offset = i64::try_from(ack.offset.0).unwrap_or(i64::MAX);
        let all = [
            ("MSG_REGION", ExtValue::Str(&self.region)),
            ("TRACE_ON", ExtValue::from(self.trace_on)),
            ("msgId", ExtValue::Str(id)),
            ("queueId", ExtValue::from(i64::from(ack.queue_id))),
            ("queueOffset", ExtValue::from(offset)),
            ("transactionId", ExtValue::Str(unique.unwrap_or_default())),
            (
                "recallHandle",
                ExtValue::Str(ack.recall.as_deref().unwrap_or_default()),
            ),
        ];
        // The last two only when there are such: batches have no key (trap 40), and only a timed
        // message with a key has a handle.
        let count = match (unique, &ack.recall) {
            (None, _) => all.len() - 2,
            (Some(_), None) => all.len() - 1,
            (Some(_), Some(_)) => all.len(),
        };
        let ext = all.get(..count).unwrap_or(&all);
        host.write_timed(to.peer, |out: &mut BytesMut| {
            let written =
                writer::write_reply(out, to.encoding, to.opaque, code, remark, Some(ext), &[]);
            debug_assert!(written.is_ok(), "a send reply is short");
            Some(*timing)
        });
    }

    /// Ids of the further messages of a batch, after the first one's (trap 40).
    fn message_ids(&self, ack: &Ack) -> String {
        let mut ids = String::with_capacity(33 * (ack.further.len() + 1));
        ids.push_str(self.message_id(ack.physical).as_str());
        for physical in &ack.further {
            ids.push(',');
            ids.push_str(self.message_id(*physical).as_str());
        }
        ids
    }

    fn message_id(&self, physical: PhysicalOffset) -> HexId {
        offset_id(self.advertised, physical.0.cast_signed())
    }
}

/// Acknowledgements that wait for the flush.
#[derive(Debug, Default)]
pub struct FlushQueue {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ack: Ack,
    deadline_ms: u64,
}

impl FlushQueue {
    /// Adds an answer; they must come in the order of the log.
    pub fn push(&mut self, ack: Ack, deadline_ms: u64) {
        self.waiting.push_back(Waiting { ack, deadline_ms });
    }

    /// Takes the next answer whose record is committed.
    pub fn pop_committed(&mut self, committed: FilePosition) -> Option<Ack> {
        let ready = self
            .waiting
            .front()
            .is_some_and(|first| first.ack.end <= committed);
        if ready {
            self.waiting.pop_front().map(|waiting| waiting.ack)
        } else {
            None
        }
    }

    /// Takes the next answer that has waited too long; all of them when nothing will be committed
    /// any more.
    pub fn pop_late(&mut self, now_ms: u64, never: bool) -> Option<Ack> {
        let late = self
            .waiting
            .front()
            .is_some_and(|first| never || first.deadline_ms <= now_ms);
        if late {
            self.waiting.pop_front().map(|waiting| waiting.ack)
        } else {
            None
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// The code of an answer that came too late for its flush.
pub const LATE: i32 = response::FLUSH_DISK_TIMEOUT;
