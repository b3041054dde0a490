//! The JSON dialect of Java's bodies, read tolerantly, written exactly.
//!
//! **Owns** the value tree of bodies: maps whose keys may be numbers or whole objects, numbers that
//! may arrive as text, enums that may arrive as numbers (traps 21, 96 to 99).
//! **Lives on** the control plane, clients and tools; never on the hot path.
//! **Invariants** reading recurses at most [`DEPTH_MAX`] levels and keeps at most [`VALUES_MAX`]
//! values; what follows the value is ignored; writing puts no whitespace (trap 19).
//! **Limits** [`DEPTH_MAX`], [`VALUES_MAX`].
//! **Not here** what bodies mean (`body`), JSON headers (`command::json`).

mod read;
mod write;

use std::borrow::Cow;

pub use read::{DEPTH_MAX, VALUES_MAX, parse, parse_with_table};
pub use write::{IntegerKeys, MapWriter, to_bytes};

/// A JSON value as Java's library understands it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`; most accessors treat it as absent (trap 25).
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object, in its order. Keys read from bytes are [`Value::Text`] or [`Value::Map`].
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// An object with text keys; members that are `Null` are left out, as fastjson does (trap 25).
    pub fn object<const N: usize>(members: [(&str, Value); N]) -> Self {
        let kept = members
            .into_iter()
            .filter(|(_, value)| *value != Self::Null);
        Self::Map(kept.map(|(key, value)| (Self::from(key), value)).collect())
    }

    /// An array.
    pub fn list(values: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }

    /// An object from pairs.
    pub fn map<K: Into<Value>, V: Into<Value>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Map(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    /// A member of an object; of duplicates the last; `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Self::Map(pairs) = self else { return None };
        let wanted = |(key, _): &&(Value, Value)| matches!(key, Self::Text(text) if text == name);
        pairs
            .iter()
            .rev()
            .find(wanted)
            .map(|(_, value)| value)
            .filter(|v| **v != Self::Null)
    }

    /// Members of an object; nothing for other values.
    pub fn entries(&self) -> &[(Value, Value)] {
        if let Self::Map(pairs) = self {
            pairs
        } else {
            &[]
        }
    }

    /// Elements of an array; nothing for other values.
    pub fn elements(&self) -> &[Value] {
        if let Self::List(values) = self {
            values
        } else {
            &[]
        }
    }

    /// A text, or a number or boolean as its text.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Int(number) => Some(Cow::Owned(number.to_string())),
            Self::Float(number) => Some(Cow::Owned(number.to_string())),
            Self::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Self::Null | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// A number, also when written as text (trap 99).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Float(number) => float_to_int(*number),
            _ => None,
        }
    }

    /// A 32-bit number, also when written as text.
    pub fn as_i32(&self) -> Option<i32> {
        self.as_i64().and_then(|number| i32::try_from(number).ok())
    }

    /// A floating number, also when written as text.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            // Rates and ratios: rounding beyond 2^53 is what Java's double does as well.
            #[allow(clippy::cast_precision_loss)]
            Self::Int(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// A boolean, also as text or as 0 and 1.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Int(number) => Some(*number != 0),
            Self::Text(text) => Some(text.eq_ignore_ascii_case("true")),
            _ => None,
        }
    }

    /// A text member, owned; empty when absent.
    pub fn text_or_empty(&self, name: &str) -> String {
        self.get(name)
            .and_then(Value::as_text)
            .unwrap_or_default()
            .into_owned()
    }

    /// An optional text member, owned.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(Value::as_text).map(Cow::into_owned)
    }

    /// A numeric member, or a default.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.get(name).and_then(Value::as_i64).unwrap_or(default)
    }

    /// A 32-bit numeric member, or a default.
    pub fn i32_or(&self, name: &str, default: i32) -> i32 {
        self.get(name).and_then(Value::as_i32).unwrap_or(default)
    }

    /// A boolean member, or a default.
    pub fn bool_or(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The texts of an array member; elements that are none are left out.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let elements = self.get(name).map(Value::elements).unwrap_or_default();
        elements
            .iter()
            .filter_map(Value::as_text)
            .map(Cow::into_owned)
            .collect()
    }
}

/// A float without fraction inside the range where floats count exactly.
fn float_to_int(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() > EXACT_MAX {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
#[path = "fastjson_tests.rs"]
mod tests;
