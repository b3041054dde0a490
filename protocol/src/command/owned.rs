//! A command that owns its parts.
//!
//! **Owns** the owned form of a frame, for whoever keeps one beyond a tick or builds one by parts.
//! **Lives on** the control plane, clients, tests.
//! **Invariants** encoding and decoding it goes through the same two header rooms as the hot path.
//! **Limits** those of a frame.
//! **Not here** the hot path's reply writer (`writer`).

use bytes::{Bytes, BytesMut};

use super::{
    ExtValue, FLAG_ONE_WAY, FLAG_REPLY, HeaderParts, HeaderView, Language, VERSION, writer,
};
use crate::error::{FrameError, HeaderError};
use crate::frame::{Frame, HeaderEncoding};

/// A request or reply with everything it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// How it was or will be written.
    pub encoding: HeaderEncoding,
    /// Request or response code.
    pub code: i32,
    /// Who wrote it.
    pub language: Language,
    /// Release ordinal of the writer.
    pub version: i32,
    /// Matches a reply to its request.
    pub opaque: i32,
    /// Bits [`FLAG_REPLY`] and [`FLAG_ONE_WAY`].
    pub flag: i32,
    /// Human text, if any.
    pub remark: Option<String>,
    /// Ext fields; `None` writes no `extFields` at all.
    pub ext: Option<Vec<(String, String)>>,
    /// Empty when absent.
    pub body: Bytes,
}

impl Command {
    /// A new request, JSON unless changed.
    pub fn request(code: i32, opaque: i32) -> Self {
        Self {
            encoding: HeaderEncoding::Json,
            code,
            language: Language::Java,
            version: VERSION,
            opaque,
            flag: 0,
            remark: None,
            ext: None,
            body: Bytes::new(),
        }
    }

    /// A reply to `request`: its opaque, its encoding, no ext fields yet.
    pub fn reply_to(request: &Self, code: i32) -> Self {
        Self {
            encoding: request.encoding,
            flag: FLAG_REPLY,
            ..Self::request(code, request.opaque)
        }
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// As [`HeaderView::parse`].
    pub fn from_frame(frame: &Frame) -> Result<Self, HeaderError> {
        let view = HeaderView::parse(frame.encoding, &frame.header)?;
        Ok(Self::from_view(&view, frame.body.clone()))
    }

    /// Owns what a view borrows.
    pub fn from_view(view: &HeaderView<'_>, body: Bytes) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            encoding: view.encoding,
            code: view.code,
            language: view.language,
            version: view.version,
            opaque: view.opaque,
            flag: view.flag,
            remark: view.remark.as_ref().map(ToString::to_string),
            ext: Some(view.ext.iter().map(owned).collect()),
            body,
        }
    }

    /// A view of this command, so that typed headers of `request` read both alike.
    pub fn view(&self) -> HeaderView<'_> {
        let ext = self.ext.iter().flatten();
        HeaderView {
            encoding: self.encoding,
            code: self.code,
            language: self.language,
            version: self.version,
            opaque: self.opaque,
            flag: self.flag,
            remark: self.remark.as_deref().map(Into::into),
            ext: ext.map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        }
    }

    /// Adds an ext field.
    #[must_use]
    pub fn with_ext<'v>(mut self, name: &str, value: impl Into<ExtValue<'v>>) -> Self {
        self.ext
            .get_or_insert_default()
            .push((name.to_owned(), value.into().to_string()));
        self
    }

    /// Makes sure that `extFields` is written, even if empty (trap 2).
    #[must_use]
    pub fn with_ext_fields(mut self) -> Self {
        self.ext.get_or_insert_default();
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the remark.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// Marks it as one-way: nobody answers.
    #[must_use]
    pub fn one_way(mut self) -> Self {
        self.flag |= FLAG_ONE_WAY;
        self
    }

    /// The value of an ext field.
    pub fn ext(&self, name: &str) -> Option<&str> {
        let mut fields = self.ext.as_ref()?.iter().rev();
        fields
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether this answers a request.
    pub fn is_reply(&self) -> bool {
        self.flag & FLAG_REPLY != 0
    }

    /// Whether nobody waits for an answer.
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// Appends the whole frame.
    ///
    /// # Errors
    /// The frame exceeds the limit; nothing is left in `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<usize, FrameError> {
        let parts = HeaderParts {
            code: self.code,
            language: self.language,
            version: self.version,
            opaque: self.opaque,
            flag: self.flag,
            remark: self.remark.as_deref(),
        };
        let ext = self.ext.as_ref();
        let ext = ext.map(|f| {
            f.iter()
                .map(|(k, v)| (k.as_str(), ExtValue::Str(v.as_str())))
        });
        writer::write_frame(out, self.encoding, &parts, ext, &self.body)
    }
}
