//! What can go wrong in a benchmark run.
//!
//! **Owns** the errors of the load generator.
//! **Lives on** the calling thread and the generator's executor.
//! **Invariants** each names what was tried and what came.
//! **Limits** none.
//! **Not here** what a broker refuses: that is counted by code in the report.

use std::net::SocketAddr;

/// Why a run could not be made or can't be believed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An argument is out of range.
    #[error("{name} = {value}: {allowed}")]
    Argument {
        /// The option's name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A socket failed.
    #[error("{doing} {addr}: {source}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The other side.
        addr: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// An address can't be resolved.
    #[error("address {value}: not a host:port that resolves")]
    Address {
        /// What was given.
        value: String,
    },
    /// The other side answered something else than expected.
    #[error("{doing}: {what}")]
    Answer {
        /// What was being done.
        doing: &'static str,
        /// What came.
        what: String,
    },
    /// The executor could not be started.
    #[error("the generator's executor could not be started: {0}")]
    Executor(String),
    /// A file of results could not be written.
    #[error("writing {path}: {source}")]
    Output {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The histogram log lacks something.
    #[error("the histogram log is not whole: {0}")]
    Log(String),
    /// Requests failed, so the figures must not be read as throughput.
    #[error("{failed} requests failed, {sent} messages sent (by code: {by_code})")]
    Failed {
        /// Refused or unanswered.
        failed: u64,
        /// All messages sent.
        sent: u64,
        /// `code × count` pairs.
        by_code: String,
    },
    /// The schedule could not be kept, so the latencies are those of another load.
    #[error(
        "{overdue} of {due} messages were due but not sent: raise --in-flight, or the rate is \
         more than this broker or this machine can do"
    )]
    Overdue {
        /// Due and not sent.
        overdue: u64,
        /// All that were due.
        due: u64,
    },
    /// There is nothing to judge by.
    #[error("nothing was measured: no {0} latency belongs to the window")]
    Empty(&'static str),
    /// The run ended before its time; what it had measured is in its report.
    #[error("the run broke off: {0}")]
    Broken(String),
    /// The broker reads nothing more.
    #[error("a one-way send could not be written for {0} s")]
    Stuck(u64),
    /// The broker does not answer, or does not give what it has.
    #[error("nothing came for {0} s")]
    Silent(u64),
    /// What came back is not what was sent.
    #[error("the broker's fault: {what}")]
    Wrong {
        /// Counts and what they are of.
        what: String,
    },
    /// A topic is there already and doesn't do.
    #[error(
        "topic {topic} exists with {found} queues, {wanted} are wanted: take --queues {found} or \
         another --topic"
    )]
    Topic {
        /// The topic.
        topic: String,
        /// Queues it has, to be read and written.
        found: u32,
        /// Queues of this run.
        wanted: u32,
    },
    /// A program that a comparison needs failed.
    #[error("{program}: {what}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        what: String,
    },
}
