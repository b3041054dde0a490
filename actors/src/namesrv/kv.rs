//! Key-value configuration, kept as RocketMQ's `kvConfig.json`.
//!
//! **Owns** the table namespace → key → value, and its file.
//! **Lives on** the control plane; `load` and `save` touch the disk, a few times a day.
//! **Invariants** the file is replaced by rename, so a crash leaves the old or the new table. What
//! is taken makes a file that is read again at the next start.
//! **Limits** `ENTRIES_COUNT_MAX` values and namespaces, `TEXT_BYTES_MAX` bytes of names, keys and
//! values, `FILE_BYTES_MAX` bytes in the file.
//! **Not here** request codes (`desk`).

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kept_file::replace_file;

/// The namespace of ordered topics.
pub const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// Most values and namespaces: real tables have some dozens.
pub const ENTRIES_COUNT_MAX: usize = 100_000;

/// Most bytes of all names, keys and values: 8,000 ordered topics on a hundred brokers each.
pub const TEXT_BYTES_MAX: usize = 8 << 20;

/// Largest file read.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A byte takes six as `\u0001`; an entry has quotes, a colon, a comma and its indentation.
const _: () = {
    let largest = 6 * TEXT_BYTES_MAX as u64 + 32 * ENTRIES_COUNT_MAX as u64;
    assert!(largest < FILE_BYTES_MAX);
};

/// Why a value isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The table is full.
    #[error("the name server holds its limit of {ENTRIES_COUNT_MAX} values and namespaces")]
    Full,
    /// The texts are too long together.
    #[error(
        "the name server's names, keys and values would have {wanted} bytes, {TEXT_BYTES_MAX} are \
         allowed"
    )]
    TooLong {
        /// What they would have with this one.
        wanted: usize,
    },
}

/// The table. The name of the field is the file's.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValues {
    #[serde(rename = "configTable", default)]
    table: BTreeMap<String, BTreeMap<String, String>>,
}

impl KeyValues {
    /// Reads the file; a missing one is an empty table.
    ///
    /// # Errors
    /// The disk's, or that it isn't such a table.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        replace_file(path, &serde_json::to_vec_pretty(self)?)
    }

    /// How many entries there are, and the bytes of their texts. A namespace stays when its last
    /// value is deleted, as in RocketMQ, so it counts.
    fn sizes(&self) -> (usize, usize) {
        let mut sizes = (0, 0);
        for (namespace, values) in &self.table {
            let texts = values.iter().map(|(key, value)| key.len() + value.len());
            sizes.0 += 1 + values.len();
            sizes.1 += namespace.len() + texts.sum::<usize>();
        }
        sizes
    }

    /// Sets a value. One that takes no more room than the old one is always taken.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let old = self.get(namespace, key);
        let (count, bytes) = self.sizes();
        if old.is_none() && count >= ENTRIES_COUNT_MAX {
            return Err(KvError::Full);
        }
        let is_new_space = !self.table.contains_key(namespace);
        let fresh = old.map_or(key.len(), |_| 0) + if is_new_space { namespace.len() } else { 0 };
        let old = old.map_or(0, str::len);
        let wanted = bytes - old + fresh + value.len();
        if wanted > TEXT_BYTES_MAX && wanted > bytes {
            return Err(KvError::TooLong { wanted });
        }
        let values = self.table.entry(namespace.to_owned()).or_default();
        values.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// A value.
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.table.get(namespace)?.get(key).map(String::as_str)
    }

    /// Removes a value; whether it was there.
    pub fn delete(&mut self, namespace: &str, key: &str) -> bool {
        self.table
            .get_mut(namespace)
            .is_some_and(|values| values.remove(key).is_some())
    }

    /// A namespace's values.
    pub fn list(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.table.get(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_as_rocketmq_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("namesrv/kvConfig.json");
        let mut table = KeyValues::load(&path).unwrap();
        table.put(ORDER_TOPIC_CONFIG, "T", "b0:4;b1:4").unwrap();
        table.save(&path).unwrap();
        assert_eq!(KeyValues::load(&path).unwrap(), table);
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["configTable"]["ORDER_TOPIC_CONFIG"]["T"], "b0:4;b1:4");
    }

    #[test]
    fn a_file_that_is_no_table_is_an_error_not_an_empty_table() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvConfig.json");
        std::fs::write(&path, "not json").unwrap();
        assert!(KeyValues::load(&path).is_err());
    }

    /// Whatever is taken can be read again: a start fails on a file that is too large.
    #[test]
    fn the_texts_are_bounded_and_the_largest_table_is_read_again() {
        let mut table = KeyValues::default();
        let value = "\u{1}".repeat(TEXT_BYTES_MAX / 4 - 2);
        for key in ["a", "b", "c", "d"] {
            table.put("n", key, &value).unwrap();
        }
        let full = table.put("n", "e", "12345678").unwrap_err();
        assert!(full.to_string().contains("8388608"), "{full}");
        assert!(table.put("n", "a", &format!("{value}xyz!")).is_err());
        table.put("n", "a", &value[1..]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvConfig.json");
        table.save(&path).unwrap();
        assert_eq!(KeyValues::load(&path).unwrap(), table);
    }

    #[test]
    fn delete_tells_whether_it_was_there() {
        let mut table = KeyValues::default();
        table.put("n", "k", "v").unwrap();
        assert!(table.delete("n", "k"));
        assert!(!table.delete("n", "k"));
        assert_eq!(table.get("n", "k"), None);
    }
}
