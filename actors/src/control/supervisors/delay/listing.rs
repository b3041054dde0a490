//! `GANTRY_LIST_DELAYED` (31002): what is pending and until when, for operators.
//!
//! **Owns** the code's fields and its answer, documented in docs/COMPATIBILITY.md.
//! **Lives on** the control plane's thread.
//! **Invariants** messages come in due order; where to go on is in the answer. What was delivered
//! or recalled while it was read is left out.
//! **Limits** [`PAGE_MAX`] messages a page, [`PAGE_BYTES_MAX`] of records (one always fits).
//! **Not here** the table (`due`), recalling (`requests`).

use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::Value;
use gantry_protocol::message::RecordView;
use gantry_protocol::properties::{self, name};
use gantry_protocol::recall_handle::RecallHandle;
use gantry_storage::units::PhysicalOffset;

use super::Entry;
use crate::control::plane::Plane;
use crate::control::reply::{Reply, number_or};
use crate::refusal::Refusal;

/// Most messages a page.
const PAGE_MAX: usize = 128;
/// Bytes of records after which a page takes no further one.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Answers a request.
///
/// # Errors
/// The supervisor is still reading the log, or a field is none.
pub async fn list(command: &Command, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let after = (
        number_or(command, "afterTime", 0)?,
        number_or(command, "afterOffset", 0)?,
    );
    let count_max: usize = number_or(command, "maxNum", PAGE_MAX)?;
    let count_max = count_max.clamp(1, PAGE_MAX);
    let is_known = {
        let board = plane.delay.board();
        board.is_complete && !board.has_unread()
    };
    if !is_known {
        let remark = "delayed messages are still being read from the log";
        return Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, remark));
    }
    let mut found = plane.delay.board().after(after, count_max);
    let is_full = found.len() == count_max;
    let count = count_that_fits(&found, PAGE_BYTES_MAX);
    let is_cut = count < found.len();
    found.truncate(count);
    let places = found.iter().map(|entry| PhysicalOffset(entry.physical));
    let records = plane.errands.fetch(places.collect()).await;
    let rows = found.iter().zip(&records).filter_map(|(entry, record)| {
        let view = RecordView::parse(record.as_ref().ok()?).ok()?;
        Some(row(plane, entry, &view))
    });
    let rows = Value::list(rows.collect::<Vec<Value>>());
    let mut members = vec![("messages", rows)];
    if let Some(last) = found.last().filter(|_| is_full || is_cut) {
        members.push(("nextTime", whole(last.due_ms)));
        members.push(("nextOffset", whole(last.physical)));
    }
    Ok(Reply::json(&Value::map(members)))
}

/// How many of these come before their records have reached `bytes_max`.
pub(super) fn count_that_fits(found: &[Entry], bytes_max: u64) -> usize {
    let mut bytes = 0;
    let fits = found.iter().take_while(|entry| {
        let has_room = bytes < bytes_max;
        bytes += u64::from(entry.bytes);
        has_room
    });
    fits.count()
}

fn whole(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn row(plane: &Plane, entry: &Entry, view: &RecordView<'_>) -> Value {
    let property = |wanted| properties::get(view.properties, wanted);
    let topic = property(name::REAL_TOPIC).unwrap_or_default();
    let queue: i64 = property(name::REAL_QUEUE_ID).map_or(0, |id| id.parse().unwrap_or(0));
    let mut members = vec![
        ("dueTimestamp", whole(entry.due_ms)),
        ("commitLogOffset", whole(entry.physical)),
        ("topic", topic.into()),
        ("queueId", queue.into()),
        ("bornTimestamp", view.born_timestamp.into()),
        ("storeTimestamp", view.store_timestamp.into()),
        (
            "bodyBytes",
            i64::try_from(view.body.len()).unwrap_or(i64::MAX).into(),
        ),
        ("properties", Value::map(properties::items(view.properties))),
    ];
    if let Some(unique) = property(name::UNIQ_KEY).filter(|_| !topic.is_empty()) {
        let broker = &plane.settings.broker_name;
        let handle = RecallHandle::encode(topic, broker, entry.due_ms, unique);
        members.push(("recallHandle", handle.into()));
    }
    Value::map(members)
}
