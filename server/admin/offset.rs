//! `gantry admin offset`: where groups are, and moving them.
//!
//! **Owns** the lag table; where a reset goes, queue by queue, and how it gets there.
//! **Lives on** the command's runtime.
//! **Invariants** a reset shows what it does (or would do) for every queue: both come from the same
//! plan. A broker that doesn't move a group without members (before 5.0) is told each offset.
//! **Limits** those of `session`.
//! **Not here** the meaning of a reset for connected clients (the broker).

use std::collections::BTreeMap;

use gantry_protocol::body::{ConsumeStats, MessageQueue, QueueConsumeStats, TopicStats};
use gantry_protocol::code::{request, response};
use gantry_protocol::request::group::{ConsumeStatsHeader, ResetOffset};
use gantry_protocol::request::offset::{SearchOffset, UpdateConsumerOffset};
use gantry_protocol::request::topic::TopicHeader;

use super::session::{Broker, Session};
use super::table::{Cell, Report, Table};
use crate::cli::admin::{AdminOffset, At, OffsetReset};
use crate::client::ask;
use crate::client::start_at::StartAt;

/// Digits of an offset at most; more are a time in ms.
const OFFSET_DIGITS_MAX: usize = 12;
/// `V5_0_0_SNAPSHOT`: older brokers reset by time only.
const VERSION_BY_OFFSET: i32 = 412;

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub async fn run(command: &AdminOffset) -> Result<(), String> {
    match command {
        AdminOffset::Show { group, topic, at } => show(group, topic.as_deref(), at).await,
        AdminOffset::Reset(reset) => run_reset(reset).await,
    }
}

/// Where a group is, by queue.
pub type Progress = BTreeMap<MessageQueue, QueueConsumeStats>;

/// Where a group is on every master that is meant.
///
/// # Errors
/// A broker can't be reached.
pub async fn progress(
    session: &mut Session,
    group: &str,
    topic: Option<&str>,
) -> Result<Progress, String> {
    let mut all = Progress::new();
    for broker in session.masters().await? {
        all.extend(progress_at(session, group, topic, &broker).await?);
    }
    Ok(all)
}

async fn progress_at(
    session: &mut Session,
    group: &str,
    topic: Option<&str>,
    broker: &Broker,
) -> Result<Progress, String> {
    let header = ConsumeStatsHeader {
        consumer_group: group,
        topic,
        topic_list: None,
    };
    let code = request::GET_CONSUME_STATS;
    let reply = session.call(&broker.address, code, header.to_ext()).await?;
    let found = ConsumeStats::parse(&reply.body);
    Ok(found.map_err(|error| error.to_string())?.queues)
}

/// A row a queue, and the lag of them all.
pub fn lag_table(all: &Progress) -> (Table, i64) {
    let columns = [
        "topic",
        "broker",
        "queue",
        "brokerOffset",
        "consumerOffset",
        "lag",
        "lastConsumed",
    ];
    let mut table = Table::new("queues", &columns);
    let mut total: i64 = 0;
    for (queue, stats) in all {
        let lag = stats.broker_offset.saturating_sub(stats.consumer_offset);
        total = total.saturating_add(lag);
        table.row([
            (&queue.topic).into(),
            (&queue.broker_name).into(),
            queue.queue_id.into(),
            stats.broker_offset.into(),
            stats.consumer_offset.into(),
            lag.into(),
            Cell::Time(stats.last_timestamp_ms),
        ]);
    }
    (table, total)
}

async fn show(group: &str, topic: Option<&str>, at: &At) -> Result<(), String> {
    let mut session = Session::new(at)?;
    let all = progress(&mut session, group, topic).await?;
    let (table, lag) = lag_table(&all);
    let mut report = Report::default();
    report.fact("group", group);
    report.fact("lag", lag);
    report.table(table);
    report.print(at.json)
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    First,
    Last,
    Time(i64),
    Offset(i64),
}

impl Target {
    fn read(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && (1..=OFFSET_DIGITS_MAX).contains(&text.len()) {
            let offset = text
                .parse()
                .map_err(|_| format!("--to {text}: no offset"))?;
            return Ok(Self::Offset(offset));
        }
        match StartAt::read(text) {
            Ok(StartAt::First) => Ok(Self::First),
            Ok(StartAt::Last) => Ok(Self::Last),
            Ok(StartAt::Time(ms)) => Ok(Self::Time(ms)),
            Err(_) => Err(format!(
                "--to {text}: takes first, last, an offset, ms since 1970 (13 digits), or a UTC \
                 time like 2026-01-31T12:00:00"
            )),
        }
    }

    /// As 222 wants it: -1 is the end.
    fn timestamp_ms(self) -> i64 {
        match self {
            Self::First => 0,
            Self::Last | Self::Offset(_) => -1,
            Self::Time(ms) => ms,
        }
    }
}

/// What happens to one queue.
struct Move {
    queue: MessageQueue,
    from: Option<i64>,
    to: i64,
}

async fn run_reset(reset: &OffsetReset) -> Result<(), String> {
    let target = Target::read(&reset.to)?;
    let at = &reset.at;
    let mut session = Session::new(at)?;
    let columns = [
        "topic", "broker", "queue", "from", "to", "messages", "result",
    ];
    let mut table = Table::new("queues", &columns);
    let masters = session.masters_of_to_change(&reset.topic).await?;
    let change = async |session: &mut Session, broker: &Broker| {
        reset_at(session, reset, target, broker, &mut table).await
    };
    let outcome = session.each(&masters, change).await;
    if outcome.is_ok() && table.is_empty() {
        return Err(format!("topic {} has no such queue", reset.topic));
    }
    Report::print_changes(table, outcome, at.json)
}

async fn reset_at(
    session: &mut Session,
    reset: &OffsetReset,
    target: Target,
    broker: &Broker,
    table: &mut Table,
) -> Result<(), String> {
    let moves = plan(session, reset, target, broker).await?;
    let result = if reset.dry_run {
        "would be moved"
    } else {
        carry_out(session, reset, target, broker, &moves).await?
    };
    for each in moves {
        let ahead = each.from.map(|from| each.to.saturating_sub(from));
        table.row([
            each.queue.topic.into(),
            each.queue.broker_name.into(),
            each.queue.queue_id.into(),
            each.from.into(),
            each.to.into(),
            ahead.into(),
            result.into(),
        ]);
    }
    Ok(())
}

/// Where each queue of a broker would go.
async fn plan(
    session: &mut Session,
    reset: &OffsetReset,
    target: Target,
    broker: &Broker,
) -> Result<Vec<Move>, String> {
    let topic = reset.topic.as_str();
    let header = TopicHeader { topic };
    let code = request::GET_TOPIC_STATS_INFO;
    let reply = session.call(&broker.address, code, header.to_ext()).await?;
    let bounds = TopicStats::parse(&reply.body).map_err(|error| error.to_string())?;
    let known = progress_at(session, &reset.group, Some(topic), broker).await?;
    let mut moves = Vec::new();
    for (queue, bounds) in bounds.queues {
        if reset.queue.is_some_and(|only| only != queue.queue_id) {
            continue;
        }
        let to = match target {
            Target::First => bounds.min_offset,
            Target::Last => bounds.max_offset,
            Target::Offset(offset) if (bounds.min_offset..=bounds.max_offset).contains(&offset) => {
                offset
            }
            Target::Offset(offset) => {
                return Err(format!(
                    "queue {} of {} holds offsets {} to {}, {offset} is none",
                    queue.queue_id, broker.name, bounds.min_offset, bounds.max_offset
                ));
            }
            Target::Time(ms) => search(session, &queue, ms, broker).await?,
        };
        let from = known.get(&queue).map(|stats| stats.consumer_offset);
        moves.push(Move { queue, from, to });
    }
    Ok(moves)
}

async fn search(
    session: &mut Session,
    queue: &MessageQueue,
    timestamp_ms: i64,
    broker: &Broker,
) -> Result<i64, String> {
    let header = SearchOffset {
        topic: &queue.topic,
        queue_id: queue.queue_id,
        timestamp_ms,
        boundary: None,
    };
    let code = request::SEARCH_OFFSET_BY_TIMESTAMP;
    let reply = session.call(&broker.address, code, header.to_ext()).await?;
    let offset = reply.ext("offset").and_then(|text| text.parse().ok());
    offset.ok_or_else(|| format!("{}: the answer has no offset", broker.address))
}

/// Moves the group; says how it got there.
async fn carry_out(
    session: &mut Session,
    reset: &OffsetReset,
    target: Target,
    broker: &Broker,
    moves: &[Move],
) -> Result<&'static str, String> {
    let one_by_one = reset.queue.is_some() || matches!(target, Target::Offset(_));
    if !one_by_one {
        let header = ResetOffset {
            topic: &reset.topic,
            group: &reset.group,
            timestamp_ms: target.timestamp_ms(),
            force: true,
            queue_id: None,
            offset: None,
        };
        let missing = response::CONSUMER_NOT_ONLINE;
        let code = request::INVOKE_BROKER_TO_RESET_OFFSET;
        let reply = session.call_unless(&broker.address, code, header.to_ext(), missing);
        if reply.await?.is_some() {
            return Ok("moved");
        }
        return commit_all(session, reset, broker, moves).await;
    }
    if version(session, reset, broker).await? < VERSION_BY_OFFSET {
        return commit_all(session, reset, broker, moves).await;
    }
    for each in moves {
        let header = ResetOffset {
            topic: &reset.topic,
            group: &reset.group,
            timestamp_ms: target.timestamp_ms(),
            force: true,
            queue_id: Some(each.queue.queue_id),
            offset: Some(each.to),
        };
        let missing = response::CONSUMER_NOT_ONLINE;
        let code = request::INVOKE_BROKER_TO_RESET_OFFSET;
        let reply = session.call_unless(&broker.address, code, header.to_ext(), missing);
        if reply.await?.is_none() {
            return commit_all(session, reset, broker, moves).await;
        }
    }
    Ok("moved")
}

/// The release ordinal that a broker announces in any answer.
async fn version(
    session: &mut Session,
    reset: &OffsetReset,
    broker: &Broker,
) -> Result<i32, String> {
    let header = TopicHeader {
        topic: &reset.topic,
    };
    let command = ask(request::GET_TOPIC_STATS_INFO, header.to_ext());
    Ok(session.any(&broker.address, command).await?.version)
}

/// For a group without members: its offsets are set as a client would commit them.
async fn commit_all(
    session: &mut Session,
    reset: &OffsetReset,
    broker: &Broker,
    moves: &[Move],
) -> Result<&'static str, String> {
    for each in moves {
        let header = UpdateConsumerOffset {
            consumer_group: &reset.group,
            topic: &reset.topic,
            queue_id: each.queue.queue_id,
            commit_offset: each.to,
        };
        let code = request::UPDATE_CONSUMER_OFFSET;
        session.call(&broker.address, code, header.to_ext()).await?;
    }
    Ok("committed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(Target::read("first"), Ok(Target::First));
        assert_eq!(Target::read("last"), Ok(Target::Last));
        assert_eq!(Target::read("17"), Ok(Target::Offset(17)));
        assert_eq!(
            Target::read("1700000000000"),
            Ok(Target::Time(1_700_000_000_000))
        );
        assert_eq!(Target::read("1970-01-01"), Ok(Target::Time(0)));
        assert!(Target::read("soon").unwrap_err().contains("takes first"));
        assert_eq!(Target::Last.timestamp_ms(), -1);
    }
}
