//! The command line of `gantry bench`.
//!
//! **Owns** names, defaults and help of every option, and the ranges they must lie in.
//! **Lives on** the calling thread.
//! **Invariants** a scenario takes only options that have an effect on it.
//! **Limits** see [`check`].
//! **Not here** what a scenario does (`scenario`, `sink`, `compare`).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gantry_protocol::frame::HeaderEncoding;

use crate::error::BenchError;
use crate::pace::RATE_MAX;
use crate::producer::IN_FLIGHT_MAX;
use crate::wire::payload::STAMP_BYTES;

/// Most connections of a run: beyond it one machine has no more port numbers for one broker.
pub const CONNECTIONS_MAX: usize = 28_000;
/// Largest body: with its header it still fits a frame of 16 MiB.
const SIZE_MAX: usize = 8 << 20;
/// Fewest rounds of a comparison.
pub const ROUNDS_MIN: usize = 3;
/// Most queues over all topics.
const QUEUES_MAX: u64 = 1_000_000;

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

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Send: single messages, batches or one-way; flat out or at a fixed rate.
    Produce(ProduceArgs),
    /// Send to many topics with many queues, in turn.
    Queues(QueuesArgs),
    /// Read a backlog: fill it and read it at once, or fill now and read later (cold).
    Consume(ConsumeArgs),
    /// From producer to long-polling consumer at a fixed rate (5,000/s).
    E2e(FlowArgs),
    /// Send flat out and receive at the same time.
    Mixed(FlowArgs),
    /// One producer side, several consumer groups.
    Fanout(FanoutArgs),
    /// Delayed messages (1,000/s): how late they come; or many pending at once.
    Delay(DelayArgs),
    /// Transactions: half message, commit, delivery.
    Tx(FlowArgs),
    /// A storm of new connections, each with a heartbeat.
    Connect(ConnectArgs),
    /// Send and receive at a fixed rate for long (1,000/s for an hour); memory at both ends.
    Soak(FlowArgs),
    /// A server that answers sends and nothing more: what the generator itself costs.
    Sink(SinkArgs),
    /// Run the scenarios on Gantry and on Apache RocketMQ in turn and print the ratios.
    Compare(CompareArgs),
    /// Run Gantry's log against the device and against itself and print the ratios.
    Judge(JudgeArgs),
}

/// Header encoding of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// The default of every client.
    Json,
    /// `rocketmq.serialize.type=ROCKETMQ`.
    Binary,
}

impl From<Encoding> for HeaderEncoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Binary => Self::Binary,
        }
    }
}

/// Whom to drive.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Name server to ask for the broker.
    #[arg(long, default_value = "127.0.0.1:9876", env = "NAMESRV_ADDR")]
    pub namesrv: String,
    /// The broker itself, instead of asking a name server.
    #[arg(long)]
    pub broker: Option<String>,
    /// Process to read CPU and memory of; found by the broker's address when it is on this machine.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Topic; made on the broker if it doesn't exist, never changed if it does: it must have
    /// `--queues` queues at least. With several topics, the stem of their names.
    #[arg(long, default_value = "GantryBench")]
    pub topic: String,
    /// Header encoding.
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
}

/// What messages look like.
#[derive(Debug, Clone, Args)]
pub struct ShapeArgs {
    /// Queues of each topic.
    #[arg(long, default_value_t = 8)]
    pub queues: u32,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
}

/// How hard to send.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// TCP connections that send.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Requests in flight on each connection; at a fixed rate, the most that may pile up.
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// Messages a second over all connections; latency then counts from the intended send time.
    #[arg(long)]
    pub rate: Option<u64>,
}

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct WindowArgs {
    /// Seconds measured (10; soak 3600).
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Seconds before the measured window.
    #[arg(long, default_value_t = 3)]
    pub warm_up: u64,
}

/// Where the report goes.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Write a histogram of every second to this file (`HdrHistogram` log).
    #[arg(long)]
    pub hlog: Option<PathBuf>,
    /// Draw latency by percentile and over time into this SVG file.
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

/// How the receiving side reads.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// TCP connections that pull.
    #[arg(long, default_value_t = 4)]
    pub readers: usize,
    /// Messages of a pull.
    #[arg(long, default_value_t = 32)]
    pub pull_max: u16,
    /// Count messages out of order, but don't fail for them: a broker that handles the requests of
    /// a connection with several threads doesn't keep the order of pipelined sends.
    #[arg(long)]
    pub allow_reorder: bool,
}

/// Arguments of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: ShapeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
    /// Messages of one batch send (1 = single sends).
    #[arg(long, default_value_t = 1)]
    pub batch: u32,
    /// Without answers: what counts is what the broker's queues grew by.
    #[arg(long)]
    pub one_way: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub window: WindowArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `queues`.
#[derive(Debug, Args)]
pub struct QueuesArgs {
    /// Topics; each has `--queues` queues.
    #[arg(long, default_value_t = 1250)]
    pub topics: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub produce: ProduceArgs,
}

/// What `consume` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Fill and read at once.
    Both,
    /// Only fill.
    Fill,
    /// Only read what is there.
    Read,
}

/// Arguments of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: ShapeArgs,
    /// Messages of the backlog [default when filling: 1000000]. A run that only reads fails if
    /// fewer come; without this it takes what the broker says that it has.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Fill, read, or both at once.
    #[arg(long, value_enum, default_value_t = Phase::Both)]
    pub phase: Phase,
    /// Consumer groups that each read all of it.
    #[arg(long, default_value_t = 1)]
    pub groups: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub read: ReadArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of the scenarios with both sides.
#[derive(Debug, Args)]
pub struct FlowArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: ShapeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub read: ReadArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub window: WindowArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `fanout`.
#[derive(Debug, Args)]
pub struct FanoutArgs {
    /// Consumer groups that each receive everything.
    #[arg(long, default_value_t = 4)]
    pub groups: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub flow: FlowArgs,
}

/// Arguments of `delay`.
#[derive(Debug, Args)]
pub struct DelayArgs {
    /// Delay level, 1 to 18 of RocketMQ's default table.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=18))]
    pub level: u32,
    /// An arbitrary delay in milliseconds instead of a level.
    #[arg(long, conflicts_with = "level")]
    pub delay_ms: Option<u64>,
    /// Park so many messages with due times of their own, then receive them as they fall due,
    /// `--rate` of them a second (10,000): memory, lateness, loss.
    #[arg(long, value_name = "N", conflicts_with = "delay_ms")]
    pub pending: Option<u64>,
    /// With --pending: seconds from the start to the first due time; the parking must fit.
    #[arg(long, default_value_t = 20, requires = "pending")]
    pub lead: u64,
    /// With --pending: park and leave (fill), or receive what was parked before (read).
    #[arg(long, value_enum, default_value_t = Phase::Both, requires = "pending")]
    pub phase: Phase,
    /// With --pending: also send so many messages of `--level` a second while the others fall due.
    #[arg(long, value_name = "N", requires = "pending")]
    pub live_rate: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub flow: FlowArgs,
}

/// Arguments of `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArgs,
    /// Connections in all; they stay open until the end.
    #[arg(long, default_value_t = 5000)]
    pub connections: usize,
    /// Connections being made at the same time.
    #[arg(long, default_value_t = 100)]
    pub at_once: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `sink`.
#[derive(Debug, Clone, Args)]
pub struct SinkArgs {
    /// Address to listen on; it is broker and name server at once.
    #[arg(long, default_value = "127.0.0.1:10911")]
    pub listen: String,
    /// Keep messages and answer pulls; without it only their number is kept.
    #[arg(long)]
    pub keep: bool,
    /// With --keep, forget every n-th acknowledged message.
    #[arg(long, value_name = "N")]
    pub lose_every: Option<u64>,
    /// With --keep, store every n-th message behind the one that follows it.
    #[arg(long, value_name = "N")]
    pub swap_every: Option<u64>,
    /// With --keep, store every n-th message twice.
    #[arg(long, value_name = "N")]
    pub repeat_every: Option<u64>,
    /// With --keep, flip a bit in every n-th message.
    #[arg(long, value_name = "N")]
    pub damage_every: Option<u64>,
    /// Refuse every n-th send with `SYSTEM_BUSY`.
    #[arg(long, value_name = "N")]
    pub refuse_every: Option<u64>,
}

/// What `compare` and `judge` share: which rows, how often, where.
#[derive(Debug, Clone, Args)]
pub struct TableArgs {
    /// Only these rows of the table; `--list` shows their names.
    #[arg(long, value_delimiter = ',')]
    pub scenario: Vec<String>,
    /// Name the rows and their bars, run nothing.
    #[arg(long)]
    pub list: bool,
    /// Rounds, 3 and up: a median of fewer is one of them.
    #[arg(long, default_value_t = ROUNDS_MIN)]
    pub rounds: usize,
    /// First of the ports used, which must be free: up to 30 above it.
    #[arg(long, default_value_t = 20_876)]
    pub port: u16,
    /// Folder for the JSON files and the Markdown table (bench/results; with --quick, so that they
    /// don't take the place of full ones, bench/results/quick).
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// Folder for the stores (the temporary folder), on the device that is meant: some 30 GiB for
    /// `compare`, 12 for `judge`.
    #[arg(long)]
    pub work: Option<PathBuf>,
}

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Rows, rounds and places.
    #[command(flatten)]
    pub table: TableArgs,
    /// The other broker.
    #[arg(long, value_enum, default_value_t = Peer::Rocketmq)]
    pub peer: Peer,
    /// Shorter windows, smaller backlogs, a warm peer kept with its store: about twenty minutes in
    /// all; for a look, not for bars.
    #[arg(long)]
    pub quick: bool,
    /// Heap of the peer's broker (4g, less where the machine has under 12 GiB).
    #[arg(long)]
    pub peer_heap: Option<String>,
    /// Further settings of the peer's broker.
    #[arg(long, value_name = "KEY=VALUE")]
    pub peer_set: Vec<String>,
    /// Further settings of Gantry.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Arguments of `judge`.
#[derive(Debug, Clone, Args)]
pub struct JudgeArgs {
    /// Rows, rounds and places.
    #[command(flatten)]
    pub table: TableArgs,
    /// Shorter windows and smaller logs: for a look, not for bars.
    #[arg(long)]
    pub quick: bool,
    /// Messages of 1 KiB in the log before the start after `kill -9` (2,000,000; with --quick
    /// 300,000).
    #[arg(long)]
    pub log_messages: Option<u64>,
}

/// Brokers to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Apache RocketMQ 5.5.0 from Maven Central.
    Rocketmq,
}

fn argument(name: &'static str, value: u64, allowed: &'static str) -> BenchError {
    BenchError::Argument {
        name,
        value: value.to_string(),
        allowed,
    }
}

/// Checks the ranges that several scenarios share.
///
/// # Errors
/// The option that is out of range, and what is allowed.
pub fn check(shape: &ShapeArgs, topics: u32, load: &LoadArgs) -> Result<(), BenchError> {
    if load.connections == 0 || load.connections > CONNECTIONS_MAX {
        return Err(argument(
            "--connections",
            load.connections as u64,
            "1 to 28000",
        ));
    }
    if load.in_flight == 0 || load.in_flight > IN_FLIGHT_MAX {
        return Err(argument("--in-flight", load.in_flight as u64, "1 to 65536"));
    }
    if load.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
        let rate = load.rate.unwrap_or(0);
        return Err(argument("--rate", rate, "1 to 10000000"));
    }
    if shape.size < STAMP_BYTES || shape.size > SIZE_MAX {
        return Err(argument("--size", shape.size as u64, "32 to 8388608"));
    }
    let queues = u64::from(topics) * u64::from(shape.queues);
    if queues == 0 || queues > QUEUES_MAX {
        return Err(argument("--queues", queues, "1 to 1000000 over all topics"));
    }
    Ok(())
}

/// Checks a batch: all of it must fit a frame.
///
/// # Errors
/// What is allowed.
pub fn check_batch(batch: u32, size: usize) -> Result<(), BenchError> {
    /// Properties and fixed fields of a batch's element.
    const ELEMENT_BYTES: usize = 128;
    if batch == 0 || (size + ELEMENT_BYTES).saturating_mul(batch as usize) > 2 * SIZE_MAX - 4096 {
        return Err(argument(
            "--batch",
            u64::from(batch),
            "1 and up, under 16 MiB a frame",
        ));
    }
    Ok(())
}

/// Checks that a count is at least one.
///
/// # Errors
/// It is zero.
pub fn check_some(name: &'static str, count: u64) -> Result<(), BenchError> {
    if count == 0 {
        return Err(argument(name, count, "1 and up"));
    }
    Ok(())
}
