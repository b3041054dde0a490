//! The stored record as a pull returns it, read by a decoder of its own: a mistake that the product
//! makes in writing and in reading alike would not show otherwise.

use std::collections::BTreeMap;

/// One record of a pull body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub total: usize,
    pub body_crc: u32,
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub sys_flag: i32,
    pub born_timestamp: i64,
    pub store_timestamp: i64,
    pub store_host: ([u8; 4], i32),
    pub reconsume_times: i32,
    pub prepared_offset: i64,
    pub body: Vec<u8>,
    pub topic: String,
    pub properties: BTreeMap<String, String>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take(8).try_into().unwrap())
    }

    fn host(&mut self) -> ([u8; 4], i32) {
        (self.take(4).try_into().unwrap(), self.i32())
    }
}

/// All records of a body, which must hold nothing else.
pub fn records(body: &[u8]) -> Vec<Record> {
    let mut rest = body;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let total = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        assert!(
            total <= rest.len(),
            "a record of {total} bytes in {} left",
            rest.len()
        );
        all.push(record(&rest[..total]));
        rest = &rest[total..];
    }
    all
}

fn record(bytes: &[u8]) -> Record {
    let mut r = Reader(bytes);
    let total = r.i32() as usize;
    let magic = r.i32() as u32;
    assert_eq!(magic, 0xDAA3_20A7, "magic {magic:x}");
    let body_crc = r.i32() as u32;
    let (queue_id, flag) = (r.i32(), r.i32());
    let (queue_offset, physical_offset) = (r.i64(), r.i64());
    let (sys_flag, born_timestamp) = (r.i32(), r.i64());
    assert_eq!(sys_flag & 0x30, 0, "IPv4 hosts expected");
    r.host();
    let store_timestamp = r.i64();
    let store_host = r.host();
    let reconsume_times = r.i32();
    let prepared_offset = r.i64();
    let body_len = r.i32() as usize;
    let body = r.take(body_len).to_vec();
    let topic_len = r.take(1)[0] as usize;
    let topic = String::from_utf8(r.take(topic_len).to_vec()).unwrap();
    let properties_len = u16::from_be_bytes(r.take(2).try_into().unwrap()) as usize;
    let properties = properties_of(r.take(properties_len));
    assert!(r.0.is_empty(), "{} bytes behind the record", r.0.len());
    Record {
        total,
        body_crc,
        queue_id,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born_timestamp,
        store_timestamp,
        store_host,
        reconsume_times,
        prepared_offset,
        body,
        topic,
        properties,
    }
}

fn properties_of(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(bytes).unwrap();
    let items = text
        .split('\u{2}')
        .filter_map(|item| item.split_once('\u{1}'));
    items.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The property string of a send header.
pub fn properties(pairs: &[(&str, &str)]) -> String {
    let items: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("{k}\u{1}{v}\u{2}"))
        .collect();
    items.concat()
}

/// One element of a batch body (code 320): size, magic, crc, flag, body, properties.
pub fn batch_element(body: &[u8], props: &str) -> Vec<u8> {
    let total = 4 + 4 + 4 + 4 + 4 + body.len() + 2 + props.len();
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&(props.len() as u16).to_be_bytes());
    out.extend_from_slice(props.as_bytes());
    out
}

/// CRC-32 (IEEE) of a body as the record stores it, written out bit by bit.
pub fn crc31(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc & 0x7FFF_FFFF
}
