//! What a queue actor needs of its shard's store.
//!
//! **Owns** the trait that the real store and the tests' in-memory store both fill.
//! **Lives on** the data core of the shard.
//! **Invariants** those of `gantry_storage::shard_store::ShardStore`, whose words these are.
//! **Limits** the store's own.
//! **Not here** how any of it is done (storage).
#![allow(
    async_fn_in_trait,
    reason = "a shard never leaves its core: no caller needs these futures to be Send"
)]

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use gantry_storage::disk::Disk;
use gantry_storage::error::{AppendError, ReadError};
use gantry_storage::queue_index::IndexEntry;
use gantry_storage::retention::SegmentAge;
use gantry_storage::shard_store::{
    Appended, Dropped, NewRecord, ReadLimits, ReadOutcome, RecordFilter, RetainError, ShardStore,
};
use gantry_storage::units::{
    Boundary, FilePosition, PhysicalOffset, QueueBounds, QueueKey, QueueOffset, StoreTimestamp,
    TopicId,
};

/// A shard's store, as far as its queue actors use it. Meanings and errors as in `ShardStore`.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "documented where they are implemented: ShardStore"
)]
pub trait QueueStore: 'static {
    fn touch(&self, keys: impl Iterator<Item = QueueKey>);
    fn append(&self, record: &NewRecord<'_>) -> Result<Appended, AppendError>;
    fn seal(&self) -> FilePosition;
    fn staged(&self) -> FilePosition;
    fn stable(&self) -> FilePosition;
    fn committed(&self) -> FilePosition;
    fn acknowledged(&self) -> FilePosition;
    fn poisoned(&self) -> Option<Rc<str>>;
    fn bounds(&self, key: QueueKey) -> QueueBounds;
    fn queues(&self) -> Vec<QueueKey>;
    fn drop_topic(&self, topic: TopicId);
    fn read_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Option<ReadOutcome>;
    async fn read(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Result<ReadOutcome, ReadError>;
    async fn record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError>;
    async fn lone_record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError>;
    async fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError>;
    async fn store_time_at(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<StoreTimestamp>, ReadError>;
    async fn query_key(
        &self,
        topic: TopicId,
        word: &str,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
    ) -> Result<Vec<PhysicalOffset>, ReadError>;
    async fn trim_topics(&self, topics: &[(TopicId, StoreTimestamp)]) -> Result<u64, ReadError>;
    async fn first_since(
        &self,
        topics: &[(TopicId, StoreTimestamp)],
    ) -> Result<Option<FilePosition>, ReadError>;
    async fn earliest(&self) -> Option<StoreTimestamp>;
    async fn oldest_segments(&self, max: usize) -> Vec<SegmentAge>;
    async fn drop_before(
        &self,
        position: FilePosition,
        is_recycling: bool,
    ) -> Result<Dropped, RetainError>;
    async fn entries(
        &self,
        key: QueueKey,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<IndexEntry>, ReadError>;
    async fn search_by_position(
        &self,
        key: QueueKey,
        position: FilePosition,
    ) -> Result<QueueOffset, ReadError>;
}

impl<D: Disk> QueueStore for ShardStore<D> {
    fn touch(&self, keys: impl Iterator<Item = QueueKey>) {
        Self::touch(self, keys);
    }
    fn append(&self, record: &NewRecord<'_>) -> Result<Appended, AppendError> {
        Self::append(self, record)
    }
    fn seal(&self) -> FilePosition {
        Self::seal(self)
    }
    fn staged(&self) -> FilePosition {
        Self::staged(self)
    }
    fn stable(&self) -> FilePosition {
        Self::stable(self)
    }
    fn committed(&self) -> FilePosition {
        Self::committed(self)
    }
    fn acknowledged(&self) -> FilePosition {
        Self::acknowledged(self)
    }
    fn poisoned(&self) -> Option<Rc<str>> {
        Self::poisoned(self)
    }
    fn bounds(&self, key: QueueKey) -> QueueBounds {
        Self::bounds(self, key)
    }
    fn queues(&self) -> Vec<QueueKey> {
        Self::queues(self)
    }
    fn drop_topic(&self, topic: TopicId) {
        Self::drop_topic(self, topic);
    }
    fn read_hot(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Option<ReadOutcome> {
        Self::read_hot(self, key, from, limits, filter, out)
    }
    async fn read(
        &self,
        key: QueueKey,
        from: QueueOffset,
        limits: ReadLimits,
        filter: &dyn RecordFilter,
        out: &mut BytesMut,
    ) -> Result<ReadOutcome, ReadError> {
        Self::read(self, key, from, limits, filter, out).await
    }
    async fn record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        Self::record_at(self, physical).await
    }
    async fn lone_record_at(&self, physical: PhysicalOffset) -> Result<Bytes, ReadError> {
        Self::lone_record_at(self, physical).await
    }
    async fn search_by_time(
        &self,
        key: QueueKey,
        time: StoreTimestamp,
        boundary: Boundary,
    ) -> Result<QueueOffset, ReadError> {
        Self::search_by_time(self, key, time, boundary).await
    }
    async fn store_time_at(
        &self,
        key: QueueKey,
        offset: QueueOffset,
    ) -> Result<Option<StoreTimestamp>, ReadError> {
        Self::store_time_at(self, key, offset).await
    }
    async fn query_key(
        &self,
        topic: TopicId,
        word: &str,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
    ) -> Result<Vec<PhysicalOffset>, ReadError> {
        Self::query_key(self, topic, word, begin_ms, end_ms, max).await
    }
    async fn trim_topics(&self, topics: &[(TopicId, StoreTimestamp)]) -> Result<u64, ReadError> {
        Self::trim_topics(self, topics).await
    }
    async fn first_since(
        &self,
        topics: &[(TopicId, StoreTimestamp)],
    ) -> Result<Option<FilePosition>, ReadError> {
        Self::first_since(self, topics).await
    }
    async fn earliest(&self) -> Option<StoreTimestamp> {
        Self::earliest(self).await
    }
    async fn oldest_segments(&self, max: usize) -> Vec<SegmentAge> {
        Self::oldest_segments(self, max).await
    }
    async fn drop_before(
        &self,
        position: FilePosition,
        is_recycling: bool,
    ) -> Result<Dropped, RetainError> {
        Self::drop_before(self, position, is_recycling).await
    }
    async fn entries(
        &self,
        key: QueueKey,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<IndexEntry>, ReadError> {
        Self::entries(self, key, from, max).await
    }
    async fn search_by_position(
        &self,
        key: QueueKey,
        position: FilePosition,
    ) -> Result<QueueOffset, ReadError> {
        Self::search_by_position(self, key, position).await
    }
}
