//! `gantry admin`: what operators do with brokers of the protocol, and tools on a data folder.
//!
//! **Owns** nothing but the choice of the command.
//! **Lives on** the main thread.
//! **Invariants** operator commands speak the codes that mqadmin speaks, to brokers that the name
//! servers name; only `tx` and `delay` ask codes of Gantry's own. A folder that a running process
//! holds is refused.
//! **Limits** none.
//! **Not here** what the commands do (one file each).

mod broker;
mod cluster;
mod connection;
mod delay;
mod dlq;
mod group;
mod log;
mod message;
mod offset;
pub mod session;
mod stats;
mod supervisors;
pub mod table;
mod topic;
mod tx;

use crate::cli::Admin;
use crate::client::block_on;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(command: &Admin) -> Result<(), String> {
    match command {
        Admin::Topic(command) => block_on(topic::run(command)),
        Admin::Group(command) => block_on(group::run(command)),
        Admin::Offset(command) => block_on(offset::run(command)),
        Admin::Broker(command) => block_on(broker::run(command)),
        Admin::Cluster(command) => block_on(cluster::run(command)),
        Admin::Message(command) => block_on(message::run(command)),
        Admin::Connection(command) => block_on(connection::run(command)),
        Admin::Stats(command) => block_on(stats::run(command)),
        Admin::Dlq(command) => block_on(dlq::run(command)),
        Admin::Tx(command) => block_on(tx::run(command)),
        Admin::Delay(command) => block_on(delay::run(command)),
        Admin::Supervisors { at } => block_on(supervisors::run(at)),
        Admin::Log(command) => log::run(command),
    }
}
