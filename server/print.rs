//! What the operator reads.
//!
//! **Owns** the words of notices, refusals and reports that several commands share, and the
//! writing to stdout and stderr beside the log.
//! **Lives on** the main thread; lines on every thread.
//! **Invariants** a refusal is one line: what, which value, why, what to do. Nobody has to read
//! what is written: a process whose reader is gone (`gantry up | head`) goes on serving and stops
//! in order, where `println!` would panic.
//! **Limits** none of its own.
//! **Not here** configuration complaints (`config`).

use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use gantry_actors::settings::FlushDiskType;
use gantry_runtime::glommio_disk::TailPlace;
use gantry_runtime::probe::Status;
use gantry_runtime::shutdown::{Shutdown, StopReport};

use crate::broker::Running;

/// A line on stdout.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::line(std::io::stdout(), format_args!($($text)*)) };
}

/// A line on stderr.
macro_rules! tell {
    ($($text:tt)*) => { $crate::print::line(std::io::stderr(), format_args!($($text)*)) };
}

/// See [`say!`] and [`tell!`].
pub fn line(mut out: impl io::Write, text: Arguments<'_>) {
    // One write, so that lines of several threads don't mix.
    drop(out.write_all(format!("{text}\n").as_bytes()));
}

/// Writes what a command was asked for to stdout. False when whoever reads has enough.
///
/// # Errors
/// It takes nothing, and not because nobody reads any more.
pub fn answer(text: &str) -> Result<bool, String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("standard output: {error}")),
    }
}

/// Things to know, one log line each.
pub fn notices(notices: &[String]) {
    for notice in notices {
        tracing::warn!("{notice}");
    }
}

/// Why a port could not be taken.
pub fn port_refused(what: &str, address: SocketAddr, error: &io::Error) -> String {
    let todo = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "something already listens there; stop it, or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own, or 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one",
        _ => "choose another address or port",
    };
    format!("{what} port {address}: {error}: {todo}")
}

/// Prints how stopping went.
///
/// # Errors
/// The process ended because a part failed.
pub fn stopped(shutdown: &Shutdown, report: &StopReport) -> Result<(), String> {
    say!("stopped:\n{report}");
    match shutdown.reason() {
        Some(reason) if reason.is_failure() => Err(reason.to_string()),
        _ if report.is_clean() => Ok(()),
        _ => Err("not everything stopped cleanly, see above".into()),
    }
}

/// The start-up lines of a broker.
pub fn broker(running: &Running) {
    let settings = &running.settings;
    say!(
        "  broker       {} (VIP {}), clients are told {}",
        settings.listen,
        settings.listen_vip.port(),
        settings.told_address()
    );
    say!(
        "  identity     cluster {}, broker {}, master",
        settings.cluster_name,
        settings.broker_name
    );
    let found = &running.recovered;
    let state = if found.is_new {
        "new store".to_owned()
    } else {
        format!(
            "{} topics, {} groups; {} records put back in {} ms, {} runs of them from the tail",
            found.loaded.topics,
            found.loaded.groups,
            found.records,
            found.longest_us / 1_000,
            found.runs_from_tail
        )
    };
    say!("  data         {} ({state})", settings.data_dir.display());
    say!(
        "  cores        {} for data, {} shards",
        running.core_count(),
        found.shards_count
    );
    say!(
        "  durability   {}",
        durability(settings.flush_disk_type, settings.flush_interval_ms)
    );
    let tail = TailPlace::choose(settings.tail_dir.as_deref(), &settings.data_dir);
    say!("  tail         {} ({})", tail.folder.display(), tail.why);
    for finding in &running.machine.findings {
        let mark = if finding.status == Status::Ok {
            ""
        } else {
            "  <- gantry doctor"
        };
        say!("  {:<12} {}{mark}", finding.name, finding.found);
    }
    for link in &running.links {
        match &link.state {
            Ok(()) => say!("  registered   at name server {}", link.address),
            Err(why) => say!("  registered   NOT at {}: {why}; trying on", link.address),
        }
    }
}

fn durability(mode: FlushDiskType, interval_ms: u64) -> String {
    match mode {
        FlushDiskType::Async => format!(
            "ASYNC_FLUSH: an acknowledged message survives a killed process; on the device within \
             10 ms, synced within {interval_ms} ms"
        ),
        FlushDiskType::Sync => {
            "SYNC_FLUSH: an acknowledged message is written and synced; it survives a power cut"
                .into()
        }
    }
}

/// What a newcomer pastes next.
pub fn next_steps(namesrv: SocketAddr, advertised: IpAddr) {
    let ip = if namesrv.ip().is_unspecified() {
        advertised
    } else {
        namesrv.ip()
    };
    let address = SocketAddr::new(ip, namesrv.port());
    say!("next, in another terminal:");
    say!("  gantry send hello 'a first message' -n {address}");
    say!("  gantry receive hello --group me --from first -n {address}");
    say!(
        "  Java, Go, mqadmin: name server {address}, as in producer.setNamesrvAddr(\"{address}\");"
    );
}
