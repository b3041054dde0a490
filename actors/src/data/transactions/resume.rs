//! `RESUME_CHECK_HALF_MESSAGE` (323): a half that was given up is open again.
//!
//! **Owns** what the request must name, and the half made of the record it names.
//! **Lives on** the session's core; the record comes from its shard's core, and the new half goes
//! to that shard.
//! **Invariants** only a record of `TRANS_CHECK_MAX_TIME_TOPIC` is resumed: RocketMQ makes a half
//! of any record. It is a new half under a new name, without checks, and due at once (it keeps its
//! birth); the record that was given up stays where it is, so a second request resumes it again.
//! **Limits** those of a send of a half, and of a view for the record it names.
//! **Not here** checks of the new half (`checks`), the record's reading (`gather`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::command::HeaderView;
use gantry_protocol::message_id::parse_offset_id;
use gantry_protocol::request::transaction::ResumeCheckHalf;
use gantry_protocol::system_topic;
use gantry_storage::address::locate;
use gantry_storage::units::PhysicalOffset;

use super::ends::{copied, wrong};
use super::rebuild::queue_on;
use crate::data::core::DataCore;
use crate::data::gather::{GatherAsk, GatherGoal};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::words::{Append, Marks, ReplyTo, TransactionStep};
use crate::refusal::{Refusal, quoted};
use crate::transaction::Half;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// 323.
    pub(in crate::data) fn resume_half(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        to: ReplyTo,
    ) -> Result<(), Refusal> {
        let header = ResumeCheckHalf::parse(view).map_err(Refusal::malformed)?;
        let (_, physical) = parse_offset_id(header.msg_id)
            .ok_or_else(|| wrong(format!("{} is no offset id", quoted(header.msg_id))))?;
        let physical = PhysicalOffset(physical.cast_unsigned());
        let held = self.hold_record(to)?;
        let ask = GatherAsk::Record(physical, Arc::clone(&held));
        self.gather(to, &ask, GatherGoal::Resume { physical, held })
    }

    /// The record was read, or not found.
    pub(in crate::data) fn finish_resume(
        &self,
        to: ReplyTo,
        physical: PhysicalOffset,
        records: &[(u64, Bytes)],
    ) {
        let record = records.first().map(|(_, record)| record);
        let resumed = record
            .ok_or_else(|| wrong(format!("look message by offset failed, {physical}")))
            .and_then(|record| self.reopen(to, physical, record));
        if let Err(refusal) = resumed {
            self.host.refuse(to, &refusal);
        }
    }

    fn reopen(&self, to: ReplyTo, physical: PhysicalOffset, record: &Bytes) -> Result<(), Refusal> {
        let given_up = system_topic::TRANS_CHECK_MAX_TIME_TOPIC;
        let half = Half::of(record).filter(|half| half.record.topic == given_up);
        let half = half.ok_or_else(|| {
            wrong(format!(
                "the message at {physical} is not one of {given_up}"
            ))
        })?;
        let now_ms = self.host.wall_ms();
        if half.age_ms(now_ms) > self.settings.transaction_age_ms_max {
            return Err(wrong(
                "the half message is older than fileReservedTime: it would be given up at once",
            ));
        }
        let topic = {
            let catalog = self.catalog.borrow();
            catalog.topic(system_topic::TRANS_HALF_TOPIC).cloned()
        };
        let topic = topic.ok_or_else(|| wrong("the half topic is missing"))?;
        let (shard, _) = locate(physical).ok_or_else(|| wrong("The commit log offset wrong"))?;
        let key = queue_on(&topic, shard, self.shards_count);
        let step = TransactionStep::Half { due_ms: now_ms };
        let append = Append {
            properties: half.properties_for_resume().into(),
            marks: Marks {
                tags_code: i64::try_from(now_ms).unwrap_or(i64::MAX),
                ..Marks::default()
            },
            ..copied(&half, record, &topic, step)
        };
        self.route_append(key, to, append)
    }
}
