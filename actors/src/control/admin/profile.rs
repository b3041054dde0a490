//! The answer to the private code 31003: the latency profile as JSON.
//!
//! **Owns** its shape: what `gantry profile --json` prints.
//! **Lives on** the control plane's thread.
//! **Invariants** a stage that nothing was recorded for is not named.
//! **Limits** one answer a core; the recorder's own.
//! **Not here** recording (`gantry_runtime::metrics`), the tables for people (`server/profile`).

use std::collections::BTreeMap;

use gantry_protocol::code::response;
use gantry_runtime::metrics::{
    Counts, Figures, Histories, Kind, STAGES, STALL_US, Slow, Snapshot, Stage, Stalls,
};
use serde_json::{Map, Value, json};

use crate::control::plane::Plane;
use crate::control::reply::Reply;
use crate::refusal::Refusal;
use crate::seam::{Answer, CoreProfile, Question};
use crate::settings::FlushDiskType;

/// Asks every core.
pub(super) async fn reply(plane: &Plane) -> Result<Reply, Refusal> {
    let answers = plane.asker.ask(Question::Profile).await?;
    let mut cores: Vec<CoreProfile> = Vec::new();
    for answer in answers {
        if let Answer::Profile(core) = answer {
            cores.push(*core);
        }
    }
    cores.sort_unstable_by_key(|core| core.core);
    let report = report(plane, &cores);
    serde_json::to_vec(&report)
        .map(Reply::body)
        .map_err(|error| Refusal::new(response::SYSTEM_ERROR, error.to_string()))
}

fn report(plane: &Plane, cores: &[CoreProfile]) -> Value {
    let sync_flush = plane.settings.flush_disk_type == FlushDiskType::Sync;
    let mut all: Option<Snapshot> = None;
    for snapshot in cores.iter().filter_map(|core| core.snapshot.as_ref()) {
        match &mut all {
            Some(all) => all.merge(snapshot),
            none => *none = Some(snapshot.clone()),
        }
    }
    let now_us = cores.iter().map(|core| core.now_us).max().unwrap_or(0);
    let per_core = cores.iter().filter_map(|core| {
        let mut told = spans(core.snapshot.as_ref()?);
        told.insert("core".to_owned(), core.core.into());
        told.insert("counts".to_owned(), counted(&core.counts));
        Some(Value::Object(told))
    });
    let mut told = Map::new();
    told.insert("enabled".to_owned(), all.is_some().into());
    told.insert("syncFlush".to_owned(), sync_flush.into());
    told.insert("cores".to_owned(), per_core.collect());
    told.insert("refused".to_owned(), refused(cores));
    let mut sum = Counts::default();
    for core in cores {
        sum.add(&core.counts);
    }
    told.insert("counts".to_owned(), counted(&sum));
    if let Some(all) = &all {
        told.insert("merged".to_owned(), Value::Object(spans(all)));
        let slowest = all
            .slowest
            .iter()
            .map(|slow| slow_of(plane, slow, sync_flush));
        told.insert("slowest".to_owned(), slowest.collect());
        told.insert("stalls".to_owned(), stalls(&all.stalls, now_us));
    }
    Value::Object(told)
}

/// Requests refused because something was full or too late, by stage and cause.
fn refused(cores: &[CoreProfile]) -> Value {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for told in cores.iter().flat_map(|core| &core.refused) {
        *sums.entry((told.stage, told.cause)).or_default() += told.count;
    }
    let sums = sums.into_iter();
    sums.map(|((stage, cause), count)| json!({"stage": stage, "cause": cause, "count": count}))
        .collect()
}

/// Since the start; connections are those open now.
fn counted(counts: &Counts) -> Value {
    json!({
        "connections": counts.connections,
        "accepted": counts.accepted,
        "refused": counts.refused,
        "expelled": counts.expelled,
        "framesIn": counts.frames_in,
        "bytesIn": counts.bytes_in,
        "reads": counts.reads,
        "bytesOut": counts.bytes_out,
        "writes": counts.writes,
        "meshBatches": counts.mesh_batches,
        "meshMessages": counts.mesh_messages,
        "lateBeats": counts.late_beats,
        "gatherings": counts.gatherings,
    })
}

fn spans(snapshot: &Snapshot) -> Map<String, Value> {
    let span = |histories: &Histories, us: u64| {
        json!({
            "ms": us / 1000,
            "send": stages(histories, Kind::Send),
            "pull": stages(histories, Kind::Pull),
        })
    };
    let mut told = Map::new();
    let since_start = span(&snapshot.since_start, snapshot.since_start_us);
    told.insert("sinceStart".to_owned(), since_start);
    let window = span(&snapshot.window, snapshot.window_us);
    told.insert("window".to_owned(), window);
    told
}

fn stages(histories: &Histories, kind: Kind) -> Vec<Value> {
    let told = STAGES.iter().filter_map(|stage| {
        let Figures {
            count,
            p50_us,
            p99_us,
            p999_us,
            max_us,
        } = histories.figures(kind, *stage)?;
        Some(json!({
            "stage": stage.name(),
            "count": count,
            "p50Us": p50_us,
            "p99Us": p99_us,
            "p999Us": p999_us,
            "maxUs": max_us,
        }))
    });
    told.collect()
}

fn slow_of(plane: &Plane, slow: &Slow, sync_flush: bool) -> Value {
    let timing = &slow.timing;
    let topics = plane.topics.borrow();
    let topic = topics.name_of(timing.queue.topic);
    let (work, device) = match timing.kind {
        Kind::Send => (Stage::Append, Stage::Sync),
        Kind::Pull => (Stage::Lookup, Stage::DiskRead),
    };
    let is_pull = timing.kind == Kind::Pull;
    let is_done = timing.refused.is_none();
    let passed = [
        (Stage::Decode, u64::from(timing.front.decode_us), true),
        (Stage::Mesh, u64::from(timing.front.mesh_us), false),
        (Stage::Mailbox, u64::from(timing.front.mailbox_us), true),
        (Stage::Wait, timing.wait_us, false),
        (work, u64::from(timing.work_us), is_done),
        (
            device,
            u64::from(timing.device_us),
            is_done && !is_pull && sync_flush,
        ),
        (Stage::Reply, slow.reply_us, true),
    ];
    // Those that a request of its kind may do without are named when they took time.
    let passed = passed.iter().filter(|(_, us, always)| *always || *us > 0);
    let stages: Map<String, Value> = passed
        .map(|(stage, us, _)| (stage.name().to_owned(), (*us).into()))
        .collect();
    let mut told = json!({
        "kind": timing.kind.name(),
        "topic": topic,
        "queueId": timing.queue.queue.0,
        "bytes": timing.bytes,
        "alike": slow.alike,
        "totalUs": slow.total_us,
        "stagesUs": stages,
    });
    if let (Some(stage), Some(told)) = (timing.refused, told.as_object_mut()) {
        told.insert("refusedAt".to_owned(), stage.name().into());
    }
    told
}

fn stalls(stalls: &Stalls, now_us: u64) -> Value {
    let rooms = stalls.rooms.iter().map(|room| {
        json!({
            "room": room.room,
            "count": room.count,
            "sumUs": room.sum_us,
            "maxUs": room.max_us,
        })
    });
    let recent = stalls.recent.iter().rev().map(|stall| {
        json!({
            "room": stall.room,
            "tookUs": stall.took_us,
            "agoMs": now_us.saturating_sub(stall.ended_us) / 1000,
        })
    });
    json!({
        "longerThanUs": STALL_US,
        "rooms": rooms.collect::<Vec<Value>>(),
        "recent": recent.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use gantry_runtime::metrics::Refused;

    use super::*;

    #[test]
    fn refusals_of_all_cores_are_summed_by_cause() {
        let one = |cause, count| Refused {
            stage: "inbox",
            cause,
            count,
        };
        let core = |core, refused| CoreProfile {
            core,
            now_us: 0,
            counts: Counts::default(),
            refused,
            snapshot: None,
        };
        let cores = [
            core(0, vec![one("full", 2), one("memory", 1)]),
            core(1, vec![one("full", 3)]),
        ];
        let wanted = json!([
            {"stage": "inbox", "cause": "full", "count": 5},
            {"stage": "inbox", "cause": "memory", "count": 1},
        ]);
        assert_eq!(refused(&cores), wanted);
    }
}
