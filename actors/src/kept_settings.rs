//! Settings changed while running, kept for the next start.
//!
//! **Owns** the file [`FILE_NAME`] in the data folder: a Java properties file whose comments say
//! what `broker.conf` said at the time.
//! **Lives on** the control plane's thread (changes) and the main thread (the start).
//! **Invariants** the newest word wins, as where RocketMQ rewrites `broker.conf` itself: a change
//! holds until `broker.conf` says something else for its key than when the change was made. The
//! command line is stronger than both. The file is replaced as a whole, synced before the rename.
//! **Limits** [`KEPT_MAX`] keys, [`FILE_BYTES_MAX`].
//! **Not here** which keys there are (`server/config`), taking effect (`control::admin`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::kept_file::replace_file;

/// The file's name.
pub const FILE_NAME: &str = "changed.properties";
/// Most keys: three times as many as there are.
pub const KEPT_MAX: usize = 1024;
/// Largest file that is read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

const HEAD: &str = "\
# Settings changed while the broker ran (updateBrokerConfig). A line holds until broker.conf says
# something else for its key than the comment above it, or until it is removed.
";
const WAS: &str = "#was ";

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The value.
    pub value: String,
    /// What `broker.conf`, or the default, said then.
    pub was: String,
}

/// All changed settings; see the room's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptSettings {
    rows: BTreeMap<String, Kept>,
}

impl KeptSettings {
    /// Reads the file in this folder; none is the same as an empty one.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let file = match File::open(folder.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut rows = BTreeMap::new();
        let mut was: Option<(&str, &str)> = None;
        for line in text.lines().map(str::trim) {
            if let Some(said) = line.strip_prefix(WAS) {
                was = said.split_once('=');
            } else if let Some((key, value)) =
                line.split_once('=').filter(|_| !line.starts_with('#'))
                && rows.len() < KEPT_MAX
            {
                let said = was.take().filter(|(of, _)| *of == key);
                // A line of the operator's own holds whatever the file says.
                let was = said.map_or(value, |(_, value)| value).to_owned();
                let value = value.to_owned();
                rows.insert(key.to_owned(), Kept { value, was });
            }
        }
        Self { rows }
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (key, kept) in &self.rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{WAS}{key}={}\n{key}={}", kept.was, kept.value);
        }
        text
    }

    /// Replaces the file in this folder.
    ///
    /// # Errors
    /// It can't be written; then the old one is still there.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        replace_file(&folder.join(FILE_NAME), self.text().as_bytes())
    }

    /// Keeps a change; one back to what `broker.conf` says is no change any more. False when there
    /// are too many.
    pub fn keep(&mut self, key: &str, value: &str, file_says: &str) -> bool {
        if value == file_says {
            self.rows.remove(key);
            return true;
        }
        if self.rows.len() >= KEPT_MAX && !self.rows.contains_key(key) {
            return false;
        }
        let kept = Kept {
            value: value.to_owned(),
            was: file_says.to_owned(),
        };
        self.rows.insert(key.to_owned(), kept);
        true
    }

    /// Forgets changes that `broker.conf` has overtaken; their keys are returned.
    pub fn drop_overtaken(&mut self, file_says: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut gone = Vec::new();
        self.rows.retain(|key, kept| {
            let holds = kept.was == kept.value || file_says(key).is_none_or(|now| now == kept.was);
            if !holds {
                gone.push(key.clone());
            }
            holds
        });
        gone
    }

    /// All changes that hold.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows
            .iter()
            .map(|(key, kept)| (key.as_str(), kept.value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(kept: &KeptSettings) -> Vec<(&str, &str)> {
        kept.iter().collect()
    }

    #[test]
    fn what_was_changed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            KeptSettings::load(folder.path()).unwrap(),
            KeptSettings::default()
        );
        let mut kept = KeptSettings::default();
        assert!(kept.keep("brokerPermission", "4", "6"));
        assert!(kept.keep("maxMessageSize", "100", "4194304"));
        kept.save(folder.path()).unwrap();
        let again = KeptSettings::load(folder.path()).unwrap();
        assert_eq!(again, kept);
        assert_eq!(
            pairs(&again),
            [("brokerPermission", "4"), ("maxMessageSize", "100")]
        );
        assert!(kept.keep("brokerPermission", "6", "6"));
        kept.save(folder.path()).unwrap();
        let again = KeptSettings::load(folder.path()).unwrap();
        assert_eq!(pairs(&again), [("maxMessageSize", "100")]);
    }

    #[test]
    fn the_newest_word_wins() {
        let mut kept = KeptSettings::default();
        kept.keep("a", "2", "1");
        kept.keep("b", "2", "1");
        let file = |key: &str| Some(if key == "a" { "3" } else { "1" }.to_owned());
        assert_eq!(kept.drop_overtaken(file), ["a"]);
        assert_eq!(pairs(&kept), [("b", "2")]);
    }

    #[test]
    fn a_line_of_the_operators_own_holds() {
        let mut kept = KeptSettings::parse("# note\nx=5\n#was y=1\ny=2\n");
        assert_eq!(pairs(&kept), [("x", "5"), ("y", "2")]);
        assert_eq!(kept.drop_overtaken(|_| Some("9".to_owned())), ["y"]);
        assert_eq!(pairs(&kept), [("x", "5")]);
    }
}
