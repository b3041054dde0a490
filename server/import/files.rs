//! The config folder of a RocketMQ store.
//!
//! **Owns** which files are read, and what they hold of topics, groups and positions.
//! **Lives on** the main thread; blocks.
//! **Invariants** nothing is written. A file that is missing or damaged is read from its `.bak`,
//! as RocketMQ does (`ConfigManager`), and that is said.
//! **Limits** [`FILE_BYTES_MAX`] a file; those of `fastjson`.
//! **Not here** what is done with it (`super`).

use std::fs;
use std::path::Path;

use gantry_protocol::body::{
    ConsumerOffsets, SubscriptionGroupConfig, SubscriptionGroupWrapper, TopicConfig,
    TopicConfigWrapper,
};
use gantry_protocol::fastjson::{self, Value};

/// Longest file: a million positions are 30 MiB.
const FILE_BYTES_MAX: u64 = 256 << 20;

const TOPICS: &str = "topics.json";
const GROUPS: &str = "subscriptionGroup.json";
const OFFSETS: &str = "consumerOffset.json";
/// Folders in which 5.x keeps the same when it is set to use `RocksDB`.
const ROCKSDB: [&str; 4] = [
    "topics",
    "subscriptionGroups",
    "consumerOffsets",
    "metadata",
];

/// Files that are known and not taken.
const LEFT: [(&str, &str); 8] = [
    (
        "delayOffset.json",
        "delayed messages stay with their broker",
    ),
    (
        "consumerFilter.json",
        "filters come with the consumers' heartbeats",
    ),
    ("consumerOrderInfo.json", "state of pop consumers"),
    ("messageRequestMode.json", "pop is not built yet"),
    ("lmqConsumerOffset.json", "lite topics are not built yet"),
    ("topicQueueMapping.json", "static topics are not built yet"),
    ("broker.properties", "give settings to gantry broker -c"),
    ("plain_acl.yml", "access control is not built yet"),
];

/// The bit of `forbiddenTable` that takes reading away (`PermName.INDEX_PERM_READ`).
const FORBIDDEN_TO_READ: i64 = 1 << 2;

/// A group's position in a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The queue.
    pub queue_id: i32,
    /// The next offset it wants.
    pub offset: i64,
}

/// What a config folder holds.
#[derive(Debug, Default)]
pub struct Found {
    /// Topics.
    pub topics: Vec<TopicConfig>,
    /// Groups.
    pub groups: Vec<SubscriptionGroupConfig>,
    /// Groups that may not read a topic: (group, topic).
    pub forbidden: Vec<(String, String)>,
    /// Positions.
    pub positions: Vec<Position>,
    /// What is not taken at all: (what, why).
    pub left: Vec<(String, String)>,
}

/// Reads a config folder.
///
/// # Errors
/// It isn't one, or a file and its backup are damaged.
pub fn read(folder: &Path) -> Result<Found, String> {
    let mut found = Found::default();
    let topics = load(folder, TOPICS, &mut found.left, TopicConfigWrapper::parse)?;
    let groups = load(
        folder,
        GROUPS,
        &mut found.left,
        SubscriptionGroupWrapper::parse,
    )?;
    let offsets = load(folder, OFFSETS, &mut found.left, ConsumerOffsets::parse)?;
    if topics.is_none() && groups.is_none() && offsets.is_none() {
        let hint = if ROCKSDB.iter().any(|name| folder.join(name).is_dir()) {
            "; it is kept in RocksDB: write it out with mqadmin rocksDBConfigToJson first"
        } else {
            "; it is the folder config in storePathRootDir"
        };
        let folder = folder.display();
        return Err(format!(
            "{folder} holds no {TOPICS}, {GROUPS} or {OFFSETS}{hint}"
        ));
    }
    found.topics = topics.map_or_else(Vec::new, |all| all.topics.into_values().collect());
    if let Some(all) = groups {
        found.forbidden = forbidden(all.forbidden.as_ref());
        found.groups = all.groups.into_values().collect();
    }
    for (key, queues) in offsets.map_or_else(Default::default, |all| all.offsets) {
        let Some((topic, group)) = key.rsplit_once('@') else {
            found
                .left
                .push((format!("{OFFSETS} {key}"), "not topic@group".to_owned()));
            continue;
        };
        found
            .positions
            .extend(queues.into_iter().map(|(queue_id, offset)| Position {
                topic: topic.to_owned(),
                group: group.to_owned(),
                queue_id,
                offset,
            }));
    }
    let known = LEFT.iter().filter(|(name, _)| folder.join(name).is_file());
    let known = known.map(|(name, why)| ((*name).to_owned(), (*why).to_owned()));
    found.left.extend(known);
    Ok(found)
}

/// One file, or its backup; none when there is neither.
fn load<T, E: ToString>(
    folder: &Path,
    name: &str,
    left: &mut Vec<(String, String)>,
    parse: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<Option<T>, String> {
    let mut wrong = None;
    for file in [name.to_owned(), format!("{name}.bak")] {
        let path = folder.join(&file);
        if !path.is_file() {
            continue;
        }
        match bytes(&path).and_then(|bytes| parsed(&bytes, &parse)) {
            Ok(value) => {
                if file != name {
                    let why = wrong.unwrap_or_else(|| "missing".to_owned());
                    left.push((
                        name.to_owned(),
                        format!("{why}; its backup is taken instead"),
                    ));
                }
                return Ok(Some(value));
            }
            Err(why) => wrong = Some(why),
        }
    }
    if let Some(why) = wrong {
        return Err(format!("{}: {why}", folder.join(name).display()));
    }
    left.push((name.to_owned(), "missing".to_owned()));
    Ok(None)
}

fn parsed<T, E: ToString>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<T, String> {
    let value = fastjson::parse(bytes).map_err(|error| error.to_string())?;
    if !matches!(value, Value::Map(_)) {
        return Err("it holds no JSON object".to_owned());
    }
    parse(bytes).map_err(|error| error.to_string())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes, at most {FILE_BYTES_MAX} are read"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

fn forbidden(table: Option<&Value>) -> Vec<(String, String)> {
    let groups = table.map(Value::entries).unwrap_or_default();
    let mut all = Vec::new();
    for (group, topics) in groups {
        for (topic, bits) in topics.entries() {
            let is_forbidden = bits
                .as_i64()
                .is_some_and(|bits| bits & FORBIDDEN_TO_READ != 0);
            if let (Some(group), Some(topic), true) =
                (group.as_text(), topic.as_text(), is_forbidden)
            {
                all.push((group.into_owned(), topic.into_owned()));
            }
        }
    }
    all
}
