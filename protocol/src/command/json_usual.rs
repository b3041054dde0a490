//! The JSON header as every client usually writes it, read without looking at each byte.
//!
//! **Owns** the short road of a header without whitespace, nulls, nested values or rare escapes.
//! **Lives on** the session's core.
//! **Invariants** what it reads is what the whole grammar (`json`) reads; everything it isn't sure
//! of it leaves to that.
//! **Limits** [`USUAL_BYTES_MAX`], [`MARKS_MAX`]; a longer header takes the other road.
//! **Not here** errors: they are the other road's.

use std::borrow::Cow;

use wide::u8x16;

use super::{EXT_FIELDS_MAX, HeaderView, Language, json_shapes};

/// Longest header read here: a send takes 400 to 700 bytes.
const USUAL_BYTES_MAX: usize = 2048;
/// Most quotes and backslashes: 22 names and strings, and two escapes for each of 20 properties.
const MARKS_MAX: usize = 160;
pub(super) const LANE: usize = 16;
/// Bytes looked at together.
pub(super) const CHUNK: usize = 4 * LANE;
/// Marks noted at a time.
const NOTED: usize = 8;

const _: () = assert!(USUAL_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(MARKS_MAX / 4 < EXT_FIELDS_MAX);

/// Fills `view` and says true, or leaves it unusable and says false.
pub(super) fn read<'a>(header: &'a [u8], view: &mut HeaderView<'a>) -> bool {
    if header.len() > USUAL_BYTES_MAX {
        return false;
    }
    let Ok(text) = std::str::from_utf8(header) else {
        return false;
    };
    if json_shapes::read(text, view) {
        return true;
    }
    let is_read = walk(text, view);
    if is_read {
        json_shapes::note(text, view);
    }
    is_read
}

/// Reads from quote to quote.
fn walk<'a>(text: &'a str, view: &mut HeaderView<'a>) -> bool {
    let header = text.as_bytes();
    let mut marks = Marks {
        places: [0; MARKS_MAX + NOTED],
        count: 0,
    };
    if !marks.find(header) {
        return false;
    }
    let mut walk = Walk {
        bytes: header,
        text,
        marks: marks.places.get(..marks.count).unwrap_or_default(),
        at: 1,
    };
    header.first() == Some(&b'{') && walk.object(view).is_some()
}

/// Where quotes and backslashes are.
struct Marks {
    /// With room for what is noted in vain.
    places: [u16; MARKS_MAX + NOTED],
    count: usize,
}

impl Marks {
    /// False when there are too many.
    #[inline]
    fn find(&mut self, bytes: &[u8]) -> bool {
        let (chunks, rest) = bytes.as_chunks::<CHUNK>();
        let mut base = 0_u16;
        for chunk in chunks {
            if !self.note(hits(chunk), base) {
                return false;
            }
            base += 64;
        }
        let mut last = [0; CHUNK];
        if let Some(last) = last.get_mut(..rest.len()) {
            last.copy_from_slice(rest);
        }
        self.note(hits(&last), base)
    }

    /// Notes eight at a time, whether there are so many or not: how many a chunk has can't be
    /// foreseen, and a loop that ends with the last one is taken wrongly once a chunk.
    #[inline]
    fn note(&mut self, mut hits: u64, base: u16) -> bool {
        let end = self.count + hits.count_ones() as usize;
        while self.count < end {
            let places = self.places.get_mut(self.count..).unwrap_or_default();
            let Some(places) = places.first_chunk_mut::<NOTED>() else {
                return false;
            };
            for place in places {
                // A chunk has 64 bytes; what is noted in vain is any of them.
                let at = (hits | 1 << 63).trailing_zeros();
                *place = base + u16::try_from(at).unwrap_or(0);
                hits &= hits.wrapping_sub(1);
            }
            self.count += NOTED;
        }
        self.count = end;
        end <= MARKS_MAX
    }
}

/// The quotes and backslashes of a chunk, bit by bit.
#[inline]
fn hits(chunk: &[u8; CHUNK]) -> u64 {
    let (lanes, _) = chunk.as_chunks::<LANE>();
    let all = lanes.iter().rev();
    all.fold(0, |hits, lane| {
        hits << LANE | hits_of_lane(u8x16::from(*lane))
    })
}

#[inline]
pub(super) fn hits_of_lane(lane: u8x16) -> u64 {
    let quotes = lane.simd_eq(u8x16::splat(b'"'));
    let backslashes = lane.simd_eq(u8x16::splat(b'\\'));
    u64::from((quotes | backslashes).to_bitmask())
}

struct Walk<'a, 'm> {
    bytes: &'a [u8],
    text: &'a str,
    /// Marks not passed yet.
    marks: &'m [u16],
    at: usize,
}

/// The reader is not sure: the other road.
type Sure<T> = Option<T>;

impl<'a> Walk<'a, '_> {
    /// Everything after the opening brace.
    fn object(&mut self, view: &mut HeaderView<'a>) -> Sure<()> {
        let mut code = None;
        loop {
            match self.name()? {
                "code" => code = Some(self.number()?),
                "opaque" => view.opaque = self.number()?,
                "flag" => view.flag = self.number()?,
                "version" => view.version = self.number()?,
                "language" => view.language = Language::from_text(&self.string()?),
                "remark" => view.remark = Some(self.string()?),
                "extFields" => self.ext_fields(view)?,
                "serializeTypeCurrentRPC" => drop(self.string()?),
                _ => return None,
            }
            if self.ends()? {
                view.code = code?;
                return Some(());
            }
        }
    }

    fn ext_fields(&mut self, view: &mut HeaderView<'a>) -> Sure<()> {
        self.take(b'{')?;
        if self.byte() == Some(b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.name()?;
            if let Some(value) = self.plain() {
                view.ext.push(name, value);
            } else {
                let value = self.escaped()?;
                view.ext.push_made(Cow::Borrowed(name), Cow::Owned(value));
            }
            if self.ends()? {
                return Some(());
            }
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Sure<()> {
        (self.byte()? == byte).then(|| self.at += 1)
    }

    /// After a member: another one (false), or the closing brace (true).
    #[inline]
    fn ends(&mut self) -> Sure<bool> {
        let byte = self.byte()?;
        self.at += 1;
        match byte {
            b',' => Some(false),
            b'}' => Some(true),
            _ => None,
        }
    }

    /// A string without escapes that begins here; nothing is taken otherwise.
    #[inline]
    fn plain(&mut self) -> Sure<&'a str> {
        let [open, close, rest @ ..] = self.marks else {
            return None;
        };
        let (open, close) = (usize::from(*open), usize::from(*close));
        if open != self.at || self.byte() != Some(b'"') || self.bytes.get(close) != Some(&b'"') {
            return None;
        }
        let inside = self.text.get(open + 1..close)?;
        self.marks = rest;
        self.at = close + 1;
        Some(inside)
    }

    #[inline]
    fn name(&mut self) -> Sure<&'a str> {
        let name = self.plain()?;
        self.take(b':')?;
        Some(name)
    }

    fn string(&mut self) -> Sure<Cow<'a, str>> {
        match self.plain() {
            Some(text) => Some(Cow::Borrowed(text)),
            None => self.escaped().map(Cow::Owned),
        }
    }

    #[inline]
    fn number(&mut self) -> Sure<i32> {
        let negative = self.byte()? == b'-';
        self.at += usize::from(negative);
        let from = self.at;
        let mut value = 0_i64;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            value = value * 10 + i64::from(digit - b'0');
            self.at += 1;
        }
        // Ten digits can't overflow 64 bits; more are not usual.
        let digits = self.at - from;
        if digits == 0 || digits > 10 {
            return None;
        }
        i32::try_from(if negative { -value } else { value }).ok()
    }

    /// A string that holds `\u0001` and `\u0002` and no other escape: a property string.
    fn escaped(&mut self) -> Sure<String> {
        let (open, marks) = self.marks.split_first()?;
        if usize::from(*open) != self.at || self.byte() != Some(b'"') {
            return None;
        }
        let is_quote = |mark: &u16| self.bytes.get(usize::from(*mark)) == Some(&b'"');
        let escapes_count = marks.iter().position(is_quote)?;
        let (escapes, rest) = marks.split_at_checked(escapes_count)?;
        let (close, rest) = rest.split_first()?;
        let close = usize::from(*close);
        let mut out = Unescaped::with_room(close - self.at);
        let mut from = self.at + 1;
        for escape in escapes {
            let escape = usize::from(*escape);
            let Some([b'\\', b'u', b'0', b'0', b'0', low @ (b'1' | b'2')]) =
                self.bytes.get(escape..escape + 6)
            else {
                return None;
            };
            out.put(self.bytes, from, escape)?;
            out.put_byte(*low - b'0');
            from = escape + 6;
        }
        out.put(self.bytes, from, close)?;
        self.marks = rest;
        self.at = close + 1;
        out.into_string()
    }
}

/// A string being unescaped. Its runs are short (a property's name, its value), so they are copied
/// in lanes, which may write rubbish behind the run: a call of the library's copy costs more.
pub(super) struct Unescaped {
    /// With room for a lane more than what will be put.
    bytes: Vec<u8>,
    used: usize,
}

impl Unescaped {
    pub(super) fn with_room(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes + LANE),
            used: 0,
        }
    }

    #[inline]
    pub(super) fn put_byte(&mut self, byte: u8) {
        self.bytes.truncate(self.used);
        self.bytes.push(byte);
        self.used += 1;
    }

    #[inline]
    pub(super) fn put(&mut self, all: &[u8], from: usize, to: usize) -> Sure<()> {
        let mut at = from;
        while at < to {
            // Behind a property string come other fields; a header that ends sooner is unusual.
            let lane = all.get(at..)?.first_chunk::<LANE>()?;
            self.bytes.truncate(self.used);
            self.bytes.extend_from_slice(lane);
            let step = (to - at).min(LANE);
            self.used += step;
            at += step;
        }
        Some(())
    }

    pub(super) fn into_string(mut self) -> Sure<String> {
        self.bytes.truncate(self.used);
        String::from_utf8(self.bytes).ok()
    }
}

#[cfg(test)]
#[path = "json_usual_tests.rs"]
mod tests;
