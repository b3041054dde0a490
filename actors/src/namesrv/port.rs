//! The name server's side of its sockets.
//!
//! **Owns** handing frames and closed connections to the actor, and replies to the connections.
//! **Lives on** the executor that listens for the name server.
//! **Invariants** the close of a connection is never lost, however full the mailbox is: a broker's
//! routes hang on it (trap 34). A frame that finds the mailbox full, or too many bytes waiting in
//! it, is answered with `SYSTEM_BUSY`.
//! **Limits** [`WAITING_BYTES_MAX`] and one frame; a waiting close is a small task; there are at
//! most as many as connections of the core.
//! **Not here** what frames mean (`desk`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::response;
use gantry_protocol::{Command, Frame};
use gantry_runtime::budget::shared::SharedBudget;
use gantry_runtime::mailbox::{MailReceiver, MailSender, SendError};
use gantry_runtime::net::{CloseReason, FrameHandler, PeerRef, PeerTable, Session};
use gantry_runtime::shard::CoreContext;

use super::shell::{FromNamesrv, ToNamesrv};

/// Bytes of frames that may wait for the actor: four of the largest registrations, or a hundred
/// brokers with two thousand topics each that register at the same moment.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Hands everything on.
pub struct Port {
    inbox: Inbox,
    core: CoreContext,
}

/// The actor's mailbox, with a bound in bytes.
struct Inbox {
    to_actor: MailSender<ToNamesrv>,
    waiting: Arc<SharedBudget>,
}

impl Inbox {
    fn new(to_actor: MailSender<ToNamesrv>) -> Self {
        let waiting = SharedBudget::new(WAITING_BYTES_MAX);
        Self { to_actor, waiting }
    }

    /// Hands a frame on, or gives it back when there is no room.
    fn take(&self, peer: PeerRef, peer_addr: SocketAddr, frame: Frame) -> Result<(), Frame> {
        if !self.waiting.has_room() {
            return Err(frame);
        }
        let held = self.waiting.hold(frame.wire_bytes());
        let message = ToNamesrv::Frame {
            peer,
            peer_addr,
            frame,
            held,
        };
        match self
            .to_actor
            .try_send(message)
            .map_err(SendError::into_message)
        {
            Err(ToNamesrv::Frame { frame, .. }) => Err(frame),
            _ => Ok(()),
        }
    }
}

impl Port {
    /// A port on `core` that feeds this mailbox.
    pub fn new(core: CoreContext, to_actor: MailSender<ToNamesrv>) -> Rc<Self> {
        let inbox = Inbox::new(to_actor);
        Rc::new(Self { inbox, core })
    }
}

impl FrameHandler for Port {
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            let taken = self.inbox.take(session.id(), session.peer_addr(), frame);
            if let Err(frame) = taken {
                refuse_busy(session, &frame);
            }
        }
    }

    fn on_close(self: &Rc<Self>, session: &Rc<Session>) {
        if let Err(back) = self
            .inbox
            .to_actor
            .try_send(ToNamesrv::Closed(session.id()))
        {
            let to_actor = self.inbox.to_actor.clone();
            self.core.spawn_serve(async move {
                // Fails only when the actor is gone for good, and the process with it.
                let _ = to_actor.send(back.into_message()).await;
            });
        }
    }
}

fn refuse_busy(session: &Rc<Session>, frame: &Frame) {
    let Ok(command) = Command::from_frame(frame) else {
        session.close(CloseReason::BadFrame);
        return;
    };
    if command.is_oneway() || command.is_reply() {
        return;
    }
    let reply = Command::reply_to(&command, response::SYSTEM_BUSY)
        .with_remark("[OVERLOAD]the name server's mailbox is full");
    // A reply without a body always fits a frame.
    if reply.encode(&mut session.out()).is_ok() {
        session.flush_soon();
    }
}

/// Writes the actor's replies until it is gone.
pub async fn deliver(mail: MailReceiver<FromNamesrv>, peers: Rc<PeerTable>) {
    let deliver = |batch: &mut Vec<FromNamesrv>| {
        for message in batch.drain(..) {
            match message {
                FromNamesrv::Write { peer, frame, held } => {
                    // Counted there from here on.
                    drop(held);
                    if let Some(session) = peers.get(peer) {
                        session.send(&frame);
                    }
                }
                FromNamesrv::Close(peer) => {
                    if let Some(session) = peers.get(peer) {
                        session.close(CloseReason::BadFrame);
                    }
                }
            }
        }
    };
    mail.serve(deliver).await;
}

#[cfg(test)]
mod tests {
    use gantry_protocol::frame::{FRAME_BYTES_MAX, HeaderEncoding};
    use gantry_runtime::mailbox::mailbox;

    use super::*;

    #[test]
    fn frames_wait_up_to_a_bound_in_bytes() {
        let (to_actor, at_actor) = mailbox(1024);
        let inbox = Inbox::new(to_actor);
        let peer = PeerRef {
            core: 0,
            slot: 1,
            generation: 1,
        };
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let large = Frame {
            encoding: HeaderEncoding::Json,
            header: bytes::Bytes::new(),
            body: vec![0; FRAME_BYTES_MAX as usize].into(),
        };
        let taken = |count: usize| {
            (0..count)
                .filter(|_| inbox.take(peer, address, large.clone()).is_ok())
                .count()
        };
        assert_eq!(taken(20), WAITING_BYTES_MAX / FRAME_BYTES_MAX as usize);
        // What the actor is done with makes room.
        let mut batch = Vec::new();
        at_actor.try_batch(&mut batch);
        assert_eq!(taken(1), 0, "in its hands it still counts");
        batch.pop();
        assert_eq!(taken(2), 1);
    }
}
