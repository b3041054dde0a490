//! What the operator reads.
//!
//! **Owns** the words of notices, refusals and reports that several commands share.
//! **Lives on** the main thread.
//! **Invariants** a refusal is one line: what, which value, why, what to do.
//! **Limits** none of its own.
//! **Not here** configuration complaints (`config`).

use std::io;
use std::net::SocketAddr;

use gantry_runtime::shutdown::{Shutdown, StopReport};

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
    println!("stopped:\n{report}");
    match shutdown.reason() {
        Some(reason) if reason.is_failure() => Err(reason.to_string()),
        _ if report.is_clean() => Ok(()),
        _ => Err("not everything stopped cleanly, see above".into()),
    }
}
