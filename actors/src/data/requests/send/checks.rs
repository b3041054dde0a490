//! What can be said of a send by itself, without its topic's or its group's state.
//!
//! **Owns** the checks of names, sizes and flags.
//! **Lives on** the session's data core; pure.
//! **Invariants** what `RocketMQ` stores where nobody ever sees it, or sees it too early, is
//! refused.
//! **Limits** topic and properties as the record's layout allows (trap 46).
//! **Not here** their order (`super`), delays (`delay`).

use gantry_protocol::code::response;
use gantry_protocol::message::{PROPERTIES_BYTES_MAX, TOPIC_V1_BYTES_MAX};
use gantry_protocol::properties::SendProperties;
use gantry_protocol::{sys_flag, system_topic};

use super::delay;
use crate::refusal::{Refusal, quoted};
use crate::settings::BrokerSettings;

/// Whether clients may send to a topic of this name, known or not.
///
/// # Errors
/// What the producer is told.
pub fn check_topic_name(topic: &str) -> Result<(), Refusal> {
    if topic.len() > TOPIC_V1_BYTES_MAX && !topic.starts_with(system_topic::RETRY_PREFIX) {
        let remark = format!(
            "the topic's name has {} bytes, at most 127 are taken",
            topic.len()
        );
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    if let Err(error) = system_topic::check_topic_name(topic) {
        return Err(Refusal::new(response::INVALID_PARAMETER, error.to_string()));
    }
    if system_topic::is_not_sendable(topic) {
        let remark = format!("Sending message to topic[{}] is forbidden.", quoted(topic));
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    Ok(())
}

/// Whether properties of so many bytes fit into a record.
///
/// # Errors
/// What the producer is told.
pub fn check_properties_len(bytes: usize) -> Result<(), Refusal> {
    if bytes > PROPERTIES_BYTES_MAX {
        let remark = format!(
            "the message's properties have {bytes} bytes, at most {PROPERTIES_BYTES_MAX} are taken"
        );
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

/// Refuses what clients would split into parts with offsets of other messages
/// (`HookUtils.checkInnerBatch`, 5.5.0): no topic here is a `BatchCQ`.
///
/// # Errors
/// What the producer is told.
pub fn check_inner_batch(flags: i32, count: Option<&str>) -> Result<(), Refusal> {
    if count.is_some() || flags & sys_flag::INNER_BATCH_MASK != 0 {
        let remark = "an inner batch (sysFlag 0x40, 0x80 or the property INNER_NUM) is not taken";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

/// Refuses a batch that says of all its messages that they are halves or to be late
/// (`CommitLog.asyncPutMessages`, 5.5.0): they would be seen at once.
///
/// # Errors
/// What the producer is told.
pub fn check_whole_batch(found: &SendProperties<'_>, flags: i32) -> Result<(), Refusal> {
    let is_half = flags & sys_flag::TRANSACTION_MASK != 0 || found.transaction_prepared;
    if is_half || delay::wanted_level(found).is_some() || found.is_timer() {
        let remark = "a batch holds no half, delayed or timed messages";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

/// Whether a message is a half. One that a consumer sends again, and that is to wait, is not, even
/// if the properties of the half it once was came along (`SendMessageProcessor`, 5.5.0).
pub fn is_half(found: &SendProperties<'_>, reconsume_times: i32) -> bool {
    let tried_again = reconsume_times > 0 && delay::wanted_level(found).is_some();
    found.transaction_prepared && !tried_again
}

/// Whether a message may be a half, or says of itself that it is one and isn't.
///
/// # Errors
/// What the producer is told.
pub fn check_transaction(
    found: &SendProperties<'_>,
    is_half: bool,
    flags: i32,
    settings: &BrokerSettings,
) -> Result<(), Refusal> {
    let flagged = flags & sys_flag::TRANSACTION_MASK == sys_flag::TRANSACTION_PREPARED;
    if is_half && settings.reject_transaction_message.get() {
        let remark = format!(
            "the broker[{}] sending transaction message is forbidden",
            settings.advertised.ip()
        );
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    if flagged && !found.transaction_prepared {
        // The peer stores it where nobody ever sees it.
        let remark = "the sysFlag says half message, the property TRAN_MSG does not; \
                       the message was not stored";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}
