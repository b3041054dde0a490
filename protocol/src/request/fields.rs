//! Reading typed values out of ext fields.
//!
//! **Owns** the one conversion from ext text to numbers and booleans, and the macro that declares
//! a header by its fields.
//! **Lives on** any core.
//! **Invariants** as Java's decoder: booleans are "true" in any case, else false; numbers are
//! decimal; empty optional values count as absent.
//! **Limits** none of its own.
//! **Not here** the headers themselves.

use std::str::FromStr;

use crate::command::HeaderView;
use crate::error::FieldError;

/// What a number may be, for the error's text.
pub(super) const ALLOWED_I32: &str = "a 32-bit integer";
/// What a long number may be, for the error's text.
pub(super) const ALLOWED_I64: &str = "a 64-bit integer";
/// What a text may be, for the error's text.
pub(super) const ALLOWED_TEXT: &str = "a non-empty text";

/// Typed access to the ext fields of one request.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'v, 'a>(&'v HeaderView<'a>);

impl<'v, 'a> Fields<'v, 'a> {
    /// Reads from this header.
    pub fn of(view: &'v HeaderView<'a>) -> Self {
        Self(view)
    }

    /// A text; empty counts as absent.
    pub fn text(&self, name: &'static str) -> Option<&'v str> {
        self.0.ext(name).filter(|text| !text.is_empty())
    }

    /// A required text.
    ///
    /// # Errors
    /// Missing or empty.
    pub fn required_text(&self, name: &'static str) -> Result<&'v str, FieldError> {
        self.text(name)
            .ok_or_else(|| FieldError::missing(name, ALLOWED_TEXT))
    }

    /// An optional 32-bit number.
    ///
    /// # Errors
    /// Present and no such number.
    pub fn i32(&self, name: &'static str) -> Result<Option<i32>, FieldError> {
        self.text(name)
            .map(|text| number(name, text, ALLOWED_I32))
            .transpose()
    }

    /// A required 32-bit number.
    ///
    /// # Errors
    /// Missing or no such number.
    pub fn required_i32(&self, name: &'static str) -> Result<i32, FieldError> {
        self.i32(name)?
            .ok_or_else(|| FieldError::missing(name, ALLOWED_I32))
    }

    /// An optional 64-bit number.
    ///
    /// # Errors
    /// Present and no such number.
    pub fn i64(&self, name: &'static str) -> Result<Option<i64>, FieldError> {
        self.text(name)
            .map(|text| number(name, text, ALLOWED_I64))
            .transpose()
    }

    /// A required 64-bit number.
    ///
    /// # Errors
    /// Missing or no such number.
    pub fn required_i64(&self, name: &'static str) -> Result<i64, FieldError> {
        self.i64(name)?
            .ok_or_else(|| FieldError::missing(name, ALLOWED_I64))
    }

    /// A boolean, if sent.
    pub fn bool(&self, name: &'static str) -> Option<bool> {
        self.text(name).map(boolean)
    }
}

/// Java's `Boolean.parseBoolean`.
pub(super) fn boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

/// Parses a decimal number.
pub(super) fn number<T: FromStr>(
    name: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, FieldError> {
    text.parse()
        .map_err(|_| FieldError::bad(name, text, allowed))
}
