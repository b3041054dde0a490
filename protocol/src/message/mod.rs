//! Messages as bytes: the stored record, the batch body, the tag's hash.
//!
//! **Owns** the record layout of the commit log, which is also that of pull bodies.
//! **Lives on** data cores; clients and tools decode with it as well.
//! **Invariants** a record written is one that every client's decoder reads; decoding is total.
//! **Limits** see `record`.
//! **Not here** properties (`properties`), ids (`message_id`), where records are kept (storage).

mod batch;
mod record;
mod tags;
mod view;

pub use batch::{BatchElement, BatchIter, encode_batch_element};
pub use record::{
    EncodedRecord, MAGIC_V1, MAGIC_V2, PROPERTIES_BYTES_MAX, RECORD_HEAD_BYTES_MAX,
    RECORD_HEAD_BYTES_MIN, RecordParts, TOPIC_V1_BYTES_MAX, TOPIC_V2_BYTES_MAX, body_crc,
    record_len,
};
pub use tags::tags_code;
pub use view::{RecordIter, RecordView};
