//! The desk: everything that the data cores hand to the control plane arrives here.
//!
//! **Owns** the one table of request code → part, and the answer to unbuilt codes.
//! **Lives on** the control plane's thread.
//! **Invariants** messages of one core are handed on in the order they came; a code without a part
//! gets code 3 with its name (trap 15), never silence.
//! **Limits** a batch of `gantry_runtime::mailbox` at a time, so the parts run in between.
//! **Not here** what a request means (the parts).

use std::cell::Cell;
use std::rc::Rc;

use gantry_protocol::code::{self, request, response};
use gantry_runtime::control::guard_task;
use gantry_runtime::mailbox::MailReceiver;

use crate::refusal::Refusal;
use crate::seam::{ControlRequest, CoreNumber, ToControl};

use super::plane::Plane;
use super::reply::ReplyTo;
#[cfg(test)]
use super::supervisors::retry;
use super::supervisors::{delay, open_halves, transactions};
use super::{admin, groups, offsets, topics};

/// Its name in the tree.
const NAME: &str = "desk";

/// Which part answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// `topics`.
    Topics,
    /// `groups`.
    Groups,
    /// `offsets`.
    Offsets,
    /// `admin`.
    Admin,
    /// `delay`.
    Delay,
    /// `retry`.
    Retry,
    /// `open_halves`.
    OpenHalves,
    /// Nobody yet.
    Unbuilt,
}

/// The table.
pub fn counter(code: i32) -> Counter {
    match code {
        request::UPDATE_AND_CREATE_TOPIC
        | request::UPDATE_AND_CREATE_TOPIC_LIST
        | request::GET_ALL_TOPIC_CONFIG
        | request::GET_TOPIC_STATS_INFO
        | request::DELETE_TOPIC_IN_BROKER
        | request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER
        | request::GET_TOPIC_CONFIG
        | request::CLEAN_EXPIRED_CONSUMEQUEUE
        | request::CLEAN_UNUSED_TOPIC => Counter::Topics,
        request::HEART_BEAT
        | request::UNREGISTER_CLIENT
        | request::GET_CONSUMER_LIST_BY_GROUP
        | request::CHECK_CLIENT_CONFIG
        | request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
        | request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG
        | request::GET_CONSUMER_CONNECTION_LIST
        | request::GET_PRODUCER_CONNECTION_LIST
        | request::DELETE_SUBSCRIPTIONGROUP
        | request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST
        | request::QUERY_TOPIC_CONSUME_BY_WHO
        | request::GET_ALL_PRODUCER_INFO
        | request::QUERY_TOPICS_BY_CONSUMER
        | request::QUERY_SUBSCRIPTION_BY_CONSUMER
        | request::GET_SUBSCRIPTIONGROUP_CONFIG
        | request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS
        | request::GET_CONSUMER_RUNNING_INFO
        | request::CONSUME_MESSAGE_DIRECTLY
        | request::UPDATE_AND_GET_GROUP_FORBIDDEN => Counter::Groups,
        request::GET_ALL_CONSUMER_OFFSET
        | request::GET_CONSUME_STATS
        | request::INVOKE_BROKER_TO_RESET_OFFSET
        | request::QUERY_CONSUME_TIME_SPAN
        | request::QUERY_CORRECTION_OFFSET
        | request::CLONE_GROUP_OFFSET
        | request::GET_BROKER_CONSUME_STATS
        | request::QUERY_CONSUME_QUEUE => Counter::Offsets,
        request::UPDATE_BROKER_CONFIG
        | request::GET_BROKER_CONFIG
        | request::GET_BROKER_RUNTIME_INFO
        | request::VIEW_BROKER_STATS_DATA
        | request::DELETE_EXPIRED_COMMITLOG
        | request::GANTRY_GET_PROFILE => Counter::Admin,
        request::RECALL_MESSAGE
        | request::GET_ALL_DELAY_OFFSET
        | request::GET_TIMER_METRICS
        | request::GANTRY_LIST_DELAYED => Counter::Delay,
        request::CONSUMER_SEND_MSG_BACK => Counter::Retry,
        request::GANTRY_LIST_HALVES => Counter::OpenHalves,
        _ => Counter::Unbuilt,
    }
}

/// The refusal of a request that no part answers.
pub fn unbuilt(request: i32) -> Refusal {
    let remark = match code::request_name(request) {
        Some(name) => format!("request type {request} ({name}) not supported by this broker yet"),
        None => format!("request type {request} not supported"),
    };
    Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, remark)
}

/// Reads the mailbox until every core is gone. A panic loses the batch at hand and nothing else;
/// rows of parked messages that were in it are read from the log.
pub async fn serve(
    mail: MailReceiver<ToControl>,
    plane: Rc<Plane>,
    core_stopped: impl Fn(CoreNumber, bool),
) {
    let (mail, plane, core_stopped) = (&mail, &plane, &core_stopped);
    let is_again = Cell::new(false);
    let make = || {
        if is_again.replace(true) {
            plane.owed.note_lost();
        }
        read(mail, plane, core_stopped)
    };
    guard_task(plane.budget(NAME), make).await;
}

async fn read(
    mail: &MailReceiver<ToControl>,
    plane: &Rc<Plane>,
    core_stopped: &impl Fn(CoreNumber, bool),
) {
    let mut batch = Vec::new();
    while mail.recv_batch(&mut batch).await {
        for message in batch.drain(..) {
            hand_on(message, plane, core_stopped);
        }
        // Everything the batch started runs before the next one is taken.
        tokio::task::yield_now().await;
    }
}

fn hand_on(message: ToControl, plane: &Rc<Plane>, core_stopped: &impl Fn(CoreNumber, bool)) {
    let book = plane.book();
    match message {
        ToControl::Request(request) => route(request, plane),
        ToControl::PeerClosed(peer) => book.groups.tell(groups::Msg::PeerClosed(peer)),
        ToControl::EnsureTopic {
            core,
            ticket,
            topic,
            default_topic,
            default_topic_queue_nums,
            unit_mode,
        } => book.topics.tell(topics::Msg::Ensure(topics::Ensure {
            core,
            ticket,
            topic,
            default_topic,
            default_topic_queue_nums,
            unit_mode,
        })),
        ToControl::EnsureGroup {
            core,
            ticket,
            group,
        } => {
            book.groups.tell(groups::Msg::Ensure {
                core,
                ticket,
                group,
            });
        }
        ToControl::OffsetsChanged(rows) => book.offsets.tell(offsets::Msg::Changed(rows)),
        ToControl::Answer {
            core,
            ticket,
            answer,
        } => plane.asker.answered(core, ticket, answer),
        ToControl::ClientReply { peer, command, .. } => plane.calls.replied(peer, command),
        ToControl::Counted(counted) => book.admin.tell(admin::Msg::Counted(counted)),
        ToControl::CheckHalves(checks) => {
            book.transactions.tell(transactions::Msg::Check(checks));
        }
        ToControl::Owed(rows) => {
            #[cfg(test)]
            plane.tree.panic_if_wanted(NAME);
            plane.owed.push(rows);
        }
        ToControl::ErrandDone { ticket, done } => plane.errands.done(ticket, done),
        ToControl::CoreStopped { core, is_clean } => core_stopped(core, is_clean),
    }
}

/// A code of the tests: the part named in ext field `part` panics.
#[cfg(test)]
pub const INJECT_PANIC: i32 = -13;

fn route(request: ControlRequest, plane: &Rc<Plane>) {
    let book = plane.book();
    #[cfg(test)]
    if request.command.code == INJECT_PANIC {
        match request.command.ext("part") {
            Some("topics") => book.topics.inject_panic(),
            Some("groups") => book.groups.inject_panic(),
            Some("offsets") => book.offsets.inject_panic(),
            Some("transaction") => book.transactions.inject_panic(),
            Some("delay") => plane.tree.inject_panic(delay::NAME),
            Some("retry") => plane.tree.inject_panic(retry::NAME),
            Some("desk") => plane.tree.inject_panic(NAME),
            _ => book.admin.inject_panic(),
        }
        return;
    }
    match counter(request.command.code) {
        Counter::Topics => book.topics.tell(topics::Msg::Serve(request)),
        Counter::Groups => book.groups.tell(groups::Msg::Serve(request)),
        Counter::Offsets => book.offsets.tell(offsets::Msg::Serve(request)),
        Counter::Delay => delay::requests::serve(request, plane),
        Counter::OpenHalves => open_halves::serve(request, plane),
        Counter::Retry => plane.retry.take(request, plane),
        Counter::Admin => book.admin.tell(admin::Msg::Serve(request)),
        Counter::Unbuilt => plane.refuse(&ReplyTo::of(&request), &unbuilt(request.command.code)),
    }
}
