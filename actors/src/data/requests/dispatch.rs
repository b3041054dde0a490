//! Request codes of the data plane, and the road of every other one.
//!
//! **Owns** the table code → handler.
//! **Lives on** the session's data core.
//! **Invariants** nothing here waits: a request is answered, posted, parked or handed on before the
//! next one is looked at, so a long poll never blocks a heartbeat of the same connection (trap 12).
//! Every request that isn't one-way gets an answer in the end.
//! **Limits** those of inboxes, parking and mailboxes; a full one is a refusal at once.
//! **Not here** the handlers' rules (`send`, `pulls`, `offsets`, `locks`, `query`).

use std::rc::Rc;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::{Command, ExtValue, HeaderView};
use gantry_protocol::error::HeaderError;
use gantry_protocol::frame::Frame;
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::system_topic;
use gantry_runtime::metrics::{Kind, Timing};

use super::parked::{Caller, PARKED_MS, Park, ParkedRequest, Subject, Waited};
use super::send::{Checked, Now};
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::requests::pushes::core_of_push;
use crate::data::words::ReplyTo;
use crate::refusal::{BusyCause, Refusal, quoted};
use crate::seam::{ControlRequest, Ticket, ToControl};

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Handles one frame of a client.
    ///
    /// # Errors
    /// The header is none: the connection has lost its place.
    pub fn handle(self: &Rc<Self>, caller: Caller, frame: &Frame) -> Result<(), HeaderError> {
        let waited = Waited::never(self.host.mono_us());
        self.handle_with(caller, frame, waited)
    }

    fn handle_with(
        self: &Rc<Self>,
        caller: Caller,
        frame: &Frame,
        waited: Waited,
    ) -> Result<(), HeaderError> {
        let mut view = HeaderView::empty(frame.encoding);
        view.read(&frame.header)?;
        if view.is_reply() {
            if let Some(core) = core_of_push(view.opaque) {
                self.pass_push_answer(core, caller.peer, view.opaque, view.code);
                return Ok(());
            }
            self.pass_answer_on(&view, caller, frame);
            return Ok(());
        }
        let to = ReplyTo {
            peer: caller.peer,
            opaque: view.opaque,
            encoding: frame.encoding,
            one_way: view.is_oneway(),
            read_us: waited.read_us,
        };
        if self.host.profile().is_on() {
            self.reading.note(kind_of(view.code));
        }
        let handled = match view.code {
            request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
                self.send(&view, caller, frame, to, waited);
                Ok(())
            }
            request::SEND_REPLY_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => {
                self.reply_to_request(&view, caller, frame, to, waited);
                Ok(())
            }
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => {
                self.pull(&view, caller, frame, to, waited)
            }
            request::QUERY_CONSUMER_OFFSET => self.query_offset(&view, to),
            request::UPDATE_CONSUMER_OFFSET => self.commit_offset(&view, to),
            request::SEARCH_OFFSET_BY_TIMESTAMP => self.search_offset(&view, to),
            request::GET_MAX_OFFSET => self.max_offset(&view, to),
            request::GET_MIN_OFFSET => self.min_offset(&view, to),
            request::GET_EARLIEST_MSG_STORETIME => self.earliest_time(&view, to),
            request::QUERY_MESSAGE => self.query_message(&view, to),
            request::VIEW_MESSAGE_BY_ID => self.view_message(&view, to),
            request::END_TRANSACTION => self.end_transaction(&view, to),
            request::RESUME_CHECK_HALF_MESSAGE => self.resume_half(&view, to),
            request::LOCK_BATCH_MQ => self.lock_queues(frame, to, true),
            request::UNLOCK_BATCH_MQ => self.lock_queues(frame, to, false),
            _ => self.hand_to_control(&view, caller, frame),
        };
        if let Err(refusal) = handled {
            self.host.refuse(to, &refusal);
        }
        Ok(())
    }

    fn send(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
        to: ReplyTo,
        waited: Waited,
    ) {
        let sent = self.try_send(view, caller, frame, to, waited);
        if let Err(refusal) = sent {
            self.refuse_send(to, &refusal);
        }
    }

    /// Error replies of a send carry these two as well (remoting §6).
    pub(super) fn refuse_send(&self, to: ReplyTo, refusal: &Refusal) {
        self.refuse_send_timed((to, None), refusal);
    }

    fn refuse_send_timed(&self, to: (ReplyTo, Option<Timing>), refusal: &Refusal) {
        let ext = [
            ("MSG_REGION", ExtValue::Str(&self.settings.region_id)),
            ("TRACE_ON", ExtValue::from(self.settings.trace_on)),
        ];
        self.host
            .reply_timed(to, refusal.code, Some(&refusal.remark), Some(&ext), &[]);
    }

    fn try_send(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
        to: ReplyTo,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let header = SendHeader::parse(view).map_err(Refusal::malformed)?;
        if waited.is_never() && self.parked.borrow().holds_topic(header.topic) {
            return self.park_send(&header, caller, frame, waited);
        }
        let now = Now {
            wall_ms: self.host.wall_ms(),
            mono_ms: self.host.mono_ms(),
        };
        let checked = {
            let catalog = self.catalog.borrow();
            let store = |key, append| self.route_append(key, to, append);
            self.desk
                .check(&catalog, &header, frame, caller.addr, now, store)?
        };
        match checked {
            Checked::HandedOn => Ok(()),
            Checked::NoTopic if waited.may_again() => {
                self.park_send(&header, caller, frame, waited)
            }
            Checked::NoGroup(group) if self.may_make_group(&group, waited) => {
                self.park_for_group(&group, caller, frame, waited)
            }
            Checked::NoDeadLetters(topic) if waited.may_again() => {
                self.park_for_dead_letters(&topic, caller, frame, waited)
            }
            Checked::NoGroup(group) => {
                let remark = format!("subscription group not exist, {}", quoted(&group));
                Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark))
            }
            Checked::NoDeadLetters(topic) => Err(no_topic(&topic)),
            Checked::NoTopic => Err(no_topic(header.topic)),
        }
    }

    pub(super) fn park_send(
        self: &Rc<Self>,
        header: &SendHeader<'_>,
        caller: Caller,
        frame: &Frame,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let topic = header.topic.to_owned();
        let ask = |ticket| ToControl::EnsureTopic {
            core: self.number,
            ticket,
            topic: topic.clone(),
            default_topic: Some(header.default_topic.to_owned()),
            default_topic_queue_nums: header.default_topic_queue_nums,
            unit_mode: header.unit_mode,
        };
        self.park(&Subject::Topic(topic.clone()), (caller, waited), frame, ask)
    }

    /// Parks a send until its group's dead-letter topic is made.
    fn park_for_dead_letters(
        self: &Rc<Self>,
        topic: &str,
        caller: Caller,
        frame: &Frame,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let ask = |ticket| ToControl::EnsureTopic {
            core: self.number,
            ticket,
            topic: topic.to_owned(),
            default_topic: None,
            default_topic_queue_nums: 1,
            unit_mode: false,
        };
        self.park(
            &Subject::Topic(topic.to_owned()),
            (caller, waited),
            frame,
            ask,
        )
    }

    /// Whether a group that nobody knows is made for a request: by the settings, or because it is
    /// the system's own (`SubscriptionGroupManager.findSubscriptionGroupConfig`, 5.5.0).
    pub(in crate::data) fn may_make_group(&self, group: &str, waited: Waited) -> bool {
        let is_allowed = self.settings.auto_create_subscription_group.get()
            || system_topic::is_system_group(group);
        is_allowed && waited.may_again()
    }

    /// Parks a request until a group is made.
    pub(in crate::data) fn park_for_group(
        self: &Rc<Self>,
        group: &str,
        caller: Caller,
        frame: &Frame,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let group = group.to_owned();
        let ask = |ticket| ToControl::EnsureGroup {
            core: self.number,
            ticket,
            group: group.clone(),
        };
        self.park(&Subject::Group(group.clone()), (caller, waited), frame, ask)
    }

    fn park(
        self: &Rc<Self>,
        subject: &Subject,
        (caller, waited): (Caller, Waited),
        frame: &Frame,
        ask: impl FnOnce(Ticket) -> ToControl,
    ) -> Result<(), Refusal> {
        let request = ParkedRequest {
            caller,
            frame: frame.clone(),
            waited,
        };
        let parked = self
            .parked
            .borrow_mut()
            .park(subject, request, self.host.mono_ms());
        self.timed.set();
        match parked {
            Park::Ask(ticket) if !self.host.send_control(ask(ticket)) => {
                self.parked.borrow_mut().take(ticket);
                Err(self.control_is_behind())
            }
            Park::Waits | Park::Ask(_) => {
                self.reading.put_off();
                Ok(())
            }
            Park::Full => {
                let (count, bytes, waited_ms) = self.parked.borrow().waiting(self.host.mono_ms());
                let why = format!(
                    "core {}, {subject}, {count} requests of {bytes} bytes wait for topics and \
                     groups to be made, the first for {waited_ms} ms",
                    self.number
                );
                Err(self.host.busy(BusyCause::Parked, &why))
            }
        }
    }

    /// The control plane has made (or refused) what parked requests wait for.
    pub(in crate::data) fn resume(self: &Rc<Self>, ticket: Ticket, outcome: &Result<(), Refusal>) {
        let requests = self.parked.borrow_mut().take(ticket);
        for request in requests {
            let ParkedRequest {
                caller,
                frame,
                waited,
            } = request;
            match outcome {
                // The header was parsed before the request was parked.
                Ok(()) => {
                    drop(self.handle_with(caller, &frame, waited.once_more()));
                    self.resumed(waited.read_us);
                }
                Err(refusal) => self.refuse_parked(caller, &frame, waited.read_us, refusal),
            }
        }
    }

    pub(in crate::data) fn end_late_parked(&self) {
        let late = self.parked.borrow_mut().take_due(self.host.mono_ms());
        for (subject, requests) in late {
            let count = requests.len();
            for request in requests {
                let read_us = request.waited.read_us;
                let waited_ms = self.host.mono_us().saturating_sub(read_us) / 1000;
                let why = format!(
                    "core {}, {subject} was not made within {PARKED_MS} ms, waited {waited_ms} ms, \
                     {count} requests wait for it",
                    self.number
                );
                let refusal = self.host.busy(BusyCause::ParkedLate, &why);
                self.refuse_parked(request.caller, &request.frame, read_us, &refusal);
            }
        }
    }

    fn refuse_parked(&self, caller: Caller, frame: &Frame, read_us: u64, refusal: &Refusal) {
        let Ok(view) = HeaderView::parse(frame.encoding, &frame.header) else {
            return;
        };
        let to = ReplyTo {
            peer: caller.peer,
            opaque: view.opaque,
            encoding: frame.encoding,
            one_way: view.is_oneway(),
            read_us,
        };
        let timing = self.time_refused(view.code, read_us);
        self.refuse_send_timed((to, timing), refusal);
    }

    fn hand_to_control(
        &self,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
    ) -> Result<(), Refusal> {
        if !self.to_control.has_room() {
            return Err(self.control_is_behind());
        }
        let command = Command::from_view(view, frame.body.clone());
        let request = ControlRequest {
            peer: caller.peer,
            peer_addr: caller.addr,
            command,
            held: Some(self.to_control.hold(frame.wire_bytes())),
        };
        if self.host.send_control(ToControl::Request(request)) {
            return Ok(());
        }
        Err(self.control_is_behind())
    }

    /// A client's answer to a question of ours; without room it is lost, and the asker's time runs
    /// out.
    fn pass_answer_on(&self, view: &HeaderView<'_>, caller: Caller, frame: &Frame) {
        if self.to_control.has_room() {
            self.host.send_control(ToControl::ClientReply {
                peer: caller.peer,
                command: Command::from_view(view, frame.body.clone()),
                held: self.to_control.hold(frame.wire_bytes()),
            });
        }
    }

    fn control_is_behind(&self) -> Refusal {
        let remark = format!(
            "the mailbox of core {} to the control plane is full, {} bytes of requests wait",
            self.number,
            self.to_control.used()
        );
        self.host.busy(BusyCause::Control, &remark)
    }
}

/// Whether requests of this code are timed.
pub(super) fn kind_of(code: i32) -> Option<Kind> {
    match code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            Some(Kind::Send)
        }
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => Some(Kind::Pull),
        _ => None,
    }
}

/// 26.
pub(in crate::data) fn no_group(group: &str) -> Refusal {
    let remark = format!("subscription group [{}] does not exist", quoted(group));
    Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
}

/// 17, with the text Java's tools show.
pub(in crate::data) fn no_topic(topic: &str) -> Refusal {
    let remark = format!("topic[{}] not exist, apply first please!", quoted(topic));
    Refusal::new(response::TOPIC_NOT_EXIST, remark)
}
