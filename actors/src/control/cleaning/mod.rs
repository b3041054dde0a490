//! The cleaning supervisor: decides what old data goes, and whether the disk takes writes.
//!
//! **Owns** the watch over the disk, the runs of retention, the registry of owed records.
//! **Lives on** the control plane's thread, as two guarded tasks: a run waits for cores and for
//! records that move, the watch waits for nobody.
//! **Invariants** segments go only up to the lowest owed record that could not be moved forward;
//! what can't be measured or asked deletes nothing.
//! **Limits** one run at a time, every `cleanResourceInterval`; the disk is looked at every
//! [`WATCH_EVERY`].
//! **Not here** the rules (`gantry_storage::retention`), dropping (`data::retention`).

mod hour;
pub mod owed;

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_runtime::control::guard_task;
use gantry_runtime::space;
use gantry_storage::retention::{self, Moment, Plan, Reason, Rules, ShardAges, Usage};
use gantry_storage::units::StoreTimestamp;
use tokio::sync::Notify;

use super::plane::Plane;
use crate::refusal::Refusal;
use crate::seam::{Answer, OwnTimes, Question, TopicEntry};
use owed::Owed;

/// How often the disk is looked at, so that a full one is noticed, and room again, within that.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The topic attribute with a topic's own time, in hours (RocketMQ's name for it).
pub const RESERVE_TIME: &str = "reserve.time";
const HOUR_MS: u64 = 3_600_000;

/// What outlives a panic of the supervisor.
pub struct Cleaning {
    /// Who may have owed records in old segments.
    pub owed: Owed,
    usage: Cell<Option<Usage>>,
    is_asked: Cell<bool>,
    is_refusing: Cell<bool>,
    /// Whether the cores know `is_refusing`.
    is_told: Cell<bool>,
    last_run: Cell<Option<Instant>>,
    /// Why the disk couldn't be measured, so that it is said once.
    blind: RefCell<Option<String>>,
    wake: Notify,
}

impl Default for Cleaning {
    fn default() -> Self {
        Self {
            owed: Owed::default(),
            usage: Cell::new(None),
            is_asked: Cell::new(false),
            is_refusing: Cell::new(false),
            // A core that starts takes writes.
            is_told: Cell::new(true),
            last_run: Cell::new(None),
            blind: RefCell::default(),
            wake: Notify::new(),
        }
    }
}

impl Cleaning {
    /// Code 329: a run now, as if the hour of `deleteWhen` had come.
    pub fn ask(&self) {
        self.is_asked.set(true);
        self.wake.notify_one();
    }

    /// The disk as last measured.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.get()
    }
}

/// Runs for ever.
pub async fn run(plane: Rc<Plane>) {
    // The first run is one interval after the start.
    plane.cleaning.last_run.set(Some(Instant::now()));
    let (budget, runs) = (plane.budget("cleaning"), Rc::clone(&plane));
    let own = budget.clone();
    actix::spawn(async move { guard_task(own, || clean_when_due(&runs)).await });
    guard_task(budget, || watch(&plane)).await;
}

fn interval(plane: &Plane) -> Duration {
    Duration::from_millis(plane.settings.retention.interval_ms)
}

async fn watch(plane: &Rc<Plane>) {
    let pause = WATCH_EVERY.min(interval(plane));
    loop {
        measure(plane);
        tell_cores(plane).await;
        actix::clock::sleep(pause).await;
    }
}

async fn clean_when_due(plane: &Rc<Plane>) {
    let (state, every) = (&plane.cleaning, interval(plane));
    loop {
        let since = state.last_run.get().map_or(every, |last| last.elapsed());
        let left = every.saturating_sub(since);
        let is_asked = state.is_asked.take();
        if !is_asked && !left.is_zero() {
            // Time over is the usual case.
            let _ = actix::clock::timeout(left, state.wake.notified()).await;
            continue;
        }
        state.last_run.set(Some(Instant::now()));
        if let Err(refusal) = clean(plane, is_asked).await {
            tracing::warn!(%refusal, "old data stays for now");
        }
    }
}

/// Looks at the disk.
fn measure(plane: &Plane) {
    let state = &plane.cleaning;
    match space::usage(&plane.settings.data_dir) {
        Ok(usage) => {
            state.usage.set(Some(usage));
            state.blind.replace(None);
            let rules = &plane.settings.retention.rules;
            let was = state.is_refusing.get();
            let is = retention::refuses_writes(was, rules, usage);
            if is != was {
                state.is_refusing.set(is);
                state.is_told.set(false);
                say(rules, usage, is);
            }
        }
        Err(error) => {
            state.usage.set(None);
            if state.blind.replace(Some(error.to_string())).is_none() {
                tracing::warn!(%error, "the disk can't be measured: only age deletes");
            }
        }
    }
}

fn say(rules: &Rules, usage: Usage, is_refusing: bool) {
    if is_refusing {
        tracing::error!(
            "{}: messages are refused, reading goes on",
            full(rules, usage)
        );
    } else {
        tracing::info!(
            used = percent(usage),
            "the disk has room again: messages are taken"
        );
    }
}

fn percent(usage: Usage) -> String {
    let permille = usage.permille();
    format!("{}.{}%", permille / 10, permille % 10)
}

/// What a producer is told.
fn full(rules: &Rules, usage: Usage) -> String {
    format!(
        "the broker's disk is full: {} used, diskSpaceWarningLevelRatio is {}%",
        percent(usage),
        rules.warning_percent
    )
}

/// Why no message is taken, if none is.
pub fn refusing(plane: &Plane) -> Option<String> {
    let state = &plane.cleaning;
    let usage = state.usage.get().filter(|_| state.is_refusing.get())?;
    Some(full(&plane.settings.retention.rules, usage))
}

async fn tell_cores(plane: &Rc<Plane>) {
    let state = &plane.cleaning;
    if state.is_told.get() {
        return;
    }
    let reason = refusing(plane).map(Arc::from);
    // A core that doesn't answer is told again.
    let told = plane.asker.ask(Question::RefuseWrites(reason)).await;
    state.is_told.set(told.is_ok());
}

async fn clean(plane: &Rc<Plane>, is_asked: bool) -> Result<(), Refusal> {
    let rules = &plane.settings.retention.rules;
    let now_ms = u64::try_from(plane.now_ms()).unwrap_or(0);
    let own = own_times(plane.topics.borrow().iter(), rules, now_ms);
    let answers = plane.asker.ask(Question::Ages(Arc::new(own))).await?;
    let shards: Vec<ShardAges> = answers
        .into_iter()
        .flat_map(|answer| match answer {
            Answer::Ages(ages) => ages,
            _ => Vec::new(),
        })
        .collect();
    let moment = Moment {
        now: StoreTimestamp(now_ms),
        hour: hour::local(now_ms),
        is_asked,
    };
    let usage = plane.cleaning.usage.get().unwrap_or_default();
    let plan = retention::plan(&shards, rules, usage, moment);
    let plan = settle(&plane.cleaning.owed, plan).await;
    if plan.drops.is_empty() && plan.is_recycling {
        return Ok(());
    }
    for drop in &plan.drops {
        let why = match drop.reason {
            Reason::Age => "they are older than fileReservedTime",
            Reason::Forced => "the disk is above diskSpaceCleanForciblyRatio",
        };
        tracing::info!(shard = %drop.shard, before = drop.before.0, why, "segments go");
    }
    let order = Question::DropSegments(Arc::new(plan));
    plane.asker.ask(order).await.map(drop)
}

/// Moves owed records out of the way and shortens the plan to what is free of them.
async fn settle(owed: &Owed, plan: Plan) -> Plan {
    let mut drops = Vec::with_capacity(plan.drops.len());
    for mut drop in plan.drops {
        drop.before = owed.clear(drop.shard, drop.before).await;
        if drop.before.0 > 0 {
            drops.push(drop);
        }
    }
    Plan { drops, ..plan }
}

/// Topics that keep their records for a time of their own.
fn own_times<'a>(
    topics: impl Iterator<Item = &'a Arc<TopicEntry>>,
    rules: &Rules,
    now_ms: u64,
) -> OwnTimes {
    let mut own = OwnTimes::default();
    for entry in topics {
        let Some(reserved_ms) = reserved_ms(entry) else {
            continue;
        };
        let since = StoreTimestamp(now_ms.saturating_sub(reserved_ms));
        match reserved_ms.cmp(&rules.reserved_ms) {
            Ordering::Less => own.trim.push((entry.id, since)),
            Ordering::Greater => own.keep.push((entry.id, since)),
            Ordering::Equal => {}
        }
    }
    own
}

/// A topic's own time; -1 and 0 mean the broker's.
fn reserved_ms(entry: &TopicEntry) -> Option<u64> {
    let hours = entry
        .config
        .attributes
        .get(RESERVE_TIME)?
        .parse::<u64>()
        .ok()?;
    (hours > 0).then(|| hours.saturating_mul(HOUR_MS))
}

#[cfg(test)]
mod tests;
