//! What became of each entry.
//!
//! **Owns** the counts and the list of what was not taken.
//! **Lives on** the main thread; pure.
//! **Invariants** every entry is counted once.
//! **Limits** [`NAMED_MAX`] entries are named, the rest only counted.
//! **Not here** the deciding (`super`).

use std::collections::BTreeMap;

use crate::admin::table::{Cell, Report, Table};

/// Most entries that are named in the report.
const NAMED_MAX: usize = 1000;

/// Kinds of entries, in the order of the report.
pub const TOPICS: &str = "topic";
/// See [`TOPICS`].
pub const GROUPS: &str = "group";
/// See [`TOPICS`].
pub const FORBIDDEN: &str = "forbidden";
/// See [`TOPICS`].
pub const POSITIONS: &str = "offset";
const KINDS: [&str; 4] = [TOPICS, GROUPS, FORBIDDEN, POSITIONS];

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was (or would be) taken.
    Taken,
    /// The broker has the same.
    There,
    /// The broker has another, which stays.
    Differs,
    /// Every broker has its own.
    System,
    /// It can't be taken.
    Failed(String),
}

#[derive(Debug, Default)]
struct Counts {
    taken: i64,
    there: i64,
    differs: i64,
    system: i64,
    failed: i64,
}

/// See the room's head.
pub struct Tally {
    broker: String,
    dry_run: bool,
    counts: BTreeMap<&'static str, Counts>,
    named: Vec<(&'static str, String, String)>,
    set_to_the_start: i64,
    set_to_the_end: i64,
}

impl Tally {
    /// Nothing is counted yet.
    pub fn new(broker: &str, dry_run: bool) -> Self {
        Self {
            broker: broker.to_owned(),
            dry_run,
            counts: BTreeMap::new(),
            named: Vec::new(),
            set_to_the_start: 0,
            set_to_the_end: 0,
        }
    }

    /// Counts an entry.
    pub fn note(&mut self, kind: &'static str, name: &str, fate: Fate) {
        let counts = self.counts.entry(kind).or_default();
        let (count, why) = match fate {
            Fate::Taken => (&mut counts.taken, None),
            Fate::There => (&mut counts.there, None),
            Fate::System => (&mut counts.system, None),
            Fate::Differs => {
                let why = "the broker has another one; --overwrite replaces it";
                (&mut counts.differs, Some(why.to_owned()))
            }
            Fate::Failed(why) => (&mut counts.failed, Some(why)),
        };
        *count += 1;
        if let Some(why) = why {
            self.name(kind, name.to_owned(), why);
        }
    }

    /// Names something that is never taken.
    pub fn leave(&mut self, what: String, why: String) {
        self.name("file", what, why);
    }

    /// A position was set to the start of what its queue holds, or to the end of that, and not to
    /// what the file says.
    pub fn set_elsewhere(&mut self, is_start: bool) {
        let count = if is_start {
            &mut self.set_to_the_start
        } else {
            &mut self.set_to_the_end
        };
        *count += 1;
    }

    fn name(&mut self, kind: &'static str, name: String, why: String) {
        if self.named.len() < NAMED_MAX {
            self.named.push((kind, name, why));
        }
    }

    /// Entries that should have been taken and were not.
    pub fn missed(&self) -> i64 {
        let all = self.counts.values();
        all.map(|counts| counts.differs + counts.failed).sum()
    }

    /// For the operator.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        report.fact("broker", self.broker.as_str());
        report.fact("dryRun", self.dry_run);
        report.fact("setToTheStart", self.set_to_the_start);
        report.fact("setToTheEnd", self.set_to_the_end);
        let columns = [
            "kind",
            "taken",
            "alreadyThere",
            "differs",
            "ofTheSystem",
            "failed",
        ];
        let mut table = Table::new("entries", &columns);
        let none = Counts::default();
        for kind in KINDS {
            let counts = self.counts.get(kind).unwrap_or(&none);
            table.row([
                kind.into(),
                counts.taken.into(),
                counts.there.into(),
                counts.differs.into(),
                counts.system.into(),
                counts.failed.into(),
            ]);
        }
        report.table(table);
        let mut named = Table::new("notTaken", &["kind", "name", "reason"]);
        for (kind, name, why) in &self.named {
            named.row([Cell::from(*kind), name.into(), why.into()]);
        }
        report.table(named);
        report
    }
}
