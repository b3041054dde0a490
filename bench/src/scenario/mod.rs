//! The scenarios of `gantry bench`.
//!
//! **Owns** what each scenario is made of: which sides, which shape, which defaults.
//! **Lives on** the calling thread; the connections run on one glommio executor of their own.
//! **Invariants** a run that failed, lost or reordered something ends with an error after its
//! report.
//! **Limits** see `args`.
//! **Not here** running them (`flow`, `backlog`, `pending`, `storm`).

pub mod backlog;
pub mod flow;
pub mod pending;
pub mod storm;
pub mod target;

use std::time::Duration;

use clap::Parser as _;

use crate::args::{
    BenchArgs, DelayArgs, FlowArgs, LoadArgs, OutputArgs, ProduceArgs, ReadArgs, Scenario,
    ShapeArgs, TargetArgs, check, check_batch, check_some,
};
use crate::compare::judge;
use crate::error::BenchError;
use crate::recorder::Latency;
use crate::wire::templates::{Flavour, SendShape};
use crate::{compare, sink};
use flow::{Plan, ReadPlan, SendPlan};

/// Seconds measured when nothing is said.
const SECONDS: u64 = 10;
const SOAK_SECONDS: u64 = 3600;
/// Rates when nothing is said, messages a second.
const E2E_RATE: u64 = 5000;
const FANOUT_RATE: u64 = 5000;
const DELAY_RATE: u64 = 1000;
const SOAK_RATE: u64 = 1000;
/// The 18 levels of RocketMQ's default `messageDelayLevel`, seconds.
const LEVEL_SECONDS: [u64; 18] = [
    1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
];

/// Runs what follows `gantry bench` to its end and prints its report. Asked for help or given
/// unknown words, it prints the usage and ends the process as command lines do. `commit` is what
/// this binary was built from.
///
/// # Errors
/// Arguments out of range, connections that break, or a run that can't be believed.
pub fn run(words: &[String], commit: &str) -> Result<(), BenchError> {
    let program = std::iter::once("gantry bench");
    let args = BenchArgs::parse_from(program.chain(words.iter().map(String::as_str)));
    match &args.scenario {
        Scenario::Produce(args) => produce("produce", args, 1),
        Scenario::Queues(args) => produce("queues", &args.produce, args.topics),
        Scenario::Consume(args) => backlog::run(args),
        Scenario::E2e(args) => both_sides("e2e", args, Some(E2E_RATE), Latency::Deliver),
        Scenario::Mixed(args) => both_sides("mixed", args, None, Latency::Deliver),
        Scenario::Fanout(args) => {
            check_some("--groups", args.groups as u64)?;
            let rate = Some(FANOUT_RATE);
            let mut plan = flow_plan("fanout", &args.flow, rate, Latency::Deliver)?;
            if let Some(read) = &mut plan.read {
                read.groups = args.groups;
            }
            finish(&args.flow, &plan)
        }
        Scenario::Delay(args) => delay(args),
        Scenario::Tx(args) => {
            let mut plan = flow_plan("tx", args, None, Latency::Send)?;
            plan.shape.flavour = Flavour::Half;
            finish(args, &plan)
        }
        Scenario::Connect(args) => storm::run(args),
        Scenario::Soak(args) => {
            let mut plan = flow_plan("soak", args, Some(SOAK_RATE), Latency::Deliver)?;
            plan.measure = args.window.seconds.unwrap_or(SOAK_SECONDS);
            finish(args, &plan)
        }
        Scenario::Sink(args) => sink::run(args),
        Scenario::Compare(args) => compare::run(args, commit),
        Scenario::Judge(args) => judge::run(args, commit),
    }
}

/// A number for a run that differs from those before: milliseconds, cut to 32 bits.
pub fn run_number() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis() & u128::from(u32::MAX));
    u32::try_from(ms).unwrap_or(0)
}

/// Names of the topics of a run.
fn topics(stem: &str, count: u32) -> Vec<String> {
    if count == 1 {
        return vec![stem.to_owned()];
    }
    (0..count).map(|n| format!("{stem}-{n}")).collect()
}

fn shape(target: &TargetArgs, shape: &ShapeArgs, topics_count: u32) -> SendShape {
    SendShape {
        topics: topics(&target.topic, topics_count),
        queues: shape.queues,
        size: shape.size,
        batch: 1,
        encoding: target.encoding.into(),
        one_way: false,
        flavour: Flavour::Plain,
        run: run_number(),
    }
}

fn send_plan(load: &LoadArgs, rate: Option<u64>) -> SendPlan {
    SendPlan {
        connections: load.connections,
        in_flight: load.in_flight,
        rate: load.rate.or(rate),
        frames: None,
        first_stream: 0,
        start_after: Duration::ZERO,
    }
}

fn produce(name: &'static str, args: &ProduceArgs, topics_count: u32) -> Result<(), BenchError> {
    check(&args.shape, topics_count, &args.load)?;
    check_batch(args.batch, args.shape.size)?;
    let seconds = args.window.seconds.unwrap_or(SECONDS);
    check_some("--seconds", seconds)?;
    let mut shape = shape(&args.target, &args.shape, topics_count);
    shape.batch = args.batch;
    shape.one_way = args.one_way;
    let plan = Plan {
        name,
        shape,
        send: send_plan(&args.load, None),
        read: None,
        warm_up: args.window.warm_up,
        measure: seconds,
        strict_order: true,
        main: Latency::Send,
    };
    let report = flow::run(&plan, &args.target, &args.output)?;
    target::conclude(&report, &args.output)
}

fn read_plan(read: &ReadArgs) -> Result<ReadPlan, BenchError> {
    check_some("--readers", read.readers as u64)?;
    check_some("--pull-max", u64::from(read.pull_max))?;
    Ok(ReadPlan {
        connections: read.readers,
        groups: 1,
        pull_max: i32::from(read.pull_max),
        delay: Duration::ZERO,
    })
}

fn flow_plan(
    name: &'static str,
    args: &FlowArgs,
    rate: Option<u64>,
    main: Latency,
) -> Result<Plan, BenchError> {
    check(&args.shape, 1, &args.load)?;
    let seconds = args.window.seconds.unwrap_or(SECONDS);
    check_some("--seconds", seconds)?;
    Ok(Plan {
        name,
        shape: shape(&args.target, &args.shape, 1),
        send: send_plan(&args.load, rate),
        read: Some(read_plan(&args.read)?),
        warm_up: args.window.warm_up,
        measure: seconds,
        strict_order: !args.read.allow_reorder,
        main,
    })
}

fn both_sides(
    name: &'static str,
    args: &FlowArgs,
    rate: Option<u64>,
    main: Latency,
) -> Result<(), BenchError> {
    finish(args, &flow_plan(name, args, rate, main)?)
}

fn finish(args: &FlowArgs, plan: &Plan) -> Result<(), BenchError> {
    let report = flow::run(plan, &args.target, &args.output)?;
    target::conclude(&report, &args.output)
}

/// A level's delay by RocketMQ's default table.
fn level_delay(level: u32) -> Duration {
    let seconds = LEVEL_SECONDS.get(level as usize - 1).copied();
    Duration::from_secs(seconds.unwrap_or(1))
}

fn delay(args: &DelayArgs) -> Result<(), BenchError> {
    if let Some(count) = args.pending {
        return pending::run(args, count);
    }
    let mut plan = flow_plan("delay", &args.flow, Some(DELAY_RATE), Latency::Deliver)?;
    let (flavour, delay) = match args.delay_ms {
        Some(ms) => (Flavour::DelayMs(ms), Duration::from_millis(ms)),
        None => (Flavour::DelayLevel(args.level), level_delay(args.level)),
    };
    plan.shape.flavour = flavour;
    // Delayed messages of one queue wait side by side; which comes first is not promised.
    plan.strict_order = false;
    if let Some(read) = &mut plan.read {
        read.delay = delay;
    }
    finish(&args.flow, &plan)
}

/// Options of the output that a run without a report of its own has.
pub(crate) fn no_output() -> OutputArgs {
    OutputArgs {
        json: false,
        out: None,
        hlog: None,
        plot: None,
    }
}
