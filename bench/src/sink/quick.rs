//! The sink's short way: a plain JSON send, answered after a look at four fields.
//!
//! **Owns** finding topic, queue and number in a send's header, and the ready-made answer.
//! **Lives on** the sink's executor.
//! **Invariants** it takes only what it understands whole; everything else goes the long way, with
//! the real decoder. Nothing is allocated.
//! **Limits** single sends with JSON headers and unescaped names.
//! **Not here** what is done with the message (`store`).

use memchr::memmem::Finder;

use crate::wire::reply::FRAME_HEAD_BYTES;

const ANSWER_HEAD: &[u8] =
    b"{\"code\":0,\"extFields\":{\"msgId\":\"7F000001000000000000000000000000\",\
\"queueId\":\"0\",\"queueOffset\":\"0\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":";
const ANSWER_TAIL: &[u8] = b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}";

/// A send as far as it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuickSend<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The queue.
    pub queue_id: i32,
    /// Its number, as digits.
    pub opaque: &'a str,
    /// Bytes of the whole frame.
    pub frame_bytes: usize,
}

/// Finds the fields; made once a connection.
#[derive(Debug)]
pub struct QuickScanner {
    topic: Finder<'static>,
    queue: Finder<'static>,
    opaque: Finder<'static>,
}

impl Default for QuickScanner {
    fn default() -> Self {
        Self {
            topic: Finder::new(b"\"b\":\""),
            queue: Finder::new(b"\"e\":\""),
            opaque: Finder::new(b"\"opaque\":"),
        }
    }
}

impl QuickScanner {
    /// The send at the front of `input`; `None` = not yet whole, or something else.
    pub fn take<'a>(&self, input: &'a [u8]) -> Option<QuickSend<'a>> {
        const SEND: &[u8] = b"{\"code\":310,";
        const ANSWERED: &[u8] = b"\"flag\":0,";
        let (&head, rest) = input.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let [length @ .., encoding, high, middle, low] = head;
        let frame_bytes = u32::from_be_bytes(length) as usize + length.len();
        let header = rest.get(..u32::from_be_bytes([0, high, middle, low]) as usize)?;
        if encoding != 0 || input.len() < frame_bytes || !header.starts_with(SEND) {
            return None;
        }
        let topic = until_quote(after(header, &self.topic)?)?;
        let queue = until_quote(after(header, &self.queue)?)?;
        let opaque = after(header, &self.opaque)?;
        let digits = opaque.iter().take_while(|b| b.is_ascii_digit()).count();
        // The flag stands beside the number, before or behind the fields.
        memchr::memmem::find(header, ANSWERED)?;
        Some(QuickSend {
            topic,
            queue_id: queue.parse().ok()?,
            opaque: std::str::from_utf8(opaque.get(..digits)?).ok()?,
            frame_bytes,
        })
    }
}

fn after<'a>(header: &'a [u8], name: &Finder<'_>) -> Option<&'a [u8]> {
    header.get(name.find(header)? + name.needle().len()..)
}

fn until_quote(text: &[u8]) -> Option<&str> {
    let end = memchr::memchr2(b'"', b'\\', text)?;
    let value = std::str::from_utf8(text.get(..end)?).ok()?;
    (text.get(end) == Some(&b'"')).then_some(value)
}

/// Appends the answer to a send.
pub fn answer(opaque: &str, out: &mut Vec<u8>) {
    let header = ANSWER_HEAD.len() + opaque.len() + ANSWER_TAIL.len();
    // Under 300 bytes.
    let header = u32::try_from(header).unwrap_or(u32::MAX);
    out.extend_from_slice(&(header + 4).to_be_bytes());
    out.extend_from_slice(&header.to_be_bytes());
    for piece in [ANSWER_HEAD, opaque.as_bytes(), ANSWER_TAIL] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use gantry_protocol::command::Command;
    use gantry_protocol::frame::{HeaderEncoding, take_frame};

    use super::*;
    use crate::wire::templates::{Flavour, SendShape, SendTemplate};

    fn frame(encoding: HeaderEncoding, one_way: bool) -> Vec<u8> {
        let shape = SendShape {
            topics: vec!["Orders".to_owned()],
            queues: 3,
            size: 64,
            batch: 1,
            encoding,
            one_way,
            flavour: Flavour::Plain,
            run: 1,
        };
        let mut out = Vec::new();
        SendTemplate::new(&shape, 2).write(7, 0, &mut out);
        out
    }

    #[test]
    fn a_plain_send_is_understood_and_its_answer_decodes() {
        let bytes = frame(HeaderEncoding::Json, false);
        let scanner = QuickScanner::default();
        let got = scanner.take(&bytes).unwrap();
        assert_eq!((got.topic, got.queue_id), ("Orders", 2));
        assert_eq!((got.opaque, got.frame_bytes), ("100000007", bytes.len()));
        assert_eq!(scanner.take(&bytes[..bytes.len() - 1]), None);
        let mut out = Vec::new();
        answer(got.opaque, &mut out);
        let answer = take_frame(&mut BytesMut::from(out.as_slice()));
        let answer = Command::from_frame(&answer.unwrap().unwrap()).unwrap();
        assert_eq!((answer.code, answer.opaque), (0, 100_000_007));
        assert!(answer.is_reply());
    }

    #[test]
    fn other_frames_go_the_long_way() {
        let scanner = QuickScanner::default();
        for bytes in [
            frame(HeaderEncoding::Binary, false),
            frame(HeaderEncoding::Json, true),
        ] {
            assert_eq!(scanner.take(&bytes), None);
        }
    }
}
