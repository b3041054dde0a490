//! Request and reply: a reply is pushed to the client that asked, then stored.
//!
//! **Owns** codes 324 and 325, the push (326) and what its end means.
//! **Lives on** the data core of the replier's connection.
//! **Invariants** nothing crosses to the control plane: who may be pushed to is in the catalog,
//! changed by heartbeats (trap 89) and, when a connection closes, at once by the cores themselves.
//! The push decides the answer's code, whatever becomes of the record.
//! **Limits** those of `pushes`; beyond: `SYSTEM_BUSY`.
//! **Not here** the checks (`send::reply`), storing (`queue::append`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::{HeaderView, writer};
use gantry_protocol::frame::{Frame, HeaderEncoding};
use gantry_protocol::properties::{append, get, items, name};
use gantry_protocol::request::push_reply::PushReply;
use gantry_protocol::request::send::SendHeader;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::QueueKey;

use super::dispatch::no_topic;
use super::parked::{Caller, Waited};
use super::send::reply::{CheckedPush, CheckedReply};
use crate::data::core::DataCore;
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::requests::pushes::{PUSH_MS_MAX, Push};
use crate::data::router::CoreWord;
use crate::data::words::{Append, Pushed, ReplyTo};
use crate::refusal::{BusyCause, Refusal, quoted};
use crate::seam::CoreNumber;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    /// Codes 324 and 325.
    pub(super) fn reply_to_request(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
        to: ReplyTo,
        waited: Waited,
    ) {
        if let Err(refusal) = self.try_reply(view, caller, frame, to, waited) {
            self.refuse_send(to, &refusal);
        }
    }

    fn try_reply(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
        to: ReplyTo,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let header = SendHeader::parse(view).map_err(Refusal::malformed)?;
        let now_ms = self.host.wall_ms();
        let catalog = self.catalog.borrow();
        let checked = self
            .desk
            .check_reply(&catalog, &header, frame, caller.addr, now_ms)?;
        let CheckedReply::Ready(checked) = checked else {
            drop(catalog);
            if waited.may_again() {
                return self.park_send(&header, caller, frame, waited);
            }
            return Err(no_topic(header.topic));
        };
        let CheckedPush {
            key,
            properties,
            append,
        } = checked;
        let store = append.map(|append| (key, append));
        let queue_id = key.queue.0;
        let client = get(header.properties, name::REPLY_TO_CLIENT);
        let Some(client) = client else {
            let why = format!(
                "reply message properties[{}] is null",
                name::REPLY_TO_CLIENT
            );
            self.end_push(to, queue_id, store, Some(why));
            return Ok(());
        };
        let Some(peer) = catalog.requester(client) else {
            let why = format!(
                "push reply message fail, channel of <{}> not found.",
                quoted(client)
            );
            self.end_push(to, queue_id, store, Some(why));
            return Ok(());
        };
        let push = Push {
            peer,
            to,
            client: quoted(client),
            queue_id,
            store,
        };
        self.push(push, &header, &properties, caller, frame)
    }

    fn push(
        &self,
        push: Push,
        header: &SendHeader<'_>,
        properties: &[u8],
        caller: Caller,
        frame: &Frame,
    ) -> Result<(), Refusal> {
        let peer = push.peer;
        let now_ms = self.host.mono_ms();
        let opened = self.pushes.borrow_mut().open(self.number, push, now_ms);
        let opaque = opened.ok_or_else(|| {
            let remark = format!(
                "{} replies of core {} wait for their requesters",
                self.pushes.borrow().len(),
                self.number
            );
            self.host.busy(BusyCause::Push, &remark)
        })?;
        self.timed.set();
        let wall_ms = i64::try_from(self.host.wall_ms()).unwrap_or(i64::MAX);
        let sent = std::str::from_utf8(properties).unwrap_or_default();
        let mut seen = Vec::with_capacity(sent.len() + 32);
        for (key, value) in items(sent).filter(|(key, _)| *key != name::PUSH_REPLY_TIME) {
            append(&mut seen, key, value);
        }
        append(&mut seen, name::PUSH_REPLY_TIME, &wall_ms.to_string());
        let (born, host) = (
            caller.addr.to_string(),
            self.settings.advertised.to_string(),
        );
        let pushed = PushReply {
            sent: header,
            properties: std::str::from_utf8(&seen).unwrap_or_default(),
            born_host: &born,
            store_host: &host,
            store_timestamp: wall_ms,
        };
        let ext = pushed.to_ext();
        let mut written = Ok(());
        // JSON whatever the client speaks: every client reads it (trap 7).
        self.host.write(peer, |out| {
            let code = request::PUSH_REPLY_MESSAGE_TO_CLIENT;
            let (ext, body) = (Some(ext.as_slice()), [frame.body.as_ref()]);
            let encoding = HeaderEncoding::Json;
            written =
                writer::write_request(out, encoding, opaque, code, false, ext, &body).map(drop);
        });
        if let Err(error) = written {
            tracing::warn!(%error, "a reply does not fit a frame");
            self.push_answered(peer, opaque, response::SYSTEM_ERROR);
        }
        Ok(())
    }

    /// A client of this core answered a push of some core.
    pub(super) fn pass_push_answer(
        self: &Rc<Self>,
        asker: CoreNumber,
        peer: PeerRef,
        opaque: i32,
        code: i32,
    ) {
        if asker == self.number {
            return self.push_answered(peer, opaque, code);
        }
        if asker >= self.cores {
            return;
        }
        let word = CoreWord::PushAnswered { peer, opaque, code };
        let Err(mut word) = self.host.send_core(asker, word) else {
            return;
        };
        // The road is full: the answer waits rather than be taken for silence.
        let here = Rc::clone(self);
        self.host.spawn(async move {
            for _ in 0..PUSH_MS_MAX {
                here.host.sleep_ms(1).await;
                match here.host.send_core(asker, *word) {
                    Ok(()) => return,
                    Err(back) => word = back,
                }
            }
        });
    }

    /// A client answered a push of this core.
    pub(in crate::data) fn push_answered(&self, peer: PeerRef, opaque: i32, code: i32) {
        let Some(push) = self.pushes.borrow_mut().take(opaque, peer) else {
            return;
        };
        if code == response::SUCCESS {
            self.end_push(push.to, push.queue_id, push.store, None);
        } else {
            self.push_failed(push);
        }
    }

    /// A connection is gone: nothing is pushed to it any more, and what was will not be answered.
    pub(in crate::data) fn requester_closed(&self, peer: PeerRef) {
        self.catalog.borrow_mut().forget_requester(peer);
        if self.pushes.borrow().is_empty() {
            return;
        }
        let lost = self.pushes.borrow_mut().take_of(peer);
        for push in lost {
            self.push_failed(push);
        }
    }

    pub(in crate::data) fn end_late_pushes(&self) {
        if self.pushes.borrow().is_empty() {
            return;
        }
        let late = self.pushes.borrow_mut().take_due(self.host.mono_ms());
        for push in late {
            self.push_failed(push);
        }
    }

    /// The core stops: nobody will hear of answers.
    pub(in crate::data) fn end_all_pushes(&self) {
        let open = self.pushes.borrow_mut().take_due(u64::MAX);
        for push in open {
            self.push_failed(push);
        }
    }

    fn push_failed(&self, push: Push) {
        // RocketMQ's words, without the blank.
        let why = format!("push reply message to {}fail.", push.client);
        self.end_push(push.to, push.queue_id, push.store, Some(why));
    }

    fn end_push(
        &self,
        to: ReplyTo,
        queue_id: u16,
        store: Option<(QueueKey, Append)>,
        failed: Option<String>,
    ) {
        let pushed = Pushed { failed, queue_id };
        let Some((key, mut append)) = store else {
            return self.marks.write_pushed(&*self.host, to, &pushed, None);
        };
        let pushed = Arc::new(pushed);
        append.rare_mut().pushed = Some(Arc::clone(&pushed));
        if let Err(refusal) = self.route_append(key, to, append) {
            self.refuse_append(to, Some(&pushed), &refusal);
        }
    }

    /// A message can't be stored: its sender is told, or, of a reply, how its push ended.
    pub(in crate::data) fn refuse_append(
        &self,
        to: ReplyTo,
        pushed: Option<&Pushed>,
        refusal: &Refusal,
    ) {
        match pushed {
            None => self.host.refuse(to, refusal),
            Some(pushed) => self.marks.refuse_pushed(&*self.host, to, pushed, refusal),
        }
    }
}

#[cfg(test)]
#[path = "replies_tests.rs"]
mod tests;
