//! The layout of a stored record, reading side.
//!
//! **Owns** decoding a record and walking a pull's body.
//! **Lives on** data cores (recovery, key queries), control plane (send-back, checks), clients.
//! **Invariants** total: every length is checked before use, nothing is allocated; the parts add
//! up to the record's size exactly.
//! **Limits** those of `record`.
//! **Not here** writing (`record`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::record::{MAGIC_V1, MAGIC_V2, QUEUE_OFFSET_AT, body_crc};
use crate::error::RecordError;
use crate::sys_flag;

/// Bytes a record has at least: empty body, topic and properties, IPv4 hosts.
pub const RECORD_BYTES_MIN: u32 = 91;

/// One record, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Fields as in `RecordParts`, which documents them.
pub struct RecordView<'a> {
    /// Bytes of the whole record.
    pub record_bytes: u32,
    pub magic: u32,
    pub body_crc: u32,
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub sys_flag: i32,
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_timestamp: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    pub topic: &'a str,
    pub properties: &'a str,
}

/// Takes fixed-width fields off the front of a record.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RecordError> {
        let split = self.0.split_first_chunk::<N>();
        let (head, tail) = split.ok_or(RecordError::Truncated(what))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, RecordError> {
        self.array(what).map(i32::from_be_bytes)
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, RecordError> {
        self.array(what).map(i64::from_be_bytes)
    }

    fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let split = self.0.split_at_checked(len);
        let (head, tail) = split.ok_or(RecordError::Truncated(what))?;
        self.0 = tail;
        Ok(head)
    }

    fn host(&mut self, v6: bool, what: &'static str) -> Result<SocketAddr, RecordError> {
        let ip = if v6 {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>(what)?))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>(what)?))
        };
        let [_, _, high, low] = self.array::<4>(what)?;
        Ok(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
    }
}

impl<'a> RecordView<'a> {
    /// Decodes the record at the front of `bytes`, which may hold more behind it.
    ///
    /// # Errors
    /// The bytes are no complete record, or its lengths contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let record_bytes = Cursor(bytes).u32("size")?;
        if record_bytes < RECORD_BYTES_MIN {
            return Err(RecordError::SizeMismatch {
                claimed: record_bytes,
            });
        }
        let whole = bytes
            .get(..record_bytes as usize)
            .ok_or(RecordError::Truncated("bytes"))?;
        let mut rest = Cursor(whole);
        rest.u32("size")?;
        let magic = rest.u32("magic")?;
        if !matches!(magic, MAGIC_V1 | MAGIC_V2) {
            return Err(RecordError::UnknownMagic(magic));
        }
        let body_crc = rest.u32("body crc")?;
        let queue_id = rest.i32("queue id")?;
        let flag = rest.i32("flag")?;
        let queue_offset = rest.i64("queue offset")?;
        let physical_offset = rest.i64("physical offset")?;
        let sys_flag = rest.i32("system flag")?;
        let born_timestamp = rest.i64("born timestamp")?;
        let born_host = rest.host(sys_flag & sys_flag::BORN_HOST_V6 != 0, "born host")?;
        let store_timestamp = rest.i64("store timestamp")?;
        let store_host = rest.host(sys_flag & sys_flag::STORE_HOST_V6 != 0, "store host")?;
        let reconsume_times = rest.i32("reconsume times")?;
        let prepared_transaction_offset = rest.i64("transaction offset")?;
        let (body, topic, properties) = variable_parts(&mut rest, magic)?;
        if !rest.0.is_empty() {
            return Err(RecordError::SizeMismatch {
                claimed: record_bytes,
            });
        }
        Ok(Self {
            record_bytes,
            magic,
            body_crc,
            queue_id,
            flag,
            queue_offset,
            physical_offset,
            sys_flag,
            born_timestamp,
            born_host,
            store_timestamp,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            topic,
            properties,
        })
    }

    /// Whether the body is the one the CRC was taken of; records of clients may carry none (0).
    pub fn body_is_intact(&self) -> bool {
        body_crc(self.body) == self.body_crc
    }
}

fn variable_parts<'a>(
    rest: &mut Cursor<'a>,
    magic: u32,
) -> Result<(&'a [u8], &'a str, &'a str), RecordError> {
    let body_len = rest.u32("body length")?;
    let body = rest.bytes(body_len as usize, "body")?;
    let topic_len = if magic == MAGIC_V2 {
        u16::from_be_bytes(rest.array("topic length")?)
    } else {
        let [len] = rest.array("topic length")?;
        u16::from(len)
    };
    let topic = rest.bytes(usize::from(topic_len), "topic")?;
    let topic = std::str::from_utf8(topic).map_err(|_| RecordError::NotUtf8("topic"))?;
    let properties_len = u16::from_be_bytes(rest.array("properties length")?);
    let properties = rest.bytes(usize::from(properties_len), "properties")?;
    let properties =
        std::str::from_utf8(properties).map_err(|_| RecordError::NotUtf8("properties"))?;
    Ok((body, topic, properties))
}

/// The field of an encoded record that can be replaced in place.
impl RecordView<'_> {
    /// Replaces the logical offset.
    ///
    /// # Errors
    /// The bytes end before the field.
    pub fn patch_queue_offset(record: &mut [u8], queue_offset: i64) -> Result<(), RecordError> {
        let value = queue_offset.to_be_bytes();
        let slot = record
            .get_mut(QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + value.len())
            .ok_or(RecordError::Truncated("queue offset"))?;
        slot.copy_from_slice(&value);
        Ok(())
    }
}

/// The records of a pull's body, one after the other; ends at the first error.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
}

impl<'a> RecordIter<'a> {
    /// Walks the records in `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = RecordView::parse(self.rest);
        self.rest = match &parsed {
            Ok(view) => self
                .rest
                .get(view.record_bytes as usize..)
                .unwrap_or_default(),
            Err(_) => &[],
        };
        Some(parsed)
    }
}
