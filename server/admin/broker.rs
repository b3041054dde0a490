//! `gantry admin broker`.
//!
//! **Owns** the list of brokers, what they say of themselves, their settings.
//! **Lives on** the command's runtime.
//! **Invariants** a broker that can't be reached is a row, not the end of a list. Settings are
//! changed on one broker after the other; the first refusal ends it.
//! **Limits** those of `session`.
//! **Not here** which brokers are meant (`session`).

use gantry_protocol::Command;
use gantry_protocol::body::KvTable;
use gantry_protocol::code::request;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminBroker, At, BrokerConfig};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminBroker) -> Result<(), String> {
    match command {
        AdminBroker::List { at } => list(at).await,
        AdminBroker::Show { at } => show(at).await,
        AdminBroker::Config(BrokerConfig::Get { key, at }) => get(key.as_deref(), at).await,
        AdminBroker::Config(BrokerConfig::Set {
            settings,
            dry_run,
            at,
        }) => set(settings, *dry_run, at).await,
    }
}

async fn runtime(session: &mut Session, broker: &Broker) -> Result<KvTable, String> {
    let code = request::GET_BROKER_RUNTIME_INFO;
    let reply = session.call(&broker.address, code, []).await?;
    KvTable::parse(&reply.body).map_err(|error| error.to_string())
}

/// The first of three rates: the last ten seconds'.
fn rate(table: &KvTable, key: &str) -> Cell {
    let first = table.table.get(key).and_then(|all| all.split(' ').next());
    let rate = first.and_then(|text| text.parse().ok());
    rate.map_or(Cell::Nothing, Cell::Rate)
}

async fn list(at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let columns = [
        "cluster", "broker", "id", "address", "version", "inTps", "outTps", "state",
    ];
    let mut table = Table::new("brokers", &columns);
    for broker in session.brokers().await? {
        let (version, into, out, state) = match runtime(&mut session, &broker).await {
            Ok(kv) => (
                kv.table.get("brokerVersionDesc").into(),
                rate(&kv, "putTps"),
                rate(&kv, "getTransferredTps"),
                "ok".into(),
            ),
            Err(error) => (Cell::Nothing, Cell::Nothing, Cell::Nothing, error.into()),
        };
        table.row([
            broker.cluster.into(),
            broker.name.into(),
            broker.id.into(),
            broker.address.into(),
            version,
            into,
            out,
            state,
        ]);
    }
    Report::of(table).print(at.json)
}

async fn show(at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut table = Table::new("runtime", &["broker", "id", "key", "value"]);
    for broker in session.brokers().await? {
        for (key, value) in runtime(&mut session, &broker).await?.table {
            table.row([
                (&broker.name).into(),
                broker.id.into(),
                key.into(),
                value.into(),
            ]);
        }
    }
    Report::of(table).print(at.json)
}

/// The settings of a broker, sorted by key.
async fn settings(session: &mut Session, broker: &Broker) -> Result<Vec<(String, String)>, String> {
    let code = request::GET_BROKER_CONFIG;
    let reply = session.call(&broker.address, code, []).await?;
    let text = String::from_utf8_lossy(&reply.body);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let mut all: Vec<(String, String)> = lines
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    all.sort();
    Ok(all)
}

async fn get(wanted: Option<&str>, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut table = Table::new("settings", &["broker", "id", "key", "value"]);
    for broker in session.brokers().await? {
        for (key, value) in settings(&mut session, &broker).await? {
            if wanted.is_none_or(|part| key.contains(part)) {
                table.row([
                    (&broker.name).into(),
                    broker.id.into(),
                    key.into(),
                    value.into(),
                ]);
            }
        }
    }
    if let (Some(part), true) = (wanted, table.is_empty()) {
        return Err(format!("no key contains {part}"));
    }
    Report::of(table).print(at.json)
}

async fn set(wanted: &[(String, String)], dry_run: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let columns = ["broker", "id", "key", "before", "wanted", "result"];
    let mut table = Table::new("settings", &columns);
    let masters = session.masters_to_change().await?;
    let change = async |session: &mut Session, broker: &Broker| {
        set_at(session, broker, wanted, dry_run, &mut table).await
    };
    let outcome = session.each(&masters, change).await;
    Report::print_changes(table, outcome, at.json)
}

async fn set_at(
    session: &mut Session,
    broker: &Broker,
    wanted: &[(String, String)],
    dry_run: bool,
    table: &mut Table,
) -> Result<(), String> {
    let before = settings(session, broker).await?;
    let result = if dry_run {
        "not changed".to_owned()
    } else {
        let done = change(session, broker, wanted).await?;
        done.remark.unwrap_or_else(|| "changed".to_owned())
    };
    for (key, value) in wanted {
        let known = before.iter().find(|(known, _)| known == key);
        table.row([
            (&broker.name).into(),
            broker.id.into(),
            key.into(),
            known.map(|(_, value)| value).into(),
            value.into(),
            (&result).into(),
        ]);
    }
    Ok(())
}

async fn change(
    session: &mut Session,
    broker: &Broker,
    wanted: &[(String, String)],
) -> Result<Command, String> {
    let lines: Vec<String> = wanted
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let body = lines.join("\n").into_bytes();
    let code = request::UPDATE_BROKER_CONFIG;
    let mut done = session
        .call_with_body(&broker.address, code, [], body)
        .await?;
    done.remark = done.remark.filter(|remark| !remark.is_empty());
    Ok(done)
}
