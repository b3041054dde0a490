//! The report for people.
//!
//! **Owns** the rows of the table at the end of a run and their order.
//! **Lives on** the main thread.
//! **Invariants** what makes a run doubtful (noise, errors, a bad verdict) stands in the table, not
//! only in the exit code.
//! **Limits** none.
//! **Not here** the figures (`report`).

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;

use super::{PERCENTILES, Report, mib, us};
use crate::recorder::Latency;

type Rows = Vec<(String, String)>;

/// The table.
pub fn render(report: &Report) -> String {
    let mut rows: Rows = Vec::new();
    for (name, value) in &report.scenario {
        rows.push(((*name).to_owned(), value.clone()));
    }
    speed(report, &mut rows);
    pending(report, &mut rows);
    costs(report, &mut rows);
    machine(report, &mut rows);
    outcome(report, &mut rows);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    for (name, value) in rows {
        table.add_row([name, value]);
    }
    table.to_string()
}

fn row(rows: &mut Rows, name: &str, value: String) {
    rows.push((name.to_owned(), value));
}

fn speed(report: &Report, rows: &mut Rows) {
    let rate = report.rate();
    if report.main == Latency::Connect {
        row(rows, "connections/s", format!("{rate:.0}"));
    } else {
        let bytes = u32::try_from(report.body_bytes).map_or(0.0, f64::from);
        let mib_rate = rate * bytes / (1024.0 * 1024.0);
        row(rows, "messages/s", format!("{rate:.0}"));
        row(rows, "MiB/s", format!("{mib_rate:.1}"));
    }
    if report.observed.counts.delivered > 0 && report.observed.counts.acknowledged > 0 {
        row(
            rows,
            "received/s",
            format!("{:.0}", report.delivered_rate()),
        );
    }
    for of in Latency::ALL {
        let Some(histogram) = report.latency(of) else {
            continue;
        };
        let name = format!("{} µs p50 / p90 / p99 / p99.9 / p99.99 / max", of.name());
        row(rows, &name, percentiles(histogram));
    }
}

fn percentiles(histogram: &Histogram<u64>) -> String {
    let mut values: Vec<String> = PERCENTILES
        .iter()
        .map(|(_, q)| format!("{:.0}", us(histogram.value_at_quantile(*q))))
        .collect();
    values.push(format!("{:.0}", us(histogram.max())));
    values.join(" / ")
}

fn pending(report: &Report, rows: &mut Rows) {
    let Some(pending) = report.pending else {
        return;
    };
    let (before, with) = (pending.before_bytes, pending.with_bytes);
    let [before, with, more] = [before, with, with.saturating_sub(before)].map(mib);
    let name = format!("{} parked in", pending.count);
    row(rows, &name, format!("{:.1} s", pending.fill_seconds));
    let name = "broker MiB without a file before / with them / more";
    row(rows, name, format!("{before:.1} / {with:.1} / {more:.1}"));
}

fn costs(report: &Report, rows: &mut Rows) {
    let million = if report.main == Latency::Connect {
        "connections"
    } else {
        "messages"
    };
    let observed = &report.observed;
    if let Some((before, after)) = observed.broker {
        if let Some(cpu) = report.broker_cpu_per_million() {
            let name = format!("broker CPU-s per million {million}");
            row(rows, &name, format!("{cpu:.2}"));
        }
        let memory = [after.rss_bytes, after.anon_bytes, after.shmem_bytes].map(mib);
        let [rss, anon, shmem] = memory.map(|m| format!("{m:.1}"));
        let name = "broker MiB resident / anonymous / shared";
        row(rows, name, format!("{rss} / {anon} / {shmem}"));
        if let Some((first, last)) = observed.course.unbacked_bytes() {
            let [first, last] = [first, last].map(mib);
            let name = "broker MiB without a file, first / last second";
            row(rows, name, format!("{first:.1} / {last:.1}"));
        }
        let written = after.write_bytes.saturating_sub(before.write_bytes);
        let read = after.read_bytes.saturating_sub(before.read_bytes);
        let name = "broker MiB to / from the device";
        row(
            rows,
            name,
            format!("{:.1} / {:.1}", mib(written), mib(read)),
        );
    }
    let generator = observed.generator_cpu_seconds;
    let per_million = report.generator_cpu_per_million().unwrap_or(0.0);
    let name = format!("generator CPU-s, per million {million}");
    row(rows, &name, format!("{generator:.2}, {per_million:.2}"));
}

fn machine(report: &Report, rows: &mut Rows) {
    let machine = &report.observed.machine;
    let written = mib(machine.disk_written_bytes);
    row(rows, "all disks MiB written", format!("{written:.1}"));
    if let Some(cost) = report.device_cost() {
        let name = "disk bytes a byte accepted as record / as body";
        let value = format!("{:.3} / {:.3}", cost.per_record_byte, cost.per_body_byte);
        row(rows, name, value);
        let writes = format!("{:.0}", cost.writes_per_second);
        row(rows, "disk writes/s", writes);
    }
    let others = format!(
        "others {:.2}, stolen {:.2} ({:.1} % of the machine)",
        machine.others_seconds,
        machine.steal_seconds,
        machine.noise_share * 100.0
    );
    row(rows, "CPU-s spent elsewhere", others);
    let per_million = report.kernel_cpu_per_million().unwrap_or(0.0);
    let kernel = format!("{:.2}, {per_million:.2}", machine.kernel_seconds);
    row(rows, "kernel's own threads CPU-s, per million", kernel);
    let (before, after) = machine.load;
    let io_wait = machine.io_wait_seconds;
    let load = format!("{before:.2} to {after:.2}, {io_wait:.2} s");
    row(rows, "load, I/O wait", load);
    if machine.is_noisy() {
        let named = machine.largest.iter();
        let named: Vec<_> = named.map(|(n, cpu)| format!("{n} {cpu:.2}")).collect();
        row(rows, "NOISY: largest others, CPU-s", named.join(", "));
    }
}

fn outcome(report: &Report, rows: &mut Rows) {
    if report.totals.overdue > 0 {
        let name = "DUE BUT NOT SENT: raise --in-flight, or the rate is too high";
        let share = report.overdue_share() * 100.0;
        let text = format!("{}, {share:.2} %", report.totals.overdue);
        row(rows, name, text);
    }
    if let Some(stored) = report.stored {
        row(rows, "messages stored", stored.to_string());
    }
    if let Some(verdict) = report.verdict {
        let text = format!(
            "{} received, {} lost, {} repeated, {} out of order, {} damaged, {} wrong offsets",
            verdict.received,
            verdict.lost,
            verdict.repeated,
            verdict.reordered,
            verdict.corrupt,
            verdict.offset_gaps
        );
        row(rows, "read back", text);
        if report.main == Latency::Late {
            let text = format!(
                "{} early, {} behind one due later",
                verdict.early, verdict.out_of_due_order
            );
            row(rows, "due times", text);
        }
        if verdict.foreign > 0 {
            row(rows, "of others, left out", verdict.foreign.to_string());
        }
    }
    if report.failed() > 0 {
        row(rows, "FAILED, by code", report.errors_by_code());
    }
    if let Some(why) = &report.observed.log_failure {
        row(rows, "histogram log", why.clone());
    }
}
