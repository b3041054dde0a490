//! The control plane's tables: small, ordered, transactional key-values in one file.
//!
//! **Owns** the namespaces, their numbers, batches, and the embedded store (redb, ADR 0001).
//! **Lives on** the control plane's thread, or a blocking thread beside it; `Send`, blocking calls.
//! **Invariants** a batch is there wholly or not at all, whatever dies; a commit
//! survives a power cut. After a failed write the file is opened anew, as of the last commit.
//! **Limits** keys up to `KEY_BYTES_MAX`, values up to `VALUE_BYTES_MAX`; one process per file.
//! **Not here** what keys and values mean (the actors), message bodies (the shard logs).

#[cfg(test)]
mod tests;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, TableDefinition};
use thiserror::Error;

/// Longest key: topic, group and separators fit several times.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value: a subscription table of a large group fits.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Memory for pages of the file; the whole of a small broker's metadata fits, and 10,000 offsets of
/// 200,000 are stored as fast with 2 MiB as with 8.
const CACHE_BYTES: usize = 2 << 20;
/// Layout version of the file, kept in `Namespace::Meta`.
const LAYOUT_VERSION: u32 = 1;
const LAYOUT_KEY: &[u8] = b"layout-version";
/// Name of the file in the folder given to `open`.
const FILE_NAME: &str = "tables.redb";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Readable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A set of keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// What this file is; the store's own.
    Meta,
    /// Topics.
    Topics,
    /// Subscription groups.
    Groups,
    /// Consumer offsets.
    Offsets,
    /// Data versions of the other namespaces.
    DataVersions,
    /// Due times of delayed messages.
    Timers,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Meta,
        Self::Topics,
        Self::Groups,
        Self::Offsets,
        Self::DataVersions,
        Self::Timers,
    ];

    /// The name in the file; never change one.
    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topics => "topics",
            Self::Groups => "groups",
            Self::Offsets => "offsets",
            Self::DataVersions => "data-versions",
            Self::Timers => "timers",
        }
    }

    fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

/// Why a call on the tables failed.
#[derive(Debug, Error)]
pub enum TablesError {
    /// Another process (or another handle in this one) has the file open.
    #[error("{file} is in use by another process")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by a newer program.
    #[error("{file} has layout {found}, this program knows {LAYOUT_VERSION}: use a newer program")]
    Newer {
        /// The file.
        file: PathBuf,
        /// The layout found.
        found: u32,
    },
    /// A key or value is too long.
    #[error("{what} of {bytes} bytes in {namespace:?}, at most {bytes_max} are taken")]
    TooLong {
        /// Key or value.
        what: &'static str,
        /// Where.
        namespace: Namespace,
        /// Its length.
        bytes: usize,
        /// The longest taken.
        bytes_max: usize,
    },
    /// The folder cannot be made or the file cannot be opened, read or written.
    #[error("{operation} {file}: {cause}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: PathBuf,
        /// What the store said.
        cause: Box<redb::Error>,
    },
}

impl TablesError {
    fn wants_reopening(&self) -> bool {
        matches!(self, Self::Store { cause, .. } if matches!(**cause, redb::Error::PreviousIo))
    }
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// Changes that become visible and durable together, applied in the order given.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<(Namespace, Change)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(
        &mut self,
        namespace: Namespace,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.changes
            .push((namespace, Change::Put(key.into(), value.into())));
        self
    }

    /// Removes `key`; an absent one is fine.
    pub fn delete(&mut self, namespace: Namespace, key: impl Into<Vec<u8>>) -> &mut Self {
        self.changes.push((namespace, Change::Delete(key.into())));
        self
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// The open tables.
#[derive(Debug)]
pub struct Tables {
    /// None only between closing it after a failed write and opening it anew.
    database: Mutex<Option<Database>>,
    file: PathBuf,
}

impl Tables {
    /// Opens the tables in `folder`, which is made when missing. After a crash the file is repaired
    /// to its last durable commit.
    ///
    /// # Errors
    /// `InUse`, `Newer`, or `Store`.
    pub fn open(folder: &Path) -> Result<Self, TablesError> {
        let file = folder.join(FILE_NAME);
        let failed = |cause| TablesError::Store {
            operation: "opening",
            file: file.clone(),
            cause: Box::new(cause),
        };
        std::fs::create_dir_all(folder).map_err(|error| failed(redb::Error::Io(error)))?;
        let database = Mutex::new(Some(open_file(&file)?));
        let tables = Self { database, file };
        tables.check_layout()?;
        Ok(tables)
    }

    fn held(&self) -> MutexGuard<'_, Option<Database>> {
        // Nothing under this lock leaves it half-changed.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the database for a transaction, opening it first if need be.
    fn begin<T, E: Into<redb::Error>>(
        &self,
        operation: &'static str,
        begin: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<T, TablesError> {
        let mut held = self.held();
        if held.is_none() {
            *held = Some(open_file(&self.file)?);
        }
        match held.as_ref() {
            Some(database) => begin(database).map_err(self.failed(operation)),
            None => Err(self.failed(operation)(redb::Error::DatabaseClosed)),
        }
    }

    fn check_layout(&self) -> Result<(), TablesError> {
        // Opening a table for writing creates it: after this every namespace can be read.
        let transaction = self.begin("opening", Database::begin_write)?;
        for namespace in Namespace::ALL {
            transaction
                .open_table(namespace.definition())
                .map_err(self.failed("opening"))?;
        }
        transaction.commit().map_err(self.failed("opening"))?;
        let Some(found) = self.get(Namespace::Meta, LAYOUT_KEY)? else {
            let mut batch = Batch::new();
            batch.put(Namespace::Meta, LAYOUT_KEY, LAYOUT_VERSION.to_be_bytes());
            return self.commit(&batch);
        };
        let found = <[u8; 4]>::try_from(found.as_slice()).map_or(u32::MAX, u32::from_be_bytes);
        if found > LAYOUT_VERSION {
            return Err(TablesError::Newer {
                file: self.file.clone(),
                found,
            });
        }
        Ok(())
    }

    fn failed<E: Into<redb::Error>>(&self, operation: &'static str) -> impl Fn(E) -> TablesError {
        let file = self.file.clone();
        move |cause| TablesError::Store {
            operation,
            file: file.clone(),
            cause: Box::new(cause.into()),
        }
    }

    /// Does it, and once more with the file opened anew if an earlier write had failed (a full
    /// disk): until then the store neither takes nor gives anything.
    fn again<T>(&self, once: impl Fn() -> Result<T, TablesError>) -> Result<T, TablesError> {
        match once() {
            Err(error) if error.wants_reopening() => {
                self.held().take();
                once()
            }
            done => done,
        }
    }

    fn read<T>(
        &self,
        namespace: Namespace,
        read: impl Fn(&Readable) -> Result<T, redb::StorageError>,
    ) -> Result<T, TablesError> {
        self.again(|| {
            let transaction = self.begin("reading", ReadableDatabase::begin_read)?;
            let table = transaction
                .open_table(namespace.definition())
                .map_err(self.failed("reading"))?;
            read(&table).map_err(self.failed("reading"))
        })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// `Store`.
    pub fn get(&self, namespace: Namespace, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.read(namespace, |table| {
            let value = table.get(key)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    /// Up to `count_max` pairs with keys from `from` (inclusive) to `to` (exclusive; none = no
    /// end), in the order of the keys.
    ///
    /// # Errors
    /// `Store`.
    pub fn range(
        &self,
        namespace: Namespace,
        from: &[u8],
        to: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<Pair>, TablesError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        self.read(namespace, |table| {
            let mut out = Vec::new();
            for pair in table.range::<&[u8]>(bounds)?.take(count_max) {
                let (key, value) = pair?;
                out.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(out)
        })
    }

    /// Every pair of a namespace, in the order of the keys; for loading small ones at start.
    ///
    /// # Errors
    /// `Store`.
    pub fn all(&self, namespace: Namespace) -> Result<Vec<Pair>, TablesError> {
        self.range(namespace, &[], None, usize::MAX)
    }

    /// Makes every change of the batch, or none of them; on the device when this returns: one or
    /// two syncs, 1–3 ms on a disk.
    ///
    /// # Errors
    /// `TooLong` before anything is changed; `Store`.
    pub fn commit(&self, batch: &Batch) -> Result<(), TablesError> {
        check_lengths(batch)?;
        self.again(|| self.commit_once(batch))
    }

    fn commit_once(&self, batch: &Batch) -> Result<(), TablesError> {
        let failed = "writing";
        let transaction = self.begin(failed, Database::begin_write)?;
        let mut changes = batch.changes.iter().peekable();
        // A table is opened once per stretch of changes in the same namespace.
        while let Some(&&(namespace, _)) = changes.peek() {
            let mut table = transaction
                .open_table(namespace.definition())
                .map_err(self.failed(failed))?;
            while let Some((_, change)) = changes.next_if(|(next, _)| *next == namespace) {
                match change {
                    Change::Put(key, value) => {
                        table
                            .insert(key.as_slice(), value.as_slice())
                            .map_err(self.failed(failed))?;
                    }
                    Change::Delete(key) => {
                        table.remove(key.as_slice()).map_err(self.failed(failed))?;
                    }
                }
            }
        }
        transaction.commit().map_err(self.failed(failed))
    }
}

fn open_file(file: &Path) -> Result<Database, TablesError> {
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create(file);
    opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => TablesError::InUse {
            file: file.to_owned(),
        },
        error => TablesError::Store {
            operation: "opening",
            file: file.to_owned(),
            cause: Box::new(error.into()),
        },
    })
}

fn check_lengths(batch: &Batch) -> Result<(), TablesError> {
    for (namespace, change) in &batch.changes {
        let (key, value) = match change {
            Change::Put(key, value) => (key.len(), value.len()),
            Change::Delete(key) => (key.len(), 0),
        };
        let parts = [
            ("key", key, KEY_BYTES_MAX),
            ("value", value, VALUE_BYTES_MAX),
        ];
        if let Some((what, bytes, bytes_max)) = parts.into_iter().find(|part| part.1 > part.2) {
            return Err(TablesError::TooLong {
                what,
                namespace: *namespace,
                bytes,
                bytes_max,
            });
        }
    }
    Ok(())
}
