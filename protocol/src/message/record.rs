//! The layout of a stored record, writing side.
//!
//! **Owns** field order, widths, both magics and the limits a record's lengths have.
//! **Lives on** the core of the queue's actor.
//! **Invariants** head, body and end, laid one after the other, are exactly [`record_len`] bytes.
//! Limits are errors, never cut lengths (trap 46).
//! **Limits** [`PROPERTIES_BYTES_MAX`], [`TOPIC_V2_BYTES_MAX`], a body of an `i32`'s length.
//! **Not here** reading (`view`), the largest message a broker accepts (`actors`).

use std::net::{IpAddr, SocketAddr};

use crate::error::RecordError;
use crate::sys_flag;

/// Magic of a record whose topic length is one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic length is two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Longest topic of a V1 record: its length is a signed byte in Java.
pub const TOPIC_V1_BYTES_MAX: usize = 127;
/// Longest topic of a V2 record: its length is a signed 16-bit number in Java.
pub const TOPIC_V2_BYTES_MAX: usize = 32_767;
/// Longest property string: its length is a signed 16-bit number.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;
/// Everything before the body, both hosts IPv4.
pub const RECORD_HEAD_BYTES_MIN: usize = 88;
/// Everything before the body, both hosts IPv6.
pub const RECORD_HEAD_BYTES_MAX: usize = 112;

const _: () = assert!(RECORD_HEAD_BYTES_MAX == RECORD_HEAD_BYTES_MIN + 2 * 12);

/// Offset of the queue offset.
pub(super) const QUEUE_OFFSET_AT: usize = 20;

/// CRC32 of a body as the record carries it: of the stored bytes, top bit cleared (trap 44).
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// What a record is made of. The IPv6 bits of `sys_flag` are set by the encoder.
#[derive(Debug, Clone, Copy)]
pub struct RecordParts<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Queue id as clients see it.
    pub queue_id: i32,
    /// The user's flag.
    pub flag: i32,
    /// Logical offset, unit = 1 message.
    pub queue_offset: i64,
    /// Where the record lies; echoed by clients.
    pub physical_offset: i64,
    /// See [`crate::sys_flag`].
    pub sys_flag: i32,
    /// Milliseconds since the epoch, the producer's clock.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// Milliseconds since the epoch, the broker's clock.
    pub store_timestamp: i64,
    /// The broker's advertised address; clients connect to it (trap 29).
    pub store_host: SocketAddr,
    /// Deliveries before this one.
    pub reconsume_times: i32,
    /// 0, or the half record's physical offset in a committed message.
    pub prepared_transaction_offset: i64,
    /// The body as sent; possibly compressed.
    pub body: &'a [u8],
    /// [`body_crc`] of the body.
    pub body_crc: u32,
    /// The property string.
    pub properties: &'a [u8],
}

/// The bytes of a host: address, then the port in four bytes.
fn host_bytes(host: SocketAddr) -> usize {
    if host.ip().to_canonical().is_ipv4() {
        8
    } else {
        20
    }
}

fn topic_length_bytes(topic: usize) -> usize {
    if topic > TOPIC_V1_BYTES_MAX { 2 } else { 1 }
}

/// Bytes a record with these parts takes.
///
/// # Errors
/// A length exceeds what its field can hold.
pub fn record_len(parts: &RecordParts<'_>) -> Result<u32, RecordError> {
    let topic = parts.topic.len();
    let properties = parts.properties.len();
    if topic > TOPIC_V2_BYTES_MAX {
        return Err(RecordError::TopicTooLong {
            bytes: topic,
            max: TOPIC_V2_BYTES_MAX,
        });
    }
    if properties > PROPERTIES_BYTES_MAX {
        let max = PROPERTIES_BYTES_MAX;
        return Err(RecordError::PropertiesTooLong {
            bytes: properties,
            max,
        });
    }
    let hosts = host_bytes(parts.born_host) + host_bytes(parts.store_host);
    let fixed = RECORD_HEAD_BYTES_MIN - 16 + hosts + topic_length_bytes(topic) + 2;
    let rest = topic + properties;
    let too_long = RecordError::BodyTooLong {
        bytes: parts.body.len(),
    };
    let total = parts.body.len().checked_add(fixed + rest).ok_or(too_long)?;
    // Java reads the size as a signed number.
    i32::try_from(total).map_err(|_| too_long)?;
    u32::try_from(total).map_err(|_| too_long)
}

/// What is left of a record's head to be filled. Its place is kept in registers: a head that
/// counted its bytes beside them waited for that count at each field, 20 ns in all.
struct Head<'a> {
    rest: &'a mut [u8],
}

impl Head<'_> {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        let rest = std::mem::take(&mut self.rest);
        // 112 bytes hold the longest head: see the const-assert above and `head_bytes`.
        if let Some((slot, after)) = rest.split_first_chunk_mut::<N>() {
            *slot = bytes;
            self.rest = after;
        }
    }

    #[inline]
    fn put_host(&mut self, host: SocketAddr) {
        match host.ip().to_canonical() {
            IpAddr::V4(v4) => self.put(v4.octets()),
            IpAddr::V6(v6) => self.put(v6.octets()),
        }
        self.put(u32::from(host.port()).to_be_bytes());
    }
}

fn head_bytes(parts: &RecordParts<'_>) -> usize {
    RECORD_HEAD_BYTES_MIN - 16 + host_bytes(parts.born_host) + host_bytes(parts.store_host)
}

/// The system flag with the bits of both hosts' address families as they are.
fn host_flags(parts: &RecordParts<'_>) -> i32 {
    let mut flags = parts.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
    if host_bytes(parts.born_host) == 20 {
        flags |= sys_flag::BORN_HOST_V6;
    }
    if host_bytes(parts.store_host) == 20 {
        flags |= sys_flag::STORE_HOST_V6;
    }
    flags
}

/// A record whose lengths are checked, ready to be written.
#[derive(Debug, Clone, Copy)]
pub struct EncodedRecord<'a> {
    parts: &'a RecordParts<'a>,
    len: u32,
    queue_offset: i64,
    physical_offset: i64,
}

impl<'a> EncodedRecord<'a> {
    /// Checks every length.
    ///
    /// # Errors
    /// A length exceeds what its field can hold.
    pub fn new(parts: &'a RecordParts<'a>) -> Result<Self, RecordError> {
        Ok(Self {
            parts,
            len: record_len(parts)?,
            queue_offset: parts.queue_offset,
            physical_offset: parts.physical_offset,
        })
    }

    /// Bytes of the whole record.
    pub fn record_bytes(&self) -> u32 {
        self.len
    }

    /// Replaces both offsets, for writers that learn them last.
    pub fn set_place(&mut self, queue_offset: i64, physical_offset: i64) {
        self.queue_offset = queue_offset;
        self.physical_offset = physical_offset;
    }

    /// The body.
    pub fn body(&self) -> &'a [u8] {
        self.parts.body
    }

    /// Appends everything before the body.
    pub fn put_head(&self, out: &mut Vec<u8>) {
        let parts = self.parts;
        let at = out.len();
        out.extend_from_slice(&[0; RECORD_HEAD_BYTES_MAX]);
        out.truncate(at + head_bytes(parts));
        let mut head = Head {
            rest: out.get_mut(at..).unwrap_or_default(),
        };
        let v2 = parts.topic.len() > TOPIC_V1_BYTES_MAX;
        let body_len = u32::try_from(parts.body.len()).unwrap_or(u32::MAX);
        head.put(self.len.to_be_bytes());
        head.put(if v2 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
        head.put(parts.body_crc.to_be_bytes());
        head.put(parts.queue_id.to_be_bytes());
        head.put(parts.flag.to_be_bytes());
        head.put(self.queue_offset.to_be_bytes());
        head.put(self.physical_offset.to_be_bytes());
        head.put(host_flags(parts).to_be_bytes());
        head.put(parts.born_timestamp.to_be_bytes());
        head.put_host(parts.born_host);
        head.put(parts.store_timestamp.to_be_bytes());
        head.put_host(parts.store_host);
        head.put(parts.reconsume_times.to_be_bytes());
        head.put(parts.prepared_transaction_offset.to_be_bytes());
        head.put(body_len.to_be_bytes());
    }

    /// Appends everything behind the body.
    pub fn put_end(&self, out: &mut Vec<u8>) {
        let (topic, properties) = (self.parts.topic, self.parts.properties);
        let width = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        let topic_length = width(topic.len());
        let skip = 2 - topic_length_bytes(topic.len());
        out.extend_from_slice(topic_length.get(skip..).unwrap_or_default());
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(&width(properties.len()));
        out.extend_from_slice(properties);
    }

    /// Appends the whole record; for writers that do not copy part by part.
    pub fn write(&self, out: &mut impl bytes::BufMut) {
        let mut small = Vec::new();
        self.put_head(&mut small);
        out.put_slice(&small);
        out.put_slice(self.body());
        small.clear();
        self.put_end(&mut small);
        out.put_slice(&small);
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
