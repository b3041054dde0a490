//! `gantry admin`: tools on a data folder.
//!
//! **Owns** nothing but the choice of the command.
//! **Lives on** the main thread.
//! **Invariants** a folder that a running process holds is refused.
//! **Limits** none.
//! **Not here** what the commands do (one file each).

mod log;

use crate::cli::Admin;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(command: &Admin) -> Result<(), String> {
    match command {
        Admin::Log(command) => log::run(command),
    }
}
