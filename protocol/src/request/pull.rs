//! The pull header (11 and 361).
//!
//! **Owns** names, defaults and flag bits of a pull.
//! **Lives on** the session's core.
//! **Invariants** one pass over the ext fields.
//! **Limits** none of its own.
//! **Not here** the order of the checks and the reply (`actors`).

use super::fields::{ALLOWED_I32, ALLOWED_I64, ALLOWED_TEXT, number};
use crate::command::{ExtValue, HeaderView};
use crate::error::FieldError;

/// `sysFlag` 0x1: `commitOffset` is valid.
pub const FLAG_COMMIT_OFFSET: i32 = 0x1;
/// `sysFlag` 0x2: the broker may hold the request (trap 55).
pub const FLAG_SUSPEND: i32 = 0x2;
/// `sysFlag` 0x4: the subscription is in the request.
pub const FLAG_SUBSCRIPTION: i32 = 0x4;
/// `sysFlag` 0x8: class filter.
pub const FLAG_CLASS_FILTER: i32 = 0x8;

/// The header of a pull. Text borrows the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullHeader<'a> {
    /// `consumerGroup`.
    pub consumer_group: &'a str,
    /// `topic`.
    pub topic: &'a str,
    /// `queueId`.
    pub queue_id: i32,
    /// `queueOffset`, the first message wanted.
    pub queue_offset: i64,
    /// `maxMsgNums`.
    pub max_msg_nums: i32,
    /// `sysFlag`, the `FLAG_` bits of this room.
    pub sys_flag: i32,
    /// `commitOffset`, to be stored when [`FLAG_COMMIT_OFFSET`] is set.
    pub commit_offset: i64,
    /// `suspendTimeoutMillis`.
    pub suspend_timeout_ms: i64,
    /// `subVersion`, milliseconds chosen by the client.
    pub sub_version: i64,
    /// `subscription`, the expression when [`FLAG_SUBSCRIPTION`] is set.
    pub subscription: Option<&'a str>,
    /// `expressionType`; absent from C++ clients, which means TAG.
    pub expression_type: Option<&'a str>,
    /// `maxMsgBytes`, absent from clients before 5.0.
    pub max_msg_bytes: Option<i32>,
}

/// The raw texts of one pass.
#[derive(Default)]
struct Raw<'a> {
    consumer_group: Option<&'a str>,
    topic: Option<&'a str>,
    queue_id: Option<&'a str>,
    queue_offset: Option<&'a str>,
    max_msg_nums: Option<&'a str>,
    sys_flag: Option<&'a str>,
    commit_offset: Option<&'a str>,
    suspend_timeout: Option<&'a str>,
    sub_version: Option<&'a str>,
    subscription: Option<&'a str>,
    expression_type: Option<&'a str>,
    max_msg_bytes: Option<&'a str>,
}

impl<'a> Raw<'a> {
    fn read(view: &'a HeaderView<'_>) -> Self {
        let mut raw = Self::default();
        for (name, value) in view.ext.iter() {
            let slot = match name {
                "consumerGroup" => &mut raw.consumer_group,
                "topic" => &mut raw.topic,
                "queueId" => &mut raw.queue_id,
                "queueOffset" => &mut raw.queue_offset,
                "maxMsgNums" => &mut raw.max_msg_nums,
                "sysFlag" => &mut raw.sys_flag,
                "commitOffset" => &mut raw.commit_offset,
                "suspendTimeoutMillis" => &mut raw.suspend_timeout,
                "subVersion" => &mut raw.sub_version,
                "subscription" => &mut raw.subscription,
                "expressionType" => &mut raw.expression_type,
                "maxMsgBytes" => &mut raw.max_msg_bytes,
                _ => continue,
            };
            *slot = Some(value).filter(|value| !value.is_empty());
        }
        raw
    }
}

fn required<'a>(
    name: &'static str,
    value: Option<&'a str>,
    allowed: &'static str,
) -> Result<&'a str, FieldError> {
    value.ok_or_else(|| FieldError::missing(name, allowed))
}

fn int(name: &'static str, value: Option<&str>) -> Result<i32, FieldError> {
    number(name, required(name, value, ALLOWED_I32)?, ALLOWED_I32)
}

fn long(name: &'static str, value: Option<&str>) -> Result<i64, FieldError> {
    number(name, required(name, value, ALLOWED_I64)?, ALLOWED_I64)
}

impl<'a> PullHeader<'a> {
    /// Reads the header of a pull request.
    ///
    /// # Errors
    /// A required field is missing, or a number is none.
    pub fn parse(view: &'a HeaderView<'_>) -> Result<Self, FieldError> {
        let raw = Raw::read(view);
        Ok(Self {
            consumer_group: required("consumerGroup", raw.consumer_group, ALLOWED_TEXT)?,
            topic: required("topic", raw.topic, ALLOWED_TEXT)?,
            queue_id: int("queueId", raw.queue_id)?,
            queue_offset: long("queueOffset", raw.queue_offset)?,
            max_msg_nums: int("maxMsgNums", raw.max_msg_nums)?,
            sys_flag: int("sysFlag", raw.sys_flag)?,
            commit_offset: long("commitOffset", raw.commit_offset)?,
            suspend_timeout_ms: long("suspendTimeoutMillis", raw.suspend_timeout)?,
            sub_version: long("subVersion", raw.sub_version)?,
            subscription: raw.subscription,
            expression_type: raw.expression_type,
            max_msg_bytes: raw
                .max_msg_bytes
                .map(|text| number("maxMsgBytes", text, ALLOWED_I32))
                .transpose()?,
        })
    }

    /// Whether one bit of `sysFlag` is set.
    pub fn has(&self, flag: i32) -> bool {
        self.sys_flag & flag != 0
    }

    /// The ext fields of this header, for a client.
    pub fn to_ext(&self) -> smallvec::SmallVec<[(&'static str, ExtValue<'a>); 12]> {
        let mut ext = smallvec::smallvec![
            ("consumerGroup", self.consumer_group.into()),
            ("topic", self.topic.into()),
            ("queueId", self.queue_id.into()),
            ("queueOffset", self.queue_offset.into()),
            ("maxMsgNums", self.max_msg_nums.into()),
            ("sysFlag", self.sys_flag.into()),
            ("commitOffset", self.commit_offset.into()),
            ("suspendTimeoutMillis", self.suspend_timeout_ms.into()),
            ("subVersion", self.sub_version.into()),
        ];
        ext.extend(self.subscription.map(|text| ("subscription", text.into())));
        ext.extend(
            self.expression_type
                .map(|text| ("expressionType", text.into())),
        );
        ext.extend(
            self.max_msg_bytes
                .map(|bytes| ("maxMsgBytes", bytes.into())),
        );
        ext
    }
}
