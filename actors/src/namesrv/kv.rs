//! Key-value configuration, kept as RocketMQ's `kvConfig.json`.
//!
//! **Owns** the table namespace → key → value, and its file.
//! **Lives on** the control plane; `load` and `save` touch the disk, a few times a day.
//! **Invariants** the file is replaced by rename, so a crash leaves the old or the new table.
//! **Limits** `ENTRIES_COUNT_MAX` values, `FILE_BYTES_MAX` bytes.
//! **Not here** request codes (`desk`).

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The namespace of ordered topics.
pub const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// Most values: real tables have some dozens.
pub const ENTRIES_COUNT_MAX: usize = 100_000;

/// Largest file read.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why a value isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The table is full.
    #[error("the name server holds its limit of {ENTRIES_COUNT_MAX} values")]
    Full,
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
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let fresh = path.with_extension("json.tmp");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`KvError::Full`].
    pub fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let known = self.get(namespace, key).is_some();
        if !known && self.table.values().map(BTreeMap::len).sum::<usize>() >= ENTRIES_COUNT_MAX {
            return Err(KvError::Full);
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

    #[test]
    fn delete_tells_whether_it_was_there() {
        let mut table = KeyValues::default();
        table.put("n", "k", "v").unwrap();
        assert!(table.delete("n", "k"));
        assert!(!table.delete("n", "k"));
        assert_eq!(table.get("n", "k"), None);
    }
}
