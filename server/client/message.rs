//! A received message, for people and for programs.
//!
//! **Owns** unpacking bodies and the two forms of output.
//! **Lives on** the client.
//! **Invariants** one message is one line in JSON form, whatever its body holds.
//! **Limits** `BODY_BYTES_MAX` after unpacking.
//! **Not here** receiving (`receive`).

use std::fmt::Write as _;

use gantry_protocol::compress;
use gantry_protocol::message::RecordView;
use gantry_protocol::message_id::offset_id;
use gantry_protocol::properties::{self, name};
use serde_json::{Map, Value, json};

/// Largest body after unpacking: a compressed frame can hold a hundred times its size.
const BODY_BYTES_MAX: usize = 256 << 20;

/// A line for people: where it lies, its tag and keys, its body.
pub fn line(broker: &str, record: &RecordView<'_>) -> String {
    let mut out = format!("[{broker} {}:{}", record.queue_id, record.queue_offset);
    for (label, key) in [("tag", name::TAGS), ("keys", name::KEYS)] {
        if let Some(value) = properties::get(record.properties, key) {
            // Writing to a String cannot fail.
            let _ = write!(out, " {label}={value}");
        }
    }
    if record.reconsume_times > 0 {
        let _ = write!(out, " retries={}", record.reconsume_times);
    }
    out.push_str("] ");
    out.push_str(&text(record));
    out
}

/// One JSON object in one line. A body that isn't UTF-8 comes as `bodyHex`.
pub fn to_json(broker: &str, record: &RecordView<'_>) -> String {
    Value::Object(members(broker, record)).to_string()
}

/// The members of that object.
pub fn members(broker: &str, record: &RecordView<'_>) -> Map<String, Value> {
    let mut members = Map::new();
    let mut put = |key: &str, value: Value| {
        members.insert(key.to_owned(), value);
    };
    let all: Map<String, Value> = properties::items(record.properties)
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
    put("topic", json!(record.topic));
    put("broker", json!(broker));
    put("queueId", json!(record.queue_id));
    put("queueOffset", json!(record.queue_offset));
    put(
        "msgId",
        json!(properties::get(record.properties, name::UNIQ_KEY)),
    );
    let id = offset_id(record.store_host, record.physical_offset);
    put("offsetMsgId", json!(id.as_str()));
    put("bornTimestamp", json!(record.born_timestamp));
    put("bornHost", json!(record.born_host.to_string()));
    put("storeTimestamp", json!(record.store_timestamp));
    put("reconsumeTimes", json!(record.reconsume_times));
    put("tag", json!(properties::get(record.properties, name::TAGS)));
    put(
        "keys",
        json!(properties::get(record.properties, name::KEYS)),
    );
    put("properties", Value::Object(all));
    match body(record) {
        Ok(body) => match std::str::from_utf8(&body) {
            Ok(text) => put("body", json!(text)),
            Err(_) => put("bodyHex", json!(hex(&body))),
        },
        Err(why) => {
            put("bodyHex", json!(hex(record.body)));
            put("problem", json!(why));
        }
    }
    members
}

/// The body as text, or why there is none.
pub fn text(record: &RecordView<'_>) -> String {
    match body(record) {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(why) => format!("({why})"),
    }
}

fn body(record: &RecordView<'_>) -> Result<Vec<u8>, String> {
    if !record.body_is_intact() {
        return Err("the body's checksum does not match".into());
    }
    compress::unpack(record.sys_flag, record.body, BODY_BYTES_MAX)
        .map_err(|error| error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
