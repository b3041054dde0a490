//! The name server's side of its sockets.
//!
//! **Owns** handing frames and closed connections to the actor, and replies to the connections.
//! **Lives on** the executor that listens for the name server.
//! **Invariants** the close of a connection is never lost, however full the mailbox is: a broker's
//! routes hang on it (trap 34). A frame that finds the mailbox full is answered with `SYSTEM_BUSY`.
//! **Limits** a waiting close is a small task; there are at most as many as connections of the
//! core.
//! **Not here** what frames mean (`desk`).

use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_protocol::{Command, Frame};
use gantry_runtime::mailbox::{MailReceiver, MailSender};
use gantry_runtime::net::{CloseReason, FrameHandler, PeerTable, Session};
use gantry_runtime::shard::CoreContext;

use super::shell::{FromNamesrv, ToNamesrv};

/// Hands everything on.
pub struct Port {
    to_actor: MailSender<ToNamesrv>,
    core: CoreContext,
}

impl Port {
    /// A port on `core` that feeds this mailbox.
    pub fn new(core: CoreContext, to_actor: MailSender<ToNamesrv>) -> Rc<Self> {
        Rc::new(Self { to_actor, core })
    }
}

impl FrameHandler for Port {
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            let message = ToNamesrv::Frame {
                peer: session.id(),
                peer_addr: session.peer_addr(),
                frame,
            };
            if let Err(back) = self.to_actor.try_send(message)
                && let ToNamesrv::Frame { frame, .. } = back.into_message()
            {
                refuse_busy(session, &frame);
            }
        }
    }

    fn on_close(self: &Rc<Self>, session: &Rc<Session>) {
        if let Err(back) = self.to_actor.try_send(ToNamesrv::Closed(session.id())) {
            let to_actor = self.to_actor.clone();
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
    let mut batch = Vec::new();
    while mail.recv_batch(&mut batch).await {
        for message in batch.drain(..) {
            match message {
                FromNamesrv::Write { peer, frame } => {
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
    }
}
