//! Bytes to meaning and back: the wire of Apache RocketMQ, without IO, clock or async.
//!
//! **Owns** every spelling that goes over the wire: frames, both header encodings, request and
//! response codes, typed request headers, JSON bodies, the stored record, properties and ids.
//! **Lives on** whatever core calls it; nothing here keeps state between calls, except the unique
//! id generator that a client owns.
//! **Invariants** foreign bytes never panic, never recurse without a bound and never make an
//! allocation larger than the bytes that arrived; what is written is what the Java classes of
//! RocketMQ 5.5.0 read.
//! **Limits** [`frame::FRAME_BYTES_MAX`] per frame; every other bound is a constant in its room.
//! **Not here** sockets, clocks, rules about topics and groups, refusals (those are `actors`).
//!
//! Where to start: a session calls [`frame::take_frame`], then [`HeaderView::parse`], then a typed
//! header of [`request`], and answers with [`command::writer`]. A control actor works with the
//! owned [`Command`]. Storage writes [`message::RecordParts`] and reads [`message::RecordView`].
//!
//! Every rule cites the behaviour it copies by the traps' numbers used in the project's notes
//! (`trap 96` and so on); the tests carry the same numbers.

#![forbid(unsafe_code)]

pub mod body;
pub mod code;
pub mod command;
pub mod compress;
pub mod error;
pub mod fastjson;
pub mod frame;
pub mod message;
pub mod message_id;
pub mod properties;
pub mod recall_handle;
pub mod request;
pub mod subscription;
pub mod sys_flag;
pub mod system_topic;

pub use command::{Command, ExtValue, HeaderView, Language};
pub use error::FieldError;
pub use frame::{Frame, HeaderEncoding, take_frame};
