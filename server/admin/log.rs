//! `gantry admin log`: verify, dump and repair the logs of a stopped broker.
//!
//! **Owns** the commands' output.
//! **Lives on** the main thread; the disk is read on a core of its own.
//! **Invariants** the store's lock is held throughout; nothing is changed but by `repair` without
//! `--dry-run`.
//! **Limits** none of its own.
//! **Not here** what a sound log is, and mending it (`gantry_storage::offline`).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::future::poll_fn;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;

use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{SendProperties, split_keys};
use gantry_runtime::glommio_disk::{GlommioDisk, StoreLock, TailFile, TailPlace};
use gantry_runtime::shard::{self, CoreContext};
use gantry_storage::format::{Entry, IdentityKind, STORE_FILE, TailHeader, shard_folder};
use gantry_storage::offline::{self, Damage, Repaired, Survey};
use gantry_storage::units::ShardId;
use gantry_storage::{address, identity};
use serde_json::{Value, json};

use crate::cli::{AdminLog, LogDump, LogRepair};
use crate::print::answer;

/// Bytes of a tail's header that are used.
const TAIL_HEAD_BYTES: usize = 40;

/// Runs the command.
///
/// # Errors
/// What is damaged, or why it could not be looked at.
pub fn run(command: &AdminLog) -> Result<(), String> {
    let place = match command {
        AdminLog::Verify(place) => place,
        AdminLog::Dump(dump) => &dump.place,
        AdminLog::Repair(repair) => &repair.place,
    };
    let _lock = lock(&place.data)?;
    let job = match command {
        AdminLog::Verify(_) => Job::Verify,
        AdminLog::Dump(LogDump { topic, json, .. }) => Job::Dump {
            topic: topic.clone(),
            json: *json,
        },
        AdminLog::Repair(LogRepair {
            dry_run,
            without_tail,
            ..
        }) => Job::Repair {
            is_dry: *dry_run,
            without_tail: *without_tail,
        },
    };
    let (data, shard) = (place.data.clone(), place.shard);
    shard::on_a_core(move |context| {
        let (data, job) = (data.clone(), job.clone());
        async move { work(&context, &data, shard, &job).await }
    })?
}

#[derive(Clone)]
enum Job {
    Verify,
    Dump { topic: Option<String>, json: bool },
    Repair { is_dry: bool, without_tail: bool },
}

fn lock(data: &Path) -> Result<StoreLock, String> {
    // The lock would make the folder.
    if !data.join(STORE_FILE).is_file() {
        return Err(format!("{} holds no store of Gantry", data.display()));
    }
    StoreLock::take(data).map_err(|error| error.to_string())
}

async fn work(
    context: &CoreContext,
    data: &Path,
    only: Option<u8>,
    job: &Job,
) -> Result<(), String> {
    let disk = GlommioDisk::open(data, context.queues.flush).await;
    let disk = disk.map_err(|error| error.to_string())?;
    let store = identity::load(&disk, IdentityKind::Store, STORE_FILE).await;
    let store = store.map_err(|error| error.to_string())?;
    if let Some(number) = only.filter(|number| *number >= store.shard) {
        return Err(format!(
            "--shard {number}: the store has no such shard; it has 0 to {}",
            store.shard.saturating_sub(1)
        ));
    }
    let mut damaged = 0;
    for number in (0..store.shard).filter(|number| only.is_none_or(|only| only == *number)) {
        let shard = ShardId(number);
        let tail = tail_left(data, store.id, number);
        damaged += match job {
            Job::Verify => verify(&disk, shard, tail).await?,
            Job::Dump { topic, json } => match dump(&disk, shard, topic.as_deref(), *json).await? {
                Some(places) => places,
                None => return Ok(()),
            },
            Job::Repair {
                is_dry,
                without_tail,
            } => {
                if let Some(tail) = tail.filter(|_| !is_dry && !without_tail) {
                    return Err(format!("shard {number}: {}", tail.advice()));
                }
                mend(&disk, shard, *is_dry).await?;
                0
            }
        };
    }
    if damaged > 0 {
        return Err(format!(
            "{damaged} damaged places; gantry admin log repair --dry-run says what giving them up \
             would drop"
        ));
    }
    Ok(())
}

/// A tail that is there though the store is at rest.
struct TailLeft {
    path: PathBuf,
    /// Another process has it: not one on this folder, which is locked.
    is_used: bool,
}

impl TailLeft {
    fn advice(&self) -> String {
        let path = self.path.display();
        if self.is_used {
            return format!(
                "the tail {path} is in use by another process, perhaps with a copy of this data \
                 folder; stop that one, or go on with --without-tail if this is the copy"
            );
        }
        format!(
            "a killed broker left its tail in {path}; start the broker, it may mend the log from \
             there, or go on with --without-tail"
        )
    }
}

impl std::fmt::Display for TailLeft {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        if self.is_used {
            write!(out, "the tail {path} is in use by another process")
        } else {
            write!(out, "a killed broker left its tail in {path}")
        }
    }
}

/// The tail that a killed process left of this shard. A start that was refused leaves an empty one.
fn tail_left(data: &Path, store_id: u64, shard: u8) -> Option<TailLeft> {
    let path = TailPlace::choose(None, data).locate(data, store_id, shard);
    let mut head = [0; TAIL_HEAD_BYTES];
    File::open(&path).ok()?.read_exact(&mut head).ok()?;
    TailHeader::decode(&head)?;
    let is_used = TailFile::is_used(&path);
    Some(TailLeft { path, is_used })
}

async fn verify(disk: &GlommioDisk, shard: ShardId, tail: Option<TailLeft>) -> Result<u64, String> {
    let found = offline::survey(disk, shard, &mut |_| {}).await;
    let found = found.map_err(|error| format!("shard {shard}: {error}"))?;
    let mut text = summary(shard, &found);
    if let Some(tail) = tail {
        // Writing to a String can't fail, here and below.
        let _ = writeln!(text, "  {tail}: what only that has is not counted here");
    }
    answer(&text)?;
    Ok(places(&found))
}

/// Damaged places, a record that does not fit its check being one, and an end that is missing.
fn places(found: &Survey) -> u64 {
    let unreadable = u64::from(!found.unreadable.is_empty());
    found.damages.len() as u64 + found.unfit + u64::from(found.unreached.is_some()) + unreadable
}

fn summary(shard: ShardId, found: &Survey) -> String {
    let mut text = format!(
        "shard {shard}: positions {} to {}, {} runs, {} records, {} damaged places\n",
        found.first,
        found.end,
        found.runs,
        found.records,
        places(found)
    );
    if found.fillers > 0 {
        let _ = writeln!(
            text,
            "  {} runs were given up by earlier repairs",
            found.fillers
        );
    }
    for damage in &found.damages {
        let _ = writeln!(text, "  {}", line(shard, damage));
    }
    if let Some(line) = unfit_line(shard, found) {
        let _ = writeln!(text, "  {line}");
    }
    let lines = [unreached_line(shard, found), unreadable_line(shard, found)];
    for line in lines.into_iter().flatten() {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(torn) = found.torn {
        let _ = writeln!(
            text,
            "  runs from position {torn} on were never synced as a whole; the next start drops them"
        );
    }
    text
}

fn unfit_line(shard: ShardId, found: &Survey) -> Option<String> {
    let first = found.first_unfit?;
    let folder = shard_folder(shard);
    let count = found.unfit;
    Some(format!(
        "{folder}: {count} records in sound runs don't fit their checks, the first at position \
         {first}; readers pass over them"
    ))
}

fn unreached_line(shard: ShardId, found: &Survey) -> Option<String> {
    let (end, known) = (found.end, found.unreached?);
    Some(format!(
        "{}: the log ends at position {end}, but the last checkpoint knows that it was synced up \
         to {known}",
        shard_folder(shard)
    ))
}

fn unreadable_line(shard: ShardId, found: &Survey) -> Option<String> {
    let (first, cause) = (found.unreadable.first()?, found.unreadable_cause.as_ref()?);
    Some(format!(
        "{}: {} blocks behind the log's end can't be read, the first at position {first}: {cause}",
        shard_folder(shard),
        found.unreadable.len()
    ))
}

fn line(shard: ShardId, damage: &Damage) -> String {
    let lost = damage
        .runs_lost
        .map_or_else(|| "unknown runs".to_owned(), |lost| format!("{lost} runs"));
    let cause = damage.cause.as_deref().unwrap_or("no sound run is there");
    format!(
        "{}/{}: damaged from position {} to {} ({lost}): {cause}",
        shard_folder(shard),
        damage.file,
        damage.position,
        damage.end
    )
}

/// Prints a shard's records; the damaged places, or none once whoever reads has enough.
async fn dump(
    disk: &GlommioDisk,
    shard: ShardId,
    topic: Option<&str>,
    json: bool,
) -> Result<Option<u64>, String> {
    // False and a failure both end the walk.
    let printed = RefCell::new(Ok(true));
    let mut print = |entry: &Entry<'_>| {
        let goes_on = matches!(*printed.borrow(), Ok(true));
        if goes_on && let Some(line) = record_line(shard, entry, topic, json) {
            *printed.borrow_mut() = answer(&line);
        }
    };
    let mut walk = pin!(offline::survey(disk, shard, &mut print));
    let found = poll_fn(|context| match walk.as_mut().poll(context) {
        Poll::Ready(found) => Poll::Ready(Some(found)),
        // The rest of the log may be long, and nobody wants it.
        Poll::Pending if !matches!(*printed.borrow(), Ok(true)) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    if !printed.replace(Ok(true))? {
        return Ok(None);
    }
    let Some(found) = found else {
        return Ok(None);
    };
    let found = found.map_err(|error| format!("shard {shard}: {error}"))?;
    for damage in &found.damages {
        tell!("{}", line(shard, damage));
    }
    let lines = [
        unfit_line(shard, &found),
        unreached_line(shard, &found),
        unreadable_line(shard, &found),
    ];
    for line in lines.into_iter().flatten() {
        tell!("{line}");
    }
    Ok(Some(places(&found)))
}

fn record_line(
    shard: ShardId,
    entry: &Entry<'_>,
    topic: Option<&str>,
    json: bool,
) -> Option<String> {
    let view = RecordView::parse(entry.record).ok()?;
    if topic.is_some_and(|topic| topic != view.topic) {
        return None;
    }
    let properties = SendProperties::scan(view.properties);
    let keys: Vec<&str> = properties
        .keys
        .map(split_keys)
        .into_iter()
        .flatten()
        .collect();
    let unique = properties.unique_key.unwrap_or_default();
    let physical = address::physical(shard, entry.position).0;
    if json {
        let value: Value = json!({
            "shard": shard.0, "position": entry.position.0, "physicalOffset": physical,
            "topic": view.topic, "queueId": view.queue_id, "queueOffset": view.queue_offset,
            "bytes": view.record_bytes, "storeTimestamp": view.store_timestamp,
            "keys": keys, "uniqKey": unique,
        });
        return Some(format!("{value}\n"));
    }
    Some(format!(
        "{physical}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        view.topic,
        view.queue_id,
        view.queue_offset,
        view.record_bytes,
        view.store_timestamp,
        unique,
        keys.join(" ")
    ))
}

async fn mend(disk: &GlommioDisk, shard: ShardId, is_dry: bool) -> Result<(), String> {
    let done = offline::repair(disk, shard, is_dry).await;
    let done = done.map_err(|error| format!("shard {shard}: {error}"))?;
    answer(&told(shard, &done, is_dry)).map(drop)
}

fn told(shard: ShardId, done: &Repaired, is_dry: bool) -> String {
    if done.is_nothing() {
        return format!("shard {shard}: nothing to repair\n");
    }
    let what = if is_dry { "would give up" } else { "gave up" };
    let mut text = String::new();
    for damage in &done.before.damages {
        let _ = writeln!(text, "shard {shard}: {what} {}", line(shard, damage));
    }
    if let Some(line) = unreached_line(shard, &done.before) {
        let _ = writeln!(text, "shard {shard}: {what} what is missing: {line}");
    }
    if let Some(line) = unreadable_line(shard, &done.before) {
        let what = if is_dry { "would clear" } else { "cleared" };
        let _ = writeln!(text, "shard {shard}: {what} what no record needs: {line}");
    }
    if done.drops_checkpoint {
        let what = if is_dry { "would remove" } else { "removed" };
        let _ = writeln!(
            text,
            "shard {shard}: {what} the checkpoint; the next start replays the whole log"
        );
    }
    text
}
