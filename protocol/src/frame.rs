//! The length-prefixed unit of a connection: length word, header word, header, body.
//!
//! **Owns** the frame's two words and the largest frame accepted.
//! **Lives on** the session's core.
//! **Invariants** taking a frame copies nothing and allocates nothing: header and body share the
//! read buffer's memory. A length that cannot be right is refused before its bytes arrive.
//! **Limits** [`FRAME_BYTES_MAX`].
//! **Not here** the header's meaning (`command`), reading from sockets (runtime).

use bytes::{Buf, Bytes, BytesMut};

use crate::error::FrameError;

/// Largest frame accepted, without its length word: the Java side's default of
/// `com.rocketmq.remoting.frameMaxLength` (`NettyDecoder`, 5.5.0). Larger ones close a connection.
pub const FRAME_BYTES_MAX: u32 = 16_777_216;

/// Bytes of the length word.
pub const LENGTH_WORD_BYTES: usize = 4;

/// Bytes of the two words in front of every header.
pub const FRAME_HEAD_BYTES: usize = 8;

/// The low bits of the header word hold the header's length, the top byte its encoding.
pub const HEADER_LENGTH_MASK: u32 = 0x00FF_FFFF;

const _: () = assert!(FRAME_BYTES_MAX <= i32::MAX as u32);

/// How the header of a frame is written; a reply mirrors its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderEncoding {
    /// Type 0, the default of every client.
    #[default]
    Json,
    /// Type 1, `rocketmq.serialize.type=ROCKETMQ`.
    Binary,
}

impl HeaderEncoding {
    /// The type byte in the header word.
    pub const fn type_byte(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Binary => 1,
        }
    }

    fn from_type_byte(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(Self::Json),
            1 => Ok(Self::Binary),
            other => Err(FrameError::UnknownEncoding(other)),
        }
    }
}

/// One frame, cut out of a read buffer without copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// How `header` is written.
    pub encoding: HeaderEncoding,
    /// The header's bytes, see [`crate::HeaderView::parse`].
    pub header: Bytes,
    /// The body; empty when absent.
    pub body: Bytes,
}

impl Frame {
    /// Bytes this frame took on the wire, both words included.
    pub fn wire_bytes(&self) -> usize {
        FRAME_HEAD_BYTES + self.header.len() + self.body.len()
    }
}

/// The two words of a frame, checked against each other.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    /// Bytes after the length word.
    length: usize,
    /// `None` while the header word has not arrived.
    header: Option<(HeaderEncoding, usize)>,
}

/// Reads what is there of the two words; `None` while even the length word is incomplete.
fn read_head(buffered: &[u8]) -> Result<Option<FrameHead>, FrameError> {
    let Some((length_word, rest)) = buffered.split_first_chunk::<LENGTH_WORD_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length_word);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong {
            bytes: u64::from(length),
            max: FRAME_BYTES_MAX,
        });
    }
    if length < 4 {
        return Err(FrameError::TooShort { bytes: length });
    }
    let header = match rest.first_chunk::<4>() {
        None => None,
        Some(word) => {
            let [type_byte, ..] = *word;
            let encoding = HeaderEncoding::from_type_byte(type_byte)?;
            let header = u32::from_be_bytes(*word) & HEADER_LENGTH_MASK;
            if header > length - 4 {
                return Err(FrameError::HeaderTooLong {
                    header,
                    frame: length,
                });
            }
            Some((encoding, header as usize))
        }
    };
    Ok(Some(FrameHead {
        length: length as usize,
        header,
    }))
}

/// Bytes the next frame takes in all (both words included), as soon as its length word is there.
///
/// A session uses it to grow its read buffer once instead of by doubling; it should still bound how
/// much it reserves ahead of bytes that have really arrived.
///
/// # Errors
/// As [`take_frame`].
pub fn frame_bytes_wanted(buffered: &[u8]) -> Result<Option<usize>, FrameError> {
    Ok(read_head(buffered)?.map(|head| head.length + LENGTH_WORD_BYTES))
}

/// Takes the first complete frame out of `buffered`, or `None` if more bytes are needed.
///
/// # Errors
/// The length or the header length is impossible, or the encoding is unknown: the connection has
/// lost its place and must be closed. Nothing is consumed then.
pub fn take_frame(buffered: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(head) = read_head(buffered)? else {
        return Ok(None);
    };
    let Some((encoding, header_bytes)) = head.header else {
        return Ok(None);
    };
    if buffered.len() < LENGTH_WORD_BYTES + head.length {
        return Ok(None);
    }
    let mut whole = buffered.split_to(LENGTH_WORD_BYTES + head.length).freeze();
    whole.advance(FRAME_HEAD_BYTES);
    let header = whole.split_to(header_bytes);
    Ok(Some(Frame {
        encoding,
        header,
        body: whole,
    }))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
