//! A header as it lies in the read buffer.
//!
//! **Owns** the borrowed view and its lookups.
//! **Lives on** the session's core, for the time one request is dispatched.
//! **Invariants** text without escapes is borrowed; of duplicate keys the last one counts, as in
//! the Java map.
//! **Limits** `EXT_FIELDS_MAX` fields.
//! **Not here** the grammar (`json`, `binary`).

use std::borrow::Cow;

use super::ext_fields::ExtFields;
use super::{FLAG_ONE_WAY, FLAG_REPLY, Language, binary, json};
use crate::error::HeaderError;
use crate::frame::HeaderEncoding;

/// A decoded header that borrows the frame's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// How it was written; the reply uses the same.
    pub encoding: HeaderEncoding,
    /// Request or response code.
    pub code: i32,
    /// Who wrote it.
    pub language: Language,
    /// Release ordinal of the writer.
    pub version: i32,
    /// To be copied into the reply unchanged; may be negative (trap 6).
    pub opaque: i32,
    /// Bits [`FLAG_REPLY`] and [`FLAG_ONE_WAY`].
    pub flag: i32,
    /// Human text, if any.
    pub remark: Option<Cow<'a, str>>,
    /// Ext fields; empty also when the header has none.
    pub ext: ExtFields<'a>,
}

impl<'a> HeaderView<'a> {
    /// Decodes a frame's header.
    ///
    /// # Errors
    /// The bytes are no header of that encoding, or break one of its bounds.
    pub fn parse(encoding: HeaderEncoding, header: &'a [u8]) -> Result<Self, HeaderError> {
        let mut view = Self::empty(encoding);
        view.read(header)?;
        Ok(view)
    }

    /// Decodes a frame's header into an empty view of its encoding. What is a kilobyte with its
    /// fields is then made where it stays; the hot path wants that.
    ///
    /// # Errors
    /// As [`HeaderView::parse`]; the view is unusable then.
    #[inline]
    pub fn read(&mut self, header: &'a [u8]) -> Result<(), HeaderError> {
        match self.encoding {
            HeaderEncoding::Json => json::read(header, self),
            HeaderEncoding::Binary => binary::read(header, self),
        }
    }

    /// A view to be filled by [`HeaderView::read`].
    #[inline]
    pub fn empty(encoding: HeaderEncoding) -> Self {
        Self {
            encoding,
            code: 0,
            language: Language::Other,
            version: 0,
            opaque: 0,
            flag: 0,
            remark: None,
            ext: ExtFields::new(),
        }
    }

    /// The value of an ext field.
    pub fn ext(&self, name: &str) -> Option<&str> {
        self.ext
            .iter()
            .rev()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// Whether this answers a request of ours.
    pub fn is_reply(&self) -> bool {
        self.flag & FLAG_REPLY != 0
    }

    /// Whether nobody waits for an answer (trap 5: do not write one).
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }
}
