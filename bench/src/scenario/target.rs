//! The ends of a run: finding the broker before it, giving out the report after it.
//!
//! **Owns** the broker's address and process, the observer's thread, the forms of the report.
//! **Lives on** the calling thread.
//! **Invariants** a report is given out before its complaint becomes the exit code.
//! **Limits** open files are raised to what the system allows.
//! **Not here** the figures (`report`).

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::{OutputArgs, TargetArgs};
use crate::error::BenchError;
use crate::observe::process::listening_pid;
use crate::observe::watch::{Observed, Watch};
use crate::recorder::{Latency, Note};
use crate::report::hlog::HistogramLog;
use crate::report::{Report, json, plot, table};
use crate::route::{Caller, Queue, first_master, reach};
use crate::wire::templates::SendShape;

/// The broker under test.
#[derive(Debug, Clone, Copy)]
pub struct Broker {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its process, if on this machine.
    pub pid: Option<u32>,
}

/// Finds the broker, once the files of results can be written.
///
/// # Errors
/// A file of results can't be made; no name server, no broker.
pub fn find(target: &TargetArgs, output: &OutputArgs) -> Result<Broker, BenchError> {
    try_files(output)?;
    let addr = match &target.broker {
        Some(broker) => reach(broker)?,
        None => first_master(&target.namesrv)?,
    };
    let pid = target.broker_pid.or_else(|| listening_pid(addr));
    Ok(Broker { addr, pid })
}

/// All queues of a run, in the order of their indexes.
pub fn queues(shape: &SendShape) -> Vec<Queue> {
    let ids = 0..shape.queues;
    ids.flat_map(|id| {
        shape.topics.iter().map(move |topic| Queue {
            topic: topic.clone(),
            id,
        })
    })
    .collect()
}

/// Offsets of all queues behind their last message.
///
/// # Errors
/// The broker refuses.
pub fn last_offsets(broker: &Broker, shape: &SendShape) -> Result<Vec<i64>, BenchError> {
    Caller::connect(broker.addr)?.offsets(&queues(shape), true)
}

/// Opens the files of results: one that can't be written ends a run before it begins.
///
/// # Errors
/// Which file, and why.
fn try_files(output: &OutputArgs) -> Result<(), BenchError> {
    let paths = [&output.out, &output.plot, &output.hlog];
    for path in paths.into_iter().flatten() {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|source| BenchError::Output {
            path: path.display().to_string(),
            source,
        })?;
    }
    Ok(())
}

/// Starts the observer; the run tells it by the channel and joins it at the end.
///
/// # Errors
/// The histogram log can't be made.
pub fn observe(
    broker: &Broker,
    name: &str,
    main: Latency,
    output: &OutputArgs,
) -> Result<(Sender<Note>, JoinHandle<Observed>), BenchError> {
    let log = output.hlog.as_deref();
    let watch = Watch {
        broker_pid: broker.pid,
        log: log
            .map(|path| HistogramLog::create(path, name))
            .transpose()?,
        progress: Some(name.to_owned()),
        main,
    };
    let (notes, heard) = channel();
    let thread = std::thread::Builder::new()
        .name("observer".to_owned())
        .spawn(move || watch.listen(&heard))
        .map_err(|e| BenchError::Executor(e.to_string()))?;
    Ok((notes, thread))
}

/// Waits for the observer's sums.
///
/// # Errors
/// It panicked.
pub fn observed(thread: JoinHandle<Observed>) -> Result<Observed, BenchError> {
    let panicked = |_| BenchError::Executor("the observer panicked".to_owned());
    thread.join().map_err(panicked)
}

/// Runs the generator's executor on a thread of its own.
///
/// # Errors
/// It can't be started, or what it runs fails.
pub fn on_executor<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T, BenchError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BenchError>> + 'static,
{
    raise_open_files();
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("bench")
        .spawn(move || async move { work().await })
        .map_err(|e| BenchError::Executor(e.to_string()))?
        .join()
        .map_err(|e| BenchError::Executor(e.to_string()))?
}

/// As many open files as the system lets this process have.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it can't be raised, opening the connection will say so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Prints and writes the report; its complaint becomes the result.
///
/// # Errors
/// A file can't be written, or the run can't be believed.
pub fn conclude(report: &Report, output: &OutputArgs) -> Result<(), BenchError> {
    let text = json::render(report).to_string();
    if output.json {
        println!("{text}");
    } else {
        println!("{}", table::render(report));
    }
    if let Some(path) = &output.out {
        std::fs::write(path, &text).map_err(|source| BenchError::Output {
            path: path.display().to_string(),
            source,
        })?;
    }
    if let Some(path) = &output.plot {
        plot::draw(report, path).map_err(|why| BenchError::Output {
            path: path.display().to_string(),
            source: std::io::Error::other(why.to_string()),
        })?;
    }
    report.believable()?;
    match &report.observed.log_failure {
        Some(why) => Err(BenchError::Log(why.clone())),
        None => Ok(()),
    }
}
