//! The exact writer.
//!
//! **Owns** how values become bytes that every client reads.
//! **Lives on** the control plane, clients and tools.
//! **Invariants** no whitespace (Go cuts `brokerAddrs` at commas and colons, trap 19); object keys
//! are raw, never escaped text (trap 22).
//! **Limits** none of its own: trees are ours.
//! **Not here** the order of members (`body` gives them alphabetically).

use bytes::{BufMut, Bytes, BytesMut};

use super::Value;
use crate::command::json::{put_escaped, put_int};

/// How integer keys of maps are written; all our readers take both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IntegerKeys {
    /// `{"0":…}`: JSON, and read by every Java class as well (trap 18).
    #[default]
    Quoted,
    /// `{0:…}`: what fastjson writes, and what old clients are used to.
    Bare,
}

/// The bytes of a value.
pub fn to_bytes(value: &Value, keys: IntegerKeys) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    put(&mut out, value, keys);
    out.freeze()
}

/// A map that is written member by member: a table of 100,000 topics as one value would take 100 MB
/// for a body of 20.
pub struct MapWriter<'o> {
    out: &'o mut BytesMut,
    keys: IntegerKeys,
    has_members: bool,
}

impl<'o> MapWriter<'o> {
    /// Begins a map.
    pub fn begin(out: &'o mut BytesMut, keys: IntegerKeys) -> Self {
        out.put_u8(b'{');
        Self {
            out,
            keys,
            has_members: false,
        }
    }

    fn put_name(&mut self, name: &str) {
        if self.has_members {
            self.out.put_u8(b',');
        }
        self.has_members = true;
        put_text(self.out, name);
        self.out.put_u8(b':');
    }

    /// Writes a member.
    pub fn member(&mut self, name: &str, value: &Value) {
        self.put_name(name);
        put(self.out, value, self.keys);
    }

    /// Begins a member that is a map.
    pub fn map(&mut self, name: &str) -> MapWriter<'_> {
        self.put_name(name);
        MapWriter::begin(self.out, self.keys)
    }

    /// Ends the map.
    pub fn end(self) {
        self.out.put_u8(b'}');
    }
}

fn put(out: &mut BytesMut, value: &Value, keys: IntegerKeys) {
    match value {
        Value::Null => out.put_slice(b"null"),
        Value::Bool(value) => out.put_slice(if *value { b"true" } else { b"false" }),
        Value::Int(number) => put_int(out, *number),
        Value::Float(number) => put_float(out, *number),
        Value::Text(text) => put_text(out, text),
        Value::List(values) => {
            out.put_u8(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.put_u8(b',');
                }
                put(out, value, keys);
            }
            out.put_u8(b']');
        }
        Value::Map(pairs) => {
            out.put_u8(b'{');
            for (i, (key, value)) in pairs.iter().enumerate() {
                if i > 0 {
                    out.put_u8(b',');
                }
                put_key(out, key, keys);
                out.put_u8(b':');
                put(out, value, keys);
            }
            out.put_u8(b'}');
        }
    }
}

fn put_key(out: &mut BytesMut, key: &Value, keys: IntegerKeys) {
    match key {
        Value::Int(number) if keys == IntegerKeys::Quoted => {
            out.put_u8(b'"');
            put_int(out, *number);
            out.put_u8(b'"');
        }
        other => put(out, other, keys),
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    put_escaped(out, text);
    out.put_u8(b'"');
}

/// A double as Java prints it for the range of rates: always with a fraction.
fn put_float(out: &mut BytesMut, number: f64) {
    if number.is_finite() {
        out.put_slice(format!("{number:?}").as_bytes());
    } else {
        out.put_slice(b"null");
    }
}
