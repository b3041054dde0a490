//! What a client is told when its request can't be done.
//!
//! **Owns** the one type of a refused request: response code and the remark operators know.
//! **Lives on** both planes.
//! **Invariants** a refusal is about the peer's request; faults of disk or socket are typed per
//! room.
//! **Limits** a remark is a short line; foreign values in it are cut at `REMARK_VALUE_CHARS_MAX`.
//! **Not here** the codes themselves (`gantry_protocol::code`).

use std::fmt;

use gantry_protocol::code::response;

/// Longest foreign value quoted in a remark.
pub const REMARK_VALUE_CHARS_MAX: usize = 256;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Response code on the wire.
    pub code: i32,
    /// Why, for people.
    pub remark: String,
}

impl Refusal {
    /// A refusal with this code and remark.
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Self {
            code,
            remark: remark.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CODE: {} DESC: {}", self.code, self.remark)
    }
}

impl std::error::Error for Refusal {}

/// Cuts a foreign value for a remark.
pub fn quoted(value: &str) -> String {
    value.chars().take(REMARK_VALUE_CHARS_MAX).collect()
}

/// Filtering by anything but tags is off, as it is by default.
pub fn no_property_filter(kind: &str) -> Refusal {
    let kind = quoted(kind);
    let remark = format!("The broker does not support consumer to filter message by {kind}");
    Refusal::new(response::SYSTEM_ERROR, remark)
}
