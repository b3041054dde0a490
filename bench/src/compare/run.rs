//! One run of the generator as a process of its own.
//!
//! **Owns** the command line of such a run and its report.
//! **Lives on** the calling thread.
//! **Invariants** a run that failed has a report all the same, with a complaint; one without a
//! report is an error.
//! **Limits** the run's own.
//! **Not here** which runs (`compare`, `judge`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::servers::{Server, run_noted};
use crate::error::BenchError;

/// The program that runs, its words to come.
pub fn generator() -> Command {
    Command::new(own_binary())
}

/// As [`generator`], for a run beside one that measures: it gets what that one leaves of the
/// processors, for on a machine of its own it would take none from it.
pub fn generator_beside() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(own_binary());
    command
}

fn own_binary() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("gantry"))
}

/// Runs `gantry bench` with these words against a server; its report, also of a run that failed.
///
/// # Errors
/// It can't be started, or left no report.
pub fn report_of(
    mut command: Command,
    server: &Server,
    (words, more): (&[&str], &[String]),
    topic: &str,
    out: &Path,
) -> Result<Value, BenchError> {
    let side = server.side().name();
    let _ = std::fs::remove_file(out);
    command.arg("bench").args(words).args(more);
    let addr = server.addr().to_string();
    command.args(["--broker", &addr, "--topic", topic]);
    if let Some(pid) = server.pid() {
        command.args(["--broker-pid", &pid.to_string()]);
    }
    command.arg("--out").arg(out).stdin(Stdio::null());
    let failed = |what: String| BenchError::Program {
        program: format!("bench {} on {side}", words.join(" ")),
        what,
    };
    let ran = run_noted(&mut command).map_err(|e| failed(e.to_string()))?;
    let text = std::fs::read_to_string(out);
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    let report = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    let mut report: Value = report.ok_or_else(|| failed(said.clone()))?;
    if let Some(object) = report.as_object_mut() {
        // The course of each run would make the files large.
        object.remove("course");
        if !ran.status.success() {
            object.insert("complaint".to_owned(), json!(said));
            eprintln!("  {side}: {said}");
        }
    }
    Ok(report)
}
