//! The body of a batch send.
//!
//! **Owns** the layout of its elements (`MessageDecoder.encodeMessage`, 5.5.0), both directions.
//! **Lives on** the session's core (split), clients (join).
//! **Invariants** splitting copies nothing; every length is checked before use.
//! **Limits** [`PROPERTIES_BYTES_MAX`] per element's properties.
//! **Not here** which batches are acceptable (`actors`).

use bytes::BufMut;

use super::record::PROPERTIES_BYTES_MAX;
use crate::error::{BatchError, RecordError};

/// Size, magic, crc, flag and both length fields of an element.
const ELEMENT_BYTES_MIN: usize = 4 + 4 + 4 + 4 + 4 + 2;

/// One message of a batch body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchElement<'a> {
    /// The user's flag.
    pub flag: i32,
    /// The body.
    pub body: &'a [u8],
    /// The property string, kept as sent.
    pub properties: &'a str,
}

/// Splits a batch body; ends after the first error.
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> BatchIter<'a> {
    /// Walks the elements of a batch body.
    ///
    /// # Errors
    /// The body is empty.
    pub fn new(body: &'a [u8]) -> Result<Self, BatchError> {
        if body.is_empty() {
            Err(BatchError::Empty)
        } else {
            Ok(Self {
                rest: body,
                index: 0,
            })
        }
    }

    fn element(&self) -> Result<(BatchElement<'a>, &'a [u8]), BatchError> {
        let index = self.index;
        let malformed = |part| BatchError::Malformed { index, part };
        let size = u32_at(self.rest, 0).ok_or_else(|| malformed("size"))? as usize;
        let whole = self
            .rest
            .split_at_checked(size)
            .filter(|_| size >= ELEMENT_BYTES_MIN);
        let (whole, after) = whole.ok_or_else(|| malformed("size"))?;
        let flag = u32_at(whole, 12)
            .ok_or_else(|| malformed("flag"))?
            .cast_signed();
        let body_len = u32_at(whole, 16).ok_or_else(|| malformed("body"))? as usize;
        let rest = whole.get(20..).unwrap_or_default();
        let (body, rest) = rest
            .split_at_checked(body_len)
            .ok_or_else(|| malformed("body"))?;
        let (length, rest) = rest
            .split_first_chunk()
            .ok_or_else(|| malformed("properties"))?;
        let properties_len = usize::from(u16::from_be_bytes(*length));
        if properties_len > PROPERTIES_BYTES_MAX || properties_len != rest.len() {
            return Err(malformed("properties"));
        }
        let properties = std::str::from_utf8(rest).map_err(|_| BatchError::NotUtf8 { index })?;
        Ok((
            BatchElement {
                flag,
                body,
                properties,
            },
            after,
        ))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u32::from_be_bytes(*word))
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<BatchElement<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = self.element();
        self.rest = parsed.as_ref().map_or(&[], |(_, after)| *after);
        self.index += 1;
        Some(parsed.map(|(element, _)| element))
    }
}

/// Appends one element to a batch body.
///
/// # Errors
/// A length exceeds what its field can hold; nothing is appended.
pub fn encode_batch_element(
    element: &BatchElement<'_>,
    out: &mut impl BufMut,
) -> Result<(), RecordError> {
    let properties = element.properties.len();
    let max = PROPERTIES_BYTES_MAX;
    let too_long = RecordError::PropertiesTooLong {
        bytes: properties,
        max,
    };
    let properties_len = u16::try_from(properties)
        .ok()
        .filter(|_| properties <= max)
        .ok_or(too_long)?;
    let too_long = RecordError::BodyTooLong {
        bytes: element.body.len(),
    };
    let size = ELEMENT_BYTES_MIN + properties + element.body.len();
    let size = i32::try_from(size).map_err(|_| too_long)?;
    let body_len = i32::try_from(element.body.len()).map_err(|_| too_long)?;
    out.put_i32(size);
    out.put_u32(0);
    out.put_u32(0);
    out.put_i32(element.flag);
    out.put_i32(body_len);
    out.put_slice(element.body);
    out.put_u16(properties_len);
    out.put_slice(element.properties.as_bytes());
    Ok(())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
