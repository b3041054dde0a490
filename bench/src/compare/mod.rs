//! `gantry bench compare`: the promise of the project, checked by one command.
//!
//! **Owns** the order of a comparison: servers, warm-up, rounds in turn, results.
//! **Lives on** the calling thread; every measured run is a process of its own, so that what the
//! generator itself spends is known.
//! **Invariants** both sides get the same load in the same round, one after the other; the peer
//! starts with a fresh store that has seen no transaction (a quick comparison keeps it from case
//! to case) and is warmed up until its CPU per message settles.
//! **Limits** `SETTLE_ROUNDS_MAX` warm-up runs.
//! **Not here** the bars (`cases`), the processes (`servers`), whether they answer (`ready`),
//! whether one is warm (`settle`), medians and files (`results`).

pub mod cases;
pub mod judge;
pub mod ready;
pub mod results;
pub mod run;
pub mod servers;
pub mod settle;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{CompareArgs, ROUNDS_MIN};
use crate::error::BenchError;
use crate::observe::process::{cpu_seconds, unbacked_bytes};
use cases::{BACKLOG, CASES, Case, Kind, words_for};
use results::Outcome;
use run::{generator, report_of};
use servers::{Server, Settings, Side, StartTook};
use settle::Settling;

/// Warm-up runs at the most: the JIT of a busy two-core machine needs a minute.
const SETTLE_ROUNDS_MAX: usize = 24;
const SETTLE_ROUNDS_QUICK: usize = 12;
/// Rehearsals of a backlog.
const REHEARSALS: usize = 3;
/// The other server is quiet when it spends less than this of a core.
const QUIET_SHARE: f64 = 0.1;
const QUIET_LOOK: Duration = Duration::from_millis(500);
/// Longest wait for that: Apache builds indexes and writes pages out behind its answers.
const QUIET_LOOKS_MAX: usize = 40;
/// Between a start or a fill and a look at the memory.
const REST: Duration = Duration::from_secs(5);
/// Folders of the results.
const RESULTS: &str = "bench/results";
const RESULTS_QUICK: &str = "bench/results/quick";
const HEAP: &str = "4g";
const HEAP_SMALL: &str = "2g";
/// Machines below give the peer the smaller heap.
const HEAP_MEMORY_MIN: u64 = 12 << 30;

/// How large a comparison is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    rounds: usize,
    seconds: u64,
    warm_up: u64,
    settle_rounds: usize,
    settle_seconds: u64,
    backlog: u64,
    start_backlog: u64,
    memory_messages: u64,
    quick: bool,
}

impl Scale {
    fn of(args: &CompareArgs) -> Self {
        let rounds = args.table.rounds;
        if args.quick {
            return Self {
                rounds,
                seconds: 4,
                warm_up: 1,
                settle_rounds: SETTLE_ROUNDS_QUICK,
                settle_seconds: 4,
                backlog: 300_000,
                start_backlog: 100_000,
                memory_messages: 1_000_000,
                quick: true,
            };
        }
        Self {
            rounds,
            seconds: 10,
            warm_up: 3,
            settle_rounds: SETTLE_ROUNDS_MAX,
            settle_seconds: 5,
            backlog: 1_000_000,
            start_backlog: 1_000_000,
            memory_messages: 10_000_000,
            quick: false,
        }
    }

    /// Messages of a case that counts them.
    fn messages(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Load(..) => 0,
            Kind::Warm | Kind::Cold => self.backlog,
            Kind::Start => self.start_backlog,
            Kind::Memory => self.memory_messages,
        }
    }
}

/// Runs a comparison.
///
/// # Errors
/// An unknown scenario, a server that does not start, or results that can't be written.
pub fn run(args: &CompareArgs, commit: &str) -> Result<(), BenchError> {
    if args.table.list {
        let scale = Scale::of(args);
        let what = |case: &Case| case.what_of(scale.messages(case.kind));
        print!("{}", results::list(what));
        return Ok(());
    }
    let chosen = chosen(&args.table.scenario)?;
    if args.table.rounds < ROUNDS_MIN {
        return Err(BenchError::Argument {
            name: "--rounds",
            value: args.table.rounds.to_string(),
            allowed: "3 and up",
        });
    }
    ready::check_first(args.table.port)?;
    ready::await_free(args.table.port, &ready::ALL, Duration::ZERO)?;
    let results = results_folder(args.table.results.as_deref(), args.quick);
    let work = work_folder(args.table.work.as_deref(), "gantry-compare-")?;
    servers::end_with_us(work.path().to_owned())?;
    let mut bench = Bench {
        scale: Scale::of(args),
        settings: settings(args, work.path(), commit),
        peer: None,
        gantry: None,
        settled: None,
        unsettled: None,
    };
    let mut failed_count = 0;
    for case in chosen {
        let messages = bench.scale.messages(case.kind);
        eprintln!("== {}: {}", case.name, case.what_of(messages));
        let outcome = bench.case(case)?;
        println!("{}", outcome.table());
        let table = keep(&outcome, &results)?;
        eprintln!("table: {}", table.display());
        failed_count += outcome.failed_count();
    }
    bench.stop()?;
    if failed_count > 0 {
        let what = format!("{failed_count} runs or figures failed, the table says which");
        return Err(BenchError::Wrong { what });
    }
    Ok(())
}

/// A folder that goes when it is dropped.
fn work_folder(within: Option<&Path>, prefix: &str) -> Result<tempfile::TempDir, BenchError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    let made = match within {
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| builder.tempdir_in(folder)),
        None => builder.tempdir(),
    };
    made.map_err(|source| BenchError::Output {
        path: "the work folder".to_owned(),
        source,
    })
}

fn settings(args: &CompareArgs, work: &Path, commit: &str) -> Settings {
    let small = servers::memory_bytes() < HEAP_MEMORY_MIN;
    let heap = if small { HEAP_SMALL } else { HEAP };
    Settings {
        work: work.to_owned(),
        port: args.table.port,
        peer_heap: args.peer_heap.clone().unwrap_or_else(|| heap.to_owned()),
        peer_set: args.peer_set.clone(),
        set: args.set.clone(),
        commit: commit.to_owned(),
    }
}

/// Writes a case's file, and the table anew: a case that fails after it leaves no stale one.
fn keep(outcome: &Outcome, results: &Path) -> Result<PathBuf, BenchError> {
    outcome.write(results)?;
    results::rebuild(results)
}

/// Where the results go: those of a quick comparison not in the place of full ones.
fn results_folder(given: Option<&Path>, is_quick: bool) -> PathBuf {
    let default = if is_quick { RESULTS_QUICK } else { RESULTS };
    given.unwrap_or(Path::new(default)).to_owned()
}

fn chosen(names: &[String]) -> Result<Vec<&'static Case>, BenchError> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            let case = CASES.iter().find(|case| case.name == name);
            case.ok_or_else(|| BenchError::Argument {
                name: "--scenario",
                value: name.clone(),
                allowed: "one of those that --list shows",
            })
        })
        .collect()
}

/// The comparison under way.
struct Bench {
    scale: Scale,
    settings: Settings,
    peer: Option<Server>,
    gantry: Option<Server>,
    /// The words the peer has been warmed up with.
    settled: Option<&'static [&'static str]>,
    /// What is to be known of that warm-up.
    unsettled: Option<String>,
}

impl Bench {
    fn case(&mut self, case: &Case) -> Result<Outcome, BenchError> {
        let what = case.what_of(self.scale.messages(case.kind));
        let mut outcome = Outcome::new(case, &what, self.scale.quick, &self.settings);
        match case.kind {
            Kind::Load(words, warm) => {
                self.serve(case.sync_flush, &mut outcome)?;
                self.settle(warm, &mut outcome)?;
                for _ in 0..self.scale.rounds {
                    for side in Side::BOTH {
                        let more = self.window();
                        let report = self.bench(side, words, &more, "GantryBench")?;
                        outcome.add(side, report);
                    }
                }
            }
            Kind::Warm | Kind::Cold => self.backlog(case, &mut outcome)?,
            Kind::Start => self.starts(&mut outcome)?,
            Kind::Memory => self.memory(&mut outcome)?,
        }
        Ok(outcome)
    }

    fn stop(&mut self) -> Result<(), BenchError> {
        self.settled = None;
        for mut server in self.peer.take().into_iter().chain(self.gantry.take()) {
            server.stop()?;
        }
        Ok(())
    }

    fn window(&self) -> Vec<String> {
        ["--seconds".to_owned(), self.scale.seconds.to_string()]
            .into_iter()
            .chain(["--warm-up".to_owned(), self.scale.warm_up.to_string()])
            .collect()
    }

    /// Both servers up with fresh stores; a quick comparison keeps a peer that fits, with its
    /// store: to warm another up would take longer than the rounds.
    fn serve(&mut self, sync_flush: bool, outcome: &mut Outcome) -> Result<(), BenchError> {
        self.gantry = None;
        let keep = self.scale.quick && self.peer.as_ref().is_some_and(|p| p.fits(sync_flush));
        if keep {
            outcome.note(Side::Peer, "kept from the case before, with its store");
        } else {
            self.peer = None;
            self.settled = None;
            self.peer = Some(self.started(Side::Peer, sync_flush)?.0);
        }
        self.gantry = Some(self.started(Side::Gantry, sync_flush)?.0);
        Ok(())
    }

    fn started(&self, side: Side, sync_flush: bool) -> Result<(Server, StartTook), BenchError> {
        let mut server = Server::new(side, &self.settings, sync_flush)?;
        let took = server.start()?;
        Ok((server, took))
    }

    fn server(&mut self, side: Side) -> Result<&mut Server, BenchError> {
        let server = match side {
            Side::Peer => self.peer.as_mut(),
            Side::Gantry => self.gantry.as_mut(),
        };
        server.ok_or_else(|| BenchError::Program {
            program: side.name().to_owned(),
            what: "not started".to_owned(),
        })
    }

    /// One `gantry bench` run as a process of its own; its report, also of a run that failed.
    fn bench(
        &mut self,
        side: Side,
        words: &[&str],
        more: &[String],
        topic: &str,
    ) -> Result<Value, BenchError> {
        self.await_quiet();
        let out = self.settings.work.join("report.json");
        let server = self.server(side)?;
        let words = words_for(side, words);
        report_of(generator(), server, (&words, more), topic, &out)
    }

    /// Waits until both servers have done what they put off, or for a while.
    fn await_quiet(&self) {
        let spent = || {
            let servers = self.peer.iter().chain(&self.gantry);
            let pids = servers.filter_map(Server::pid);
            pids.filter_map(cpu_seconds).sum::<f64>()
        };
        for _ in 0..QUIET_LOOKS_MAX {
            let before = spent();
            std::thread::sleep(QUIET_LOOK);
            if spent() - before < QUIET_SHARE * QUIET_LOOK.as_secs_f64() {
                break;
            }
        }
    }

    /// Runs the warm-up until the peer's CPU per message no longer falls, or for a while; then the
    /// outcome says so.
    fn settle(
        &mut self,
        words: &'static [&'static str],
        outcome: &mut Outcome,
    ) -> Result<(), BenchError> {
        if self.settled != Some(words) {
            let seconds = self.scale.settle_seconds.to_string();
            let more = ["--seconds", &seconds, "--warm-up", "0"].map(str::to_owned);
            let mut settling = Settling::default();
            for _ in 0..self.scale.settle_rounds {
                let report = self.bench(Side::Peer, words, &more, "GantryBenchWarm")?;
                let cpu = results::number(&report, "/broker/cpu_seconds_per_million");
                let text = cpu.map_or("unknown".to_owned(), |cpu| format!("{cpu:.1}"));
                eprintln!("  warm-up of the peer: {text} CPU-s per million");
                settling.add(cpu);
                if settling.is_settled() {
                    break;
                }
            }
            self.unsettled = settling.complaint();
            self.settled = Some(words);
        }
        if let Some(complaint) = &self.unsettled {
            outcome.note(Side::Peer, complaint);
        }
        Ok(())
    }

    fn backlog(&mut self, case: &Case, outcome: &mut Outcome) -> Result<(), BenchError> {
        self.serve(false, outcome)?;
        let messages = |count: u64| ["--messages".to_owned(), count.to_string()];
        let phase = |words: [String; 2], phase: &str| {
            let more = ["--phase".to_owned(), phase.to_owned()];
            [&words[..], &more].concat()
        };
        let count = self.scale.backlog;
        let rehearsal = messages(count / 2);
        for round in 0..self.scale.rounds {
            let topic = format!("GantryBench{}{round}", case.name);
            for side in Side::BOTH {
                if case.kind == Kind::Warm {
                    if round == 0 && side == Side::Peer {
                        for n in 0..REHEARSALS {
                            let topic = format!("GantryBenchWarm{n}");
                            self.bench(side, BACKLOG, &rehearsal, &topic)?;
                        }
                    }
                    let report = self.bench(side, BACKLOG, &messages(count), &topic)?;
                    outcome.add(side, report);
                    continue;
                }
                let fill = self.bench(side, BACKLOG, &phase(messages(count), "fill"), &topic)?;
                self.restart_cold(side)?;
                if side == Side::Peer {
                    // A new JVM has to learn again.
                    for n in 0..REHEARSALS {
                        let topic = format!("GantryBenchWarm{round}{n}");
                        self.bench(side, BACKLOG, &rehearsal, &topic)?;
                    }
                }
                let read = phase(messages(count), "read");
                let mut report = self.bench(side, BACKLOG, &read, &topic)?;
                if let Some(object) = report.as_object_mut() {
                    object.insert("fill".to_owned(), fill);
                }
                outcome.add(side, report);
            }
        }
        Ok(())
    }

    /// Stops a server and starts it with its files dropped from the page cache.
    fn restart_cold(&mut self, side: Side) -> Result<(), BenchError> {
        if side == Side::Peer {
            // What its JVM had learnt goes with the process.
            self.settled = None;
        }
        let server = self.server(side)?;
        server.stop()?;
        server.drop_page_cache()?;
        server.start()?;
        Ok(())
    }

    fn starts(&mut self, outcome: &mut Outcome) -> Result<(), BenchError> {
        const FILL: &[&str] = &["consume", "--phase", "fill"];
        self.stop()?;
        let count = [
            "--messages".to_owned(),
            self.scale.start_backlog.to_string(),
        ];
        for _ in 0..self.scale.rounds {
            for side in Side::BOTH {
                let (server, fresh) = self.started(side, false)?;
                match side {
                    Side::Peer => self.peer = Some(server),
                    Side::Gantry => self.gantry = Some(server),
                }
                let fill = self.bench(side, FILL, &count, "GantryBench")?;
                let server = self.server(side)?;
                server.kill9()?;
                let again = server.start()?;
                outcome.add(
                    side,
                    json!({
                        "start_seconds": fresh.seconds,
                        "start_cpu_seconds": fresh.cpu_seconds,
                        "restart_seconds": again.seconds,
                        "restart_cpu_seconds": again.cpu_seconds,
                        "messages_before": self.scale.start_backlog,
                        "fill": fill,
                    }),
                );
                self.stop()?;
            }
        }
        Ok(())
    }

    fn memory(&mut self, outcome: &mut Outcome) -> Result<(), BenchError> {
        const FILL: &[&str] = &["consume", "--phase", "fill"];
        let count = self.scale.memory_messages;
        let words = ["--messages".to_owned(), count.to_string()];
        for _ in 0..self.scale.rounds {
            self.stop()?;
            self.serve(false, outcome)?;
            std::thread::sleep(REST);
            for side in Side::BOTH {
                let idle = self.unbacked(side)?;
                let report = self.bench(side, FILL, &words, "GantryBench")?;
                std::thread::sleep(REST);
                let after = self.unbacked(side)?;
                outcome.add(
                    side,
                    json!({
                        "idle_unbacked_bytes": idle,
                        "after_unbacked_bytes": after,
                        "messages": count,
                        "fill": report,
                    }),
                );
            }
        }
        self.stop()
    }

    /// A broker that has died uses nothing, which must not hold a bar.
    fn unbacked(&mut self, side: Side) -> Result<u64, BenchError> {
        let bytes = self.server(side)?.pid().and_then(unbacked_bytes);
        bytes.ok_or_else(|| BenchError::Program {
            program: side.name().to_owned(),
            what: "its process is gone".to_owned(),
        })
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
