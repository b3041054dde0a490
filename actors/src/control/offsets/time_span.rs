//! How old the messages of a topic are, and how far in time a group has come (code 303).
//!
//! **Owns** the answer's shape (`QueryConsumeTimeSpanBody`, 5.5.0).
//! **Lives on** the control plane's thread.
//! **Invariants** a queue without messages has the times 0 and −1 as RocketMQ's; a group that has
//! caught up has no delay.
//! **Limits** those of `ask`.
//! **Not here** progress in offsets (`requests`).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::MessageQueue;
use gantry_protocol::code::response;
use gantry_protocol::fastjson::Value;
use gantry_storage::units::{QueueKey, QueueOffset};

use super::requests::{bounds, reports};
use crate::control::plane::Plane;
use crate::control::reply::{self, Reply, ReplyTo};
use crate::control::topics::{as_wire, write_queues};
use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Question};

/// Time of a message that isn't there.
const NO_TIME: i64 = -1;

pub(super) fn serve(asked: &ControlRequest, plane: &Rc<Plane>) -> Result<(), Refusal> {
    let topic = reply::text(&asked.command, "topic")?.to_owned();
    let group: Arc<str> = Arc::from(reply::text(&asked.command, "group")?);
    let entry = plane.topics.borrow().get(&topic).cloned();
    let entry = entry.ok_or_else(|| {
        let remark = format!("topic[{}] not exist", quoted(&topic));
        Refusal::new(response::TOPIC_NOT_EXIST, remark)
    })?;
    let asking = Rc::clone(plane);
    plane.reply_later(ReplyTo::of(asked), async move {
        let positions = reports(&asking, Some(group), Some(vec![entry.id])).await?;
        let positions: HashMap<QueueKey, QueueOffset> = positions
            .iter()
            .map(|row| (row.queue, row.consumer_offset))
            .collect();
        let bounds = bounds(&asking, write_queues(&entry)).await?;
        let mut wanted = Vec::new();
        for queue in &bounds {
            let at = positions.get(&queue.queue).map_or(0, |offset| offset.0);
            wanted.push((queue.queue, queue.min));
            wanted.push((queue.queue, QueueOffset(at)));
            wanted.extend(
                at.checked_sub(1)
                    .map(|last| (queue.queue, QueueOffset(last))),
            );
        }
        let times = store_times(&asking, wanted).await?;
        let time = |queue, offset| match times.get(&(queue, QueueOffset(offset))) {
            Some(ms) if *ms > 0 => as_wire(*ms),
            _ => NO_TIME,
        };
        let rows = bounds.iter().map(|queue| {
            let key = queue.queue;
            let at = positions.get(&key).map_or(0, |offset| offset.0);
            let first = time(key, queue.min.0);
            let last = match queue.last_update_ms {
                0 => NO_TIME,
                ms => as_wire(ms),
            };
            let consumed = at.checked_sub(1).map_or(first, |last| time(key, last));
            let next = time(key, at.max(queue.min.0));
            let delay = if at < queue.max.0 && next > 0 {
                asking.now_ms() - next
            } else {
                0
            };
            let queue = MessageQueue {
                topic: topic.clone(),
                broker_name: asking.settings.broker_name.clone(),
                queue_id: i32::from(key.queue.0),
            };
            Value::object([
                ("consumeTimeStamp", consumed.into()),
                ("delayTime", delay.into()),
                ("maxTimeStamp", last.into()),
                ("messageQueue", queue.to_value()),
                ("minTimeStamp", first.into()),
            ])
        });
        let body = Value::object([("consumeTimeSpanSet", Value::list(rows))]);
        Ok(Reply::json(&body))
    });
    Ok(())
}

async fn store_times(
    plane: &Plane,
    wanted: Vec<(QueueKey, QueueOffset)>,
) -> Result<BTreeMap<(QueueKey, QueueOffset), u64>, Refusal> {
    let mut times = BTreeMap::new();
    for answer in plane.asker.ask(Question::StoreTimes(wanted)).await? {
        if let Answer::StoreTimes(rows) = answer {
            times.extend(
                rows.into_iter()
                    .map(|(queue, offset, ms)| ((queue, offset), ms)),
            );
        }
    }
    Ok(times)
}
