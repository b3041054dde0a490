//! `gantry admin delay`: delayed messages that are pending.
//!
//! **Owns** listing them, and recalling one by hand.
//! **Lives on** the command's runtime.
//! **Invariants** a message is recalled with `RECALL_MESSAGE` (370), as its producer would, after
//! it was found pending.
//! **Limits** `--max`; pages of the broker.
//! **Not here** the due table (the broker: `GANTRY_LIST_DELAYED`).

use std::borrow::Cow;

use gantry_protocol::code::request;
use gantry_protocol::command::ExtValue;
use gantry_protocol::fastjson::Value;
use gantry_protocol::properties::name;
use gantry_protocol::recall_handle::RecallHandle;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::At;
use crate::cli::supervised::AdminDelay;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminDelay) -> Result<(), String> {
    match command {
        AdminDelay::List { topic, max, at } => list(topic.as_deref(), *max, at).await,
        AdminDelay::Show { handle, at } => show(handle, at).await,
        AdminDelay::Cancel {
            handle,
            dry_run,
            at,
        } => cancel(handle, *dry_run, at).await,
    }
}

/// A pending message, as its broker tells of it.
struct Pending {
    broker: String,
    told: Value,
}

impl Pending {
    fn property(&self, name: &str) -> Option<String> {
        self.told.get("properties")?.text(name)
    }

    fn due_ms(&self) -> i64 {
        self.told.int_or("dueTimestamp", 0)
    }

    fn row(&self, table: &mut Table, result: &str) {
        table.row([
            Cell::Time(self.due_ms()),
            (&self.broker).into(),
            self.told.text("topic").into(),
            self.told.int_or("queueId", 0).into(),
            self.property(name::DELAY).into(),
            self.property(name::TAGS).into(),
            self.property(name::KEYS).into(),
            self.property(name::UNIQ_KEY).into(),
            self.told.int_or("bodyBytes", 0).into(),
            self.told.text("recallHandle").into(),
            result.into(),
        ]);
    }
}

fn table() -> Table {
    let columns = [
        "due",
        "broker",
        "topic",
        "queue",
        "level",
        "tag",
        "keys",
        "uniqueKey",
        "bodyBytes",
        "handle",
        "result",
    ];
    Table::new("messages", &columns)
}

/// A place in a broker's due order: a time, and a place in its log.
type Place = (i64, i64);

/// What follows a place, and where to go on.
async fn page(
    session: &mut Session,
    broker: &Broker,
    after: Place,
) -> Result<(Vec<Pending>, Option<Place>), String> {
    let fields: [(&str, ExtValue<'_>); 2] = [
        ("afterTime", after.0.into()),
        ("afterOffset", after.1.into()),
    ];
    let (code, what) = (request::GANTRY_LIST_DELAYED, "list delayed messages");
    let body = session.ask_gantry(broker, code, fields, what).await?;
    let all = body.get("messages").map_or(&[][..], Value::elements);
    let pending = all.iter().map(|told| Pending {
        broker: broker.name.clone(),
        told: told.clone(),
    });
    let time = body.get("nextTime").and_then(Value::as_i64);
    let next = time.zip(body.get("nextOffset").and_then(Value::as_i64));
    // A place that is no progress would be asked for ever.
    Ok((pending.collect(), next.filter(|next| *next > after)))
}

async fn list(topic: Option<&str>, max: usize, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let mut found = Vec::new();
    for broker in session.masters().await? {
        let (mut place, mut of_broker) = (Some((0, 0)), Vec::new());
        while let Some(after) = place.filter(|_| of_broker.len() < max) {
            let (mut some, next) = page(&mut session, &broker, after).await?;
            some.retain(|one| topic.is_none_or(|wanted| one.told.text_or_empty("topic") == wanted));
            of_broker.append(&mut some);
            place = next;
        }
        found.append(&mut of_broker);
    }
    found.sort_by_key(Pending::due_ms);
    found.truncate(max);
    let mut table = table();
    for one in &found {
        one.row(&mut table, "pending");
    }
    Report::of(table).print(at.json)
}

/// The broker of a handle, and the message if it is pending.
async fn find(
    session: &mut Session,
    text: &str,
) -> Result<(Broker, RecallHandle, Pending), String> {
    let handle = RecallHandle::decode(text);
    let handle = handle.ok_or_else(|| format!("{text} is no recall handle"))?;
    let name = &handle.broker_name;
    let mut masters = session.masters().await?;
    masters.retain(|broker| broker.name == *name);
    let broker = masters.pop();
    let broker = broker.ok_or_else(|| format!("its broker {name} is not among those asked"))?;
    let mut place = Some((handle.due_ms.saturating_sub(1), i64::MAX));
    while let Some(after) = place.filter(|(time_ms, _)| *time_ms <= handle.due_ms) {
        let (some, next) = page(session, &broker, after).await?;
        let is_it = |one: &Pending| one.told.text("recallHandle").as_deref() == Some(text);
        if let Some(found) = some.into_iter().find(is_it) {
            return Ok((broker, handle, found));
        }
        place = next;
    }
    let key = handle.unique_key;
    Err(format!(
        "message {key} is not pending: delivered, recalled, or never was"
    ))
}

async fn show(handle: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let (broker, _, found) = find(&mut session, handle).await?;
    let mut report = Report::default();
    report.fact("broker", broker.name);
    report.fact("topic", found.told.text("topic"));
    report.fact("queue", found.told.int_or("queueId", 0));
    for (label, member) in [
        ("due", "dueTimestamp"),
        ("born", "bornTimestamp"),
        ("stored", "storeTimestamp"),
    ] {
        report.fact(label, Cell::Time(found.told.int_or(member, 0)));
    }
    report.fact("bodyBytes", found.told.int_or("bodyBytes", 0));
    let mut properties = Table::new("properties", &["name", "value"]);
    let all = found.told.get("properties");
    for (name, value) in all.map_or(&[][..], Value::entries) {
        let text = |value: &Value| value.as_text().map(Cow::into_owned);
        properties.row([text(name).into(), text(value).into()]);
    }
    report.table(properties);
    report.print(at.json)
}

async fn cancel(text: &str, dry_run: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let (broker, handle, found) = find(&mut session, text).await?;
    if !dry_run {
        let fields: [(&str, ExtValue<'_>); 2] = [
            ("topic", handle.topic.as_str().into()),
            ("recallHandle", text.into()),
        ];
        let call = session.call(&broker.address, request::RECALL_MESSAGE, fields);
        call.await?;
    }
    let mut table = table();
    let result = if dry_run {
        "would be recalled"
    } else {
        "recalled"
    };
    found.row(&mut table, result);
    Report::of(table).print(at.json)
}
