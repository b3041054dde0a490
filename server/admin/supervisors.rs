//! `gantry admin supervisors`.
//!
//! **Owns** reading the supervisor tree out of a broker's own report (28).
//! **Lives on** the command's runtime.
//! **Invariants** a broker that can't be reached is a row, not the end of the list; so is one that
//! has no such tree (Apache's).
//! **Limits** those of `session`.
//! **Not here** the tree (the broker's control plane), the rest of the report (`broker show`).

use std::collections::BTreeMap;

use gantry_protocol::body::KvTable;
use gantry_protocol::code::request;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::At;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let columns = [
        "broker",
        "name",
        "state",
        "restarts",
        "backlog",
        "lastFailure",
    ];
    let mut table = Table::new("supervisors", &columns);
    for broker in session.brokers().await? {
        match parts(&mut session, &broker).await {
            Ok(parts) => add(&mut table, &broker, &parts),
            Err(error) => table.row([
                broker.name.into(),
                Cell::Nothing,
                "unknown".into(),
                Cell::Nothing,
                Cell::Nothing,
                error.into(),
            ]),
        }
    }
    Report::of(table).print(at.json)
}

/// One part, as the broker spells it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    state: Option<String>,
    restarts: Option<i64>,
    backlog: Option<i64>,
    last_failure: Option<String>,
}

type Parts = BTreeMap<String, Part>;

async fn parts(session: &mut Session, broker: &Broker) -> Result<Parts, String> {
    let code = request::GET_BROKER_RUNTIME_INFO;
    let reply = session.call(&broker.address, code, []).await?;
    let table = KvTable::parse(&reply.body).map_err(|error| error.to_string())?;
    let parts = read(&table);
    if parts.is_empty() {
        return Err("it reports no supervisors: only Gantry has them".to_owned());
    }
    Ok(parts)
}

/// A key holds a column, as `name:value name:value`; a cause has a key of its own.
fn read(table: &KvTable) -> Parts {
    let mut parts = Parts::new();
    let cells = |key: &str| {
        let column = table.table.get(key).map_or("", String::as_str);
        let cells = column.split(' ').filter_map(|cell| cell.split_once(':'));
        cells
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<Vec<_>>()
    };
    for (name, state) in cells("controlPlaneStates") {
        parts.entry(name).or_default().state = Some(state);
    }
    for (name, restarts) in cells("controlPlaneRestarts") {
        parts.entry(name).or_default().restarts = restarts.parse().ok();
    }
    for (name, backlog) in cells("controlPlaneBacklogs") {
        parts.entry(name).or_default().backlog = backlog.parse().ok();
    }
    for (name, part) in &mut parts {
        let key = format!("controlPlaneFailure.{name}");
        part.last_failure = table.table.get(&key).cloned();
    }
    parts
}

fn add(table: &mut Table, broker: &Broker, parts: &Parts) {
    for (name, part) in parts {
        table.row([
            (&broker.name).into(),
            name.into(),
            part.state.clone().into(),
            part.restarts.into(),
            part.backlog.into(),
            part.last_failure.clone().into(),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows_and_a_cause_may_hold_anything() {
        let rows = [
            ("controlPlaneStates", "delay:running retry:waiting"),
            ("controlPlaneRestarts", "delay:0 retry:2"),
            ("controlPlaneBacklogs", "delay:17 retry:0"),
            ("controlPlaneFailure.retry", "a: b; delay: c d:9"),
        ];
        let rows = rows.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let parts = read(&KvTable { table: rows.into() });
        assert_eq!(parts.len(), 2);
        assert_eq!(parts["delay"].backlog, Some(17));
        assert_eq!(parts["delay"].last_failure, None);
        let retry = &parts["retry"];
        assert_eq!(
            (retry.state.as_deref(), retry.restarts),
            (Some("waiting"), Some(2))
        );
        assert_eq!(retry.last_failure.as_deref(), Some("a: b; delay: c d:9"));
        assert!(
            read(&KvTable {
                table: BTreeMap::new()
            })
            .is_empty()
        );
    }
}
