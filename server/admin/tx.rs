//! `gantry admin tx`: open half messages.
//!
//! **Owns** listing them, and ending one by hand.
//! **Lives on** the command's runtime.
//! **Invariants** a half is ended with `END_TRANSACTION` (37), as its producer would after a check,
//! so every rule of the broker holds: one that has ended meanwhile is not ended again.
//! **Limits** `--max`; pages of the broker.
//! **Not here** the table of open halves (the broker: `GANTRY_LIST_HALVES`).

use std::borrow::Cow;

use gantry_protocol::code::request;
use gantry_protocol::command::ExtValue;
use gantry_protocol::fastjson::Value;
use gantry_protocol::properties::name;
use gantry_protocol::request::transaction::EndTransaction;
use gantry_protocol::sys_flag;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::At;
use crate::cli::supervised::{AdminTx, Verdict};
use crate::client::now_ms;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminTx) -> Result<(), String> {
    match command {
        AdminTx::List {
            group,
            topic,
            max,
            at,
        } => list((group.as_deref(), topic.as_deref()), *max, at).await,
        AdminTx::Show { id, at } => show(id, at).await,
        AdminTx::Resolve {
            verdict,
            id,
            dry_run,
            at,
        } => resolve(*verdict, id, *dry_run, at).await,
    }
}

/// An open half, as its broker tells of it.
struct Half {
    broker: Broker,
    told: Value,
}

impl Half {
    fn number(&self, member: &str) -> i64 {
        self.told.int_or(member, -1)
    }

    fn text(&self, member: &str) -> String {
        self.told.text_or_empty(member)
    }

    fn property(&self, name: &str) -> Option<String> {
        self.told.get("properties")?.text(name)
    }

    fn id(&self) -> String {
        let (shard, offset) = (self.number("shard"), self.number("tranStateTableOffset"));
        format!("{shard}:{offset}")
    }

    fn age_seconds(&self) -> i64 {
        now_ms().saturating_sub(self.number("bornTimestamp")).max(0) / 1000
    }

    fn row(&self, table: &mut Table, result: &str) {
        table.row([
            self.id().into(),
            (&self.broker.name).into(),
            self.text("topic").into(),
            self.number("queueId").into(),
            self.text("producerGroup").into(),
            self.age_seconds().into(),
            self.number("checkTimes").into(),
            Cell::Time(self.number("nextCheckTimestamp")),
            self.property(name::KEYS).into(),
            self.property(name::UNIQ_KEY).into(),
            result.into(),
        ]);
    }
}

fn table() -> Table {
    let columns = [
        "id",
        "broker",
        "topic",
        "queue",
        "producerGroup",
        "ageSeconds",
        "checks",
        "nextCheck",
        "keys",
        "uniqueKey",
        "result",
    ];
    Table::new("halves", &columns)
}

/// Asks a broker for a page.
async fn page(
    session: &mut Session,
    broker: &Broker,
    fields: [(&str, ExtValue<'_>); 2],
) -> Result<Value, String> {
    let (code, what) = (request::GANTRY_LIST_HALVES, "list open halves");
    session.ask_gantry(broker, code, fields, what).await
}

async fn list(
    (group, topic): (Option<&str>, Option<&str>),
    max: usize,
    at: &At,
) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let (mut table, mut count) = (table(), 0);
    for broker in session.masters().await? {
        let mut place = Some((0, 0));
        while let Some((shard, from)) = place.filter(|_| count < max) {
            let fields: [(&str, ExtValue<'_>); 2] =
                [("shard", shard.into()), ("from", from.into())];
            let body = page(&mut session, &broker, fields).await?;
            for told in body.get("halves").map_or(&[][..], Value::elements) {
                let half = Half {
                    broker: broker.clone(),
                    told: told.clone(),
                };
                let is_meant = |wanted: Option<&str>, member: &str| {
                    wanted.is_none_or(|wanted| half.text(member) == wanted)
                };
                if count < max && is_meant(group, "producerGroup") && is_meant(topic, "topic") {
                    half.row(&mut table, "open");
                    count += 1;
                }
            }
            let next = body.get("nextShard").and_then(Value::as_i64);
            let next = next.zip(body.get("nextFrom").and_then(Value::as_i64));
            // A place that is no progress would be asked for ever.
            place = next.filter(|next| *next > (shard, from));
        }
    }
    Report::of(table).print(at.json)
}

/// The half that an operator means.
async fn find(session: &mut Session, id: &str) -> Result<Half, String> {
    let parts = id.split_once(':');
    let parts = parts.and_then(|(shard, half)| shard.parse::<i64>().ok().zip(half.parse().ok()));
    let (shard, half): (i64, i64) =
        parts.ok_or_else(|| format!("{id} is no id of a half; `gantry admin tx list` has them"))?;
    let mut found = Vec::new();
    for broker in session.masters().await? {
        let fields: [(&str, ExtValue<'_>); 2] = [("shard", shard.into()), ("half", half.into())];
        let body = page(session, &broker, fields).await?;
        let told = body.get("halves").and_then(|all| all.elements().first());
        found.extend(told.map(|told| Half {
            broker: broker.clone(),
            told: told.clone(),
        }));
    }
    if found.len() > 1 {
        return Err(format!(
            "several brokers have a half {id}: name one with --broker"
        ));
    }
    let missing = || format!("no half {id} is open: it has ended, or never was");
    found.pop().ok_or_else(missing)
}

async fn show(id: &str, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let half = find(&mut session, id).await?;
    let mut report = Report::default();
    report.fact("id", half.id());
    report.fact("broker", &half.broker.name);
    for member in ["topic", "producerGroup", "bornHost"] {
        report.fact(member, half.text(member));
    }
    report.fact("queue", half.number("queueId"));
    report.fact("born", Cell::Time(half.number("bornTimestamp")));
    report.fact("ageSeconds", half.age_seconds());
    report.fact("checks", half.number("checkTimes"));
    report.fact("nextCheck", Cell::Time(half.number("nextCheckTimestamp")));
    report.fact("bodyBytes", half.number("bodyBytes"));
    let mut properties = Table::new("properties", &["name", "value"]);
    let all = half.told.get("properties");
    for (name, value) in all.map_or(&[][..], Value::entries) {
        let text = |value: &Value| value.as_text().map(Cow::into_owned);
        properties.row([text(name).into(), text(value).into()]);
    }
    report.table(properties);
    report.print(at.json)
}

async fn resolve(verdict: Verdict, id: &str, dry_run: bool, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let half = find(&mut session, id).await?;
    let (flag, done, would) = match verdict {
        Verdict::Commit => (
            sys_flag::TRANSACTION_COMMIT,
            "committed",
            "would be committed",
        ),
        Verdict::Rollback => (
            sys_flag::TRANSACTION_ROLLBACK,
            "rolled back",
            "would be rolled back",
        ),
    };
    let (group, topic) = (half.text("producerGroup"), half.text("topic"));
    let unique = half.property(name::UNIQ_KEY);
    let header = EndTransaction {
        producer_group: &group,
        half_offset: half.number("tranStateTableOffset"),
        half_physical: half.number("commitLogOffset"),
        commit_or_rollback: flag,
        // An end of a producer's own accord is refused after the half's immunity.
        from_check: true,
        msg_id: unique.as_deref(),
        transaction_id: unique.as_deref(),
        topic: Some(&topic),
        broker_name: Some(&half.broker.name),
    };
    if !dry_run {
        let address = half.broker.address.clone();
        let call = session.call(&address, request::END_TRANSACTION, header.to_ext());
        call.await?;
    }
    let mut table = table();
    half.row(&mut table, if dry_run { would } else { done });
    Report::of(table).print(at.json)
}
