//! Check-backs to producers (code 39).
//!
//! **Owns** which live producer of its group is asked about a half, and the request; the word that
//! keeps retention away from open halves.
//! **Lives on** the control plane's thread.
//! **Invariants** only a connection that a heartbeat registered as a producer of the half's group
//! is asked (trap 83), the members of a group in turn. It remembers nothing about halves: that is
//! the cores' part, so a restart loses one batch of questions, and the next check asks them again.
//! **Limits** a batch of the cores (`data::transactions::checks`); a group without a live member
//! isn't asked, and is reported once a batch.
//! **Not here** when a half is due and when it is given up (the cores).

use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_protocol::code::{request, response};
use gantry_protocol::command::{ExtValue, writer};
use gantry_protocol::error::FrameError;
use gantry_protocol::frame::HeaderEncoding;
use gantry_protocol::message::{EncodedRecord, RecordParts, body_crc};
use gantry_protocol::message_id::offset_id;
use gantry_protocol::request::transaction::CheckTransactionState;
use gantry_protocol::system_topic;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::{FilePosition, ShardId};

use crate::refusal::Refusal;
use crate::seam::{Answer, HalfCheck, Question};
use crate::transaction::Half;

use crate::control::cleaning::owed::{Finding, Moving, OwedRecords};
use crate::control::plane::Plane;
use crate::control::supervision::shell::Part;

/// Between two looks at halves on their way forward: a pass of a core is much shorter.
const MOVE_PAUSE: Duration = Duration::from_millis(20);

/// What the part is told.
pub enum Msg {
    /// These halves are due, and counted as checked.
    Check(Vec<HalfCheck>),
}

/// See the room's head.
pub struct Transactions {
    /// Rises with each question, so that the members of a group are asked in turn.
    turn: usize,
}

impl Part for Transactions {
    const NAME: &'static str = "transaction";
    type Msg = Msg;

    fn build(plane: &Rc<Plane>) -> Result<Self, Refusal> {
        let halves = OpenHalves(Rc::downgrade(plane));
        plane.cleaning.owed.register(Rc::new(halves));
        Ok(Self { turn: 0 })
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        let Msg::Check(checks) = message;
        let mut alone: Option<String> = None;
        let mut alone_count = 0_usize;
        for check in &checks {
            let Some(half) = Half::of(&check.record) else {
                continue;
            };
            let group = half.sent.producer_group.unwrap_or_default();
            let Some(peer) = self.pick(plane, group) else {
                alone_count += 1;
                alone.get_or_insert_with(|| group.to_owned());
                continue;
            };
            match frame(plane, &half, check.checks) {
                Ok(frame) => plane.outbox.write(peer, frame),
                Err(error) => tracing::warn!(group, %error, "a check-back does not fit a frame"),
            }
        }
        if let Some(group) = alone {
            tracing::warn!(
                halves = alone_count,
                group,
                "half messages whose producer group has no live member"
            );
        }
    }
}

/// Open halves, as retention sees them: the cores know them and move them.
struct OpenHalves(Weak<Plane>);

impl OpenHalves {
    async fn ask(
        &self,
        shard: ShardId,
        move_below: FilePosition,
    ) -> Result<Option<FilePosition>, Refusal> {
        let unknown = || {
            let remark = format!("no core knows the open half messages of shard {shard}");
            Refusal::new(response::SYSTEM_ERROR, remark)
        };
        let plane = self.0.upgrade().ok_or_else(unknown)?;
        let question = Question::OpenHalves { shard, move_below };
        let answers = plane.asker.ask(question).await?;
        let mut answers = answers.into_iter().filter_map(|answer| match answer {
            Answer::OpenHalves(floor) => Some(floor),
            _ => None,
        });
        answers.next().ok_or_else(unknown)?
    }
}

impl OwedRecords for OpenHalves {
    fn name(&self) -> &'static str {
        "open half messages"
    }

    fn floor(&self, shard: ShardId) -> Finding<'_> {
        Box::pin(async move {
            let floor = self.ask(shard, FilePosition(0)).await?;
            // What is open no more was copied or has ended, maybe in another shard: the device must
            // have that before the half goes.
            if let Some(plane) = self.0.upgrade() {
                plane.errands.durable().await?;
            }
            Ok(floor)
        })
    }

    fn move_forward(&self, shard: ShardId, below: FilePosition) -> Moving<'_> {
        Box::pin(async move {
            // Until `MOVE_LIMIT`.
            while self
                .ask(shard, below)
                .await?
                .is_some_and(|floor| floor < below)
            {
                actix::clock::sleep(MOVE_PAUSE).await;
            }
            Ok(())
        })
    }
}

impl Transactions {
    fn pick(&mut self, plane: &Plane, group: &str) -> Option<PeerRef> {
        let members = plane.members.borrow();
        let producers = members.producers(group)?;
        self.turn = self.turn.wrapping_add(1);
        let at = self.turn % producers.len().max(1);
        producers.keys().nth(at).copied()
    }
}

/// The question (trap 82, trap 113): the header names the half record, the body is the message as
/// it would be committed.
fn frame(plane: &Plane, half: &Half<'_>, checks: u32) -> Result<Bytes, FrameError> {
    let settings = &plane.settings;
    let physical = half.id.physical.0.cast_signed();
    let id = offset_id(settings.advertised, physical);
    let header = CheckTransactionState {
        half_offset: half.id.offset.0.cast_signed(),
        half_physical: physical,
        msg_id: half.sent.unique_key,
        transaction_id: half.sent.unique_key,
        offset_msg_id: Some(id.as_str()),
        topic: Some(system_topic::TRANS_HALF_TOPIC),
        broker_name: Some(&settings.broker_name),
    };
    let ext: Vec<(&str, ExtValue<'_>)> = header.to_ext().into_iter().collect();
    let mut body = BytesMut::new();
    write_record(half, checks, settings.advertised, &mut body);
    let mut out = BytesMut::new();
    writer::write_request(
        &mut out,
        HeaderEncoding::Json,
        plane.take_opaque(),
        request::CHECK_TRANSACTION_STATE,
        true,
        Some(&ext),
        &[&body],
    )?;
    Ok(out.freeze())
}

fn write_record(half: &Half<'_>, checks: u32, store_host: SocketAddr, out: &mut BytesMut) {
    let record = &half.record;
    let properties = half.properties_for_check(checks);
    let parts = RecordParts {
        topic: half.topic,
        queue_id: i32::from(half.queue),
        flag: record.flag,
        queue_offset: half.id.offset.0.cast_signed(),
        physical_offset: half.id.physical.0.cast_signed(),
        sys_flag: record.sys_flag,
        born_timestamp: record.born_timestamp,
        born_host: record.born_host,
        store_timestamp: record.store_timestamp,
        store_host,
        reconsume_times: record.reconsume_times,
        prepared_transaction_offset: 0,
        body: record.body,
        body_crc: body_crc(record.body),
        properties: &properties,
    };
    match EncodedRecord::new(&parts) {
        Ok(encoded) => encoded.write(out),
        // Properties close to their limit leave no room for the count of checks.
        Err(error) => tracing::warn!(%error, "a check-back goes without its message"),
    }
}
