//! The scenarios of `gantry bench` and their arguments.
//!
//! **Owns** the command line of the benchmark and the order of a run: topic, templates,
//! connections, readings before and after, report.
//! **Lives on** the calling thread; the connections run on one glommio executor of their own.
//! **Invariants** a run with failed sends ends with an error after its report.
//! **Limits** see the ranges in [`ProduceArgs`].
//! **Not here** comparing two brokers (`bench/compare.sh` runs this on both, alternating).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use glommio::{LocalExecutorBuilder, Placement};

use crate::broker_process::{listening_pid, machine_busy_seconds, read_process};
use crate::error::BenchError;
use crate::pace::RATE_MAX;
use crate::producer::{Drive, IN_FLIGHT_MAX, Measured, produce};
use crate::report::{Report, Spent};
use crate::route;
use crate::templates::SendTemplate;

/// Most connections a run opens.
const CONNECTIONS_MAX: usize = 10_000;

/// `gantry bench …`
#[derive(Debug, Parser)]
#[command(
    name = "gantry bench",
    about = "Drive a RocketMQ-protocol broker and measure it"
)]
pub struct BenchArgs {
    /// What to run.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// The scenarios built so far.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Send messages: connections × in-flight, flat out or at a fixed rate.
    Produce(ProduceArgs),
}

/// Header encoding of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// The default of every client.
    Json,
    /// `rocketmq.serialize.type=ROCKETMQ`.
    Binary,
}

/// Arguments of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// Name server to ask for the broker.
    #[arg(long, default_value = "127.0.0.1:9876", env = "NAMESRV_ADDR")]
    pub namesrv: String,
    /// Topic; made on the broker if it doesn't exist.
    #[arg(long, default_value = "GantryBench")]
    pub topic: String,
    /// Write queues of the topic.
    #[arg(long, default_value_t = 8)]
    pub queues: u32,
    /// TCP connections.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Messages of one batch send (1 = single sends).
    #[arg(long, default_value_t = 1)]
    pub batch: u32,
    /// Messages a second over all connections; latency then counts from the intended send time.
    #[arg(long)]
    pub rate: Option<u64>,
    /// Seconds measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Seconds before the measured window.
    #[arg(long, default_value_t = 3)]
    pub warm_up: u64,
    /// Header encoding.
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
    /// Process to read CPU and memory of; found by the broker's port when not given.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Runs a scenario to its end and prints its report. `words` are what follows `gantry bench`; asked
/// for help or given unknown words, it prints the usage and ends the process as command lines do.
///
/// # Errors
/// Arguments out of range, connections that break, or failed sends.
pub fn run(words: &[String]) -> Result<(), BenchError> {
    let program = std::iter::once("gantry bench");
    let args = BenchArgs::parse_from(program.chain(words.iter().map(String::as_str)));
    match &args.scenario {
        Scenario::Produce(args) => run_produce(args),
    }
}

fn check(args: &ProduceArgs) -> Result<(), BenchError> {
    let argument = |name, value: String, allowed| BenchError::Argument {
        name,
        value,
        allowed,
    };
    if args.connections == 0 || args.connections > CONNECTIONS_MAX {
        return Err(argument(
            "--connections",
            args.connections.to_string(),
            "1 to 10000",
        ));
    }
    if args.in_flight == 0 || args.in_flight > IN_FLIGHT_MAX {
        return Err(argument(
            "--in-flight",
            args.in_flight.to_string(),
            "1 to 65536",
        ));
    }
    if args.queues == 0 || args.batch == 0 || args.seconds == 0 || args.size == 0 {
        let value = format!(
            "{}/{}/{}/{}",
            args.queues, args.batch, args.seconds, args.size
        );
        return Err(argument(
            "--queues/--batch/--seconds/--size",
            value,
            "each 1 or more",
        ));
    }
    match args.rate {
        Some(rate) if rate == 0 || rate > RATE_MAX => {
            Err(argument("--rate", rate.to_string(), "1 to 10000000"))
        }
        _ => Ok(()),
    }
}

fn run_produce(args: &ProduceArgs) -> Result<(), BenchError> {
    check(args)?;
    let broker = route::prepare_topic(&args.namesrv, &args.topic, args.queues)?;
    let pid = args.broker_pid.or_else(|| listening_pid(broker.port()));
    #[allow(clippy::cast_precision_loss)]
    let rate = args
        .rate
        .map(|rate| rate as f64 / args.connections as f64 / f64::from(args.batch));
    let drives = (0..args.connections)
        .map(|number| {
            let drive = Drive {
                addr: broker,
                in_flight: args.in_flight,
                rate,
                warm_up: Duration::from_secs(args.warm_up),
                measure: Duration::from_secs(args.seconds),
            };
            (drive, SendTemplate::new(args, number))
        })
        .collect();
    let before = (
        pid.and_then(read_process),
        own_cpu(),
        machine_busy_seconds(),
    );
    let measured = on_executor(drives)?;
    let spent = Spent {
        broker: before.0.zip(pid.and_then(read_process)),
        generator_cpu_seconds: own_cpu() - before.1,
        machine_cpu_seconds: machine_busy_seconds() - before.2,
    };
    finish(
        args,
        &Report {
            scenario: describe(args, pid),
            body_bytes: args.size,
            measured,
            spent,
        },
    )
}

fn own_cpu() -> f64 {
    read_process(std::process::id()).map_or(0.0, |reading| reading.cpu_seconds)
}

fn on_executor(drives: Vec<(Drive, SendTemplate)>) -> Result<Measured, BenchError> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("bench")
        .spawn(move || async move { produce(drives).await })
        .map_err(|e| BenchError::Executor(e.to_string()))?
        .join()
        .map_err(|e| BenchError::Executor(e.to_string()))?
}

fn describe(args: &ProduceArgs, pid: Option<u32>) -> Vec<(&'static str, String)> {
    let rate = args
        .rate
        .map_or("flat out".to_owned(), |rate| format!("{rate} messages/s"));
    vec![
        ("scenario", "produce".to_owned()),
        (
            "connections × in flight",
            format!("{} × {}", args.connections, args.in_flight),
        ),
        ("queues", args.queues.to_string()),
        ("body bytes", args.size.to_string()),
        ("batch", args.batch.to_string()),
        ("rate", rate),
        ("encoding", format!("{:?}", args.encoding)),
        (
            "broker process",
            pid.map_or("not found".to_owned(), |pid| pid.to_string()),
        ),
    ]
}

fn finish(args: &ProduceArgs, report: &Report) -> Result<(), BenchError> {
    let text = report.to_json().to_string();
    if args.json {
        println!("{text}");
    } else {
        println!("{}", report.to_table());
    }
    if let Some(path) = &args.out {
        std::fs::write(path, &text).map_err(|source| BenchError::Output {
            path: path.display().to_string(),
            source,
        })?;
    }
    match report.failed() {
        0 => Ok(()),
        failed => Err(BenchError::Failed {
            failed,
            sent: report.measured.sent,
            by_code: report.errors_by_code(),
        }),
    }
}
