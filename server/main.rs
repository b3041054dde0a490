//! The one binary: reads the command line, hands over to the command's own file.
//!
//! **Owns** logging and the exit code.
//! **Lives on** the main thread.
//! **Invariants** a failure is one line on stderr that names the cause and what to do; exit code 1.
//! **Limits** none of its own.
//! **Not here** rules; see the crates.
#![forbid(unsafe_code)]

mod cli;
mod config;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.log);
    let outcome = match cli.command {
        Command::Version => {
            println!("gantry {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => Err("not wired yet".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            for line in complaint.lines() {
                eprintln!("gantry: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start_log(_filter: &str) {}
