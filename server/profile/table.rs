//! The profile as tables for people.
//!
//! **Owns** their layout, and the waterfall's bars.
//! **Lives on** the main thread.
//! **Invariants** pure; only what the broker named is printed.
//! **Limits** none of its own.
//! **Not here** the broker's answer (`gantry_actors::control`).

use std::fmt::Write as _;

use serde_json::Value;

/// Columns of a waterfall's bars.
const BAR: u64 = 32;
/// What is no part of a request's total: before it, or behind its answer's back.
const BESIDE: [&str; 4] = ["read", "wait", "write", "total"];

/// Everything.
pub fn print(report: &Value) -> String {
    let mut out = String::new();
    for refused in list(report, "refused") {
        let _ = writeln!(
            out,
            "refused since start: {} at stage {}: {}",
            number(refused, "count"),
            text(refused, "stage"),
            text(refused, "cause"),
        );
    }
    counts(&mut out, report.get("counts").unwrap_or(&Value::Null));
    if report.get("enabled") != Some(&Value::Bool(true)) {
        out.push_str("the profile is switched off (latencyProfileEnable=false)\n");
        return out;
    }
    let sync_flush = report.get("syncFlush") == Some(&Value::Bool(true));
    let cores = list(report, "cores");
    if let Some(merged) = report.get("merged") {
        let name = format!("{} core(s) together", cores.len());
        part(&mut out, &name, merged, sync_flush);
    }
    if cores.len() > 1 {
        for core in cores {
            let name = format!("core {}", number(core, "core"));
            part(&mut out, &name, core, sync_flush);
        }
    }
    slowest(&mut out, list(report, "slowest"));
    stalls(&mut out, report.get("stalls").unwrap_or(&Value::Null));
    out
}

/// What the network has done since the start: requests that come alone cost a read and a write
/// each.
fn counts(out: &mut String, counts: &Value) {
    if counts.is_null() {
        return;
    }
    let of = |key| number(counts, key);
    let _ = writeln!(
        out,
        "connections: {} open, {} accepted, {} refused, {} expelled",
        of("connections"),
        of("accepted"),
        of("refused"),
        of("expelled"),
    );
    let each = |what: u64, by: u64| what / by.max(1);
    let _ = writeln!(
        out,
        "network: {} frames in {} reads of {} bytes each, {} writes of {} bytes each",
        of("framesIn"),
        of("reads"),
        each(of("bytesIn"), of("reads")),
        of("writes"),
        each(of("bytesOut"), of("writes")),
    );
    if of("meshBatches") > 0 {
        let (messages, batches) = (of("meshMessages"), of("meshBatches"));
        let _ = writeln!(out, "mesh: {messages} words in {batches} batches");
    }
    if of("gatherings") > 0 {
        let _ = writeln!(
            out,
            "requests were left to gather {} times",
            of("gatherings")
        );
    }
    if of("lateBeats") > 0 {
        let late = of("lateBeats");
        let _ = writeln!(out, "beats that came late (a core was held up): {late}");
    }
}

fn part(out: &mut String, whose: &str, part: &Value, sync_flush: bool) {
    for (key, what) in [("window", "the last"), ("sinceStart", "since start,")] {
        let Some(span) = part.get(key) else { continue };
        let seconds = number(span, "ms") / 1000;
        for kind in ["send", "pull"] {
            let stages = list(span, kind);
            if !stages.is_empty() {
                let _ = writeln!(out, "{kind}: {whose}, {what} {seconds} s");
                waterfall(out, stages, sync_flush);
            }
        }
    }
}

fn waterfall(out: &mut String, stages: &[Value], sync_flush: bool) {
    let (head, p50, p99) = ("stage", "p50", "p99");
    let _ = writeln!(
        out,
        "  {head:<10}{:>12}{p50:>11}{p99:>11}{:>11}{:>11}",
        "requests", "p99.9", "max"
    );
    let in_total = |stage: &Value| {
        let name = text(stage, "stage");
        !BESIDE.contains(&name) && (sync_flush || name != "sync")
    };
    let path = stages.iter().filter(|stage| in_total(stage));
    let whole = path.map(|stage| number(stage, "p50Us")).sum::<u64>().max(1);
    let mut at = 0;
    for stage in stages {
        let (name, us) = (text(stage, "stage"), |key| time(number(stage, key)));
        let mut line = format!(
            "  {name:<10}{:>12}{:>11}{:>11}{:>11}{:>11}",
            number(stage, "count"),
            us("p50Us"),
            us("p99Us"),
            us("p999Us"),
            us("maxUs"),
        );
        if in_total(stage) {
            let (from, took) = (at, number(stage, "p50Us"));
            at += took;
            let (from, to) = (from * BAR / whole, at * BAR / whole);
            let blank = usize::try_from(from).unwrap_or(0);
            let bar = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
            let _ = write!(line, "  {}{}", " ".repeat(blank), "#".repeat(bar.max(1)));
        } else if name != "total" {
            line.push_str("  not in total");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
}

fn slowest(out: &mut String, all: &[Value]) {
    if all.is_empty() {
        return;
    }
    let _ = writeln!(out, "slowest of the window");
    for slow in all {
        let mut line = format!(
            "  {:>10}  {} {} queue {}, {} bytes",
            time(number(slow, "totalUs")),
            text(slow, "kind"),
            text(slow, "topic"),
            number(slow, "queueId"),
            number(slow, "bytes"),
        );
        let alike = number(slow, "alike");
        if alike > 1 {
            let _ = write!(line, ", with {} more of its batch", alike - 1);
        }
        if let Some(stage) = slow.get("refusedAt").and_then(Value::as_str) {
            let _ = write!(line, ", refused at {stage}");
        }
        line.push(':');
        let passed = slow.get("stagesUs").and_then(Value::as_object);
        for (stage, us) in passed.into_iter().flatten() {
            let _ = write!(line, " {stage} {}", time(us.as_u64().unwrap_or(0)));
        }
        let _ = writeln!(out, "{line}");
    }
    out.push('\n');
}

fn stalls(out: &mut String, stalls: &Value) {
    let longer = time(number(stalls, "longerThanUs"));
    for room in list(stalls, "rooms") {
        let _ = writeln!(
            out,
            "stalled its core longer than {longer}: {}, {} times, longest {}, together {}",
            text(room, "room"),
            number(room, "count"),
            time(number(room, "maxUs")),
            time(number(room, "sumUs")),
        );
    }
    for stall in list(stalls, "recent").iter().take(5) {
        let _ = writeln!(
            out,
            "  {} s ago: {} for {}",
            number(stall, "agoMs") / 1000,
            text(stall, "room"),
            time(number(stall, "tookUs")),
        );
    }
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of.get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or("?")
}

/// Microseconds for people.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prints_what_is_there_and_nothing_else() {
        let stage = |name: &str, p50: u64| {
            json!({"stage": name, "count": 7, "p50Us": p50, "p99Us": 1500, "p999Us": 2_500_000,
                   "maxUs": 3})
        };
        let send = json!([
            stage("read", 0),
            stage("decode", 30),
            stage("mailbox", 10),
            stage("append", 20),
            stage("write", 900),
            stage("sync", 9000),
            stage("reply", 40),
            stage("total", 100),
        ]);
        let report = json!({
            "enabled": true, "syncFlush": false,
            "refused": [{"stage": "inbox", "cause": "memory", "count": 12}],
            "counts": {"connections": 3, "accepted": 5, "framesIn": 700, "reads": 7, "bytesIn": 770,
                       "bytesOut": 90, "writes": 9, "lateBeats": 2},
            "cores": [{"core": 0}],
            "merged": {"window": {"ms": 12000, "send": send, "pull": []}},
            "slowest": [{"kind": "send", "topic": "T", "queueId": 3, "bytes": 1024, "alike": 3,
                         "totalUs": 5000, "stagesUs": {"decode": 30}, "refusedAt": "mailbox"}],
            "stalls": {"longerThanUs": 1000, "rooms": [], "recent": []},
        });
        let shown = print(&report);
        assert!(shown.contains("12 at stage inbox: memory"), "{shown}");
        assert!(
            shown.contains("700 frames in 7 reads of 110 bytes each, 9 writes of 10 bytes"),
            "{shown}"
        );
        assert!(
            shown.contains("send: 1 core(s) together, the last 12 s"),
            "{shown}"
        );
        assert!(
            shown.contains("1.50 ms") && shown.contains("2.50 s"),
            "{shown}"
        );
        assert!(
            !shown.contains("pull") && !shown.contains("mesh"),
            "{shown}"
        );
        assert!(
            shown.contains("T queue 3, 1024 bytes, with 2 more of its batch, refused at mailbox:"),
            "{shown}"
        );
        let line = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap();
        assert!(line("  append").ends_with(&format!("  {}#######", " ".repeat(12))));
        assert!(line("  sync").ends_with("not in total"));
        let off = print(&json!({"enabled": false}));
        assert!(off.contains("latencyProfileEnable"), "{off}");
    }
}
