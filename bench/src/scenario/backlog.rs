//! Reading a backlog: what a consumer that comes late gets, warm or cold.
//!
//! **Owns** filling the backlog and reading all of it, as one run or as two.
//! **Lives on** the calling thread, and one glommio executor for all connections.
//! **Invariants** the window lasts from the first pull to the last message; filling is no part of
//! it. A backlog of another run is checked against its own numbers, from the first on.
//! **Limits** the broker keeps the backlog; the generator keeps nothing of it.
//! **Not here** making it cold (`compare` restarts the broker and drops its files from the page
//! cache).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::flow::{self, Plan, Ran, ReadPlan, SendPlan, cursors};
use super::{no_output, read_plan, shape, target};
use crate::args::{ConsumeArgs, LoadArgs, Phase, check, check_some};
use crate::consumer::{self, Cursor, Due, Reading};
use crate::error::BenchError;
use crate::ledger::{Expect, Ledger};
use crate::recorder::{Latency, Note, Recorder};
use crate::report::Report;
use crate::route::Caller;
use crate::scenario::target::Broker;
use crate::wire::templates::SendShape;

/// Messages of a backlog where nobody says.
const MESSAGES: u64 = 1_000_000;
/// How a backlog is filled: fast, so in batches.
const FILL_BATCH: u64 = 32;
const FILL_LOAD: LoadArgs = LoadArgs {
    connections: 4,
    in_flight: 16,
    rate: None,
};
/// Between the first reading and the first pull: a look at all processes takes milliseconds.
const READING_PAUSE: Duration = Duration::from_millis(10);

/// Runs `consume`.
///
/// # Errors
/// Arguments out of range, connections that break, or a backlog that is not what was sent.
pub fn run(args: &ConsumeArgs) -> Result<(), BenchError> {
    check(&args.shape, 1, &FILL_LOAD)?;
    check_some("--messages", args.messages.unwrap_or(MESSAGES))?;
    check_some("--groups", args.groups as u64)?;
    let mut read = read_plan(&args.read)?;
    read.groups = args.groups;
    let broker = target::find(&args.target, &args.output)?;
    let shape = shape(&args.target, &args.shape, 1);
    let mut errors = BTreeMap::new();
    let (starts, ledger) = if args.phase == Phase::Read {
        let queues = target::queues(&shape);
        let starts = Caller::connect(broker.addr)?.offsets(&queues, false)?;
        let ledger = Ledger::new(Expect::Anything, args.groups, queues.len());
        (starts, ledger)
    } else {
        let (report, starts, ledger) = fill(args, &shape, &broker)?;
        if args.phase == Phase::Fill || report.broken.is_some() {
            return target::conclude(&report, &args.output);
        }
        // What is missing, reading will tell; what was refused is part of this run.
        errors = report.totals.errors;
        (starts, ledger)
    };
    let mut report = read_all(args, &read, &shape, &broker, starts, ledger)?;
    for (code, count) in errors {
        *report.totals.errors.entry(code).or_default() += count;
    }
    target::conclude(&report, &args.output)
}

fn fill(
    args: &ConsumeArgs,
    shape: &SendShape,
    broker: &Broker,
) -> Result<(Report, Vec<i64>, Ledger), BenchError> {
    Caller::connect(broker.addr)?.ensure_topics(&shape.topics, shape.queues)?;
    let starts = target::last_offsets(broker, shape)?;
    let mut shape = shape.clone();
    let messages = args.messages.unwrap_or(MESSAGES);
    shape.batch = u32::try_from(FILL_BATCH.min(messages)).unwrap_or(1);
    let plan = Plan {
        name: "fill",
        send: SendPlan {
            connections: FILL_LOAD.connections,
            in_flight: FILL_LOAD.in_flight,
            rate: None,
            frames: Some(messages.div_ceil(u64::from(shape.batch))),
            first_stream: 0,
            start_after: Duration::ZERO,
        },
        shape,
        read: None,
        warm_up: 0,
        measure: 0,
        strict_order: true,
        main: Latency::Send,
    };
    let expect = Expect::ThisRun(plan.shape.run);
    let ledger = Ledger::new(expect, args.groups, plan.shape.queues_count());
    let (report, ledger) = flow::drive(&plan, broker, &no_output(), starts.clone(), ledger)?;
    let acknowledged = report.totals.acknowledged;
    let stored = match report.broken {
        Some(_) => None,
        None => Some(flow::grown(broker, &plan.shape, &starts, acknowledged)?),
    };
    Ok((Report { stored, ..report }, starts, ledger))
}

fn read_all(
    args: &ConsumeArgs,
    read: &ReadPlan,
    shape: &SendShape,
    broker: &Broker,
    starts: Vec<i64>,
    ledger: Ledger,
) -> Result<Report, BenchError> {
    let ends = target::last_offsets(broker, shape)?;
    let of_group: i64 = ends
        .iter()
        .zip(&starts)
        .map(|(end, start)| end - start)
        .sum();
    let offered = u64::try_from(of_group).unwrap_or(0) * read.groups as u64;
    let (notes, watching) = target::observe(broker, "consume", Latency::Pull, &args.output)?;
    let (inner, plan, addr) = (shape.clone(), read.clone(), broker.addr);
    let ran =
        target::on_executor(move || connections(inner, plan, addr, [starts, ends], ledger, notes));
    let observed = target::observed(watching)?;
    let Ran {
        ledger,
        totals,
        broken,
    } = ran?;
    let mut verdict = ledger.verdict();
    let came = verdict.received - verdict.repeated;
    if args.phase == Phase::Read {
        // The broker's word on what it has is no proof that this is all it was given.
        let wanted = args.messages.unwrap_or(0) * read.groups as u64;
        verdict.lost = verdict.lost.max(wanted.saturating_sub(came));
    }
    if broken.is_some() {
        let missing = offered.saturating_sub(came + verdict.foreign);
        verdict.lost = verdict.lost.max(missing);
    }
    let phase = format!("{:?}", args.phase).to_lowercase();
    Ok(Report {
        scenario: vec![
            ("scenario", "consume".to_owned()),
            ("phase", phase),
            (
                "readers × groups",
                format!("{} × {}", read.connections, read.groups),
            ),
            ("topics × queues", format!("1 × {}", shape.queues)),
            ("body bytes", shape.size.to_string()),
            ("messages of a pull", read.pull_max.to_string()),
            ("encoding", format!("{:?}", shape.encoding)),
        ],
        body_bytes: shape.size,
        record_bytes: None,
        main: Latency::Pull,
        unanswered: false,
        observed,
        totals,
        verdict: Some(verdict),
        strict_order: !args.read.allow_reorder,
        stored: None,
        pending: None,
        broken,
    })
}

async fn connections(
    shape: SendShape,
    read: ReadPlan,
    addr: SocketAddr,
    [starts, ends]: [Vec<i64>; 2],
    ledger: Ledger,
    notes: Sender<Note>,
) -> Result<Ran, BenchError> {
    let recorder = Recorder::new(Duration::ZERO, None, notes);
    let ledger = Rc::new(RefCell::new(ledger));
    let lists = cursors(&shape, &read, &starts, Some(&ends));
    let reading = Reading {
        addr,
        encoding: shape.encoding,
        pull_max: read.pull_max,
        due: Due::default(),
    };
    let done = read_lists(&reading, lists, &recorder, &ledger).await;
    // Always, or the observer would listen for ever.
    recorder.finish();
    Ok(Ran::new(&ledger, &recorder, done))
}

async fn read_lists(
    reading: &Reading,
    lists: Vec<Vec<Cursor>>,
    recorder: &Rc<Recorder>,
    ledger: &Rc<RefCell<Ledger>>,
) -> Result<(), BenchError> {
    let ticker = glommio::spawn_local(Rc::clone(recorder).tick());
    glommio::timer::sleep(READING_PAUSE).await;
    let mut readers = Vec::new();
    for list in lists {
        let (recorder, ledger) = (Rc::clone(recorder), Rc::clone(ledger));
        let reader = consumer::open(reading.clone(), list, recorder, ledger).await?;
        readers.push(glommio::spawn_local(reader.run()));
    }
    let all = async {
        let mut done = Ok(());
        for reader in readers {
            done = done.and(reader.await);
        }
        done
    };
    let silence = async {
        let mut heard = None;
        while heard != Some(ledger.borrow().heard()) {
            heard = Some(ledger.borrow().heard());
            glommio::timer::sleep(flow::PATIENCE).await;
        }
        Err(BenchError::Silent(flow::PATIENCE.as_secs()))
    };
    let done = futures_lite::future::or(all, silence).await;
    ticker.cancel().await;
    recorder.close();
    done
}
