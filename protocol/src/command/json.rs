//! The JSON header: its grammar, and its writer.
//!
//! **Owns** the grammar of type 0 headers, tolerant on reading, exact on writing.
//! **Lives on** the session's core.
//! **Invariants** reading never recurses; text without escapes is borrowed; numbers, booleans and
//! nested values of ext fields are kept as their text (trap 96); anything after the closing brace
//! is ignored (trap 101). Writing emits keys in Java's order, no whitespace, string values only.
//! **Limits** [`DEPTH_MAX`] levels of ignored nested values, `EXT_FIELDS_MAX` fields.
//! **Not here** JSON bodies (`fastjson`).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{EXT_FIELDS_MAX, ExtFields, ExtValue, HeaderParts, HeaderView, Language, json_usual};
use crate::error::HeaderError;
use crate::frame::HeaderEncoding;

/// Deepest nesting of a value that is skipped; real headers nest one level.
pub const DEPTH_MAX: usize = 32;

/// Words of eight bytes scanned before memchr takes over: most keys and values are shorter than
/// what its setup costs.
const SHORT_SCAN_WORDS: usize = 3;

/// Marks the top bit of each byte of `word` that equals `wanted`; the lowest mark is exact.
const fn bytes_equal(word: u64, wanted: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let difference = word ^ (ONES * wanted as u64);
    difference.wrapping_sub(ONES) & !difference & (ONES << 7)
}

/// Decodes a JSON header into an empty view.
///
/// # Errors
/// Not an object, an unfinished value, a numeric field that is none, or no code.
pub(super) fn read<'a>(header: &'a [u8], view: &mut HeaderView<'a>) -> Result<(), HeaderError> {
    if !json_usual::read(header, view) {
        *view = parse_any(header)?;
    }
    Ok(())
}

/// [`read`] by the whole grammar.
pub(super) fn parse_any(header: &[u8]) -> Result<HeaderView<'_>, HeaderError> {
    let mut scanner = Scanner {
        bytes: header,
        text: std::str::from_utf8(header).ok(),
        at: 0,
    };
    let mut view = HeaderView::empty(HeaderEncoding::Json);
    let mut code = None;
    scanner.expect(b'{', "'{'")?;
    if !scanner.take_if(b'}') {
        loop {
            let key = scanner.string()?;
            scanner.expect(b':', "':'")?;
            match key.as_ref() {
                "code" => code = scanner.number("code")?,
                "opaque" => view.opaque = scanner.number("opaque")?.unwrap_or(0),
                "flag" => view.flag = scanner.number("flag")?.unwrap_or(0),
                "version" => view.version = scanner.number("version")?.unwrap_or(0),
                "language" => {
                    let text = scanner.scalar_text()?;
                    view.language = text.map_or(Language::Other, |t| Language::from_text(&t));
                }
                "remark" => view.remark = scanner.scalar_text()?,
                "extFields" => scanner.ext_fields(&mut view.ext)?,
                _ => {
                    scanner.scalar_text()?;
                }
            }
            if !scanner.more(b'}', "',' or '}'")? {
                break;
            }
        }
    }
    view.code = code.ok_or(HeaderError::NoCode)?;
    Ok(view)
}

/// A position in the header's bytes.
struct Scanner<'a> {
    bytes: &'a [u8],
    /// The same bytes when all of them are UTF-8, which is checked once for the whole header.
    text: Option<&'a str>,
    at: usize,
}

impl<'a> Scanner<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips whitespace and shows the next byte.
    #[inline]
    fn next_token(&mut self) -> Option<u8> {
        match self.peek() {
            Some(byte) if byte > b' ' => Some(byte),
            _ => {
                self.skip_space();
                self.peek()
            }
        }
    }

    #[inline]
    fn take_if(&mut self, byte: u8) -> bool {
        let found = self.next_token() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), HeaderError> {
        if self.take_if(byte) {
            Ok(())
        } else {
            Err(self.expected(name))
        }
    }

    fn expected(&self, expected: &'static str) -> HeaderError {
        HeaderError::Expected {
            expected,
            at: self.at,
        }
    }

    /// After a member: true when another one follows, false at `close`.
    fn more(&mut self, close: u8, name: &'static str) -> Result<bool, HeaderError> {
        match self.next_token() {
            Some(b',') => {
                self.at += 1;
                // A comma before the closing brace is not JSON, but no reason to lose a client.
                Ok(!self.take_if(close))
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.expected(name)),
        }
    }

    #[inline]
    fn slice(&self, from: usize, to: usize) -> Cow<'a, str> {
        match self.text {
            Some(text) => Cow::Borrowed(text.get(from..to).unwrap_or_default()),
            // Java replaces what is not UTF-8 as well; some C++ clients send local encodings.
            None => String::from_utf8_lossy(self.bytes.get(from..to).unwrap_or_default()),
        }
    }

    /// Offset of the next quote or backslash at or behind `at`.
    #[inline]
    fn string_stop(&self, mut at: usize) -> Option<usize> {
        let mut rest = self.bytes.get(at..)?;
        for _ in 0..SHORT_SCAN_WORDS {
            let Some((word, after)) = rest.split_first_chunk::<8>() else {
                break;
            };
            let word = u64::from_le_bytes(*word);
            let hits = bytes_equal(word, b'"') | bytes_equal(word, b'\\');
            if hits != 0 {
                return Some(at + (hits.trailing_zeros() / 8) as usize);
            }
            at += 8;
            rest = after;
        }
        Some(at + memchr::memchr2(b'"', b'\\', rest)?)
    }

    /// The inside of a string without escapes that begins right here; nothing is taken otherwise.
    #[inline]
    fn plain_string(&mut self) -> Option<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let from = self.at + 1;
        // Every name of a send header is one letter.
        if let Some([letter, b'"', ..]) = self.bytes.get(from..)
            && !matches!(letter, b'"' | b'\\')
        {
            self.at = from + 2;
            return Some(self.slice(from, from + 1));
        }
        let stop = self.string_stop(from)?;
        if self.bytes.get(stop) != Some(&b'"') {
            return None;
        }
        self.at = stop + 1;
        Some(self.slice(from, stop))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, HeaderError> {
        self.expect(b'"', "'\"'")?;
        let from = self.at;
        let stop = self
            .string_stop(from)
            .ok_or(HeaderError::Truncated("a string"))?;
        self.at = stop;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(self.slice(from, stop));
        }
        self.escaped_string(from).map(Cow::Owned)
    }

    /// The slow road: `at` stands on the first backslash of a string that began at `from`.
    fn escaped_string(&mut self, from: usize) -> Result<String, HeaderError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let quote = memchr::memchr(b'"', rest).unwrap_or(rest.len());
        let mut out = String::with_capacity(self.at - from + quote);
        out.push_str(&self.slice(from, self.at));
        loop {
            // Property strings hold two of these per property; nothing else is escaped in them.
            match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<6>) {
                Some(b"\\u0001") => {
                    out.push('\u{1}');
                    self.at += 6;
                }
                Some(b"\\u0002") => {
                    out.push('\u{2}');
                    self.at += 6;
                }
                _ => match self.peek() {
                    Some(b'"') => {
                        self.at += 1;
                        return Ok(out);
                    }
                    Some(b'\\') => {
                        self.at += 1;
                        let escaped = self.escape()?;
                        out.push(escaped);
                    }
                    Some(_) => {}
                    None => return Err(HeaderError::Truncated("a string")),
                },
            }
            let from = self.at;
            self.at = self
                .string_stop(self.at)
                .ok_or(HeaderError::Truncated("a string"))?;
            match self.text.and_then(|text| text.get(from..self.at)) {
                Some(run) => out.push_str(run),
                None => out.push_str(&self.slice(from, self.at)),
            }
        }
    }

    fn escape(&mut self) -> Result<char, HeaderError> {
        let byte = self.peek().ok_or(HeaderError::Truncated("an escape"))?;
        self.at += 1;
        Ok(match byte {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => return self.unicode_escape(),
            b'"' | b'\\' | b'/' | b'\'' => char::from(byte),
            _ => return Err(self.expected("an escape of JSON")),
        })
    }

    fn hex4(&mut self) -> Result<u32, HeaderError> {
        let digits = self.bytes.get(self.at..self.at + 4);
        let digits = digits.ok_or(HeaderError::Truncated("an escape"))?;
        let mut unit = 0;
        for digit in digits {
            let value = char::from(*digit).to_digit(16);
            unit = unit * 16 + value.ok_or_else(|| self.expected("four hex digits"))?;
        }
        self.at += 4;
        Ok(unit)
    }

    /// One or two UTF-16 units; half a pair becomes U+FFFD, as it does when Java encodes it.
    fn unicode_escape(&mut self) -> Result<char, HeaderError> {
        let unit = self.hex4()?;
        if (0xD800..0xDC00).contains(&unit)
            && self
                .bytes
                .get(self.at..)
                .is_some_and(|rest| rest.starts_with(b"\\u"))
        {
            let after_first = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let joined = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after_first;
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// The text of a number or a bare word.
    fn bare(&mut self) -> Result<Cow<'a, str>, HeaderError> {
        let from = self.at;
        while let Some(byte) = self.peek() {
            if !matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.') {
                break;
            }
            self.at += 1;
        }
        if self.at == from {
            return Err(self.expected("a value"));
        }
        Ok(self.slice(from, self.at))
    }

    /// Any value as text; `null` is `None`, an object or array is its own JSON text.
    fn scalar_text(&mut self) -> Result<Option<Cow<'a, str>>, HeaderError> {
        match self.next_token() {
            Some(b'"') => self.string().map(Some),
            Some(b'{' | b'[') => {
                let from = self.at;
                self.skip_nested()?;
                Ok(Some(self.slice(from, self.at)))
            }
            Some(_) => self.bare().map(|text| (text != "null").then_some(text)),
            None => Err(HeaderError::Truncated("a value")),
        }
    }

    fn number(&mut self, field: &'static str) -> Result<Option<i32>, HeaderError> {
        match self.scalar_text()? {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| HeaderError::NotANumber { field }),
        }
    }

    /// Steps over an object or array, brackets matched by kind, without recursion.
    fn skip_nested(&mut self) -> Result<(), HeaderError> {
        let mut closers = [0_u8; DEPTH_MAX];
        let mut depth = 0;
        loop {
            match self
                .next_token()
                .ok_or(HeaderError::Truncated("a nested value"))?
            {
                open @ (b'{' | b'[') => {
                    let slot = closers
                        .get_mut(depth)
                        .ok_or(HeaderError::TooDeep(DEPTH_MAX))?;
                    *slot = open + 2; // In ASCII each closer stands two after its opener.
                    depth += 1;
                    self.at += 1;
                }
                close @ (b'}' | b']') => {
                    depth -= 1;
                    if closers.get(depth) != Some(&close) {
                        return Err(self.expected("the matching bracket"));
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b'"' => {
                    self.string()?;
                }
                _ => self.at += 1,
            }
        }
    }

    fn ext_fields(&mut self, fields: &mut ExtFields<'a>) -> Result<(), HeaderError> {
        if self.next_token() != Some(b'{') {
            // null, or something that is no object: no fields.
            self.scalar_text()?;
            return Ok(());
        }
        self.at += 1;
        if self.take_if(b'}') {
            return Ok(());
        }
        loop {
            let key = match self.plain_string() {
                Some(key) => key,
                None => self.string()?,
            };
            self.expect(b':', "':'")?;
            let value = match self.plain_string() {
                Some(value) => Some(value),
                None => self.scalar_text()?,
            };
            if let Some(value) = value {
                if fields.len() >= EXT_FIELDS_MAX {
                    return Err(HeaderError::TooManyFields(EXT_FIELDS_MAX));
                }
                fields.push_made(key, value);
            }
            if !self.more(b'}', "',' or '}'")? {
                return Ok(());
            }
        }
    }
}

/// Appends a header, keys in Java's order. `ext` of `None` writes no `extFields` at all; an empty
/// one writes `{}` (trap 2).
pub fn write<'e>(
    out: &mut BytesMut,
    parts: &HeaderParts<'_>,
    ext: Option<impl Iterator<Item = (&'e str, ExtValue<'e>)>>,
) {
    let mut stage = Stage {
        out,
        bytes: [0; STAGE_BYTES],
        used: 0,
    };
    stage.put(b"{\"code\":");
    stage.put_int(i64::from(parts.code));
    if let Some(fields) = ext {
        stage.put(b",\"extFields\":{");
        let mut first = true;
        for (name, value) in fields {
            if first {
                stage.put(b"\"");
            } else {
                stage.put(b",\"");
            }
            first = false;
            stage.put_escaped(name);
            stage.put(b"\":\"");
            match value {
                ExtValue::Str(text) => stage.put_escaped(text),
                ExtValue::Int(number) => stage.put_int(number),
            }
            stage.put(b"\"");
        }
        stage.put(b"}");
    }
    stage.put(b",\"flag\":");
    stage.put_int(i64::from(parts.flag));
    stage.put(b",\"language\":\"");
    stage.put(parts.language.name().as_bytes());
    stage.put(b"\",\"opaque\":");
    stage.put_int(i64::from(parts.opaque));
    if let Some(remark) = parts.remark {
        stage.put(b",\"remark\":\"");
        stage.put_escaped(remark);
        stage.put(b"\"");
    }
    stage.put(b",\"version\":");
    stage.put_int(i64::from(parts.version));
    stage.put(b"}");
    stage.flush();
}

/// Bytes collected before they are appended: the usual reply header fits, so that the output
/// buffer's bookkeeping is paid once and not for each of some forty pieces.
const STAGE_BYTES: usize = 512;

/// Small pieces on their way into an output buffer.
struct Stage<'o> {
    out: &'o mut BytesMut,
    bytes: [u8; STAGE_BYTES],
    used: usize,
}

impl Stage<'_> {
    #[inline]
    fn put(&mut self, piece: &[u8]) {
        if let Some(slot) = self.bytes.get_mut(self.used..self.used + piece.len()) {
            slot.copy_from_slice(piece);
            self.used += piece.len();
        } else {
            self.flush();
            self.out.put_slice(piece);
        }
    }

    #[inline]
    fn put_int(&mut self, number: i64) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    #[inline]
    fn put_escaped(&mut self, text: &str) {
        if text
            .bytes()
            .fold(false, |any, byte| any | needs_escape(byte))
        {
            self.flush();
            put_escaped(self.out, text);
        } else {
            self.put(text.as_bytes());
        }
    }

    fn flush(&mut self) {
        self.out
            .put_slice(self.bytes.get(..self.used).unwrap_or_default());
        self.used = 0;
    }
}

#[allow(
    clippy::needless_bitwise_bool,
    reason = "no branches, so that a loop over it runs in lanes"
)]
const fn needs_escape(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

pub(crate) fn put_int(out: &mut BytesMut, number: i64) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends text with what JSON wants escaped, without the quotes around it.
pub(crate) fn put_escaped(out: &mut BytesMut, text: &str) {
    let mut from = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        if !needs_escape(*byte) {
            continue;
        }
        out.put_slice(bytes.get(from..at).unwrap_or_default());
        from = at + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            control => {
                const HEX: [u8; 16] = *b"0123456789abcdef";
                let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
                out.put_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(control >> 4),
                    digit(control & 15),
                ]);
            }
        }
    }
    out.put_slice(bytes.get(from..).unwrap_or_default());
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
