//! The configurations of all consumer groups.
//!
//! **Owns** group name → `SubscriptionGroupConfig`, the data version, the built-in groups.
//! **Lives on** the control plane; pure.
//! **Invariants** each change moves the data version; a built-in group is never deleted.
//! **Limits** `GROUPS_MAX` groups; what is in the table can be stored: `ROW_BYTES_MAX`.
//! **Not here** live members (`members`), persistence (`super`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::body::DataVersion;
use gantry_protocol::body::SubscriptionGroupConfig;
use gantry_protocol::code::response;
use gantry_protocol::fastjson::{IntegerKeys, Value, to_bytes};
use gantry_protocol::system_topic::{self, SYSTEM_GROUPS};
use gantry_storage::tables::VALUE_BYTES_MAX;

use crate::control::topics::rules::TOPIC_QUEUES_MAX;
use crate::refusal::{Refusal, quoted};

/// Most groups of a broker; bounds what a client inventing names in heartbeats can take.
pub const GROUPS_MAX: usize = 100_000;

/// Most groups with forbidden topics, and most topics of one: they are stored as one row.
pub const FORBIDDEN_MAX: usize = 4096;
/// Largest row of a group, and of all forbidden topics.
pub const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX;

/// Whether a group may be called so.
///
/// # Errors
/// 29 with what is wrong.
pub fn check_group_name(group: &str) -> Result<(), Refusal> {
    if group.trim().is_empty() {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            "The specified group is blank.",
        ));
    }
    system_topic::check_group_name(group).map_err(|error| {
        Refusal::new(
            response::INVALID_PARAMETER,
            format!("The specified group contains illegal characters or is too long: {error}"),
        )
    })
}

/// Checks how many queues a group wants its retry topic to have: they are a topic's.
///
/// # Errors
/// 29 with the value and its range.
pub fn check_retry_queues(config: &SubscriptionGroupConfig) -> Result<(), Refusal> {
    let value = config.retry_queue_nums;
    if (0..=TOPIC_QUEUES_MAX).contains(&value) {
        return Ok(());
    }
    let group = quoted(&config.group);
    Err(Refusal::new(
        response::INVALID_PARAMETER,
        format!("retryQueueNums {value} of group[{group}] is not in 0..={TOPIC_QUEUES_MAX}"),
    ))
}

/// A group as stored.
pub fn group_row(config: &SubscriptionGroupConfig) -> Bytes {
    to_bytes(&config.to_value(), IntegerKeys::Quoted)
}

/// All forbidden topics as stored.
pub fn forbidden_row(forbidden: &Forbidden) -> Bytes {
    let rows = forbidden.iter();
    let rows = rows.map(|(group, topics)| (group, Value::list(topics.iter())));
    to_bytes(&Value::map(rows), IntegerKeys::Quoted)
}

fn check_row(what: &str, group: &str, row: &Bytes) -> Result<(), Refusal> {
    if row.len() <= ROW_BYTES_MAX {
        return Ok(());
    }
    let bytes = row.len();
    Err(Refusal::new(
        response::INVALID_PARAMETER,
        format!(
            "{what} {}: {bytes} bytes would be stored, {ROW_BYTES_MAX} are allowed",
            quoted(group)
        ),
    ))
}

/// All group configurations; see the room's head.
#[derive(Debug, Default)]
pub struct GroupTable {
    configs: HashMap<Arc<str>, Arc<SubscriptionGroupConfig>>,
    version: DataVersion,
    /// Topics that a group may not read.
    forbidden: Forbidden,
}

/// Group → topics that it may not read (code 353).
pub type Forbidden = BTreeMap<String, Arc<BTreeSet<String>>>;

impl GroupTable {
    /// A table of stored rows and the built-in groups.
    pub fn new(
        stored: impl IntoIterator<Item = SubscriptionGroupConfig>,
        version: DataVersion,
        forbidden: Forbidden,
    ) -> Self {
        let mut configs = HashMap::new();
        let built_in = SYSTEM_GROUPS.into_iter().map(SubscriptionGroupConfig::new);
        for config in built_in.chain(stored) {
            configs.insert(Arc::from(config.group.as_str()), Arc::new(config));
        }
        Self {
            configs,
            version,
            forbidden,
        }
    }

    /// The configuration of a group.
    pub fn get(&self, group: &str) -> Option<&Arc<SubscriptionGroupConfig>> {
        self.configs.get(group)
    }

    /// The stored name of a group, so that equal names share memory.
    pub fn name_of(&self, group: &str) -> Option<&Arc<str>> {
        self.configs.get_key_value(group).map(|(name, _)| name)
    }

    /// Every group, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<SubscriptionGroupConfig>)> {
        self.configs.iter()
    }

    /// The version of the whole table.
    pub fn version(&self) -> &DataVersion {
        &self.version
    }

    /// Finds a group or makes it by the auto-creation rules. The flag says that it is new.
    ///
    /// # Errors
    /// 26 when it may not be made.
    pub fn ensure(
        &mut self,
        group: &str,
        auto_create: bool,
        now_ms: i64,
    ) -> Result<(Arc<SubscriptionGroupConfig>, bool), Refusal> {
        if let Some(config) = self.configs.get(group) {
            return Ok((Arc::clone(config), false));
        }
        let refuse = |why: &str| {
            Err(Refusal::new(
                response::SUBSCRIPTION_GROUP_NOT_EXIST,
                format!("subscription group not exist, {} ({why})", quoted(group)),
            ))
        };
        if !auto_create && !system_topic::is_system_group(group) {
            return refuse("autoCreateSubscriptionGroup=false");
        }
        if let Err(refusal) = check_group_name(group) {
            return refuse(&refusal.remark);
        }
        match self.put(SubscriptionGroupConfig::new(group), now_ms) {
            Ok(made) => Ok((made, true)),
            Err(refusal) => refuse(&refusal.remark),
        }
    }

    /// Whether all of these could be made or changed.
    ///
    /// # Errors
    /// 1 when the table would be over-full, 29 when one is too large to be stored.
    pub fn check_room(&self, wanted: &[SubscriptionGroupConfig]) -> Result<(), Refusal> {
        for config in wanted {
            check_row("subscription group", &config.group, &group_row(config))?;
        }
        let is_new = |config: &&SubscriptionGroupConfig| !self.configs.contains_key(&*config.group);
        let made = wanted.iter().filter(is_new).count();
        // A group that exists may be changed whatever the count is.
        if made == 0 || self.configs.len() + made <= GROUPS_MAX {
            return Ok(());
        }
        Err(Refusal::new(
            response::SYSTEM_ERROR,
            format!("{made} new groups do not fit: this broker holds at most {GROUPS_MAX}"),
        ))
    }

    /// Makes or changes a group.
    ///
    /// # Errors
    /// 1 when the table is full, 29 when it is too large to be stored.
    pub fn put(
        &mut self,
        config: SubscriptionGroupConfig,
        now_ms: i64,
    ) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        self.check_room(std::slice::from_ref(&config))?;
        Ok(self.put_checked(config, now_ms))
    }

    /// [`GroupTable::put`] of what [`GroupTable::check_room`] has let pass.
    pub fn put_checked(
        &mut self,
        config: SubscriptionGroupConfig,
        now_ms: i64,
    ) -> Arc<SubscriptionGroupConfig> {
        let name: Arc<str> = match self.name_of(&config.group) {
            Some(name) => Arc::clone(name),
            None => Arc::from(config.group.as_str()),
        };
        let config = Arc::new(config);
        self.configs.insert(name, Arc::clone(&config));
        self.version = self.version.next(now_ms);
        config
    }

    /// Topics that a group may not read.
    pub fn forbidden(&self, group: &str) -> Arc<BTreeSet<String>> {
        self.forbidden.get(group).cloned().unwrap_or_default()
    }

    /// All of them.
    pub fn all_forbidden(&self) -> &Forbidden {
        &self.forbidden
    }

    /// Forbids a group a topic, or allows it again.
    ///
    /// # Errors
    /// 1 when too many are forbidden already, 29 when they are too long to be stored.
    pub fn forbid(
        &mut self,
        group: &str,
        topic: &str,
        is_forbidden: bool,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let mut topics = BTreeSet::clone(&self.forbidden(group));
        if is_forbidden {
            if topics.len() >= FORBIDDEN_MAX || self.forbidden.len() >= FORBIDDEN_MAX {
                let remark = format!("{FORBIDDEN_MAX} topics or groups are forbidden already");
                return Err(Refusal::new(response::SYSTEM_ERROR, remark));
            }
            topics.insert(topic.to_owned());
            // All of them are one row, and rows that can't be stored would hold up everybody's.
            let mut all = self.forbidden.clone();
            all.insert(group.to_owned(), Arc::new(topics.clone()));
            check_row("topic forbidden to group", group, &forbidden_row(&all))?;
        } else {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.forbidden.remove(group);
        } else {
            self.forbidden.insert(group.to_owned(), Arc::new(topics));
        }
        self.version = self.version.next(now_ms);
        Ok(())
    }

    /// Removes a group; a built-in one stays and `None` is returned.
    pub fn remove(&mut self, group: &str, now_ms: i64) -> Option<Arc<SubscriptionGroupConfig>> {
        if SYSTEM_GROUPS.contains(&group) {
            return None;
        }
        let config = self.configs.remove(group)?;
        self.forbidden.remove(group);
        self.version = self.version.next(now_ms);
        Some(config)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
