//! The usual answer to a send, filled into a form made once.
//!
//! **Owns** the answer "stored" to one message with a unique key: the frame that leaves this
//! process most often.
//! **Lives on** the session's core; the form belongs to whoever answers sends.
//! **Invariants** byte for byte what [`super::writer::write_reply`] writes for the same fields;
//! what it isn't sure of it leaves to that.
//! **Limits** [`REPLY_BYTES_MAX`].
//! **Not here** other answers: refusals, batches, recall handles.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::{FLAG_REPLY, Language, VERSION, json};
use crate::frame::{FRAME_HEAD_BYTES, HEADER_LENGTH_MASK, HeaderEncoding, LENGTH_WORD_BYTES};
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
    /// Both words of the frame, still zero, and the JSON header up to the physical offset.
    prefix: Box<[u8]>,
    /// From behind the request's number to the end.
    suffix: Box<[u8]>,
    /// Of the binary header, from the flag to the physical offset; the ext fields' length is zero.
    binary: Box<[u8]>,
}

impl SendReplyForm {
    /// A form; none when the texts are too long for it.
    pub fn new(region: &str, trace_on: bool, store_host: SocketAddr) -> Option<Self> {
        let host = message_id::offset_id_host(store_host);
        let host = host.as_str();
        let trace_on = if trace_on { "true" } else { "false" };
        let mut prefix = BytesMut::new();
        prefix.put_u64(0);
        prefix.put_slice(b"{\"code\":0,\"extFields\":{\"MSG_REGION\":\"");
        json::put_escaped(&mut prefix, region);
        prefix.put_slice(b"\",\"TRACE_ON\":\"");
        prefix.put_slice(trace_on.as_bytes());
        prefix.put_slice(b"\",\"msgId\":\"");
        prefix.put_slice(host.as_bytes());
        let suffix = format!(",\"version\":{VERSION}}}");
        let mut binary = BytesMut::new();
        binary.put_i32(FLAG_REPLY);
        // No remark, and the length that is patched.
        binary.put_u64(0);
        let mut put = |name: &[u8], value: &str, more: usize| {
            put_field(&mut binary, name, value.len() + more);
            binary.put_slice(value.as_bytes());
        };
        put(b"MSG_REGION", region, 0);
        put(b"TRACE_ON", trace_on, 0);
        put(b"msgId", host, OFFSET_DIGITS);
        let fits = prefix.len().max(binary.len()) <= PREFIX_BYTES_MAX;
        fits.then(|| Self {
            prefix: prefix.as_ref().into(),
            suffix: suffix.into_bytes().into(),
            binary: binary.as_ref().into(),
        })
    }

    /// Appends the answer as a whole frame, or says false and appends nothing.
    pub fn write(&self, out: &mut BytesMut, encoding: HeaderEncoding, stored: &Stored<'_>) -> bool {
        let unique = stored.unique_key;
        if unique.is_empty() || unique.len() > UNIQUE_KEY_BYTES_MAX || !is_plain(unique) {
            return false;
        }
        let at = out.len();
        out.extend_from_slice(&[0; REPLY_BYTES_MAX]);
        let mut line = Line {
            rest: out.get_mut(at..).unwrap_or_default(),
            is_whole: true,
        };
        match encoding {
            HeaderEncoding::Json => self.fill_json(&mut line, stored),
            HeaderEncoding::Binary => self.fill_binary(&mut line, stored),
        }
        let (left, is_whole) = (line.rest.len(), line.is_whole);
        let used = REPLY_BYTES_MAX.saturating_sub(left);
        out.truncate(if is_whole { at + used } else { at });
        is_whole && finish(out.get_mut(at..).unwrap_or_default(), encoding).is_some()
    }

    #[inline]
    fn fill_json(&self, line: &mut Line<'_>, stored: &Stored<'_>) {
        line.put(&self.prefix);
        line.put_all(&hex_digits(stored.physical_offset.cast_unsigned()));
        line.put_all(b"\",\"queueId\":\"");
        line.put(itoa::Buffer::new().format(stored.queue_id).as_bytes());
        line.put_all(b"\",\"queueOffset\":\"");
        line.put(itoa::Buffer::new().format(stored.queue_offset).as_bytes());
        line.put_all(b"\",\"transactionId\":\"");
        line.put(stored.unique_key);
        line.put_all(MIDDLE);
        line.put(itoa::Buffer::new().format(stored.opaque).as_bytes());
        line.put(&self.suffix);
    }

    #[inline]
    fn fill_binary(&self, line: &mut Line<'_>, stored: &Stored<'_>) {
        let [_, _, high, low] = VERSION.to_be_bytes();
        line.put_all(&[0; FRAME_HEAD_BYTES]);
        line.put_all(&[0, 0, Language::Java.number(), high, low]);
        line.put_all(&stored.opaque.to_be_bytes());
        line.put(&self.binary);
        line.put_all(&hex_digits(stored.physical_offset.cast_unsigned()));
        line.put_field(
            b"queueId",
            itoa::Buffer::new().format(stored.queue_id).as_bytes(),
        );
        line.put_field(
            b"queueOffset",
            itoa::Buffer::new().format(stored.queue_offset).as_bytes(),
        );
        line.put_field(b"transactionId", stored.unique_key);
    }
}

/// Digits of a physical offset.
const OFFSET_DIGITS: usize = 16;
/// Where the length of the ext fields lies in a binary answer's frame: behind code, language,
/// version, number, flag and the remark's length.
const EXT_LENGTH_AT: usize = FRAME_HEAD_BYTES + 2 + 1 + 2 + 4 + 4 + 4;

/// Both lengths and the name of a binary ext field.
fn put_field(out: &mut impl BufMut, name: &[u8], value_bytes: usize) {
    out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
    out.put_slice(name);
    out.put_u32(u32::try_from(value_bytes).unwrap_or(u32::MAX));
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

/// What is left of a frame being filled in, where it will be sent from.
struct Line<'a> {
    rest: &'a mut [u8],
    /// Every piece had room so far.
    is_whole: bool,
}

impl Line<'_> {
    #[inline]
    fn put(&mut self, piece: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        match rest.split_at_mut_checked(piece.len()) {
            Some((slot, after)) => {
                slot.copy_from_slice(piece);
                self.rest = after;
            }
            None => self.is_whole = false,
        }
    }

    /// `put` of a piece whose length the compiler knows: a few moves, no call.
    #[inline]
    fn put_all<const N: usize>(&mut self, piece: &[u8; N]) {
        let rest = std::mem::take(&mut self.rest);
        match rest.split_first_chunk_mut::<N>() {
            Some((slot, after)) => {
                *slot = *piece;
                self.rest = after;
            }
            None => self.is_whole = false,
        }
    }

    /// An ext field of a binary header; of a name and a value that are short.
    #[inline]
    fn put_field<const N: usize>(&mut self, name: &[u8; N], value: &[u8]) {
        let [.., high, low] = N.to_be_bytes();
        self.put_all(&[high, low]);
        self.put_all(name);
        let [.., a, b, c, d] = value.len().to_be_bytes();
        self.put_all(&[a, b, c, d]);
        self.put(value);
    }
}

/// Fills in the lengths of a frame that is whole.
fn finish(frame: &mut [u8], encoding: HeaderEncoding) -> Option<()> {
    let length = |from: usize| u32::try_from(frame.len().checked_sub(from)?).ok();
    let (whole, header) = (length(LENGTH_WORD_BYTES)?, length(FRAME_HEAD_BYTES)?);
    let type_byte = u32::from(encoding.type_byte());
    let word = (type_byte << 24) | (header & HEADER_LENGTH_MASK);
    let ext = length(EXT_LENGTH_AT + 4);
    let (length_word, rest) = frame.split_first_chunk_mut::<4>()?;
    *length_word = whole.to_be_bytes();
    *rest.first_chunk_mut::<4>()? = word.to_be_bytes();
    if encoding == HeaderEncoding::Binary {
        let slot = frame.get_mut(EXT_LENGTH_AT..)?.first_chunk_mut::<4>()?;
        *slot = ext?.to_be_bytes();
    }
    Some(())
}

#[cfg(test)]
#[path = "send_reply_tests.rs"]
mod tests;
