//! The version of a table that brokers and name servers compare.
//!
//! **Owns** `DataVersion`. **Lives on** the control plane. **Invariants** equality is of all three
//! numbers. **Limits** none. **Not here** the tables that have versions.

use crate::fastjson::Value;

/// Version of a configuration table; two are equal when all three numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct DataVersion {
    /// Raised when a broker changes its role.
    pub state_version: i64,
    /// Milliseconds since the epoch of the last change.
    pub timestamp: i64,
    /// Raised by every change.
    pub counter: i64,
}

impl DataVersion {
    /// Reads a version; missing members are 0.
    pub fn from_value(value: &Value) -> Self {
        Self {
            state_version: value.int_or("stateVersion", 0),
            timestamp: value.int_or("timestamp", 0),
            counter: value.int_or("counter", 0),
        }
    }

    /// As Java writes it.
    pub fn to_value(self) -> Value {
        Value::object([
            ("counter", self.counter.into()),
            ("stateVersion", self.state_version.into()),
            ("timestamp", self.timestamp.into()),
        ])
    }

    /// The version after one more change at `now_ms`.
    #[must_use]
    pub fn next(self, now_ms: i64) -> Self {
        Self {
            timestamp: now_ms,
            counter: self.counter + 1,
            ..self
        }
    }
}
