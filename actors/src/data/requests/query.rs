//! Finding messages: by key (12) and by offset id (33).
//!
//! **Owns** the two requests' headers, the reading on each core, the reply.
//! **Lives on** the session's core (headers, reply) and on every core (its shards).
//! **Invariants** a record found by hash is shown only if it really carries the key, newest first.
//! **Limits** [`QUERY_RECORDS_MAX`] records and [`QUERY_BYTES_MAX`] bytes a reply.
//! **Not here** the key index (storage), the gathering (`gather`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::command::{ExtValue, HeaderView};
use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{SendProperties, split_keys};
use gantry_protocol::request::offset::{QueryMessage, ViewMessage};
use gantry_storage::units::PhysicalOffset;

use crate::data::core::DataCore;
use crate::data::gather::{GatherAsk, GatherGoal, KeyQuery};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::words::ReplyTo;
use crate::refusal::Refusal;

/// Most records of one reply: what RocketMQ's tools ask for at most.
pub const QUERY_RECORDS_MAX: usize = 64;
/// Bytes of records after which no further one is added: a quarter of the largest frame.
pub const QUERY_BYTES_MAX: usize = 4 * 1024 * 1024;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    pub(in crate::data) fn query_message(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        to: ReplyTo,
    ) -> Result<(), Refusal> {
        let header = QueryMessage::parse(view).map_err(Refusal::malformed)?;
        let wanted = usize::try_from(header.max_num).unwrap_or(0);
        let by_unique_key = header.by_unique_key;
        let wanted = if by_unique_key {
            self.settings.default_query_max_num.count()
        } else {
            wanted
        };
        let Some(topic) = self
            .catalog
            .borrow()
            .topic(header.topic)
            .map(|entry| entry.id)
        else {
            return Err(nothing_found());
        };
        let query = Arc::new(KeyQuery {
            topic,
            key: header.key.to_owned(),
            begin_ms: u64::try_from(header.begin_timestamp_ms).unwrap_or(0),
            end_ms: u64::try_from(header.end_timestamp_ms).unwrap_or(0),
            records_max: wanted.clamp(1, QUERY_RECORDS_MAX),
        });
        let ask = GatherAsk::QueryKey(Arc::clone(&query));
        self.gather(to, &ask, GatherGoal::QueryReply(query))
    }

    pub(in crate::data) fn view_message(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        to: ReplyTo,
    ) -> Result<(), Refusal> {
        let header = ViewMessage::parse(view).map_err(Refusal::malformed)?;
        let physical = PhysicalOffset(header.physical_offset.cast_unsigned());
        self.gather(
            to,
            &GatherAsk::Record(physical),
            GatherGoal::RecordReply(physical),
        )
    }

    /// This core's share of a search by key.
    pub(in crate::data) async fn records_by_key(&self, query: &KeyQuery) -> Vec<(u64, Bytes)> {
        let mut found = Vec::new();
        for shard in self.shards() {
            let (begin, end, max) = (query.begin_ms, query.end_ms, query.records_max);
            let places = shard
                .store()
                .query_key(query.topic, &query.key, begin, end, max)
                .await;
            let places = places.unwrap_or_else(|error| {
                tracing::warn!(shard = %shard.id(), %error, "a search by key failed");
                Vec::new()
            });
            for place in places {
                let Ok(record) = shard.store().record_at(place).await else {
                    continue;
                };
                if let Some(stored_ms) = self.match_time(&record, query) {
                    found.push((stored_ms, record));
                }
            }
        }
        found
    }

    /// Store time of a record that carries the key; none for a collision of hashes.
    fn match_time(&self, record: &[u8], query: &KeyQuery) -> Option<u64> {
        let view = RecordView::parse(record).ok()?;
        let known = self
            .catalog
            .borrow()
            .topic(view.topic)
            .map(|entry| entry.id);
        let properties = SendProperties::scan(view.properties);
        let is_unique = properties
            .unique_key
            .is_some_and(|unique| unique == query.key);
        let has_key = properties
            .keys
            .is_some_and(|keys| split_keys(keys).any(|key| key == query.key));
        let matches = known == Some(query.topic) && (is_unique || has_key);
        matches.then(|| u64::try_from(view.store_timestamp).unwrap_or(0))
    }

    /// The record at a physical offset, if this core has its shard.
    pub(in crate::data) async fn record_at(&self, physical: PhysicalOffset) -> Option<Bytes> {
        let (shard, _) = gantry_storage::address::locate(physical)?;
        let shard = self.shards().find(|one| one.id() == shard)?;
        shard.store().record_at(physical).await.ok()
    }

    pub(in crate::data) fn finish_query(
        &self,
        to: ReplyTo,
        query: &KeyQuery,
        mut records: Vec<(u64, Bytes)>,
    ) {
        records.sort_by_key(|(stored_ms, _)| std::cmp::Reverse(*stored_ms));
        records.truncate(query.records_max);
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            let first = bytes == 0;
            bytes += record.len();
            first || bytes <= QUERY_BYTES_MAX
        };
        let chosen = records.iter().map(|(_, record)| record).take_while(fits);
        let body: Vec<&[u8]> = chosen.map(AsRef::as_ref).collect();
        if body.is_empty() {
            return self.host.refuse(to, &nothing_found());
        }
        let newest = records.first().map_or(0, |(stored_ms, _)| *stored_ms);
        let ext = [
            ("indexLastUpdatePhyoffset", ExtValue::Int(0)),
            (
                "indexLastUpdateTimestamp",
                ExtValue::Int(i64::try_from(newest).unwrap_or(0)),
            ),
        ];
        self.host
            .reply(to, response::SUCCESS, None, Some(&ext), &body);
    }

    pub(in crate::data) fn finish_record(
        &self,
        to: ReplyTo,
        physical: PhysicalOffset,
        records: &[(u64, Bytes)],
    ) {
        if let Some((_, record)) = records.first() {
            return self
                .host
                .reply(to, response::SUCCESS, None, None, &[record]);
        }
        let remark = format!("can not find message by the offset, {physical}");
        self.host
            .refuse(to, &Refusal::new(response::SYSTEM_ERROR, remark));
    }
}

fn nothing_found() -> Refusal {
    let remark = "can not find message, maybe time range not correct";
    Refusal::new(response::QUERY_NOT_FOUND, remark)
}
