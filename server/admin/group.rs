//! `gantry admin group`.
//!
//! **Owns** the list of groups, one group's page, making and deleting groups.
//! **Lives on** the command's runtime.
//! **Invariants** a change starts from what the broker has, so options that aren't given stay.
//! **Limits** those of `session`.
//! **Not here** moving a group's offsets (`offset`).

use std::collections::BTreeMap;

use gantry_protocol::body::SubscriptionGroupConfig;
use gantry_protocol::code::request;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_protocol::request::group::DeleteGroup;
use gantry_protocol::system_topic;

use super::connection::members;
use super::offset::{lag_table, progress};
use super::session::{Broker, Session, pages};
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminGroup, At, GroupCreate};

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminGroup) -> Result<(), String> {
    match command {
        AdminGroup::List { all, at } => list(*all, at).await,
        AdminGroup::Show { group, at } => show(group, at).await,
        AdminGroup::Create(create) => make(create).await,
        AdminGroup::Delete {
            group,
            keep_offsets,
            dry_run,
            at,
        } => delete(group, *keep_offsets, *dry_run, at).await,
    }
}

type Configs = BTreeMap<String, SubscriptionGroupConfig>;

async fn configs(session: &mut Session, broker: &Broker) -> Result<Configs, String> {
    pages::groups(session, &broker.address).await
}

fn table(name: &'static str) -> Table {
    let columns = [
        "group",
        "broker",
        "consume",
        "broadcast",
        "orderly",
        "retryMax",
        "retryQueues",
        "result",
    ];
    Table::new(name, &columns)
}

fn add(table: &mut Table, config: &SubscriptionGroupConfig, broker: &Broker, result: &str) {
    table.row([
        (&config.group).into(),
        (&broker.name).into(),
        config.consume_enable.into(),
        config.consume_broadcast_enable.into(),
        config.consume_message_orderly.into(),
        config.retry_max_times.into(),
        config.retry_queue_nums.into(),
        result.into(),
    ]);
}

async fn list(all: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let columns = [
        "group",
        "cluster",
        "brokers",
        "consume",
        "broadcast",
        "orderly",
        "retryMax",
    ];
    let mut table = Table::new("groups", &columns);
    let mut groups: BTreeMap<(String, String), Vec<SubscriptionGroupConfig>> = BTreeMap::new();
    for broker in session.masters().await? {
        for (name, config) in configs(&mut session, &broker).await? {
            if all || !system_topic::is_system_group(&name) {
                let key = (name, broker.cluster.clone());
                groups.entry(key).or_default().push(config);
            }
        }
    }
    for ((name, cluster), configs) in &groups {
        let first = configs.first();
        table.row([
            name.into(),
            cluster.into(),
            Cell::Number(configs.len().try_into().unwrap_or(i64::MAX)),
            first.map(|config| config.consume_enable).into(),
            first.map(|config| config.consume_broadcast_enable).into(),
            first.map(|config| config.consume_message_orderly).into(),
            first.map(|config| config.retry_max_times).into(),
        ]);
    }
    Report::of(table).print(at.json)
}

async fn show(group: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut settings = table("config");
    for broker in session.masters().await? {
        if let Some(config) = configs(&mut session, &broker).await?.get(group) {
            add(&mut settings, config, &broker, "exists");
        }
    }
    if settings.is_empty() {
        return Err(format!("no broker knows a group {group}"));
    }
    let mut report = Report::default();
    report.fact("group", group);
    let columns = ["client", "address", "language", "version", "broker"];
    let mut clients = Table::new("members", &columns);
    let columns = ["topic", "type", "expression", "broker"];
    let mut subscriptions = Table::new("subscriptions", &columns);
    let mut model = None;
    for (broker, found) in members(&mut session, group).await? {
        model = Some(found.message_model.name());
        for client in &found.connections {
            clients.row([
                (&client.client_id).into(),
                (&client.client_addr).into(),
                client.language.name().into(),
                client.version.into(),
                (&broker).into(),
            ]);
        }
        for data in found.subscriptions.values() {
            subscriptions.row([
                (&data.topic).into(),
                (&data.expression_type).into(),
                (&data.sub_string).into(),
                (&broker).into(),
            ]);
        }
    }
    let positions = progress(&mut session, group, None).await?;
    let (queues, lag) = lag_table(&positions);
    report.fact("messageModel", model);
    report.fact("lag", lag);
    for table in [settings, clients, subscriptions, queues] {
        report.table(table);
    }
    report.print(at.json)
}

async fn make(create: &GroupCreate) -> Result<(), String> {
    let at = &create.at;
    let mut session = Session::new(at)?;
    let mut table = table("groups");
    let masters = session.masters_to_change().await?;
    let change = async |session: &mut Session, broker: &Broker| {
        make_at(session, create, broker, &mut table).await
    };
    let outcome = session.each(&masters, change).await;
    Report::print_changes(table, outcome, at.json)
}

async fn make_at(
    session: &mut Session,
    create: &GroupCreate,
    broker: &Broker,
    table: &mut Table,
) -> Result<(), String> {
    let known = configs(session, broker).await?.remove(&create.group);
    let (mut config, result) = match known {
        Some(config) => (config, "changed"),
        None => (SubscriptionGroupConfig::new(&create.group), "made"),
    };
    let (retry_max, retry_queues) = (create.retry_max, create.retry_queues);
    config.retry_max_times = retry_max.unwrap_or(config.retry_max_times);
    config.retry_queue_nums = retry_queues.unwrap_or(config.retry_queue_nums);
    config.consume_enable = create.consume.unwrap_or(config.consume_enable);
    let broadcast = create.broadcast.unwrap_or(config.consume_broadcast_enable);
    config.consume_broadcast_enable = broadcast;
    let orderly = create.orderly.unwrap_or(config.consume_message_orderly);
    config.consume_message_orderly = orderly;
    // A request names the attributes to change, with signs; those it doesn't name stay.
    config.attributes.clear();
    let body = to_bytes(&config.to_value(), IntegerKeys::Quoted);
    let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    session
        .call_with_body(&broker.address, code, [], body)
        .await?;
    add(table, &config, broker, result);
    Ok(())
}

async fn delete(group: &str, keep_offsets: bool, dry_run: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let header = DeleteGroup {
        group,
        clean_offset: !keep_offsets,
    };
    let mut table = table("groups");
    let masters = session.masters_to_change().await?;
    let change = async |session: &mut Session, broker: &Broker| {
        delete_at(session, &header, dry_run, broker, &mut table).await
    };
    let outcome = session.each(&masters, change).await;
    if outcome.is_ok() && table.is_empty() {
        return Err(format!("no broker knows a group {group}"));
    }
    Report::print_changes(table, outcome, at.json)
}

async fn delete_at(
    session: &mut Session,
    header: &DeleteGroup<'_>,
    dry_run: bool,
    broker: &Broker,
    table: &mut Table,
) -> Result<(), String> {
    let Some(config) = configs(session, broker).await?.remove(header.group) else {
        return Ok(());
    };
    let result = if dry_run {
        "would be deleted"
    } else {
        let code = request::DELETE_SUBSCRIPTIONGROUP;
        session.call(&broker.address, code, header.to_ext()).await?;
        "deleted"
    };
    add(table, &config, broker, result);
    Ok(())
}
