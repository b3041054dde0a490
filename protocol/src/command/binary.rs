//! The binary header (`ROCKETMQ`, type 1).
//!
//! **Owns** its layout, both directions (`RocketMQSerializable`, 5.5.0).
//! **Lives on** the session's core.
//! **Invariants** lengths are checked before use; a zero-length key or value is no field, as in
//! Java; bytes after the ext fields are ignored on reading and never written.
//! **Limits** codes are 16 bits wide (trap 9), `EXT_FIELDS_MAX` fields.
//! **Not here** the JSON header (`json`).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{EXT_FIELDS_MAX, ExtValue, HeaderParts, HeaderView, Language, widen_binary_code};
use crate::error::HeaderError;

/// Bytes of ext fields that are checked for UTF-8 at a time.
const RUN_BYTES: usize = 1024;

/// Decodes a binary header into an empty view.
///
/// # Errors
/// A length runs over the end of the bytes, or there are too many fields.
pub(super) fn read<'a>(header: &'a [u8], view: &mut HeaderView<'a>) -> Result<(), HeaderError> {
    let mut rest = header;
    view.code = widen_binary_code(u16::from_be_bytes(take(&mut rest, "the code")?));
    let [language] = take(&mut rest, "the language")?;
    view.language = Language::from_number(language);
    view.version = i32::from(u16::from_be_bytes(take(&mut rest, "the version")?));
    view.opaque = i32::from_be_bytes(take(&mut rest, "the opaque")?);
    view.flag = i32::from_be_bytes(take(&mut rest, "the flag")?);
    let remark_bytes = u32::from_be_bytes(take(&mut rest, "the remark length")?);
    let remark = take_bytes(&mut rest, remark_bytes as usize, "the remark")?;
    view.remark = (!remark.is_empty()).then(|| text(remark));
    let ext_bytes = u32::from_be_bytes(take(&mut rest, "the ext length")?);
    let all = take_bytes(&mut rest, ext_bytes as usize, "the ext fields")?;
    read_ext(all, view)
}

/// Decodes ext fields. Most are found in a text that is checked for UTF-8 once for many of them: a
/// length word below 128 is UTF-8 as well, so that the check goes on through it.
fn read_ext<'a>(all: &'a [u8], view: &mut HeaderView<'a>) -> Result<(), HeaderError> {
    let (mut rest, mut text) = (all, checked(all));
    while !rest.is_empty() {
        while let Some((name, value, behind)) = usual_field(text) {
            if !name.is_empty() && !value.is_empty() {
                check_count(view)?;
                view.ext.push(name, value);
            }
            rest = rest.get(text.len() - behind.len()..).unwrap_or_default();
            text = behind;
        }
        if !rest.is_empty() {
            rest = read_any_field(rest, view)?;
            text = checked(rest);
        }
    }
    Ok(())
}

/// The beginning of these fields, as far as it is UTF-8.
fn checked(fields: &[u8]) -> &str {
    let run = fields.get(..RUN_BYTES).unwrap_or(fields);
    match std::str::from_utf8(run) {
        Ok(text) => text,
        Err(error) => {
            let valid = run.get(..error.valid_up_to());
            let valid = valid.and_then(|valid| std::str::from_utf8(valid).ok());
            valid.unwrap_or_default()
        }
    }
}

/// Name and value of the first field, and what is behind it; none if `text` doesn't hold it whole.
#[inline]
fn usual_field(text: &str) -> Option<(&str, &str, &str)> {
    let name_bytes = u16::from_be_bytes(*text.as_bytes().first_chunk()?);
    let (_, text) = text.split_at_checked(2)?;
    let (name, text) = text.split_at_checked(usize::from(name_bytes))?;
    let value_bytes = u32::from_be_bytes(*text.as_bytes().first_chunk()?);
    let (_, text) = text.split_at_checked(4)?;
    let (value, text) = text.split_at_checked(value_bytes as usize)?;
    Some((name, value, text))
}

/// Decodes one field, whatever its texts are; gives what is behind it.
fn read_any_field<'a>(
    mut rest: &'a [u8],
    view: &mut HeaderView<'a>,
) -> Result<&'a [u8], HeaderError> {
    let name_bytes = u16::from_be_bytes(take(&mut rest, "an ext key length")?);
    let name = take_bytes(&mut rest, usize::from(name_bytes), "an ext key")?;
    let value_bytes = u32::from_be_bytes(take(&mut rest, "an ext value length")?);
    let value = take_bytes(&mut rest, value_bytes as usize, "an ext value")?;
    if !name.is_empty() && !value.is_empty() {
        check_count(view)?;
        view.ext.push_made(text(name), text(value));
    }
    Ok(rest)
}

#[inline]
fn check_count(view: &HeaderView<'_>) -> Result<(), HeaderError> {
    if view.ext.len() >= EXT_FIELDS_MAX {
        return Err(HeaderError::TooManyFields(EXT_FIELDS_MAX));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], HeaderError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or(HeaderError::Truncated(what))?;
    *rest = tail;
    Ok(*head)
}

fn take_bytes<'a>(
    rest: &mut &'a [u8],
    bytes: usize,
    what: &'static str,
) -> Result<&'a [u8], HeaderError> {
    let (head, tail) = rest
        .split_at_checked(bytes)
        .ok_or(HeaderError::Truncated(what))?;
    *rest = tail;
    Ok(head)
}

/// Appends a header. Names longer than their 16-bit length and values longer than a frame do not
/// occur: names are ours, and a frame that long is refused when it is finished.
pub fn write<'e>(
    out: &mut BytesMut,
    parts: &HeaderParts<'_>,
    ext: Option<impl Iterator<Item = (&'e str, ExtValue<'e>)>>,
) {
    out.put_u16(low_16(parts.code));
    out.put_u8(parts.language.number());
    out.put_u16(low_16(parts.version));
    out.put_i32(parts.opaque);
    out.put_i32(parts.flag);
    put_text_32(out, parts.remark.unwrap_or_default());
    let length_at = out.len();
    out.put_u32(0);
    for (name, value) in ext.into_iter().flatten() {
        let name = name.as_bytes();
        out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
        out.put_slice(name.get(..usize::from(u16::MAX)).unwrap_or(name));
        match value {
            ExtValue::Str(text) => put_text_32(out, text),
            ExtValue::Int(number) => put_text_32(out, itoa::Buffer::new().format(number)),
        }
    }
    let ext_bytes = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(length_at..length_at + 4) {
        slot.copy_from_slice(&ext_bytes.to_be_bytes());
    }
}

/// The low 16 bits, which is what Java's cast to short keeps (trap 9).
fn low_16(number: i32) -> u16 {
    let [_, _, high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn put_text_32(out: &mut BytesMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
#[path = "binary_tests.rs"]
mod tests;
