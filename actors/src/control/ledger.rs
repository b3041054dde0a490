//! The control plane's rows in the embedded store.
//!
//! **Owns** how topics, groups, data versions and offsets are spelled as keys and values.
//! **Lives on** the control plane's thread; blocking calls of 1–3 ms per commit.
//! **Invariants** a change and the data version it makes travel in one commit; the next topic id is
//! stored with the topic that took the last one, so no id is given twice. What can't be read is an
//! error of the start, never skipped: a skipped topic would be made anew and lose its queues.
//! **Limits** those of `gantry_storage::tables`.
//! **Not here** when to commit (the parts).

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use gantry_protocol::body::SubscriptionGroupConfig;
use gantry_protocol::body::{DataVersion, TopicConfig};
use gantry_protocol::code::response;
use gantry_protocol::fastjson::{self, IntegerKeys, Value, to_bytes};
use gantry_storage::tables::{Batch, KEY_BYTES_MAX, Namespace, Tables, TablesError};
use gantry_storage::units::{QueueId, QueueKey, QueueOffset, TopicId};

use crate::refusal::Refusal;
use crate::seam::{OffsetChange, OffsetRow, TopicEntry};

use super::groups::table::{Forbidden, GroupTable, forbidden_row, group_row};
use super::topics::table::TopicTable;

/// Rows read at once: all of them would leave a hole of their size in the heap.
const ROWS: usize = 256;

/// Keys in `Namespace::DataVersions`; never change one.
const TOPICS_VERSION: &[u8] = b"topics";
const GROUPS_VERSION: &[u8] = b"groups";
const FORBIDDEN: &[u8] = b"groups-forbidden";
const NEXT_TOPIC_ID: &[u8] = b"next-topic-id";
/// First bytes of an offset's key: topic id and queue id; the group's name follows.
const QUEUE_BYTES: usize = 6;
/// Longest name of a group that positions can be stored under; names that pass the checks are far
/// shorter.
pub const OFFSET_GROUP_BYTES_MAX: usize = KEY_BYTES_MAX - QUEUE_BYTES;

/// The topics as stored.
pub struct StoredTopics {
    /// Every topic.
    pub entries: Vec<TopicEntry>,
    /// The table's version.
    pub version: DataVersion,
    /// The next free id; none when no topic was ever stored here.
    pub next_id: Option<u32>,
}

/// The groups as stored.
pub struct StoredGroups {
    /// Every group that was changed or made after the start.
    pub configs: Vec<SubscriptionGroupConfig>,
    /// The table's version.
    pub version: DataVersion,
    /// Topics that groups may not read.
    pub forbidden: Forbidden,
}

/// The rows; see the room's head. A copy is another handle of the same tables.
#[derive(Clone)]
pub struct Ledger {
    tables: Arc<Tables>,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
fn failed(error: TablesError) -> Refusal {
    Refusal::new(
        response::SYSTEM_ERROR,
        format!("the broker's tables: {error}"),
    )
}

fn unreadable(what: &str, key: &[u8]) -> Refusal {
    Refusal::new(
        response::SYSTEM_ERROR,
        format!(
            "the broker's tables: {what} {} can't be read",
            String::from_utf8_lossy(key)
        ),
    )
}

fn version_bytes(version: &DataVersion) -> Vec<u8> {
    let fields = [version.state_version, version.timestamp, version.counter];
    fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect()
}

fn version_from(bytes: &[u8]) -> Option<DataVersion> {
    let (fields, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let [state_version, timestamp, counter] = fields else {
        return None;
    };
    Some(DataVersion {
        state_version: i64::from_be_bytes(*state_version),
        timestamp: i64::from_be_bytes(*timestamp),
        counter: i64::from_be_bytes(*counter),
    })
}

fn topic_bytes(entry: &TopicEntry) -> Vec<u8> {
    let mut bytes = entry.id.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&to_bytes(&entry.config.to_value(), IntegerKeys::Quoted));
    bytes
}

fn topic_from(bytes: &[u8]) -> Option<TopicEntry> {
    let (id, json) = bytes.split_first_chunk::<4>()?;
    let config = TopicConfig::from_value(&fastjson::parse(json).ok()?);
    Some(TopicEntry {
        id: TopicId(u32::from_be_bytes(*id)),
        config,
    })
}

fn offset_key(queue: QueueKey, group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(QUEUE_BYTES + group.len());
    key.extend_from_slice(&queue.topic.0.to_be_bytes());
    key.extend_from_slice(&queue.queue.0.to_be_bytes());
    key.extend_from_slice(group.as_bytes());
    key
}

fn offset_from(key: &[u8], value: &[u8]) -> Option<OffsetRow> {
    let (topic, rest) = key.split_first_chunk::<4>()?;
    let (queue, group) = rest.split_first_chunk::<2>()?;
    let queue = QueueKey {
        topic: TopicId(u32::from_be_bytes(*topic)),
        queue: QueueId(u16::from_be_bytes(*queue)),
    };
    let offset = QueueOffset(u64::from_be_bytes(value.try_into().ok()?));
    Some(OffsetRow {
        queue,
        group: Arc::from(std::str::from_utf8(group).ok()?),
        offset,
    })
}

impl Ledger {
    /// Opens the tables in a folder.
    ///
    /// # Errors
    /// In use, newer, or broken.
    pub fn open(folder: &Path) -> Result<Self, Refusal> {
        Ok(Self {
            tables: Arc::new(Tables::open(folder).map_err(failed)?),
        })
    }

    /// The embedded store, for supervisors that spell their own rows and commit beside the thread.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    fn version(&self, key: &[u8]) -> Result<DataVersion, Refusal> {
        match self
            .tables
            .get(Namespace::DataVersions, key)
            .map_err(failed)?
        {
            None => Ok(DataVersion::default()),
            Some(bytes) => version_from(&bytes).ok_or_else(|| unreadable("data version", key)),
        }
    }

    /// Reads all topics.
    ///
    /// # Errors
    /// The store fails or a row can't be read.
    pub fn load_topics(&self) -> Result<StoredTopics, Refusal> {
        let mut entries = Vec::new();
        self.each_row(Namespace::Topics, |name, bytes| {
            entries.push(topic_from(&bytes).ok_or_else(|| unreadable("topic", &name))?);
            Ok(())
        })?;
        let next_id = self
            .tables
            .get(Namespace::DataVersions, NEXT_TOPIC_ID)
            .map_err(failed)?;
        let number = |bytes: Vec<u8>| {
            let bytes = <[u8; 4]>::try_from(bytes.as_slice());
            let number = bytes.map(u32::from_be_bytes);
            number.map_err(|_| unreadable("number", NEXT_TOPIC_ID))
        };
        let next_id = next_id.map(number).transpose()?;
        Ok(StoredTopics {
            entries,
            version: self.version(TOPICS_VERSION)?,
            next_id,
        })
    }

    /// Stores changed and deleted topics with the table's version.
    ///
    /// # Errors
    /// The store fails; then nothing is stored.
    pub fn store_topics(
        &self,
        put: &[Arc<TopicEntry>],
        gone: &[Arc<TopicEntry>],
        table: &TopicTable,
    ) -> Result<(), Refusal> {
        let mut batch = Batch::new();
        // A topic deleted and made again within one wave stands in both lists.
        for entry in gone {
            batch.delete(Namespace::Topics, entry.config.name.as_bytes());
        }
        for entry in put {
            let name = entry.config.name.as_bytes();
            batch.put(Namespace::Topics, name, topic_bytes(entry));
        }
        batch.put(
            Namespace::DataVersions,
            TOPICS_VERSION,
            version_bytes(table.version()),
        );
        batch.put(
            Namespace::DataVersions,
            NEXT_TOPIC_ID,
            table.next_id().to_be_bytes(),
        );
        self.tables.commit(&batch).map_err(failed)
    }

    /// Reads all groups.
    ///
    /// # Errors
    /// The store fails or a row can't be read.
    pub fn load_groups(&self) -> Result<StoredGroups, Refusal> {
        let mut configs = Vec::new();
        for (name, bytes) in self.tables.all(Namespace::Groups).map_err(failed)? {
            let config = SubscriptionGroupConfig::parse(&bytes);
            configs.push(config.map_err(|_| unreadable("group", &name))?);
        }
        Ok(StoredGroups {
            configs,
            version: self.version(GROUPS_VERSION)?,
            forbidden: self.forbidden()?,
        })
    }

    fn forbidden(&self) -> Result<Forbidden, Refusal> {
        let row = self.tables.get(Namespace::DataVersions, FORBIDDEN);
        let Some(bytes) = row.map_err(failed)? else {
            return Ok(Forbidden::new());
        };
        let value = fastjson::parse(&bytes).map_err(|_| unreadable("table", FORBIDDEN))?;
        let topics = |list: &Value| {
            let names = list.elements().iter();
            names
                .filter_map(|name| name.as_text().map(Cow::into_owned))
                .collect()
        };
        let entry = |(group, list): &(Value, Value)| {
            Some((group.as_text()?.into_owned(), Arc::new(topics(list))))
        };
        Ok(value.entries().iter().filter_map(entry).collect())
    }

    /// Stores changed and deleted groups with the table's version, and forgets the positions with
    /// these keys.
    ///
    /// # Errors
    /// The store fails; then nothing is stored.
    pub fn store_groups(
        &self,
        put: &[Arc<SubscriptionGroupConfig>],
        gone: &[Arc<str>],
        positions: Vec<Vec<u8>>,
        table: &GroupTable,
    ) -> Result<(), Refusal> {
        let mut batch = Batch::new();
        for group in gone {
            batch.delete(Namespace::Groups, group.as_bytes());
        }
        for key in positions {
            batch.delete(Namespace::Offsets, key);
        }
        for config in put {
            let name = config.group.as_bytes();
            batch.put(Namespace::Groups, name, group_row(config));
        }
        batch.put(
            Namespace::DataVersions,
            GROUPS_VERSION,
            version_bytes(table.version()),
        );
        let forbidden = forbidden_row(table.all_forbidden());
        batch.put(Namespace::DataVersions, FORBIDDEN, forbidden);
        self.tables.commit(&batch).map_err(failed)
    }

    /// Reads all positions.
    ///
    /// # Errors
    /// The store fails or a row can't be read.
    pub fn load_offsets(&self) -> Result<Vec<OffsetRow>, Refusal> {
        let pairs = self.tables.all(Namespace::Offsets).map_err(failed)?;
        let rows = pairs
            .iter()
            .map(|(key, value)| offset_from(key, value).ok_or_else(|| unreadable("offset", key)));
        rows.collect()
    }

    /// Stores positions, and forgets those that are none any more.
    ///
    /// # Errors
    /// The store fails; then nothing is stored.
    pub fn store_offsets(&self, rows: &[OffsetChange]) -> Result<(), Refusal> {
        let mut batch = Batch::new();
        for row in rows {
            let key = offset_key(row.queue, &row.group);
            match row.offset {
                Some(offset) => batch.put(Namespace::Offsets, key, offset.0.to_be_bytes()),
                None => batch.delete(Namespace::Offsets, key),
            };
        }
        self.tables.commit(&batch).map_err(failed)
    }

    /// Forgets all positions in a topic.
    ///
    /// # Errors
    /// The store fails.
    pub fn drop_offsets_of_topic(&self, topic: TopicId) -> Result<(), Refusal> {
        let from = topic.0.to_be_bytes();
        let to = topic.0.checked_add(1).map(u32::to_be_bytes);
        let to = to.as_ref().map(<[u8; 4]>::as_slice);
        let pairs = self
            .tables
            .range(Namespace::Offsets, &from, to, usize::MAX)
            .map_err(failed)?;
        let mut batch = Batch::new();
        for (key, _) in pairs {
            batch.delete(Namespace::Offsets, key);
        }
        self.tables.commit(&batch).map_err(failed)
    }

    /// The keys of all positions of these groups. All positions there are must be read for that, as
    /// they lie by their queues: not for the control plane's thread.
    ///
    /// # Errors
    /// The store fails.
    pub fn positions_of(&self, groups: &[Arc<str>]) -> Result<Vec<Vec<u8>>, Refusal> {
        let groups: HashSet<&[u8]> = groups.iter().map(|group| group.as_bytes()).collect();
        let mut found = Vec::new();
        self.each_row(Namespace::Offsets, |key, _| {
            let group = key.get(QUEUE_BYTES..);
            if group.is_some_and(|group| groups.contains(group)) {
                found.push(key);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Gives `take` each row of a namespace, key and value, in the order of keys.
    fn each_row(
        &self,
        namespace: Namespace,
        mut take: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut from = Vec::new();
        loop {
            let rows = self.tables.range(namespace, &from, None, ROWS);
            let rows = rows.map_err(failed)?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                take(key, value)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_groups_are_found_whatever_lies_between() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let row = |queue: u16, group: &str| OffsetChange {
            queue: QueueKey::new(1 + u32::from(queue % 3), queue),
            group: Arc::from(group),
            offset: Some(QueueOffset(7)),
        };
        let queues = 0..u16::try_from(ROWS).unwrap() + 9;
        let rows: Vec<OffsetChange> = queues
            .clone()
            .flat_map(|queue| ["f", "g", "ga", "h"].map(|group| row(queue, group)))
            .collect();
        ledger.store_offsets(&rows).unwrap();
        let wanted = [Arc::from("g"), Arc::from("h"), Arc::from("nobody")];
        let mut expected: Vec<Vec<u8>> = queues
            .flat_map(|queue| ["g", "h"].map(|group| offset_key(row(queue, group).queue, group)))
            .collect();
        expected.sort_unstable();
        assert_eq!(ledger.positions_of(&wanted).unwrap(), expected);
    }
}
