//! Reading typed values out of ext fields.
//!
//! **Owns** the one conversion between ext text and typed fields, and the macro that declares a
//! header by its fields.
//! **Lives on** any core.
//! **Invariants** as Java's decoder: booleans are "true" in any case, else false; numbers are
//! decimal; an empty value counts as absent.
//! **Limits** none of its own.
//! **Not here** the headers themselves.

use std::str::FromStr;

use crate::command::ExtValue;
use crate::error::FieldError;

/// What a number may be, for the error's text.
pub(super) const ALLOWED_I32: &str = "a 32-bit integer";
/// What a long number may be, for the error's text.
pub(super) const ALLOWED_I64: &str = "a 64-bit integer";
/// What a text may be, for the error's text.
pub(super) const ALLOWED_TEXT: &str = "a non-empty text";

/// Java's `Boolean.parseBoolean`.
pub(super) fn boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

/// Parses a decimal number.
pub(super) fn number<T: FromStr + From<u8>>(
    name: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, FieldError> {
    // Most numbers of a request have one digit.
    if let [digit @ b'0'..=b'9'] = text.as_bytes() {
        return Ok(T::from(digit - b'0'));
    }
    text.parse()
        .map_err(|_| FieldError::bad(name, text, allowed))
}

/// A type that a header's field can have. `Option` makes the field optional; a plain `bool` is
/// false when absent.
pub(super) trait Field<'a>: Sized {
    /// From what was sent.
    fn read(name: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError>;
    /// To what is sent; `None` leaves the field out.
    fn value(&self) -> Option<ExtValue<'a>>;
}

impl<'a> Field<'a> for &'a str {
    fn read(name: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError> {
        sent.filter(|t| !t.is_empty())
            .ok_or_else(|| FieldError::missing(name, ALLOWED_TEXT))
    }

    fn value(&self) -> Option<ExtValue<'a>> {
        Some(ExtValue::Str(self))
    }
}

impl<'a> Field<'a> for i32 {
    fn read(name: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError> {
        let sent = sent.filter(|t| !t.is_empty());
        number(
            name,
            sent.ok_or_else(|| FieldError::missing(name, ALLOWED_I32))?,
            ALLOWED_I32,
        )
    }

    fn value(&self) -> Option<ExtValue<'a>> {
        Some((*self).into())
    }
}

impl<'a> Field<'a> for i64 {
    fn read(name: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError> {
        let sent = sent.filter(|t| !t.is_empty());
        number(
            name,
            sent.ok_or_else(|| FieldError::missing(name, ALLOWED_I64))?,
            ALLOWED_I64,
        )
    }

    fn value(&self) -> Option<ExtValue<'a>> {
        Some((*self).into())
    }
}

impl<'a> Field<'a> for bool {
    fn read(_: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError> {
        Ok(sent.is_some_and(boolean))
    }

    fn value(&self) -> Option<ExtValue<'a>> {
        Some((*self).into())
    }
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn read(name: &'static str, sent: Option<&'a str>) -> Result<Self, FieldError> {
        match sent.filter(|text| !text.is_empty()) {
            None => Ok(None),
            text => T::read(name, text).map(Some),
        }
    }

    fn value(&self) -> Option<ExtValue<'a>> {
        self.as_ref().and_then(T::value)
    }
}

/// Ext fields of a header to send.
pub type ExtList<'a> = smallvec::SmallVec<[(&'static str, ExtValue<'a>); 14]>;

/// Declares headers: each field with its type and its name on the wire.
macro_rules! headers {
    ($(
        $(#[$about:meta])*
        $name:ident<$life:lifetime> {
            $($(#[$field_about:meta])* $field:ident: $kind:ty = $wire:literal,)*
        }
    )*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<$life> {
            $($(#[$field_about])* #[doc = concat!("`", $wire, "`")] pub $field: $kind,)*
        }

        impl<$life> $name<$life> {
            /// Reads the header's ext fields.
            ///
            /// # Errors
            /// A required field is missing, or a number is none.
            pub fn parse(
                view: &$life crate::command::HeaderView<'_>,
            ) -> Result<Self, crate::error::FieldError> {
                use crate::request::fields::Field;
                Ok(Self { $($field: Field::read($wire, view.ext($wire))?,)* })
            }

            /// The ext fields to send.
            pub fn to_ext(&self) -> crate::request::fields::ExtList<$life> {
                use crate::request::fields::Field;
                let values = [$(($wire, self.$field.value()),)*];
                values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
            }
        }
    )*};
}
pub(super) use headers;
