//! The usual answer to a send, filled into a form made once.
//!
//! **Owns** the answer "stored" to one message with a unique key under a JSON header: the frame
//! that leaves this process most often.
//! **Lives on** the session's core; the form belongs to whoever answers sends.
//! **Invariants** byte for byte what [`super::writer::write_reply`] writes for the same fields;
//! what it isn't sure of it leaves to that.
//! **Limits** [`REPLY_BYTES_MAX`].
//! **Not here** other answers: refusals, batches, recall handles, the binary header.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::{VERSION, json};
use crate::frame::{FRAME_HEAD_BYTES, HEADER_LENGTH_MASK, LENGTH_WORD_BYTES};
use crate::message_id::{self, hex_digits};

/// Longest answer made here; the usual one takes about 300 bytes.
pub const REPLY_BYTES_MAX: usize = 512;
/// Longest region or other text of the operator's that fits.
const PREFIX_BYTES_MAX: usize = 256;
/// Longest unique key that fits: Java's have 32 digits.
const UNIQUE_KEY_BYTES_MAX: usize = 64;

/// What one answer says.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Of the request.
    pub opaque: i32,
    /// Where the record lies.
    pub physical_offset: i64,
    /// The queue the producer meant.
    pub queue_id: u16,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// The message's unique key.
    pub unique_key: &'a [u8],
}

/// The parts that are the same in every answer of a broker.
#[derive(Debug, Clone)]
pub struct SendReplyForm {
    /// Both words of the frame, still zero, and the header up to the physical offset.
    prefix: Box<[u8]>,
    /// From behind the request's number to the end.
    suffix: Box<[u8]>,
}

impl SendReplyForm {
    /// A form; none when the texts are too long for it.
    pub fn new(region: &str, trace_on: bool, store_host: SocketAddr) -> Option<Self> {
        let mut prefix = BytesMut::new();
        prefix.put_u64(0);
        prefix.put_slice(b"{\"code\":0,\"extFields\":{\"MSG_REGION\":\"");
        json::put_escaped(&mut prefix, region);
        prefix.put_slice(b"\",\"TRACE_ON\":\"");
        prefix.put_slice(if trace_on { b"true" } else { b"false" });
        prefix.put_slice(b"\",\"msgId\":\"");
        prefix.put_slice(message_id::offset_id_host(store_host).as_str().as_bytes());
        let suffix = format!(",\"version\":{VERSION}}}");
        (prefix.len() <= PREFIX_BYTES_MAX).then(|| Self {
            prefix: prefix.as_ref().into(),
            suffix: suffix.into_bytes().into(),
        })
    }

    /// Appends the answer as a whole frame, or says false and appends nothing.
    pub fn write(&self, out: &mut BytesMut, stored: &Stored<'_>) -> bool {
        let unique = stored.unique_key;
        if unique.is_empty() || unique.len() > UNIQUE_KEY_BYTES_MAX || !is_plain(unique) {
            return false;
        }
        let mut line = Line {
            bytes: [0; REPLY_BYTES_MAX],
            used: 0,
        };
        line.put(&self.prefix);
        line.put_all(&hex_digits(stored.physical_offset.cast_unsigned()));
        line.put_all(b"\",\"queueId\":\"");
        line.put(itoa::Buffer::new().format(stored.queue_id).as_bytes());
        line.put_all(b"\",\"queueOffset\":\"");
        line.put(itoa::Buffer::new().format(stored.queue_offset).as_bytes());
        line.put_all(b"\",\"transactionId\":\"");
        line.put(unique);
        line.put_all(MIDDLE);
        line.put(itoa::Buffer::new().format(stored.opaque).as_bytes());
        line.put(&self.suffix);
        let Some(frame) = line.finish() else {
            return false;
        };
        out.put_slice(frame);
        true
    }
}

/// From behind the unique key to the request's number.
const MIDDLE: &[u8; 39] = b"\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":";

/// Text that JSON takes as it is, and ASCII.
#[allow(
    clippy::needless_bitwise_bool,
    reason = "no branch per byte, so that it runs in lanes"
)]
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| {
        plain & (*byte >= b' ') & (*byte < 0x7f) & (*byte != b'"') & (*byte != b'\\')
    })
}

/// One frame being filled in.
struct Line {
    bytes: [u8; REPLY_BYTES_MAX],
    used: usize,
}

impl Line {
    #[inline]
    fn put(&mut self, piece: &[u8]) {
        if let Some(slot) = self.bytes.get_mut(self.used..self.used + piece.len()) {
            slot.copy_from_slice(piece);
        }
        self.used += piece.len();
    }

    /// `put` of a piece whose length the compiler knows: a few moves, no call.
    #[inline]
    fn put_all<const N: usize>(&mut self, piece: &[u8; N]) {
        let rest = self.bytes.get_mut(self.used..).unwrap_or_default();
        if let Some(slot) = rest.first_chunk_mut::<N>() {
            *slot = *piece;
        }
        self.used += N;
    }

    /// The frame with its two words; none when a piece had no room.
    fn finish(&mut self) -> Option<&[u8]> {
        let header = u32::try_from(self.used.checked_sub(FRAME_HEAD_BYTES)?).ok()?;
        let length = u32::try_from(self.used - LENGTH_WORD_BYTES).ok()?;
        let frame = self.bytes.get_mut(..self.used)?;
        let (length_word, rest) = frame.split_first_chunk_mut::<4>()?;
        *length_word = length.to_be_bytes();
        *rest.first_chunk_mut::<4>()? = (header & HEADER_LENGTH_MASK).to_be_bytes();
        self.bytes.get(..self.used)
    }
}

#[cfg(test)]
#[path = "send_reply_tests.rs"]
mod tests;
