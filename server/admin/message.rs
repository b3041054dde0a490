//! `gantry admin message`.
//!
//! **Owns** finding messages by id and by key.
//! **Lives on** the command's runtime.
//! **Invariants** an offset id says itself which broker holds the message; a broker that moved is
//! named with `--broker`.
//! **Limits** those of `session`; a body of more than a line is cut in tables, whole in JSON.
//! **Not here** unpacking (`crate::client::message`).

use gantry_protocol::code::{request, response};
use gantry_protocol::message::{RecordIter, RecordView};
use gantry_protocol::message_id::{offset_id, parse_offset_id};
use gantry_protocol::properties::{get, name};
use gantry_protocol::request::offset::{QueryMessage, ViewMessage};
use serde_json::Value;

use super::session::Session;
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminMessage, At, MessageQuery};
use crate::client::message::{self, members};
use crate::print::answer;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminMessage) -> Result<(), String> {
    match command {
        AdminMessage::Show { id, at } => show(id, at).await,
        AdminMessage::Query(query) => find(query).await,
    }
}

async fn show(id: &str, at: &At) -> Result<(), String> {
    let (address, physical_offset) = parse_offset_id(id).ok_or_else(|| {
        format!("{id} is not an offset id; a client's own msgId is looked up by query --unique-key")
    })?;
    let mut session = Session::new(at)?;
    let named = match &at.broker {
        Some(_) => session.masters().await?.into_iter().next(),
        None => None,
    };
    let address = named.map_or_else(|| address.to_string(), |broker| broker.address);
    let header = ViewMessage {
        physical_offset,
        topic: None,
    };
    let code = request::VIEW_MESSAGE_BY_ID;
    let reply = session.call(&address, code, header.to_ext()).await?;
    let record = RecordView::parse(&reply.body).map_err(|error| error.to_string())?;
    if at.json {
        let text = Value::Object(members(&address, &record));
        return answer(&format!("{text:#}\n")).map(drop);
    }
    let mut report = Report::default();
    report.fact("topic", record.topic);
    report.fact("queue", record.queue_id);
    report.fact("offset", record.queue_offset);
    report.fact("broker", address);
    report.fact(
        "id",
        offset_id(record.store_host, record.physical_offset).as_str(),
    );
    report.fact("born", Cell::Time(record.born_timestamp));
    report.fact("bornHost", record.born_host.to_string());
    report.fact("stored", Cell::Time(record.store_timestamp));
    report.fact("reconsumeTimes", record.reconsume_times);
    report.fact("sysFlag", record.sys_flag);
    report.fact("flag", record.flag);
    report.fact("body", message::text(&record));
    let mut properties = Table::new("properties", &["name", "value"]);
    for (key, value) in gantry_protocol::properties::items(record.properties) {
        properties.row([key.into(), value.into()]);
    }
    report.table(properties);
    report.print(false)
}

async fn find(query: &MessageQuery) -> Result<(), String> {
    let at = &query.at;
    let mut session = Session::new(at)?;
    let (key, by_unique_key) = match (&query.key, &query.unique_key) {
        (_, Some(unique)) => (unique, true),
        (Some(key), None) => (key, false),
        (None, None) => return Err("give --key or --unique-key".to_owned()),
    };
    let header = QueryMessage {
        topic: &query.topic,
        key,
        max_num: query.max,
        begin_timestamp_ms: 0,
        end_timestamp_ms: i64::MAX,
        by_unique_key,
        index_type: None,
    };
    let columns = [
        "broker", "queue", "offset", "stored", "id", "tag", "keys", "body",
    ];
    let mut table = Table::new("messages", &columns);
    let mut found = Vec::new();
    for broker in session.masters_of(&query.topic).await? {
        let (code, missing) = (request::QUERY_MESSAGE, response::QUERY_NOT_FOUND);
        let reply = session.call_unless(&broker.address, code, header.to_ext(), missing);
        let Some(reply) = reply.await? else { continue };
        for record in RecordIter::new(&reply.body) {
            let record = record.map_err(|error| error.to_string())?;
            // Brokers find by the hash of a key.
            if !has_key(&record, key, by_unique_key) {
                continue;
            }
            let id = offset_id(record.store_host, record.physical_offset);
            table.row([
                (&broker.name).into(),
                record.queue_id.into(),
                record.queue_offset.into(),
                Cell::Time(record.store_timestamp),
                id.as_str().into(),
                get(record.properties, name::TAGS).into(),
                get(record.properties, name::KEYS).into(),
                message::text(&record).into(),
            ]);
            found.push(Value::Object(members(&broker.name, &record)));
        }
    }
    if at.json {
        return answer(&format!("{:#}\n", Value::Array(found))).map(drop);
    }
    Report::of(table).print(false)
}

fn has_key(record: &RecordView<'_>, key: &str, unique: bool) -> bool {
    if unique {
        return get(record.properties, name::UNIQ_KEY) == Some(key);
    }
    let keys = get(record.properties, name::KEYS).unwrap_or_default();
    let mut words = gantry_protocol::properties::split_keys(keys);
    words.any(|word| word == key) || get(record.properties, name::UNIQ_KEY) == Some(key)
}
