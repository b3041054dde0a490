//! Values by key, each with where it came from.
//!
//! **Owns** the order of precedence, the check of each value, and the words of every complaint.
//! **Lives on** the main thread.
//! **Invariants** what is held has passed its kind's check, so the typed readers can't fail.
//! **Limits** one value per key; the last one given at the strongest place wins.
//! **Not here** the keys (`table`), the file format (`file`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use gantry_actors::kept_settings::FILE_NAME;
use gantry_actors::live::{KeyVerdict, LiveValue};

use super::table::{Effect, Key};
use super::value;

/// Where a value was given. Ordered: a later variant wins over an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Not given: the table's default.
    Default,
    /// An environment variable.
    Env(&'static str),
    /// A line of a file.
    File(PathBuf, usize),
    /// Changed while an earlier process ran.
    Changed,
    /// A command-line option with its own name.
    Flag(&'static str),
    /// `--set key=value`.
    Set,
    /// A change that is asked for while running. Strongest: it has to be right without the options
    /// of this start, too.
    Asked,
}

impl Origin {
    fn strength(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Env(_) => 1,
            Self::File(..) => 2,
            Self::Changed => 3,
            Self::Flag(_) => 4,
            Self::Set => 5,
            Self::Asked => 6,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Changed => write!(f, "{FILE_NAME} (updateBrokerConfig)"),
            Self::Flag(name) => f.write_str(name),
            Self::Set => f.write_str("--set"),
            Self::Asked => f.write_str("this request"),
        }
    }
}

/// One complaint that stops the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value doesn't fit the key.
    #[error("{origin}: {key}={value}: not allowed; {key} takes {allowed}")]
    Malformed {
        /// Where it was given.
        origin: Origin,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The value is well formed and asks for what Gantry can't do.
    #[error("{origin}: {key}={value}: refused: {reason}")]
    Refused {
        /// Where it was given.
        origin: Origin,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Why, and what to do.
        reason: String,
    },
    /// `--set` with something that isn't a key.
    #[error("--set {key}: no such key; `gantry broker --print-config` lists them")]
    NoSuchKey {
        /// The key.
        key: String,
    },
    /// The file can't be read as properties.
    #[error("{path}: cannot be read: {reason}")]
    File {
        /// The file, with the line when one is to blame.
        path: String,
        /// Why.
        reason: String,
    },
}

/// All complaints, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Given {
    value: String,
    origin: Origin,
}

/// Values by key.
#[derive(Clone)]
pub struct Values {
    table: Vec<&'static Key>,
    given: BTreeMap<&'static str, Given>,
    errors: Vec<ConfigError>,
    notices: Vec<String>,
}

impl Values {
    /// Nothing given: every key has its default.
    pub fn new(tables: &[&'static [Key]]) -> Self {
        Self {
            table: tables.iter().flat_map(|table| table.iter()).collect(),
            given: BTreeMap::new(),
            errors: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        self.table.iter().find(|key| key.name == name).copied()
    }

    /// Takes a value in; complaints are kept for [`Values::finish`].
    pub fn give(&mut self, name: &str, value: &str, origin: Origin) {
        let value = value.trim();
        let Some(key) = self.key(name) else {
            if origin == Origin::Set {
                self.errors.push(ConfigError::NoSuchKey {
                    key: name.to_owned(),
                });
            } else {
                self.notices
                    .push(format!("{origin}: unknown key {name}, ignored"));
            }
            return;
        };
        let auto = key.default == "auto" && value == "auto";
        if !auto && !key.kind.accepts(value) {
            self.errors.push(ConfigError::Malformed {
                origin,
                key: name.to_owned(),
                value: value.to_owned(),
                allowed: key.kind.allowed(),
            });
            return;
        }
        if let Effect::None(why) = key.effect {
            self.notices
                .push(format!("{origin}: {name} has no effect in Gantry: {why}"));
        }
        let weaker = self
            .given
            .get(key.name)
            .is_some_and(|held| held.origin.strength() > origin.strength());
        if !weaker {
            self.given.insert(
                key.name,
                Given {
                    value: value.to_owned(),
                    origin,
                },
            );
        }
    }

    /// Takes a value back: the key has its default again.
    pub fn forget(&mut self, name: &str) {
        self.given.remove(name);
    }

    /// What changing a key while running would come to.
    pub fn verdict(&self, name: &str, value: &str) -> KeyVerdict {
        let Some(key) = self.key(name) else {
            return KeyVerdict::Unknown;
        };
        let auto = key.default == "auto" && value == "auto";
        if !auto && !key.kind.accepts(value) {
            return KeyVerdict::Malformed(key.kind.allowed());
        }
        if let Some(why) = key.refusal(value) {
            return KeyVerdict::Refused(why.to_owned());
        }
        match key.effect {
            Effect::None(why) => KeyVerdict::NoEffect(why),
            Effect::DefaultOnly(_) | Effect::Start(_) => KeyVerdict::AtStart,
            Effect::Live(_) => {
                let number = || {
                    let bytes = value::read_bytes(value).unwrap_or(0);
                    LiveValue::Number(u64::try_from(bytes).unwrap_or(0))
                };
                let switch = value::read_bool(value).map(LiveValue::Switch);
                KeyVerdict::Live(switch.unwrap_or_else(number))
            }
        }
    }

    /// Records that a value, well formed by itself, is refused.
    pub fn refuse(&mut self, name: &str, value: &str, origin: Origin, reason: &str) {
        self.errors.push(ConfigError::Refused {
            origin,
            key: name.to_owned(),
            value: value.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// Records a complaint of another kind.
    pub fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Records something the operator should know.
    pub fn notice(&mut self, text: String) {
        self.notices.push(text);
    }

    /// The notices so far, taken.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All complaints at once, so that a file is mended in one go.
    pub fn finish(&mut self) -> Result<(), ConfigErrors> {
        // Only what holds in the end is judged, so a stronger place can take a promise back.
        let held = self.table.iter().filter_map(|key| {
            let given = self.given.get(key.name)?;
            let reason = key.refusal(&given.value)?;
            Some(ConfigError::Refused {
                origin: given.origin.clone(),
                key: key.name.to_owned(),
                value: given.value.clone(),
                reason: reason.to_owned(),
            })
        });
        self.errors.extend(held);
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors(std::mem::take(&mut self.errors)))
    }

    /// A value as text.
    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(given) => &given.value,
            None => self.key(name).map_or("", |key| key.default),
        }
    }

    /// Where a value came from.
    pub fn origin(&self, name: &str) -> Origin {
        self.given
            .get(name)
            .map_or(Origin::Default, |given| given.origin.clone())
    }

    /// A switch.
    pub fn bool(&self, name: &str) -> bool {
        value::read_bool(self.text(name)).unwrap_or(false)
    }

    /// A number; `auto` and anything unreadable is 0.
    pub fn int(&self, name: &str) -> i64 {
        value::read_bytes(self.text(name)).unwrap_or(0)
    }

    /// A number that its range keeps at or above 0.
    pub fn unsigned(&self, name: &str) -> u64 {
        u64::try_from(self.int(name)).unwrap_or(0)
    }

    /// A number that its range keeps inside `i32`.
    pub fn int32(&self, name: &str) -> i32 {
        i32::try_from(self.int(name)).unwrap_or(i32::MAX)
    }

    /// A count.
    pub fn count(&self, name: &str) -> usize {
        usize::try_from(self.int(name)).unwrap_or(0)
    }

    /// A path with `~` and `$HOME` replaced.
    pub fn path(&self, name: &str) -> PathBuf {
        expand_home(self.text(name))
    }

    /// The effective value of every key, in the table's order.
    pub fn lines(&self) -> Vec<(String, String)> {
        self.table
            .iter()
            .map(|key| (key.name.to_owned(), self.text(key.name).to_owned()))
            .collect()
    }

    /// The table as `--print-config` shows it.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for key in &self.table {
            let note = match key.effect {
                Effect::Live(field) => format!("{field}, changes live"),
                Effect::Start(field) => format!("{field}, read at start"),
                Effect::DefaultOnly(why) => format!("only this value: {why}"),
                Effect::None(why) => format!("no effect: {why}"),
            };
            let (takes, from) = (key.kind.allowed(), self.origin(key.name));
            let (name, value) = (key.name, self.text(key.name));
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# {note}; takes {takes}; from {from}\n{name}={value}");
        }
        out
    }
}

/// Replaces a leading `~` and `$HOME`.
pub fn expand_home(text: &str) -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_else(|_| ".".into());
    for prefix in ["~", "$HOME", "${HOME}", "${user.home}"] {
        if let Some(rest) = text.strip_prefix(prefix)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return Path::new(&home).join(rest.trim_start_matches('/'));
        }
    }
    PathBuf::from(text)
}
