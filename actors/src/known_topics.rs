//! Topics by name and by number.
//!
//! **Owns** how a set of topics is found by either.
//! **Lives on** both planes: in the control plane's table and in each core's catalog.
//! **Invariants** an entry is in both sets or in none; one entry a name. All sets of the process
//! share the entries, and an entry's own name and number are its keys, for a broker may have
//! 100,000.
//! **Limits** none of its own; a topic takes 9 bytes of each set, in tables 7/16 to 7/8 full.
//! **Not here** which topics there may be (`control::topics`).

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use gantry_storage::units::TopicId;
use hashbrown::HashSet;

use crate::seam::TopicEntry;

/// An entry that is found by its name.
#[derive(Debug)]
struct Named(Arc<TopicEntry>);

/// An entry that is found by its number.
#[derive(Debug)]
struct Numbered(Arc<TopicEntry>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        &self.0.config.name
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.config.name.as_str().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.config.name == other.0.config.name
    }
}

impl Eq for Named {}

impl Borrow<TopicId> for Numbered {
    fn borrow(&self) -> &TopicId {
        &self.0.id
    }
}

impl Hash for Numbered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for Numbered {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Numbered {}

/// The topics; see the room's head.
#[derive(Debug, Default)]
pub struct KnownTopics {
    by_name: HashSet<Named>,
    by_id: HashSet<Numbered>,
}

impl KnownTopics {
    /// Puts an entry in the place of the one of this name, if there was one.
    pub fn put(&mut self, entry: &Arc<TopicEntry>) {
        let old = self.by_name.replace(Named(Arc::clone(entry)));
        if let Some(Named(old)) = old.filter(|old| old.0.id != entry.id) {
            self.by_id.remove(&old.id);
        }
        self.by_id.replace(Numbered(Arc::clone(entry)));
    }

    /// Takes the topic of this name out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<TopicEntry>> {
        let Named(entry) = self.by_name.take(name)?;
        self.by_id.remove(&entry.id);
        Some(entry)
    }

    /// The topic of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<TopicEntry>> {
        self.by_name.get(name).map(|named| &named.0)
    }

    /// The topic of this number.
    pub fn get_by_id(&self, id: TopicId) -> Option<&Arc<TopicEntry>> {
        self.by_id.get(&id).map(|numbered| &numbered.0)
    }

    /// Every topic, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicEntry>> {
        self.by_name.iter().map(|named| &named.0)
    }

    /// How many topics.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::topic;

    #[test]
    fn a_topic_is_found_by_name_and_number_or_not_at_all() {
        let mut known = KnownTopics::default();
        known.put(&topic("A", 1, 4));
        known.put(&topic("B", 2, 4));
        known.put(&topic("A", 1, 8));
        assert_eq!(known.count(), 2);
        assert_eq!(known.get("A").unwrap().config.read_queue_nums, 8);
        let by_id = known.get_by_id(TopicId(1)).unwrap();
        assert_eq!(by_id.config.read_queue_nums, 8);
        // Deleted and made again: the old number is nobody's.
        known.put(&topic("A", 3, 4));
        assert!(known.get_by_id(TopicId(1)).is_none());
        assert_eq!(known.remove("A").unwrap().id, TopicId(3));
        assert!(known.get("A").is_none() && known.get_by_id(TopicId(3)).is_none());
        assert!(known.remove("A").is_none());
        assert_eq!(known.iter().count(), 1);
    }
}
