//! `gantry bench judge`: Gantry's log against the device under it, and against itself.
//!
//! **Owns** the order of the rounds and how each figure is measured.
//! **Lives on** the calling thread; every measured run is a process of its own.
//! **Invariants** what is compared with each other is measured in one round; each run has a server
//! with a fresh store, but for what a restart shows.
//! **Limits** the rounds asked for.
//! **Not here** the bars (`rows`), the files (`table`), the device (`device`), Apache (`compare`).

pub mod device;
pub mod rows;
pub mod table;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::args::{JudgeArgs, ROUNDS_MIN};
use crate::compare::results::number;
use crate::compare::run::{generator, generator_beside, report_of};
use crate::compare::servers::{Server, Settings, Side, end_with_us};
use crate::compare::{ready, results_folder, work_folder};
use crate::error::BenchError;
use device::Device;
use rows::{Found, ROWS, Row};
use table::Rounds;

const TOPIC: &str = "GantryJudge";
const PRODUCE: &[&str] = &["produce"];
const ONE: &[&str] = &["produce", "--connections", "1", "--in-flight", "1"];
const MANY: &[&str] = &["queues", "--topics", "1250"];
/// 100,000 queues.
const CROWD: &[&str] = &["queues", "--topics", "12500"];
const RATE: &[&str] = &["produce", "--rate", "10000", "--in-flight", "4096"];
const E2E: &[&str] = &["e2e", "--rate", "5000", "--in-flight", "4096"];
const FILL: &[&str] = &["consume", "--phase", "fill"];
const READ: &[&str] = &["consume", "--phase", "read"];
/// A fresh store has zeros written ahead in a quiet time (docs/adr/0003).
const REST: Duration = Duration::from_secs(4);

/// How long and how large.
#[derive(Debug, Clone, Copy)]
struct Scale {
    seconds: u64,
    warm_up: u64,
    device_mib: u64,
    backlog: u64,
    log_messages: u64,
}

/// Runs it.
///
/// # Errors
/// An unknown row, a server that does not start, a round that failed, or results that can't be
/// written.
pub fn run(args: &JudgeArgs, commit: &str) -> Result<(), BenchError> {
    if args.table.list {
        for row in ROWS {
            println!("{:10} {} {}", row.name(), row.what(), row.bar().text());
        }
        return Ok(());
    }
    let chosen = chosen(&args.table.scenario)?;
    if args.table.rounds < ROUNDS_MIN && !args.quick {
        return Err(BenchError::Argument {
            name: "--rounds",
            value: args.table.rounds.to_string(),
            allowed: "3 and up",
        });
    }
    ready::check_first(args.table.port)?;
    let judge = Judge::new(args, commit)?;
    end_with_us(judge.work.path().to_owned())?;
    let results = results_folder(args.table.results.as_deref(), args.quick);
    let mut all: Vec<Rounds> = chosen
        .iter()
        .map(|row| Rounds {
            row: *row,
            found: Vec::new(),
        })
        .collect();
    for round in 1..=args.table.rounds {
        judge.round(round, &mut all);
        // What breaks a later round off leaves those before.
        let table = table::write(&all, (commit, args.quick), &results)?;
        eprintln!("table: {}", table.display());
    }
    for rounds in &all {
        println!("{}", rounds.line());
    }
    let failed_count = all.iter().filter(|rounds| rounds.has_failed()).count();
    if failed_count > 0 {
        let what = format!("{failed_count} figures failed, the table says which");
        return Err(BenchError::Wrong { what });
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Row>, BenchError> {
    if names.is_empty() {
        return Ok(ROWS.to_vec());
    }
    let of = |name: &String| {
        let row = ROWS.into_iter().find(|row| row.name() == name);
        row.ok_or_else(|| BenchError::Argument {
            name: "--scenario",
            value: name.clone(),
            allowed: "one of those that --list shows",
        })
    };
    names.iter().map(of).collect()
}

struct Judge {
    scale: Scale,
    settings: Settings,
    work: tempfile::TempDir,
}

/// A run's figures.
struct Ran<'f> {
    report: Value,
    found: &'f mut Found,
}

impl Ran<'_> {
    /// A figure of it, which goes among the row's parts.
    fn figure(&mut self, name: &'static str, pointer: &str) -> Option<f64> {
        let value = number(&self.report, pointer)?;
        self.found.parts.push((name, value));
        Some(value)
    }

    /// Latency of what the scenario is about, µs.
    fn latency(&mut self, name: &'static str, percentile: &str) -> Option<f64> {
        let main = self.report.get("main_latency")?.as_str()?;
        let pointer = format!("/latency_us/{main}/{percentile}");
        self.figure(name, &pointer)
    }
}

impl Judge {
    fn new(args: &JudgeArgs, commit: &str) -> Result<Self, BenchError> {
        let work = work_folder(args.table.work.as_deref(), "gantry-judge-")?;
        let (scale, log_messages) = if args.quick {
            (Scale::QUICK, 300_000)
        } else {
            (Scale::FULL, 2_000_000)
        };
        let scale = Scale {
            log_messages: args.log_messages.unwrap_or(log_messages),
            ..scale
        };
        let settings = Settings {
            work: work.path().to_owned(),
            port: args.table.port,
            peer_heap: String::new(),
            peer_set: Vec::new(),
            set: Vec::new(),
            commit: commit.to_owned(),
        };
        Ok(Self {
            scale,
            settings,
            work,
        })
    }

    /// One round, in turn from the first row and from the last: what changes meanwhile doesn't meet
    /// the same ones.
    fn round(&self, nth: usize, all: &mut [Rounds]) {
        let needs_device = all.iter().any(|rounds| rounds.row.needs_device());
        let device = needs_device
            .then(|| device::measure(self.work.path(), self.scale.device_mib))
            .transpose();
        let mut order: Vec<&mut Rounds> = all.iter_mut().collect();
        if nth.is_multiple_of(2) {
            order.reverse();
        }
        for rounds in order {
            let mut found = Found::default();
            let judged = match &device {
                Err(error) if rounds.row.needs_device() => {
                    found.complaints.push(error.to_string());
                    Ok(None)
                }
                device => {
                    let device = device.as_ref().ok().copied().flatten();
                    let is_swapped = nth.is_multiple_of(2);
                    self.measure(rounds.row, (device, is_swapped), &mut found)
                }
            };
            match judged {
                Ok(judged) => found.judged = judged.filter(|judged| judged.is_finite()),
                Err(error) => found.complaints.push(error.to_string()),
            }
            if found.judged.is_none() && found.complaints.is_empty() {
                let lacks = "a run's report lacks the figure";
                found.complaints.push(lacks.to_owned());
            }
            eprintln!(
                "round {nth}: {} {:?} {:?} {}",
                rounds.row.name(),
                found.judged,
                found.parts,
                found.complaints.join("; ")
            );
            rounds.found.push(found);
        }
    }

    /// `is_swapped`: of two runs that are held against each other the second one comes first.
    fn measure(
        &self,
        row: Row,
        (device, is_swapped): (Option<Device>, bool),
        found: &mut Found,
    ) -> Result<Option<f64>, BenchError> {
        Ok(match row {
            Row::Device => device.map(|device| {
                found.parts.push(("p99 µs", device.sync_p99_us));
                let read = device.read_mib_per_second;
                found.parts.push(("sequential reader MiB/s", read));
                device.sync_p50_us
            }),
            Row::SyncOwn => {
                let own = (false, PRODUCE, "ASYNC_FLUSH msgs/s");
                let sync = (true, PRODUCE, "SYNC_FLUSH msgs/s");
                self.share(sync, own, is_swapped, found)?
            }
            Row::SyncOne => self.sync_one(device, found)?,
            Row::Cold => self.cold(device, found)?,
            Row::Queues => {
                let few = (false, PRODUCE, "8 queues msgs/s");
                let many = (false, MANY, "10,000 queues msgs/s");
                self.share(many, few, is_swapped, found)?
            }
            Row::Written => {
                let server = self.started(false)?;
                let mut ran = self.load(&server, PRODUCE, found)?;
                ran.figure("msgs/s", "/per_second");
                ran.figure("a byte of the bodies", "/machine/disk_bytes_per_body_byte");
                number(&ran.report, "/machine/disk_bytes_per_record_byte")
            }
            Row::Writes => {
                let server = self.started(false)?;
                let mut ran = self.load(&server, RATE, found)?;
                ran.figure("CPU-s per million", "/broker/cpu_seconds_per_million");
                number(&ran.report, "/machine/disk_writes_per_second")
            }
            Row::Beside => self.beside(found)?,
            Row::Recover => {
                let mut server = self.started(false)?;
                self.messages(&server, FILL, self.scale.log_messages, found)?;
                server.kill9()?;
                let took = server.start()?;
                found.parts.push(("CPU-s", took.cpu_seconds));
                Some(took.seconds)
            }
            Row::Start => {
                let mut server = self.started(false)?;
                self.load(&server, CROWD, found)?;
                server.stop()?;
                let took = server.start()?;
                found.parts.push(("CPU-s", took.cpu_seconds));
                Some(took.seconds)
            }
        })
    }

    fn started(&self, sync_flush: bool) -> Result<Server, BenchError> {
        let mut server = Server::new(Side::Gantry, &self.settings, sync_flush)?;
        server.start()?;
        Ok(server)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn run<'f>(
        &self,
        server: &Server,
        words: (&[&str], &[String]),
        found: &'f mut Found,
    ) -> Result<Ran<'f>, BenchError> {
        let out = self.out("report.json");
        let report = report_of(generator(), server, words, TOPIC, &out)?;
        found.note(&report);
        Ok(Ran { report, found })
    }

    fn load<'f>(
        &self,
        server: &Server,
        words: &[&str],
        found: &'f mut Found,
    ) -> Result<Ran<'f>, BenchError> {
        self.run(server, (words, &self.scale.window()), found)
    }

    fn messages<'f>(
        &self,
        server: &Server,
        words: &[&str],
        count: u64,
        found: &'f mut Found,
    ) -> Result<Ran<'f>, BenchError> {
        let more = ["--messages".to_owned(), count.to_string()];
        self.run(server, (words, &more), found)
    }

    /// Messages a second of a load on a fresh server.
    fn rate(
        &self,
        (sync_flush, words, name): (bool, &[&str], &'static str),
        found: &mut Found,
    ) -> Result<Option<f64>, BenchError> {
        let server = self.started(sync_flush)?;
        std::thread::sleep(REST);
        let mut ran = self.load(&server, words, found)?;
        Ok(ran.figure(name, "/per_second"))
    }

    /// Messages a second of one load as a share of those of another.
    fn share(
        &self,
        of: (bool, &[&str], &'static str),
        to: (bool, &[&str], &'static str),
        is_swapped: bool,
        found: &mut Found,
    ) -> Result<Option<f64>, BenchError> {
        if is_swapped {
            let of = self.rate(of, found)?;
            return Ok(ratio(of, self.rate(to, found)?));
        }
        let to = self.rate(to, found)?;
        Ok(ratio(self.rate(of, found)?, to))
    }

    /// One message in flight. What the same way takes without the device is told beside it: with
    /// the device's own time that is the least a client can see.
    fn sync_one(
        &self,
        device: Option<Device>,
        found: &mut Found,
    ) -> Result<Option<f64>, BenchError> {
        let device_us = device.map(|device| device.sync_p50_us);
        let mut p50 = |sync_flush, name| -> Result<Option<f64>, BenchError> {
            let server = self.started(sync_flush)?;
            std::thread::sleep(REST);
            Ok(self.load(&server, ONE, found)?.latency(name, "p50"))
        };
        let synced_us = p50(true, "p50 µs")?;
        let way_us = p50(false, "p50 µs under ASYNC_FLUSH")?;
        let least_us = way_us.zip(device_us).map(|(way, device)| way + device);
        let least = ratio(least_us, device_us);
        found
            .parts
            .extend(least.map(|least| ("device and way", least)));
        Ok(ratio(synced_us, device_us))
    }

    /// A server with a backlog that is in no memory.
    fn with_backlog(&self, found: &mut Found) -> Result<Server, BenchError> {
        let mut server = self.started(false)?;
        self.messages(&server, FILL, self.scale.backlog, found)?;
        server.stop()?;
        server.drop_page_cache()?;
        server.start()?;
        Ok(server)
    }

    fn cold(&self, device: Option<Device>, found: &mut Found) -> Result<Option<f64>, BenchError> {
        let server = self.with_backlog(found)?;
        let mut read = self.messages(&server, READ, self.scale.backlog, found)?;
        read.figure("msgs/s", "/per_second");
        read.figure("CPU-s per million", "/broker/cpu_seconds_per_million");
        let own = read.figure("MiB/s", "/mib_per_second");
        Ok(ratio(own, device.map(|device| device.read_mib_per_second)))
    }

    /// Deliveries at a fixed rate, alone and while others read a backlog again and again.
    fn beside(&self, found: &mut Found) -> Result<Option<f64>, BenchError> {
        let server = self.with_backlog(found)?;
        let window = self.scale.window();
        let new = "GantryJudgeNew";
        let mut deliver = |name, out: &Path| -> Result<Option<f64>, BenchError> {
            let report = report_of(generator(), &server, (E2E, &window), new, out)?;
            found.note(&report);
            let mut ran = Ran { report, found };
            Ok(ran.latency(name, "p99"))
        };
        let alone = deliver("p99 µs alone", &self.out("report.json"))?;
        let is_over = AtomicBool::new(false);
        let (beside, reads) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read_again(&server, &is_over));
            let beside = deliver("p99 µs beside it", &self.out("report.json"));
            is_over.store(true, Ordering::Relaxed);
            (beside, reader.join())
        });
        let reads = reads.map_err(|_| BenchError::Program {
            program: "the readers of a backlog".to_owned(),
            what: "panicked".to_owned(),
        })??;
        let count = u32::try_from(reads.len()).map_or(f64::NAN, f64::from);
        found.parts.push(("backlogs read", count));
        for read in &reads {
            found.complain(read);
        }
        Ok(ratio(beside?, alone))
    }

    fn read_again(&self, server: &Server, is_over: &AtomicBool) -> Result<Vec<Value>, BenchError> {
        let more = ["--messages".to_owned(), self.scale.backlog.to_string()];
        let mut reads = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let out = self.out("reader.json");
            let command = generator_beside();
            reads.push(report_of(command, server, (READ, &more), TOPIC, &out)?);
        }
        Ok(reads)
    }
}

impl Scale {
    const FULL: Self = Self {
        seconds: 10,
        warm_up: 3,
        device_mib: 2048,
        backlog: 1_000_000,
        log_messages: 0,
    };
    const QUICK: Self = Self {
        seconds: 2,
        warm_up: 1,
        device_mib: 256,
        backlog: 200_000,
        log_messages: 0,
    };

    fn window(&self) -> Vec<String> {
        let pairs = [("--seconds", self.seconds), ("--warm-up", self.warm_up)];
        let words = pairs.map(|(name, value)| [name.to_owned(), value.to_string()]);
        words.into_iter().flatten().collect()
    }
}

fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    Some(of? / to?)
}
