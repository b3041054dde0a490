//! All topics of this broker.
//!
//! **Owns** name → configuration and id, the data version, the next free topic id.
//! **Lives on** the control plane; pure.
//! **Invariants** an id is given once and never again, also not after a deletion and a restart;
//! each commit moves the data version.
//! **Limits** `TOPICS_MAX` topics.
//! **Not here** persistence and registration (`super`), validation (`rules`).

use std::sync::Arc;

use gantry_protocol::body::{DataVersion, TopicConfig};
use gantry_protocol::code::response;
use gantry_storage::units::TopicId;

use crate::known_topics::KnownTopics;
use crate::refusal::{Refusal, quoted};
use crate::seam::TopicEntry;

/// Most topics of a broker: a registration with the longest names of that many still fits a frame,
/// compressed (`registration::body`).
pub const TOPICS_MAX: usize = 100_000;

/// All topics; see the room's head.
#[derive(Debug, Default)]
pub struct TopicTable {
    known: KnownTopics,
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
            known: KnownTopics::default(),
            version,
            next_id: next_id.max(1),
        };
        for entry in entries {
            // A row above the stored counter would be a lost counter write: never reuse its id.
            table.next_id = table.next_id.max(entry.id.0.saturating_add(1));
            table.known.put(&Arc::new(entry));
        }
        table
    }

    /// The topic of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<TopicEntry>> {
        self.known.get(name)
    }

    /// The name of a topic id.
    pub fn name_of(&self, id: TopicId) -> Option<&str> {
        let entry = self.known.get_by_id(id)?;
        Some(&entry.config.name)
    }

    /// Every topic, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicEntry>> {
        self.known.iter()
    }

    /// How many topics.
    pub fn count(&self) -> usize {
        self.known.count()
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
        let is_new = |config: &&TopicConfig| self.known.get(&config.name).is_none();
        let made = wanted.iter().filter(is_new).count();
        if self.known.count() + made <= TOPICS_MAX {
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

    /// Gives no id below `id` from now on.
    pub fn skip_ids_below(&mut self, id: u32) {
        self.next_id = self.next_id.max(id);
    }

    /// Makes or changes a topic. `Ok(None)` when it is already exactly so.
    ///
    /// # Errors
    /// 1 when the table is full.
    pub fn put(&mut self, config: TopicConfig) -> Result<Option<Arc<TopicEntry>>, Refusal> {
        let known = self.known.get(&config.name);
        if known.is_some_and(|entry| entry.config == config) {
            return Ok(None);
        }
        let id = match known {
            Some(entry) => entry.id,
            None => self.take_id(&config.name)?,
        };
        let entry = Arc::new(TopicEntry { id, config });
        self.known.put(&entry);
        Ok(Some(entry))
    }

    fn take_id(&mut self, name: &str) -> Result<TopicId, Refusal> {
        let full = self.known.count() >= TOPICS_MAX || self.next_id == u32::MAX;
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
        self.known.remove(name)
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
            let Some(entry) = self.known.get(name).filter(|entry| !entry.config.order) else {
                continue;
            };
            let mut config = entry.config.clone();
            config.order = true;
            let entry = Arc::new(TopicEntry {
                id: entry.id,
                config,
            });
            self.known.put(&entry);
            changed.push(entry);
        }
        changed
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
