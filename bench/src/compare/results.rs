//! What a comparison found: medians, spans, ratios, files.
//!
//! **Owns** the JSON file of each case and the Markdown table made from all of them.
//! **Lives on** the calling thread.
//! **Invariants** a result names machine, date, commit and how noisy its runs were; a run that
//! failed or lost something is marked, not left out, and no bar is held by a Gantry that did so or
//! without a figure. The table is made from the files, so cases may be run one by one.
//! **Limits** none.
//! **Not here** running (`compare`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::cases::{Bar, CASES, Case, Figure};
use super::servers::{Settings, Side, memory_bytes};
use crate::error::BenchError;
use crate::observe::machine::cores;
use crate::report::mib;

/// Name of the table in the folder of the results.
const TABLE: &str = "README.md";

/// A case's reports.
#[derive(Debug)]
pub struct Outcome {
    name: &'static str,
    about: Value,
    notes: Vec<String>,
    reports: Vec<(Side, Value)>,
}

/// Median and span of one figure of one side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// One line of the table.
#[derive(Debug)]
struct Line {
    figure: Figure,
    bar: Bar,
    peer: Option<Span>,
    gantry: Option<Span>,
    /// Whether every round of both sides has the figure: a median of fewer is of another load.
    is_whole: bool,
    /// What a round of Gantry complained of.
    failure: Option<String>,
}

/// A number in a report by its JSON pointer.
pub fn number(report: &Value, pointer: &str) -> Option<f64> {
    report.pointer(pointer)?.as_f64()
}

fn value(figure: Figure, report: &Value) -> Option<f64> {
    let main = report.get("main_latency").and_then(Value::as_str);
    let latency = |name: &str| number(report, &format!("/latency_us/{}/{name}", main?));
    let mib_of = |name: &str| report.get(name).and_then(Value::as_u64).map(mib);
    match figure {
        Figure::Cpu => number(report, "/broker/cpu_seconds_per_million"),
        Figure::Rate => number(report, "/per_second"),
        Figure::P50 => latency("p50"),
        Figure::P99 => latency("p99"),
        Figure::Max => latency("max"),
        Figure::Start => number(report, "/start_seconds"),
        Figure::StartCpu => number(report, "/start_cpu_seconds"),
        Figure::Restart => number(report, "/restart_seconds"),
        Figure::Idle => mib_of("idle_unbacked_bytes"),
        Figure::After => mib_of("after_unbacked_bytes"),
    }
}

impl Span {
    /// For tables.
    pub fn text(self) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(short);
        format!("{median} ({min}–{max})")
    }
}

/// What a table says of a bar: `held` is none without a figure, and of a figure without a bar
/// `Some(None)`.
pub fn verdict(failure: Option<&str>, held: Option<Option<bool>>) -> String {
    if let Some(failure) = failure {
        return format!("FAILED: {failure}");
    }
    let verdict = match held {
        None => "no figure",
        Some(Some(true)) => "held",
        Some(Some(false)) => "MISSED",
        Some(None) => "",
    };
    verdict.to_owned()
}

/// Median, lowest and highest; `None` of nothing.
pub fn span(mut values: Vec<f64>) -> Option<Span> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(*values.get(middle - 1)?, upper)
    } else {
        upper
    };
    Some(Span {
        median,
        min: *values.first()?,
        max: *values.last()?,
    })
}

impl Outcome {
    /// Nothing found yet.
    pub fn new(case: &Case, what: &str, quick: bool, settings: &Settings) -> Self {
        Self {
            name: case.name,
            about: json!({
                "case": case.name,
                "what": what,
                "quick": quick,
                "peer": "Apache RocketMQ 5.5.0",
                "peer_heap": settings.peer_heap,
                "peer_set": settings.peer_set,
                "set": settings.set,
                "machine": machine(),
                "date": said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
                "commit": built_from(&settings.commit),
            }),
            notes: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Runs that failed or lost something, and figures that are missing.
    pub fn failed_count(&self) -> usize {
        let runs = complaints(self.reports.iter().map(|(_, report)| report)).len();
        let lines = lines(&self.to_json());
        runs + lines.iter().filter(|line| line.lacks_figure()).count()
    }

    /// What must be known about the rounds of one side.
    pub fn note(&mut self, side: Side, text: &str) {
        self.notes.push(format!("{}: {text}", side.name()));
    }

    /// A run's report.
    pub fn add(&mut self, side: Side, report: Value) {
        self.reports.push((side, report));
    }

    fn to_json(&self) -> Value {
        let of = |side| {
            let reports = self.reports.iter().filter(move |(s, _)| *s == side);
            reports.map(|(_, r)| r.clone()).collect::<Vec<_>>()
        };
        let mut all = self.about.clone();
        if let Some(object) = all.as_object_mut() {
            object.insert("notes".to_owned(), json!(self.notes));
            for side in Side::BOTH {
                object.insert(side.name().to_owned(), Value::Array(of(side)));
            }
        }
        all
    }

    /// For the terminal.
    pub fn table(&self) -> String {
        let all = self.to_json();
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "Apache", "Gantry", "ratio", "bar", ""]);
        for line in lines(&all) {
            let name = line.figure.name().to_owned();
            table.add_row([vec![name], line.cells()].concat());
        }
        format!("{table}\n{}", remarks(&all).join("\n"))
    }

    /// Writes the case's file.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), BenchError> {
        let path = folder.join(format!("{}.json", self.name));
        let output = |source| BenchError::Output {
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(output)?;
        let text = serde_json::to_string_pretty(&self.to_json()).unwrap_or_default();
        fs::write(&path, text + "\n").map_err(output)
    }
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        let ratio = self.gantry?.median / self.peer?.median;
        // Of nothing spent, no multiple can be told.
        ratio.is_finite().then_some(ratio)
    }

    fn lacks_figure(&self) -> bool {
        !self.is_whole || self.ratio().is_none()
    }

    /// Whether the bar holds, and why that can't be said.
    fn verdict(&self) -> String {
        let ratio = self.ratio().filter(|_| self.is_whole);
        let held = ratio.map(|ratio| self.bar.holds(ratio));
        verdict(self.failure.as_deref(), held)
    }

    /// Both sides, the ratio, the bar and whether it holds.
    fn cells(&self) -> Vec<String> {
        let text = |span: Option<Span>| span.map_or("–".to_owned(), Span::text);
        let ratio = self.ratio().map_or("–".to_owned(), |ratio| {
            if ratio < 1.0 {
                format!("1/{:.1}", 1.0 / ratio)
            } else {
                format!("{ratio:.2} ×")
            }
        });
        vec![
            text(self.peer),
            text(self.gantry),
            ratio,
            self.bar.text(),
            self.verdict(),
        ]
    }
}

/// A figure for a table.
pub fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

fn reports(all: &Value, side: Side) -> &[Value] {
    let reports = all.get(side.name()).and_then(Value::as_array);
    reports.map_or(&[], Vec::as_slice)
}

fn case_of(all: &Value) -> Option<&'static Case> {
    let name = all.get("case")?.as_str()?;
    CASES.iter().find(|case| case.name == name)
}

fn lines(all: &Value) -> Vec<Line> {
    let of = |side, figure| -> Vec<f64> {
        let values = reports(all, side).iter();
        values.filter_map(|r| value(figure, r)).collect()
    };
    let rounds: usize = Side::BOTH.map(|side| reports(all, side).len()).iter().sum();
    let failure = complaints(reports(all, Side::Gantry)).into_iter().next();
    let figures = case_of(all).map_or(&[][..], |case| case.figures);
    figures
        .iter()
        .map(|(figure, bar)| {
            let [peer, gantry] = Side::BOTH.map(|side| of(side, *figure));
            Line {
                figure: *figure,
                bar: *bar,
                is_whole: peer.len() + gantry.len() == rounds,
                peer: span(peer),
                gantry: span(gantry),
                failure: failure.clone(),
            }
        })
        .collect()
}

/// What makes the figures of a case doubtful.
fn remarks(all: &Value) -> Vec<String> {
    let mut remarks = Vec::new();
    for side in Side::BOTH {
        let reports = reports(all, side);
        let fills = reports.iter().filter_map(|r| r.get("fill"));
        let noise = reports
            .iter()
            .chain(fills)
            .filter_map(|r| number(r, "/machine/noise_share"));
        if let Some(noise) = span(noise.collect()) {
            let [median, max] = [noise.median, noise.max].map(|share| share * 100.0);
            remarks.push(format!(
                "{}: others took {median:.0} % of the machine (at most {max:.0} %)",
                side.name()
            ));
        }
        let kernel = reports
            .iter()
            .filter_map(|r| number(r, "/machine/kernel_threads_cpu_seconds_per_million"));
        if let Some(kernel) = span(kernel.collect()) {
            let cpu = short(kernel.median);
            let text = format!("the kernel's own threads {cpu} CPU-s per million beside it");
            remarks.push(format!("{}: {text}", side.name()));
        }
        let reordered: u64 = reports
            .iter()
            .filter_map(|r| r.pointer("/read_back/reordered")?.as_u64())
            .sum();
        if reordered > 0 {
            let text = format!("{}: {reordered} messages out of order", side.name());
            remarks.push(text);
        }
        let overdue = reports.iter().filter_map(|r| r.get("overdue")?.as_u64());
        let overdue: u64 = overdue.sum();
        if overdue > 0 {
            let text = format!("{}: {overdue} messages were due and not sent", side.name());
            remarks.push(text);
        }
        for complaint in complaints(reports) {
            remarks.push(format!("{}: a run FAILED: {complaint}", side.name()));
        }
    }
    let notes = all.get("notes").and_then(Value::as_array);
    let notes = notes.into_iter().flatten().filter_map(Value::as_str);
    remarks.extend(notes.map(str::to_owned));
    for (side, settings) in [(Side::Peer, "peer_set"), (Side::Gantry, "set")] {
        let given = all.get(settings).and_then(Value::as_array);
        for setting in given.into_iter().flatten().filter_map(Value::as_str) {
            remarks.push(format!("{}: with {setting}", side.name()));
        }
    }
    remarks
}

/// What failed, in the runs themselves or in what they were prepared by; each in one line that fits
/// a cell of a table.
fn complaints<'v>(reports: impl IntoIterator<Item = &'v Value>) -> Vec<String> {
    let of = |r: &'v Value| r.get("complaint")?.as_str();
    let runs = reports.into_iter();
    let both = runs.flat_map(|run| [Some(run), run.get("fill")]);
    let all = both.flatten().filter_map(of);
    all.map(one_line).collect()
}

/// What a program said, in one line that fits a cell of a table.
pub fn one_line(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim_start_matches("gantry: "));
    lines.collect::<Vec<_>>().join(", ").replace('|', "/")
}

/// Makes the table anew from all files in the folder.
///
/// # Errors
/// The folder can't be read or written.
pub fn rebuild(folder: &Path) -> Result<PathBuf, BenchError> {
    let path = folder.join(TABLE);
    let files = CASES.iter().filter_map(|case| {
        let text = fs::read_to_string(folder.join(format!("{}.json", case.name))).ok()?;
        serde_json::from_str(&text).ok()
    });
    let text = markdown(&files.collect::<Vec<Value>>());
    fs::write(&path, text).map_err(|source| BenchError::Output {
        path: path.display().to_string(),
        source,
    })?;
    Ok(path)
}

fn markdown(all: &[Value]) -> String {
    let mut text = String::from(
        "# Gantry and Apache RocketMQ 5.5.0 on the same machine\n\n\
         Written by `gantry bench compare` from the files beside it; what is fair about it and \
         what is not says [bench/README.md](../README.md).\nMedians (lowest–highest) of the \
         rounds, which ran in turn.\n\n\
         | scenario | figure | Apache | Gantry | ratio | bar | |\n|---|---|---|---|---|---|---|\n",
    );
    for case in all {
        for line in lines(case) {
            let what = case.get("what").and_then(Value::as_str).unwrap_or_default();
            let figure = line.figure.name();
            let cells = line.cells().join(" | ");
            // Writing to a string can't fail.
            let _ = writeln!(text, "| {what} | {figure} | {cells} |");
        }
    }
    text.push_str("\n## Where, when, how noisy\n\n");
    for case in all {
        let of = |name: &str| case.get(name).and_then(Value::as_str).unwrap_or("?");
        let quick = case.get("quick").and_then(Value::as_bool) == Some(true);
        let quick = if quick { ", quick" } else { "" };
        let rounds = reports(case, Side::Gantry).len();
        let _ = writeln!(
            text,
            "- **{}**: {}, commit {}, {rounds} rounds{quick}, {}; peer's heap {}. {}",
            of("case"),
            of("date"),
            of("commit"),
            of("machine"),
            of("peer_heap"),
            remarks(case).join("; ")
        );
    }
    text
}

/// Names, scenarios (what they are) and bars.
pub fn list(what: impl Fn(&Case) -> String) -> String {
    let mut text = String::new();
    for case in CASES {
        let _ = writeln!(text, "{:10} {}", case.name, what(case));
        for (figure, bar) in case.figures {
            let _ = writeln!(text, "{:13}{} {}", "", figure.name(), bar.text());
        }
    }
    text
}

/// What a program says; nothing if it fails.
pub fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// The commit, and the way of the build.
pub fn built_from(commit: &str) -> String {
    match option_env!("GANTRY_BUILD") {
        Some(build) => format!("{commit}, {build} build"),
        None => commit.to_owned(),
    }
}

/// Cores, memory and kernel of this machine.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("processor unknown", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} cores {model}, {:.0} GiB, Linux {}",
        cores(),
        mib(memory_bytes()) / 1024.0,
        kernel.trim()
    )
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
