//! `gantry doctor`: what this machine offers.
//!
//! **Owns** the command's output and exit code.
//! **Lives on** the main thread.
//! **Invariants** the exit code is 1 exactly when a broker could not start here.
//! **Limits** none of its own.
//! **Not here** the probing (`gantry_runtime::probe`).

use std::path::Path;

use gantry_runtime::probe::{Report, Status};
use gantry_runtime::topology;

/// Runs the command.
///
/// # Errors
/// Gantry cannot run on this machine as it is.
pub fn run(data: &Path) -> Result<(), String> {
    let cpus = topology::Cpus::of_process().count();
    let cores = topology::data_cores_default(cpus);
    let report = Report::take(cores, &existing_part(data));
    say!("gantry {} on this machine", crate::cli::VERSION);
    say!("  CPUs {cpus}, of which {cores} would serve data (--cores changes that)");
    crate::print::answer(&report.to_string())?;
    say!("  (locked memory is memlock, ulimit -l; direct I/O is O_DIRECT)");
    match report.worst() {
        Status::Ok => say!("all is well"),
        Status::Warn => say!("it runs; the warnings cost speed or safety"),
        Status::Fail => return Err("cannot run here, see FAIL above for what to do".into()),
    }
    Ok(())
}

/// The nearest folder above that exists: the probe writes there and must not create anything.
pub fn existing_part(path: &Path) -> std::path::PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute
        .ancestors()
        .find(|part| part.is_dir())
        .unwrap_or(Path::new("/"))
        .to_path_buf()
}
