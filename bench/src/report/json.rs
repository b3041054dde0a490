//! The report for scripts.
//!
//! **Owns** the names of the figures in JSON; `compare` reads them back by these names.
//! **Lives on** the main thread.
//! **Invariants** a name holds its unit; what was not measured is null, never 0.
//! **Limits** none.
//! **Not here** the figures (`report`).

use serde_json::{Map, Value, json};

use super::{PERCENTILES, Report, per_second, us};
use crate::observe::process::ProcessReading;
use crate::recorder::Latency;

/// The whole report.
pub fn render(report: &Report) -> Value {
    let scenario: Map<String, Value> = report
        .scenario
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let observed = &report.observed;
    let bytes = u32::try_from(report.body_bytes).map_or(0.0, f64::from);
    let is_messages = report.main != Latency::Connect;
    let mib_rate = is_messages.then(|| report.rate() * bytes / (1024.0 * 1024.0));
    json!({
        "scenario": scenario,
        "window_seconds": observed.window.as_secs_f64(),
        "per_second": report.rate(),
        "mib_per_second": mib_rate,
        "received_per_second": report.delivered_rate(),
        "sent": report.totals.sent,
        "acknowledged": report.totals.acknowledged,
        "received": report.totals.delivered,
        "connected": report.totals.connected,
        "overdue": report.totals.overdue,
        "stored": report.stored,
        "errors_by_code": report.totals.errors,
        "latency_us": latencies(report),
        "main_latency": report.main.name(),
        "broker": broker(report),
        "generator_cpu_seconds": observed.generator_cpu_seconds,
        "generator_cpu_seconds_per_million": report.generator_cpu_per_million(),
        "machine": machine(report),
        "read_back": verdict(report),
        "pending": pending(report),
        "course": course(report),
        "believable": report.believable().is_ok(),
    })
}

fn latencies(report: &Report) -> Map<String, Value> {
    let all = Latency::ALL.into_iter();
    all.filter_map(|of| {
        let histogram = report.latency(of)?;
        let mut values: Map<String, Value> = PERCENTILES
            .iter()
            .map(|(name, q)| {
                (
                    (*name).to_owned(),
                    json!(us(histogram.value_at_quantile(*q))),
                )
            })
            .collect();
        values.insert("max".to_owned(), json!(us(histogram.max())));
        values.insert("count".to_owned(), json!(histogram.len()));
        Some((of.name().to_owned(), Value::Object(values)))
    })
    .collect()
}

fn broker(report: &Report) -> Value {
    let Some((before, after)) = report.observed.broker else {
        return Value::Null;
    };
    let grown = |of: fn(&ProcessReading) -> u64| of(&after).saturating_sub(of(&before));
    let ends = report.observed.course.unbacked_bytes();
    json!({
        "cpu_seconds": after.cpu_seconds - before.cpu_seconds,
        "cpu_seconds_per_million": report.broker_cpu_per_million(),
        "rss_bytes": after.rss_bytes,
        "anon_bytes": after.anon_bytes,
        "shmem_bytes": after.shmem_bytes,
        "unbacked_bytes": after.unbacked_bytes(),
        "first_unbacked_bytes": ends.map(|(first, _)| first),
        "last_unbacked_bytes": ends.map(|(_, last)| last),
        "pss_bytes": report.observed.broker_pss_bytes,
        "written_bytes": grown(|r| r.write_bytes),
        "read_bytes": grown(|r| r.read_bytes),
    })
}

fn machine(report: &Report) -> Value {
    let machine = &report.observed.machine;
    let cost = report.device_cost();
    let largest = machine.largest.iter();
    let largest: Vec<Value> = largest
        .map(|(name, cpu)| json!({"name": name, "cpu_seconds": cpu}))
        .collect();
    json!({
        "busy_cpu_seconds": machine.busy_seconds,
        "kernel_threads_cpu_seconds": machine.kernel_seconds,
        "kernel_threads_cpu_seconds_per_million": report.kernel_cpu_per_million(),
        "others_cpu_seconds": machine.others_seconds,
        "stolen_cpu_seconds": machine.steal_seconds,
        "io_wait_seconds": machine.io_wait_seconds,
        "noise_share": machine.noise_share,
        "noisy": machine.is_noisy(),
        "load_before": machine.load.0,
        "load_after": machine.load.1,
        "disk_written_bytes": machine.disk_written_bytes,
        "disk_writes": machine.disk_writes,
        "disk_writes_per_second": cost.map(|cost| cost.writes_per_second),
        "disk_bytes_per_record_byte": cost.map(|cost| cost.per_record_byte),
        "disk_bytes_per_body_byte": cost.map(|cost| cost.per_body_byte),
        "largest_others": largest,
    })
}

fn verdict(report: &Report) -> Value {
    let Some(verdict) = report.verdict else {
        return Value::Null;
    };
    json!({
        "received": verdict.received,
        "lost": verdict.lost,
        "repeated": verdict.repeated,
        "reordered": verdict.reordered,
        "damaged": verdict.corrupt,
        "wrong_offsets": verdict.offset_gaps,
        "early": verdict.early,
        "out_of_due_order": verdict.out_of_due_order,
        "of_others": verdict.foreign,
        "overflow": verdict.overflow,
    })
}

fn pending(report: &Report) -> Value {
    let Some(pending) = report.pending else {
        return Value::Null;
    };
    json!({
        "count": pending.count,
        "fill_seconds": pending.fill_seconds,
        "unbacked_bytes_before": pending.before_bytes,
        "unbacked_bytes_with": pending.with_bytes,
    })
}

fn course(report: &Report) -> Vec<Value> {
    // No latency is 0.
    let us = |ns: u64| (ns > 0).then(|| us(ns));
    let points = report.observed.course.points().iter();
    points
        .map(|p| {
            json!({
                "at_seconds": p.at_seconds,
                "per_second": per_second(p.count, p.length_seconds),
                "p50_us": us(p.p50_ns),
                "p99_us": us(p.p99_ns),
                "max_us": us(p.max_ns),
                "unbacked_bytes": p.unbacked_bytes,
            })
        })
        .collect()
}
