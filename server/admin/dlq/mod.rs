//! `gantry admin dlq`: dead letters, and sending them again.
//!
//! **Owns** the commands.
//! **Lives on** the command's runtime.
//! **Invariants** public codes only, so it works on any broker of the protocol. A letter is sent
//! before its offset is committed: an end in between sends again and loses nothing. A dry run takes
//! the same steps but for sending and committing.
//! **Limits** a page of `queue` between two commits; `--max`.
//! **Not here** reading (`queue`), what is kept of a letter (`letter`).

mod letter;
mod queue;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use gantry_protocol::code::request;
use gantry_protocol::message::{RecordIter, RecordView};
use gantry_protocol::message_id::offset_id;
use gantry_protocol::properties::{get, name};
use gantry_protocol::request::send::{DEFAULT_TOPIC_QUEUE_NUMS, SendHeader};
use gantry_protocol::system_topic::{AUTO_CREATE_TOPIC, dlq_topic, group_of_dlq_topic};
use serde_json::Value;

use self::letter::{Filter, is_taken};
use self::queue::{Letters, POSITION_GROUP, keep_position_group};
use super::session::{Broker, Session, of_one_cluster, pages};
use super::table::{Cell, Report, Table};
use crate::cli::admin::At;
use crate::cli::supervised::{AdminDlq, DlqResend, DlqShow};
use crate::client::message::{members, text};
use crate::client::send::{Queue, is_stored, writable};
use crate::client::{ask, refused};
use crate::print::answer;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminDlq) -> Result<(), String> {
    match command {
        AdminDlq::List { at } => list(at).await,
        AdminDlq::Show(show) => show_letters(show).await,
        AdminDlq::Resend(resend) => Resend::new(resend)?.run().await,
    }
}

async fn list(at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let columns = ["group", "broker", "messages", "resent", "left", "newest"];
    let mut table = Table::new("groups", &columns);
    for broker in session.masters().await? {
        for topic in pages::topics(&mut session, &broker.address).await?.keys() {
            let Some(group) = group_of_dlq_topic(topic) else {
                continue;
            };
            let queues = Letters::of(&mut session, topic, &broker).await?;
            let sum = |of: fn(&Letters) -> i64| queues.iter().map(of).sum::<i64>();
            table.row([
                group.into(),
                (&broker.name).into(),
                sum(|queue| queue.max - queue.min).into(),
                sum(|queue| queue.position - queue.min).into(),
                sum(|queue| queue.max - queue.position).into(),
                Cell::Time(newest(&mut session, &queues).await?),
            ]);
        }
    }
    Report::of(table).print(at.json)
}

/// Store time of the newest letter of these queues, 0 when there is none.
async fn newest(session: &mut Session, queues: &[Letters]) -> Result<i64, String> {
    let mut newest = 0;
    for queue in queues.iter().filter(|queue| queue.max > queue.min) {
        if let Some((page, _)) = queue.read(session, queue.max - 1).await? {
            let records = RecordIter::new(&page).flatten();
            newest = records.fold(newest, |newest, one| one.store_timestamp.max(newest));
        }
    }
    Ok(newest)
}

/// The masters that have letters of a group.
async fn holders(session: &mut Session, group: &str) -> Result<Vec<Broker>, String> {
    let brokers = session.masters_of(&dlq_topic(group)).await;
    brokers.map_err(|error| format!("group {group} has no dead letters: {error}"))
}

/// The queues of a group on these masters.
async fn queues(
    session: &mut Session,
    group: &str,
    brokers: Vec<Broker>,
) -> Result<Vec<Letters>, String> {
    let topic = dlq_topic(group);
    let mut all = Vec::new();
    for broker in brokers {
        all.extend(Letters::of(session, &topic, &broker).await?);
    }
    Ok(all)
}

fn filters(texts: &[String]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::read(text)).collect()
}

async fn show_letters(show: &DlqShow) -> Result<(), String> {
    let mut session = Session::new(&show.at)?;
    let filters = filters(&show.filter);
    let columns = [
        "broker", "queue", "offset", "stored", "topic", "tag", "keys", "tries", "resent", "id",
        "body",
    ];
    let mut table = Table::new("messages", &columns);
    let mut found = Vec::new();
    let holders = holders(&mut session, &show.group).await?;
    for queue in queues(&mut session, &show.group, holders).await? {
        let mut at = queue.min;
        while found.len() < show.max
            && let Some((page, next)) = queue.read(&mut session, at).await?
        {
            at = next;
            for record in RecordIter::new(&page) {
                let record = record.map_err(|error| error.to_string())?;
                if found.len() >= show.max || !is_taken(&filters, record.properties) {
                    continue;
                }
                let resent = record.queue_offset < queue.position;
                table.row([
                    (&queue.broker.name).into(),
                    record.queue_id.into(),
                    record.queue_offset.into(),
                    Cell::Time(record.store_timestamp),
                    letter::origin(record.properties).into(),
                    get(record.properties, name::TAGS).into(),
                    get(record.properties, name::KEYS).into(),
                    record.reconsume_times.into(),
                    resent.into(),
                    offset_id(record.store_host, record.physical_offset)
                        .as_str()
                        .into(),
                    text(&record).into(),
                ]);
                let mut all = members(&queue.broker.name, &record);
                let origin = letter::origin(record.properties);
                all.insert("originTopic".to_owned(), origin.into());
                all.insert("resent".to_owned(), resent.into());
                found.push(Value::Object(all));
            }
        }
    }
    if show.at.json {
        return answer(&format!("{:#}\n", Value::Array(found))).map(drop);
    }
    Report::of(table).print(false)
}

/// What became of the letters of one queue for one topic.
#[derive(Debug, Default)]
struct Tally {
    sent: i64,
    left_out: i64,
}

/// One run of `resend`.
struct Resend<'a> {
    args: &'a DlqResend,
    session: Session,
    filters: Vec<Filter>,
    targets: HashMap<String, Vec<Queue>>,
    turn: usize,
    sent: u64,
}

impl<'a> Resend<'a> {
    fn new(args: &'a DlqResend) -> Result<Self, String> {
        Ok(Self {
            args,
            session: Session::new(&args.at)?,
            filters: filters(&args.filter),
            targets: HashMap::new(),
            turn: 0,
            sent: 0,
        })
    }

    async fn run(mut self) -> Result<(), String> {
        let columns = [
            "broker", "queue", "topic", "from", "to", "messages", "leftOut", "result",
        ];
        let mut table = Table::new("queues", &columns);
        let result = if self.args.dry_run {
            "would be sent"
        } else {
            "sent"
        };
        let mut failure = None;
        if let Some(topic) = &self.args.to_topic {
            self.find(topic).await?;
        }
        let holders = of_one_cluster(holders(&mut self.session, &self.args.group).await?)?;
        if !self.args.dry_run {
            for broker in &holders {
                keep_position_group(&mut self.session, broker).await?;
            }
        }
        for queue in queues(&mut self.session, &self.args.group, holders).await? {
            let from = if self.args.again {
                queue.min
            } else {
                queue.position
            };
            let (tallies, to, outcome) = self.queue(&queue, from).await;
            for (topic, tally) in tallies {
                table.row([
                    (&queue.broker.name).into(),
                    queue.queue_id.into(),
                    topic.into(),
                    from.into(),
                    to.into(),
                    tally.sent.into(),
                    tally.left_out.into(),
                    result.into(),
                ]);
            }
            if let Err(why) = outcome {
                failure = Some(format!(
                    "queue {} of {}: {why}",
                    queue.queue_id, queue.topic
                ));
                break;
            }
        }
        Report::of(table).print(self.args.at.json)?;
        failure.map_or(Ok(()), Err)
    }

    /// Sends what is to be sent of a queue; how far it came.
    async fn queue(
        &mut self,
        queue: &Letters,
        from: i64,
    ) -> (BTreeMap<String, Tally>, i64, Result<(), String>) {
        let (mut tallies, mut at) = (BTreeMap::new(), from);
        loop {
            let page = match queue.read(&mut self.session, at).await {
                Ok(Some(page)) if !self.is_full() => page,
                Ok(_) => return (tallies, at, Ok(())),
                Err(why) => return (tallies, at, Err(why)),
            };
            let before = at;
            let outcome = self.page(&page, &mut at, &mut tallies).await;
            let kept = if self.args.dry_run || at <= before.max(queue.position) {
                Ok(())
            } else {
                queue.commit(&mut self.session, at).await
            };
            if let Err(why) = outcome.and(kept) {
                return (tallies, at, Err(why));
            }
        }
    }

    fn is_full(&self) -> bool {
        self.args.max.is_some_and(|max| self.sent >= max)
    }

    /// Sends the letters of a page; `at` follows what is done.
    async fn page(
        &mut self,
        (records, next): &(Bytes, i64),
        at: &mut i64,
        tallies: &mut BTreeMap<String, Tally>,
    ) -> Result<(), String> {
        for record in RecordIter::new(records) {
            let record = record.map_err(|error| error.to_string())?;
            if self.is_full() {
                return Ok(());
            }
            let to_topic = self.args.to_topic.as_deref();
            let topic = to_topic.or_else(|| letter::origin(record.properties));
            let is_meant = is_taken(&self.filters, record.properties);
            if is_meant {
                let topic = topic.ok_or_else(|| {
                    let offset = record.queue_offset;
                    format!("offset {offset} does not say its topic: name one with --to-topic")
                })?;
                // A dry run fails where the real one would.
                self.find(topic).await?;
                if !self.args.dry_run {
                    self.send(&record, topic).await?;
                }
                self.sent += 1;
            }
            let tally = tallies.entry(topic.unwrap_or("-").to_owned()).or_default();
            tally.sent += i64::from(is_meant);
            tally.left_out += i64::from(!is_meant);
            *at = record.queue_offset + 1;
        }
        *at = *next;
        Ok(())
    }

    /// Asks for the queues of a topic that messages go to.
    async fn find(&mut self, topic: &str) -> Result<(), String> {
        if self.targets.contains_key(topic) {
            return Ok(());
        }
        let route = self.session.route(topic).await?;
        let queues = writable(&route, i32::MAX);
        if queues.is_empty() {
            return Err(format!("topic {topic} takes no messages now"));
        }
        self.targets.insert(topic.to_owned(), queues);
        Ok(())
    }

    async fn send(&mut self, record: &RecordView<'_>, topic: &str) -> Result<(), String> {
        let queues = self.targets.get(topic).map_or(&[][..], Vec::as_slice);
        let turn = self.turn.checked_rem(queues.len());
        let queue = turn.and_then(|turn| queues.get(turn));
        let queue = queue.ok_or_else(|| format!("topic {topic} takes no messages now"))?;
        self.turn = self.turn.wrapping_add(1);
        let header = SendHeader {
            producer_group: POSITION_GROUP,
            topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queue_nums: DEFAULT_TOPIC_QUEUE_NUMS,
            queue_id: queue.id,
            sys_flag: letter::flags(record),
            born_timestamp: record.born_timestamp,
            flag: record.flag,
            properties: &letter::kept(record.properties),
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: Some(&queue.broker),
        };
        let code = request::SEND_MESSAGE_V2;
        let body = Bytes::copy_from_slice(record.body);
        let command = ask(code, header.to_ext(code)).with_body(body);
        let address = queue.address.clone();
        let reply = self.session.any(&address, command).await?;
        if is_stored(reply.code) {
            return Ok(());
        }
        Err(refused(&format!("SEND_MESSAGE_V2 to {address}"), &reply))
    }
}
