//! Prepared frames: what a send looks like, and the little that is read of a reply.
//!
//! **Owns** one ready-made send frame per queue, with the places to patch: opaque number and unique
//! key.
//! **Lives on** the generator's executor.
//! **Invariants** a patch never changes a frame's length; every message has its own unique key, so
//! that the broker's key index has real work.
//! **Limits** opaque numbers are `OPAQUE_BASE` + slot, always nine digits.
//! **Not here** the full decoder (`gantry_protocol::command`), which checks what this one skips.

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::frame::HeaderEncoding;
use memchr::memmem;

use crate::error::BenchError;
use crate::scenario::{Encoding, ProduceArgs};

/// First opaque number; nine digits leave room for 65,536 slots at the same length.
pub const OPAQUE_BASE: i32 = 100_000_000;
/// Bytes in front of every header.
const FRAME_HEAD_BYTES: usize = 8;
/// Hex digits of a unique key, as Java's clients make them.
const UNIQUE_KEY_DIGITS: usize = 32;
/// Digits of the unique key that count up; the rest name the connection and the run.
const COUNTER_DIGITS: usize = 12;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The send frames of one connection.
#[derive(Debug, Clone)]
pub struct SendTemplate {
    frames: Vec<FrameTemplate>,
    next_frame: usize,
    counter: u64,
    messages_count: u32,
}

#[derive(Debug, Clone)]
struct FrameTemplate {
    bytes: Vec<u8>,
    opaque: OpaquePlace,
    /// Where each message's counting digits begin.
    counters_at: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
enum OpaquePlace {
    Digits(usize),
    Word(usize),
}

impl SendTemplate {
    /// The frames of connection `number`: one per queue, used in turn.
    pub fn new(args: &ProduceArgs, number: usize) -> Self {
        let queues = args.queues;
        let first = u32::try_from(number).unwrap_or(0) % queues;
        let frames = (0..queues)
            .map(|turn| frame_template(args, number, (first + turn) % queues))
            .collect();
        Self {
            frames,
            next_frame: 0,
            counter: 0,
            messages_count: args.batch,
        }
    }

    /// Messages in one frame.
    pub fn messages_count(&self) -> u64 {
        u64::from(self.messages_count)
    }

    /// Appends the next frame for this slot.
    pub fn write(&mut self, slot: u32, out: &mut Vec<u8>) {
        let at = out.len();
        let Some(frame) = self.frames.get(self.next_frame) else {
            return;
        };
        self.next_frame = (self.next_frame + 1) % self.frames.len();
        out.extend_from_slice(&frame.bytes);
        let Some(written) = out.get_mut(at..) else {
            return;
        };
        let opaque = OPAQUE_BASE.unsigned_abs() + slot;
        match frame.opaque {
            OpaquePlace::Digits(place) => patch_digits(written, place, 9, u64::from(opaque), 10),
            OpaquePlace::Word(place) => {
                if let Some(word) = written.get_mut(place..place + 4) {
                    word.copy_from_slice(&opaque.to_be_bytes());
                }
            }
        }
        for place in &frame.counters_at {
            self.counter += 1;
            patch_digits(written, *place, COUNTER_DIGITS, self.counter, 16);
        }
    }
}

/// Writes `value` in `radix` over the `digits` bytes at `place`.
fn patch_digits(bytes: &mut [u8], place: usize, digits: usize, mut value: u64, radix: u64) {
    let Some(slots) = bytes.get_mut(place..place + digits) else {
        return;
    };
    for slot in slots.iter_mut().rev() {
        let digit = usize::try_from(value % radix).unwrap_or(0);
        *slot = HEX.get(digit).copied().unwrap_or(b'0');
        value /= radix;
    }
}

/// A unique key of the right shape: run, connection, then zeros where the counter goes.
fn unique_key(number: usize) -> String {
    let run = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() & 0xFFFF_FFFF_FFFF);
    let head = UNIQUE_KEY_DIGITS - COUNTER_DIGITS;
    format!(
        "{run:012X}{number:0width$X}{zeros}",
        width = head - 12,
        zeros = "0".repeat(COUNTER_DIGITS)
    )
}

fn properties(key: &str) -> String {
    format!("UNIQ_KEY\u{1}{key}\u{2}WAIT\u{1}true\u{2}")
}

/// A body that doesn't compress to nothing and differs by position.
fn body(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| HEX.get((at * 7 + at / 16) % 16).copied().unwrap_or(b'0'))
        .collect()
}

fn batch_body(args: &ProduceArgs, key: &str) -> Vec<u8> {
    const FIXED_BYTES: usize = 4 + 4 + 4 + 4 + 4 + 2;
    let (body, properties) = (body(args.size), properties(key));
    let total = FIXED_BYTES + body.len() + properties.len();
    let mut one = Vec::with_capacity(total);
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    one.extend_from_slice(&word(total));
    one.extend_from_slice(&[0; 12]);
    one.extend_from_slice(&word(body.len()));
    one.extend_from_slice(&body);
    one.extend_from_slice(&u16::try_from(properties.len()).unwrap_or(0).to_be_bytes());
    one.extend_from_slice(properties.as_bytes());
    one.repeat(args.batch as usize)
}

fn frame_template(args: &ProduceArgs, number: usize, queue: u32) -> FrameTemplate {
    let key = unique_key(number);
    let batch = args.batch > 1;
    let (code, body, properties) = if batch {
        (
            codes::SEND_BATCH_MESSAGE,
            batch_body(args, &key),
            String::new(),
        )
    } else {
        (codes::SEND_MESSAGE_V2, body(args.size), properties(&key))
    };
    let born = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
    let ext = [
        ("a", ExtValue::Str("gantry_bench")),
        ("b", ExtValue::Str(&args.topic)),
        ("c", ExtValue::Str("TBW102")),
        ("d", ExtValue::Int(i64::from(args.queues))),
        ("e", ExtValue::Int(i64::from(queue))),
        ("f", ExtValue::Int(0)),
        ("g", ExtValue::Int(born)),
        ("h", ExtValue::Int(0)),
        ("i", ExtValue::Str(&properties)),
        ("j", ExtValue::Int(0)),
        ("k", ExtValue::Str("false")),
        ("m", ExtValue::from(batch)),
    ];
    let encoding = match args.encoding {
        Encoding::Json => HeaderEncoding::Json,
        Encoding::Binary => HeaderEncoding::Binary,
    };
    let mut out = BytesMut::new();
    // A frame beyond the limit can't be written; the broker would close the connection on it.
    if writer::write_request(
        &mut out,
        encoding,
        OPAQUE_BASE,
        code,
        false,
        Some(&ext),
        &[&body],
    )
    .is_err()
    {
        out.clear();
    }
    let bytes = out.to_vec();
    let opaque = match args.encoding {
        Encoding::Json => {
            let text = format!("\"opaque\":{OPAQUE_BASE}");
            let at = memmem::find(&bytes, text.as_bytes()).unwrap_or(0);
            OpaquePlace::Digits(at + "\"opaque\":".len())
        }
        // code 2, language 1, version 2.
        Encoding::Binary => OpaquePlace::Word(FRAME_HEAD_BYTES + 5),
    };
    let counters_at = memmem::find_iter(&bytes, key.as_bytes())
        .map(|at| at + UNIQUE_KEY_DIGITS - COUNTER_DIGITS)
        .collect();
    FrameTemplate {
        bytes,
        opaque,
        counters_at,
    }
}

/// What is read of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHead {
    /// Response code.
    pub code: i32,
    /// The request's number.
    pub opaque: i32,
}

/// Takes one whole frame from the front of `input`: its head and its length; `None` = not yet
/// whole.
///
/// # Errors
/// The header has no code or no opaque number.
pub fn take_reply(input: &[u8]) -> Result<Option<(ReplyHead, usize)>, BenchError> {
    let word = |at: usize| {
        input
            .get(at..at + 4)
            .and_then(|w| <[u8; 4]>::try_from(w).ok())
            .map(u32::from_be_bytes)
    };
    let (Some(length), Some(header_word)) = (word(0), word(4)) else {
        return Ok(None);
    };
    let whole = length as usize + 4;
    if input.len() < whole {
        return Ok(None);
    }
    let header_len = (header_word & 0x00FF_FFFF) as usize;
    let header = input
        .get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + header_len)
        .unwrap_or_default();
    let head = if header_word >> 24 == 0 {
        json_head(header)
    } else {
        binary_head(header)
    };
    head.map(|head| Some((head, whole)))
        .ok_or_else(|| BenchError::Answer {
            doing: "reading a reply",
            what: format!("no code or opaque in {}", String::from_utf8_lossy(header)),
        })
}

fn json_head(header: &[u8]) -> Option<ReplyHead> {
    Some(ReplyHead {
        code: number_after(header, b"\"code\":")?,
        opaque: number_after(header, b"\"opaque\":")?,
    })
}

fn number_after(header: &[u8], name: &[u8]) -> Option<i32> {
    let at = memmem::find(header, name)? + name.len();
    let mut value: i32 = 0;
    let mut digits = 0;
    for byte in header
        .get(at..)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
    {
        value = value.checked_mul(10)?.checked_add(i32::from(byte - b'0'))?;
        digits += 1;
    }
    (digits > 0).then_some(value)
}

fn binary_head(header: &[u8]) -> Option<ReplyHead> {
    let code = i16::from_be_bytes(header.get(0..2)?.try_into().ok()?);
    let opaque = i32::from_be_bytes(header.get(5..9)?.try_into().ok()?);
    Some(ReplyHead {
        code: i32::from(code),
        opaque,
    })
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
