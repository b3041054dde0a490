//! `gantry admin connection`.
//!
//! **Owns** the lists of connected clients.
//! **Lives on** the command's runtime.
//! **Invariants** a broker without a member of the group adds no row.
//! **Limits** those of `session`.
//! **Not here** subscriptions and lag (`group`).

use std::collections::BTreeMap;

use gantry_protocol::body::{Connection, ConsumerConnection, ProducerConnection};
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::{self, Value};

use super::session::Session;
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminConnection, At};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminConnection) -> Result<(), String> {
    let AdminConnection::List {
        group,
        producer_group,
        at,
    } = command;
    match (group, producer_group) {
        (Some(group), _) => consumers(group, at).await,
        (None, Some(group)) => producers(group, at).await,
        (None, None) => all_producers(at).await,
    }
}

fn table() -> Table {
    let columns = [
        "group", "client", "address", "language", "version", "broker",
    ];
    Table::new("connections", &columns)
}

fn add(table: &mut Table, group: &str, client: &Connection, broker: &str) {
    table.row([
        group.into(),
        (&client.client_id).into(),
        (&client.client_addr).into(),
        client.language.name().into(),
        client.version.into(),
        broker.into(),
    ]);
}

/// What the members of a consumer group say, by broker name; only brokers that have any.
///
/// # Errors
/// A broker can't be reached.
pub async fn members(
    session: &mut Session,
    group: &str,
) -> Result<BTreeMap<String, ConsumerConnection>, String> {
    let mut all = BTreeMap::new();
    for broker in session.masters().await? {
        let code = request::GET_CONSUMER_CONNECTION_LIST;
        let missing = response::CONSUMER_NOT_ONLINE;
        let named = [("consumerGroup", group.into())];
        let reply = session.call_unless(&broker.address, code, named, missing);
        if let Some(reply) = reply.await? {
            let found = ConsumerConnection::parse(&reply.body);
            all.insert(broker.name, found.map_err(|error| error.to_string())?);
        }
    }
    Ok(all)
}

async fn consumers(group: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut table = table();
    for (broker, found) in members(&mut session, group).await? {
        for client in &found.connections {
            add(&mut table, group, client, &broker);
        }
    }
    Report::of(table).print(at.json)
}

async fn producers(group: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut table = table();
    for broker in session.masters().await? {
        let code = request::GET_PRODUCER_CONNECTION_LIST;
        let missing = response::SYSTEM_ERROR;
        let named = [("producerGroup", group.into())];
        let reply = session.call_unless(&broker.address, code, named, missing);
        if let Some(reply) = reply.await? {
            let found = ProducerConnection::parse(&reply.body);
            for client in &found.map_err(|error| error.to_string())?.connections {
                add(&mut table, group, client, &broker.name);
            }
        }
    }
    Report::of(table).print(at.json)
}

async fn all_producers(at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut table = table();
    for broker in session.masters().await? {
        let code = request::GET_ALL_PRODUCER_INFO;
        let reply = session.call(&broker.address, code, []).await?;
        let body = fastjson::parse(&reply.body).map_err(|error| error.to_string())?;
        let groups = body.get("data").map(Value::entries).unwrap_or_default();
        for (group, clients) in groups {
            for client in clients.elements() {
                table.row([
                    group.as_text().unwrap_or_default().into_owned().into(),
                    client.text_or_empty("clientId").into(),
                    client.text_or_empty("remoteIP").into(),
                    client.text_or_empty("language").into(),
                    Cell::Number(client.int_or("version", 0)),
                    (&broker.name).into(),
                ]);
            }
        }
    }
    Report::of(table).print(at.json)
}
