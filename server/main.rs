//! The one binary: reads the command line, hands over to the command's own file.
//!
//! **Owns** the exit code.
//! **Lives on** the main thread.
//! **Invariants** a failure is a line on stderr that names the cause and what to do; exit code 1.
//! **Limits** none of its own.
//! **Not here** rules; see the crates.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod print;

mod admin;
mod bench;
mod broker;
mod cli;
mod client;
mod config;
mod doctor;
mod heap;
mod import;
mod log;
mod namesrv;
mod profile;
mod signals;
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(
        cli.command,
        Command::Up(_) | Command::Broker(_) | Command::Namesrv(_)
    ) {
        heap::settle();
    }
    let outcome = log::start(&cli.log).and_then(|()| run(&cli.command));
    log::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            for line in complaint.lines() {
                log::tell(&format!("gantry: {line}"));
            }
            log::flush();
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<(), String> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Namesrv(args) => namesrv::run(args),
        Command::Send(args) => client::send::run(args),
        Command::Receive(args) => client::receive::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Import(args) => import::run(args),
        Command::Doctor(args) => doctor::run(&args.data),
        Command::Bench(args) => bench::run(&args.args),
        Command::Version => {
            say!("gantry {}", cli::VERSION);
            Ok(())
        }
    }
}
