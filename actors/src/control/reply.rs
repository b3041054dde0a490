//! Answers to clients, and reading their requests.
//!
//! **Owns** who waits for an answer, what an answer consists of, how request fields are read.
//! **Lives on** the control plane's thread.
//! **Invariants** a one-way request is never answered (trap 5); an answer mirrors the request's
//! header encoding; every answer carries `extFields`, if only empty (traps 2, 3).
//! **Limits** a frame of `FRAME_BYTES_MAX`; an answer that would exceed it becomes code 1 saying
//! so.
//! **Not here** sending (`outbox`), codes and their handlers (`desk`).

use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use gantry_protocol::FieldError;
use gantry_protocol::code::response;
use gantry_protocol::command::{Command, FLAG_REPLY};
use gantry_protocol::fastjson::{IntegerKeys, Value, to_bytes};
use gantry_protocol::frame::HeaderEncoding;
use gantry_runtime::net::PeerRef;

use crate::refusal::{Refusal, quoted};
use crate::seam::ControlRequest;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTo {
    /// The connection.
    pub peer: PeerRef,
    opaque: i32,
    encoding: HeaderEncoding,
    is_oneway: bool,
}

impl ReplyTo {
    /// The sender of this request.
    pub fn of(request: &ControlRequest) -> Self {
        Self {
            peer: request.peer,
            opaque: request.command.opaque,
            encoding: request.command.encoding,
            is_oneway: request.command.is_oneway(),
        }
    }

    /// The frame of an answer, `None` when nobody waits.
    pub fn frame(&self, reply: Reply) -> Option<Bytes> {
        if self.is_oneway {
            return None;
        }
        let Reply {
            code,
            remark,
            ext,
            body,
        } = reply;
        let mut command = Command::request(code, self.opaque)
            .with_ext_fields()
            .with_body(body);
        command.encoding = self.encoding;
        command.flag = FLAG_REPLY;
        command.remark = remark;
        for (name, value) in ext {
            command = command.with_ext(name, value.as_str());
        }
        match encoded(&command) {
            Ok(frame) => Some(frame),
            Err(error) => {
                let mut short = Command::request(response::SYSTEM_ERROR, self.opaque)
                    .with_ext_fields()
                    .with_remark(format!("the answer does not fit: {error}"));
                short.encoding = self.encoding;
                short.flag = FLAG_REPLY;
                encoded(&short).ok()
            }
        }
    }
}

/// One whole frame of a command.
///
/// # Errors
/// It exceeds the frame limit.
pub fn encoded(command: &Command) -> Result<Bytes, gantry_protocol::error::FrameError> {
    let mut out = BytesMut::new();
    command.encode(&mut out)?;
    Ok(out.freeze())
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    code: i32,
    remark: Option<String>,
    ext: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Reply {
    /// Success without a body.
    pub fn ok() -> Self {
        Self::default()
    }

    /// Success with a body.
    pub fn body(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// Success with a JSON body; integer keys are quoted, which every client reads (trap 18).
    pub fn json(body: &Value) -> Self {
        Self::body(to_bytes(body, IntegerKeys::Quoted))
    }

    /// Adds a remark.
    #[must_use]
    pub fn with_remark(mut self, remark: String) -> Self {
        self.remark = Some(remark);
        self
    }

    /// Another's answer, as it came.
    pub fn passed_on(code: i32, remark: Option<String>, body: Bytes) -> Self {
        Self {
            code,
            remark,
            body,
            ..Self::default()
        }
    }

    /// A refusal.
    pub fn refused(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code,
            remark: Some(refusal.remark.clone()),
            ..Self::default()
        }
    }

    /// Adds an ext field.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers pass numbers and literals"
    )]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.ext.push((name, value.to_string()));
        self
    }
}

impl From<Result<Reply, Refusal>> for Reply {
    fn from(outcome: Result<Reply, Refusal>) -> Self {
        outcome.unwrap_or_else(|refusal| Self::refused(&refusal))
    }
}

/// A field that must be there and not be empty.
///
/// # Errors
/// 1 naming the field.
pub fn text<'a>(command: &'a Command, field: &'static str) -> Result<&'a str, Refusal> {
    optional(command, field).ok_or_else(|| Refusal::malformed(FieldError::missing(field, "a text")))
}

/// A field that may be missing; an empty one counts as missing, as in the Java header classes.
pub fn optional<'a>(command: &'a Command, field: &str) -> Option<&'a str> {
    command.ext(field).filter(|value| !value.is_empty())
}

/// A number that must be there.
///
/// # Errors
/// 1 naming the field.
pub fn number<N: FromStr>(command: &Command, field: &'static str) -> Result<N, Refusal> {
    let value = text(command, field)?;
    value
        .trim()
        .parse()
        .map_err(|_| Refusal::malformed(FieldError::bad(field, &quoted(value), "a whole number")))
}

/// A number that may be missing.
///
/// # Errors
/// 1 when it is there and no number.
pub fn number_or<N: FromStr>(
    command: &Command,
    field: &'static str,
    default: N,
) -> Result<N, Refusal> {
    match optional(command, field) {
        Some(_) => number(command, field),
        None => Ok(default),
    }
}

/// A switch that may be missing; anything but `true` is false, as Java's `parseBoolean`.
pub fn switch_or(command: &Command, field: &str, default: bool) -> bool {
    optional(command, field).map_or(default, |value| value.eq_ignore_ascii_case("true"))
}
