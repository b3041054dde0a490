//! Sending, and receiving at the same time: all scenarios but the backlog and the storm.
//!
//! **Owns** the order of a run: topics, readers, senders, waiting for what is still to come.
//! **Lives on** the calling thread, and one glommio executor for all connections.
//! **Invariants** readers wait at the end of their queues before the first message is sent; the
//! run ends when every acknowledged message has come or nothing came for `PATIENCE`.
//! **Limits** `PATIENCE`, plus the delay the messages have.
//! **Not here** the two sides (`producer`, `consumer`).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use glommio::Task;

use super::target::{self, Broker};
use crate::args::{OutputArgs, TargetArgs};
use crate::consumer::{self, Cursor, Due, Reading};
use crate::error::BenchError;
use crate::ledger::{Expect, Ledger};
use crate::producer::{Drive, Shared, produce};
use crate::recorder::{Counts, Latency, Note, Recorder};
use crate::report::Report;
use crate::route::Caller;
use crate::wire::templates::{Flavour, SendShape, SendTemplate};

/// How long nothing may come before the rest counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long one-way messages may take from the socket to the queue.
const SETTLE: Duration = Duration::from_secs(5);

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The scenario.
    pub name: &'static str,
    /// What is sent.
    pub shape: SendShape,
    /// How.
    pub send: SendPlan,
    /// The receiving side, if there is one.
    pub read: Option<ReadPlan>,
    /// Seconds not measured.
    pub warm_up: u64,
    /// Seconds measured.
    pub measure: u64,
    /// Whether messages out of order are a failure.
    pub strict_order: bool,
    /// The latency that matters.
    pub main: Latency,
}

/// The sending side.
#[derive(Debug, Clone)]
pub struct SendPlan {
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each.
    pub in_flight: usize,
    /// Messages a second over all.
    pub rate: Option<u64>,
    /// Frames to send, instead of a time.
    pub frames: Option<u64>,
    /// Number of the first connection.
    pub first_stream: u32,
    /// When a schedule begins, from the start of the run.
    pub start_after: Duration,
}

/// The receiving side.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// Connections.
    pub connections: usize,
    /// Groups that each receive everything.
    pub groups: usize,
    /// Messages of a pull.
    pub pull_max: i32,
    /// Delay the messages are sent with.
    pub delay: Duration,
}

/// What the connections of a run leave.
pub struct Ran {
    /// What was sent and came.
    pub ledger: Ledger,
    /// Counts of the whole run.
    pub totals: Counts,
    /// What ended it before its time: what it measured until then is told all the same.
    pub broken: Option<String>,
}

impl Ran {
    /// Takes the ledger over.
    pub fn new(
        ledger: &RefCell<Ledger>,
        recorder: &Recorder,
        done: Result<(), BenchError>,
    ) -> Self {
        Self {
            ledger: ledger.replace(Ledger::new(Expect::Anything, 0, 0)),
            totals: recorder.totals(),
            broken: done.err().map(|error| error.to_string()),
        }
    }
}

/// Waits until `wanted` messages have come, over all groups, and of those acknowledged each one; or
/// none has come for `patience`, or something failed. Whether all came.
pub async fn await_arrivals(
    wanted: u64,
    patience: Duration,
    ledger: &Rc<RefCell<Ledger>>,
    failure: &Failure,
) -> bool {
    let mut last = (Instant::now(), 0);
    loop {
        let is_all_here = ledger.borrow().is_all_here(wanted);
        if is_all_here || failure.borrow().is_some() {
            return is_all_here;
        }
        let came = ledger.borrow().distinct_received();
        if came > last.1 {
            last = (Instant::now(), came);
        } else if last.0.elapsed() > patience {
            return false;
        }
        glommio::timer::sleep(LOOK).await;
    }
}

/// Runs a plan.
///
/// # Errors
/// No broker, a refusal before the run, or a connection that breaks.
pub fn run(plan: &Plan, target: &TargetArgs, output: &OutputArgs) -> Result<Report, BenchError> {
    let broker = target::find(target, output)?;
    Caller::connect(broker.addr)?.ensure_topics(&plan.shape.topics, plan.shape.queues)?;
    let before = target::last_offsets(&broker, &plan.shape)?;
    let groups = plan.read.as_ref().map_or(0, |read| read.groups);
    let ledger = Ledger::new(
        Expect::ThisRun(plan.shape.run),
        groups,
        plan.shape.queues_count(),
    );
    let starts = before.clone();
    let (report, ledger) = drive(plan, &broker, output, starts, ledger)?;
    let stored = match report.broken {
        Some(_) => None,
        None => stored(plan, &broker, &before, report.totals.acknowledged)?,
    };
    Ok(Report {
        verdict: plan.read.is_some().then(|| ledger.verdict()),
        stored,
        ..report
    })
}

/// Runs the connections of a plan; the ledger is handed through.
///
/// # Errors
/// A connection that breaks.
pub fn drive(
    plan: &Plan,
    broker: &Broker,
    output: &OutputArgs,
    starts: Vec<i64>,
    ledger: Ledger,
) -> Result<(Report, Ledger), BenchError> {
    let (notes, watching) = target::observe(broker, plan.name, plan.main, output)?;
    let (inner, addr) = (plan.clone(), broker.addr);
    let ran = target::on_executor(move || connections(inner, addr, starts, ledger, notes));
    let observed = target::observed(watching)?;
    let Ran {
        ledger,
        totals,
        broken,
    } = ran?;
    let report = Report {
        scenario: describe(plan, broker),
        body_bytes: plan.shape.size,
        record_bytes: Some(plan.shape.record_bytes()),
        main: plan.main,
        unanswered: plan.shape.one_way,
        observed,
        totals,
        verdict: None,
        strict_order: plan.strict_order,
        stored: None,
        pending: None,
        broken,
    };
    Ok((report, ledger))
}

/// By how much the queues grew, where every acknowledged message must be in them.
fn stored(
    plan: &Plan,
    broker: &Broker,
    before: &[i64],
    acknowledged: u64,
) -> Result<Option<u64>, BenchError> {
    if plan.shape.flavour != Flavour::Plain {
        return Ok(None);
    }
    grown(broker, &plan.shape, before, acknowledged).map(Some)
}

/// By how much the queues grew, as soon as it is `acknowledged` or no more comes: a broker may
/// answer a send before it shows in the queue.
///
/// # Errors
/// The broker refuses.
pub fn grown(
    broker: &Broker,
    shape: &SendShape,
    before: &[i64],
    acknowledged: u64,
) -> Result<u64, BenchError> {
    let until = Instant::now() + SETTLE;
    loop {
        let after = target::last_offsets(broker, shape)?;
        let grown = after.iter().zip(before).map(|(a, b)| a - b).sum::<i64>();
        let grown = u64::try_from(grown).unwrap_or(0);
        if grown >= acknowledged || Instant::now() >= until {
            return Ok(grown);
        }
        std::thread::sleep(LOOK * 20);
    }
}

/// A reader's failure, kept for the end.
pub(super) type Failure = Rc<RefCell<Option<BenchError>>>;

async fn connections(
    plan: Plan,
    addr: SocketAddr,
    starts: Vec<i64>,
    ledger: Ledger,
    notes: Sender<Note>,
) -> Result<Ran, BenchError> {
    let measure = plan.send.frames.is_none();
    let measure = measure.then(|| Duration::from_secs(plan.measure));
    let recorder = Recorder::new(Duration::from_secs(plan.warm_up), measure, notes);
    let ledger = Rc::new(RefCell::new(ledger));
    let ran = both_sides(&plan, addr, &starts, &recorder, &ledger).await;
    // Always, or the observer would listen for ever.
    recorder.finish();
    Ok(Ran::new(&ledger, &recorder, ran))
}

async fn both_sides(
    plan: &Plan,
    addr: SocketAddr,
    starts: &[i64],
    recorder: &Rc<Recorder>,
    ledger: &Rc<RefCell<Ledger>>,
) -> Result<(), BenchError> {
    let failure: Failure = Rc::default();
    let mut readers = Vec::new();
    if let Some(read) = &plan.read {
        let lists = cursors(&plan.shape, read, starts, None);
        readers = open_readers(plan, read, addr, lists, recorder, ledger, &failure).await?;
    }
    let ticker = glommio::spawn_local(Rc::clone(recorder).tick());
    let shared = Shared {
        recorder: Rc::clone(recorder),
        ledger: Rc::clone(ledger),
        frames_left: Rc::new(Cell::new(plan.send.frames.unwrap_or(u64::MAX))),
    };
    let mut sent = Ok(());
    for sender in open_senders(plan, addr, &shared) {
        sent = sent.and(sender.await);
    }
    if let (Ok(()), Some(read)) = (&sent, &plan.read) {
        let wanted = ledger.borrow().acknowledged() * read.groups as u64;
        await_arrivals(wanted, PATIENCE + read.delay, ledger, &failure).await;
    }
    for reader in readers {
        reader.cancel().await;
    }
    if plan.send.frames.is_none() && sent.is_ok() {
        ticker.await;
    } else {
        ticker.cancel().await;
        recorder.close();
    }
    sent.and(failure.take().map_or(Ok(()), Err))
}

/// What each reading connection reads: queues and groups dealt out in turn.
pub fn cursors(
    shape: &SendShape,
    read: &ReadPlan,
    starts: &[i64],
    ends: Option<&[i64]>,
) -> Vec<Vec<Cursor>> {
    let mut lists: Vec<Vec<Cursor>> = vec![Vec::new(); read.connections];
    let queues = target::queues(shape);
    let mut turn = (0..read.connections).cycle();
    for group in 0..read.groups {
        let group_name: Rc<str> = format!("gantry_bench_{group}").into();
        for (queue, (place, start)) in queues.iter().zip(starts).enumerate() {
            let list = turn.next().and_then(|at| lists.get_mut(at));
            if let Some(list) = list {
                list.push(Cursor {
                    group,
                    group_name: Rc::clone(&group_name),
                    topic: place.topic.as_str().into(),
                    queue_id: i32::try_from(place.id).unwrap_or(i32::MAX),
                    queue,
                    offset: *start,
                    end: ends.and_then(|ends| ends.get(queue).copied()),
                });
            }
        }
    }
    lists.retain(|list| !list.is_empty());
    lists
}

async fn open_readers(
    plan: &Plan,
    read: &ReadPlan,
    addr: SocketAddr,
    lists: Vec<Vec<Cursor>>,
    recorder: &Rc<Recorder>,
    ledger: &Rc<RefCell<Ledger>>,
    failure: &Failure,
) -> Result<Vec<Task<()>>, BenchError> {
    let reading = Reading {
        addr,
        encoding: plan.shape.encoding,
        pull_max: read.pull_max,
        due: Due {
            delay: read.delay,
            ..Due::default()
        },
    };
    let mut readers = Vec::new();
    for list in lists {
        let (recorder, ledger) = (Rc::clone(recorder), Rc::clone(ledger));
        let reader = consumer::open(reading.clone(), list, recorder, ledger).await?;
        readers.push(follow(reader, failure));
    }
    Ok(readers)
}

/// Reads until it is cancelled; a failure is kept.
pub(super) fn follow(reader: Rc<consumer::Reader>, failure: &Failure) -> Task<()> {
    let failure = Rc::clone(failure);
    glommio::spawn_local(async move {
        if let Err(error) = reader.run().await {
            failure.borrow_mut().get_or_insert(error);
        }
    })
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are at most ten million, connections at most some thousand"
)]
pub(super) fn open_senders(
    plan: &Plan,
    addr: SocketAddr,
    shared: &Shared,
) -> Vec<Task<Result<(), BenchError>>> {
    let connections = plan.send.connections;
    let frame_rate = |rate: u64| rate as f64 / f64::from(plan.shape.batch) / connections as f64;
    (0..connections)
        .map(|number| {
            let stream = u32::try_from(number).unwrap_or(u32::MAX);
            let stream = plan.send.first_stream.saturating_add(stream);
            let rate = plan.send.rate.map(frame_rate);
            // Connections take turns: each starts its schedule a part of an interval later.
            let part = number as f64 / connections as f64;
            let phase_ns = rate.map_or(0.0, |rate| 1e9 / rate * part);
            let phase_ns = phase_ns + plan.send.start_after.as_nanos() as f64;
            let commits = plan.shape.flavour == Flavour::Half;
            let drive = Drive {
                addr,
                stream,
                in_flight: plan.send.in_flight,
                rate,
                phase_ns: phase_ns as u64,
                one_way: plan.shape.one_way,
                groups: plan.read.as_ref().map_or(0, |read| read.groups as u64),
                delay: plan.read.as_ref().map_or(Duration::ZERO, |read| read.delay),
                commit_to: commits.then(|| (plan.shape.topics.clone(), plan.shape.encoding)),
            };
            let template = SendTemplate::new(&plan.shape, stream);
            glommio::spawn_local(produce(drive, template, shared.clone()))
        })
        .collect()
}

/// What a report says of the scenario.
pub fn describe(plan: &Plan, broker: &Broker) -> Vec<(&'static str, String)> {
    let send = &plan.send;
    let rate = send
        .rate
        .map_or("flat out".to_owned(), |rate| format!("{rate} messages/s"));
    let topics = plan.shape.topics.len();
    let mut pairs = vec![
        ("scenario", plan.name.to_owned()),
        (
            "connections × in flight",
            format!("{} × {}", send.connections, send.in_flight),
        ),
        (
            "topics × queues",
            format!("{topics} × {}", plan.shape.queues),
        ),
        ("body bytes", plan.shape.size.to_string()),
        ("batch", plan.shape.batch.to_string()),
        ("rate", rate),
        ("encoding", format!("{:?}", plan.shape.encoding)),
    ];
    if plan.shape.one_way {
        pairs.push(("answers", "none (one-way)".to_owned()));
    }
    if let Some(read) = &plan.read {
        let text = format!("{} × {}", read.connections, read.groups);
        pairs.push(("readers × groups", text));
    }
    pairs.push((
        "broker process",
        broker
            .pid
            .map_or("not found".to_owned(), |pid| pid.to_string()),
    ));
    pairs
}
