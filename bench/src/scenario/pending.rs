//! A backlog of delayed messages: what it costs to have many pending, and how late they come.
//!
//! **Owns** parking the messages, the readings of the broker's memory around that, receiving them
//! when they fall due, and messages of a level sent at the same time.
//! **Lives on** the calling thread, and one glommio executor for all connections.
//! **Invariants** every message has a due time of its own in its stamp, so that another run can
//! receive what this one parked (after a crash). None is due before all are parked and the memory
//! has been read, or the run fails. The window lasts from the first due time to the last message.
//! **Limits** [`PATIENCE`], and the lead, for the next message to come.
//! **Not here** killing the broker between two phases (`tests/delay_owed.rs`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::flow::{self, PATIENCE, Plan, Ran, ReadPlan, SendPlan, cursors};
use super::{level_delay, no_output, read_plan, send_plan, shape, target};
use crate::args::{DelayArgs, Phase, check, check_some};
use crate::consumer::{self, Due, Reading, wall_now_ns};
use crate::error::BenchError;
use crate::ledger::{Expect, Ledger};
use crate::observe::process::unbacked_bytes;
use crate::producer::Shared;
use crate::recorder::{Latency, Note, Recorder};
use crate::report::{Pending, Report};
use crate::route::Caller;
use crate::scenario::target::Broker;
use crate::wire::templates::{Dues, Flavour, SendShape};

/// Messages due a second when nothing is said.
const DUE_RATE: u64 = 10_000;
/// From the last answer to the second reading of the memory: buffers of the load are free again.
const SETTLE: Duration = Duration::from_secs(2);
/// Between the first reading and the first pull: a look at all processes takes milliseconds.
const READING_PAUSE: Duration = Duration::from_millis(10);

/// What is received.
#[derive(Clone)]
struct Receiving {
    addr: SocketAddr,
    read: ReadPlan,
    shape: SendShape,
    starts: Vec<i64>,
    /// Messages parked.
    count: u64,
    /// Time until the first one is due.
    lead: Duration,
    due: Due,
    /// Messages of a level sent meanwhile.
    live: Option<Plan>,
}

/// What parking leaves behind.
struct Filled {
    report: Report,
    starts: Vec<i64>,
    ledger: Ledger,
    pending: Option<Pending>,
}

/// Runs `delay --pending`.
///
/// # Errors
/// Arguments out of range, connections that break, or messages that are lost, early or came again.
pub fn run(args: &DelayArgs, count: u64) -> Result<(), BenchError> {
    let flow = &args.flow;
    check(&flow.shape, 1, &flow.load)?;
    check_some("--pending", count)?;
    let broker = target::find(&flow.target, &flow.output)?;
    let mut report = match args.phase {
        Phase::Read => read_again(args, &broker, count)?,
        Phase::Fill | Phase::Both => park(args, &broker, count)?,
    };
    let rate = flow.load.rate.unwrap_or(DUE_RATE);
    let phase = format!("{:?}", args.phase).to_lowercase();
    let more = [
        ("phase", phase),
        ("pending", count.to_string()),
        ("due a second", rate.to_string()),
    ];
    report.scenario.extend(more);
    target::conclude(&report, &flow.output)
}

/// Receives what another run parked.
fn read_again(args: &DelayArgs, broker: &Broker, count: u64) -> Result<Report, BenchError> {
    let shape = shape(&args.flow.target, &args.flow.shape, 1);
    let starts = Caller::connect(broker.addr)?.offsets(&target::queues(&shape), false)?;
    let ledger = Ledger::new(Expect::Anything, 1, shape.queues_count());
    let receiving = Receiving {
        addr: broker.addr,
        read: read_plan(&args.flow.read)?,
        shape,
        starts,
        count,
        lead: Duration::ZERO,
        due: Due {
            timed_streams: u32::MAX,
            ..Due::default()
        },
        live: None,
    };
    let mut report = receive(&receiving, broker, args, ledger)?;
    if let Some(verdict) = &mut report.verdict {
        // What a crash interrupted may come again.
        verdict.may_repeat = true;
        let came = verdict.received - verdict.repeated;
        verdict.lost = verdict.lost.max(count.saturating_sub(came));
    }
    Ok(report)
}

/// Parks all, and receives them unless that is left to another run.
fn park(args: &DelayArgs, broker: &Broker, count: u64) -> Result<Report, BenchError> {
    let sending = &args.flow.load;
    let dues = Dues {
        first_ms: wall_now_ns() / 1_000_000 + args.lead * 1000,
        per_second: sending.rate.unwrap_or(DUE_RATE),
        senders: u32::try_from(sending.connections).unwrap_or(u32::MAX),
    };
    let mut shape = shape(&args.flow.target, &args.flow.shape, 1);
    shape.flavour = Flavour::DueAt(dues);
    let Filled {
        report,
        starts,
        ledger,
        pending,
    } = fill(args, &shape, broker, count)?;
    if report.broken.is_some() {
        // Those that were parked coming back would say nothing of the others.
        return Ok(Report { pending, ..report });
    }
    let first_ns = dues.first_ms * 1_000_000;
    let lead = Duration::from_nanos(first_ns.saturating_sub(wall_now_ns()));
    if lead.is_zero() {
        return Err(BenchError::Argument {
            name: "--lead",
            value: args.lead.to_string(),
            allowed: "more: messages were due before all were parked",
        });
    }
    if args.phase == Phase::Fill {
        return Ok(Report { pending, ..report });
    }
    let receiving = Receiving {
        addr: broker.addr,
        read: read_plan(&args.flow.read)?,
        starts,
        count,
        lead,
        due: Due {
            delay: level_delay(args.level),
            timed_streams: dues.senders,
            ..Due::default()
        },
        live: live(args, &shape, lead, count, dues),
        shape,
    };
    let errors = report.totals.errors;
    let mut report = receive(&receiving, broker, args, ledger)?;
    for (code, count) in errors {
        *report.totals.errors.entry(code).or_default() += count;
    }
    Ok(Report { pending, ..report })
}

/// What of a level is sent while the pending messages fall due.
fn live(
    args: &DelayArgs,
    shape: &SendShape,
    lead: Duration,
    count: u64,
    dues: Dues,
) -> Option<Plan> {
    let rate = args.live_rate.filter(|rate| *rate > 0)?;
    let mut shape = shape.clone();
    shape.flavour = Flavour::DelayLevel(args.level);
    let frames = count.saturating_mul(rate) / dues.per_second.max(1);
    Some(Plan {
        name: "delay",
        send: SendPlan {
            rate: Some(rate),
            frames: Some(frames),
            first_stream: dues.senders,
            start_after: lead,
            ..send_plan(&args.flow.load, None)
        },
        shape,
        read: None,
        warm_up: 0,
        measure: 0,
        strict_order: false,
        main: Latency::Late,
    })
}

/// Parks all messages as fast as it goes.
fn fill(
    args: &DelayArgs,
    shape: &SendShape,
    broker: &Broker,
    count: u64,
) -> Result<Filled, BenchError> {
    let load = &args.flow.load;
    Caller::connect(broker.addr)?.ensure_topics(&shape.topics, shape.queues)?;
    let starts = target::last_offsets(broker, shape)?;
    let plan = Plan {
        name: "delay",
        send: SendPlan {
            rate: None,
            frames: Some(count),
            ..send_plan(load, None)
        },
        shape: shape.clone(),
        read: None,
        warm_up: 0,
        measure: 0,
        strict_order: false,
        main: Latency::Send,
    };
    let unbacked = || broker.pid.and_then(unbacked_bytes);
    let before = unbacked();
    let begun = Instant::now();
    let ledger = Ledger::new(Expect::ThisRun(shape.run), 1, shape.queues_count());
    let (report, ledger) = flow::drive(&plan, broker, &no_output(), starts.clone(), ledger)?;
    let fill_seconds = begun.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let pending = before
        .zip(unbacked())
        .map(|(before_bytes, with_bytes)| Pending {
            count: report.totals.acknowledged,
            before_bytes,
            with_bytes,
            fill_seconds,
        });
    Ok(Filled {
        report,
        starts,
        ledger,
        pending,
    })
}

/// Receives what is pending.
fn receive(
    receiving: &Receiving,
    broker: &Broker,
    args: &DelayArgs,
    ledger: Ledger,
) -> Result<Report, BenchError> {
    let patience = Duration::from_secs(args.lead);
    let output = &args.flow.output;
    let (notes, watching) = target::observe(broker, "delay", Latency::Late, output)?;
    let inner = receiving.clone();
    let ran = target::on_executor(move || connections(inner, ledger, patience, notes));
    let observed = target::observed(watching)?;
    let Ran {
        ledger,
        totals,
        broken,
    } = ran?;
    let (shape, read) = (&receiving.shape, &receiving.read);
    let live = receiving.live.as_ref().and_then(|plan| plan.send.rate);
    let overdue = ledger.overdue();
    let last_ms = overdue.last_ns / 1_000_000;
    Ok(Report {
        scenario: vec![
            ("scenario", "delay".to_owned()),
            ("readers × groups", format!("{} × 1", read.connections)),
            ("topics × queues", format!("1 × {}", shape.queues)),
            ("body bytes", shape.size.to_string()),
            (
                "messages/s of a level besides",
                live.map_or("none".to_owned(), |rate| {
                    format!("{rate}, level {}", args.level)
                }),
            ),
            (
                "overdue at the start, the last came after",
                format!("{}, {last_ms} ms", overdue.count),
            ),
        ],
        body_bytes: shape.size,
        record_bytes: None,
        main: Latency::Late,
        unanswered: false,
        observed,
        totals,
        verdict: Some(ledger.verdict()),
        strict_order: false,
        stored: None,
        pending: None,
        broken,
    })
}

async fn connections(
    receiving: Receiving,
    ledger: Ledger,
    patience: Duration,
    notes: Sender<Note>,
) -> Result<Ran, BenchError> {
    let recorder = Recorder::new(receiving.lead, None, notes);
    let ledger = Rc::new(RefCell::new(ledger));
    let done = all(&receiving, &recorder, &ledger, patience).await;
    // Always, or the observer would listen for ever.
    recorder.finish();
    Ok(Ran::new(&ledger, &recorder, done))
}

async fn all(
    receiving: &Receiving,
    recorder: &Rc<Recorder>,
    ledger: &Rc<RefCell<Ledger>>,
    patience: Duration,
) -> Result<(), BenchError> {
    let failure: flow::Failure = Rc::default();
    let ticker = glommio::spawn_local(Rc::clone(recorder).tick());
    glommio::timer::sleep(READING_PAUSE).await;
    let reading = Reading {
        addr: receiving.addr,
        encoding: receiving.shape.encoding,
        pull_max: receiving.read.pull_max,
        due: Due {
            started_ns: wall_now_ns().saturating_sub(recorder.now_ns()),
            ..receiving.due
        },
    };
    let mut readers = Vec::new();
    for list in cursors(&receiving.shape, &receiving.read, &receiving.starts, None) {
        let (recorder, ledger) = (Rc::clone(recorder), Rc::clone(ledger));
        let reader = consumer::open(reading.clone(), list, recorder, ledger).await?;
        readers.push(flow::follow(reader, &failure));
    }
    let mut sent = Ok(());
    let mut live_count = 0;
    if let Some(plan) = &receiving.live {
        live_count = plan.send.frames.unwrap_or(0);
        let shared = Shared {
            recorder: Rc::clone(recorder),
            ledger: Rc::clone(ledger),
            frames_left: Rc::new(Cell::new(live_count)),
        };
        for sender in flow::open_senders(plan, receiving.addr, &shared) {
            sent = sent.and(sender.await);
        }
    }
    if sent.is_ok() {
        let wanted = receiving.count + live_count;
        flow::await_arrivals(wanted, PATIENCE + patience, ledger, &failure).await;
    }
    for reader in readers {
        reader.cancel().await;
    }
    ticker.cancel().await;
    recorder.close();
    sent.and(failure.take().map_or(Ok(()), Err))
}
