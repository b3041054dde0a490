//! Typed request headers, by family.
//!
//! **Owns** names, defaults and kinds of the ext fields of every request Gantry reads.
//! **Lives on** the core that handles the request.
//! **Invariants** a header is read without an allocation; a missing or malformed field is a
//! [`FieldError`] naming it. Unknown fields are ignored: every client sends some.
//! **Limits** those of the types.
//! **Not here** rules about the values (does the topic exist, is the queue in range: `actors`).

mod fields;
pub mod group;
pub mod namesrv;
pub mod offset;
pub mod pull;
pub mod push_reply;
pub mod send;
pub mod topic;
pub mod transaction;

pub use crate::error::FieldError;
pub use fields::ExtList;
