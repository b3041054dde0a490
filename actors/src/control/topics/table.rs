//! All topics of this broker.
//!
//! **Owns** name → configuration and id, the data version, the next free topic id.
//! **Lives on** the control plane; pure.
//! **Invariants** an id is given once and never again, also not after a deletion and a restart;
//! each commit moves the data version.
//! **Limits** `TOPICS_MAX` topics.
//! **Not here** persistence and registration (`super`), validation (`rules`).

use std::collections::HashMap;
use std::sync::Arc;

use gantry_protocol::body::{DataVersion, TopicConfig};
use gantry_protocol::code::response;
use gantry_storage::units::TopicId;

use crate::refusal::{Refusal, quoted};
use crate::seam::TopicEntry;

/// Most topics of a broker; a name server's registration body of that many is about 20 MB, more
/// than its frame limit, so operators meet other walls first.
pub const TOPICS_MAX: usize = 100_000;

/// All topics; see the room's head.
#[derive(Debug, Default)]
pub struct TopicTable {
    by_name: HashMap<String, Arc<TopicEntry>>,
    by_id: HashMap<TopicId, Arc<TopicEntry>>,
    version: DataVersion,
    next_id: u32,
}

impl TopicTable {
    /// A table from stored rows.
    pub fn new(
        entries: impl IntoIterator<Item = TopicEntry>,
        version: DataVersion,
        next_id: u32,
    ) -> Self {
        let mut table = Self {
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            version,
            next_id: next_id.max(1),
        };
        for entry in entries {
            // A row above the stored counter would be a lost counter write: never reuse its id.
            table.next_id = table.next_id.max(entry.id.0.saturating_add(1));
            table.insert(Arc::new(entry));
        }
        table
    }

    fn insert(&mut self, entry: Arc<TopicEntry>) {
        let name = entry.config.name.clone();
        self.by_id.insert(entry.id, Arc::clone(&entry));
        self.by_name.insert(name, entry);
    }

    /// The topic of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<TopicEntry>> {
        self.by_name.get(name)
    }

    /// The name of a topic id.
    pub fn name_of(&self, id: TopicId) -> Option<&str> {
        self.by_id.get(&id).map(|entry| entry.config.name.as_str())
    }

    /// Every topic, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicEntry>> {
        self.by_name.values()
    }

    /// How many topics.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The version of the whole table.
    pub fn version(&self) -> &DataVersion {
        &self.version
    }

    /// Moves the version, once per commit. A name server takes a changed topic only with a version
    /// that it hasn't seen, so no registration may carry the new version before the change.
    pub fn advance(&mut self, now_ms: i64) {
        self.version = self.version.next(now_ms);
    }

    /// Whether all of these could be made or changed.
    ///
    /// # Errors
    /// 1 when the table would be over-full.
    pub fn check_room(&self, wanted: &[TopicConfig]) -> Result<(), Refusal> {
        let is_new = |config: &&TopicConfig| !self.by_name.contains_key(&config.name);
        let made = wanted.iter().filter(is_new).count();
        if self.by_name.len() + made <= TOPICS_MAX {
            return Ok(());
        }
        Err(Refusal::new(
            response::SYSTEM_ERROR,
            format!("{made} new topics do not fit: this broker holds at most {TOPICS_MAX}"),
        ))
    }

    /// The id that the next new topic gets.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Makes or changes a topic. `Ok(None)` when it is already exactly so.
    ///
    /// # Errors
    /// 1 when the table is full.
    pub fn put(&mut self, config: TopicConfig) -> Result<Option<Arc<TopicEntry>>, Refusal> {
        let known = self.by_name.get(&config.name);
        if known.is_some_and(|entry| entry.config == config) {
            return Ok(None);
        }
        let id = match known {
            Some(entry) => entry.id,
            None => self.take_id(&config.name)?,
        };
        let entry = Arc::new(TopicEntry { id, config });
        self.insert(Arc::clone(&entry));
        Ok(Some(entry))
    }

    fn take_id(&mut self, name: &str) -> Result<TopicId, Refusal> {
        let full = self.by_name.len() >= TOPICS_MAX || self.next_id == u32::MAX;
        if full {
            return Err(Refusal::new(
                response::SYSTEM_ERROR,
                format!(
                    "topic[{}] not created: this broker holds {TOPICS_MAX} topics already",
                    quoted(name)
                ),
            ));
        }
        let id = TopicId(self.next_id);
        self.next_id += 1;
        Ok(id)
    }

    /// Removes a topic; its id is never given again.
    pub fn remove(&mut self, name: &str) -> Option<Arc<TopicEntry>> {
        let entry = self.by_name.remove(name)?;
        self.by_id.remove(&entry.id);
        Some(entry)
    }

    /// Sets `order` on the topics that `ORDER_TOPIC_CONFIG` names (the body of a 103 reply). Never
    /// clears it: the flag of code 17 would be lost with every registration
    /// (`TopicConfigManager.updateOrderTopicConfig`, 5.5.0). Returns what changed.
    pub fn apply_order_topics<'a>(
        &mut self,
        ordered: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Arc<TopicEntry>> {
        let mut changed = Vec::new();
        for name in ordered {
            let Some(entry) = self.by_name.get(name).filter(|entry| !entry.config.order) else {
                continue;
            };
            let mut config = entry.config.clone();
            config.order = true;
            let entry = Arc::new(TopicEntry {
                id: entry.id,
                config,
            });
            self.insert(Arc::clone(&entry));
            changed.push(entry);
        }
        changed
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
