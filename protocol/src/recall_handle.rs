//! The handle under which a timed message can be recalled.
//!
//! **Owns** its text form (`RecallMessageHandle`, 5.5.0): version, topic, broker, time and unique
//! key with a space between them, in URL-safe Base64.
//! **Lives on** the session's core (made), the control plane (read).
//! **Invariants** what is made here is read back the same; foreign text is never trusted.
//! **Limits** [`HANDLE_BYTES_MAX`].
//! **Not here** the recall itself (`actors`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

/// Longest handle read: topic and broker name of their longest, and room.
pub const HANDLE_BYTES_MAX: usize = 1024;
const VERSION: &str = "v1";

/// What a handle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallHandle {
    /// The message's topic.
    pub topic: String,
    /// The broker that holds it.
    pub broker_name: String,
    /// When it is due, ms since 1970.
    pub due_ms: i64,
    /// Its unique key.
    pub unique_key: String,
}

impl RecallHandle {
    /// The text of a handle.
    pub fn encode(topic: &str, broker_name: &str, due_ms: u64, unique_key: &str) -> String {
        URL_SAFE.encode(format!(
            "{VERSION} {topic} {broker_name} {due_ms} {unique_key}"
        ))
    }

    /// Reads a handle; nothing if it is none. A time that is no number reads as −1, as in Java.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > HANDLE_BYTES_MAX {
            return None;
        }
        let raw = String::from_utf8(URL_SAFE.decode(text).ok()?).ok()?;
        let mut items = raw.split(' ');
        if items.next() != Some(VERSION) {
            return None;
        }
        let mut next = || items.next().map(str::to_owned);
        let (topic, broker_name, time) = (next()?, next()?, next()?);
        let unique_key = next()?;
        Some(Self {
            topic,
            broker_name,
            due_ms: time.parse().unwrap_or(-1),
            unique_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_and_rubbish() {
        let text = RecallHandle::encode("T", "b", 1234, "U1");
        assert_eq!(text, "djEgVCBiIDEyMzQgVTE=");
        let read = RecallHandle::decode(&text).unwrap();
        assert_eq!((read.topic.as_str(), read.due_ms), ("T", 1234));
        assert_eq!(
            (read.broker_name.as_str(), read.unique_key.as_str()),
            ("b", "U1")
        );
        for bad in ["", "v1", "!!", "djEgVA==", &"A".repeat(2000)] {
            assert_eq!(RecallHandle::decode(bad), None, "{bad}");
        }
    }
}
