//! `gantry admin stats`.
//!
//! **Owns** the rows of counters.
//! **Lives on** the command's runtime.
//! **Invariants** a counter that a broker doesn't have (yet) is a row of nothing.
//! **Limits** those of `session`.
//! **Not here** the counters themselves (the broker).

use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::{self, Value};
use gantry_protocol::request::topic::StatsHeader;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminStats, At};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminStats) -> Result<(), String> {
    let AdminStats::Show { topic, group, at } = command;
    let mut session = Session::new(at)?;
    let brokers = match topic {
        Some(topic) => session.masters_of(topic).await?,
        None => session.masters().await?,
    };
    show(
        &mut session,
        &brokers,
        topic.as_deref(),
        group.as_deref(),
        at,
    )
    .await
}

async fn show(
    session: &mut Session,
    brokers: &[Broker],
    topic: Option<&str>,
    group: Option<&str>,
    at: &At,
) -> Result<(), String> {
    let columns = ["broker", "counter", "key", "minute", "hour", "day", "tps"];
    let mut table = Table::new("counters", &columns);
    for broker in brokers {
        let wanted: Vec<(&str, String)> = match (topic, group) {
            (Some(topic), Some(group)) => {
                let key = format!("{topic}@{group}");
                vec![("GROUP_GET_NUMS", key.clone()), ("GROUP_GET_SIZE", key)]
            }
            (Some(topic), None) => vec![
                ("TOPIC_PUT_NUMS", topic.to_owned()),
                ("TOPIC_PUT_SIZE", topic.to_owned()),
            ],
            _ => vec![
                ("BROKER_PUT_NUMS", broker.cluster.clone()),
                ("BROKER_GET_NUMS", broker.cluster.clone()),
            ],
        };
        for (name, key) in wanted {
            let header = StatsHeader { name, key: &key };
            let code = request::VIEW_BROKER_STATS_DATA;
            let missing = response::SYSTEM_ERROR;
            let reply = session.call_unless(&broker.address, code, header.to_ext(), missing);
            let body = match reply.await? {
                Some(reply) => fastjson::parse(&reply.body).map_err(|error| error.to_string())?,
                None => Value::Null,
            };
            let of = |span: &str, member: &str| body.get(span).and_then(|s| s.get(member)).cloned();
            let sum = |span: &str| Cell::from(of(span, "sum").and_then(|sum| sum.as_i64()));
            let rate = of("statsMinute", "tps").and_then(|rate| rate.as_f64());
            table.row([
                (&broker.name).into(),
                name.into(),
                key.into(),
                sum("statsMinute"),
                sum("statsHour"),
                sum("statsDay"),
                rate.map_or(Cell::Nothing, Cell::Rate),
            ]);
        }
    }
    Report::of(table).print(at.json)
}
