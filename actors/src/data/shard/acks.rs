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
use std::iter;
use std::net::SocketAddr;

use bytes::BytesMut;
use gantry_protocol::code::response;
use gantry_protocol::command::send_reply::{SendReplyForm, Stored};
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::message_id::{HexId, offset_id, offset_ids};
use gantry_runtime::metrics::Timing;
use gantry_storage::units::{FilePosition, PhysicalOffset};

use crate::data::host::Host;
use crate::data::queue::append::Ack;
use crate::data::words::{Pushed, ReplyTo};
use crate::refusal::Refusal;
use crate::settings::BrokerSettings;

/// Message id of a reply that was pushed and is nowhere stored.
const NO_MESSAGE_ID: &str = "0";

/// What every send reply carries.
#[derive(Debug, Clone)]
pub struct SendReplyMarks {
    /// `regionId`.
    region: String,
    /// `traceOn`.
    trace_on: bool,
    /// The advertised address, in message ids.
    advertised: SocketAddr,
    /// The usual reply with all of it filled in.
    form: Option<SendReplyForm>,
}

impl SendReplyMarks {
    /// As these settings say.
    pub fn of(settings: &BrokerSettings) -> Self {
        let (region, trace_on) = (settings.region_id.as_str(), settings.trace_on);
        Self::new(region, trace_on, settings.advertised)
    }

    /// Marks of a broker with this `regionId`, `traceOn` and address.
    pub fn new(region: &str, trace_on: bool, advertised: SocketAddr) -> Self {
        Self {
            region: region.to_owned(),
            trace_on,
            advertised,
            form: SendReplyForm::new(region, trace_on, advertised),
        }
    }

    /// Writes the answer to a send.
    pub fn write(
        &self,
        host: &impl Host,
        (to, timing): (ReplyTo, &Timing),
        ack: &Ack,
        code: i32,
        remark: Option<&str>,
    ) {
        let is_usual = code == response::SUCCESS;
        if to.one_way || (is_usual && self.write_usual(host, (to, timing), ack)) {
            return;
        }
        let single = self.message_id(ack.physical);
        let joined = if ack.further().is_empty() {
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
                ExtValue::Str(ack.recall().unwrap_or_default()),
            ),
        ];
        // The last two only when there are such: batches have no key (trap 40), and only a timed
        // message with a key has a handle.
        let count = match (unique, ack.recall()) {
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

    /// Writes the answer to a reply that was pushed, or not, and then stored, or not: the push
    /// decides the code, the record fills the fields (`ReplyMessageProcessor`, 5.5.0).
    pub fn write_pushed(
        &self,
        host: &impl Host,
        to: ReplyTo,
        pushed: &Pushed,
        stored: Option<&Ack>,
    ) {
        let id = stored.map(|ack| self.message_id(ack.physical));
        let offset = stored.map_or(0, |ack| i64::try_from(ack.offset.0).unwrap_or(i64::MAX));
        let all = [
            ("MSG_REGION", ExtValue::Str(&self.region)),
            ("TRACE_ON", ExtValue::from(self.trace_on)),
            (
                "msgId",
                ExtValue::Str(id.as_ref().map_or(NO_MESSAGE_ID, HexId::as_str)),
            ),
            ("queueId", ExtValue::from(i64::from(pushed.queue_id))),
            ("queueOffset", ExtValue::from(offset)),
        ];
        let has_place = stored.is_some() || pushed.failed.is_none();
        let count = if has_place { all.len() } else { 2 };
        let ext = all.get(..count).unwrap_or(&all);
        let code = match pushed.failed {
            Some(_) => response::SYSTEM_ERROR,
            None => response::SUCCESS,
        };
        host.reply(to, code, pushed.failed.as_deref(), Some(ext), &[]);
    }

    /// The answer to a reply that can't be stored: how its push ended, as ever.
    pub fn refuse_pushed(&self, host: &impl Host, to: ReplyTo, pushed: &Pushed, why: &Refusal) {
        tracing::debug!(refusal = %why, "a reply is not stored");
        self.write_pushed(host, to, pushed, None);
    }

    /// The way of nearly every answer; false when it isn't one of those.
    #[inline]
    fn write_usual(&self, host: &impl Host, (to, timing): (ReplyTo, &Timing), ack: &Ack) -> bool {
        let (Some(form), Some(unique_key)) = (&self.form, &ack.unique_key) else {
            return false;
        };
        if ack.rare.is_some() {
            return false;
        }
        let stored = Stored {
            opaque: to.opaque,
            physical_offset: ack.physical.0.cast_signed(),
            queue_id: ack.queue_id,
            queue_offset: i64::try_from(ack.offset.0).unwrap_or(i64::MAX),
            unique_key,
        };
        let mut done = true;
        host.write_timed(to.peer, |out| {
            done = form.write(out, to.encoding, &stored);
            done.then_some(*timing)
        });
        done
    }

    /// Ids of the further messages of a batch, after the first one's (trap 40).
    fn message_ids(&self, ack: &Ack) -> String {
        let all = iter::once(&ack.physical).chain(ack.further());
        offset_ids(self.advertised, all.map(|one| one.0.cast_signed()))
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
