//! Settings that an operator changes while the broker runs.
//!
//! **Owns** the cells, and what a change of a key may come to, alone and at the next start.
//! **Lives on** both planes: written by the control plane's thread, read by every core.
//! **Invariants** a cell is one relaxed atomic: reading it costs a plain load, and a reader sees
//! the old value or the new one. No reader needs two cells to agree.
//! **Limits** a value has passed its key's check before it comes here.
//! **Not here** the keys, their ranges and words (`server/config`), what is kept (`kept_settings`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::kept_settings::KeptSettings;

/// A switch that changes live.
#[derive(Debug, Default)]
pub struct LiveSwitch(AtomicBool);

impl LiveSwitch {
    /// Its value now.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

impl From<bool> for LiveSwitch {
    fn from(on: bool) -> Self {
        Self(AtomicBool::new(on))
    }
}

impl Clone for LiveSwitch {
    fn clone(&self) -> Self {
        Self::from(self.get())
    }
}

/// A number that changes live.
#[derive(Debug, Default)]
pub struct LiveNumber(AtomicU64);

impl LiveNumber {
    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Its value now, as a count.
    pub fn count(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }

    /// Changes it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl From<u64> for LiveNumber {
    fn from(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
}

impl From<usize> for LiveNumber {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl Clone for LiveNumber {
    fn clone(&self) -> Self {
        Self::from(self.get())
    }
}

/// The cell of a key.
#[derive(Debug, Clone, Copy)]
pub enum LiveCell<'s> {
    /// A switch.
    Switch(&'s LiveSwitch),
    /// A number.
    Number(&'s LiveNumber),
}

/// A value for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveValue {
    /// For a switch.
    Switch(bool),
    /// For a number.
    Number(u64),
}

impl LiveCell<'_> {
    /// Changes the cell; false when the value is of another kind.
    pub fn set(self, value: LiveValue) -> bool {
        match (self, value) {
            (Self::Switch(cell), LiveValue::Switch(on)) => cell.set(on),
            (Self::Number(cell), LiveValue::Number(number)) => cell.set(number),
            _ => return false,
        }
        true
    }
}

/// What a key and a value come to, as the table of keys says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyVerdict {
    /// No such key.
    Unknown,
    /// The value doesn't fit; this is what the key takes.
    Malformed(String),
    /// The value fits and can't be done, for this reason.
    Refused(String),
    /// The key does nothing here, for this reason.
    NoEffect(&'static str),
    /// Read at start only.
    AtStart,
    /// Takes effect now.
    Live(LiveValue),
}

/// The table of keys, as a question.
pub type KeyCheck = fn(key: &str, value: &str) -> KeyVerdict;

/// Pairs of key and value.
type Pairs<'p> = &'p [(&'p str, &'p str)];
/// A start, tried with what is kept and with the changes of a request.
type TryStart = dyn Fn(&KeptSettings, Pairs<'_>) -> Result<(), String> + Send + Sync;

/// Whether the next start would take a request's changes together with everything else that is
/// configured: rules of several keys can't be judged key by key.
#[derive(Clone)]
pub struct StartCheck(Arc<TryStart>);

impl StartCheck {
    /// A check by this function.
    pub fn new<F>(try_start: F) -> Self
    where
        F: Fn(&KeptSettings, Pairs<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        Self(Arc::new(try_start))
    }

    /// Asks.
    ///
    /// # Errors
    /// Why a start with these changes would be refused.
    pub fn ask(&self, kept: &KeptSettings, changes: Pairs<'_>) -> Result<(), String> {
        (self.0)(kept, changes)
    }
}

impl Default for StartCheck {
    fn default() -> Self {
        Self::new(|_, _| Ok(()))
    }
}

impl fmt::Debug for StartCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StartCheck")
    }
}
