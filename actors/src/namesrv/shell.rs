//! The name server's actor.
//!
//! **Owns** receiving requests and closed connections, sending replies, the scan for silent
//! brokers.
//! **Lives on** the control plane's thread (actix).
//! **Invariants** frames of one connection are answered in the order they came. A panic costs the
//! request that caused it (answered with code 1) and restarts the actor; the tables outlive it,
//! because every entry is written in one step and renewed by each registration. An answer that fits
//! no frame becomes code 1 saying so.
//! **Limits** one mailbox of `gantry_runtime::mailbox`; the restart budget of
//! `gantry_runtime::control`. Answers on their way count as replies that wait; without room for
//! these, an answer above [`SMALL_BYTES_MAX`] becomes `SYSTEM_BUSY`.
//! **Not here** what a request means (`desk`), sockets (`port`).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext as _, Context, Handler, Message, Supervised, Supervisor};
use bytes::{Bytes, BytesMut};
use gantry_protocol::code::response;
use gantry_protocol::{Command, Frame};
use gantry_runtime::budget::shared::{Held, SharedBudget};
use gantry_runtime::clock::MonoMs;
use gantry_runtime::control::{RestartBudget, guard};
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailReceiver, MailSender};
use gantry_runtime::net::PeerRef;
use gantry_runtime::shutdown::Shutdown;

use super::desk::Desk;
use super::liveness::ConnectionId;

/// Answers up to this don't wait for room: those of registrations and most routes. A full mailbox
/// of them is 64 MiB.
const SMALL_BYTES_MAX: usize = 4 << 10;
const _: () = assert!(SMALL_BYTES_MAX * MAILBOX_MESSAGES_MAX <= 64 << 20);

/// From the name server's port to its actor.
#[derive(Debug)]
pub enum ToNamesrv {
    /// A frame arrived.
    Frame {
        /// From whom.
        peer: PeerRef,
        /// Their address, for the log.
        peer_addr: SocketAddr,
        /// What.
        frame: Frame,
        /// Its bytes, counted until it is answered.
        held: Held,
    },
    /// A connection is gone.
    Closed(PeerRef),
}

/// From the actor to the port.
#[derive(Debug)]
pub enum FromNamesrv {
    /// Write this frame.
    Write {
        /// To whom; a stale reference is dropped.
        peer: PeerRef,
        /// One whole frame.
        frame: Bytes,
        /// Its bytes, counted until they wait at the connection.
        held: Held,
    },
    /// Close a connection that sends no frames a name server understands.
    Close(PeerRef),
}

/// A batch of the mailbox.
struct Batch(Vec<ToNamesrv>);

impl Message for Batch {
    type Result = ();
}

struct Shell {
    desk: Rc<RefCell<Desk>>,
    out: MailSender<FromNamesrv>,
    replies: Arc<SharedBudget>,
    budget: RestartBudget,
}

/// Starts the actor and feeds it from `mail` until the port is gone. `replies`: the memory of all
/// answers that wait.
pub async fn serve(
    desk: Desk,
    mail: MailReceiver<ToNamesrv>,
    (out, replies): (MailSender<FromNamesrv>, Arc<SharedBudget>),
    shutdown: Shutdown,
) {
    let shell = Shell {
        desk: Rc::new(RefCell::new(desk)),
        out,
        replies,
        budget: RestartBudget::new("namesrv", &shutdown),
    };
    let address = Supervisor::start(|_| shell);
    loop {
        let mut batch = Vec::new();
        if !mail.recv_batch(&mut batch).await {
            return;
        }
        // Waiting for the answer keeps the actor's own mailbox at one batch.
        if address.send(Batch(batch)).await.is_err() {
            tracing::debug!("a batch was lost with its actor");
        }
    }
}

impl Actor for Shell {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let every = Duration::from_millis(self.desk.borrow().scan_interval_ms());
        ctx.run_interval(every, |shell, ctx| {
            let (budget, desk) = (shell.budget.clone(), Rc::clone(&shell.desk));
            guard::<Self, _>(&budget, ctx, |_: &mut Context<Self>| {
                for place in desk.borrow_mut().expire(MonoMs::now()) {
                    tracing::warn!(
                        address = place.address,
                        "broker silent for too long: dropped"
                    );
                }
            });
        });
    }
}

impl Supervised for Shell {}

impl Handler<Batch> for Shell {
    type Result = ();

    fn handle(&mut self, Batch(batch): Batch, ctx: &mut Self::Context) {
        for message in batch {
            match message {
                ToNamesrv::Frame {
                    peer,
                    peer_addr,
                    frame,
                    held: _held,
                } => self.frame(peer, peer_addr, &frame, ctx),
                ToNamesrv::Closed(peer) => {
                    let desk = Rc::clone(&self.desk);
                    guard::<Self, _>(&self.budget, ctx, |_: &mut Context<Self>| {
                        for place in desk.borrow_mut().connection_closed(connection(peer)) {
                            tracing::warn!(
                                address = place.address,
                                "broker's connection closed: dropped"
                            );
                        }
                    });
                }
            }
        }
    }
}

impl Shell {
    fn frame(&self, peer: PeerRef, peer_addr: SocketAddr, frame: &Frame, ctx: &mut Context<Self>) {
        let command = match Command::from_frame(frame) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%peer_addr, %error, "unreadable header: connection closed");
                self.send(FromNamesrv::Close(peer));
                return;
            }
        };
        let desk = Rc::clone(&self.desk);
        let answer = guard::<Self, _>(&self.budget, ctx, |_: &mut Context<Self>| {
            desk.borrow_mut()
                .answer(&command, connection(peer), MonoMs::now())
        });
        let reply = answer.unwrap_or_else(|| {
            (!command.is_oneway()).then(|| {
                Command::reply_to(&command, response::SYSTEM_ERROR)
                    .with_remark("a fault in the name server; its actor restarts")
            })
        });
        if let Some(reply) = reply
            && let Some(frame) = fitting(&command, &reply)
            && let Some(frame) = roomy(&self.replies, &command, frame)
        {
            let held = self.replies.hold(frame.len());
            self.send(FromNamesrv::Write { peer, frame, held });
        }
    }

    fn send(&self, message: FromNamesrv) {
        // Full: the port is behind or gone; its client asks again after its timeout.
        if self.out.try_send(message).is_err() {
            tracing::warn!("a reply was dropped: the name server's port is behind");
        }
    }
}

/// The frame of a reply, or of a short one that says why there is none.
fn fitting(command: &Command, reply: &Command) -> Option<Bytes> {
    let mut frame = BytesMut::new();
    let Err(error) = reply.encode(&mut frame) else {
        return Some(frame.freeze());
    };
    tracing::error!(code = command.code, %error, "reply too large");
    let short = Command::reply_to(command, response::SYSTEM_ERROR)
        .with_remark(format!("the answer does not fit: {error}"));
    let mut frame = BytesMut::new();
    // A reply without a body always fits a frame.
    short.encode(&mut frame).ok().map(|_| frame.freeze())
}

/// The answer, or a short one while there is no room for it.
fn roomy(replies: &SharedBudget, command: &Command, frame: Bytes) -> Option<Bytes> {
    if frame.len() <= SMALL_BYTES_MAX || replies.has_room() {
        return Some(frame);
    }
    let busy = Command::reply_to(command, response::SYSTEM_BUSY)
        .with_remark("[OVERLOAD]answers that clients have not read fill the name server");
    fitting(command, &busy)
}

/// A connection's number: unique, because a slot's generation grows with each use.
pub fn connection(peer: PeerRef) -> ConnectionId {
    ConnectionId(u64::from(peer.generation) << 32 | u64::from(peer.slot))
}

#[cfg(test)]
mod tests {
    use gantry_protocol::code::request;
    use gantry_protocol::frame::{FRAME_BYTES_MAX, take_frame};

    use super::*;

    #[test]
    fn an_answer_that_fits_no_frame_is_told() {
        let asked = Command::request(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, 7);
        let reply =
            Command::reply_to(&asked, response::SUCCESS)
                .with_body(vec![b'x'; FRAME_BYTES_MAX as usize]);
        let mut frame = BytesMut::from(&fitting(&asked, &reply).unwrap()[..]);
        let told = Command::from_frame(&take_frame(&mut frame).unwrap().unwrap()).unwrap();
        assert_eq!((told.code, told.opaque), (response::SYSTEM_ERROR, 7));
        assert!(told.remark.unwrap().contains("does not fit"));
    }

    #[test]
    fn without_room_only_small_answers_are_given() {
        let asked = Command::request(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, 7);
        let replies = SharedBudget::new(100);
        let told = |bytes: usize| roomy(&replies, &asked, vec![0; bytes].into()).unwrap();
        let large = SMALL_BYTES_MAX + 1;
        assert_eq!(told(large).len(), large);
        let held = replies.hold(100);
        assert_eq!(told(SMALL_BYTES_MAX).len(), SMALL_BYTES_MAX);
        let mut frame = BytesMut::from(&told(large)[..]);
        let busy = Command::from_frame(&take_frame(&mut frame).unwrap().unwrap()).unwrap();
        assert_eq!((busy.code, busy.opaque), (response::SYSTEM_BUSY, 7));
        drop(held);
        assert_eq!(told(large).len(), large);
    }
}
