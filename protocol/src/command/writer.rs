//! Frames written straight into a connection's output buffer.
//!
//! **Owns** the framing of replies and requests: both words, header, body.
//! **Lives on** the session's core; clients and control actors use it as well.
//! **Invariants** no allocation besides growth of `out` and a late header; replies carry the reply
//! flag (trap 4), version 513, language JAVA and string values only (trap 1). A frame that would
//! exceed `FRAME_BYTES_MAX` is removed from `out` again and reported.
//! **Limits** `FRAME_BYTES_MAX`.
//! **Not here** which ext fields a reply needs (`actors`).

use bytes::{BufMut, BytesMut};

use super::{ExtValue, FLAG_ONE_WAY, FLAG_REPLY, HeaderParts, Language, VERSION, binary, json};
use crate::error::FrameError;
use crate::frame::{
    FRAME_BYTES_MAX, FRAME_HEAD_BYTES, HEADER_LENGTH_MASK, HeaderEncoding, LENGTH_WORD_BYTES,
};

/// Ext fields to write: name and value, in this order on the wire.
pub type Ext<'a> = &'a [(&'a str, ExtValue<'a>)];

/// A frame whose header is written and whose body is being appended to the same buffer.
///
/// Append body bytes to `out`, then call [`OpenFrame::finish`]; nothing else may be written to
/// `out` in between. To give it up, call [`OpenFrame::abandon`].
#[derive(Debug)]
#[must_use = "a frame without its length breaks the connection: finish or abandon it"]
pub struct OpenFrame {
    start: usize,
}

impl OpenFrame {
    /// Where the body begins cannot be known later, so the header's word is patched here.
    fn begin<'e>(
        out: &mut BytesMut,
        encoding: HeaderEncoding,
        parts: &HeaderParts<'_>,
        ext: Option<impl Iterator<Item = (&'e str, ExtValue<'e>)>>,
    ) -> Self {
        let start = out.len();
        out.put_u64(0);
        match encoding {
            HeaderEncoding::Json => json::write(out, parts, ext),
            HeaderEncoding::Binary => binary::write(out, parts, ext),
        }
        patch_header_word(out, start, encoding, out.len() - start - FRAME_HEAD_BYTES);
        Self { start }
    }

    /// Ends the frame at the current end of `out` and returns its bytes on the wire.
    ///
    /// # Errors
    /// The frame exceeds [`FRAME_BYTES_MAX`]; it is removed from `out`.
    pub fn finish(self, out: &mut BytesMut) -> Result<usize, FrameError> {
        finish_at(out, self.start)
    }

    /// Removes everything written since the frame was begun.
    pub fn abandon(self, out: &mut BytesMut) {
        out.truncate(self.start);
    }
}

fn patch_header_word(out: &mut BytesMut, start: usize, encoding: HeaderEncoding, header: usize) {
    // A header beyond 24 bits also exceeds the frame limit, which finish reports.
    let header = u32::try_from(header).unwrap_or(u32::MAX) & HEADER_LENGTH_MASK;
    let word = (u32::from(encoding.type_byte()) << 24) | header;
    if let Some(slot) = out.get_mut(start + LENGTH_WORD_BYTES..start + FRAME_HEAD_BYTES) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
}

fn place_header(out: &mut BytesMut, start: usize, header: &[u8]) {
    if let Some(slot) = out.get_mut(start..start + header.len()) {
        slot.copy_from_slice(header);
    }
}

fn finish_at(out: &mut BytesMut, start: usize) -> Result<usize, FrameError> {
    let bytes = out.len() - start;
    let length = u32::try_from(bytes - LENGTH_WORD_BYTES).unwrap_or(u32::MAX);
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLong {
            bytes: u64::from(length),
            max: FRAME_BYTES_MAX,
        });
    }
    if let Some(slot) = out.get_mut(start..start + LENGTH_WORD_BYTES) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    Ok(bytes)
}

fn reply_parts(opaque: i32, code: i32, remark: Option<&str>) -> HeaderParts<'_> {
    HeaderParts {
        code,
        language: Language::Java,
        version: VERSION,
        opaque,
        flag: FLAG_REPLY,
        remark,
    }
}

/// Begins a reply whose header is known and whose body follows.
pub fn start_reply(
    out: &mut BytesMut,
    encoding: HeaderEncoding,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    ext: Option<Ext<'_>>,
) -> OpenFrame {
    OpenFrame::begin(
        out,
        encoding,
        &reply_parts(opaque, code, remark),
        fields(ext),
    )
}

/// Writes a whole reply. `ext` of `None` writes no `extFields`, `Some(&[])` an empty object.
///
/// # Errors
/// The frame exceeds [`FRAME_BYTES_MAX`]; nothing is left in `out`.
pub fn write_reply(
    out: &mut BytesMut,
    encoding: HeaderEncoding,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    ext: Option<Ext<'_>>,
    body: &[&[u8]],
) -> Result<usize, FrameError> {
    let frame = start_reply(out, encoding, opaque, code, remark, ext);
    for piece in body {
        out.put_slice(piece);
    }
    frame.finish(out)
}

/// Writes a whole request of the broker or of a client.
///
/// # Errors
/// The frame exceeds [`FRAME_BYTES_MAX`]; nothing is left in `out`.
pub fn write_request(
    out: &mut BytesMut,
    encoding: HeaderEncoding,
    opaque: i32,
    code: i32,
    one_way: bool,
    ext: Option<Ext<'_>>,
    body: &[&[u8]],
) -> Result<usize, FrameError> {
    let parts = HeaderParts {
        code,
        language: Language::Java,
        version: VERSION,
        opaque,
        flag: if one_way { FLAG_ONE_WAY } else { 0 },
        remark: None,
    };
    let frame = OpenFrame::begin(out, encoding, &parts, fields(ext));
    for piece in body {
        out.put_slice(piece);
    }
    frame.finish(out)
}

/// Writes a frame of any kind; what the named writers and [`super::Command`] share.
///
/// # Errors
/// The frame exceeds [`FRAME_BYTES_MAX`]; nothing is left in `out`.
pub fn write_frame<'e>(
    out: &mut BytesMut,
    encoding: HeaderEncoding,
    parts: &HeaderParts<'_>,
    ext: Option<impl Iterator<Item = (&'e str, ExtValue<'e>)>>,
    body: &[u8],
) -> Result<usize, FrameError> {
    let frame = OpenFrame::begin(out, encoding, parts, ext);
    out.put_slice(body);
    frame.finish(out)
}

fn fields(ext: Option<Ext<'_>>) -> Option<impl Iterator<Item = (&str, ExtValue<'_>)>> {
    ext.map(|fields| fields.iter().copied())
}

/// A reply whose header is known only after its body: a pull writes records into the output
/// buffer first and learns the next offset from doing so.
///
/// Room for the header is kept in front of the body; what the header does not use is filled with
/// spaces, which JSON allows after its value and every client's parser skips. A binary header
/// allows no filling, so there the body moves up by the unused bytes.
#[derive(Debug)]
#[must_use = "a frame without its header breaks the connection: finish or abandon it"]
pub struct LateReply {
    start: usize,
    header_room: usize,
    encoding: HeaderEncoding,
}

/// Header room of a pull reply: eight ext fields with 20-digit numbers and a short remark take
/// under 330 bytes; a longer header costs one move of the body, nothing else.
pub const LATE_HEADER_ROOM: usize = 352;

/// Begins a reply whose body comes first; see [`LateReply`].
pub fn start_late_reply(out: &mut BytesMut, encoding: HeaderEncoding) -> LateReply {
    let start = out.len();
    out.put_bytes(b' ', FRAME_HEAD_BYTES + LATE_HEADER_ROOM);
    LateReply {
        start,
        header_room: LATE_HEADER_ROOM,
        encoding,
    }
}

impl LateReply {
    /// Offset in `out` where the body begins.
    pub fn body_start(&self) -> usize {
        self.start + FRAME_HEAD_BYTES + self.header_room
    }

    /// Writes the header in front of the body and ends the frame.
    ///
    /// # Errors
    /// The frame exceeds [`FRAME_BYTES_MAX`]; it is removed from `out`.
    pub fn finish(
        self,
        out: &mut BytesMut,
        opaque: i32,
        code: i32,
        remark: Option<&str>,
        ext: Option<Ext<'_>>,
    ) -> Result<usize, FrameError> {
        let parts = reply_parts(opaque, code, remark);
        // Measured apart: behind the body it would make `out` grow, which copies the body.
        let mut header = BytesMut::with_capacity(LATE_HEADER_ROOM);
        match self.encoding {
            HeaderEncoding::Json => json::write(&mut header, &parts, fields(ext)),
            HeaderEncoding::Binary => binary::write(&mut header, &parts, fields(ext)),
        }
        let header_bytes = header.len();
        let header_start = self.start + FRAME_HEAD_BYTES;
        let fits = match self.encoding {
            HeaderEncoding::Json => header_bytes <= self.header_room,
            HeaderEncoding::Binary => header_bytes == self.header_room,
        };
        if fits {
            place_header(out, header_start, &header);
            patch_header_word(out, self.start, self.encoding, self.header_room);
        } else {
            self.move_body(out, header_bytes);
            place_header(out, header_start, &header);
            patch_header_word(out, self.start, self.encoding, header_bytes);
        }
        finish_at(out, self.start)
    }

    /// Makes the room for a header of another size than the one kept for it.
    fn move_body(&self, out: &mut BytesMut, header_bytes: usize) {
        let body_start = self.body_start();
        let body_end = out.len();
        let moved_start = self.start + FRAME_HEAD_BYTES + header_bytes;
        if moved_start > body_start {
            out.put_bytes(0, moved_start - body_start);
        }
        out.copy_within(body_start..body_end, moved_start);
        out.truncate(moved_start + body_end - body_start);
    }

    /// Removes everything written since the reply was begun.
    pub fn abandon(self, out: &mut BytesMut) {
        out.truncate(self.start);
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
