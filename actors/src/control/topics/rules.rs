//! What a topic may look like, and what it is created from.
//!
//! **Owns** validation of names, queue counts, permissions and attributes; the TBW102 rules.
//! **Lives on** the control plane; pure.
//! **Invariants** every refusal names the offending value and what is allowed.
//! **Limits** `TOPIC_QUEUES_MAX`, `ATTRIBUTES_MAX`; of names: `gantry_protocol::system_topic`.
//! **Not here** whether a topic exists (`table`).

use std::collections::BTreeMap;

use gantry_protocol::body::{TopicConfig, perm};
use gantry_protocol::code::response;
use gantry_protocol::system_topic;

use crate::control::cleaning::RESERVE_TIME;
use crate::refusal::{Refusal, quoted};

/// Most queues of a topic: a queue id is 16 bits in our index.
pub const TOPIC_QUEUES_MAX: i32 = 65_535;
/// Most attributes of a topic; RocketMQ knows five.
const ATTRIBUTES_MAX: usize = 16;

/// Checks a topic name (trap 35: `%` and `|` are legal).
///
/// # Errors
/// 29 with what is wrong.
pub fn check_topic_name(name: &str) -> Result<(), Refusal> {
    if name.trim().is_empty() {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            "The specified topic is blank.",
        ));
    }
    system_topic::check_topic_name(name).map_err(|error| {
        Refusal::new(
            response::INVALID_PARAMETER,
            format!("The specified topic contains illegal characters or is too long: {error}"),
        )
    })
}

/// Checks the numbers of a topic configuration (trap 37: fewer read than write queues is legal).
///
/// # Errors
/// 29 with the value and its range.
pub fn check_topic_numbers(config: &TopicConfig) -> Result<(), Refusal> {
    let queues = [
        ("readQueueNums", config.read_queue_nums),
        ("writeQueueNums", config.write_queue_nums),
    ];
    for (name, value) in queues {
        if !(0..=TOPIC_QUEUES_MAX).contains(&value) {
            return Err(Refusal::new(
                response::INVALID_PARAMETER,
                format!(
                    "{name} {value} of topic[{}] is not in 0..={TOPIC_QUEUES_MAX}",
                    config.name
                ),
            ));
        }
    }
    if !(0..perm::PRIORITY).contains(&config.perm) {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            format!(
                "perm {} of topic[{}] is not a sum of 4 (read), 2 (write) and 1 (inherit)",
                config.perm, config.name
            ),
        ));
    }
    Ok(())
}

/// The configuration of a topic that a send creates from its template (behaviours §1.3, step 3), or
/// why not. `template` is what the table holds under the request's default topic.
///
/// # Errors
/// 17 with the reason.
pub fn from_template(
    wanted: &str,
    template_name: &str,
    template: Option<&TopicConfig>,
    auto_create_topic_enable: bool,
    client_queues: i32,
    unit_mode: bool,
) -> Result<TopicConfig, Refusal> {
    let missing = |why: &str| {
        Err(Refusal::new(
            response::TOPIC_NOT_EXIST,
            format!(
                "topic[{}] not exist, apply first please! ({why})",
                quoted(wanted)
            ),
        ))
    };
    check_topic_name(wanted)?;
    let Some(template) = template else {
        return missing(&format!(
            "the default topic[{}] to create it from does not exist here",
            quoted(template_name)
        ));
    };
    let switched_off =
        template_name == system_topic::AUTO_CREATE_TOPIC && !auto_create_topic_enable;
    if switched_off {
        return missing("autoCreateTopicEnable=false");
    }
    if template.perm & perm::INHERIT == 0 {
        return missing(&format!(
            "the default topic[{}] has perm {} without inherit",
            quoted(template_name),
            template.perm
        ));
    }
    let queues = client_queues.min(template.write_queue_nums).max(0);
    let mut config = super::built_in::topic(wanted, queues, template.perm & !perm::INHERIT);
    config.filter_type = template.filter_type;
    config.topic_sys_flag = sys_flag(unit_mode, wanted);
    Ok(config)
}

/// `topicSysFlag` of a topic made by a client in unit mode (`TopicSysFlag.buildSysFlag`): bit 1 for
/// a retry topic's subscription, bit 0 for the topic itself.
pub fn sys_flag(unit_mode: bool, topic: &str) -> i32 {
    match (
        unit_mode,
        system_topic::group_of_retry_topic(topic).is_some(),
    ) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Sets or removes a topic's own time: hours, -1 for the broker's (`TopicAttributes`).
fn alter_reserve_time(
    attributes: &mut BTreeMap<String, String>,
    value: Option<&str>,
) -> Result<(), Refusal> {
    let Some(value) = value else {
        attributes.remove(RESERVE_TIME);
        return Ok(());
    };
    if !value.parse::<i64>().is_ok_and(|hours| hours >= -1) {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            format!(
                "attribute {RESERVE_TIME}: {} is not a number of hours, nor -1",
                quoted(value)
            ),
        ));
    }
    attributes.insert(RESERVE_TIME.to_owned(), value.to_owned());
    Ok(())
}

/// The values an attribute may have; `None` for an unknown attribute.
fn attribute_values(key: &str) -> Option<&'static [&'static str]> {
    match key {
        "queue.type" => Some(&["SimpleCQ", "BatchCQ"]),
        "cleanup.policy" => Some(&["DELETE", "COMPACTION"]),
        "message.type" => Some(&[
            "UNSPECIFIED",
            "NORMAL",
            "FIFO",
            "DELAY",
            "TRANSACTION",
            "MIXED",
        ]),
        _ => None,
    }
}

/// Applies a change like `+message.type=FIFO,-cleanup.policy` to the attributes a topic has now.
/// `queue.type` and `cleanup.policy` are fixed at creation (`TopicAttributes`).
///
/// # Errors
/// 29 with the attribute and what is allowed.
pub fn alter_attributes(
    current: &BTreeMap<String, String>,
    change: &str,
    creating: bool,
) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |remark: String| Err(Refusal::new(response::INVALID_PARAMETER, remark));
    let mut next = current.clone();
    let items = change
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    for (n, item) in items.enumerate() {
        if n >= ATTRIBUTES_MAX {
            return invalid(format!(
                "more than {ATTRIBUTES_MAX} attributes in one request"
            ));
        }
        let (key, value) = match (item.strip_prefix('+'), item.strip_prefix('-')) {
            (Some(put), _) => match put.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim())),
                None => return invalid(format!("attribute {} lacks a value", quoted(item))),
            },
            (None, Some(gone)) => (gone.trim(), None),
            (None, None) => {
                return invalid(format!("attribute {} needs a leading + or -", quoted(item)));
            }
        };
        if key == RESERVE_TIME {
            alter_reserve_time(&mut next, value)?;
            continue;
        }
        let Some(allowed) = attribute_values(key) else {
            return invalid(format!("unknown attribute {}", quoted(key)));
        };
        if !creating && key != "message.type" && value != current.get(key).map(String::as_str) {
            return invalid(format!("attribute {key} is fixed at creation"));
        }
        match value {
            Some(value) if allowed.contains(&value) => {
                next.insert(key.to_owned(), value.to_owned());
            }
            Some(value) => {
                return invalid(format!(
                    "attribute {key}: {} is not one of {}",
                    quoted(value),
                    allowed.join(", ")
                ));
            }
            None => {
                next.remove(key);
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
