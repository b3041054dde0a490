//! `GANTRY_LIST_HALVES` (31001): open half messages, for operators.
//!
//! **Owns** the code's fields and its answer, documented in docs/COMPATIBILITY.md.
//! **Lives on** the control plane's thread.
//! **Invariants** one request asks one shard; where to go on is in the answer, so a page costs the
//! same however many halves are open.
//! **Limits** [`PAGE_MAX`] halves a page, and the bytes of `data::transactions::listing`.
//! **Not here** the table (the cores), ending a half (37).

use std::rc::Rc;

use gantry_protocol::fastjson::Value;
use gantry_protocol::properties;
use gantry_storage::units::{QueueOffset, ShardId};

use crate::control::plane::Plane;
use crate::control::reply::{Reply, ReplyTo, number_or, optional};
use crate::seam::{Answer, ControlRequest, HalvesPage, OpenHalf, Question};
use crate::transaction::Half;

/// Most halves a page.
const PAGE_MAX: usize = 128;

/// Answers a request.
pub fn serve(request: ControlRequest, plane: &Rc<Plane>) {
    let to = ReplyTo::of(&request);
    let here = Rc::clone(plane);
    plane.reply_later(to, async move {
        let command = &request.command;
        let shard = ShardId(number_or(command, "shard", 0)?);
        let half = optional(command, "half").is_some();
        let from = if half { "half" } else { "from" };
        let from = QueueOffset(number_or(command, from, 0)?);
        let count_max: usize = number_or(command, "maxNum", PAGE_MAX)?;
        let shards = here.errands.shards_count();
        let question = Question::ListHalves {
            shard,
            from,
            is_one: half,
            count_max: count_max.clamp(1, PAGE_MAX),
        };
        let answers = here.asker.ask(question).await?;
        let found = answers.into_iter().find_map(|answer| match answer {
            Answer::Halves(page) => Some(page),
            _ => None,
        });
        let page = found.unwrap_or_else(|| Ok(HalvesPage::default()))?;
        // The next shard, when this one has no more.
        let next = match page.next {
            Some(offset) => Some((shard.0, offset.0)),
            None if half => None,
            None => shard
                .0
                .checked_add(1)
                .filter(|next| *next < shards)
                .map(|next| (next, 0)),
        };
        Ok(answer(shard, &page, next))
    });
}

fn answer(shard: ShardId, page: &HalvesPage, next: Option<(u8, u64)>) -> Reply {
    let rows = page.halves.iter().filter_map(|half| row(shard, half));
    let mut members = vec![("halves", Value::list(rows.collect::<Vec<Value>>()))];
    if let Some((shard, from)) = next {
        members.push(("nextShard", i64::from(shard).into()));
        members.push(("nextFrom", whole(from)));
    }
    Reply::json(&Value::map(members))
}

fn whole(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn row(shard: ShardId, open: &OpenHalf) -> Option<Value> {
    let half = Half::of(&open.record)?;
    let record = &half.record;
    let sent = &half.sent;
    Some(Value::map([
        ("shard", i64::from(shard.0).into()),
        ("tranStateTableOffset", whole(half.id.offset.0)),
        ("commitLogOffset", whole(half.id.physical.0)),
        ("topic", half.topic.into()),
        ("queueId", i64::from(half.queue).into()),
        (
            "producerGroup",
            sent.producer_group.unwrap_or_default().into(),
        ),
        ("bornTimestamp", record.born_timestamp.into()),
        ("bornHost", record.born_host.to_string().into()),
        ("checkTimes", i64::from(open.checks).into()),
        ("nextCheckTimestamp", whole(open.due_ms)),
        (
            "bodyBytes",
            i64::try_from(record.body.len()).unwrap_or(i64::MAX).into(),
        ),
        ("properties", properties_of(record.properties)),
    ]))
}

/// As an object: separators of the wire don't belong into JSON.
fn properties_of(text: &str) -> Value {
    Value::map(properties::items(text))
}
