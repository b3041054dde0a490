//! What a topic may look like, and what it is created from.
//!
//! **Owns** validation of names, queue counts and permissions; the TBW102 rules.
//! **Lives on** the control plane; pure.
//! **Invariants** every refusal names the offending value and what is allowed.
//! **Limits** `TOPIC_QUEUES_MAX`; of names: `gantry_protocol::system_topic`.
//! **Not here** whether a topic exists (`table`), attributes (`control::attributes`).

use gantry_protocol::body::{TopicConfig, perm};
use gantry_protocol::code::response;
use gantry_protocol::system_topic;

use crate::refusal::{Refusal, quoted};

/// Most queues of a topic: a queue id is 16 bits in our index.
pub const TOPIC_QUEUES_MAX: i32 = 65_535;

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

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
