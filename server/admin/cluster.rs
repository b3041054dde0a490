//! `gantry admin cluster`.
//!
//! **Owns** the list of clusters. **Lives on** the command's runtime. **Invariants**, **Limits**
//! those of `session`. **Not here** single brokers (`broker`).

use super::session::Session;
use super::table::{Report, Table};
use crate::cli::admin::AdminCluster;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminCluster) -> Result<(), String> {
    let AdminCluster::List { at } = command;
    let brokers = Session::new(at)?.brokers().await?;
    let mut table = Table::new("clusters", &["cluster", "broker", "id", "address"]);
    for broker in &brokers {
        table.row([
            (&broker.cluster).into(),
            (&broker.name).into(),
            broker.id.into(),
            (&broker.address).into(),
        ]);
    }
    Report::of(table).print(at.json)
}
