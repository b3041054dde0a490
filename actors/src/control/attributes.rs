//! Attributes of topics and groups, and what a request may do to them.
//!
//! **Owns** the names that 5.5.0 knows, their values, and the rule of `+key=value` and `-key`.
//! **Lives on** the control plane; pure.
//! **Invariants** what a request doesn't name stays as it is; a refused change changes nothing;
//! every refusal names the attribute and what is allowed.
//! **Limits** the names below, each once; texts of [`TEXT_BYTES_MAX`].
//! **Not here** what an attribute does (`cleaning` for `reserve.time`; the others have no effect).

use std::collections::{BTreeMap, HashMap};

use gantry_protocol::code::response;

use crate::refusal::{Refusal, quoted};

use super::cleaning::RESERVE_TIME;

/// Longest value of a free text: a topic's name or a pattern of such.
const TEXT_BYTES_MAX: usize = 1024;

/// Attributes by name; in a request each name has a sign before it.
pub type Attributes = BTreeMap<String, String>;

/// What an attribute may be set to (`EnumAttribute`, `LongRangeAttribute`, `BooleanAttribute` and
/// `StringAttribute`, 5.5.0).
#[derive(Debug, Clone, Copy)]
enum Values {
    OneOf(&'static [&'static str]),
    Range(i64, i64),
    Switch,
    Text,
}

/// An attribute that may be set.
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    name: &'static str,
    values: Values,
    /// False: fixed at creation.
    is_changeable: bool,
}

const fn changeable(name: &'static str, values: Values) -> Attribute {
    Attribute {
        name,
        values,
        is_changeable: true,
    }
}

const fn fixed(name: &'static str, values: Values) -> Attribute {
    Attribute {
        name,
        values,
        is_changeable: false,
    }
}

/// `TopicMessageType`, 5.5.0.
const MESSAGE_TYPES: &[&str] = &[
    "UNSPECIFIED",
    "NORMAL",
    "FIFO",
    "DELAY",
    "TRANSACTION",
    "PRIORITY",
    "LITE",
    MIXED,
];

/// The type that needs `enableMixedMessageType`.
const MIXED: &str = "MIXED";

/// Attributes of topics (`TopicAttributes`, 5.5.0).
pub const OF_TOPICS: &[Attribute] = &[
    fixed("queue.type", Values::OneOf(&["BatchCQ", "SimpleCQ"])),
    fixed("cleanup.policy", Values::OneOf(&["DELETE", "COMPACTION"])),
    changeable("message.type", Values::OneOf(MESSAGE_TYPES)),
    // Hours, -1 for the broker's own time.
    changeable(RESERVE_TIME, Values::Range(-1, i64::MAX)),
    // Minutes, 30 days at most; -1 for never.
    changeable("lite.topic.expiration", Values::Range(-1, 30 * 24 * 60)),
];

/// Attributes of groups (`SubscriptionGroupAttributes`, 5.5.0).
pub const OF_GROUPS: &[Attribute] = &[
    changeable("priority.factor", Values::Range(0, 100)),
    changeable("lite.bind.topic", Values::Text),
    changeable("lite.sub.model", Values::OneOf(&["Shared", "Exclusive"])),
    changeable("lite.sub.reset.offset.exclusive", Values::Switch),
    changeable("lite.sub.reset.offset.unsubscribe", Values::Switch),
    changeable("lite.sub.client.quota", Values::Range(-1, i64::MAX)),
    changeable("lite.sub.client.max.event.cnt", Values::Range(10, i64::MAX)),
    changeable("lite.sub.wildcard", Values::Text),
];

/// Whether a change makes a topic's messages mixed, which takes a switch of its own
/// (`AdminBrokerProcessor.updateAndCreateTopic`, 5.5.0).
pub fn makes_mixed(change: &Attributes) -> bool {
    change
        .get("+message.type")
        .is_some_and(|kind| kind == MIXED)
}

/// The change that a line like `+message.type=FIFO,-reserve.time` asks for
/// (`AttributeParser.parseToMap`, 5.5.0).
///
/// # Errors
/// 1 with the item that is malformed or there twice.
pub fn parse_change(line: &str) -> Result<Attributes, Refusal> {
    let mut change = Attributes::new();
    let items = line.split(',').map(str::trim);
    for item in items.filter(|item| !item.is_empty()) {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key.trim(), value.trim()),
            None if item.starts_with('+') => {
                return refused(format!("attribute {} lacks a value", quoted(item)));
            }
            None => (item, ""),
        };
        if change.insert(key.to_owned(), value.to_owned()).is_some() {
            return refused(format!("attribute {} is there twice", quoted(key)));
        }
    }
    Ok(change)
}

/// Turns what each wish says of attributes into the attributes that are to be stored. `stored` has
/// those of an object that exists; a later wish for the same object builds on an earlier one.
///
/// # Errors
/// 1 with the first attribute that can't be changed so; the wishes are of no use then.
pub fn alter_all<'a>(
    known: &[Attribute],
    stored: impl Fn(&str) -> Option<&'a Attributes>,
    wishes: impl Iterator<Item = (&'a str, &'a mut Attributes)>,
) -> Result<(), Refusal> {
    let mut made: HashMap<&str, Attributes> = HashMap::new();
    for (name, wish) in wishes {
        let next = altered(known, made.get(name).or_else(|| stored(name)), wish)?;
        wish.clone_from(&next);
        made.insert(name, next);
    }
    Ok(())
}

/// Applies a change to the attributes of something; `current` is `None` while it is created
/// (`AttributeUtil.alterCurrentAttributes`, 5.5.0). One thing is refused there and not here: to set
/// a fixed attribute to what it is, which a repeated import does.
fn altered(
    known: &[Attribute],
    current: Option<&Attributes>,
    change: &Attributes,
) -> Result<Attributes, Refusal> {
    let mut next = current.cloned().unwrap_or_default();
    for (signed, value) in change {
        let (name, value) = match (signed.strip_prefix('+'), signed.strip_prefix('-')) {
            (Some(name), _) => (name, Some(value)),
            (None, Some(name)) => (name, None),
            (None, None) => {
                return refused(format!(
                    "attribute {} needs a leading + or -",
                    quoted(signed)
                ));
            }
        };
        let Some(attribute) = known.iter().find(|attribute| attribute.name == name) else {
            return refused(format!("unknown attribute {}", quoted(name)));
        };
        if change.contains_key(&format!("+{name}")) && change.contains_key(&format!("-{name}")) {
            return refused(format!("attribute {name} is there twice"));
        }
        let is_same = value.is_some() && value == next.get(name);
        if current.is_some() && !attribute.is_changeable && !is_same {
            return refused(format!("attribute {name} is fixed at creation"));
        }
        match value {
            Some(value) => {
                check_value(attribute, value)?;
                next.insert(name.to_owned(), value.clone());
            }
            None if next.remove(name).is_some() => {}
            None => return refused(format!("attribute {name} is not set, so can't be removed")),
        }
    }
    Ok(next)
}

fn check_value(attribute: &Attribute, value: &str) -> Result<(), Refusal> {
    let is_in = |min: i64, max: i64| value.parse().is_ok_and(|n: i64| (min..=max).contains(&n));
    let (is_right, allowed) = match attribute.values {
        Values::OneOf(all) => (all.contains(&value), format!("one of {}", all.join(", "))),
        Values::Range(min, i64::MAX) => (is_in(min, i64::MAX), format!("a number from {min} on")),
        Values::Range(min, max) => (is_in(min, max), format!("a number of {min} to {max}")),
        Values::Switch => {
            let is_switch = ["true", "false"].map(|word| word.eq_ignore_ascii_case(value));
            (is_switch.contains(&true), "true or false".to_owned())
        }
        Values::Text => {
            let allowed = format!("a text of at most {TEXT_BYTES_MAX} bytes");
            (value.len() <= TEXT_BYTES_MAX, allowed)
        }
    };
    if is_right {
        return Ok(());
    }
    let name = attribute.name;
    refused(format!(
        "attribute {name}: {} is not {allowed}",
        quoted(value)
    ))
}

/// The code with which 5.5.0 answers a change that its rule throws out.
fn refused<T>(remark: String) -> Result<T, Refusal> {
    Err(Refusal::new(response::SYSTEM_ERROR, remark))
}

#[cfg(test)]
#[path = "attributes_tests.rs"]
mod tests;
