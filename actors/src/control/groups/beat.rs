//! The heartbeat: what a client says of itself, every 30 s and at every change.
//!
//! **Owns** code 34 and code 35, and the order of effects within them.
//! **Lives on** the control plane's thread, as part of the groups actor.
//! **Invariants** an entry that can't be accepted is skipped and the reply is still 0
//! (`ClientManageProcessor`, 5.5.0); V1 and V2 heartbeats of one client may alternate.
//! **Limits** see `members`.
//! **Not here** the tables themselves (`members`, `table`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{ConsumeType, ConsumerData, HeartbeatData, SubscriptionData};
use gantry_protocol::code::response;
use gantry_protocol::system_topic;
use gantry_runtime::clock::MonoMs;

use crate::control::plane::Plane;
use crate::control::reply::{self, Reply};
use crate::control::topics;
use crate::refusal::{Refusal, quoted};
use crate::seam::ControlRequest;

use super::members::{CLIENT_ID_BYTES_MAX, Client, ConsumerBeat};
use super::{Groups, departed, may_notify, notify, publish, requesters_changed};

/// `topicSysFlag` of a unit's retry topic (`TopicSysFlag.buildSysFlag(false, true)`).
const UNIT_SUBSCRIPTION: i32 = 2;
/// Reply fields of a heartbeat (`MixAll`).
const SUPPORTS_V2: &str = "IS_SUPPORT_HEART_BEAT_V2";
const WANTS_FULL: &str = "IS_SUB_CHANGE";

impl Groups {
    /// Code 34.
    pub(super) fn heartbeat(
        &mut self,
        request: &ControlRequest,
        plane: &Rc<Plane>,
    ) -> Result<Reply, Refusal> {
        let command = &request.command;
        let beat = HeartbeatData::parse(&command.body).map_err(Refusal::malformed)?;
        check_client_id(&beat.client_id)?;
        let client = Client {
            id: Arc::from(beat.client_id.as_str()),
            addr: request.peer_addr,
            language: command.language,
            version: command.version,
            last_update_ms: plane.now_ms(),
            heard: MonoMs::now(),
        };
        let mut wants_full = beat.fingerprint == 0;
        let rejects = plane.settings.reject_pull_consumer_enable;
        let is_rejected = |data: &&ConsumerData| {
            // `ClientManageProcessor`, 5.5.0: as if it hadn't been named.
            rejects && data.consume_type == ConsumeType::Actively
        };
        for data in beat.consumers.iter().filter(|data| !is_rejected(data)) {
            wants_full |= self.consumer(request, &client, &beat, data, plane);
        }
        for group in &beat.producer_groups {
            let changes = plane
                .members
                .borrow_mut()
                .beat_producer(request.peer, &client, group);
            requesters_changed(changes, plane);
        }
        Ok(Reply::ok()
            .with(SUPPORTS_V2, true)
            .with(WANTS_FULL, wants_full))
    }

    /// One consumer entry. True when the client should send its subscriptions next time.
    fn consumer(
        &mut self,
        request: &ControlRequest,
        client: &Client,
        beat: &HeartbeatData,
        data: &ConsumerData,
        plane: &Rc<Plane>,
    ) -> bool {
        let group = data.group.as_str();
        let config = match self.ensure(group, plane) {
            Ok(config) => config,
            Err(refusal) => {
                tracing::debug!(group, %refusal, "a heartbeat's consumer entry is skipped");
                return false;
            }
        };
        let sys_flag = if data.unit_mode { UNIT_SUBSCRIPTION } else { 0 };
        ensure_retry_topic(group, config.retry_queue_nums, sys_flag, plane);
        let Some(name) = plane.groups.borrow().name_of(group).cloned() else {
            return false;
        };
        let word = ConsumerBeat {
            group: Arc::clone(&name),
            consume_type: data.consume_type,
            message_model: data.message_model,
            consume_from_where: data.consume_from,
            subscriptions: (!beat.without_subscriptions).then(|| dated(data, plane.now_ms())),
            fingerprint: beat.fingerprint,
        };
        let enabled = may_notify(group, plane);
        let outcome =
            plane
                .members
                .borrow_mut()
                .beat_consumer(request.peer, client, &word, enabled);
        if outcome.left_out_count > 0 {
            let count = outcome.left_out_count;
            tracing::debug!(group, count, "subscriptions of a heartbeat are left out");
        }
        if outcome.live_changed {
            publish(&name, plane);
        }
        notify(&name, &outcome.notify, plane);
        outcome.wants_full
    }
}

fn check_client_id(id: &str) -> Result<(), Refusal> {
    if id.len() <= CLIENT_ID_BYTES_MAX {
        return Ok(());
    }
    let remark = format!(
        "clientID {} has {} bytes, {CLIENT_ID_BYTES_MAX} are allowed",
        quoted(id),
        id.len()
    );
    Err(Refusal::new(response::INVALID_PARAMETER, remark))
}

/// Code 35.
pub(super) fn unregister(request: &ControlRequest, plane: &Rc<Plane>) -> Result<Reply, Refusal> {
    let command = &request.command;
    reply::text(command, "clientID")?;
    if let Some(group) = reply::optional(command, "producerGroup") {
        let change = plane
            .members
            .borrow_mut()
            .leave_producer(request.peer, group);
        requesters_changed(change, plane);
    }
    if let Some(group) = reply::optional(command, "consumerGroup") {
        let departure = plane
            .members
            .borrow_mut()
            .leave_consumer(request.peer, group);
        departed(departure.into_iter().collect(), plane);
    }
    Ok(Reply::ok())
}

/// The subscriptions of a consumer entry. One without a version is as of now, as `RocketMQ`'s
/// `SubscriptionData` is: at 0 none that follows would be newer.
fn dated(data: &ConsumerData, now_ms: i64) -> Vec<SubscriptionData> {
    let mut subscriptions = data.subscriptions.clone();
    for one in subscriptions.iter_mut().filter(|one| one.sub_version == 0) {
        one.sub_version = now_ms;
    }
    subscriptions
}

/// `%RETRY%group` exists from the first heartbeat on (trap 28).
fn ensure_retry_topic(group: &str, queues: i32, sys_flag: i32, plane: &Rc<Plane>) {
    let topic = system_topic::retry_topic(group);
    if plane.topics.borrow().get(&topic).is_none() {
        let wish = topics::Msg::EnsureRetry {
            topic,
            queues,
            sys_flag,
        };
        plane.book().topics.tell(wish);
    }
}
