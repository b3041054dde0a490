//! What the index of a queue says of some records (code 321).
//!
//! **Owns** the answer's shape (`QueryConsumeQueueResponseBody`, 5.5.0).
//! **Lives on** the control plane's thread.
//! **Invariants** rows come from the queue's own index and records.
//! **Limits** [`ROWS_MAX`] rows an answer.
//! **Not here** reading them (the queue's shard).

use std::rc::Rc;

use gantry_protocol::body::SubscriptionData;
use gantry_protocol::code::response;
use gantry_protocol::fastjson::Value;
use gantry_storage::units::{QueueId, QueueKey, QueueOffset};

use super::requests::bounds;
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::as_wire;
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, IndexRow, Question};

/// Most rows of an answer; mqadmin asks for 10 by default.
const ROWS_MAX: u32 = 1024;

pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let command = &asked.command;
    let topic = reply::text(command, "topic")?.to_owned();
    let number: u16 = reply::number(command, "queueId")?;
    let from: u64 = reply::number(command, "index")?;
    let count: u32 = reply::number_or(command, "count", 10)?;
    let group = reply::optional(command, "consumerGroup").map(str::to_owned);
    let entry = plane.topics.borrow().get(&topic).cloned();
    let entry = entry
        .filter(|entry| i32::from(number) < entry.config.queue_nums())
        .ok_or_else(|| {
            let remark = format!("{number}@{} is not exist!", quoted(&topic));
            Refusal::new(response::SYSTEM_ERROR, remark)
        })?;
    let queue = QueueKey {
        topic: entry.id,
        queue: QueueId(number),
    };
    let question = Question::IndexRows {
        queue,
        from: QueueOffset(from),
        count_max: count.min(ROWS_MAX),
    };
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let bounds = bounds(&asking, vec![queue]).await?;
        let bounds = bounds.first().map(|report| (report.min.0, report.max.0));
        let answers = asking.asker.ask(question).await?;
        let rows = answers.into_iter().find_map(|answer| match answer {
            Answer::IndexRows(rows) => rows,
            _ => None,
        });
        let rows = rows.unwrap_or_default();
        let found = group
            .as_ref()
            .map(|group| subscription(&asking, group, &topic));
        let (subscription, filter) = match found {
            None => (Value::Null, Value::Null),
            Some(Some(data)) => (data, Value::from("null")),
            Some(None) => {
                let group = group.unwrap_or_default();
                (
                    Value::Null,
                    format!("{group}@{topic} is not online!").into(),
                )
            }
        };
        let (min, max) = bounds.unwrap_or_default();
        let body = Value::object([
            ("filterData", filter),
            ("maxQueueIndex", as_wire(max).into()),
            ("minQueueIndex", as_wire(min).into()),
            ("queueData", Value::list(rows.iter().map(row_value))),
            ("subscriptionData", subscription),
        ]);
        Ok(Reply::json(&body))
    });
    Ok(())
}

fn subscription(plane: &Plane, group: &str, topic: &str) -> Option<Value> {
    let members = plane.members.borrow();
    let live = members.consumers(group)?;
    let data = live.subscriptions.get(topic)?;
    Some(SubscriptionData::to_value(data))
}

fn row_value(row: &IndexRow) -> Value {
    Value::object([
        ("eval", false.into()),
        ("physicOffset", as_wire(row.physical.0).into()),
        ("physicSize", i64::from(row.bytes).into()),
        ("tagsCode", row.tags_code.into()),
    ])
}
