//! Finding messages: by key (12) and by offset id (33).
//!
//! **Owns** the two requests' headers, the reading on each core, the reply.
//! **Lives on** the session's core (headers, reply) and on every core (its shards).
//! **Invariants** a record found by hash is shown only if it really carries the key, newest first.
//! **Limits** [`QUERY_RECORDS_MAX`] records and [`QUERY_BYTES_MAX`] bytes a reply, and a core's
//! share of it; one record by offset id; neither without memory for its reply. A core searches for
//! as long as its share is waited for.
//! **Not here** the key index (storage), the gathering (`gather`).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::command::{ExtValue, HeaderView};
use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{SendProperties, split_keys};
use gantry_protocol::request::offset::{QueryMessage, ViewMessage};
use gantry_runtime::budget::shared::Held;
use gantry_storage::shard_store::RECORD_BYTES_MAX;
use gantry_storage::units::PhysicalOffset;

use crate::data::core::DataCore;
use crate::data::gather::{GATHER_MS, GatherAsk, GatherGoal, KeyQuery};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::data::words::ReplyTo;
use crate::refusal::{BusyCause, Refusal};

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
        if header.is_by_tag() {
            // The index holds no tags: searched as a key, a tag would find other messages.
            let remark = "messages are found by key or unique key, not by tag (indexType T)";
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
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
        let held = self.hold_found(to, QUERY_BYTES_MAX)?;
        let query = Arc::new(KeyQuery {
            topic,
            key: header.key.to_owned(),
            begin_ms: u64::try_from(header.begin_timestamp_ms).unwrap_or(0),
            end_ms: u64::try_from(header.end_timestamp_ms).unwrap_or(0),
            records_max: wanted.clamp(1, QUERY_RECORDS_MAX),
        });
        let ask = GatherAsk::QueryKey(Arc::clone(&query));
        self.gather(to, &ask, GatherGoal::QueryReply { query, held })
    }

    pub(in crate::data) fn view_message(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        to: ReplyTo,
    ) -> Result<(), Refusal> {
        let header = ViewMessage::parse(view).map_err(Refusal::malformed)?;
        let physical = PhysicalOffset(header.physical_offset.cast_unsigned());
        let held = self.hold_record(to)?;
        let ask = GatherAsk::Record(physical, Arc::clone(&held));
        self.gather(to, &ask, GatherGoal::RecordReply { physical, held })
    }

    /// Memory for one record that is asked for, however long it is.
    pub(in crate::data) fn hold_record(&self, to: ReplyTo) -> Result<Arc<Held>, Refusal> {
        let bytes = usize::try_from(RECORD_BYTES_MAX).unwrap_or(usize::MAX);
        self.hold_found(to, bytes).map(Arc::new)
    }

    /// Memory for what is found, if there is some, and some for the reply.
    fn hold_found(&self, to: ReplyTo, bytes: usize) -> Result<Held, Refusal> {
        if !self.host.has_reply_room(to.peer) || !self.searches.has_room() {
            let remark = format!(
                "core {}, replies or searches hold all the memory for them",
                self.number
            );
            return Err(self.host.busy(BusyCause::Replies, &remark));
        }
        Ok(self.searches.hold(bytes))
    }

    /// This core's share of a search by key: no more than goes into the reply.
    pub(in crate::data) async fn records_by_key(&self, query: &KeyQuery) -> Vec<(u64, Bytes)> {
        let until_ms = self.host.mono_ms() + GATHER_MS;
        let mut found = Vec::new();
        for shard in self.shards() {
            self.search_shard(&shard, query, until_ms, &mut found).await;
            keep_newest(&mut found, query.records_max);
        }
        found
    }

    /// A shard's newest records with the key. Behind the first that would be too much there is
    /// nothing for the reply: it takes the newest as well.
    async fn search_shard(
        &self,
        shard: &Shard<S, H>,
        query: &KeyQuery,
        until_ms: u64,
        found: &mut Vec<(u64, Bytes)>,
    ) {
        let (begin, end, max) = (query.begin_ms, query.end_ms, query.records_max);
        let places = shard
            .store()
            .query_key(query.topic, &query.key, begin, end, max)
            .await;
        let places = places.unwrap_or_else(|error| {
            tracing::warn!(shard = %shard.id(), %error, "a search by key failed");
            Vec::new()
        });
        let mut bytes = 0;
        for place in places {
            if self.host.mono_ms() > until_ms {
                tracing::warn!(shard = %shard.id(), "a search by key took too long and ends");
                return;
            }
            let Ok(record) = shard.store().record_at(place).await else {
                continue;
            };
            if let Some(stored_ms) = self.match_time(&record, query) {
                if !fits(&mut bytes, &record) {
                    return;
                }
                found.push((stored_ms, record));
            }
        }
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
        keep_newest(&mut records, query.records_max);
        let body: Vec<&[u8]> = records.iter().map(|(_, record)| record.as_ref()).collect();
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

/// Whether one more record goes into a reply that has `bytes` so far; one always does.
fn fits(bytes: &mut usize, record: &Bytes) -> bool {
    let is_first = *bytes == 0;
    *bytes += record.len();
    is_first || *bytes <= QUERY_BYTES_MAX
}

/// Leaves what goes into the reply, newest first.
fn keep_newest(records: &mut Vec<(u64, Bytes)>, records_max: usize) {
    records.sort_by_key(|(stored_ms, _)| std::cmp::Reverse(*stored_ms));
    let mut bytes = 0;
    let newest = records.iter().take(records_max);
    let count = newest
        .take_while(|(_, record)| fits(&mut bytes, record))
        .count();
    records.truncate(count);
}

fn nothing_found() -> Refusal {
    let remark = "can not find message, maybe time range not correct";
    Refusal::new(response::QUERY_NOT_FOUND, remark)
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use gantry_protocol::request::send::SendHeader;
    use gantry_storage::units::TopicId;

    use super::*;
    use crate::data::testing::{
        TestBroker, TestCore, records, request_frame, send_frame, send_header,
    };

    /// Stores messages with key `k`, which begin with these letters and are so long.
    fn store(broker: &TestBroker, queue_id: i32, letters: &str, bytes: usize) {
        for letter in letters.bytes() {
            let header = SendHeader {
                queue_id,
                properties: "KEYS\u{1}k\u{2}",
                ..send_header("T")
            };
            let body = vec![letter; bytes];
            broker.request(&send_frame(1, &header, &body));
            assert_eq!(broker.reply().code, 0);
            broker.world.pass_ms(1);
        }
    }

    fn query() -> KeyQuery {
        KeyQuery {
            topic: TopicId(1),
            key: "k".to_owned(),
            begin_ms: 0,
            end_ms: u64::MAX,
            records_max: QUERY_RECORDS_MAX,
        }
    }

    fn share(core: &TestCore) -> usize {
        block_on(core.records_by_key(&query())).len()
    }

    fn ask(broker: &TestBroker) {
        ask_by(broker, "K");
    }

    fn ask_by(broker: &TestBroker, index_type: &str) {
        let fields = [
            ("indexType", index_type.into()),
            ("topic", "T".into()),
            ("key", "k".into()),
            ("maxNum", 64.into()),
            ("beginTimestamp", 0.into()),
            ("endTimestamp", i64::MAX.into()),
        ];
        broker.request(&request_frame(12, 1, &fields, b""));
    }

    /// Asks for a message that is there.
    fn view(broker: &TestBroker) {
        let each = broker.stores.iter();
        let records: Vec<_> = each.flat_map(|store| store.records_of(1)).collect();
        let offset = RecordView::parse(&records[0]).unwrap().physical_offset;
        broker.request(&request_frame(33, 1, &[("offset", offset.into())], b""));
    }

    #[test]
    fn a_share_ends_where_the_reply_is_full() {
        let broker = TestBroker::new(1, 1, |_| {});
        store(&broker, 0, "abcde", 1536 << 10);
        assert_eq!(share(&broker.cores[0]), 2);
        assert_eq!(broker.stores[0].record_reads.get(), 3);
        ask(&broker);
        let reply = broker.reply();
        let shown: Vec<_> = records(&reply.body)
            .iter()
            .map(|(_, body)| body[..1].to_owned())
            .collect();
        assert_eq!(shown, ["e", "d"], "the newest");
        store(&broker, 0, "f", 4 << 20);
        assert_eq!(share(&broker.cores[0]), 1, "one fits, however large");
    }

    #[test]
    fn the_shards_of_a_core_have_one_share() {
        let broker = TestBroker::new(1, 2, |_| {});
        store(&broker, 0, "ab", 1536 << 10);
        store(&broker, 1, "cd", 1536 << 10);
        assert_eq!(share(&broker.cores[0]), 2);
        ask(&broker);
        assert_eq!(records(&broker.reply().body).len(), 2);
    }

    #[test]
    fn a_tag_is_no_key() {
        let broker = TestBroker::new(1, 1, |_| {});
        store(&broker, 0, "a", 1);
        for index_type in ["K", "U", ""] {
            ask_by(&broker, index_type);
            assert_eq!(broker.reply().code, 0, "{index_type}");
        }
        ask_by(&broker, "T");
        let refused = broker.reply();
        assert_eq!(refused.code, response::SYSTEM_ERROR);
        let remark = refused.remark.unwrap();
        assert!(remark.contains("indexType T"), "{remark}");
    }

    #[test]
    fn without_memory_for_replies_a_search_is_refused() {
        let broker = TestBroker::new(1, 1, |_| {});
        store(&broker, 0, "a", 1);
        broker.world.has_reply_room.set(false);
        ask(&broker);
        assert_eq!(broker.reply().code, 2);
        view(&broker);
        assert_eq!(broker.reply().code, 2);
        assert_eq!(broker.stores[0].record_reads.get(), 0);
    }

    /// What many views at once read is no more than the share of searches, and one record.
    #[test]
    fn views_beyond_their_memory_are_refused_and_read_nothing() {
        let broker = TestBroker::new(2, 2, |_| {});
        store(&broker, 0, "a", 1);
        let searches = &broker.cores[0].searches;
        let record = usize::try_from(RECORD_BYTES_MAX).unwrap();
        let fit = searches.limit().div_ceil(record);
        for _ in 0..2 {
            for _ in 0..fit + 3 {
                view(&broker);
            }
            assert_eq!(searches.used(), fit * record);
            let before = broker.record_reads();
            let codes = broker.replies().into_iter().map(|reply| reply.code);
            let (well, refused): (Vec<_>, Vec<_>) = codes.partition(|code| *code == 0);
            assert_eq!((well.len(), refused), (fit, vec![2; 3]));
            assert_eq!(broker.record_reads() - before, fit);
            assert_eq!(searches.used(), 0, "given back");
        }
    }

    /// The asker gives up, but what it asked for is still being read.
    #[test]
    fn a_late_read_still_counts() {
        let broker = TestBroker::new(2, 2, |_| {});
        store(&broker, 0, "a", 1);
        let searches = &broker.cores[0].searches;
        view(&broker);
        drop(broker.world.take_words(1));
        broker.world.pass_ms(GATHER_MS);
        broker.cores[0].tick();
        assert_ne!(searches.used(), 0, "its task has not run");
        broker.settle();
        assert_eq!(searches.used(), 0);
    }
}
