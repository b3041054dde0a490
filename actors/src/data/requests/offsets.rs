//! Offsets and bounds, from their headers to requests for a queue actor.
//!
//! **Owns** the checks of 14, 15, 29, 30, 31 and 32.
//! **Lives on** the session's data core.
//! **Invariants** an unknown topic is answered as Java does: 0 for bounds, "not found" for offsets.
//! **Limits** none of its own.
//! **Not here** the answers (`shard::asks`).

use std::sync::Arc;

use gantry_protocol::code::response;
use gantry_protocol::command::{ExtValue, HeaderView};
use gantry_protocol::request::offset::{
    QueryConsumerOffset, QueueHeader, SearchOffset, UpdateConsumerOffset,
};
use gantry_storage::units::{Boundary, QueueId, QueueKey, StoreTimestamp};

use super::dispatch::{no_group, no_topic};
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::words::{QueueRequest, ReplyTo};
use crate::refusal::{Refusal, quoted};

type Handled = Result<(), Refusal>;

fn illegal_queue(topic: &str, queue: i32) -> Refusal {
    let remark = format!("queueId[{queue}] of topic {} is illegal", quoted(topic));
    Refusal::new(response::INVALID_PARAMETER, remark)
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    pub(in crate::data) fn query_offset(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        let header = QueryConsumerOffset::parse(view).map_err(Refusal::malformed)?;
        let zero_if_young = header.set_zero_if_not_found.unwrap_or(true);
        let group = self.group_name(header.consumer_group);
        let Some(key) = self.queue_of(header.topic, header.queue_id)? else {
            let remark = "Not found, maybe this group consumer boot first";
            return Err(Refusal::new(response::QUERY_NOT_FOUND, remark));
        };
        self.route_ask(
            key,
            to,
            QueueRequest::QueryOffset {
                group,
                zero_if_young,
            },
        )
    }

    /// Makes no group, whatever the settings say: a late commit would bring back one that was just
    /// deleted (`ConsumerManageProcessor.updateConsumerOffset`, 5.5.0).
    pub(in crate::data) fn commit_offset(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        let header = UpdateConsumerOffset::parse(view).map_err(Refusal::malformed)?;
        let offset = header.commit_offset;
        if self.catalog.borrow().group(header.consumer_group).is_none() {
            return Err(no_group(header.consumer_group));
        }
        let group = self.group_name(header.consumer_group);
        let key = self.queue_of(header.topic, header.queue_id)?;
        let key = key.ok_or_else(|| no_topic(header.topic))?;
        self.check_has_queue(header.topic, header.queue_id)?;
        if offset < 0 {
            let remark = format!("commitOffset {offset} is below 0");
            return Err(Refusal::new(response::INVALID_PARAMETER, remark));
        }
        self.route_ask(key, to, QueueRequest::CommitOffset { group, offset })
    }

    pub(in crate::data) fn search_offset(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        let header = SearchOffset::parse(view).map_err(Refusal::malformed)?;
        let boundary = if header.is_upper() {
            Boundary::Upper
        } else {
            Boundary::Lower
        };
        let time = StoreTimestamp(u64::try_from(header.timestamp_ms).unwrap_or(0));
        let request = QueueRequest::SearchTime { time, boundary };
        self.ask_or_tell((header.topic, header.queue_id), to, ("offset", 0), request)
    }

    pub(in crate::data) fn max_offset(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        self.of_queue(view, to, ("offset", 0), QueueRequest::MaxOffset)
    }

    pub(in crate::data) fn min_offset(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        self.of_queue(view, to, ("offset", 0), QueueRequest::MinOffset)
    }

    pub(in crate::data) fn earliest_time(&self, view: &HeaderView<'_>, to: ReplyTo) -> Handled {
        self.of_queue(view, to, ("timestamp", -1), QueueRequest::EarliestTime)
    }

    fn of_queue(
        &self,
        view: &HeaderView<'_>,
        to: ReplyTo,
        unknown: (&str, i64),
        request: QueueRequest,
    ) -> Handled {
        let header = QueueHeader::parse(view).map_err(Refusal::malformed)?;
        self.ask_or_tell((header.topic, header.queue_id), to, unknown, request)
    }

    fn ask_or_tell(
        &self,
        queue: (&str, i32),
        to: ReplyTo,
        unknown: (&str, i64),
        request: QueueRequest,
    ) -> Handled {
        if let Some(key) = self.queue_of(queue.0, queue.1)? {
            return self.route_ask(key, to, request);
        }
        self.tell(to, unknown.0, unknown.1);
        Ok(())
    }

    fn tell(&self, to: ReplyTo, name: &str, number: i64) {
        let ext = [(name, ExtValue::Int(number))];
        self.host
            .reply(to, response::SUCCESS, None, Some(&ext), &[]);
    }

    /// The queue a request names; none when its topic is unknown.
    fn queue_of(&self, topic: &str, queue: i32) -> Result<Option<QueueKey>, Refusal> {
        let queue = u16::try_from(queue).map_err(|_| illegal_queue(topic, queue))?;
        let catalog = self.catalog.borrow();
        Ok(catalog.topic(topic).map(|entry| QueueKey {
            topic: entry.id,
            queue: QueueId(queue),
        }))
    }

    /// A position in a queue that the topic lacks would be kept, and nobody could ask for it.
    fn check_has_queue(&self, topic: &str, queue: i32) -> Result<(), Refusal> {
        let catalog = self.catalog.borrow();
        let entry = catalog.topic(topic);
        if entry.is_some_and(|entry| queue >= entry.config.queue_nums()) {
            return Err(illegal_queue(topic, queue));
        }
        Ok(())
    }

    /// The catalog's own copy of a group's name where there is one: no allocation.
    fn group_name(&self, group: &str) -> Arc<str> {
        let catalog = self.catalog.borrow();
        catalog
            .group(group)
            .map_or_else(|| Arc::from(group), |known| Arc::clone(&known.entry.name))
    }
}
