//! Headers read by what differs from one that was read before: a client's next header has its
//! names, quotes and escapes at the places of its last one.
//!
//! **Owns** what headers looked like lately.
//! **Lives on** the thread that reads, one set for each.
//! **Invariants** a header is read here only if all its bytes but those inside of values are the
//! kept one's, and no value has a quote or a backslash more: so it is what the short road
//! (`json_usual`) reads.
//! **Limits** [`SHAPES_MAX`] shapes, of headers that the short road takes: some 3 KiB each.
//! **Not here** a header unlike the kept ones: the short road's.

use std::borrow::Cow;
use std::cell::RefCell;

use super::json_usual::{CHUNK, LANE, Unescaped, hits_of_lane};
use super::{HeaderView, Language};
use wide::u8x16;

/// Shapes kept, by length: a connection has one for its sends and one or two for its pulls.
const SHAPES_MAX: usize = 16;
/// A shape is replaced when so many headers of one length in a row weren't like it: keeping one
/// takes as long as reading some.
const MISSES_MAX: u32 = 4;

/// Where a text is: its first byte, and the one behind it.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: u16,
    to: u16,
}

impl Span {
    /// Of a part of `all`.
    fn of(part: &str, all: &str) -> Option<Self> {
        let from = (part.as_ptr() as usize).checked_sub(all.as_ptr() as usize)?;
        Self::new(from, from + part.len()).filter(|span| span.text(all) == Some(part))
    }

    fn new(from: usize, to: usize) -> Option<Self> {
        Some(Self {
            from: u16::try_from(from).ok()?,
            to: u16::try_from(to).ok()?,
        })
    }

    #[inline]
    fn text(self, all: &str) -> Option<&str> {
        all.get(usize::from(self.from)..usize::from(self.to))
    }
}

/// Bytes of a header and which of them its successors must have.
#[derive(Debug, Clone)]
struct Chunk {
    bytes: [u8; CHUNK],
    fixed: u64,
}

impl Chunk {
    /// Whether these bytes may stand for the kept ones.
    #[inline]
    fn admits(&self, new: &[u8; CHUNK]) -> bool {
        let (new, _) = new.as_chunks::<LANE>();
        let (kept, _) = self.bytes.as_chunks::<LANE>();
        let (mut equal, mut hits) = (0, 0);
        for (new, kept) in new.iter().zip(kept).rev() {
            let new = u8x16::from(*new);
            let same = new.simd_eq(u8x16::from(*kept)).to_bitmask();
            equal = equal << LANE | u64::from(same);
            hits = hits << LANE | hits_of_lane(new);
        }
        !equal & self.fixed | hits & !self.fixed == 0
    }
}

#[derive(Debug)]
struct Field {
    name: Span,
    value: Span,
    /// How many of the shape's escapes are in the value.
    escapes: u16,
}

/// A header that was read.
#[derive(Debug, Default)]
struct Shape {
    bytes: usize,
    chunks: Vec<Chunk>,
    fields: Vec<Field>,
    escapes: Vec<u16>,
    opaque: Option<Span>,
    code: i32,
    flag: i32,
    version: i32,
    language: Language,
    /// Headers of one length that weren't like it, one after the other.
    misses: u32,
    missed_bytes: usize,
}

impl Shape {
    /// What is to be kept of a header that the short road has read; none if it is too unusual.
    fn of(header: &str, view: &HeaderView<'_>) -> Option<Self> {
        if view.remark.is_some() {
            return None;
        }
        let mut shape = Self {
            bytes: header.len(),
            code: view.code,
            flag: view.flag,
            version: view.version,
            language: view.language,
            ..Self::default()
        };
        let mut is_fixed = vec![true; header.len()];
        let opaque = opaque_digits(header)?;
        shape.opaque = Some(opaque);
        set_free(&mut is_fixed, opaque);
        for (name, _) in view.ext.iter() {
            shape.keep_field(header, Span::of(name, header)?, &mut is_fixed)?;
        }
        for (bytes, is_fixed) in header.as_bytes().chunks(CHUNK).zip(is_fixed.chunks(CHUNK)) {
            let mut chunk = Chunk {
                bytes: [0; CHUNK],
                fixed: 0,
            };
            chunk.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
            for (at, _) in is_fixed.iter().enumerate().filter(|(_, fixed)| **fixed) {
                chunk.fixed |= 1 << at;
            }
            shape.chunks.push(chunk);
        }
        Some(shape)
    }

    /// Keeps the field of that name: what its value consists of begins two bytes behind it.
    fn keep_field(&mut self, header: &str, name: Span, is_fixed: &mut [bool]) -> Option<()> {
        let from = usize::from(name.to) + 3;
        let rest = header.as_bytes().get(from..)?;
        let mut free_from = from;
        let mut escapes = 0;
        for (at, byte) in rest.iter().enumerate() {
            let at = from + at;
            match byte {
                b'"' => {
                    set_free(is_fixed, Span::new(free_from, at)?);
                    let value = Span::new(from, at)?;
                    self.fields.push(Field {
                        name,
                        value,
                        escapes,
                    });
                    return Some(());
                }
                b'\\' => {
                    set_free(is_fixed, Span::new(free_from, at)?);
                    free_from = at + ESCAPE_BYTES;
                    self.escapes.push(u16::try_from(at).ok()?);
                    escapes += 1;
                }
                _ => {}
            }
        }
        None
    }

    /// Whether that header is like this one.
    #[inline]
    fn admits(&self, header: &[u8]) -> bool {
        if self.bytes != header.len() {
            return false;
        }
        let (chunks, rest) = header.as_chunks::<CHUNK>();
        let mut kept = self.chunks.iter();
        if !chunks
            .iter()
            .zip(&mut kept)
            .all(|(new, kept)| kept.admits(new))
        {
            return false;
        }
        let mut last = [0; CHUNK];
        if let Some(last) = last.get_mut(..rest.len()) {
            last.copy_from_slice(rest);
        }
        kept.next().is_none_or(|kept| kept.admits(&last))
    }

    /// Reads a header like this one.
    #[inline]
    fn read<'a>(&self, header: &'a str, view: &mut HeaderView<'a>) -> Option<()> {
        view.opaque = number(self.opaque?.text(header)?)?;
        (view.code, view.flag) = (self.code, self.flag);
        (view.version, view.language) = (self.version, self.language);
        let mut escapes = self.escapes.as_slice();
        for field in &self.fields {
            let name = field.name.text(header)?;
            if field.escapes == 0 {
                view.ext.push(name, field.value.text(header)?);
                continue;
            }
            let (own, rest) = escapes.split_at_checked(usize::from(field.escapes))?;
            escapes = rest;
            let value = unescaped(header.as_bytes(), field.value, own)?;
            let value = Cow::Owned(value);
            view.ext.push_made(Cow::Borrowed(name), value);
        }
        Some(())
    }
}

/// Bytes of `\u0001`.
const ESCAPE_BYTES: usize = 6;

fn unescaped(bytes: &[u8], value: Span, escapes: &[u16]) -> Option<String> {
    let (mut from, to) = (usize::from(value.from), usize::from(value.to));
    let mut out = Unescaped::with_room(to - from);
    for escape in escapes {
        let escape = usize::from(*escape);
        out.put(bytes, from, escape)?;
        from = escape + ESCAPE_BYTES;
        // `1` or `2`, as when it was kept.
        out.put_byte(bytes.get(from - 1)?.wrapping_sub(b'0'));
    }
    out.put(bytes, from, to)?;
    out.into_string()
}

fn set_free(is_fixed: &mut [bool], span: Span) {
    let (from, to) = (usize::from(span.from), usize::from(span.to));
    is_fixed.get_mut(from..to).unwrap_or_default().fill(false);
}

/// The digits of the one `opaque` of a header: the ext fields' values are texts.
fn opaque_digits(header: &str) -> Option<Span> {
    const NAME: &str = "\"opaque\":";
    let (before, rest) = header.split_once(NAME)?;
    let from = before.len() + NAME.len();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let is_only_one = !rest.contains(NAME);
    (digits > 0 && is_only_one).then(|| Span::new(from, from + digits))?
}

#[inline]
fn number(digits: &str) -> Option<i32> {
    let mut value = 0_i64;
    for digit in digits.bytes() {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Ten digits at most: they were a number of 32 bits when they were kept.
        value = value * 10 + i64::from(digit);
    }
    i32::try_from(value).ok()
}

thread_local! {
    /// What headers looked like lately, by their length. Reading is the same with it and without
    /// it, so nobody hands it around.
    static SHAPES: RefCell<[Shape; SHAPES_MAX]> = RefCell::default();
}

/// Fills an empty `view` and says true; or says false, and it is as empty as before.
#[inline]
pub(super) fn read<'a>(header: &'a str, view: &mut HeaderView<'a>) -> bool {
    SHAPES.with_borrow_mut(|shapes| {
        let Some(shape) = shapes.get_mut(header.len() % SHAPES_MAX) else {
            return false;
        };
        if !shape.admits(header.as_bytes()) {
            return false;
        }
        shape.misses = 0;
        let is_read = shape.read(header, view).is_some();
        if !is_read {
            *view = HeaderView::empty(view.encoding);
        }
        is_read
    })
}

/// Takes notice of a header that the short road has read.
pub(super) fn note(header: &str, view: &HeaderView<'_>) {
    SHAPES.with_borrow_mut(|shapes| {
        let Some(shape) = shapes.get_mut(header.len() % SHAPES_MAX) else {
            return;
        };
        if shape.missed_bytes != header.len() {
            (shape.missed_bytes, shape.misses) = (header.len(), 0);
        }
        shape.misses += 1;
        if shape.misses < MISSES_MAX {
            return;
        }
        shape.misses = 0;
        if let Some(new) = Shape::of(header, view) {
            *shape = new;
        }
    });
}

#[cfg(test)]
#[path = "json_shapes_tests.rs"]
mod tests;
