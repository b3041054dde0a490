//! `gantry admin topic`.
//!
//! **Owns** the list of topics, one topic's page, making and deleting topics.
//! **Lives on** the command's runtime.
//! **Invariants** deleting asks the brokers first and the name servers last, so that a topic is
//! never left where no route leads to it; a deletion that failed half way can be repeated.
//! **Limits** those of `session`.
//! **Not here** offsets of groups (`offset`).

use std::collections::BTreeMap;

use gantry_protocol::body::{TopicConfig, TopicRouteData, TopicStats, perm};
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson;
use gantry_protocol::request::namesrv::DeleteTopic;
use gantry_protocol::request::topic::{CreateTopic, TopicHeader};
use gantry_protocol::system_topic;

use super::session::{Broker, Session, added_attributes, pages};
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminTopic, At, TopicCreate};

/// Topics of the brokers themselves, some of which only RocketMQ has.
const SYSTEM_PREFIX: &str = "RMQ_SYS_";

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminTopic) -> Result<(), String> {
    match command {
        AdminTopic::List { all, at } => list(*all, at).await,
        AdminTopic::Show { topic, at } => show(topic, at).await,
        AdminTopic::Create(create) => make(create).await,
        AdminTopic::Delete { topic, dry_run, at } => delete(topic, *dry_run, at).await,
    }
}

/// A permission as letters.
fn letters(bits: i32) -> String {
    let read = if bits & perm::READ != 0 { "r" } else { "" };
    let write = if bits & perm::WRITE != 0 { "w" } else { "" };
    let inherit = if bits & perm::INHERIT != 0 { "x" } else { "" };
    format!("{read}{write}{inherit}")
}

/// Whether an operator made it, or an application did.
fn is_ordinary(topic: &str, broker: &Broker) -> bool {
    let of_broker = topic == broker.cluster
        || topic == broker.name
        || topic == system_topic::reply_topic(&broker.cluster);
    let of_group = system_topic::group_of_retry_topic(topic).is_some()
        || system_topic::group_of_dlq_topic(topic).is_some();
    let of_system = system_topic::is_system_topic(topic) || topic.starts_with(SYSTEM_PREFIX);
    !of_broker && !of_group && !of_system
}

async fn list(all: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut topics: BTreeMap<(String, String), Vec<TopicConfig>> = BTreeMap::new();
    for broker in session.masters().await? {
        for (name, config) in pages::topics(&mut session, &broker.address).await? {
            if all || is_ordinary(&name, &broker) {
                let key = (name, broker.cluster.clone());
                topics.entry(key).or_default().push(config);
            }
        }
    }
    let columns = [
        "topic", "cluster", "brokers", "read", "write", "perm", "order", "type",
    ];
    let mut table = Table::new("topics", &columns);
    for ((name, cluster), configs) in &topics {
        let sum = |of: fn(&TopicConfig) -> i32| configs.iter().map(of).sum::<i32>();
        let first = configs.first();
        table.row([
            name.into(),
            cluster.into(),
            Cell::Number(configs.len().try_into().unwrap_or(i64::MAX)),
            sum(|config| config.read_queue_nums).into(),
            sum(|config| config.write_queue_nums).into(),
            first.map(|config| letters(config.perm)).into(),
            first.map(|config| config.order).into(),
            first
                .and_then(|config| config.attributes.get("message.type"))
                .into(),
        ]);
    }
    Report::of(table).print(at.json)
}

async fn stats(session: &mut Session, topic: &str, broker: &Broker) -> Result<TopicStats, String> {
    let header = TopicHeader { topic };
    let code = request::GET_TOPIC_STATS_INFO;
    let reply = session.call(&broker.address, code, header.to_ext()).await?;
    TopicStats::parse(&reply.body).map_err(|error| error.to_string())
}

/// Messages of a topic on a broker; 0 where it is gone already.
async fn count_messages(
    session: &mut Session,
    topic: &str,
    broker: &Broker,
) -> Result<i64, String> {
    let header = TopicHeader { topic };
    let (code, gone) = (request::GET_TOPIC_STATS_INFO, response::TOPIC_NOT_EXIST);
    let reply = session.call_unless(&broker.address, code, header.to_ext(), gone);
    let Some(reply) = reply.await? else {
        return Ok(0);
    };
    let found = TopicStats::parse(&reply.body).map_err(|error| error.to_string())?;
    let queues = found.queues.values();
    Ok(queues
        .map(|q| q.max_offset.saturating_sub(q.min_offset))
        .sum())
}

async fn config(
    session: &mut Session,
    topic: &str,
    broker: &Broker,
) -> Result<Option<TopicConfig>, String> {
    let header = TopicHeader { topic };
    let (code, missing) = (
        request::GET_TOPIC_CONFIG,
        response::REQUEST_CODE_NOT_SUPPORTED,
    );
    let reply = session.call_unless(&broker.address, code, header.to_ext(), missing);
    // Brokers before 5.0 don't know the code.
    let Some(reply) = reply.await? else {
        return Ok(None);
    };
    let body = fastjson::parse(&reply.body).map_err(|error| error.to_string())?;
    Ok(Some(TopicConfig::from_value(&body)))
}

async fn show(topic: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let route = session.route(topic).await?;
    let masters = session.masters_of(topic).await?;
    let mut report = Report::default();
    report.fact("topic", topic);
    report.fact("orderConf", route.order_topic_conf.clone());
    let columns = [
        "broker",
        "address",
        "read",
        "write",
        "perm",
        "order",
        "attributes",
    ];
    let mut brokers = Table::new("brokers", &columns);
    let columns = ["broker", "queue", "min", "max", "messages", "lastUpdate"];
    let mut queues = Table::new("queues", &columns);
    let mut groups = Table::new("groups", &["group", "broker"]);
    let (mut messages, mut rate) = (0, 0.0);
    for broker in &masters {
        let routed = route
            .queues
            .iter()
            .find(|data| data.broker_name == broker.name);
        let config = config(&mut session, topic, broker).await?;
        let attributes = config.as_ref().map(|config| {
            let all = config.attributes.iter();
            let all = all.map(|(key, value)| format!("{key}={value}"));
            all.collect::<Vec<_>>().join(",")
        });
        brokers.row([
            (&broker.name).into(),
            (&broker.address).into(),
            routed.map(|data| data.read_queue_nums).into(),
            routed.map(|data| data.write_queue_nums).into(),
            routed.map(|data| letters(data.perm)).into(),
            config.as_ref().map(|config| config.order).into(),
            attributes.into(),
        ]);
        let found = stats(&mut session, topic, broker).await?;
        rate += found.put_tps;
        for (queue, stats) in &found.queues {
            let count = stats.max_offset.saturating_sub(stats.min_offset);
            messages += count;
            queues.row([
                (&broker.name).into(),
                queue.queue_id.into(),
                stats.min_offset.into(),
                stats.max_offset.into(),
                count.into(),
                Cell::Time(stats.last_update_ms),
            ]);
        }
        let code = request::QUERY_TOPIC_CONSUME_BY_WHO;
        let header = TopicHeader { topic };
        let reply = session.call(&broker.address, code, header.to_ext()).await?;
        let body = fastjson::parse(&reply.body).map_err(|error| error.to_string())?;
        for group in body.texts("groupList") {
            groups.row([group.into(), (&broker.name).into()]);
        }
    }
    report.fact("messages", messages);
    report.fact("putTps", Cell::Rate(rate));
    for table in [brokers, queues, groups] {
        report.table(table);
    }
    report.print(at.json)
}

async fn make(create: &TopicCreate) -> Result<(), String> {
    let at = &create.at;
    let mut session = Session::new(at)?;
    let attributes = added_attributes(create.attributes.iter().map(|(key, value)| (key, value)));
    let header = CreateTopic {
        topic: &create.topic,
        default_topic: Some(system_topic::AUTO_CREATE_TOPIC),
        read_queue_nums: create.queues,
        write_queue_nums: create.queues,
        perm: create.perm,
        filter_type: Some("SINGLE_TAG"),
        topic_sys_flag: Some(0),
        order: create.order,
        attributes: Some(attributes.as_str()).filter(|text| !text.is_empty()),
        force: false,
    };
    let mut table = Table::new("topics", &["topic", "broker", "queues", "perm", "result"]);
    let masters = session.masters_to_change().await?;
    let change = async |session: &mut Session, broker: &Broker| {
        let code = request::UPDATE_AND_CREATE_TOPIC;
        session.call(&broker.address, code, header.to_ext()).await?;
        table.row([
            (&create.topic).into(),
            (&broker.name).into(),
            create.queues.into(),
            letters(create.perm).into(),
            "made".into(),
        ]);
        Ok(())
    };
    let outcome = session.each(&masters, change).await;
    Report::print_changes(table, outcome, at.json)
}

async fn delete(topic: &str, dry_run: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let holders = session.masters_of_to_change(topic).await?;
    let route = session.route(topic).await?;
    let mut table = Table::new("topics", &["topic", "broker", "messages", "result"]);
    let change = async |session: &mut Session, broker: &Broker| {
        delete_at(session, topic, broker, dry_run, &mut table).await
    };
    let mut outcome = session.each(&holders, change).await;
    if outcome.is_ok() && !dry_run {
        outcome = end_route(&mut session, topic, &route, &holders).await;
    }
    // What the brokers did is done, whatever a later one or a name server says.
    Report::print_changes(table, outcome, at.json)
}

async fn delete_at(
    session: &mut Session,
    topic: &str,
    broker: &Broker,
    dry_run: bool,
    table: &mut Table,
) -> Result<(), String> {
    let messages = count_messages(session, topic, broker).await?;
    let result = if dry_run {
        "would be deleted"
    } else {
        let header = TopicHeader { topic };
        let code = request::DELETE_TOPIC_IN_BROKER;
        session.call(&broker.address, code, header.to_ext()).await?;
        "deleted"
    };
    table.row([
        topic.into(),
        (&broker.name).into(),
        messages.into(),
        result.into(),
    ]);
    Ok(())
}

/// Ends the route to a cluster whose brokers have all deleted the topic. A name server forgets no
/// broker of a topic by itself, and a producer that still finds one makes the topic again.
async fn end_route(
    session: &mut Session,
    topic: &str,
    route: &TopicRouteData,
    deleted: &[Broker],
) -> Result<(), String> {
    let Some(cluster) = deleted.first().map(|broker| broker.cluster.as_str()) else {
        return Ok(());
    };
    let is_kept = |name: &str| deleted.iter().all(|broker| broker.name != name);
    let brokers = route.brokers.iter();
    let keeping: Vec<&str> = brokers
        .filter(|data| data.cluster == cluster && is_kept(&data.broker_name))
        .map(|data| data.broker_name.as_str())
        .collect();
    if !keeping.is_empty() {
        tell!(
            "the name servers keep the route of {topic}, because {} of cluster {cluster} has it \
             still: producers may make it again where it was deleted",
            keeping.join(", ")
        );
        return Ok(());
    }
    // Without a cluster name servers before 5.0 understand it, too.
    let is_elsewhere = route.brokers.iter().any(|data| data.cluster != cluster);
    let header = DeleteTopic {
        topic,
        cluster_name: is_elsewhere.then_some(cluster),
    };
    let code = request::DELETE_TOPIC_IN_NAMESRV;
    session.ask_name_servers(code, header.to_ext()).await
}
